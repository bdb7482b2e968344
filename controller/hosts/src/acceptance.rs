//! An operator's acceptance of this database, though hosts refuse it (PROTOCOL.md, rule 5).
//!
//! Accepting puts a new lineage in the place of the one that was, and begins a timeline above all that
//! the hosts reported: numbers, sequences, epochs and the counter rise, so that nothing that the lost
//! database ordered is taken for what this one orders, and nothing that this one orders is superseded.
//! A guest that its host no longer has, or is deleting, goes onto the host's lost list: an older message
//! that would build it may be on its way, and what it holds is free when its host says that it is gone.
//! A guest that this database does not know is a stray: it is left alone, and what it has is held for it
//! ([`crate::strays`]).
//!
//! Every host has to have said what it has, or to obey this database, or to be forced down: one that
//! comes back later refuses, and is accepted then.

use crate::{strays, timelines};
use berth_controller_core::store::{AsStoreError, Store, StoreError, Tx};
use berth_controller_core::{Env, params, row};
use berth_rpc_types::link::Recorded;
use berth_rpc_types::{HostId, VmmId};
use std::collections::BTreeMap;

/// How a host stands to this database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its agent obeys it.
    Obeys,
    /// Its agent refuses it.
    Refuses {
        /// Why.
        why: String,
        /// Whether it has said what it has.
        has_told: bool,
    },
    /// An operator accepted it; its agent has not come since.
    Accepted,
    /// It is forced down: nobody waits for it.
    Down,
    /// Its agent has said nothing since a controller started last.
    Silent,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStanding {
    /// Which.
    pub host_id: HostId,
    /// Its name.
    pub hostname: String,
    /// How.
    pub standing: Standing,
}

row! {
    struct Found {
        id: HostId,
        hostname: String,
        forced_down: bool,
        obeys: Option<i64>,
        why: Option<String>,
        has_told: bool,
        accepted: Option<i64>,
    }
}

/// How every host stands to this database, by name.
///
/// # Errors
/// [`StoreError`]
pub async fn standing(tx: &mut Tx) -> Result<Vec<HostStanding>, StoreError> {
    let newest = timelines::newest(tx).await?.map(|newest| newest.number);
    let found: Vec<Found> = tx
        .query(
            "SELECT h.id, h.hostname, h.forced_down, s.obeys, r.why, \
             CASE WHEN r.records IS NULL THEN 0 ELSE 1 END AS has_told, r.accepted FROM hosts h \
             LEFT JOIN agent_starts s ON s.host_id = h.id LEFT JOIN refusals r ON r.host_id = h.id \
             ORDER BY h.hostname",
            &[],
        )
        .await?;
    let standing = |found: Found| HostStanding {
        host_id: found.id,
        hostname: found.hostname,
        standing: match (found.why, found.accepted) {
            (Some(_), Some(_)) => Standing::Accepted,
            (Some(_), None) if found.forced_down && !found.has_told => Standing::Down,
            (Some(why), None) => Standing::Refuses {
                why,
                has_told: found.has_told,
            },
            (None, _) if newest.is_some() && found.obeys == newest => Standing::Obeys,
            (None, _) if found.forced_down => Standing::Down,
            (None, _) => Standing::Silent,
        },
    };
    Ok(found.into_iter().map(standing).collect())
}

/// Whether nothing is known that speaks against this database: every host obeys it, and there is one.
/// Before that nothing is removed for which there is no order.
///
/// # Errors
/// [`StoreError`]
pub async fn is_undisputed(tx: &mut Tx) -> Result<bool, StoreError> {
    let hosts = standing(tx).await?;
    let agrees = |host: &HostStanding| matches!(host.standing, Standing::Obeys | Standing::Down);
    Ok(hosts.iter().any(|h| h.standing == Standing::Obeys) && hosts.iter().all(agrees))
}

/// What an acceptance did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The new lineage.
    pub lineage: String,
    /// Hosts whose refusals are over.
    pub hosts: usize,
    /// Guests that their hosts do not have any more: they are on the lost lists.
    pub lost: Vec<VmmId>,
    /// Guests that this database does not know.
    pub strays: Vec<VmmId>,
}

/// Why this database cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is nothing to accept.
    #[error("no host refuses this database: there is nothing to accept")]
    NotRefused,
    /// Some have not said what they have.
    #[error(
        "these hosts have not said yet what they have: {0}. Start their agents, and a controller, and \
         wait for their next reports; force down the ones that are off"
    )]
    NotTold(String),
    /// What a host said cannot be read.
    #[error("what host {0} said cannot be read: {1}")]
    Unreadable(String, String),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AsStoreError for AcceptError {
    fn as_store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Accepts this database.
///
/// # Errors
/// [`AcceptError`]
pub async fn accept(store: &Store, env: &Env) -> Result<Accepted, AcceptError> {
    store
        .tx(|tx| {
            let env = env.clone();
            Box::pin(async move {
                tx.lock("host_numbers").await?;
                accept_in(tx, &env).await
            })
        })
        .await
}

row! {
    struct Told {
        host_id: HostId,
        hostname: String,
        lineage: Option<String>,
        counter: u64,
        epoch: u64,
        last: u64,
        watermark: u64,
        refused: Option<String>,
        records: String,
    }
}

async fn accept_in(tx: &mut Tx, env: &Env) -> Result<Accepted, AcceptError> {
    let hosts = standing(tx).await?;
    let refuses = |host: &HostStanding| matches!(host.standing, Standing::Refuses { .. });
    if !hosts.iter().any(refuses) {
        return Err(AcceptError::NotRefused);
    }
    let has_not_told = |host: &&HostStanding| {
        let told = matches!(host.standing, Standing::Refuses { has_told, .. } if has_told);
        !told && (refuses(host) || host.standing == Standing::Silent)
    };
    let silent: Vec<_> = hosts
        .iter()
        .filter(has_not_told)
        .map(|h| h.hostname.as_str())
        .collect();
    if !silent.is_empty() {
        return Err(AcceptError::NotTold(silent.join(", ")));
    }
    let told: Vec<Told> = tx
        .query(
            "SELECT r.host_id, h.hostname, r.lineage, r.counter, r.epoch, r.last, r.watermark, r.refused, \
             r.records FROM refusals r JOIN hosts h ON h.id = r.host_id WHERE r.accepted IS NULL",
            &[],
        )
        .await?;
    let mut done = Accepted {
        lineage: env.uuid().to_string(),
        hosts: told.len(),
        lost: vec![],
        strays: vec![],
    };
    let (before, counter) = crate::lineage::read(tx).await?;
    let counter = told.iter().map(|told| told.counter).fold(counter, u64::max);
    replace_lineage(tx, env.now(), &done.lineage, &before, counter).await?;
    for told in &told {
        if let Some(other) = &told.lineage {
            follow(tx, env.now(), &done.lineage, other).await?;
        }
        raise(tx, told).await?;
        records(tx, env.now(), told, &mut done).await?;
    }
    // What the lost database gave away on a host that knows of nothing else, nobody can say.
    tx.execute("UPDATE hosts SET epoch = epoch + 1", &[])
        .await?;
    let timeline = timelines::begin_in(tx, env).await?;
    tx.execute(
        "UPDATE refusals SET accepted = $1 WHERE accepted IS NULL",
        params![timeline],
    )
    .await?;
    tracing::warn!(
        lineage = done.lineage,
        hosts = done.hosts,
        lost = done.lost.len(),
        strays = done.strays.len(),
        "an operator accepted this database"
    );
    Ok(done)
}

async fn replace_lineage(
    tx: &mut Tx,
    now: i64,
    lineage: &str,
    before: &str,
    counter: u64,
) -> Result<(), StoreError> {
    let set = "UPDATE meta SET value = $1 WHERE name = $2";
    tx.execute(set, params![lineage, "lineage"]).await?;
    tx.execute(set, params![counter.to_string(), "lineage_counter"])
        .await?;
    // What that one was put in the place of, this one is, too.
    tx.execute(
        "INSERT INTO lineages (lineage, follows, accepted_at) \
         SELECT $1, follows, $2 FROM lineages WHERE lineage = $3",
        params![lineage, now, before],
    )
    .await?;
    follow(tx, now, lineage, before).await
}

async fn follow(tx: &mut Tx, now: i64, lineage: &str, other: &str) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO lineages (lineage, follows, accepted_at) VALUES ($1, $2, $3) \
         ON CONFLICT (lineage, follows) DO NOTHING",
        params![lineage, other, now],
    )
    .await?;
    Ok(())
}

/// The host's epoch and numbers rise to what its agent knows; the next ones are above that.
async fn raise(tx: &mut Tx, told: &Told) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE hosts SET epoch = $1 WHERE id = $2 AND epoch < $1",
        params![told.epoch, told.host_id],
    )
    .await?;
    tx.execute(
        "INSERT INTO host_numbers (host_id, last) VALUES ($1, $2) ON CONFLICT (host_id) DO UPDATE SET \
         last = CASE WHEN host_numbers.last < excluded.last THEN excluded.last ELSE host_numbers.last END",
        params![told.host_id, told.last.max(told.watermark)],
    )
    .await?;
    Ok(())
}

/// Sequences rise; what is missing is lost; what nobody knows is a stray.
async fn records(
    tx: &mut Tx,
    now: i64,
    told: &Told,
    done: &mut Accepted,
) -> Result<(), AcceptError> {
    let unreadable = |error: serde_json::Error| {
        AcceptError::Unreadable(told.hostname.clone(), error.to_string())
    };
    let records: Vec<Recorded> = serde_json::from_str(&told.records).map_err(unreadable)?;
    let mut records: BTreeMap<VmmId, Recorded> = records
        .into_iter()
        .map(|record| (record.vmm_id, record))
        .collect();
    // What was first ordered since the host refuses has not reached it, and is ordered anew.
    let known: Vec<(VmmId, bool)> = tx
        .query(
            "SELECT id, CASE WHEN deleted_at IS NULL AND NOT EXISTS (SELECT 1 FROM outbox b \
             JOIN host_timelines h ON h.host_id = b.host_id AND b.host_number > h.last \
             JOIN timelines t ON t.number = h.timeline WHERE b.vmm_id = vmms.id AND b.sequence = 1 \
             AND b.host_id = $1 AND t.id = $2) THEN 1 ELSE 0 END FROM vmms WHERE host_id = $1",
            params![told.host_id, told.refused.clone()],
        )
        .await?;
    for (id, is_there) in known {
        let record = records.remove(&id);
        if let Some(record) = &record {
            tx.execute(
                "UPDATE vmms SET sequence = $1 WHERE id = $2 AND sequence < $1",
                params![record.sequence, id],
            )
            .await?;
        }
        if is_there && record.is_none_or(|record| record.deleted) {
            tx.execute(
                "UPDATE vmms SET lost_at = $1, removed_at = NULL, observation = 0, \
                 lost_epoch = (SELECT epoch FROM hosts WHERE id = $2) WHERE id = $3",
                params![now, told.host_id, id],
            )
            .await?;
            done.lost.push(id);
        }
    }
    // They were noted, and what they have is held, when their host told of them.
    for record in records.into_values().filter(|record| !record.deleted) {
        let is_settled = strays::is_settled(tx, told.host_id, record.vmm_id).await?;
        if record.is_described && !is_settled {
            return Err(AcceptError::NotTold(told.hostname.clone()));
        }
        done.strays.push(record.vmm_id);
    }
    Ok(())
}
