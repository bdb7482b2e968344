//! What an agent does: takes a command in, carries it out, answers, asks the controller what it has
//! to know, and forgets.

use crate::host::{Agent, Host, Note, Process, Vmm};
use crate::rules::Weakness;
use crate::words::{Answer, HostNo, Message, Name, Order, Reply, Right, VmmNo, result};
use crate::world::{Go, Violation, World};
use berth_agent::record::{Entry, Phase, Verdict};
use berth_rpc_types::{MessageId, VmmState};
use std::collections::BTreeSet;

impl World {
    /// A command arrives at a host whose agent consumes.
    pub fn arrive(&mut self, message: Message) {
        let host = &mut self.hosts[message.name.host];
        let is_unheard_of = message.name.branch > host.journal.branch.0
            && !self.rules.lack(Weakness::StartNotAsked);
        if is_unheard_of || message.epoch > host.journal.epoch {
            // It asks first; the message is delivered again.
            host.agent = Agent::Starting;
            self.queue.insert(message);
            return;
        }
        if let Some(reply) = self.verdict(message) {
            self.answer(message, reply);
        }
    }

    /// Takes a command in; an answer if there is nothing to carry out.
    fn verdict(&mut self, message: Message) -> Option<Reply> {
        let rules = self.rules;
        let host = &mut self.hosts[message.name.host];
        let known = host.journal.records.get(&message.vmm);
        match known.and_then(|record| record.recall(message.name.id())) {
            Some(Verdict::Answered(result)) => return Some(Reply::of(&result.outcome)),
            Some(_) => return None,
            None => {}
        }
        let kept = host.journal.record();
        let is_heard_of = message.name.branch <= host.journal.branch.0;
        let is_of_a_lost_future = is_heard_of
            && !kept.was_drawn(&message.envelope())
            && !rules.lack(Weakness::CounterAlone);
        if message.lineage != host.journal.lineage || host.journal.refuses || is_of_a_lost_future {
            return Some(Reply::Refused);
        }
        if message.epoch != host.journal.epoch {
            return Some(Reply::StaleEpoch);
        }
        if kept.is_behind(Some(message.name.number.into()))
            && !rules.lack(Weakness::WatermarkNotHeeded)
        {
            return Some(Reply::BelowWatermark);
        }
        let command = message.command();
        if known.is_none() && command.needs_vmm() {
            return Some(Reply::Failed { undone: true });
        }
        let record = host.record(message.vmm);
        if rules.lack(Weakness::SequenceNotKept) {
            record.sequence = 0;
        }
        match record.accept(&message.envelope(), &command) {
            Verdict::Accepted => {
                host.journal.newest = host.journal.newest.max(Some(message.name));
                host.journal.open.push(message);
                None
            }
            Verdict::Answered(result) => Some(Reply::of(&result.outcome)),
            Verdict::InProgress => None,
            Verdict::Superseded(_) => Some(Reply::Superseded),
            Verdict::Quarantined => Some(Reply::Failed {
                undone: rules.lack(Weakness::UnknownIsUndone),
            }),
            Verdict::Tombstoned => Some(Reply::Failed {
                undone: record.tombstone,
            }),
            Verdict::Full => Some(Reply::Failed { undone: true }),
        }
    }

    /// The entry that the worker of a VMM is at, and its command.
    pub fn under_way(&self, host: HostNo, vmm: VmmNo) -> Option<(&Entry, Message)> {
        let host = &self.hosts[host];
        let entry = host.journal.records.get(&vmm)?.next_open()?;
        let id = entry.envelope.message_id;
        let message = host.journal.open.iter().find(|m| m.name.id() == id)?;
        Some((entry, *message))
    }

    /// The worker's next move: the entry is noted as begun; or it is carried out and answered.
    pub fn work(&mut self, host: HostNo, vmm: VmmNo) {
        let Some((entry, message)) = self.under_way(host, vmm) else {
            return;
        };
        let begun = entry.is_begun();
        let record = self.hosts[host].record(vmm);
        if record.preempted_by(message.sequence.into()).is_some() {
            return self.conclude(message, Reply::Superseded);
        }
        if !begun {
            if let Some(entry) = record.entry_mut(message.name.id()) {
                entry.phase = Phase::Running(String::new());
                entry.attempts += 1;
            }
            // What may give the right away is written down before anything is done for it.
            if message.order == Order::HandOver
                && let Some(vmm) = self.hosts[host].vmms.get_mut(&vmm)
                && vmm.process == Process::Running
            {
                vmm.note = Note::HandedOver;
            }
            return;
        }
        let reply = self.carry_out(host, message);
        self.conclude(message, reply);
    }

    /// The same, but the agent is killed when it has carried the entry out, before it wrote that
    /// down.
    pub fn work_and_die(&mut self, host: HostNo, vmm: VmmNo) {
        if let Some((_, message)) = self.under_way(host, vmm) {
            self.carry_out(host, message);
            self.hosts[host].agent = Agent::Down;
        }
    }

    fn carry_out(&mut self, host: HostNo, message: Message) -> Reply {
        let vmm = message.vmm;
        let process = self.hosts[host].vmms.get(&vmm).map(|v| v.process);
        let lives = process.is_some_and(|process| process != Process::Dead);
        match message.order {
            Order::Build | Order::Start => {
                let note = self.hosts[host].vmms.get(&vmm).map(|v| v.note);
                let may = !matches!(note, Some(Note::HandedOver | Note::Refused));
                if lives {
                    return Reply::Done(VmmState::Running);
                }
                if !may || !self.take(vmm, message.right, message.follows) {
                    return Reply::Failed { undone: true };
                }
                self.spawn(host, message);
                Reply::Done(VmmState::Running)
            }
            Order::Incoming => {
                if process.is_none() {
                    let new = Vmm::new(Process::Incoming, &message);
                    self.hosts[host].vmms.insert(vmm, new);
                    return Reply::Done(VmmState::Building);
                }
                match lives {
                    true => Reply::Done(VmmState::Building),
                    false => Reply::Failed { undone: false },
                }
            }
            Order::HandOver => self.hand_over(host, message),
            Order::Settle => self.settle(host, vmm),
            Order::Resume { unless_taken } => self.resume(host, message, unless_taken),
            Order::Delete => {
                if process.is_some_and(Process::has_the_right) && !self.is_unwanted {
                    self.violation = Some(Violation::EndedUnwanted);
                }
                self.remove(host, vmm);
                Reply::Done(VmmState::Deleted)
            }
        }
    }

    fn spawn(&mut self, host: HostNo, message: Message) {
        let mut new = Vmm::new(self.first(), &message);
        new.memory = self.ran.max(message.right.number);
        // The same kernel's cache: what it has yet to write is not lost to a reader here.
        self.hosts[host].late = None;
        self.hosts[host].vmms.insert(message.vmm, new);
        self.note_running(message.right);
    }

    /// How a VMM that has the right begins: armed, it needs a lease first.
    pub fn first(&self) -> Process {
        match self.bounds.armed {
            true => Process::Paused,
            false => Process::Running,
        }
    }

    fn hand_over(&mut self, host: HostNo, message: Message) -> Reply {
        let Some(vmm) = self.hosts[host].vmms.get_mut(&message.vmm) else {
            return Reply::Failed { undone: true };
        };
        match vmm.process {
            Process::Running if vmm.note == Note::HandedOver => {
                vmm.process = Process::HandedOver;
                self.storage.release(message.vmm);
                self.go = Some(Go {
                    to: message.peer,
                    at: 1 - host,
                });
                Reply::Done(VmmState::Paused)
            }
            Process::HandedOver => Reply::Done(VmmState::Paused),
            // It died, perhaps after its "go": nobody here knows.
            Process::Dead if vmm.note == Note::HandedOver => Reply::Done(VmmState::Paused),
            _ => {
                vmm.note = Note::None;
                Reply::Failed { undone: true }
            }
        }
    }

    fn settle(&mut self, host: HostNo, no: VmmNo) -> Reply {
        let forgets = self.rules.lack(Weakness::RefusalNotDurable);
        let taken = Reply::Done(VmmState::Running);
        let refused = Reply::Done(VmmState::Stopped);
        let Some(vmm) = self.hosts[host].vmms.get_mut(&no) else {
            return refused;
        };
        let reply = match (vmm.process, vmm.note) {
            (_, Note::Took) => taken,
            (process, _) if process.has_the_right() => taken,
            (Process::Incoming, _) if forgets => refused,
            _ => {
                vmm.note = Note::Refused;
                vmm.process = Process::Dead;
                refused
            }
        };
        if reply == refused && !forgets {
            self.storage.release(no);
        }
        reply
    }

    fn resume(&mut self, host: HostNo, message: Message, unless_taken: bool) -> Reply {
        let Some(vmm) = self.hosts[host].vmms.get(&message.vmm) else {
            return Reply::Failed { undone: true };
        };
        match vmm.process {
            Process::Running | Process::Paused => {
                self.forget_hand_over(host, message.vmm);
                Reply::Done(VmmState::Running)
            }
            Process::HandedOver => {
                let taken = self.storage.writer == message.peer;
                if unless_taken && taken || !self.take(message.vmm, message.right, message.follows)
                {
                    return Reply::Failed { undone: false };
                }
                self.forget_hand_over(host, message.vmm);
                self.go_on(host, message.vmm, message.right);
                Reply::Done(VmmState::Running)
            }
            _ => {
                self.forget_hand_over(host, message.vmm);
                Reply::Failed { undone: false }
            }
        }
    }

    fn forget_hand_over(&mut self, host: HostNo, no: VmmNo) {
        if let Some(vmm) = self.hosts[host].vmms.get_mut(&no) {
            vmm.note = Note::None;
        }
    }

    /// A VMM runs on with the memory that it has.
    pub fn go_on(&mut self, host: HostNo, no: VmmNo, right: Right) {
        let (first, ran) = (self.first(), self.ran);
        if let Some(vmm) = self.hosts[host].vmms.get_mut(&no) {
            if vmm.memory < ran {
                self.violation = Some(Violation::OldMemoryRan);
            }
            vmm.process = first;
            vmm.right = right;
            vmm.memory = right.number;
            if vmm.process == Process::Running {
                self.note_running(right);
            }
        }
    }

    /// Takes the storage for a VMM.
    pub fn take(&mut self, vmm: VmmNo, right: Right, follows: u64) -> bool {
        self.storage.take(vmm, right, follows, self.rules)
    }

    /// Ends a VMM's process and removes everything of it but the record; what its kernel has yet to
    /// write is written first.
    fn remove(&mut self, host: HostNo, vmm: VmmNo) {
        self.storage.release(vmm);
        if let Some(gone) = self.hosts[host].vmms.remove(&vmm)
            && Some(gone.right) == self.hosts[host].late
        {
            self.hosts[host].late = None;
        }
    }

    /// The answer of an entry is written down, and published.
    pub fn conclude(&mut self, message: Message, reply: Reply) {
        let host = &mut self.hosts[message.name.host];
        host.journal.open.retain(|m| m.name != message.name);
        let record = host.record(message.vmm);
        if let Reply::Done(state) = reply {
            record.see(state, None);
        }
        record.conclude(message.name.id(), result(&message.envelope(), reply));
        record.confirm(message.name.id());
        record.acknowledged = record.observation;
        if record.tombstone {
            self.buried |= message.vmm.bit();
        }
        self.answer(message, reply);
    }

    fn answer(&mut self, message: Message, reply: Reply) {
        self.results.insert(Answer {
            to: message.name,
            reply,
        });
    }

    /// An agent that starts finds what it does not know, and leaves it alone (rule 5).
    pub fn start_agent(&mut self, host: HostNo) {
        let asks = !self.rules.lack(Weakness::EpochNotAsked);
        let ends_incoming = self.rules.lack(Weakness::AgentEndsIncoming);
        let here = &mut self.hosts[host];
        here.agent = match asks {
            true => Agent::Starting,
            false => Agent::Consuming,
        };
        let living: Vec<VmmNo> = here
            .vmms
            .iter()
            .filter(|(_, vmm)| vmm.lives())
            .map(|(no, _)| *no)
            .collect();
        for vmm in living {
            if !self.hosts[host].journal.records.contains_key(&vmm) {
                let record = self.hosts[host].record(vmm);
                record.see(VmmState::Quarantined, None);
                record.acknowledged = record.observation;
            }
            if ends_incoming && self.hosts[host].journal.records[&vmm].state == VmmState::Building {
                self.end_unasked(host, vmm);
            }
        }
    }

    /// An agent ends a VMM without an order.
    fn end_unasked(&mut self, host: HostNo, no: VmmNo) {
        self.storage.release(no);
        if let Some(vmm) = self.hosts[host].vmms.get_mut(&no) {
            if vmm.process.has_the_right() {
                self.violation = Some(Violation::EndedUnasked);
            }
            vmm.process = Process::Dead;
        }
    }

    /// The agent reports, and learns its epoch, what it has lost, and the watermark. It removes
    /// what is lost before anything else (rule 4), and obeys no older database (rule 5).
    pub fn sync(&mut self, host: HostNo) {
        let rules = self.rules;
        if self.hosts[host].journal.is_new {
            self.database.raise_epoch(host, rules);
            self.hosts[host].journal.is_new = false;
        }
        let boots = self.hosts[host].boots;
        if self.database.hosts[host].boots != boots {
            // What was ordered before it was off is over: it is ordered anew, with a new right.
            self.database.hosts[host].boots = boots;
            if !rules.lack(Weakness::BootNotTold) {
                self.database.raise_epoch(host, rules);
            }
        }
        let row = self.database.hosts[host].clone();
        let (branch, lineage) = (self.database.branch, self.database.lineage);
        let journal = &mut self.hosts[host].journal;
        let accepted = lineage > journal.lineage;
        let newest = journal.newest;
        let is_older = match rules.lack(Weakness::CounterAlone) {
            true => newest.is_some_and(|newest| newest.number > row.number),
            false => {
                // Not what the row is now: a restored database raises its numbers, too.
                let fork = match rules.lack(Weakness::EvidenceOfNow) {
                    true => row.now(self.database.watermark(host, rules)),
                    false => row.fork,
                };
                let of_a_lost_future =
                    |newest: Name| newest.branch < branch && newest.number > fork.number;
                let knows_more = journal.epoch > fork.epoch || journal.watermark > fork.watermark;
                newest.is_some_and(of_a_lost_future) || journal.branch.0 < branch && knows_more
            }
        };
        if accepted {
            journal.refuses = false;
        } else if is_older {
            journal.refuses = true;
        } else if rules.lack(Weakness::RefusalNotLatched) && journal.refuses {
            journal.refuses = false;
            self.violation = Some(Violation::ObeyedUnaccepted);
        }
        if journal.refuses {
            return;
        }
        if accepted {
            journal.newest = None;
        }
        journal.branch = (branch, row.fork.number);
        journal.lineage = lineage;
        journal.epoch = row.epoch;
        let watermark = self.database.watermark(host, rules);
        journal.watermark = journal.watermark.max(watermark);
        if !rules.lack(Weakness::OldOrdersCarriedOn) {
            self.end_old_orders(host);
        }
        for vmm in self.database.lost(host) {
            self.remove(host, vmm);
            self.bury(host, vmm);
        }
        if rules.lack(Weakness::AbsenceIsAnOrder) {
            self.end_the_unlisted(host);
        }
        self.database.removed(host);
        self.hosts[host].agent = Agent::Consuming;
    }

    /// What was accepted in an older epoch, and not carried out, gives nobody a right any more: the
    /// controller may have given it to another one since. It is ordered anew.
    fn end_old_orders(&mut self, host: HostNo) {
        let journal = &self.hosts[host].journal;
        let epoch = journal.epoch.into();
        let entries = journal.records.values().flat_map(|record| &record.entries);
        let over: BTreeSet<MessageId> = entries
            .filter(|entry| entry.is_over_in(epoch))
            .map(|entry| entry.envelope.message_id)
            .collect();
        self.end_open(host, |m| over.contains(&m.name.id()));
    }

    /// Answers open entries with "stale epoch".
    fn end_open(&mut self, host: HostNo, which: impl Fn(&Message) -> bool) {
        let open = &self.hosts[host].journal.open;
        let over: Vec<Message> = open.iter().filter(|m| which(m)).copied().collect();
        for message in over {
            self.conclude(message, Reply::StaleEpoch);
        }
    }

    fn bury(&mut self, host: HostNo, vmm: VmmNo) {
        self.end_open(host, |m| m.vmm == vmm);
        let number = self.database.hosts[host].number;
        let record = self.hosts[host].record(vmm);
        record.bury_lost(number.into());
        record.acknowledged = record.observation;
        self.buried |= vmm.bit();
    }

    fn end_the_unlisted(&mut self, host: HostNo) {
        let rows = &self.database.rows;
        let unlisted = |no: &VmmNo| !rows.get(no).is_some_and(|row| row.open);
        let here: Vec<VmmNo> = self.hosts[host]
            .vmms
            .keys()
            .copied()
            .filter(unlisted)
            .collect();
        for vmm in here {
            self.end_unasked(host, vmm);
        }
    }

    /// Whether the agent may forget a VMM that is gone (rule 3).
    pub fn may_forget(&self, host: &Host, vmm: VmmNo) -> bool {
        let by_clock = self.rules.lack(Weakness::TombstoneForgottenByClock);
        let watermark = match by_clock {
            true => u64::MAX,
            false => host.journal.watermark.into(),
        };
        let record = host.journal.records.get(&vmm);
        record.is_some_and(|record| record.is_behind(watermark))
    }
}
