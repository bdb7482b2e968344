//! Claims equal what is, or may be, there: one whose VMM is closed is given back, one whose VMM
//! was never written down is removed, unless it is held for a guest that no server has.
//!
//! Both should never be found: a claim and its VMM's row are written and closed together.

use crate::placement;
use berth_controller_core::store::StoreError;
use berth_controller_core::{AppState, params};
use berth_controller_hosts::Target;
use berth_rpc_types::{HostId, VmmId};

/// One round.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(app: &AppState) -> Result<u64, StoreError> {
    let now = app.clock.now_millis();
    let given_back = app
        .store
        .tx(|tx| {
            Box::pin(async move {
                let rows: Vec<(VmmId, HostId)> = tx
                    .query(
                        "SELECT c.vmm_id, c.host_id FROM claims c LEFT JOIN vmms v ON v.id = c.vmm_id \
                         WHERE (v.id IS NULL OR v.deleted_at IS NOT NULL) AND NOT EXISTS \
                         (SELECT 1 FROM strays s WHERE s.vmm_id = c.vmm_id AND s.host_id = c.host_id)",
                        params![],
                    )
                    .await?;
                for &(vmm_id, host_id) in &rows {
                    placement::give_back(tx, now, Target { vmm_id, host_id }).await?;
                }
                Ok::<_, StoreError>(u64::try_from(rows.len()).unwrap_or(0))
            })
        })
        .await?;
    if given_back > 0 {
        tracing::error!(
            given_back,
            "claims of closed VMMs were given back; report this"
        );
    }
    Ok(given_back)
}
