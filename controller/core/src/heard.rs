//! Hosts that a controller heard, written down for many at once: a report without news costs no
//! transaction of its own.

use crate::listing::Condition;
use crate::store::{Store, StoreError};
use berth_rpc_types::HostId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How old `hosts.last_seen_at` becomes, in milliseconds: a third of the default `service_down_time`. A
/// controller of the release before looks at it, and it costs a write of the whole row.
pub const SHOWN_MS: u64 = 20_000;
/// Hosts that one statement writes down.
const AT_ONCE: usize = 500;

/// Hosts that were heard and are not written down yet. What is lost with its process is a report, and
/// the next one says the same.
#[derive(Debug, Default)]
pub struct Heard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since they were last written down.
    now: Vec<HostId>,
    /// When this process last wrote each one's `hosts.last_seen_at`.
    shown: HashMap<HostId, i64>,
    /// How many hosts the cloud had when they were last counted.
    hosts: u32,
}

impl Heard {
    /// A host was heard.
    pub fn note(&self, host_id: HostId) {
        self.state().now.push(host_id);
    }

    /// Hosts of the cloud, when they were last counted: by any controller heard.
    pub fn hosts(&self) -> u32 {
        self.state().hosts
    }

    /// Counts the cloud's hosts.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn count(&self, store: &Store) -> Result<(), StoreError> {
        let sql = "SELECT COUNT(*) AS n FROM hosts";
        let counted: Option<(i64,)> = store.query_opt(sql, &[]).await?;
        let hosts = counted.map_or(0, |(hosts,)| hosts);
        self.state().hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Writes down who was heard since the last time.
    ///
    /// # Errors
    /// [`StoreError`]; those are heard again soon.
    pub async fn write_down(&self, store: &Store, now: i64) -> Result<(), StoreError> {
        let (mut all, due) = {
            let mut state = self.state();
            let all = std::mem::take(&mut state.now);
            let is_due = |id: &&HostId| {
                let shown = state.shown.get(id);
                shown.is_none_or(|shown| now.abs_diff(*shown) > SHOWN_MS)
            };
            let due: Vec<HostId> = all.iter().filter(is_due).copied().collect();
            state.shown.extend(due.iter().map(|id| (*id, now)));
            (all, due)
        };
        all.sort_unstable();
        all.dedup();
        for hosts in all.chunks(AT_ONCE) {
            // None is inserted: the report with which a host starts did, and one that was removed
            // meanwhile is not to come back.
            let set = "seen_at = ?, beat = (SELECT beat FROM beats WHERE id = 1)";
            write(store, "host_beats", "host_id", set, now, hosts).await?;
        }
        for hosts in due.chunks(AT_ONCE) {
            write(store, "hosts", "id", "last_seen_at = ?", now, hosts).await?;
            write(store, "host_beats", "host_id", "copied = ?", now, hosts).await?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets something of the rows of these hosts; `?` is the time.
async fn write(
    store: &Store,
    table: &str,
    key: &str,
    set: &str,
    now: i64,
    hosts: &[HostId],
) -> Result<(), StoreError> {
    let these = Condition::among(key, hosts.iter().map(|id| (*id).into()));
    let (matching, mut values) = these.statement("", "");
    values.push(now.into());
    let set = set.replace('?', &format!("${}", values.len()));
    let sql = format!("UPDATE {table} SET {set}{matching}");
    store
        .tx::<_, StoreError, _>(|tx| {
            let (sql, values) = (sql.clone(), values.clone());
            Box::pin(async move { tx.execute(&sql, &values).await.map(drop) })
        })
        .await
}
