//! Open operations: those that lost their wake-up, or wait for a host that is forced down, get
//! one; those that are silent are reported; an instance that points at a closed one is let go.
//!
//! Exactly: an operation is stuck if it is running, waits for no time, and has no command that
//! waits for an answer. Running its step again is always safe.

use super::INTERVAL;
use crate::api::AppState;
use crate::fences;
use crate::params;
use crate::store::{StoreError, Tx};
use crate::workflow::Operation;

/// Milliseconds that an operation may stand between two transactions without being stuck.
const SETTLING_MS: i64 = 10_000;

pub(super) async fn reconcile(app: &AppState) -> Result<u64, StoreError> {
    let now = app.clock.now_millis();
    let woken = app
        .store
        .tx(|tx| {
            Box::pin(async move {
                // Usually done by the force-down itself; a newer controller may have made it.
                fences::wake_waiting(tx, now).await?;
                Ok::<_, StoreError>(wake(tx, now).await? + let_go(tx, now).await?)
            })
        })
        .await?;
    if woken > 0 {
        tracing::warn!(woken, "operations had lost their wake-up");
        app.wake.notify_one();
    }
    report_silent(app, now).await?;
    Ok(woken)
}

async fn wake(tx: &mut Tx, now: i64) -> Result<u64, StoreError> {
    let sql = format!(
        "UPDATE operations SET wake_at = $1 WHERE {} AND wake_at IS NULL \
         AND updated_at < $2 AND NOT EXISTS (SELECT 1 FROM outbox b WHERE b.operation_id = operations.id \
         AND b.step = operations.step AND b.attempt = operations.attempt AND b.result IS NULL)",
        Operation::is_ours()
    );
    tx.execute(&sql, params![now, now - SETTLING_MS]).await
}

/// Should never find one: an operation and its instance are closed in one transaction.
async fn let_go(tx: &mut Tx, now: i64) -> Result<u64, StoreError> {
    let freed = tx
        .execute(
            "UPDATE instances SET operation_id = NULL, task_state = NULL, updated_at = $1 \
             WHERE operation_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM operations o \
             WHERE o.id = instances.operation_id AND o.finished_at IS NULL)",
            params![now],
        )
        .await?;
    if freed > 0 {
        tracing::error!(
            freed,
            "instances held by closed operations were let go; report this"
        );
    }
    Ok(0)
}

/// Silence means unknown (rule 1): it is said once, and nothing is done about it.
async fn report_silent(app: &AppState, now: i64) -> Result<(), StoreError> {
    let limit = i64::from(app.control.silence_limit) * 1000;
    let window = i64::try_from(INTERVAL.as_millis()).unwrap_or(0);
    let rows = app
        .store
        .tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                tx.query(
                    "SELECT id, request_id, kind, step FROM operations WHERE state = 'running' \
                     AND wake_at IS NULL AND COALESCE(last_sign_at, updated_at) <= $1 \
                     AND COALESCE(last_sign_at, updated_at) > $2",
                    params![now - limit, now - limit - window],
                )
                .await
            })
        })
        .await?;
    for row in rows {
        tracing::warn!(
            request_id = row.text("request_id")?,
            operation_id = row.text("id")?,
            kind = row.text("kind")?,
            step = row.text("step")?,
            silence_s = app.control.silence_limit,
            "no sign of life from the agent; look at its host. Nothing is freed"
        );
    }
    Ok(())
}
