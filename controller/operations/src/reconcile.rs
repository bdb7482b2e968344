//! Open operations: those that lost their wake-up get one; those that are silent are reported. And
//! the answered commands of closed ones, which nobody asks for any more.
//!
//! Exactly: an operation is stuck if it is running, waits for no time, has no command that waits
//! for an answer, and no child that runs. Running its step again is always safe.

use crate::{Engine, Kinds, Operation};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, params, row};
use berth_rpc_types::OperationId;
use std::time::Duration;

/// Milliseconds that an operation may stand between two transactions without being stuck.
const SETTLING_MS: i64 = 10_000;

/// Milliseconds that an answered command is kept for those who look into what happened.
const KEPT_MS: i64 = 24 * 3_600_000;

/// One round, of which there is one every `interval`.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(engine: &Engine, interval: Duration) -> Result<u64, StoreError> {
    let app = &engine.app;
    let now = app.clock.now_millis();
    let woken = app
        .store
        .tx(|tx| {
            let kinds = engine.kinds.clone();
            Box::pin(async move { wake(tx, &*kinds, now).await })
        })
        .await?;
    if woken > 0 {
        tracing::warn!(woken, "operations had lost their wake-up");
        app.wake.notify_one();
    }
    report_silent(app, now, interval).await?;
    Ok(woken)
}

async fn wake(tx: &mut Tx, kinds: &dyn Kinds, now: i64) -> Result<u64, StoreError> {
    let sql = format!(
        "UPDATE operations SET wake_at = $1 WHERE {} AND wake_at IS NULL \
         AND (updated_at < $2 OR updated_at > $1) AND NOT EXISTS (SELECT 1 FROM outbox b WHERE b.operation_id = operations.id \
         AND b.step = operations.step AND b.attempt = operations.attempt AND b.result IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM children c JOIN operations o ON o.id = c.operation_id \
         WHERE c.parent_id = operations.id AND o.finished_at IS NULL)",
        Operation::is_ours(kinds)
    );
    tx.execute(&sql, params![now, now - SETTLING_MS]).await
}

row! {
    struct Silent {
        id: OperationId,
        request_id: String,
        kind: String,
        step: String,
    }
}

/// Silence means unknown (rule 1): it is said once, and nothing is done about it.
async fn report_silent(app: &AppState, now: i64, interval: Duration) -> Result<(), StoreError> {
    let limit = i64::from(app.control.silence_limit) * 1000;
    let window = i64::try_from(interval.as_millis()).unwrap_or(0);
    let silent: Vec<Silent> = app
        .store
        .tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                tx.query(
                    "SELECT id, request_id, kind, step FROM operations WHERE state = 'running' \
                     AND (wake_at IS NULL OR wake_at > $3) \
                     AND COALESCE(last_sign_at, updated_at) <= $1 \
                     AND COALESCE(last_sign_at, updated_at) > $2",
                    params![now - limit, now - limit - window, now],
                )
                .await
            })
        })
        .await?;
    for operation in silent {
        tracing::warn!(
            request_id = operation.request_id,
            operation_id = %operation.id,
            kind = operation.kind,
            step = operation.step,
            silence_s = app.control.silence_limit,
            "no sign of life from the agent; look at its host. Nothing is freed"
        );
    }
    Ok(())
}

/// Removes answered commands of closed operations. An answer that comes again after that folds away
/// as unknown.
///
/// # Errors
/// [`StoreError`]
pub async fn prune(app: &AppState) -> Result<u64, StoreError> {
    let before = app.clock.now_millis() - KEPT_MS;
    app.store
        .tx(|tx| {
            Box::pin(async move {
                // Of operations that a controller of the release before closed: it knew none.
                for (table, operation) in [
                    ("holds", "operation_id"),
                    ("timers", "operation_id"),
                    ("children", "parent_id"),
                ] {
                    let sql = format!(
                        "DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM operations o \
                         WHERE o.id = {table}.{operation} AND o.finished_at IS NULL)"
                    );
                    tx.execute(&sql, params![]).await?;
                }
                tx.execute(
                    "DELETE FROM outbox WHERE next_send_at IS NULL AND created_at < $1 \
                     AND NOT EXISTS (SELECT 1 FROM operations o \
                     WHERE o.id = outbox.operation_id AND o.finished_at IS NULL)",
                    params![before],
                )
                .await
            })
        })
        .await
}
