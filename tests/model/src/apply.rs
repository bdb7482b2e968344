//! What each [`Action`] does.

use crate::action::{Action, Repeat};
use crate::database::Row;
use crate::host::{Agent, Journal, Note, Process};
use crate::rules::Weakness;
use crate::words::{HostNo, Message, Reply, Right, VmmNo};
use crate::workflow::Step;
use crate::world::{Grant, LEASE, World};
use berth_rpc_types::VmmState;

impl World {
    /// The world after something happened.
    pub fn after(&self, action: Action) -> Self {
        let mut next = self.clone();
        next.apply(action);
        next.forget_answers();
        next
    }

    /// An answer that nobody waits for, and that no restored database can wait for again, changes
    /// nothing: without it there are fewer states. Refusals are kept, to be seen.
    fn forget_answers(&mut self) {
        let waited_for = self.waited_for().map(|message| message.name);
        if self.bounds.restores == 0 && self.backup.is_none() {
            let is_told = |reply| matches!(reply, Reply::Done(_) | Reply::Failed { .. });
            self.results
                .retain(|answer| Some(answer.to) == waited_for || !is_told(answer.reply));
        }
    }

    fn apply(&mut self, action: Action) {
        let rules = self.rules;
        match action {
            Action::Delete => {
                self.bounds.deletes -= 1;
                self.is_unwanted = true;
                self.database.delete(rules);
            }
            Action::Migrate => {
                self.bounds.migrations -= 1;
                self.database.migrate(rules);
            }
            Action::Abort => {
                self.bounds.aborts -= 1;
                self.database.abort(rules);
            }
            Action::Start => {
                self.bounds.starts -= 1;
                match self.database.is_live(self.database.active) {
                    true => self.database.start(rules),
                    false => self.database.build(rules),
                }
            }
            Action::Send => self.queue.extend(self.waited_for()),
            Action::Hold => {
                self.bounds.holds -= 1;
                self.held = self.waited_for();
            }
            Action::SendHeld => self.queue.extend(self.held.take()),
            Action::LoseHeld => self.held = None,
            Action::Fold(answer, repeat) => {
                match repeat {
                    Repeat::No => drop(self.results.remove(&answer)),
                    Repeat::Yes => self.bounds.repeats -= 1,
                }
                self.database.fold(answer, rules);
            }
            Action::Inquire => self.database.inquire(rules),
            Action::Assume => self.assume(),
            Action::Grant(grant) => {
                self.bounds.grants -= 1;
                self.grants.insert(grant);
                self.database.granted_at = Some(self.now);
            }
            Action::RunOut => self.database.run_out(rules),
            Action::LoseCommand(message) => {
                self.bounds.drops -= 1;
                self.queue.remove(&message);
            }
            Action::LoseAnswer(answer) => {
                self.bounds.drops -= 1;
                self.results.remove(&answer);
            }
            Action::Arrive(message, repeat) => {
                match repeat {
                    Repeat::No => drop(self.queue.remove(&message)),
                    Repeat::Yes => self.bounds.repeats -= 1,
                }
                self.arrive(message);
            }
            Action::Work(host, vmm) => self.work(host, vmm),
            Action::WorkAndDie(host, vmm) => {
                self.bounds.agent_crashes[host] -= 1;
                self.work_and_die(host, vmm);
            }
            Action::FailBuild(host, vmm) => {
                self.bounds.failed_builds -= 1;
                self.fail_build(host, vmm);
            }
            Action::Sync(host) => self.sync(host),
            Action::Report(host) => {
                self.bounds.reports -= 1;
                self.sync(host);
            }
            Action::Forget(host, vmm) => {
                let journal = &mut self.hosts[host].journal;
                journal.records.remove(&vmm);
            }
            Action::KillAgent(host) => {
                self.bounds.agent_crashes[host] -= 1;
                self.hosts[host].agent = Agent::Down;
            }
            Action::StartAgent(host) => self.start_agent(host),
            Action::NewDisk(host) => {
                self.bounds.new_disks -= 1;
                self.hosts[host].journal = Journal {
                    is_new: true,
                    ..Journal::default()
                };
                for vmm in self.hosts[host].vmms.values_mut() {
                    vmm.note = Note::None;
                }
                self.hosts[host].vmms.retain(|_, vmm| vmm.lives());
                self.start_agent(host);
            }
            Action::LoseGo => {
                self.bounds.drops -= 1;
                self.go = None;
            }
            Action::WriteLate(host) => self.hosts[host].late = None,
            Action::LoseLock => {
                self.bounds.lost_locks -= 1;
                self.storage.lock = None;
            }
            Action::Backup => self.backup = Some(Box::new(self.database.clone())),
            Action::Restore => self.restore(),
            Action::AcceptLineage => self.accept_lineage(),
            Action::Take
            | Action::NoteTook(..)
            | Action::Run(..)
            | Action::GoOn(..)
            | Action::LeaseArrives(..)
            | Action::SoftEnd(..)
            | Action::HardEnd(..)
            | Action::KillVmm(..)
            | Action::CutPower(_)
            | Action::PowerOn(_)
            | Action::Fence(_)
            | Action::Tick => self.apply_to_machines(action),
        }
    }

    fn apply_to_machines(&mut self, action: Action) {
        match action {
            Action::Take => self.target_takes(),
            Action::NoteTook(host, no) => {
                if let Some(vmm) = self.hosts[host].vmms.get_mut(&no) {
                    vmm.note = Note::Took;
                }
            }
            Action::Run(host, no) => {
                let ran = self.ran;
                if let Some(vmm) = self.hosts[host].vmms.get_mut(&no) {
                    let right = vmm.right;
                    // It has the source's memory, as the source let it go.
                    vmm.memory = ran;
                    self.go_on(host, no, right);
                    if self.rules.lack(Weakness::TargetNeedsNoLease) {
                        self.run(host, no);
                    }
                }
            }
            Action::GoOn(host, no) => {
                let right = self.hosts[host].vmms.get(&no).map(|vmm| vmm.right);
                if let Some(right) = right {
                    self.go_on(host, no, right);
                }
            }
            Action::LeaseArrives(host, grant) => self.lease_arrives(host, grant),
            Action::SoftEnd(host, no) => {
                if let Some(vmm) = self.hosts[host].vmms.get_mut(&no) {
                    vmm.process = Process::Paused;
                }
            }
            Action::HardEnd(host, no) => self.die(host, no),
            Action::KillVmm(host, no) => {
                self.bounds.vmm_crashes -= 1;
                self.die(host, no);
            }
            Action::CutPower(host) => {
                self.bounds.power_cuts -= 1;
                self.power_off(host);
            }
            Action::PowerOn(host) => self.hosts[host].powered = true,
            Action::Fence(host) => {
                self.bounds.fences -= 1;
                self.power_off(host);
                self.database.hosts[host].boots = self.hosts[host].boots;
                self.database.fence(host, self.rules);
            }
            _ => self.tick(),
        }
    }

    fn assume(&mut self) {
        let rules = self.rules;
        match self.database.operation.as_ref().map(|o| o.step) {
            Some(Step::Build) => self.database.give_up_build(rules),
            Some(_) => self.database.refused(rules),
            None => self.database.run_out(rules),
        }
    }

    fn fail_build(&mut self, host: HostNo, vmm: VmmNo) {
        if let Some((_, message)) = self.under_way(host, vmm) {
            self.undone(message);
        }
    }

    fn target_takes(&mut self) {
        let Some(go) = self.go.take() else { return };
        let Some(vmm) = self.hosts[go.at].vmms.get(&go.to) else {
            return;
        };
        let (right, follows) = (vmm.right, vmm.follows);
        let waits = vmm.process == Process::Incoming && vmm.note == Note::None;
        if waits
            && self.take(go.to, right, follows)
            && let Some(vmm) = self.hosts[go.at].vmms.get_mut(&go.to)
        {
            vmm.process = Process::Taken;
        }
    }

    /// It runs, whatever it waited for.
    fn run(&mut self, host: HostNo, no: VmmNo) {
        if let Some(vmm) = self.hosts[host].vmms.get_mut(&no) {
            vmm.process = Process::Running;
            let right = vmm.right;
            self.note_running(right);
        }
    }

    fn lease_arrives(&mut self, host: HostNo, grant: Grant) {
        self.grants.remove(&grant);
        let from_arrival = self.rules.lack(Weakness::LeaseFromArrival);
        let any = self.rules.lack(Weakness::GrantOfAnyGeneration);
        let now = self.now;
        let ends = LEASE + if from_arrival { now } else { grant.at };
        let Some(vmm) = self.hosts[host].vmms.get(&grant.vmm) else {
            return;
        };
        let (right, follows) = (vmm.right, vmm.follows);
        let begins = vmm.lease_ends.is_none();
        let is_longer = vmm.lease_ends.is_none_or(|has| has < ends);
        let waits = vmm.process == Process::Paused || any && vmm.process == Process::HandedOver;
        if !vmm.lives() || now >= ends || !is_longer || begins && grant.renews {
            return;
        }
        let asks = begins && vmm.process == Process::Paused;
        if asks
            && !self.rules.lack(Weakness::StorageNotAsked)
            && !self.take(grant.vmm, right, follows)
        {
            return;
        }
        if let Some(vmm) = self.hosts[host].vmms.get_mut(&grant.vmm) {
            vmm.lease_ends = Some(ends);
        }
        if waits && now + 1 < ends {
            self.go_on(host, grant.vmm, right);
            self.run(host, grant.vmm);
        }
    }

    fn die(&mut self, host: HostNo, no: VmmNo) {
        self.storage.release(no);
        let here = &mut self.hosts[host];
        let Some(vmm) = here.vmms.get_mut(&no) else {
            return;
        };
        if matches!(vmm.process, Process::Running) {
            here.late = Some(vmm.right);
        }
        vmm.process = Process::Dead;
        vmm.lease_ends = None;
    }

    fn power_off(&mut self, host: HostNo) {
        let here: Vec<VmmNo> = self.hosts[host].vmms.keys().copied().collect();
        for vmm in here {
            self.die(host, vmm);
        }
        let host = &mut self.hosts[host];
        host.late = None;
        host.agent = Agent::Down;
        host.powered = false;
        host.boots += 1;
    }

    /// A generation runs.
    pub fn note_running(&mut self, right: Right) {
        let runs = self
            .hosts
            .iter()
            .any(|host| host.running().next().is_some());
        if runs {
            self.ran = self.ran.max(right.number);
        }
    }

    fn tick(&mut self) {
        self.bounds.ticks -= 1;
        self.now += 1;
    }

    fn restore(&mut self) {
        self.bounds.restores -= 1;
        let Some(backup) = self.backup.take() else {
            return;
        };
        self.database = *backup;
        self.database.branch = 1;
        self.database.restored_at = Some(self.now);
        // It gives nobody away before a lease's time is over, as if it had just granted one.
        if !self.rules.lack(Weakness::NoGrace) {
            self.database.granted_at = Some(self.now);
        }
        for host in 0..2 {
            let watermark = self.database.watermark(host, self.rules);
            self.database.hosts[host].fork = self.database.hosts[host].now(watermark);
        }
        // Its controllers were stopped before.
        self.held = None;
    }

    /// Whether an operator can accept the database: each host has said what it has, and obeys
    /// nothing else meanwhile.
    pub fn may_accept(&self) -> bool {
        let has_told = |host: &HostNo| {
            let journal = &self.hosts[*host].journal;
            let tells = journal.refuses || journal.branch.0 == 1;
            self.database.hosts[*host].down || tells && self.hosts[*host].agent != Agent::Down
        };
        let refused = self.hosts.iter().any(|host| host.journal.refuses);
        let is_restored = self.database.branch == 1 && self.database.lineage == 0;
        is_restored && refused && (0..2).all(|host| has_told(&host))
    }

    fn accept_lineage(&mut self) {
        if !self.may_accept() {
            return;
        }
        let rules = self.rules;
        self.database.lineage += 1;
        self.learn_from(0);
        self.learn_from(1);
        let ended: Vec<VmmNo> = (0..2).flat_map(|host| self.missing_on(host)).collect();
        if !rules.lack(Weakness::AcceptEndsNothing) {
            // Its claim is free when its host says so: an order to build it may be on its way.
            for vmm in &ended {
                if let Some(row) = self.database.rows.get_mut(vmm) {
                    row.lost = true;
                    row.doubtful = !rules.lack(Weakness::AcceptedIsOver);
                }
            }
            for vmm in ended {
                self.database.lose(vmm, rules);
            }
        }
        // What is under way is ordered anew, with the new numbers; a migration asks the target.
        match self.database.operation.as_ref().map(|o| o.step) {
            Some(Step::Incoming | Step::HandOver) => self.database.abort(rules),
            Some(step) => self.database.go(step, rules),
            None => {}
        }
    }

    /// Numbers, generations and sequences rise above what a host knows; what it has and the database
    /// does not know is held.
    fn learn_from(&mut self, host: HostNo) {
        let raises = !self.rules.lack(Weakness::AcceptRaisesNothing);
        let journal = &self.hosts[host].journal;
        let row = &mut self.database.hosts[host];
        row.epoch = row.epoch.max(journal.epoch) + 1;
        if raises {
            let newest = journal.newest.map_or(0, |newest| newest.number);
            row.number = row.number.max(newest).max(journal.watermark);
            let rights = self.hosts[host].vmms.values().map(|vmm| vmm.right.number);
            self.database.right = rights.fold(self.database.right, u8::max);
        }
        for (no, record) in &journal.records {
            let row = self.database.rows.entry(*no).or_insert(Row {
                host,
                sequence: 0,
                rights: 0,
                claim: !record.tombstone && !self.rules.lack(Weakness::StraysNotHeld),
                open: !record.tombstone,
                lost: false,
                doubtful: false,
                stray: true,
            });
            if raises {
                let sequence = u8::try_from(record.sequence).unwrap_or(u8::MAX);
                row.sequence = row.sequence.max(sequence);
            }
        }
    }

    /// What is there as far as the database knows, and its host does not have, or is deleting.
    fn missing_on(&self, host: HostNo) -> impl Iterator<Item = VmmNo> {
        let records = &self.hosts[host].journal.records;
        let is_missing = move |(no, row): &(&VmmNo, &Row)| {
            let record = records.get(no);
            row.host == host && row.open && record.is_none_or(|record| record.is_deleted())
        };
        let missing = self.database.rows.iter().filter(is_missing);
        missing.map(|(no, _)| *no)
    }

    /// A build that failed left nothing behind.
    fn undone(&mut self, message: Message) {
        let host = &mut self.hosts[message.name.host];
        host.record(message.vmm).see(VmmState::Deleted, None);
        self.conclude(message, Reply::Failed { undone: true });
    }
}
