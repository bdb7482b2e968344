//! Injected time and chance, so that a simulation runs the same code from a seed.

#![allow(clippy::disallowed_methods, reason = "what everything else is given")]

use futures::future::BoxFuture;
use rand::{Rng as _, SeedableRng, rngs::StdRng};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time. `now_millis` may jump; `monotonic` may not.
pub trait Clock: Send + Sync {
    /// Unix milliseconds.
    fn now_millis(&self) -> i64;
    /// Time since some fixed point, never falling.
    fn monotonic(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Chance.
pub trait Rng: Send + Sync {
    /// 128 random bits.
    fn bits(&self) -> u128;
    /// A number below `bound` (0 if `bound` is 0).
    fn below(&self, bound: u64) -> u64 {
        u64::try_from(self.bits() % u128::from(bound.max(1))).unwrap_or(0)
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now_millis(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The machine's randomness, cryptographically strong: tokens are made from it.
#[derive(Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn bits(&self) -> u128 {
        rand::rng().random()
    }
}

/// Chance from a seed, for tests and simulations.
#[derive(Debug)]
pub struct SeededRng(Mutex<StdRng>);

impl SeededRng {
    /// The same seed gives the same draws.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Rng for SeededRng {
    fn bits(&self) -> u128 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }
}
