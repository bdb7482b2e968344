//! The heartbeat: a host says what it has and what it saw; it learns its epoch, what it has
//! lost, and what it need not tell again.
//!
//! An observation is folded in only if it is newer than what is known, and no operation is open
//! on its instance (PROTOCOL.md, rule 10); until then it is not acknowledged, and told again. A
//! guest that nobody knows is noted, and never touched (rule 5). A database older than what the
//! agent has seen says so of itself (`refused`), and folds nothing in. A report without news is
//! answered by [`quiet`].

use crate::refusal::{self, Database, Verdict};
use crate::{Agents, Caller, Observer, broker, epoch, lineage, quiet, strays, timelines};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use berth_controller_core::agent::AgentError;
use berth_controller_core::heard::SHOWN_MS;
use berth_controller_core::store::{StoreError, Tx, Value};
use berth_controller_core::{AppState, Env, params, row};
use berth_controller_operations::outbox;
use berth_rpc::{Address, kill_point};
use berth_rpc_types::link::{Reported, SyncReply, SyncRequest};
use berth_rpc_types::{Capacity, HostId, InstanceId, Observation, VmmId, VmmState};
use std::sync::Arc;

/// `POST /agent/v1/sync`
pub(super) async fn sync(
    State(Agents { app, observer }): State<Agents>,
    Caller(host_id): Caller,
    Json(request): Json<SyncRequest<Reported>>,
) -> Result<Json<SyncReply>, AgentError> {
    if host_id != request.host_id {
        let why = format!("host {host_id} reports as {}", request.host_id);
        return Err(AgentError::Refused(StatusCode::FORBIDDEN, why));
    }
    let (request, newer) = request.understood();
    if !newer.is_empty() {
        let first = newer.first().map(ToString::to_string);
        tracing::warn!(%host_id, count = newer.len(), first, "states that only a newer controller knows; not acknowledged");
    }
    let quick = match newer.is_empty() {
        true => quiet::answer(&app.store, &request).await?,
        false => None,
    };
    let reply = match quick {
        Some(reply) => {
            app.heard.note(host_id);
            reply
        }
        None => folded_in(&app, &observer, &request).await?,
    };
    Ok(Json(SyncReply {
        report_every_s: app.control.report_every(app.heard.hosts()),
        ..reply
    }))
}

/// Folds a report in that has news, or that newer words leave in doubt.
async fn folded_in(
    app: &AppState,
    observer: &Arc<dyn Observer>,
    request: &SyncRequest,
) -> Result<SyncReply, AgentError> {
    if request.starting {
        // Before it consumes: a broker that lost its queues has this one again.
        drop(app.transport.declare(Address::Agent(request.host_id)).await);
    }
    let env = app.env();
    let reply = app
        .store
        .tx(|tx| {
            let (env, request, observer) = (env.clone(), request.clone(), observer.clone());
            Box::pin(async move { fold(tx, &env, &*observer, &request).await })
        })
        .await?;
    kill_point!("controller.sync.committed");
    // Something may be to do: a stop of what runs and should not.
    app.wake.notify_one();
    Ok(reply)
}

row! {
    /// What was known of a host before its report.
    struct Known {
        epoch: u64,
        network_revision: u64,
        capacity: String,
        address: String,
        agent_version: String,
        last_seen_at: i64,
    }
}

/// Folds a report in, and answers it.
///
/// # Errors
/// [`StoreError`]
pub async fn fold(
    tx: &mut Tx,
    env: &Env,
    observer: &dyn Observer,
    request: &SyncRequest,
) -> Result<SyncReply, StoreError> {
    let host_id = request.host_id;
    let known: Known = tx
        .query_opt(
            "SELECT epoch, network_revision, capacity, address, agent_version, last_seen_at \
             FROM hosts WHERE id = $1",
            params![host_id],
        )
        .await?
        .ok_or_else(|| StoreError::Malformed {
            table: "hosts".into(),
            column: "id".into(),
            reason: format!("{host_id} is gone"),
        })?;
    let (lineage, counter) = lineage::read(tx).await?;
    let epoch = known.epoch;
    let mut reply = SyncReply {
        epoch,
        lost: vec![],
        acknowledged: vec![],
        lineage_counter: counter,
        network_revision: known.network_revision,
        forget: vec![],
        numbers: None,
        timelines: vec![],
        tell: vec![],
        follows: None,
        refused: None,
        report_every_s: 0,
        lineage,
    };
    let numbers = outbox::numbers(tx, host_id).await?;
    reply.timelines = timelines::told(tx, host_id, numbers.watermark).await?;
    let database = Database {
        lineage: &reply.lineage,
        counter,
        epoch,
    };
    match refusal::judge(tx, &database, request).await? {
        Verdict::Refuse(why) => {
            tracing::error!(%host_id, why, "this database is refused by a host");
            refusal::note(tx, env.now(), request, &why).await?;
            strays::seen_by_refusing(tx, env, request).await?;
            strays::told(tx, env, observer, request).await?;
            reply.tell = strays::asked(tx, host_id).await?;
            reply.refused = Some(why);
            return Ok(reply);
        }
        Verdict::Obey { follows } => reply.follows = follows,
    }
    reply.numbers = Some(numbers);
    seen(tx, env.now(), request, &known).await?;
    if let Some(start) = &request.start {
        let raised = epoch::note(tx, host_id, start).await?;
        reply.epoch += u64::from(raised.is_some());
        if raised == Some(epoch::Raised::OtherJournal) && request.starting {
            missing(tx, env, observer, request).await?;
        }
    }
    if request.starting && !request.knows_accounts {
        broker::has_none(tx, host_id).await?;
    }
    for observation in &request.observations {
        if observed(tx, env, observer, host_id, observation).await? {
            let seen = (observation.vmm_id, observation.observation);
            reply.acknowledged.push(seen);
        }
    }
    strays::told(tx, env, observer, request).await?;
    reply.tell = strays::asked(tx, host_id).await?;
    // Until the host itself says that it has removed them: that is no request's end.
    reply.lost = vmms(
        tx,
        "SELECT id FROM vmms WHERE host_id = $1 AND lost_at IS NOT NULL AND removed_at IS NULL",
        params![host_id],
    )
    .await?;
    if let Some(newest) = timelines::newest(tx).await? {
        refusal::obeyed(tx, request, &newest, numbers.watermark).await?;
    }
    Ok(reply)
}

async fn seen(
    tx: &mut Tx,
    now: i64,
    request: &SyncRequest,
    known: &Known,
) -> Result<(), StoreError> {
    let host_id = request.host_id;
    tx.execute(
        "INSERT INTO host_beats (host_id, beat, seen_at, copied) SELECT $1, beat, $2, $2 FROM beats \
         WHERE id = 1 ON CONFLICT (host_id) DO UPDATE SET beat = excluded.beat, \
         seen_at = excluded.seen_at",
        params![host_id, now],
    )
    .await?;
    let capacity = quiet::capacity(request);
    // A controller of the release before looks at the host's row.
    let is_due = now.abs_diff(known.last_seen_at) > SHOWN_MS;
    let is_new = known.capacity != capacity
        || known.address != request.address
        || known.agent_version != request.version;
    if !is_new && !is_due {
        return Ok(());
    }
    let before: Capacity = serde_json::from_str(&known.capacity).unwrap_or_default();
    tx.execute(
        "UPDATE hosts SET last_seen_at = $1, address = $2, agent_version = $3, capacity = $4, \
         generation = generation + $5, updated_at = $1 WHERE id = $6",
        params![
            now,
            &request.address,
            &request.version,
            capacity,
            i64::from(inventory(&before) != inventory(&request.capacity)),
            host_id
        ],
    )
    .await?;
    let sql = "UPDATE host_beats SET copied = $1 WHERE host_id = $2";
    tx.execute(sql, params![now, host_id]).await?;
    Ok(())
}

/// What of a host's capacity is claimed: only a change of that is a change of its generation, and not
/// that a disk fills.
fn inventory(capacity: &Capacity) -> Capacity {
    Capacity {
        disk_free_gib: 0,
        io_operations: 0,
        ..capacity.clone()
    }
}

async fn vmms(tx: &mut Tx, sql: &str, params: &[Value]) -> Result<Vec<VmmId>, StoreError> {
    let rows = tx.query::<(VmmId,)>(sql, params).await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Folds one observation in, if it may be. Whether the agent need not tell it again.
async fn observed(
    tx: &mut Tx,
    env: &Env,
    observer: &dyn Observer,
    host_id: HostId,
    seen: &Observation,
) -> Result<bool, StoreError> {
    let row = tx
        .query_opt::<(InstanceId, u64, Option<i64>)>(
            "SELECT instance_id, observation, deleted_at FROM vmms WHERE id = $1 AND host_id = $2",
            params![seen.vmm_id, host_id],
        )
        .await?;
    let Some((instance_id, known, deleted_at)) = row else {
        strays::seen(tx, env, observer, host_id, seen).await?;
        return Ok(true);
    };
    if seen.state == VmmState::Deleted {
        tx.execute(
            "UPDATE vmms SET removed_at = $1 \
             WHERE id = $2 AND lost_at IS NOT NULL AND removed_at IS NULL",
            params![env.now(), seen.vmm_id],
        )
        .await?;
    }
    if deleted_at.is_some() && seen.state != VmmState::Deleted {
        lose_again(tx, env.now(), host_id, seen).await?;
    }
    if deleted_at.is_some() || seen.observation <= known {
        return Ok(true);
    }
    observer.observed(tx, env, instance_id, seen).await
}

/// An agent with another journal says all that its host has. What it does not name is not there any more:
/// that is told, and nothing is given back.
async fn missing(
    tx: &mut Tx,
    env: &Env,
    observer: &dyn Observer,
    request: &SyncRequest,
) -> Result<(), StoreError> {
    let rows: Vec<(VmmId, InstanceId)> = tx
        .query(
            "SELECT id, instance_id FROM vmms WHERE host_id = $1 AND deleted_at IS NULL",
            params![request.host_id],
        )
        .await?;
    for (vmm_id, instance_id) in rows {
        if request
            .observations
            .iter()
            .any(|seen| seen.vmm_id == vmm_id)
        {
            continue;
        }
        let gone = Observation {
            vmm_id,
            observation: 0,
            state: VmmState::Deleted,
            error: None,
        };
        // What is under way there finds out by itself.
        observer.observed(tx, env, instance_id, &gone).await?;
    }
    Ok(())
}

/// A guest that was deleted is there again: its host's disk was restored. Its row is its tombstone, which
/// the host is told until it has removed it. A report that was on its way when the guest was deleted
/// comes here, too, and costs its host one more look.
async fn lose_again(
    tx: &mut Tx,
    now: i64,
    host_id: HostId,
    seen: &Observation,
) -> Result<(), StoreError> {
    let told = tx
        .execute(
            "UPDATE vmms SET lost_at = COALESCE(lost_at, $1), removed_at = NULL, \
             lost_epoch = COALESCE(lost_epoch, (SELECT epoch FROM hosts WHERE id = $2)) \
             WHERE id = $3 AND (lost_at IS NULL OR removed_at IS NOT NULL)",
            params![now, host_id, seen.vmm_id],
        )
        .await?;
    if told > 0 {
        tracing::warn!(%host_id, vmm_id = %seen.vmm_id, state = %seen.state,
            "a guest that was deleted is there; its host is told to remove it");
    }
    Ok(())
}
