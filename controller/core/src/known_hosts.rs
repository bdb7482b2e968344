//! The hosts as this controller last read them all: from which placement chooses, so that a claim does
//! not read every host there is.
//!
//! It is a hint, and no memory: what is claimed is decided by the rows of the one host that was chosen,
//! and nobody is told that no host will do before all of them were read again.

use berth_rpc_types::HostId;
use berth_scheduler::HostSnapshot;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For how long what was read is chosen from. A host that joins or empties is found by then.
const RECENT: Duration = Duration::from_secs(2);

/// One controller's. Empty at first.
#[derive(Default)]
pub struct KnownHosts(Mutex<Option<Read>>);

struct Read {
    at: Duration,
    hosts: BTreeMap<HostId, Arc<HostSnapshot>>,
}

impl KnownHosts {
    /// What was read not long ago, if anything was. `now` is the monotonic clock's.
    pub fn recent(&self, now: Duration) -> Option<Vec<Arc<HostSnapshot>>> {
        let known = self.known();
        let read = known.as_ref()?;
        let is_recent = now.saturating_sub(read.at) < RECENT;
        is_recent.then(|| read.hosts.values().cloned().collect())
    }

    /// All hosts, as they were read now.
    pub fn put(&self, now: Duration, hosts: &[Arc<HostSnapshot>]) {
        *self.known() = Some(Read {
            at: now,
            hosts: hosts
                .iter()
                .map(|host| (host.id, Arc::clone(host)))
                .collect(),
        });
    }

    /// One host, as it was read now, or with what was just claimed of it.
    pub fn update(&self, host: HostSnapshot) {
        if let Some(read) = &mut *self.known() {
            read.hosts.insert(host.id, Arc::new(host));
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Read>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
