//! Orders, and questions.

use crate::envelope::{METHOD_VERSION_MAX, METHOD_VERSION_MIN};
use crate::{Envelope, VmmId, VmmSpec};
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

    /// Whether a command of this method lets a guest run that did not: it is the right to run that may
    /// have been given to another one since (rule 4).
    pub fn gives_a_right(method: &str) -> bool {
        matches!(
            method,
            "vmm.build" | "vmm.start" | "vmm.reboot" | "vmm.unpause"
        )
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
    /// Answered with [`crate::Outcome::Unsupported`].
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
    /// Answered with [`crate::Outcome::Failed`].
    #[error("the body of {method} does not fit it: {reason}")]
    BadBody {
        /// The method.
        method: String,
        /// The parser's words.
        reason: String,
    },
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
    use crate::{HostId, MessageId, OperationId};

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
            command: String::new(),
            subject: None,
            host_number: None,
            timeline: None,
            lineage: String::new(),
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
