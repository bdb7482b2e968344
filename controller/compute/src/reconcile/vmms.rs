//! VMMs whose server is gone: each gets an explicit tombstone, by an ordinary delete.
//!
//! Exactly: a VMM that is not closed, whose instance is deleted or was never written down, and
//! for which no delete is open. Its claim stays until the agent has answered.

use super::Window;
use crate::workflow;
use berth_controller_core::store::StoreError;
use berth_controller_core::{AppState, params};
use berth_rpc_types::InstanceId;
use std::collections::BTreeSet;

/// Whether the server of the VMM `v`, which is not closed, is gone, and nothing is done about it.
const OUTLIVED: &str = "(NOT EXISTS (SELECT 1 FROM instances i \
    WHERE i.id = v.instance_id AND i.deleted_at IS NULL) AND NOT EXISTS (SELECT 1 FROM operations o \
    WHERE o.instance_id = v.instance_id AND o.finished_at IS NULL))";

/// One round, over the VMMs of a window.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(app: &AppState, window: &mut Window) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT v.id, CASE WHEN {OUTLIVED} THEN 1 ELSE 0 END AS is_outlived FROM vmms v \
         WHERE v.id > $1 AND v.deleted_at IS NULL ORDER BY v.id LIMIT $2"
    );
    let env = app.env();
    let reaped = window
        .mend(&app.store, &sql, |tx, found| {
            let env = env.clone();
            Box::pin(async move {
                let mut of = BTreeSet::<InstanceId>::new();
                for vmm_id in found {
                    let sql = format!(
                        "SELECT v.instance_id FROM vmms v WHERE v.id = $1 AND v.deleted_at IS NULL \
                         AND {OUTLIVED}"
                    );
                    let outlived: Option<(InstanceId,)> =
                        tx.query_opt(&sql, params![vmm_id]).await?;
                    of.extend(outlived.map(|(id,)| id));
                }
                for instance_id in &of {
                    workflow::reap(tx, &env, *instance_id).await?;
                }
                Ok(u64::try_from(of.len()).unwrap_or(0))
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
