//! What becomes of orders: how each ended, with what it came to.
//!
//! A VMM's answer is written as releases do that know no other subject; what is in words of a newer
//! release is told from what nobody can read ([`ResultError`]).

use crate::{HostId, MessageId, OperationId, VmmId, VmmState};
use serde::{Deserialize, Serialize};

/// What became of a command. Travels on the durable results queue; folded in by the
/// controller in one transaction with what it changes, and acknowledged after (rule 11).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommandResult {
    /// The command's message id: results repeat, and fold away by it.
    pub message_id: MessageId,
    /// The command's operation.
    pub operation_id: OperationId,
    /// The command's step.
    pub step: String,
    /// The command's attempt.
    pub attempt: u32,
    /// Who answers.
    pub host_id: HostId,
    /// The host's epoch as the agent knows it.
    pub host_epoch: u64,
    /// The VMM.
    pub vmm_id: VmmId,
    /// The command's sequence.
    pub sequence: u64,
    /// The request it was for.
    pub request_id: String,
    /// What happened.
    pub outcome: Outcome,
}

/// Why bytes are no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// An answer in words of a newer agent: it is for a controller that knows them.
    #[error("an answer of a newer version ({what}) to message {message_id}")]
    Newer {
        /// The command that is answered.
        message_id: MessageId,
        /// What is not known here.
        what: String,
    },
    /// No answer at all.
    #[error("not a result: {0}")]
    Malformed(String),
}

impl CommandResult {
    /// Parses an answer. What it is about comes first, so that one in words that only a newer
    /// build knows (an outcome, a state) is told from one that nobody can read.
    ///
    /// # Errors
    /// [`ResultError`]
    pub fn parse(payload: &[u8]) -> Result<Self, ResultError> {
        /// What every version's answer has.
        #[derive(Deserialize)]
        struct About {
            message_id: MessageId,
            outcome: Words,
        }
        #[derive(Deserialize)]
        struct Words {
            outcome: String,
            #[serde(default)]
            state: Option<String>,
            #[serde(flatten)]
            rest: serde_json::Map<String, serde_json::Value>,
        }
        let malformed = |error: serde_json::Error| ResultError::Malformed(error.to_string());
        let about: About = serde_json::from_slice(payload).map_err(malformed)?;
        let Words {
            outcome: kind,
            state,
            rest,
        } = about.outcome;
        let newer = |what: String| ResultError::Newer {
            message_id: about.message_id,
            what,
        };
        if !Outcome::NAMES.contains(&kind.as_str()) {
            return Err(newer(format!("outcome {kind}")));
        }
        if let Some(state) = state.as_ref().filter(|s| VmmState::parse(s).is_none()) {
            return Err(newer(format!("state {state}")));
        }
        let is_known = |name: &String| name == "spans" || name == "disk";
        let mut words = rest.keys();
        if kind == "done"
            && state.is_none()
            && let Some(what) = words.find(|w| !is_known(w))
        {
            return Err(newer(format!("answer {what}")));
        }
        serde_json::from_slice(payload).map_err(malformed)
    }
}

/// A VMM's state, as its agent saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// The state.
    pub state: VmmState,
    /// Its observation number (rule 10).
    pub observation: u64,
}

/// What a command that is done came to, by what it was about. A VMM's is written as releases do
/// that know no other; another's has a key of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The VMM is in this state.
    Vmm(Seen),
    /// The disk is like this.
    Disk {
        /// What is there.
        disk: DiskSeen,
    },
}

/// A disk, as an agent left it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DiskSeen {
    /// Its size in bytes; 0: it is gone.
    pub bytes: u64,
    /// The generation that may write to it.
    pub writer_generation: u64,
}

impl Answer {
    /// The VMM's state, if it is a VMM's.
    pub const fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Vmm(seen) => Some(seen),
            Self::Disk { .. } => None,
        }
    }
}

/// How a command ended, or that it has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// A sign of life, with what is being done. Droppable.
    Progress {
        /// The agent's step, for example `fetch_image`.
        doing: String,
        /// 0 to 100, where it is known.
        percent: Option<u8>,
    },
    /// Done.
    Done {
        /// What it came to.
        #[serde(flatten)]
        answer: Answer,
        /// How long each of the agent's steps took, in milliseconds, in order.
        #[serde(default)]
        spans: Vec<(String, u64)>,
    },
    /// Not done.
    Failed {
        /// What failed, why, and which knob to turn, in words for the user.
        message: String,
        /// The cause chain, for operators only.
        detail: String,
        /// Whether everything was undone, so that claims and addresses may be released (rule 1).
        undone: bool,
        /// Whether another host might do better.
        retry_elsewhere: bool,
        /// The state that a VMM is left in; `None` where it was about something else.
        #[serde(flatten)]
        seen: Option<Seen>,
    },
    /// A command with a higher sequence came first; this one was never begun, or given up.
    Superseded {
        /// The higher sequence.
        by: u64,
    },
    /// The envelope's epoch is not the host's.
    StaleEpoch {
        /// The host's epoch.
        current: u64,
    },
    /// Method or version unknown.
    Unsupported {
        /// Oldest version understood.
        min: u32,
        /// Newest version understood.
        max: u32,
    },
}

impl Outcome {
    /// The names on the wire of all that this build knows.
    pub const NAMES: &'static [&'static str] = &[
        "progress",
        "done",
        "failed",
        "superseded",
        "stale_epoch",
        "unsupported",
    ];

    /// Its name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Progress { .. } => "progress",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Superseded { .. } => "superseded",
            Self::StaleEpoch { .. } => "stale_epoch",
            Self::Unsupported { .. } => "unsupported",
        }
    }

    /// Done, with a VMM in that state.
    pub const fn done(state: VmmState, observation: u64) -> Self {
        Self::Done {
            answer: Answer::Vmm(Seen { state, observation }),
            spans: Vec::new(),
        }
    }

    /// The state that it tells of a VMM, if it tells one.
    pub const fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Done { answer, .. } => answer.seen(),
            Self::Failed { seen, .. } => seen.as_ref(),
            _ => None,
        }
    }

    /// Whether it is done, with a VMM in that state.
    pub fn is_done_in(&self, wanted: VmmState) -> bool {
        matches!(self, Self::Done { answer: Answer::Vmm(seen), .. } if seen.state == wanted)
    }

    /// Whether this ends the command. Progress does not.
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Progress { .. })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(outcome: serde_json::Value) -> Vec<u8> {
        let answer = serde_json::json!({
            "message_id": MessageId::from_u128(1), "operation_id": OperationId::from_u128(2),
            "step": "act", "attempt": 1, "host_id": HostId::from_u128(3), "host_epoch": 1,
            "vmm_id": VmmId::from_u128(4), "sequence": 1, "request_id": "req-x",
            "outcome": outcome,
        });
        serde_json::to_vec(&answer).unwrap()
    }

    const fn failed(seen: Option<Seen>) -> Outcome {
        Outcome::Failed {
            message: String::new(),
            detail: String::new(),
            undone: true,
            retry_elsewhere: true,
            seen,
        }
    }

    #[test]
    fn a_vmms_answer_is_written_as_releases_do_that_know_no_other() {
        let written = serde_json::to_value(Outcome::done(VmmState::Running, 7)).unwrap();
        let known = serde_json::json!({
            "outcome": "done", "state": "running", "observation": 7, "spans": [],
        });
        assert_eq!(written, known);
        let (state, observation) = (VmmState::Stopped, 8);
        let written = serde_json::to_value(failed(Some(Seen { state, observation }))).unwrap();
        assert_eq!(
            (&written["state"], &written["observation"]),
            (&"stopped".into(), &8.into())
        );
    }

    #[test]
    fn every_outcome_is_parsed_by_its_name() {
        let (state, observation) = (VmmState::Running, 1);
        for outcome in [
            Outcome::Progress {
                doing: "x".into(),
                percent: None,
            },
            Outcome::done(state, observation),
            Outcome::Done {
                answer: Answer::Disk {
                    disk: DiskSeen {
                        bytes: 1,
                        writer_generation: 2,
                    },
                },
                spans: vec![("make".into(), 3)],
            },
            failed(Some(Seen { state, observation })),
            failed(None),
            Outcome::Superseded { by: 2 },
            Outcome::StaleEpoch { current: 2 },
            Outcome::Unsupported { min: 1, max: 2 },
        ] {
            let value = serde_json::to_value(&outcome).unwrap();
            assert_eq!(value["outcome"], outcome.name());
            assert!(Outcome::NAMES.contains(&outcome.name()));
            let parsed = CommandResult::parse(&answer(value)).unwrap();
            assert_eq!(parsed.outcome, outcome);
        }
    }

    #[test]
    fn an_answer_in_newer_words_is_told_from_one_that_nobody_can_read() {
        let newer = [
            serde_json::json!({"outcome": "handed_over", "generation": 7}),
            serde_json::json!({"outcome": "done", "state": "incoming", "observation": 3}),
            serde_json::json!({"outcome": "done", "share": {"exports": 2}, "spans": []}),
        ];
        for outcome in newer {
            let error = CommandResult::parse(&answer(outcome)).unwrap_err();
            assert!(
                matches!(error, ResultError::Newer { message_id, .. } if message_id == MessageId::from_u128(1)),
                "{error}"
            );
        }
        let broken = answer(serde_json::json!({"outcome": "done"}));
        for payload in [&b"x"[..], b"{}", &broken] {
            let error = CommandResult::parse(payload).unwrap_err();
            assert!(matches!(error, ResultError::Malformed(_)), "{error}");
        }
    }
}
