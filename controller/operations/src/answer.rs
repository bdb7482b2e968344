//! The end of a command, folded into its operation: once, by its message id, in one transaction
//! with all that it changes (PROTOCOL.md, rule 11).
//!
//! What a message was about, and whose answer it is to be, is the outbox's word: the answer's own
//! words are not trusted, and one from somebody else is not believed ([`Source`]). The end
//! of a command that its operation has left behind is an event too ([`Event::Late`]). A command
//! whose operation only a newer controller knows is left as it is ([`Advanced::Newer`]).

use crate::machine::{Event, Settled};
use crate::{Advanced, Engine, Opened, Operation, fold};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{params, row};
use berth_rpc::{Address, Sender};
use berth_rpc_types::{HostId, MessageId, OperationId, Stored, Subject, SubjectKind};
use uuid::Uuid;

row! {
    /// What a message was about.
    #[derive(Clone, Debug)]
    pub struct Asked {
        /// Whose it is.
        pub operation_id: OperationId,
        /// Who was to do it.
        pub host_id: HostId,
        subject_kind: Stored<SubjectKind>,
        vmm_id: Uuid,
        step: String,
        attempt: u32,
        command: String,
    }
}

impl Asked {
    /// What it was about.
    pub fn subject(&self) -> Subject {
        Subject {
            kind: self.subject_kind.clone(),
            id: self.vmm_id,
        }
    }
}

/// What a message was about; `None`: nobody remembers it.
///
/// # Errors
/// [`StoreError`]
pub async fn asked(tx: &mut Tx, message_id: MessageId) -> Result<Option<Asked>, StoreError> {
    tx.query_opt(
        "SELECT operation_id, host_id, subject_kind, vmm_id, step, attempt, command FROM outbox \
         WHERE message_id = $1",
        params![message_id],
    )
    .await
}

/// Who says how a command ended.
#[derive(Clone, Debug)]
pub enum Source {
    /// This controller itself.
    Own,
    /// A message, by the broker's word of its sender.
    Message(Sender),
    /// The broker: it was not taken from this queue, which only controllers write to.
    Queue(String),
}

impl Source {
    /// Whether what it says of this host's command is believed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn speaks_for(&self, tx: &mut Tx, host_id: HostId) -> Result<bool, StoreError> {
        match self {
            Self::Own => Ok(true),
            Self::Queue(queue) => Ok(*queue == Address::Agent(host_id).to_string()),
            Self::Message(Sender::Unnamed) => Ok(!has_account(tx, host_id).await?),
            Self::Message(sender) => Ok(sender.speaks_for(host_id, false)),
        }
    }
}

/// Whether the host has an account of its own at the broker: then all that it sends has its name.
async fn has_account(tx: &mut Tx, host_id: HostId) -> Result<bool, StoreError> {
    let sql = "SELECT since FROM host_accounts WHERE host_id = $1";
    let row = tx.query_opt::<(i64,)>(sql, params![host_id]).await?;
    Ok(row.is_some())
}

/// Marks a command as ended, and folds that into its operation: both or neither.
///
/// # Errors
/// [`StoreError`]
pub async fn answered(
    tx: &mut Tx,
    engine: &Engine,
    source: &Source,
    message_id: MessageId,
    settled: Settled,
) -> Result<Advanced, StoreError> {
    let kinds = &*engine.kinds;
    let Some(asked) = asked(tx, message_id).await? else {
        tracing::warn!(%message_id, "the end of a command that nobody remembers; folded away");
        return Ok(Advanced::Nothing);
    };
    if !source.speaks_for(tx, asked.host_id).await? {
        tracing::error!(%message_id, host_id = %asked.host_id, ?source, "not from the host that was to answer; dropped");
        return Ok(Advanced::Disbelieved);
    }
    let open = match Operation::open(tx, kinds, asked.operation_id).await? {
        Opened::Newer(_) => return Ok(Advanced::Newer),
        Opened::Ours(operation) => Some(operation),
        Opened::Closed => None,
    };
    if !settle(tx, message_id, &words(&settled)).await? {
        return Ok(Advanced::Nothing);
    }
    if let Settled::Outcome(outcome) = &settled {
        kinds.observe(tx, asked.subject(), outcome).await?;
    }
    let Some(operation) = open else {
        return Ok(Advanced::Nothing);
    };
    let command = asked.command;
    let event = if operation.step == asked.step && operation.attempt == asked.attempt {
        Event::Answer { command, settled }
    } else {
        Event::Late {
            step: asked.step,
            attempt: asked.attempt,
            command,
            settled,
        }
    };
    fold(tx, engine, asked.operation_id, event).await
}

/// What the outbox keeps of it, as JSON.
fn words(settled: &Settled) -> String {
    match settled {
        Settled::Outcome(outcome) => serde_json::to_string(outcome).unwrap_or_default(),
        Settled::Unroutable(_) => "\"unroutable\"".into(),
        Settled::DeadLetter(_) => "\"dead letter\"".into(),
    }
}

/// Marks a command as ended. `false`: it was already; this end of it folds away.
async fn settle(tx: &mut Tx, message_id: MessageId, result: &str) -> Result<bool, StoreError> {
    let settled = tx
        .execute(
            "UPDATE outbox SET result = $1, next_send_at = NULL \
             WHERE message_id = $2 AND result IS NULL",
            params![result, message_id],
        )
        .await?;
    Ok(settled == 1)
}
