//! What the journal holds of each VMM, and how that may change.
//!
//! All changes of a record are functions here, free of I/O, so that the rules of PROTOCOL.md
//! that concern it (sequences, tombstones, observation numbers) are decided in one place.

use berth_rpc_types::link::{Recorded, StrayGuest};
use berth_rpc_types::{
    Command, CommandResult, Envelope, MessageId, Observation, Seen, VmmId, VmmSpec, VmmState,
};
use serde::{Deserialize, Serialize};

/// Answered entries that are kept, so that a repeated message gets its own answer again.
const ANSWERED_KEPT: usize = 4;

/// Commands for one VMM that are remembered at a time; a controller has one or two under way.
pub const ENTRIES_KEPT: usize = 64;

/// What became of an accepted command.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not begun.
    Accepted,
    /// Being done: the step last begun.
    Running(String),
    /// Failed; what was done is being undone. Not tried again.
    Undoing(Failure),
    /// Ended, with its answer.
    Done {
        /// The answer.
        result: Box<CommandResult>,
        /// Whether the broker has confirmed it.
        confirmed: bool,
    },
}

/// Why a command failed, kept while it is undone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// For the user.
    pub message: String,
    /// For operators.
    pub detail: String,
    /// Whether another host might do better.
    pub retry_elsewhere: bool,
}

/// One accepted command.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// As it came.
    pub envelope: Envelope,
    /// How far it is.
    pub phase: Phase,
    /// How often it was begun (rule 9).
    pub attempts: u32,
}

impl Entry {
    /// Whether it is still the agent's to finish.
    pub fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Done { .. })
    }

    /// Whether the driver may have done something for it.
    pub fn is_begun(&self) -> bool {
        self.attempts > 0 || self.phase != Phase::Accepted
    }

    /// (sequence, attempt): a later one has the say.
    fn order(&self) -> (u64, u32) {
        (self.envelope.sequence, self.envelope.attempt)
    }

    /// Whether its host's epoch took away what it orders: it is of an older one, the right to run that
    /// goes with it may have been given to another guest since, and it has not been carried out. It is
    /// ordered anew by whoever still wants it (rule 4). What is being undone gives nobody a right.
    pub fn is_over_in(&self, epoch: u64) -> bool {
        let envelope = &self.envelope;
        let is_wanted = matches!(self.phase, Phase::Accepted | Phase::Running(_));
        is_wanted && envelope.host_epoch < epoch && Command::gives_a_right(&envelope.method)
    }

    fn is_delete(&self) -> bool {
        self.envelope.method == Command::Delete.method()
    }
}

/// What to do with a command that has arrived.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// New, and now in the record.
    Accepted,
    /// Here already and being worked on.
    InProgress,
    /// Here already and answered: this is the answer.
    Answered(Box<CommandResult>),
    /// A higher sequence came first.
    Superseded(u64),
    /// The VMM is gone for good.
    Tombstoned,
    /// Found here but never accepted: only a delete may touch it (rule 5).
    Quarantined,
    /// [`ENTRIES_KEPT`] commands wait or are unconfirmed already; for a delete, twice as many.
    Full,
}

/// All that is remembered of one VMM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmmRecord {
    /// Whose record this is.
    pub vmm_id: VmmId,
    /// The highest sequence accepted (rule 3).
    pub sequence: u64,
    /// The highest host number of its commands, as far as that may be: a watermark that is no lower
    /// covers them all. `None`: one had no number, and no watermark covers it.
    #[serde(default)]
    pub host_number: Option<u64>,
    /// What the guest is to be; `None` once it is gone.
    pub spec: Option<VmmSpec>,
    /// The state last seen.
    pub state: VmmState,
    /// Rises with each change of `state` (rule 10).
    pub observation: u64,
    /// The highest observation that the controller has acknowledged.
    pub acknowledged: u64,
    /// With a crash: the last error.
    pub error: Option<String>,
    /// Deleted by order: never built again.
    pub tombstone: bool,
    /// Open commands, and the last few answered ones, in order of arrival.
    pub entries: Vec<Entry>,
}

impl VmmRecord {
    /// Of a VMM not heard of before.
    pub fn new(vmm_id: VmmId) -> Self {
        Self {
            vmm_id,
            sequence: 0,
            host_number: Some(0),
            spec: None,
            state: VmmState::Deleted,
            observation: 0,
            acknowledged: 0,
            error: None,
            tombstone: false,
            entries: Vec::new(),
        }
    }

    /// The verdict on a message that is here already, whether this version understands it or not:
    /// what was accepted is not refused later.
    pub fn recall(&self, message_id: MessageId) -> Option<Verdict> {
        let same = |e: &&Entry| e.envelope.message_id == message_id;
        self.entries.iter().find(same).map(|e| match &e.phase {
            Phase::Done { result, .. } => Verdict::Answered(result.clone()),
            _ => Verdict::InProgress,
        })
    }

    /// Takes a command in, if it is to be carried out (rules 3 and 5).
    pub fn accept(&mut self, envelope: &Envelope, command: &Command) -> Verdict {
        if let Some(verdict) = self.recall(envelope.message_id) {
            return verdict;
        }
        let attempts_seen = self
            .entries
            .iter()
            .map(Entry::order)
            .max()
            .unwrap_or_default();
        if envelope.sequence < self.sequence
            || (envelope.sequence == self.sequence
                && (envelope.sequence, envelope.attempt) <= attempts_seen)
        {
            return Verdict::Superseded(self.sequence);
        }
        if self.is_deleted() && *command != Command::Delete {
            return Verdict::Tombstoned;
        }
        if self.state == VmmState::Quarantined && *command != Command::Delete {
            return Verdict::Quarantined;
        }
        let room = match command {
            Command::Delete => 2 * ENTRIES_KEPT,
            _ => ENTRIES_KEPT,
        };
        if self.entries.len() >= room {
            return Verdict::Full;
        }
        self.sequence = envelope.sequence;
        let numbers = self.host_number.zip(envelope.host_number);
        self.host_number = numbers.map(|(before, this)| before.max(this));
        if let Command::Build(spec) | Command::Start(spec) = command {
            self.spec = Some((**spec).clone());
        }
        if let Command::Build(_) = command
            && self.state == VmmState::Deleted
        {
            self.see(VmmState::Building, None);
        }
        self.entries.push(Entry {
            envelope: envelope.clone(),
            phase: Phase::Accepted,
            attempts: 0,
        });
        Verdict::Accepted
    }

    /// Whether it is gone for good, or will be: a delete that was accepted is not taken back, and
    /// what came after it would be carried out on what is gone.
    pub fn is_deleted(&self) -> bool {
        self.tombstone || self.entries.iter().any(|e| e.is_open() && e.is_delete())
    }

    /// The entry to work on now: the oldest open one.
    pub fn next_open(&self) -> Option<&Entry> {
        self.entries
            .iter()
            .filter(|e| e.is_open())
            .min_by_key(|e| e.order())
    }

    /// The sequence of a delete that pre-empts work for `sequence`, if one is open.
    pub fn preempted_by(&self, sequence: u64) -> Option<u64> {
        let pre_empts = |e: &&Entry| e.is_open() && e.is_delete() && e.envelope.sequence > sequence;
        self.entries
            .iter()
            .find(pre_empts)
            .map(|e| e.envelope.sequence)
    }

    /// The entry of a message.
    pub fn entry_mut(&mut self, message_id: MessageId) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|e| e.envelope.message_id == message_id)
    }

    /// The state, with its number.
    pub const fn seen(&self) -> Seen {
        Seen {
            state: self.state,
            observation: self.observation,
        }
    }

    /// Notes a state; a change raises the observation number.
    pub fn see(&mut self, state: VmmState, error: Option<String>) {
        if self.state != state || self.error != error {
            self.state = state;
            self.error = error;
            self.observation += 1;
        }
    }

    /// Ends a command with its answer, and lets go of the oldest answers.
    pub fn conclude(&mut self, message_id: MessageId, result: CommandResult) {
        let gone = result.outcome.is_done_in(VmmState::Deleted);
        if let Some(entry) = self.entry_mut(message_id) {
            entry.phase = Phase::Done {
                result: Box::new(result),
                confirmed: false,
            };
            if gone && entry.is_delete() {
                self.bury();
            }
        }
        self.trim();
    }

    /// Makes this a tombstone.
    pub fn bury(&mut self) {
        self.see(VmmState::Deleted, None);
        // One that was never here is told as gone, too: the controller waits for that.
        self.observation = self.observation.max(1);
        self.tombstone = true;
        self.spec = None;
        // User data and tokens of a guest that is gone are nobody's business.
        for entry in &mut self.entries {
            entry.envelope.body = serde_json::Value::Null;
        }
    }

    /// Makes this a tombstone for a guest that the controllers gave away: whatever they ordered for it
    /// has a number up to `last`.
    pub fn bury_lost(&mut self, last: u64) {
        self.host_number = self.host_number.map(|number| number.max(last));
        self.bury();
    }

    /// Whether it is a tombstone that nothing can arrive for any more (rule 3).
    pub fn is_behind(&self, watermark: u64) -> bool {
        let covered = self.host_number.is_some_and(|number| number <= watermark);
        self.tombstone && self.next_open().is_none() && covered
    }

    /// The broker has the answer.
    pub fn confirm(&mut self, message_id: MessageId) {
        if let Some(Phase::Done { confirmed, .. }) =
            self.entry_mut(message_id).map(|e| &mut e.phase)
        {
            *confirmed = true;
        }
        self.trim();
    }

    /// Answers that the broker has not confirmed.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &CommandResult> {
        self.entries.iter().filter_map(|entry| match &entry.phase {
            Phase::Done {
                result,
                confirmed: false,
            } => Some(&**result),
            _ => None,
        })
    }

    /// What an operator's acceptance of another database is told of it (rule 5).
    pub fn recorded(&self) -> Recorded {
        Recorded {
            vmm_id: self.vmm_id,
            sequence: self.sequence,
            state: self.state,
            deleted: self.is_deleted(),
            is_described: self.spec.is_some(),
        }
    }

    /// What a controller that does not know this guest is told of it.
    pub fn stray(&self) -> Option<StrayGuest> {
        let spec = self.spec.clone()?;
        Some(StrayGuest {
            vmm_id: self.vmm_id,
            sequence: self.sequence,
            spec,
        })
    }

    /// The highest number of its commands, if any had one.
    pub fn newest(&self) -> Option<u64> {
        let kept = self
            .entries
            .iter()
            .filter_map(|entry| entry.envelope.host_number);
        kept.chain(self.host_number).max()
    }

    /// What is to be told, if the controller does not know it yet.
    pub fn unacknowledged(&self) -> Option<Observation> {
        (self.observation > self.acknowledged).then(|| self.observation())
    }

    /// What was last seen.
    pub fn observation(&self) -> Observation {
        Observation {
            vmm_id: self.vmm_id,
            observation: self.observation,
            state: self.state,
            error: self.error.clone(),
        }
    }

    fn trim(&mut self) {
        let is_over = |e: &Entry| {
            matches!(
                e.phase,
                Phase::Done {
                    confirmed: true,
                    ..
                }
            )
        };
        let mut extra = self
            .entries
            .iter()
            .filter(|e| is_over(e))
            .count()
            .saturating_sub(ANSWERED_KEPT);
        self.entries.retain(|entry| {
            let drop = extra > 0 && is_over(entry);
            extra -= usize::from(drop);
            !drop
        });
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
