//! What `os-instance-actions` remembers: one row a request, with its events in order.
//!
//! A row is inserted in the transaction of the request it is about, so that an accepted
//! request is always in the list; events are folded in by the workflow's own transactions.

use berth_controller_core::store::{FromRow, Json, Row, StoreError, Tx};
use berth_controller_core::{Origin, params};
use berth_rpc_types::{InstanceId, OperationId};
use serde::{Deserialize, Serialize};

/// One event of an action: a step as Nova names it (`compute__do_build_and_run_instance`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub event: String,
    /// Unix milliseconds.
    pub start_time: i64,
    /// Unix milliseconds; `None` while it goes on.
    pub finish_time: Option<i64>,
    /// `Success` or `Error`; `None` while it goes on.
    pub result: Option<String>,
    /// Host that did it.
    #[serde(default)]
    pub host: Option<String>,
    /// What went wrong.
    #[serde(default)]
    pub details: Option<String>,
}

/// One action.
#[derive(Clone, Debug)]
pub struct ActionRow {
    /// `create`, `stop` and so on.
    pub action: String,
    /// The instance.
    pub instance_id: InstanceId,
    /// The request.
    pub request_id: String,
    /// Who asked.
    pub user_id: String,
    /// In which project.
    pub project_id: String,
    /// `Error`, if it failed.
    pub message: Option<String>,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
    /// In order.
    pub events: Vec<Event>,
}

impl FromRow for ActionRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            action: row.get("action")?,
            instance_id: row.get("instance_id")?,
            request_id: row.get("request_id")?,
            user_id: row.get("user_id")?,
            project_id: row.get("project_id")?,
            message: row.get("message")?,
            started_at: row.get("started_at")?,
            updated_at: row.get("updated_at")?,
            events: row.get::<Json<_>>("events")?.0,
        })
    }
}

/// Remembers that a request began an action.
///
/// # Errors
/// [`StoreError`]; a request acts on an instance once, so a repetition is a conflict.
pub async fn start(
    tx: &mut Tx,
    now: i64,
    instance_id: InstanceId,
    origin: &Origin,
    action: &str,
    operation_id: Option<OperationId>,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO instance_actions (request_id, instance_id, operation_id, action, project_id, \
         user_id, message, events, started_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, '[]', $8, $8)",
        params![
            &origin.request_id,
            instance_id,
            operation_id,
            action,
            &origin.project_id,
            &origin.user_id,
            None::<String>,
            now
        ],
    )
    .await?;
    Ok(())
}

/// Begins an event, or ends the open one of that name (`result` is `Success` or `Error`).
/// An end without a beginning is recorded as an event of no length: nothing is lost.
///
/// # Errors
/// [`StoreError`]. An unknown request is no error: its row may have been purged.
#[expect(clippy::too_many_arguments, reason = "one row's columns")]
pub async fn event(
    tx: &mut Tx,
    now: i64,
    instance_id: InstanceId,
    request_id: &str,
    name: &str,
    host: Option<&str>,
    result: Option<&str>,
    details: Option<&str>,
) -> Result<(), StoreError> {
    let Some(mut row) = get(tx, instance_id, request_id).await? else {
        return Ok(());
    };
    let open = row
        .events
        .iter_mut()
        .rev()
        .find(|e| e.event == name && e.finish_time.is_none());
    match (open, result) {
        (Some(open), Some(result)) => {
            open.finish_time = Some(now);
            open.result = Some(result.to_owned());
            open.host = host.map(str::to_owned).or_else(|| open.host.take());
            open.details = details.map(str::to_owned);
        }
        // Begun twice: the first beginning stands.
        (Some(_), None) => {}
        (None, result) => row.events.push(Event {
            event: name.to_owned(),
            start_time: now,
            finish_time: result.map(|_| now),
            result: result.map(str::to_owned),
            host: host.map(str::to_owned),
            details: details.map(str::to_owned),
        }),
    }
    let events = serde_json::to_value(&row.events).unwrap_or_default();
    tx.execute(
        "UPDATE instance_actions SET events = $1, updated_at = $2 \
         WHERE instance_id = $3 AND request_id = $4",
        params![events, now, instance_id, request_id],
    )
    .await?;
    Ok(())
}

/// Ends an action; `error` makes its message `Error`, as Nova does. Open events end with it.
///
/// # Errors
/// [`StoreError`]
pub async fn finish(
    tx: &mut Tx,
    now: i64,
    instance_id: InstanceId,
    request_id: &str,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let Some(mut row) = get(tx, instance_id, request_id).await? else {
        return Ok(());
    };
    for event in row.events.iter_mut().filter(|e| e.finish_time.is_none()) {
        event.finish_time = Some(now);
        event.result = Some(if error.is_some() { "Error" } else { "Success" }.to_owned());
        event.details = error.map(str::to_owned);
    }
    let events = serde_json::to_value(&row.events).unwrap_or_default();
    tx.execute(
        "UPDATE instance_actions SET events = $1, message = $2, updated_at = $3 \
         WHERE instance_id = $4 AND request_id = $5",
        params![events, error.map(|_| "Error"), now, instance_id, request_id],
    )
    .await?;
    Ok(())
}

/// One action, if there is one.
///
/// # Errors
/// [`StoreError`]
pub async fn get(
    tx: &mut Tx,
    instance_id: InstanceId,
    request_id: &str,
) -> Result<Option<ActionRow>, StoreError> {
    tx.query_opt(
        "SELECT * FROM instance_actions WHERE instance_id = $1 AND request_id = $2",
        params![instance_id, request_id],
    )
    .await
}

/// All actions of an instance, newest first.
///
/// # Errors
/// [`StoreError`]
pub async fn list(tx: &mut Tx, instance_id: InstanceId) -> Result<Vec<ActionRow>, StoreError> {
    tx.query(
        "SELECT * FROM instance_actions WHERE instance_id = $1 ORDER BY started_at DESC, request_id",
        params![instance_id],
    )
    .await
}
