//! What the journal holds of its host: the epoch, the agent's starts, and the controllers' database that
//! is obeyed.
//!
//! Which database is obeyed (PROTOCOL.md, rule 5) is decided here, free of I/O. A database is known by
//! its lineage and by its timelines: each start of a controller begins one, and notes the host's
//! numbers, epoch and watermark as they are then. A restored database comes with a timeline that the
//! agent has not heard of, and has noted less than the agent knows; the controller compares, and says so
//! ([`SyncReply::refused`]). The agent writes the refusal down: time does not cure it, nor does a restart
//! of either side. An operator does, who puts a new lineage in the place of the old one.

use berth_rpc_types::Envelope;
use berth_rpc_types::link::{AgentStart, HostNumbers, SyncReply, Timeline};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What the host knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The host's epoch (rule 4); 0 until the controller told.
    pub epoch: u64,
    /// The controller database last spoken to (rule 5).
    #[serde(default)]
    pub lineage: Option<String>,
    /// The highest counter seen of it.
    #[serde(default)]
    pub lineage_counter: u64,
    /// The last start of this agent that a controller has noted (rule 4).
    #[serde(default)]
    pub noted_start: Option<Uuid>,
    /// A later start, which is told until a controller has noted it.
    #[serde(default)]
    pub start: Option<Uuid>,
    /// Every command up to this number has ended (rule 3).
    #[serde(default)]
    pub watermark: u64,
    /// The last number that the controllers said they had drawn.
    #[serde(default)]
    pub last_number: u64,
    /// The timelines of the database that is obeyed, as far as commands above the watermark are of
    /// them; the last one is its own (rule 5).
    #[serde(default)]
    pub timelines: Vec<Timeline>,
    /// A database is refused until an operator says otherwise.
    #[serde(default)]
    pub refused: Option<Refused>,
}

/// Which database is refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its timeline, if it told one.
    pub timeline: Option<Uuid>,
    /// For operators.
    pub why: String,
}

/// What an operator can do.
const ACCEPT: &str = "if it is the right one, accept it (berth-controller lineage accept)";

impl HostRecord {
    /// The agent starts. A start that was drawn before, and of which it is not known whether a controller
    /// has noted it, is told on: to draw another one would make this journal look like one that was
    /// restored.
    pub fn begin(&mut self, drawn: Uuid) {
        self.start.get_or_insert(drawn);
    }

    /// What is told of this start, in a host that booted as `boot_id`.
    pub fn told(&self, boot_id: &str) -> Option<AgentStart> {
        let id = self.start.or(self.noted_start)?;
        Some(AgentStart {
            id,
            previous: self.noted_start,
            boot_id: boot_id.to_owned(),
        })
    }

    /// Whether a command that is not known here is refused: it has ended, and what is known of it is
    /// forgotten. Nothing is said of one without a number.
    pub fn is_behind(&self, host_number: Option<u64>) -> bool {
        host_number.is_some_and(|number| number <= self.watermark)
    }

    /// Whether a command's number was drawn by the database that is obeyed, as far as its timelines are
    /// known: a restored one draws a number again, for another command. Nothing is said of a command
    /// without number or timeline.
    pub fn was_drawn(&self, envelope: &Envelope) -> bool {
        let Some((number, timeline)) = envelope.host_number.zip(envelope.timeline) else {
            return true;
        };
        let drawn = self.timelines.iter().rfind(|t| t.above < number);
        self.timelines.is_empty() || drawn.is_some_and(|t| t.id == timeline)
    }

    /// Whether a report might change the mind about a command that is refused now.
    pub fn may_learn_of(&self, envelope: &Envelope) -> bool {
        self.epoch < envelope.host_epoch
            || self.epoch == envelope.host_epoch && !self.was_drawn(envelope)
    }

    /// Whether a command is of this epoch, and of the database that is obeyed.
    pub fn is_of_now(&self, envelope: &Envelope) -> bool {
        self.epoch == envelope.host_epoch && self.was_drawn(envelope)
    }

    /// What is known after a report's answer, or why the database that gave it is refused.
    ///
    /// # Errors
    /// [`Refused`], to be written down before anything else is done.
    pub fn learn(&self, reply: &SyncReply) -> Result<Self, Refused> {
        let timeline = reply.timelines.last().map(|timeline| timeline.id);
        let refused = |why: String| {
            // The first one stays: what came of it later is as bad.
            let timeline = self.refused.as_ref().map_or(timeline, |r| r.timeline);
            Refused { timeline, why }
        };
        if let Some(why) = &reply.refused {
            return Err(refused(why.clone()));
        }
        let is_same = self.lineage.as_ref().is_none_or(|l| *l == reply.lineage);
        let is_accepted = reply.follows.is_some() && reply.follows == self.lineage;
        if !is_same && !is_accepted {
            let known = self.lineage.as_deref().unwrap_or_default();
            return Err(refused(format!(
                "the controller's database is {}, but this host's guests belong to {known}; {ACCEPT}",
                reply.lineage
            )));
        }
        if is_same
            && let Some(before) = &self.refused
            && before.timeline == timeline
        {
            return Err(before.clone());
        }
        // Controllers compare with what they noted; those of earlier releases by these alone.
        let is_older = reply.lineage_counter < self.lineage_counter || reply.epoch < self.epoch;
        if is_same && is_older {
            return Err(refused(format!(
                "the controller's database is older (counter {}, epoch {}) than what this host has seen \
                 (counter {}, epoch {}); {ACCEPT}",
                reply.lineage_counter, reply.epoch, self.lineage_counter, self.epoch
            )));
        }
        let HostNumbers { last, watermark } = reply.numbers.unwrap_or_default();
        let timelines = match reply.timelines.is_empty() {
            true => &self.timelines,
            false => &reply.timelines,
        };
        Ok(Self {
            epoch: reply.epoch,
            lineage: Some(reply.lineage.clone()),
            lineage_counter: reply.lineage_counter,
            noted_start: self.start.or(self.noted_start),
            start: None,
            // Whoever accepts a lineage raises what it draws above what was known of the other.
            watermark: self.watermark.max(watermark),
            last_number: self.last_number.max(last),
            timelines: timelines.clone(),
            refused: None,
        })
    }
}

#[cfg(test)]
#[path = "host_record_tests.rs"]
mod tests;
