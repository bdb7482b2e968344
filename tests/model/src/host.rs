//! A host: its power, its agent with the journal, its VMMs, and what its kernel has not written yet.
//!
//! The agent's real record ([`berth_agent::record::VmmRecord`]) decides on every command.

use crate::words::{Message, Name, Right, VmmNo, timeline};
use berth_agent::host_record::HostRecord;
use berth_agent::record::VmmRecord;
use berth_rpc_types::link::Timeline;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The agent's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agent {
    /// Dead.
    Down,
    /// Has its journal, and does not know yet what the controller knows of its host.
    Starting,
    /// Takes commands, and works.
    Consuming,
}

/// A VMM's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    /// Has loaded everything, and waits for the "go".
    Incoming,
    /// Had the "go", and has lock and generation of the storage.
    Taken,
    /// Has the right, and runs.
    Running,
    /// Has the right, and waits for a lease.
    Paused,
    /// Has sent the "go".
    HandedOver,
    /// Ended.
    Dead,
}

impl Process {
    /// Whether it has the right to run.
    pub fn has_the_right(self) -> bool {
        matches!(self, Self::Taken | Self::Running | Self::Paused)
    }
}

/// What is written down beside a VMM, and outlives its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// Nothing.
    None,
    /// It is not to be started: it handed over.
    HandedOver,
    /// It took the right.
    Took,
    /// It refused the right.
    Refused,
}

/// One VMM on its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vmm {
    /// Its process.
    pub process: Process,
    /// What is written down.
    pub note: Note,
    /// The right that it has, had, or will take.
    pub right: Right,
    /// The rights that it may follow when it takes the storage.
    pub follows: u64,
    /// When its lease ends.
    pub lease_ends: Option<u8>,
    /// The generation that last ran with the memory that it has.
    pub memory: u8,
}

impl Vmm {
    /// A VMM whose process has begun.
    pub fn new(process: Process, message: &Message) -> Self {
        Self {
            process,
            note: Note::None,
            right: message.right,
            follows: message.follows,
            lease_ends: None,
            memory: message.right.number,
        }
    }

    /// Whether its process is there.
    pub fn lives(&self) -> bool {
        self.process != Process::Dead
    }
}

/// What the agent keeps on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Journal {
    /// It was made anew: the disk that it was on is gone.
    pub is_new: bool,
    /// The host's epoch (rule 4).
    pub epoch: u8,
    /// The lineage obeyed (rule 5).
    pub lineage: u8,
    /// The database was refused, until an operator says otherwise (rule 5).
    pub refuses: bool,
    /// The watermark (rule 3).
    pub watermark: u8,
    /// The newest command taken in.
    pub newest: Option<Name>,
    /// The branch of the database last spoken to, and the number at which it began here.
    pub branch: (u8, u8),
    /// Everything about each VMM.
    pub records: BTreeMap<VmmNo, Arc<VmmRecord>>,
    /// The open entries' commands.
    pub open: Vec<Message>,
}

impl Journal {
    /// What the real journal has of this, as far as commands are decided on by it: the watermark, and the
    /// branches as timelines.
    pub fn record(&self) -> HostRecord {
        let (newest, fork) = self.branch;
        let began = [(0, 0), (newest, fork)];
        let told = &began[..=usize::from(newest > 0)];
        HostRecord {
            watermark: self.watermark.into(),
            timelines: told
                .iter()
                .map(|&(branch, above)| Timeline {
                    id: timeline(branch),
                    above: above.into(),
                })
                .collect(),
            ..HostRecord::default()
        }
    }
}

/// See the module's words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Whether it has power.
    pub powered: bool,
    /// How often it lost it.
    pub boots: u8,
    /// The agent's process.
    pub agent: Agent,
    /// Its disk.
    pub journal: Journal,
    /// Its VMMs, dead ones with a directory included.
    pub vmms: BTreeMap<VmmNo, Vmm>,
    /// The right of writes that the kernel has yet to send, after their process was killed.
    pub late: Option<Right>,
}

impl Host {
    /// A host whose agent consumes and has nothing.
    pub fn new() -> Self {
        Self {
            powered: true,
            boots: 0,
            agent: Agent::Consuming,
            journal: Journal::default(),
            vmms: BTreeMap::new(),
            late: None,
        }
    }

    /// The record of a VMM, to be changed.
    pub fn record(&mut self, vmm: VmmNo) -> &mut VmmRecord {
        let record = self.journal.records.entry(vmm);
        Arc::make_mut(record.or_insert_with(|| Arc::new(VmmRecord::new(vmm.id()))))
    }

    /// The generation that runs here, if one does.
    pub fn running(&self) -> impl Iterator<Item = (VmmNo, &Vmm)> {
        let runs = |(_, vmm): &(&VmmNo, &Vmm)| vmm.process == Process::Running;
        self.vmms.iter().filter(runs).map(|(no, vmm)| (*no, vmm))
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}
