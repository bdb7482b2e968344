//! Everything there is at one instant, and what may happen next.

use crate::action::{Action, Repeat};
use crate::bounds::Bounds;
use crate::database::Database;
use crate::host::{Agent, Host, Note, Process, Vmm};
use crate::rules::{Rules, Weakness};
use crate::settle;
use crate::storage::{Kind, Storage};
use crate::words::{Answer, HostNo, Message, VmmNo};
use crate::workflow::Step;
use std::collections::BTreeSet;

/// Ticks from the moment a lease is asked for to its hard end; the soft end is one before.
pub const LEASE: u8 = 2;

/// The source's word to the target: the right is yours. At most once on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Go {
    /// The target.
    pub to: VmmNo,
    /// Its host.
    pub at: HostNo,
}

/// A lease on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// To whom.
    pub vmm: VmmNo,
    /// When it was asked for, and granted.
    pub at: u8,
    /// Whether it only prolongs a lease that has not ended.
    pub renews: bool,
}

/// What must never happen, where it is seen only while it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A guest went on with memory that is older than what has run.
    OldMemoryRan,
    /// An agent ended a guest that nobody had ordered it to end.
    EndedUnasked,
    /// A guest that nobody wanted deleted was ended while it had the right.
    EndedUnwanted,
    /// An agent obeyed a database that it had refused, and that no operator has accepted.
    ObeyedUnaccepted,
}

/// See the module's words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The rules in force.
    pub rules: Rules,
    /// What may still happen.
    pub bounds: Bounds,
    /// The database.
    pub database: Database,
    /// Its backup.
    pub backup: Option<Box<Database>>,
    /// The message that a controller has read, and not published yet.
    pub held: Option<Message>,
    /// Both hosts' queues. A set: the order in which messages arrive is not to be relied on.
    pub queue: BTreeSet<Message>,
    /// The results queue.
    pub results: BTreeSet<Answer>,
    /// The hosts.
    pub hosts: [Host; 2],
    /// The guest's disk.
    pub storage: Storage,
    /// A "go" on its way.
    pub go: Option<Go>,
    /// Leases on their way.
    pub grants: BTreeSet<Grant>,
    /// The time.
    pub now: u8,
    /// The highest generation that has run.
    pub ran: u8,
    /// The VMMs deleted by order: a set of [`VmmNo::bit`].
    pub buried: u64,
    /// Whether a user has asked that the server be deleted.
    pub is_unwanted: bool,
    /// What must never happen.
    pub violation: Option<Violation>,
}

impl World {
    /// A server has just been asked for.
    pub fn new(bounds: Bounds, rules: Rules) -> Self {
        let mut new = Self {
            rules,
            database: Database::new(rules),
            backup: None,
            held: None,
            queue: BTreeSet::new(),
            results: BTreeSet::new(),
            hosts: [Host::new(), Host::new()],
            storage: Storage::new(bounds.storage),
            go: None,
            grants: BTreeSet::new(),
            now: 0,
            ran: 0,
            buried: 0,
            is_unwanted: false,
            violation: None,
            bounds,
        };
        if new.bounds.begins_active {
            for action in settle::way(&new) {
                new = new.after(action);
            }
        }
        new
    }

    /// The command whose answer is waited for.
    pub fn waited_for(&self) -> Option<Message> {
        self.database.operation.as_ref().and_then(|o| o.message)
    }

    /// What the product does by itself, in the order in which [`crate::settle`] tries it.
    pub fn work_to_do(&self, actions: &mut Vec<Action>) {
        for host in 0..2 {
            let here = &self.hosts[host];
            if !here.powered {
                continue;
            }
            if here.agent == Agent::Down {
                actions.push(Action::StartAgent(host));
            } else if here.agent == Agent::Starting || self.has_news(host) {
                actions.push(Action::Sync(host));
            }
            if here.agent == Agent::Consuming {
                for no in here.journal.records.keys() {
                    if self.under_way(host, *no).is_some() {
                        actions.push(Action::Work(host, *no));
                    }
                }
            }
            for (no, vmm) in &here.vmms {
                self.vmm_work(host, *no, vmm.process, vmm.note, actions);
            }
            if here.late.is_some() {
                actions.push(Action::WriteLate(host));
            }
        }
        if self.go.is_some_and(|go| self.hosts[go.at].powered) {
            actions.push(Action::Take);
        }
        for answer in &self.results {
            actions.push(Action::Fold(*answer, Repeat::No));
        }
        for message in &self.queue {
            let host = &self.hosts[message.name.host];
            if host.powered && host.agent == Agent::Consuming {
                actions.push(Action::Arrive(*message, Repeat::No));
            }
        }
        if let Some(message) = self.waited_for()
            && !self.queue.contains(&message)
        {
            actions.push(Action::Send);
        }
        if self.held.is_some() {
            actions.push(Action::SendHeld);
        }
        let step = self.database.operation.as_ref().map(|o| o.step);
        if step == Some(Step::HandOver) {
            actions.push(Action::Inquire);
        }
    }

    fn vmm_work(
        &self,
        host: HostNo,
        no: VmmNo,
        process: Process,
        note: Note,
        actions: &mut Vec<Action>,
    ) {
        let late_note = self.rules.lack(Weakness::RunsBeforeNote);
        let resumes = self.rules.lack(Weakness::SourceResumes);
        let starts = self.rules.lack(Weakness::SourceStartsAgain);
        match (process, note) {
            (Process::Taken, Note::Took) => actions.push(Action::Run(host, no)),
            (Process::Taken, _) if late_note => actions.push(Action::Run(host, no)),
            (Process::Taken, _) => actions.push(Action::NoteTook(host, no)),
            (Process::HandedOver, _) if resumes => actions.push(Action::GoOn(host, no)),
            (Process::Dead, Note::HandedOver) if starts => actions.push(Action::GoOn(host, no)),
            _ => {}
        }
        if self.bounds.armed && self.database.is_live(no) {
            self.lease_work(host, no, actions);
        }
    }

    fn lease_work(&self, host: HostNo, no: VmmNo, actions: &mut Vec<Action>) {
        let operation = self.database.operation.as_ref();
        let holds = self.database.active == no || operation.is_some_and(|o| o.vmm == no);
        let grant = Grant {
            vmm: no,
            at: self.now,
            renews: self.is_in_grace() && !self.rules.lack(Weakness::LeaseBegunInGrace),
        };
        if self.bounds.grants > 0
            && holds
            && self.hosts[host].vmms[&no].lives()
            && !self.grants.contains(&grant)
        {
            actions.push(Action::Grant(grant));
        }
        for grant in self.grants.iter().filter(|grant| grant.vmm == no) {
            actions.push(Action::LeaseArrives(host, *grant));
        }
    }

    /// Whether every lease that another controller's database may know of has not ended yet.
    fn is_in_grace(&self) -> bool {
        self.database
            .restored_at
            .is_some_and(|at| self.now < at + LEASE + 1)
    }

    /// What users ask for, and what goes wrong, as often as it still may.
    pub fn events(&self, actions: &mut Vec<Action>) {
        self.requests(actions);
        self.broker_events(actions);
        for host in 0..2 {
            self.host_events(host, actions);
        }
        self.lease_events(actions);
        let bounds = &self.bounds;
        if bounds.drops > 0 && self.go.is_some() {
            actions.push(Action::LoseGo);
        }
        if bounds.lost_locks > 0 && self.storage.lock.is_some() {
            actions.push(Action::LoseLock);
        }
        if bounds.restores > 0 {
            actions.push(match self.backup {
                None => Action::Backup,
                Some(_) => Action::Restore,
            });
        }
        if self.may_accept() {
            actions.push(Action::AcceptLineage);
        }
        let step = self.database.operation.as_ref().map(|o| o.step);
        let assumes = match step {
            Some(Step::Build) => self.rules.lack(Weakness::SilenceFrees),
            Some(Step::Settle) => self.rules.lack(Weakness::SilenceIsRefusal),
            None => self.rules.lack(Weakness::EvacuationOnSilence) && self.active_lives(),
            _ => false,
        };
        if assumes {
            actions.push(Action::Assume);
        }
    }

    /// Whether the controller has something to tell a host, besides its watermark.
    fn has_news(&self, host: HostNo) -> bool {
        let (journal, row) = (&self.hosts[host].journal, &self.database.hosts[host]);
        let refused = journal.refuses && self.database.lineage == journal.lineage;
        !refused
            && (row.epoch != journal.epoch
                || self.database.lineage != journal.lineage
                || self.database.branch != journal.branch.0
                || row.down
                || !self.database.lost(host).is_empty())
    }

    fn active_lives(&self) -> bool {
        self.database.is_live(self.database.active)
    }

    fn requests(&self, actions: &mut Vec<Action>) {
        let (bounds, database) = (&self.bounds, &self.database);
        let (step, idle) = match &database.operation {
            Some(operation) => (Some(operation.step), false),
            None => (None, true),
        };
        if bounds.deletes > 0 && database.may_delete() {
            actions.push(Action::Delete);
        }
        if bounds.migrations > 0 && idle && self.active_lives() {
            let other = 1 - database.rows[&database.active].host;
            if !database.hosts[other].down {
                actions.push(Action::Migrate);
            }
        }
        if bounds.aborts > 0 && matches!(step, Some(Step::Incoming | Step::HandOver)) {
            actions.push(Action::Abort);
        }
        let is_there = idle && database.instance != crate::database::Instance::Deleted;
        if bounds.starts > 0 && is_there {
            let dead = |host: &Host| {
                let vmm = host.vmms.get(&database.active);
                vmm.is_none_or(|vmm| !vmm.lives())
            };
            if self.hosts.iter().all(dead) {
                actions.push(Action::Start);
            }
        }
    }

    fn broker_events(&self, actions: &mut Vec<Action>) {
        let bounds = &self.bounds;
        for message in &self.queue {
            if bounds.drops > 0 {
                actions.push(Action::LoseCommand(*message));
            }
            let host = &self.hosts[message.name.host];
            if bounds.repeats > 0 && host.powered && host.agent == Agent::Consuming {
                actions.push(Action::Arrive(*message, Repeat::Yes));
            }
        }
        for answer in &self.results {
            if bounds.drops > 0 {
                actions.push(Action::LoseAnswer(*answer));
            }
            if bounds.repeats > 0 {
                actions.push(Action::Fold(*answer, Repeat::Yes));
            }
        }
        if bounds.holds > 0 && self.held.is_none() && self.waited_for().is_some() {
            actions.push(Action::Hold);
        }
        if self.held.is_some() {
            actions.push(Action::LoseHeld);
        }
    }

    fn host_events(&self, host: HostNo, actions: &mut Vec<Action>) {
        let (bounds, here) = (&self.bounds, &self.hosts[host]);
        if bounds.reports > 0 && here.agent == Agent::Consuming && !self.has_news(host) {
            actions.push(Action::Report(host));
        }
        if !here.powered {
            actions.push(Action::PowerOn(host));
        } else if bounds.power_cuts > 0 {
            actions.push(Action::CutPower(host));
        }
        if bounds.fences > 0 && !self.database.hosts[host].down {
            actions.push(Action::Fence(host));
        }
        if bounds.agent_crashes[host] > 0 && here.agent != Agent::Down {
            actions.push(Action::KillAgent(host));
        }
        if bounds.new_disks > 0 && here.powered && here.agent == Agent::Down {
            actions.push(Action::NewDisk(host));
        }
        for no in here.journal.records.keys() {
            if self.may_forget(here, *no) {
                actions.push(Action::Forget(host, *no));
            }
            let Some((entry, message)) = self.under_way(host, *no) else {
                continue;
            };
            if here.agent == Agent::Consuming && entry.is_begun() {
                if bounds.agent_crashes[host] > 0 {
                    actions.push(Action::WorkAndDie(host, *no));
                }
                let builds = message.order == crate::words::Order::Build;
                if bounds.failed_builds > 0 && builds && !here.vmms.contains_key(no) {
                    actions.push(Action::FailBuild(host, *no));
                }
            }
        }
        if bounds.vmm_crashes > 0 {
            for (no, vmm) in &here.vmms {
                if vmm.lives() {
                    actions.push(Action::KillVmm(host, *no));
                }
            }
        }
    }

    fn lease_events(&self, actions: &mut Vec<Action>) {
        if !self.bounds.armed {
            return;
        }
        for host in 0..2 {
            for (no, vmm) in self.with_lease(host) {
                if vmm.process == Process::Running && vmm.lease_ends <= Some(self.now + 1) {
                    actions.push(Action::SoftEnd(host, no));
                }
            }
            for (no, _) in self.overdue(host) {
                actions.push(Action::HardEnd(host, no));
            }
        }
        if self.bounds.ticks > 0 && (0..2).all(|host| self.overdue(host).next().is_none()) {
            actions.push(Action::Tick);
        }
        let margin = u8::from(!self.rules.lack(Weakness::NoMargin));
        let over = |granted: u8| self.now >= granted + LEASE + margin;
        let refuses = self.storage.kind == Kind::RefusesOldWriters
            || self.rules.lack(Weakness::LeaseOnPlainStorage);
        let idle = self.database.operation.is_none();
        if idle && refuses && self.active_lives() && self.database.granted_at.is_some_and(over) {
            actions.push(Action::RunOut);
        }
    }

    /// The VMMs whose lease has ended.
    fn overdue(&self, host: HostNo) -> impl Iterator<Item = (VmmNo, &Vmm)> {
        self.with_lease(host)
            .filter(|(_, vmm)| vmm.lease_ends <= Some(self.now))
    }

    /// The VMMs that carry a lease whose timer works.
    fn with_lease(&self, host: HostNo) -> impl Iterator<Item = (VmmNo, &Vmm)> {
        let here = &self.hosts[host];
        let works = !self.rules.lack(Weakness::LeaseInAgent) || here.agent != Agent::Down;
        let has_one = move |vmm: &Vmm| works && vmm.lives() && vmm.lease_ends.is_some();
        let all = here.vmms.iter().filter(move |(_, vmm)| has_one(vmm));
        all.map(|(no, vmm)| (*no, vmm))
    }
}
