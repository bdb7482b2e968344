//! What raises a host's epoch but for a fence: its agent has another journal than the one that was last
//! seen, or the host has been off (PROTOCOL.md, rule 4).
//!
//! An agent with another journal (a new disk, or one that was restored) does not know what it was
//! ordered, and nobody knows what it does with what it has; what is under way is ordered anew, and its
//! observations, which it counts from a lower number, are taken for new. A host that has been off may
//! have been fenced by somebody of whom a restored database knows nothing.
//!
//! A restart of the agent is neither: it draws an id for each of its starts, keeps it before it tells
//! it, and says which one it knows to have been noted.

use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::HostId;
use berth_rpc_types::link::AgentStart;

/// Why an epoch rose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// The host has been off.
    Boot,
    /// Its agent has another journal.
    OtherJournal,
}

/// Notes an agent's start. Why the host's epoch rose by it, if it did.
///
/// # Errors
/// [`StoreError`]
pub async fn note(
    tx: &mut Tx,
    host_id: HostId,
    start: &AgentStart,
) -> Result<Option<Raised>, StoreError> {
    let noted: Option<(String, String)> = tx
        .query_opt(
            "SELECT start_id, boot_id FROM agent_starts WHERE host_id = $1",
            params![host_id],
        )
        .await?;
    let (id, previous) = (
        start.id.to_string(),
        start.previous.map(|id| id.to_string()),
    );
    let Some((noted, boot_id)) = noted else {
        // Its first, or the first that says so.
        tx.execute(
            "INSERT INTO agent_starts (host_id, start_id, boot_id) VALUES ($1, $2, $3)",
            params![host_id, id, &start.boot_id],
        )
        .await?;
        return Ok(None);
    };
    let is_known = noted == id || Some(&noted) == previous.as_ref();
    let is_off_and_on = boot_id != start.boot_id;
    if noted != id || is_off_and_on {
        tx.execute(
            "UPDATE agent_starts SET start_id = $1, boot_id = $2 WHERE host_id = $3",
            params![id, &start.boot_id, host_id],
        )
        .await?;
    }
    if is_known && !is_off_and_on {
        return Ok(None);
    }
    tx.execute(
        "UPDATE hosts SET epoch = epoch + 1 WHERE id = $1",
        params![host_id],
    )
    .await?;
    if is_known {
        tracing::info!(%host_id, "the host was off: its epoch rises");
        return Ok(Some(Raised::Boot));
    }
    tracing::warn!(%host_id, "its agent's journal is not the one that was last seen: its epoch rises");
    tx.execute(
        "UPDATE vmms SET observation = 0 WHERE host_id = $1 AND deleted_at IS NULL",
        params![host_id],
    )
    .await?;
    Ok(Some(Raised::OtherJournal))
}
