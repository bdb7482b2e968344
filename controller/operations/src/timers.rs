//! Timers of operations: rows, so that they survive restarts.
//!
//! An operation with a timer is due when its earliest is (`operations.wake_at`); its kind is then
//! told by an event, in the transaction that removes the timer. Nothing is freed because one ran
//! out, unless its kind says so (PROTOCOL.md, rule 1).

use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::OperationId;

/// Sets a timer, or sets one of that name anew. `due_at` is Unix milliseconds.
///
/// # Errors
/// [`StoreError`]
pub async fn set(
    tx: &mut Tx,
    operation_id: OperationId,
    name: &str,
    due_at: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO timers (operation_id, name, due_at) VALUES ($1, $2, $3) \
         ON CONFLICT (operation_id, name) DO UPDATE SET due_at = EXCLUDED.due_at",
        params![operation_id, name, due_at],
    )
    .await?;
    Ok(())
}

/// Takes the earliest timer that has run out, if there is one.
///
/// # Errors
/// [`StoreError`]
pub async fn take(
    tx: &mut Tx,
    operation_id: OperationId,
    now: i64,
) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = tx
        .query_opt(
            "SELECT name FROM timers WHERE operation_id = $1 AND due_at <= $2 \
             ORDER BY due_at, name LIMIT 1",
            params![operation_id, now],
        )
        .await?;
    let Some((name,)) = row else { return Ok(None) };
    tx.execute(
        "DELETE FROM timers WHERE operation_id = $1 AND name = $2",
        params![operation_id, &name],
    )
    .await?;
    Ok(Some(name))
}

/// When the earliest timer of an operation runs out.
///
/// # Errors
/// [`StoreError`]
pub async fn earliest(tx: &mut Tx, operation_id: OperationId) -> Result<Option<i64>, StoreError> {
    let row: Option<(i64,)> = tx
        .query_opt(
            "SELECT due_at FROM timers WHERE operation_id = $1 ORDER BY due_at LIMIT 1",
            params![operation_id],
        )
        .await?;
    Ok(row.map(|(due_at,)| due_at))
}
