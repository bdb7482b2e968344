//! Orders, and their results.

use crate::envelope::{METHOD_VERSION_MAX, METHOD_VERSION_MIN};
use crate::{Envelope, HostId, MessageId, OperationId, VmmId, VmmSpec, VmmState};
use serde::{Deserialize, Serialize};

/// An order about one VMM. Each is safe to carry out twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Command {
    /// `vmm.build`: make the guest and run it.
    Build(Box<VmmSpec>),
    /// `vmm.start`: run a stopped or crashed guest. Carries the spec, so that it can be made whole again.
    Start(Box<VmmSpec>),
    /// `vmm.stop`: ask the guest to power off; after `grace_s` seconds, end it.
    Stop {
        /// Seconds that the guest has; 0 ends it at once.
        grace_s: u32,
    },
    /// `vmm.reboot`
    Reboot {
        /// Soft: through the guest's power button and back; falls back to hard after `grace_s`.
        soft: bool,
        /// Seconds that the guest has before a soft reboot becomes a hard one.
        grace_s: u32,
    },
    /// `vmm.pause`
    Pause,
    /// `vmm.unpause`
    Unpause,
    /// `vmm.delete`: the tombstone (rule 5). Removes all that the VMM has on the host; pre-empts what runs.
    Delete,
}

impl Command {
    /// The method's name on the wire.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Build(_) => "vmm.build",
            Self::Start(_) => "vmm.start",
            Self::Stop { .. } => "vmm.stop",
            Self::Reboot { .. } => "vmm.reboot",
            Self::Pause => "vmm.pause",
            Self::Unpause => "vmm.unpause",
            Self::Delete => "vmm.delete",
        }
    }

    /// The body for [`Envelope::body`].
    pub fn body(&self) -> serde_json::Value {
        let value = match self {
            Self::Build(spec) | Self::Start(spec) => serde_json::to_value(spec),
            Self::Stop { grace_s } => Ok(serde_json::json!({ "grace_s": grace_s })),
            Self::Reboot { soft, grace_s } => {
                Ok(serde_json::json!({ "soft": soft, "grace_s": grace_s }))
            }
            Self::Pause | Self::Unpause | Self::Delete => Ok(serde_json::json!({})),
        };
        // The specs are plain structs with string keys: serialising them cannot fail.
        value.unwrap_or_default()
    }

    /// Whether it is about a VMM that has to be there: the others make it, or make sure of its end.
    pub fn needs_vmm(&self) -> bool {
        !matches!(self, Self::Build(_) | Self::Start(_) | Self::Delete)
    }

    /// Parses the body of an envelope.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] for an unknown method or version, naming the range that
    /// is understood; [`CommandError::BadBody`] for a body that does not fit its method.
    pub fn parse(envelope: &Envelope) -> Result<Self, CommandError> {
        #[derive(Deserialize)]
        struct Stop {
            grace_s: u32,
        }
        #[derive(Deserialize)]
        struct Reboot {
            soft: bool,
            grace_s: u32,
        }
        let unsupported = || CommandError::Unsupported {
            method: envelope.method.clone(),
            version: envelope.version,
            min: METHOD_VERSION_MIN,
            max: METHOD_VERSION_MAX,
        };
        if !(METHOD_VERSION_MIN..=METHOD_VERSION_MAX).contains(&envelope.version) {
            return Err(unsupported());
        }
        let bad = |source: serde_json::Error| CommandError::BadBody {
            method: envelope.method.clone(),
            reason: source.to_string(),
        };
        let body = envelope.body.clone();
        Ok(match envelope.method.as_str() {
            "vmm.build" => Self::Build(serde_json::from_value(body).map_err(bad)?),
            "vmm.start" => Self::Start(serde_json::from_value(body).map_err(bad)?),
            "vmm.stop" => {
                let Stop { grace_s } = serde_json::from_value(body).map_err(bad)?;
                Self::Stop { grace_s }
            }
            "vmm.reboot" => {
                let Reboot { soft, grace_s } = serde_json::from_value(body).map_err(bad)?;
                Self::Reboot { soft, grace_s }
            }
            "vmm.pause" => Self::Pause,
            "vmm.unpause" => Self::Unpause,
            "vmm.delete" => Self::Delete,
            _ => return Err(unsupported()),
        })
    }
}

/// Why an envelope is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Answered with [`Outcome::Unsupported`].
    #[error(
        "method {method} version {version} is not understood here; versions {min} to {max} of known methods are"
    )]
    Unsupported {
        /// The method asked for.
        method: String,
        /// The version asked for.
        version: u32,
        /// The oldest understood.
        min: u32,
        /// The newest understood.
        max: u32,
    },
    /// Answered with [`Outcome::Failed`].
    #[error("the body of {method} does not fit it: {reason}")]
    BadBody {
        /// The method.
        method: String,
        /// The parser's words.
        reason: String,
    },
}

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
        }
        let malformed = |error: serde_json::Error| ResultError::Malformed(error.to_string());
        let about: About = serde_json::from_slice(payload).map_err(malformed)?;
        let (kind, state) = (about.outcome.outcome, about.outcome.state);
        let newer = |what: String| ResultError::Newer {
            message_id: about.message_id,
            what,
        };
        if !Outcome::NAMES.contains(&kind.as_str()) {
            return Err(newer(format!("outcome {kind}")));
        }
        if let Some(state) = state.filter(|state| VmmState::parse(state).is_none()) {
            return Err(newer(format!("state {state}")));
        }
        serde_json::from_slice(payload).map_err(malformed)
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
    /// Done; the VMM is in this state.
    Done {
        /// State reached.
        state: VmmState,
        /// The observation number of that state (rule 10).
        observation: u64,
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
        /// State reached.
        state: VmmState,
        /// The observation number of that state.
        observation: u64,
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

    /// Whether this ends the command. Progress does not.
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Progress { .. })
    }
}

/// A question with an answer and no effect; travels by direct reply, and may be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "read", rename_all = "snake_case")]
pub enum Read {
    /// The last `lines` lines of a guest's serial console; all that is kept if `None`.
    ConsoleLog {
        /// The VMM.
        vmm_id: VmmId,
        /// Lines wanted from the end.
        lines: Option<u32>,
        /// The request this is for.
        request_id: String,
    },
}

/// The answer to a [`Read`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum ReadReply {
    /// The console's text (invalid UTF-8 replaced).
    ConsoleLog {
        /// The text.
        output: String,
    },
    /// Why not.
    Error {
        /// In words.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn envelope(command: &Command) -> Envelope {
        Envelope {
            message_id: MessageId::from_u128(1),
            operation_id: OperationId::from_u128(2),
            step: "stop".into(),
            attempt: 1,
            host_id: HostId::from_u128(3),
            vmm_id: VmmId::from_u128(4),
            sequence: 1,
            host_epoch: 1,
            begin_by: None,
            silence_limit: 60,
            method: command.method().into(),
            version: METHOD_VERSION_MAX,
            request_id: "req-x".into(),
            traceparent: None,
            body: command.body(),
        }
    }

    #[test]
    fn every_command_survives_the_wire() {
        for command in [
            Command::Stop { grace_s: 5 },
            Command::Reboot {
                soft: true,
                grace_s: 9,
            },
            Command::Pause,
            Command::Unpause,
            Command::Delete,
        ] {
            let json = serde_json::to_string(&envelope(&command)).unwrap();
            let back: Envelope = serde_json::from_str(&json).unwrap();
            assert_eq!(Command::parse(&back).unwrap(), command);
        }
    }

    #[test]
    fn an_unknown_method_or_version_names_the_range_that_is_understood() {
        let mut unknown = envelope(&Command::Pause);
        unknown.method = "vmm.fly".into();
        assert!(matches!(
            Command::parse(&unknown),
            Err(CommandError::Unsupported { min: 1, .. })
        ));
        let mut newer = envelope(&Command::Pause);
        newer.version = METHOD_VERSION_MAX + 1;
        assert!(matches!(
            Command::parse(&newer),
            Err(CommandError::Unsupported { .. })
        ));
    }

    fn answer(outcome: serde_json::Value) -> Vec<u8> {
        let answer = serde_json::json!({
            "message_id": MessageId::from_u128(1), "operation_id": OperationId::from_u128(2),
            "step": "act", "attempt": 1, "host_id": HostId::from_u128(3), "host_epoch": 1,
            "vmm_id": VmmId::from_u128(4), "sequence": 1, "request_id": "req-x",
            "outcome": outcome,
        });
        serde_json::to_vec(&answer).unwrap()
    }

    #[test]
    fn every_outcome_is_parsed_by_its_name() {
        let (state, observation) = (VmmState::Running, 1);
        for outcome in [
            Outcome::Progress {
                doing: "x".into(),
                percent: None,
            },
            Outcome::Done {
                state,
                observation,
                spans: vec![],
            },
            Outcome::Failed {
                message: String::new(),
                detail: String::new(),
                undone: true,
                retry_elsewhere: true,
                state,
                observation,
            },
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

    #[test]
    fn a_body_that_does_not_fit_is_refused_with_its_method() {
        let mut bad = envelope(&Command::Stop { grace_s: 1 });
        bad.body = serde_json::json!({});
        assert!(
            Command::parse(&bad)
                .unwrap_err()
                .to_string()
                .contains("vmm.stop")
        );
    }
}
