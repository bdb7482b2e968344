//! Guests that agents found and no server has (PROTOCOL.md, rule 5): left alone, and shown to operators.
//!
//! The agent is asked what they are to be; then what they have is held for them ([`Observer::found`]).

use crate::Observer;
use berth_controller_core::store::{Json, StoreError, Tx};
use berth_controller_core::{Env, params, row};
use berth_rpc_types::link::{StrayGuest, SyncRequest};
use berth_rpc_types::spec::VmmSpec;
use berth_rpc_types::{HostId, Observation, VmmId, VmmState};

/// How many an agent is asked about in one report: a specification has up to 90 KiB of user data.
const ASKED: i64 = 16;

row! {
    /// A guest that no server has.
    #[derive(Clone, Debug)]
    pub struct Stray {
        /// Which.
        pub vmm_id: VmmId,
        /// Where.
        pub host_id: HostId,
        /// Its host's name.
        pub hostname: String,
        /// The state last seen.
        pub state: String,
        /// The last sequence of its commands, as far as it is known.
        pub sequence: Option<u64>,
        /// What it is to be, if its agent knows.
        pub spec: Option<Json<VmmSpec>>,
    }
}

const STRAYS: &str = "SELECT s.vmm_id, s.host_id, h.hostname, s.state, g.sequence, g.spec FROM strays s \
    JOIN hosts h ON h.id = s.host_id \
    LEFT JOIN stray_guests g ON g.vmm_id = s.vmm_id AND g.host_id = s.host_id";

/// Every one.
///
/// # Errors
/// [`StoreError`]
pub async fn list(tx: &mut Tx) -> Result<Vec<Stray>, StoreError> {
    let sql = format!("{STRAYS} ORDER BY h.hostname, s.vmm_id");
    tx.query(&sql, &[]).await
}

/// One.
///
/// # Errors
/// [`StoreError`]
pub async fn find(tx: &mut Tx, vmm_id: VmmId) -> Result<Option<Stray>, StoreError> {
    let sql = format!("{STRAYS} WHERE s.vmm_id = $1 LIMIT 1");
    tx.query_opt(&sql, params![vmm_id]).await
}

/// It is none any more.
///
/// # Errors
/// [`StoreError`]
pub async fn forget(tx: &mut Tx, vmm_id: VmmId, host_id: HostId) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM strays WHERE vmm_id = $1 AND host_id = $2",
        "DELETE FROM stray_guests WHERE vmm_id = $1 AND host_id = $2",
    ] {
        tx.execute(sql, params![vmm_id, host_id]).await?;
    }
    Ok(())
}

/// A host saw a guest that this database does not know.
pub(crate) async fn seen(
    tx: &mut Tx,
    env: &Env,
    observer: &dyn Observer,
    host_id: HostId,
    seen: &Observation,
) -> Result<(), StoreError> {
    if seen.state == VmmState::Deleted {
        if let Some(stray) = find(tx, seen.vmm_id).await?
            && let Some(Json(spec)) = &stray.spec
        {
            observer.gone(tx, seen.vmm_id, host_id, spec).await?;
        }
        return forget(tx, seen.vmm_id, host_id).await;
    }
    tracing::warn!(%host_id, vmm_id = %seen.vmm_id, state = %seen.state, "a guest that nobody knows; left alone");
    tx.execute(
        "INSERT INTO strays (vmm_id, host_id, state, seen_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (vmm_id, host_id) DO UPDATE SET state = excluded.state, seen_at = excluded.seen_at",
        params![seen.vmm_id, host_id, seen.state.as_str(), env.now()],
    )
    .await?;
    Ok(())
}

/// What one that refuses this database has, and this database does not know: strays, should an operator
/// accept it. What they have is held at once, so that it is given to nobody meanwhile.
pub(crate) async fn seen_by_refusing(
    tx: &mut Tx,
    env: &Env,
    request: &SyncRequest,
) -> Result<(), StoreError> {
    let records = request.refusal.iter().flat_map(|refusal| &refusal.records);
    for record in records.filter(|record| !record.deleted) {
        tx.execute(
            "INSERT INTO strays (vmm_id, host_id, state, seen_at) SELECT $1, id, $2, $3 FROM hosts \
             WHERE id = $4 AND NOT EXISTS (SELECT 1 FROM vmms v WHERE v.id = $1) \
             ON CONFLICT (vmm_id, host_id) DO UPDATE SET state = excluded.state",
            params![
                record.vmm_id,
                record.state.as_str(),
                env.now(),
                request.host_id
            ],
        )
        .await?;
    }
    Ok(())
}

/// Notes what an agent says that guests are to be, of which this database does not know.
pub(crate) async fn note(tx: &mut Tx, now: i64, request: &SyncRequest) -> Result<(), StoreError> {
    for guest in &request.guests {
        let StrayGuest {
            vmm_id,
            sequence,
            spec,
        } = guest;
        tx.execute(
            "INSERT INTO stray_guests (vmm_id, host_id, sequence, spec, told_at) \
             SELECT $1, id, $2, $3, $4 FROM hosts WHERE id = $5 \
             AND NOT EXISTS (SELECT 1 FROM vmms v WHERE v.id = $1) \
             ON CONFLICT (vmm_id, host_id) DO UPDATE SET sequence = excluded.sequence, spec = excluded.spec",
            params![
                *vmm_id,
                *sequence,
                serde_json::to_value(spec).unwrap_or_default(),
                now,
                request.host_id
            ],
        )
        .await?;
    }
    Ok(())
}

/// Holds what the guests have that this report tells of.
pub(crate) async fn hold(
    tx: &mut Tx,
    env: &Env,
    observer: &dyn Observer,
    request: &SyncRequest,
) -> Result<(), StoreError> {
    for guest in &request.guests {
        let found = find(tx, guest.vmm_id).await?;
        if found.is_some_and(|stray| stray.host_id == request.host_id) {
            observer
                .found(tx, env, guest.vmm_id, request.host_id, &guest.spec)
                .await?;
        }
    }
    Ok(())
}

/// Strays of a host of which its agent is to say what they are to be.
pub(crate) async fn asked(tx: &mut Tx, host_id: HostId) -> Result<Vec<VmmId>, StoreError> {
    let rows: Vec<(VmmId,)> = tx
        .query(
            "SELECT s.vmm_id FROM strays s WHERE s.host_id = $1 AND NOT EXISTS (SELECT 1 FROM \
             stray_guests g WHERE g.vmm_id = s.vmm_id AND g.host_id = $1) LIMIT $2",
            params![host_id, ASKED],
        )
        .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Whether this database knows a guest, or what it is to be.
pub(crate) async fn is_settled(
    tx: &mut Tx,
    host_id: HostId,
    vmm_id: VmmId,
) -> Result<bool, StoreError> {
    let row: Option<(i64,)> = tx
        .query_opt(
            "SELECT (SELECT COUNT(*) FROM vmms WHERE id = $1) \
             + (SELECT COUNT(*) FROM stray_guests WHERE vmm_id = $1 AND host_id = $2) AS found",
            params![vmm_id, host_id],
        )
        .await?;
    Ok(row.is_some_and(|(found,)| found > 0))
}
