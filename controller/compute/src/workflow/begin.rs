//! How an operation starts: in the request's own transaction, or not at all.
//!
//! Guarantees that an instance has at most one open operation: `instances.operation_id` is
//! taken by a conditional UPDATE. Only a delete may take it from another, which then has ended.

use super::{InstanceKinds, Kind};
use axum::http::StatusCode;
use berth_controller_core::store::{AsStoreError, StoreError, Tx};
use berth_controller_core::{ApiError, Env, Origin, Service, params};
use berth_controller_operations::{New, Opened, Operation, Signal, Signalled, signal};
use berth_rpc_types::{InstanceId, OperationId, Stored, TaskState};
use serde_json::Value;

/// What to begin.
#[derive(Clone, Copy, Debug)]
pub struct Begin<'a> {
    /// What is to be done.
    pub kind: Kind,
    /// To what.
    pub instance_id: InstanceId,
    /// Who asked, under which request id.
    pub origin: &'a Origin,
    /// See [`Kind`]; `{}` if there is nothing to say.
    pub params: &'a Value,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Another operation is open.
    #[error("instance {instance_id} is busy: task_state {}", task_state.map_or("none", TaskState::as_str))]
    Busy {
        /// The instance.
        instance_id: InstanceId,
        /// What is being done to it.
        task_state: Option<TaskState>,
    },
    /// A newer controller's operation is open: what it holds is not known here, so that not even a
    /// delete may end it.
    #[error(
        "instance {instance_id} is busy with what only a newer controller knows ({what}): ask again when it is done, or of that controller"
    )]
    Newer {
        /// The instance.
        instance_id: InstanceId,
        /// The operation, in words.
        what: String,
    },
    /// What is under way cannot give way now.
    #[error("instance {instance_id} is busy: {why}")]
    CannotGiveWay {
        /// The instance.
        instance_id: InstanceId,
        /// In words.
        why: String,
    },
    /// No such instance, or it is gone.
    #[error("instance {0} could not be found")]
    NotFound(InstanceId),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AsStoreError for BeginError {
    fn as_store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<BeginError> for ApiError {
    fn from(error: BeginError) -> Self {
        let message = error.to_string();
        let status = match error {
            BeginError::Store(error) => return error.into(),
            BeginError::Busy { .. }
            | BeginError::Newer { .. }
            | BeginError::CannotGiveWay { .. } => StatusCode::CONFLICT,
            BeginError::NotFound(_) => StatusCode::NOT_FOUND,
        };
        Self::new(Service::Compute, status, message)
    }
}

/// Begins an operation, in the caller's transaction. After the commit, poke the driver
/// (`app.wake.notify_one()`); it would find the operation without it, a little later.
///
/// The caller has checked the table of states in the same transaction. Beginning a delete while
/// a delete is open gives that one's id: the same thing is already being done.
///
/// # Errors
/// [`BeginError`]
pub async fn begin(tx: &mut Tx, env: &Env, begin: Begin<'_>) -> Result<OperationId, BeginError> {
    let Begin {
        kind,
        instance_id,
        origin,
        params: given,
    } = begin;
    let (open, task_state): (Option<OperationId>, Option<Stored<TaskState>>) = tx
        .query_opt(
            "SELECT operation_id, task_state FROM instances WHERE id = $1 AND deleted_at IS NULL",
            params![instance_id],
        )
        .await?
        .ok_or(BeginError::NotFound(instance_id))?;
    let now = env.now();
    let operation_id = env.operation_id();
    if let Some(open) = open {
        if kind != Kind::Delete {
            return Err(BeginError::Busy {
                instance_id,
                task_state: task_state.and_then(|state| state.known()),
            });
        }
        match Operation::open(tx, &InstanceKinds, open).await? {
            Opened::Ours(operation) if operation.kind == kind.as_str() => return Ok(open),
            Opened::Newer(what) => return Err(BeginError::Newer { instance_id, what }),
            Opened::Ours(_) => give_way(tx, env, instance_id, open, operation_id).await?,
            Opened::Closed => {}
        }
    }
    let task = kind.line(given).tasks.first();
    let taken = tx
        .execute(
            "UPDATE instances SET operation_id = $1, task_state = $2, updated_at = $3, \
             generation = generation + 1 WHERE id = $4 AND deleted_at IS NULL \
             AND (operation_id IS NULL OR operation_id = $5)",
            params![
                operation_id,
                task.map(|t| t.as_str()),
                now,
                instance_id,
                open
            ],
        )
        .await?;
    if taken == 0 {
        return Err(BeginError::Busy {
            instance_id,
            task_state: None,
        });
    }
    insert(tx, now, operation_id, begin).await?;
    tracing::info!(request_id = %origin.request_id, %operation_id, %instance_id, kind = kind.as_str(), "operation accepted");
    Ok(operation_id)
}

/// Begins the delete of what is left of an instance that is gone. No request asked for it, so it
/// gets an id of its own for the logs.
///
/// # Errors
/// [`StoreError`]
pub async fn reap(tx: &mut Tx, env: &Env, instance_id: InstanceId) -> Result<(), StoreError> {
    let origin = Origin {
        request_id: format!("req-{}", env.uuid()),
        ..Origin::default()
    };
    let wanted = Begin {
        kind: Kind::Delete,
        instance_id,
        origin: &origin,
        params: &Value::Null,
    };
    insert(tx, env.now(), env.operation_id(), wanted).await
}

async fn insert(
    tx: &mut Tx,
    now: i64,
    operation_id: OperationId,
    begin: Begin<'_>,
) -> Result<(), StoreError> {
    let kind = begin.kind;
    let new = New {
        id: operation_id,
        kind: kind.as_str(),
        version: kind.machine().version,
        step: kind.machine().first(),
        subject: begin.instance_id.into(),
        origin: begin.origin,
        given: begin.params,
    };
    Operation::insert(tx, now, new).await
}

/// Has the open operation give way to a delete. Its commands are not sent again: the delete's has
/// a higher sequence, and an agent that gets an older one later answers it `superseded` (rule 3).
/// What it claimed stays claimed until the delete is answered (rule 1).
async fn give_way(
    tx: &mut Tx,
    env: &Env,
    instance_id: InstanceId,
    open: OperationId,
    by: OperationId,
) -> Result<(), BeginError> {
    match signal(tx, &InstanceKinds, env, open, Signal::Delete { by }).await? {
        Signalled::Taken | Signalled::Over => Ok(()),
        Signalled::Refused(why) => Err(BeginError::CannotGiveWay { instance_id, why }),
        Signalled::Newer(what) => Err(BeginError::Newer { instance_id, what }),
    }
}
