//! Fences: an administrator's word that a host is off, and what follows from it (PROTOCOL.md,
//! rules 4 and 8).
//!
//! Forcing a host down raises its epoch, and is recorded with who said so and when. While it
//! stands, no command is sent there, and what waits for that host's answer ends: a delete takes
//! its VMM away ([`lose`]), everything else fails with the fence's words. Nothing is given away
//! that nobody deletes: a host that comes back finds its other guests its own.
//!
//! What was taken away stays on the host's lost list, whether it is still forced down or not,
//! until the host itself has reported it removed.

use crate::Target;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{RequestContext, params, row, time};
use berth_controller_operations::{Kinds, Operation};
use berth_rpc_types::{HostId, VmmState};

/// Forces a host down. `false`: it is already, or there is no such host. After the commit, poke
/// the driver: what waits for the host is due.
///
/// # Errors
/// [`StoreError`]
pub async fn force_down(
    tx: &mut Tx,
    now: i64,
    kinds: &dyn Kinds,
    by: &RequestContext,
    host: HostId,
) -> Result<bool, StoreError> {
    let forced = tx
        .execute(
            "UPDATE hosts SET forced_down = 1, epoch = epoch + 1, updated_at = $1 \
             WHERE id = $2 AND forced_down = 0",
            params![now, host],
        )
        .await?;
    if forced == 0 {
        return Ok(false);
    }
    tx.execute(
        "INSERT INTO fences (host_id, epoch, user_id, request_id, created_at) \
         SELECT id, epoch, $1, $2, $3 FROM hosts WHERE id = $4",
        params![&by.user_id, &by.request_id, now, host],
    )
    .await?;
    wake_waiting(tx, kinds, now).await?;
    tracing::warn!(request_id = %by.request_id, user_id = %by.user_id, host_id = %host, "a host was forced down");
    Ok(true)
}

/// Takes a force-down back. What it gave away stays away.
///
/// # Errors
/// [`StoreError`]
pub async fn lift(
    tx: &mut Tx,
    now: i64,
    by: &RequestContext,
    host: HostId,
) -> Result<bool, StoreError> {
    let lifted = tx
        .execute(
            "UPDATE hosts SET forced_down = 0, updated_at = $1 WHERE id = $2 AND forced_down = 1",
            params![now, host],
        )
        .await?;
    if lifted == 0 {
        return Ok(false);
    }
    tx.execute(
        "UPDATE fences SET lifted_user_id = $1, lifted_request_id = $2, lifted_at = $3 \
         WHERE host_id = $4 AND lifted_at IS NULL",
        params![&by.user_id, &by.request_id, now, host],
    )
    .await?;
    tracing::warn!(request_id = %by.request_id, user_id = %by.user_id, host_id = %host, "a force-down was taken back");
    Ok(true)
}

/// Wakes every operation that waits for the answer of a host that is forced down: it will not
/// come. How many.
///
/// # Errors
/// [`StoreError`]
pub async fn wake_waiting(tx: &mut Tx, kinds: &dyn Kinds, now: i64) -> Result<u64, StoreError> {
    let sql = format!(
        "UPDATE operations SET wake_at = $1 WHERE {} AND (wake_at IS NULL OR wake_at > $1) \
         AND EXISTS (SELECT 1 FROM outbox b JOIN hosts h ON h.id = b.host_id \
         WHERE b.operation_id = operations.id AND b.step = operations.step \
         AND b.attempt = operations.attempt AND b.result IS NULL AND h.forced_down = 1)",
        Operation::is_ours(kinds)
    );
    tx.execute(&sql, params![now]).await
}

/// A fence that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Which host, and since when: a sentence for users.
    pub why: String,
    /// Who said so: for operators.
    pub who: String,
}

row! {
    struct Standing {
        hostname: String,
        user_id: Option<String>,
        request_id: Option<String>,
        created_at: Option<i64>,
    }
}

/// The fence of a host, if it is forced down.
///
/// # Errors
/// [`StoreError`]
pub async fn standing(tx: &mut Tx, host: HostId) -> Result<Option<Fence>, StoreError> {
    let found: Option<Standing> = tx
        .query_opt(
            "SELECT h.hostname, f.user_id, f.request_id, f.created_at FROM hosts h \
             LEFT JOIN fences f ON f.host_id = h.id AND f.lifted_at IS NULL \
             WHERE h.id = $1 AND h.forced_down = 1 ORDER BY f.epoch DESC LIMIT 1",
            params![host],
        )
        .await?;
    let Some(found) = found else {
        return Ok(None);
    };
    let hostname = found.hostname;
    Ok(Some(match found.created_at {
        Some(at) => Fence {
            why: format!(
                "Host {hostname} was forced down by an administrator at {}.",
                time::seconds(at)
            ),
            who: format!(
                "forced down by user {}, request {}",
                found.user_id.unwrap_or_default(),
                found.request_id.unwrap_or_default()
            ),
        },
        // By a release that did not record it.
        None => Fence {
            why: format!("Host {hostname} is forced down."),
            who: "who forced it down was not recorded".into(),
        },
    }))
}

/// Takes a VMM away from its host, which is fenced: it goes on the host's lost list. What it held is
/// the caller's to give back, in the same transaction. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn lose(tx: &mut Tx, now: i64, target: Target) -> Result<(), StoreError> {
    // One that its host has reported removed is not to be removed again.
    tx.execute(
        "UPDATE vmms SET lost_at = $1, lost_epoch = (SELECT epoch FROM hosts WHERE id = $2), \
         removed_at = CASE WHEN state = $3 THEN $1 END WHERE id = $4 AND lost_at IS NULL",
        params![
            now,
            target.host_id,
            VmmState::Deleted.as_str(),
            target.vmm_id
        ],
    )
    .await?;
    tracing::warn!(host_id = %target.host_id, vmm_id = %target.vmm_id, "taken away from a host that was forced down");
    Ok(())
}
