//! Guests that agents found and no server has (PROTOCOL.md, rule 5): left alone, and shown to operators.
//!
//! The agent is asked what they are to be; then what they have is held for them ([`Observer::found`]).

use crate::Observer;
use berth_controller_core::store::{Json, StoreError, Tx};
use berth_controller_core::{Env, params, row};
use berth_rpc_types::link::{StrayGuest, SyncRequest};
use berth_rpc_types::spec::VmmSpec;
use berth_rpc_types::{HostId, Observation, VmmId, VmmState};

/// How many are noted of a host: more than guests fit on one.
const LIMIT: i64 = 1000;
/// Ports, or disks, that a guest may have.
const PARTS: usize = 64;
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

/// A host's are none any more, and nothing is held for them: it is removed.
pub(crate) async fn let_go_of_all(
    tx: &mut Tx,
    observer: &dyn Observer,
    host_id: HostId,
) -> Result<(), StoreError> {
    let told: Vec<(VmmId, Json<VmmSpec>)> = tx
        .query(
            "SELECT vmm_id, spec FROM stray_guests WHERE host_id = $1",
            params![host_id],
        )
        .await?;
    for (vmm_id, Json(spec)) in told {
        observer.gone(tx, vmm_id, host_id, &spec).await?;
    }
    for sql in [
        "DELETE FROM strays WHERE host_id = $1",
        "DELETE FROM stray_guests WHERE host_id = $1",
    ] {
        tx.execute(sql, params![host_id]).await?;
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
    insert(tx, env.now(), host_id, seen.vmm_id, seen.state).await
}

/// Notes a stray, unless its host has so many that it makes them up.
async fn insert(
    tx: &mut Tx,
    now: i64,
    host_id: HostId,
    vmm_id: VmmId,
    state: VmmState,
) -> Result<(), StoreError> {
    let noted = tx
        .execute(
            "INSERT INTO strays (vmm_id, host_id, state, seen_at) SELECT $1, id, $2, $3 FROM hosts \
             WHERE id = $4 AND (SELECT COUNT(*) FROM strays WHERE host_id = $4) < $5 \
             AND NOT EXISTS (SELECT 1 FROM vmms v WHERE v.id = $1 AND v.host_id = $4) \
             ON CONFLICT (vmm_id, host_id) DO UPDATE SET state = excluded.state, \
             seen_at = excluded.seen_at",
            params![vmm_id, state.as_str(), now, host_id, LIMIT],
        )
        .await?;
    if noted == 0 {
        tracing::error!(%host_id, %vmm_id, "not noted as a stray: its host has {LIMIT}, or it is no stray");
    }
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
        if !is_known(tx, record.vmm_id).await? {
            insert(tx, env.now(), request.host_id, record.vmm_id, record.state).await?;
        }
    }
    Ok(())
}

/// Notes what an agent says that its strays are to be, and holds what they have. What it says of guests
/// that are none counts for nothing.
pub(crate) async fn told(
    tx: &mut Tx,
    env: &Env,
    observer: &dyn Observer,
    request: &SyncRequest,
) -> Result<(), StoreError> {
    for guest in &request.guests {
        let StrayGuest {
            vmm_id,
            sequence,
            spec,
        } = guest;
        if spec.ports.len().max(spec.disks.len()) > PARTS {
            tracing::error!(host_id = %request.host_id, %vmm_id, "a guest has more ports or disks than {PARTS}");
            continue;
        }
        let noted = tx
            .execute(
                "INSERT INTO stray_guests (vmm_id, host_id, sequence, spec, told_at) \
                 SELECT vmm_id, host_id, $1, $2, $3 FROM strays WHERE vmm_id = $4 AND host_id = $5 \
                 ON CONFLICT (vmm_id, host_id) DO UPDATE SET sequence = excluded.sequence, \
                 spec = excluded.spec",
                params![
                    *sequence,
                    serde_json::to_value(spec).unwrap_or_default(),
                    env.now(),
                    *vmm_id,
                    request.host_id
                ],
            )
            .await?;
        if noted > 0 {
            observer
                .found(tx, env, *vmm_id, request.host_id, spec)
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
    let sql = "SELECT vmm_id FROM stray_guests WHERE vmm_id = $1 AND host_id = $2";
    let told = tx
        .query_opt::<(VmmId,)>(sql, params![vmm_id, host_id])
        .await?;
    Ok(told.is_some() || is_known(tx, vmm_id).await?)
}

async fn is_known(tx: &mut Tx, vmm_id: VmmId) -> Result<bool, StoreError> {
    let sql = "SELECT id FROM vmms WHERE id = $1";
    let row = tx.query_opt::<(VmmId,)>(sql, params![vmm_id]).await?;
    Ok(row.is_some())
}
