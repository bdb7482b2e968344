//! VMMs whose server is gone: each gets an explicit tombstone, by an ordinary delete.
//!
//! Exactly: a VMM that is not closed, whose instance is deleted or was never written down, and
//! for which no delete is open. Its claim stays until the agent has answered.

use crate::workflow;
use berth_controller_core::store::StoreError;
use berth_controller_core::{AppState, params};
use berth_rpc_types::InstanceId;

/// One round.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(app: &AppState) -> Result<u64, StoreError> {
    let env = app.env();
    let reaped = app
        .store
        .tx(|tx| {
            let env = env.clone();
            Box::pin(async move {
                let rows: Vec<(InstanceId,)> = tx
                    .query(
                        "SELECT DISTINCT v.instance_id FROM vmms v \
                         LEFT JOIN instances i ON i.id = v.instance_id \
                         WHERE v.deleted_at IS NULL AND (i.id IS NULL OR i.deleted_at IS NOT NULL) \
                         AND NOT EXISTS (SELECT 1 FROM operations o \
                         WHERE o.instance_id = v.instance_id AND o.finished_at IS NULL)",
                        params![],
                    )
                    .await?;
                for &(instance_id,) in &rows {
                    workflow::reap(tx, &env, instance_id).await?;
                }
                Ok::<_, StoreError>(u64::try_from(rows.len()).unwrap_or(0))
            })
        })
        .await?;
    if reaped > 0 {
        tracing::error!(
            reaped,
            "VMMs outlived their servers, and are removed; report this"
        );
        app.wake.notify_one();
    }
    Ok(reaped)
}
