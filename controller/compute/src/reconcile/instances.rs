//! An instance that points at a closed operation is let go.
//!
//! Should never find one: an operation and its instance are closed in one transaction.

use super::Window;
use berth_controller_core::store::StoreError;
use berth_controller_core::{AppState, params};

/// Whether the instance `i` is held by an operation that is over, or never was.
const HELD_BY_NOBODY: &str = "(i.operation_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM operations o \
    WHERE o.id = i.operation_id AND o.finished_at IS NULL))";

/// One round, over the instances of a window.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(app: &AppState, window: &mut Window) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT i.id, CASE WHEN {HELD_BY_NOBODY} THEN 1 ELSE 0 END AS is_held FROM instances i \
         WHERE i.id > $1 ORDER BY i.id LIMIT $2"
    );
    let now = app.clock.now_millis();
    let freed = window
        .mend(&app.store, &sql, |tx, found| {
            Box::pin(async move {
                let mut freed = 0;
                for id in found {
                    let sql = format!(
                        "UPDATE instances SET operation_id = NULL, task_state = NULL, updated_at = $1 \
                         WHERE id IN (SELECT i.id FROM instances i WHERE i.id = $2 AND {HELD_BY_NOBODY})"
                    );
                    freed += tx.execute(&sql, params![now, id]).await?;
                }
                Ok(freed)
            })
        })
        .await?;
    if freed > 0 {
        tracing::error!(
            freed,
            "instances held by closed operations were let go; report this"
        );
    }
    Ok(freed)
}
