//! What one controller counts. The page that shows it is the program's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// This process's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    commands_sent: AtomicU64,
    commands_sent_again: AtomicU64,
}

impl Metrics {
    /// Counts a request of a service (the path's first part) by its answer's status.
    pub fn request(&self, service: &str, status: u16) {
        // Only known names: a caller must not choose how many lines there are.
        let known = [
            "identity",
            "compute",
            "image",
            "network",
            "placement",
            "agent",
            "healthz",
            "metrics",
        ];
        let service = if known.contains(&service) {
            service
        } else {
            "other"
        };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((service.to_owned(), status)).or_default() += 1;
    }

    /// Counts a command that the broker took.
    pub fn command_sent(&self, again: bool) {
        let counter = if again {
            &self.commands_sent_again
        } else {
            &self.commands_sent
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The requests so far, by service and status.
    pub fn requests(&self) -> BTreeMap<(String, u16), u64> {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The commands that the broker took so far: (for the first time, again).
    pub fn commands_sent(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.commands_sent), read(&self.commands_sent_again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_cannot_make_lines() {
        let metrics = Metrics::default();
        for n in 0..100 {
            metrics.request(&format!("path-{n}"), 404);
        }
        metrics.request("compute", 200);
        let requests = metrics.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[&("other".to_owned(), 404)], 100);
    }
}
