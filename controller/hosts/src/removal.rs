//! The removal of a host that has nothing any more: its hostname is free for another one.
//!
//! Its credentials go with its row, so that its agent is let in no more. What it was, and its epoch,
//! are kept ([`crate::join`]): should it join again, it finds a higher one. Its lost list is kept, too:
//! those are rows of guests. What was held for guests that no server has is let go of; whatever the host
//! said of itself, it says again should it join again.

use crate::{Observer, strays};
use berth_controller_core::params;
use berth_controller_core::store::{AsStoreError, StoreError, Tx};
use berth_rpc_types::HostId;

/// Why a host is not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// There is no such host.
    #[error("there is no host {0}")]
    Unknown(HostId),
    /// A claim of it is held, or a command for it has not ended.
    #[error("host {0} has servers, or something is under way there")]
    InUse(HostId),
    /// It has guests that no server has.
    #[error("host {0} has guests that no server has, and is not forced down")]
    HasStrays(HostId),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AsStoreError for RemovalError {
    fn as_store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Removes a host.
///
/// # Errors
/// [`RemovalError`]
pub async fn remove(
    tx: &mut Tx,
    now: i64,
    observer: &dyn Observer,
    host_id: HostId,
) -> Result<(), RemovalError> {
    let row: Option<(bool, i64, i64)> = tx
        .query_opt(
            "SELECT forced_down, \
             (SELECT COUNT(*) FROM vmms WHERE host_id = $1 AND deleted_at IS NULL) \
             + (SELECT COUNT(*) FROM claims c WHERE c.host_id = $1 AND NOT EXISTS (SELECT 1 \
             FROM stray_guests g WHERE g.vmm_id = c.vmm_id AND g.host_id = $1)) \
             + (SELECT COUNT(*) FROM outbox WHERE host_id = $1 AND result IS NULL), \
             (SELECT COUNT(*) FROM strays WHERE host_id = $1) FROM hosts WHERE id = $1",
            params![host_id],
        )
        .await?;
    let (forced_down, held, strays) = row.ok_or(RemovalError::Unknown(host_id))?;
    if held > 0 {
        return Err(RemovalError::InUse(host_id));
    }
    if strays > 0 && !forced_down {
        return Err(RemovalError::HasStrays(host_id));
    }
    tx.execute(
        "INSERT INTO retired_hosts (host_id, service_id, hostname, epoch, retired_at) \
         SELECT id, service_id, hostname, epoch, $1 FROM hosts WHERE id = $2 \
         ON CONFLICT (host_id) DO UPDATE SET service_id = excluded.service_id, \
         hostname = excluded.hostname, epoch = excluded.epoch, retired_at = excluded.retired_at",
        params![now, host_id],
    )
    .await?;
    strays::let_go_of_all(tx, observer, host_id).await?;
    for sql in [
        "DELETE FROM refusals WHERE host_id = $1",
        "DELETE FROM host_timelines WHERE host_id = $1",
        "DELETE FROM agent_starts WHERE host_id = $1",
        "DELETE FROM host_accounts WHERE host_id = $1",
        "DELETE FROM host_keys WHERE host_id = $1",
        "DELETE FROM hosts WHERE id = $1",
    ] {
        tx.execute(sql, params![host_id]).await?;
    }
    tracing::warn!(%host_id, "a host was removed");
    Ok(())
}
