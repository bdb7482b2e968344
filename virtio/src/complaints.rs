//! Whether a device may log about its guest or its backing once more.
//!
//! Guarantees: however often a guest repeats a mistake, or a disk an error, a device writes at most
//! [`BURST`] such lines a minute; the first line after a silence tells how many were swallowed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines a minute.
pub const BURST: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// One device's allowance. Shared between its owner and its threads; locked only where there is
/// something to complain about.
#[derive(Debug)]
pub struct Complaints {
    spent: Mutex<Spent>,
}

#[derive(Debug)]
struct Spent {
    since: Instant,
    lines: u32,
    swallowed: u64,
}

impl Default for Complaints {
    fn default() -> Self {
        let spent = Spent {
            since: Instant::now(),
            lines: 0,
            swallowed: 0,
        };
        Self {
            spent: Mutex::new(spent),
        }
    }
}

impl Complaints {
    /// Some if a line may be written now: how many were not since the last one.
    pub fn allowed(&self) -> Option<u64> {
        self.allowed_at(Instant::now())
    }

    fn allowed_at(&self, now: Instant) -> Option<u64> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(spent.since) >= PERIOD {
            spent.since = now;
            spent.lines = 0;
        }
        if spent.lines >= BURST {
            spent.swallowed = spent.swallowed.saturating_add(1);
            return None;
        }
        spent.lines = spent.lines.saturating_add(1);
        Some(std::mem::take(&mut spent.swallowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_and_counted_in_the_first_line_after_it() {
        let complaints = Complaints::default();
        let begin = complaints.spent.lock().map(|spent| spent.since).ok();
        let at = |seconds| begin.map(|begin| begin + Duration::from_secs(seconds));
        let allowed = |seconds| at(seconds).map(|now| complaints.allowed_at(now));
        for _ in 0..BURST {
            assert_eq!(allowed(1), Some(Some(0)));
        }
        for _ in 0..25 {
            assert_eq!(allowed(2), Some(None));
        }
        assert_eq!(allowed(61), Some(Some(25)));
        assert_eq!(allowed(62), Some(Some(0)));
    }
}
