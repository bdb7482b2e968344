//! Timelines: the stretches of a database's life, from the start of a controller to that of the next
//! one (PROTOCOL.md, rule 5).
//!
//! A database that was restored from a backup does not know that it was: it draws on, and has soon
//! caught up with whatever counts. But a controller has to start on it, and each start begins a timeline:
//! a random id, and with it what is known of each host at that moment. An agent says which timeline it
//! last obeyed. What it knows beyond what was noted with the next one, it has from a database that this
//! one does not remember ([`crate::refusal`]). PostgreSQL tells a restored cluster's history from the
//! lost one in the same way.
//!
//! Each number of a host is drawn in one timeline, and its command carries it. So an agent knows a copy
//! of a command that the lost database drew, though the restored one has drawn its number again.

use berth_controller_core::store::{Store, StoreError, Tx};
use berth_controller_core::{Env, params, row};
use berth_rpc::kill_point;
use berth_rpc_types::HostId;
use berth_rpc_types::link::Timeline;

row! {
    /// A timeline.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Begun {
        /// From 1.
        pub number: i64,
        /// Random.
        pub id: String,
        /// The lineage's counter when it began.
        pub counter: u64,
    }
}

/// Begins one: at each start of a controller, before it does anything else.
///
/// # Errors
/// [`StoreError`]
pub async fn begin(store: &Store, env: &Env) -> Result<i64, StoreError> {
    let begun = store
        .tx(|tx| {
            let env = env.clone();
            Box::pin(async move {
                tx.lock("host_numbers").await?;
                begin_in(tx, &env).await
            })
        })
        .await;
    kill_point!("controller.timeline.begun");
    begun
}

/// Begins one in this transaction.
pub(crate) async fn begin_in(tx: &mut Tx, env: &Env) -> Result<i64, StoreError> {
    // Counted on with it, so that what was told before is no more than what is noted.
    tx.execute(crate::lineage::ADVANCE, &[]).await?;
    let (lineage, counter) = crate::lineage::read(tx).await?;
    let number = newest(tx).await?.map_or(1, |newest| newest.number + 1);
    tx.execute(
        "INSERT INTO timelines (number, id, lineage, counter, began_at) VALUES ($1, $2, $3, $4, $5)",
        params![number, env.uuid().to_string(), lineage, counter, env.now()],
    )
    .await?;
    tx.execute(
        "INSERT INTO host_numbers (host_id, last) SELECT id, 0 FROM hosts WHERE NOT EXISTS \
         (SELECT 1 FROM host_numbers n WHERE n.host_id = hosts.id)",
        &[],
    )
    .await?;
    tx.execute("UPDATE host_numbers SET timeline = $1", params![number])
        .await?;
    tx.execute(NOTE_ALL, params![number]).await?;
    Ok(number)
}

/// What is known of every host, noted under a timeline. The watermark is [`outbox::numbers`]'.
///
/// [`outbox::numbers`]: berth_controller_operations::outbox::numbers
const NOTE_ALL: &str = "INSERT INTO host_timelines (host_id, timeline, last, watermark, epoch) \
    SELECT h.id, $1, n.last, COALESCE((SELECT MIN(COALESCE(b.host_number, 0)) - 1 FROM outbox b \
    WHERE b.host_id = h.id AND b.result IS NULL), n.last), h.epoch \
    FROM hosts h JOIN host_numbers n ON n.host_id = h.id";

/// A host joins: it has nothing of any earlier one.
pub(crate) async fn note_new_host(tx: &mut Tx, host_id: HostId) -> Result<(), StoreError> {
    let Some(newest) = newest(tx).await? else {
        return Ok(());
    };
    tx.execute(
        "INSERT INTO host_numbers (host_id, last, timeline) VALUES ($1, 0, $2) \
         ON CONFLICT (host_id) DO UPDATE SET timeline = excluded.timeline",
        params![host_id, newest.number],
    )
    .await?;
    tx.execute(
        &format!("{NOTE_ALL} WHERE h.id = $2 ON CONFLICT (host_id, timeline) DO NOTHING"),
        params![newest.number, host_id],
    )
    .await?;
    Ok(())
}

/// The one that goes on now.
///
/// # Errors
/// [`StoreError`]
pub async fn newest(tx: &mut Tx) -> Result<Option<Begun>, StoreError> {
    let sql = "SELECT number, id, counter FROM timelines ORDER BY number DESC LIMIT 1";
    tx.query_opt(sql, &[]).await
}

/// The timeline with this id, if this database remembers it.
pub(crate) async fn find(tx: &mut Tx, id: &str) -> Result<Option<Begun>, StoreError> {
    let sql = "SELECT number, id, counter FROM timelines WHERE id = $1";
    tx.query_opt(sql, params![id]).await
}

/// The timelines in which a host's commands above `watermark` were drawn, oldest first; the last one
/// is the newest.
pub(crate) async fn told(
    tx: &mut Tx,
    host_id: HostId,
    watermark: u64,
) -> Result<Vec<Timeline>, StoreError> {
    let rows: Vec<(String, u64)> = tx
        .query(
            "SELECT t.id, h.last FROM host_timelines h JOIN timelines t ON t.number = h.timeline \
             WHERE h.host_id = $1 AND h.timeline >= COALESCE((SELECT MAX(timeline) \
             FROM host_timelines WHERE host_id = $1 AND last <= $2), 0) ORDER BY h.timeline",
            params![host_id, watermark],
        )
        .await?;
    let timeline = |(id, above): (String, u64)| {
        Some(Timeline {
            id: id.parse().ok()?,
            above,
        })
    };
    let told: Vec<Timeline> = rows.into_iter().filter_map(timeline).collect();
    if !told.is_empty() {
        return Ok(told);
    }
    // A controller of an earlier release let it join since.
    let newest = newest(tx).await?;
    Ok(newest
        .and_then(|n| timeline((n.id, 0)))
        .into_iter()
        .collect())
}

/// Forgets what was noted of a host before the timeline that its agent obeys, but for what covers
/// commands above its watermark.
pub(crate) async fn prune(
    tx: &mut Tx,
    host_id: HostId,
    obeys: i64,
    watermark: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM host_timelines WHERE host_id = $1 AND timeline < $2 AND timeline < \
         (SELECT MAX(timeline) FROM host_timelines WHERE host_id = $1 AND last <= $3)",
        params![host_id, obeys, watermark],
    )
    .await?;
    Ok(())
}
