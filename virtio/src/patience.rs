//! How long a device looks for the next request before its thread sleeps.
//!
//! A driver that sends its next request some microseconds after the last one's completion pays for
//! a doorbell (a VM exit) and for waking the device's thread each time, unless the device looks a
//! moment longer. Guarantees: an idle device never looks; a device looks only after a doorbell came
//! soon after it went to sleep, and at most [`Patience::MOST`] at a time; where looking does not pay
//! (a driver that thinks longer, a host with one processor), it is tried ever more rarely.

use std::time::{Duration, Instant};

/// One device's experience of its driver.
#[derive(Debug, Default)]
pub struct Patience {
    /// Looking pays, as far as is known.
    hopeful: bool,
    slept_since: Option<Instant>,
    /// Looks in a row that found nothing.
    failures: u32,
    /// Early doorbells to let pass before looking is tried again.
    penance: u32,
}

impl Patience {
    /// The longest look: about what a doorbell and a wake-up cost on a slow KVM, twice.
    pub const MOST: Duration = Duration::from_micros(50);
    /// After how many failures the pause between tries grows no more.
    const WORST: u32 = 10;

    /// Looks for `found` if that usually pays; true if it came.
    pub fn look(&mut self, mut found: impl FnMut() -> bool) -> bool {
        if !self.hopeful {
            return false;
        }
        let begin = Instant::now();
        loop {
            for _ in 0..16 {
                if found() {
                    self.failures = 0;
                    return true;
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() >= Self::MOST {
                self.hopeful = false;
                self.failures = self.failures.saturating_add(1).min(Self::WORST);
                self.penance = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
                return false;
            }
        }
    }

    /// The thread is about to sleep.
    pub fn sleeping(&mut self) {
        self.slept_since = Some(Instant::now());
    }

    /// A doorbell woke the thread: if soon, looking would have been cheaper.
    pub fn woken(&mut self) {
        if let Some(since) = self.slept_since.take() {
            self.woken_after(since.elapsed());
        }
    }

    fn woken_after(&mut self, sleep: Duration) {
        if sleep < Self::MOST {
            self.penance = self.penance.saturating_sub(1);
            self.hopeful = self.penance == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_device_never_looks() {
        let mut patience = Patience::default();
        assert!(!patience.look(|| panic!("looked")));
        patience.woken_after(Duration::from_millis(1));
        assert!(!patience.look(|| panic!("looked, though the doorbell came late")));
    }

    #[test]
    fn a_doorbell_soon_after_sleep_makes_it_look_until_it_finds_nothing() {
        let mut patience = Patience::default();
        patience.woken_after(Duration::ZERO);
        let mut looks = 0;
        assert!(patience.look(|| {
            looks += 1;
            looks == 3
        }));
        assert!(patience.look(|| true), "it stays hopeful");
        assert!(!patience.look(|| false));
        assert!(!patience.look(|| panic!("looked again")));
    }

    #[test]
    fn looking_in_vain_is_tried_ever_more_rarely() {
        let mut patience = Patience::default();
        let mut doorbells = Vec::new();
        for _ in 0..5 {
            let mut count = 0;
            while !patience.hopeful {
                patience.woken_after(Duration::ZERO);
                count += 1;
            }
            doorbells.push(count);
            assert!(!patience.look(|| false));
        }
        assert_eq!(doorbells, [1, 2, 4, 8, 16]);
    }
}
