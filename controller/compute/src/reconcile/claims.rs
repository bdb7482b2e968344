//! Claims equal what is, or may be, there: one whose VMM is closed is given back, one whose VMM
//! was never written down is removed, unless it is held for a guest that no server has.
//!
//! Both should never be found: a claim and its VMM's row are written and closed together.

use super::Window;
use crate::placement;
use berth_controller_core::store::StoreError;
use berth_controller_core::{AppState, params};
use berth_controller_hosts::Target;
use berth_rpc_types::{HostId, VmmId};

/// Whether the claim `c` is one that nobody has.
const NOBODYS: &str = "(NOT EXISTS (SELECT 1 FROM vmms v WHERE v.id = c.vmm_id AND v.deleted_at IS NULL) \
    AND NOT EXISTS (SELECT 1 FROM strays s WHERE s.vmm_id = c.vmm_id AND s.host_id = c.host_id))";

/// One round, over the claims of a window.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(app: &AppState, window: &mut Window) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT c.vmm_id, CASE WHEN {NOBODYS} THEN 1 ELSE 0 END AS is_nobodys FROM claims c \
         WHERE c.vmm_id > $1 ORDER BY c.vmm_id LIMIT $2"
    );
    let now = app.clock.now_millis();
    let given_back = window
        .mend(&app.store, &sql, |tx, found| {
            Box::pin(async move {
                let mut given_back = 0;
                for vmm_id in found {
                    let sql = format!(
                        "SELECT c.vmm_id, c.host_id FROM claims c WHERE c.vmm_id = $1 AND {NOBODYS}"
                    );
                    let claim: Option<(VmmId, HostId)> =
                        tx.query_opt(&sql, params![vmm_id]).await?;
                    if let Some((vmm_id, host_id)) = claim {
                        placement::give_back(tx, now, Target { vmm_id, host_id }).await?;
                        given_back += 1;
                    }
                }
                Ok(given_back)
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
