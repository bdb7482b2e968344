//! How far a long step is, for the signs of life that tell it.
//!
//! Noting costs an atomic store, so that it may be done for each chunk of a download; who tells it
//! looks when it has something to send. What several guests wait for is one [`Part`], which the
//! progress of each of them follows.

use berth_rpc_types::ByteCount;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A piece of work: an image that is fetched and, if it must be, converted.
#[derive(Debug)]
pub struct Part {
    /// Bytes to fetch.
    size: u64,
    /// Whether converting it comes behind, which counts as much as fetching it.
    converts: bool,
    fetched: AtomicU64,
    /// In percent.
    converted: AtomicU64,
}

impl Part {
    /// An image of `size` bytes.
    pub fn new(size: u64, converts: bool) -> Self {
        Self {
            size,
            converts,
            fetched: AtomicU64::new(0),
            converted: AtomicU64::new(0),
        }
    }

    /// An image of `size` bytes, of which half are here: what a simulation shows.
    pub(crate) fn half(size: u64) -> Self {
        let part = Self::new(size, false);
        part.fetched(size / 2);
        part
    }

    /// So many of its bytes are here.
    pub fn fetched(&self, bytes: u64) {
        self.fetched.store(bytes.min(self.size), Ordering::Relaxed);
    }

    /// So many percent of it are converted.
    pub fn converted(&self, percent: u8) {
        self.converted
            .store(percent.min(100).into(), Ordering::Relaxed);
    }

    /// Work done and work in all, in bytes.
    fn work(&self) -> (u128, u128) {
        let size = u128::from(self.size);
        let fetched = u128::from(self.fetched.load(Ordering::Relaxed));
        let converted = u128::from(self.converted.load(Ordering::Relaxed));
        match self.converts {
            true => (fetched + size * converted / 100, 2 * size),
            false => (fetched, size),
        }
    }
}

/// What was read off a [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// 0 to 100, of all the work that is known.
    pub percent: u8,
    /// Of what is fetched.
    pub bytes: ByteCount,
}

/// How far one command's present step is. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Vec<Arc<Part>>>>);

impl Progress {
    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Part>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another step begins: nothing is known of it.
    pub fn begin(&self) {
        self.parts().clear();
    }

    /// The step does this, among other things.
    pub fn follow(&self, part: &Arc<Part>) {
        self.parts().push(Arc::clone(part));
    }

    /// How far it is; `None` if the step does not say.
    pub fn reading(&self) -> Option<Reading> {
        let parts = self.parts();
        let (done, all) = parts
            .iter()
            .map(|part| part.work())
            .fold((0, 0), |sum, work| (sum.0 + work.0, sum.1 + work.1));
        let percent = (done * 100).checked_div(all)?.min(100);
        let bytes = parts
            .iter()
            .fold(ByteCount::default(), |sum, part| ByteCount {
                done: sum
                    .done
                    .saturating_add(part.fetched.load(Ordering::Relaxed)),
                total: sum.total.saturating_add(part.size),
            });
        Some(Reading {
            percent: u8::try_from(percent).unwrap_or(100),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fetching_and_converting_count_alike_and_parts_are_added_up() {
        let progress = Progress::default();
        assert_eq!(progress.reading(), None);
        let (disk, kernel) = (
            Arc::new(Part::new(900, true)),
            Arc::new(Part::new(200, false)),
        );
        progress.follow(&disk);
        progress.follow(&kernel);
        let percent = || progress.reading().unwrap().percent;
        assert_eq!(percent(), 0);
        kernel.fetched(200);
        disk.fetched(450);
        assert_eq!(percent(), 32);
        let bytes = progress.reading().unwrap().bytes;
        assert_eq!((bytes.done, bytes.total), (650, 1100));
        disk.fetched(900);
        disk.converted(50);
        assert_eq!(percent(), 77);
        disk.converted(200);
        disk.fetched(u64::MAX);
        assert_eq!(percent(), 100, "nothing is more than whole");
        progress.begin();
        assert_eq!(progress.reading(), None, "another step");
    }

    #[test]
    fn images_of_absurd_or_no_size_are_no_overflow() {
        let progress = Progress::default();
        progress.follow(&Arc::new(Part::new(0, true)));
        assert_eq!(progress.reading(), None, "no work, no percent");
        let huge = Arc::new(Part::new(u64::MAX, true));
        progress.follow(&huge);
        progress.follow(&huge);
        huge.fetched(u64::MAX);
        huge.converted(100);
        assert_eq!(progress.reading().unwrap().percent, 100);
    }
}
