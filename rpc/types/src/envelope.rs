//! What every command carries (PROTOCOL.md, "The envelope").
//!
//! The envelope is parsed before its body, so that a message of another version can be
//! answered with the range that is understood, and never becomes a dead letter.

use crate::{HostId, MessageId, OperationId, Subject, SubjectKind, VmmId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Oldest version of a method's body that this build understands.
pub const METHOD_VERSION_MIN: u32 = 1;
/// Newest version of a method's body that this build understands and sends.
pub const METHOD_VERSION_MAX: u32 = 1;

/// A command's outside. Unknown fields are kept out, not refused: a newer controller may add some.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Envelope {
    /// The same for every sending of the same step and attempt.
    pub message_id: MessageId,
    /// The operation that this step belongs to.
    pub operation_id: OperationId,
    /// The step's name in its workflow.
    pub step: String,
    /// Counts from 1; a new attempt has a new message id.
    pub attempt: u32,
    /// Tells the commands of one step apart; empty where there is one.
    #[serde(default)]
    pub command: String,
    /// The host this is meant for.
    pub host_id: HostId,
    /// The VMM this is about; the subject's id, if it is about something else.
    pub vmm_id: VmmId,
    /// What this is about; `None` from releases that know VMMs only.
    #[serde(default)]
    pub subject: Option<Subject>,
    /// Rises with each command for that subject; a lower one is answered `superseded` (rule 3).
    pub sequence: u64,
    /// The host's epoch as the controller knows it (rule 4).
    pub host_epoch: u64,
    /// Rises with each command to that host; drawn with its outbox row (rule 3). `None` from
    /// releases that draw none.
    #[serde(default)]
    pub host_number: Option<u64>,
    /// The timeline of the controller's database in which that number was drawn (rule 5): see
    /// [`crate::link::Timeline`]. `None` from releases that know none.
    #[serde(default)]
    pub timeline: Option<Uuid>,
    /// The lineage of the controller's database (rule 5); empty from releases that tell none.
    #[serde(default)]
    pub lineage: String,
    /// Unix milliseconds after which beginning is pointless. A hint, never a safety rule.
    #[serde(default)]
    pub begin_by: Option<i64>,
    /// Seconds without a sign of life after which the controller becomes suspicious.
    pub silence_limit: u32,
    /// The body's method, for example `vmm.build`.
    pub method: String,
    /// The body's version.
    pub version: u32,
    /// `req-<uuid>`: the REST request that all this is for; in every log line.
    pub request_id: String,
    /// W3C trace context, if the request had one.
    #[serde(default)]
    pub traceparent: Option<String>,
    /// The body, not yet parsed: see [`crate::Command::parse`].
    pub body: serde_json::Value,
}

impl Envelope {
    /// What this is about.
    pub fn subject(&self) -> Subject {
        let vmm = || Subject::new(SubjectKind::Vmm, self.vmm_id.0);
        self.subject.clone().unwrap_or_else(vmm)
    }
}
