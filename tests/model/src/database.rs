//! The controller's rows, and what they say of hosts, rights and claims. [`crate::workflow`] says
//! how an operation goes through its steps.
//!
//! Controllers have no memory but this: it does not matter which of two makes a step. What one of
//! them can hold is a message that it read and has not published yet.

use crate::rules::{Rules, Weakness};
use crate::storage::name_of;
use crate::words::{HostNo, Message, Name, Order, Right, VmmNo};
use crate::workflow::Operation;
use std::collections::BTreeMap;

/// A VMM's row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Where.
    pub host: HostNo,
    /// The last sequence drawn for it.
    pub sequence: u8,
    /// The rights drawn for it: a set of [`Right::bit`].
    pub rights: u64,
    /// Whether it holds a claim of its host.
    pub claim: bool,
    /// Whether it is there, as far as is known.
    pub open: bool,
    /// Given away; its host has not removed it yet.
    pub lost: bool,
    /// Given away because its host did not have it when a lineage was accepted: an order to make it
    /// may still be on its way, and until the host has removed it nobody may follow it.
    pub doubtful: bool,
    /// Found when a lineage was accepted, and unknown to the database.
    pub stray: bool,
}

/// A host's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostRow {
    /// The epoch.
    pub epoch: u8,
    /// The last number drawn.
    pub number: u8,
    /// How often it was off, as far as it is known.
    pub boots: u8,
    /// Fenced, and not back.
    pub down: bool,
    /// What it was when the second branch began.
    pub fork: Fork,
}

/// What a controller that starts notes of a host, under the mark that it draws. What an agent knows
/// beyond that it has from a database that this one does not remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fork {
    /// The last number drawn.
    pub number: u8,
    /// The epoch.
    pub epoch: u8,
    /// The watermark.
    pub watermark: u8,
}

/// What the API shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instance {
    /// Being made.
    Building,
    /// Runs, or ran and crashed by itself.
    Active,
    /// Without a VMM that has the right.
    Down,
    /// Gone.
    Deleted,
}

/// See the module's words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    /// Rises when an operator accepts it.
    pub lineage: u8,
    /// 1 in the restored one.
    pub branch: u8,
    /// The VMMs.
    pub rows: BTreeMap<VmmNo, Row>,
    /// The hosts.
    pub hosts: [HostRow; 2],
    /// The generation of the last right drawn.
    pub right: u8,
    /// What the API shows.
    pub instance: Instance,
    /// Which VMM has the right.
    pub active: VmmNo,
    /// The one operation under way.
    pub operation: Option<Operation>,
    /// When the last lease was granted.
    pub granted_at: Option<u8>,
    /// When it was restored.
    pub restored_at: Option<u8>,
}

impl HostRow {
    /// What a controller that started now would note.
    pub fn now(&self, watermark: u8) -> Fork {
        Fork {
            number: self.number,
            epoch: self.epoch,
            watermark,
        }
    }
}

impl Database {
    /// Two hosts, and an instance that has just been asked for.
    pub fn new(rules: Rules) -> Self {
        let mut new = Self {
            lineage: 0,
            branch: 0,
            rows: BTreeMap::new(),
            hosts: [HostRow::default(), HostRow::default()],
            right: 0,
            instance: Instance::Building,
            active: VmmNo::NOBODY,
            operation: None,
            granted_at: None,
            restored_at: None,
        };
        new.build(rules);
        new
    }

    /// Whether a VMM is there, and was not given away.
    pub fn is_live(&self, vmm: VmmNo) -> bool {
        let live = |row: &Row| row.open && !row.lost && !row.stray;
        self.rows.get(&vmm).is_some_and(live)
    }

    /// Draws a command: sequence, number and outbox row in one transaction.
    pub fn draw(&mut self, vmm: VmmNo, order: Order, peer: VmmNo, rules: Rules) -> Option<Message> {
        let peers = self.rows.get(&peer).map_or(0, |row| row.rights);
        let follows = self.over(vmm) | peers;
        let row = self.rows.get_mut(&vmm)?;
        row.sequence += 1;
        let host = &mut self.hosts[row.host];
        host.number += 1;
        let gives = order.gives_a_right();
        self.right += u8::from(gives);
        let right = Right {
            number: self.right,
            branch: self.branch,
        };
        if gives {
            row.rights |= name_of(vmm, right, rules);
        }
        Some(Message {
            name: Name {
                branch: self.branch,
                host: row.host,
                number: host.number,
            },
            lineage: self.lineage,
            epoch: host.epoch,
            vmm,
            sequence: row.sequence,
            order,
            right,
            peer,
            follows,
        })
    }

    /// The rights that are over, as the database knows: those of each VMM that is closed, or given
    /// away for good reason.
    fn over(&self, but: VmmNo) -> u64 {
        let is_over =
            |(no, row): &(&VmmNo, &Row)| **no != but && (!row.open || row.lost && !row.doubtful);
        self.rows
            .iter()
            .filter(is_over)
            .fold(0, |set, (_, row)| set | row.rights)
    }

    /// The VMM is gone: its claim is free (rule 1).
    pub fn close(&mut self, vmm: VmmNo) {
        if let Some(row) = self.rows.get_mut(&vmm) {
            row.open = false;
            row.claim = false;
        }
    }

    /// What a host's agent may forget below (rule 3): lower than every number that is unsettled.
    pub fn watermark(&self, host: HostNo, rules: Rules) -> u8 {
        let last = self.hosts[host].number;
        let unsettled = self.operation.as_ref().and_then(|o| o.message.as_ref());
        match unsettled {
            Some(message)
                if message.name.host == host && !rules.lack(Weakness::WatermarkAboveUnsettled) =>
            {
                last.min(message.name.number.saturating_sub(1))
            }
            _ => last,
        }
    }

    /// Everything on a host may have been given away: the epoch rises (rule 4).
    pub fn raise_epoch(&mut self, host: HostNo, rules: Rules) {
        if !rules.lack(Weakness::EpochNotRaised) {
            self.hosts[host].epoch += 1;
        }
    }

    /// The host is off, as a fence agent or an administrator says (rule 8): its VMMs are given away
    /// and hold nothing any more.
    pub fn fence(&mut self, host: HostNo, rules: Rules) {
        self.hosts[host].down = true;
        self.raise_epoch(host, rules);
        let here: Vec<VmmNo> = self
            .rows
            .iter()
            .filter(|(_, row)| row.host == host && row.open)
            .map(|(no, _)| *no)
            .collect();
        for vmm in here {
            self.close(vmm);
            if let Some(row) = self.rows.get_mut(&vmm) {
                row.lost = true;
            }
            self.lose(vmm, rules);
        }
    }

    /// The lease of the guest has run out (rule 6): its VMM is given away, and keeps its claim until
    /// its host says that it is gone.
    pub fn run_out(&mut self, rules: Rules) {
        let vmm = self.active;
        let Some(row) = self.rows.get_mut(&vmm) else {
            return;
        };
        row.lost = true;
        // The next one has had none yet.
        self.granted_at = None;
        let host = row.host;
        self.raise_epoch(host, rules);
        self.lose(vmm, rules);
        self.evacuate(host, rules);
    }

    /// What a host is told: the VMMs that were given away.
    pub fn lost(&self, host: HostNo) -> Vec<VmmNo> {
        let lost = |(_, row): &(&VmmNo, &Row)| row.host == host && row.lost;
        self.rows.iter().filter(lost).map(|(no, _)| *no).collect()
    }

    /// The host has removed what it lost.
    pub fn removed(&mut self, host: HostNo) {
        for vmm in self.lost(host) {
            self.close(vmm);
            if let Some(row) = self.rows.get_mut(&vmm) {
                row.lost = false;
            }
        }
        self.hosts[host].down = false;
    }
}
