//! An instance that points at a closed operation is let go.
//!
//! Should never find one: an operation and its instance are closed in one transaction.

use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, params};

/// One round.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(app: &AppState) -> Result<u64, StoreError> {
    let now = app.clock.now_millis();
    app.store
        .tx(|tx| Box::pin(async move { let_go(tx, now).await }))
        .await
}

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
    Ok(freed)
}
