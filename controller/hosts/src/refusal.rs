//! Whether an agent may obey this database (PROTOCOL.md, rule 5): not one that is older than what the
//! agent has seen, and not another one, until an operator accepts it ([`crate::acceptance`]).
//!
//! What the agent knows is compared with what was noted when the timeline after its own began, and not
//! with what the rows say now: a restored database counts on. Those notes do not change while the
//! agent is where it is; so the answer does not, either, however long that takes.

use crate::timelines::{self, Begun};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{params, row};
use berth_rpc_types::HostId;
use berth_rpc_types::link::{HostNumbers, SyncRequest};

/// What comes of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The agent may go on.
    Obey {
        /// The lineage that it obeyed, if this one was put in its place.
        follows: Option<String>,
    },
    /// It may not: why.
    Refuse(String),
}

row! {
    /// What was noted of a host when a timeline began.
    struct Noted {
        counter: u64,
        epoch: u64,
        last: u64,
        watermark: u64,
    }
}

/// This database, as far as it matters here.
pub(crate) struct Database<'a> {
    pub lineage: &'a str,
    pub counter: u64,
    /// The host's epoch as it is now.
    pub epoch: u64,
}

/// What an operator can do.
const ACCEPT: &str =
    "Decide which is right; if it is this one, accept it (berth-controller lineage accept)";

/// Compares.
///
/// # Errors
/// [`StoreError`]
pub(crate) async fn judge(
    tx: &mut Tx,
    database: &Database<'_>,
    request: &SyncRequest,
) -> Result<Verdict, StoreError> {
    let Some(lineage) = &request.lineage else {
        // It has obeyed nobody.
        return Ok(Verdict::Obey { follows: None });
    };
    let follows = (lineage != database.lineage).then(|| lineage.clone());
    if follows.is_some() && !was_replaced(tx, database.lineage, lineage).await? {
        return Ok(Verdict::Refuse(format!(
            "this controller's database is {}, and this host has served {lineage}. {ACCEPT}",
            database.lineage
        )));
    }
    let obeyed = match request.timeline {
        Some(id) => timelines::find(tx, &id.to_string()).await?,
        None => None,
    };
    // Until the agent has followed: then it is compared as any other is.
    let accepted = accepted(tx, request.host_id).await?.filter(|accepted| {
        let has_followed = |obeyed: &Begun| obeyed.number >= *accepted;
        !obeyed.as_ref().is_some_and(has_followed)
    });
    let noted = match (accepted, &obeyed, request.timeline) {
        // The numbers were raised above what the host knows; what waits below its watermark is
        // ordered anew.
        (Some(timeline), ..) => at(tx, request.host_id, timeline).await?.map(|noted| Noted {
            watermark: noted.last,
            ..noted
        }),
        (None, Some(obeyed), _) => after(tx, request.host_id, obeyed.number).await?,
        (None, None, Some(id)) => {
            return Ok(Verdict::Refuse(format!(
                "this host has obeyed a controller's start ({id}) that this controller's database does \
                 not remember: it was restored from a backup. {ACCEPT}"
            )));
        }
        // Of a release that knew none: what the rows say now is all that there is.
        (None, None, None) => Some(Noted {
            counter: database.counter,
            epoch: database.epoch,
            last: u64::MAX,
            watermark: u64::MAX,
        }),
    };
    // Nothing began since; or it joined anew since.
    let Some(noted) = noted else {
        return still_refused(tx, request, follows).await;
    };
    let HostNumbers { last, watermark } = request.numbers.unwrap_or_default();
    let is_older = request.lineage_counter > noted.counter
        || request.epoch > noted.epoch
        || last > noted.last
        || watermark > noted.watermark;
    if is_older {
        return Ok(Verdict::Refuse(format!(
            "this controller's database is older (counter {}, epoch {}, command {}, watermark {}) than \
             what this host has seen (counter {}, epoch {}, command {last}, watermark {watermark}): it \
             was restored from a backup. {ACCEPT}",
            noted.counter,
            noted.epoch,
            noted.last,
            noted.watermark,
            request.lineage_counter,
            request.epoch,
        )));
    }
    match accepted {
        Some(_) => Ok(Verdict::Obey { follows }),
        None => still_refused(tx, request, follows).await,
    }
}

/// A refusal that the agent has written down stands as long as this database remembers the timeline
/// that was refused.
async fn still_refused(
    tx: &mut Tx,
    request: &SyncRequest,
    follows: Option<String>,
) -> Result<Verdict, StoreError> {
    let refused = request.refusal.as_ref().and_then(|r| r.timeline);
    if let Some(id) = refused
        && timelines::find(tx, &id.to_string()).await?.is_some()
    {
        return Ok(Verdict::Refuse(format!(
            "this host has refused this controller's database, and nobody has accepted it. {ACCEPT}"
        )));
    }
    Ok(Verdict::Obey { follows })
}

/// Whether an operator has put this database's lineage in the place of that one.
async fn was_replaced(tx: &mut Tx, lineage: &str, other: &str) -> Result<bool, StoreError> {
    let sql = "SELECT follows FROM lineages WHERE lineage = $1 AND follows = $2";
    let row = tx
        .query_opt::<(String,)>(sql, params![lineage, other])
        .await?;
    Ok(row.is_some())
}

/// The timeline that began when an operator accepted this database in spite of the host's refusal.
async fn accepted(tx: &mut Tx, host_id: HostId) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT accepted FROM refusals WHERE host_id = $1";
    let row = tx
        .query_opt::<(Option<i64>,)>(sql, params![host_id])
        .await?;
    Ok(row.and_then(|(accepted,)| accepted))
}

const NOTED: &str = "SELECT t.counter, h.epoch, h.last, h.watermark FROM host_timelines h \
    JOIN timelines t ON t.number = h.timeline WHERE h.host_id = $1";

async fn at(tx: &mut Tx, host_id: HostId, timeline: i64) -> Result<Option<Noted>, StoreError> {
    let sql = format!("{NOTED} AND h.timeline = $2");
    tx.query_opt(&sql, params![host_id, timeline]).await
}

async fn after(tx: &mut Tx, host_id: HostId, timeline: i64) -> Result<Option<Noted>, StoreError> {
    let sql = format!("{NOTED} AND h.timeline > $2 ORDER BY h.timeline LIMIT 1");
    tx.query_opt(&sql, params![host_id, timeline]).await
}

/// Notes that a host refuses this database, and what it has, once it has said so.
pub(crate) async fn note(
    tx: &mut Tx,
    now: i64,
    request: &SyncRequest,
    why: &str,
) -> Result<(), StoreError> {
    let refusal = request.refusal.as_ref();
    let records = refusal.and_then(|refusal| serde_json::to_string(&refusal.records).ok());
    let refused = refusal.and_then(|refusal| refusal.timeline);
    let HostNumbers { last, watermark } = request.numbers.unwrap_or_default();
    tx.execute(
        "INSERT INTO refusals (host_id, why, lineage, counter, epoch, last, watermark, records, told_at, \
         refused) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (host_id) DO UPDATE SET \
         why = excluded.why, refused = excluded.refused, lineage = excluded.lineage, counter = excluded.counter, \
         epoch = excluded.epoch, last = excluded.last, watermark = excluded.watermark, \
         records = excluded.records, accepted = NULL, told_at = excluded.told_at",
        params![
            request.host_id,
            why,
            request.lineage.clone(),
            request.lineage_counter,
            request.epoch,
            last,
            watermark,
            records,
            now,
            refused.map(|id| id.to_string())
        ],
    )
    .await?;
    Ok(())
}

/// The agent has taken this timeline for its own: what it refused is over, and what was noted of it
/// before is not needed. One write for each start of a controller.
pub(crate) async fn obeyed(
    tx: &mut Tx,
    request: &SyncRequest,
    newest: &Begun,
    watermark: u64,
) -> Result<(), StoreError> {
    if request
        .timeline
        .is_none_or(|id| id.to_string() != newest.id)
    {
        return Ok(());
    }
    let host_id = request.host_id;
    let changed = tx
        .execute(
            "UPDATE agent_starts SET obeys = $1 \
             WHERE host_id = $2 AND (obeys IS NULL OR obeys <> $1)",
            params![newest.number, host_id],
        )
        .await?;
    if changed > 0 {
        let sql = "DELETE FROM refusals WHERE host_id = $1";
        tx.execute(sql, params![host_id]).await?;
        timelines::prune(tx, host_id, newest.number, watermark).await?;
    }
    Ok(())
}
