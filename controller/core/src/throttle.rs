//! How often something may fail in a while, by what it was about.
//!
//! In memory, for this process: of several controllers each gives as many. What was long ago is
//! forgotten when there is much, so that the memory is bounded by how fast somebody can fail: a
//! log-in costs tens of milliseconds, a few run at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Above so many keys, those whose window is over are dropped.
const MANY: usize = 1024;

/// Counts failures within a window that begins with the first.
#[derive(Debug)]
pub struct Throttle {
    most: u32,
    window: Duration,
    failures: Mutex<HashMap<String, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: Duration,
    count: u32,
}

impl Throttle {
    /// As many failures of one key as `most` within `window`.
    pub fn new(most: u32, window: Duration) -> Self {
        Self {
            most,
            window,
            failures: Mutex::default(),
        }
    }

    /// How long the key has to wait; `None`: it may try. `now` is monotonic.
    pub fn wait(&self, key: &str, now: Duration) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let found = failures.get(key).copied()?;
        let left = (found.since + self.window).checked_sub(now)?;
        (found.count >= self.most && !left.is_zero()).then_some(left)
    }

    /// It failed.
    pub fn failed(&self, key: &str, now: Duration) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MANY {
            failures.retain(|_, f| f.since + self.window > now);
        }
        let found = failures.entry(key.to_owned()).or_insert(Failures {
            since: now,
            count: 0,
        });
        if found.since + self.window <= now {
            *found = Failures {
                since: now,
                count: 0,
            };
        }
        found.count = found.count.saturating_add(1);
    }

    /// It went well: what failed before is forgotten.
    pub fn succeeded(&self, key: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(key);
    }
}

/// Ten a minute.
impl Default for Throttle {
    fn default() -> Self {
        Self::new(10, Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_waits_for_the_end_of_the_window_once_it_failed_as_often_as_it_may() {
        let throttle = Throttle::new(2, at(60));
        throttle.failed("a", at(1));
        assert_eq!(throttle.wait("a", at(2)), None);
        throttle.failed("a", at(11));
        assert_eq!(throttle.wait("a", at(21)), Some(at(40)));
        assert_eq!(throttle.wait("b", at(21)), None);
        assert_eq!(throttle.wait("a", at(61)), None);
        // A new window.
        throttle.failed("a", at(62));
        assert_eq!(throttle.wait("a", at(63)), None);
    }

    #[test]
    fn success_is_a_new_beginning() {
        let throttle = Throttle::new(1, at(60));
        throttle.failed("a", at(1));
        throttle.succeeded("a");
        assert_eq!(throttle.wait("a", at(2)), None);
    }

    #[test]
    fn what_was_long_ago_takes_no_memory() {
        let throttle = Throttle::new(1, at(60));
        for n in 0..3000_u64 {
            throttle.failed(&n.to_string(), at(n * 100));
        }
        let kept = throttle
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert!(kept.len() <= MANY + 1);
    }
}
