//! A queue's registers, from what the driver wrote to a queue that a device may trust.
//!
//! Guarantees: [`QueueConfig::validated`] is the only way from registers to a queue, and checks
//! size, alignment, place in memory and overlap together (virtio 1.2, 2.7): parsed once, at enable.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};
use vm_memory::{GuestAddress, GuestMemory, Permissions};

/// A queue's registers as the driver set them, and how far the device got while it was paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Size in descriptors.
    pub size: u16,
    /// Enabled, and so validated and frozen.
    pub ready: bool,
    /// Guest physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest physical address of the available ring.
    pub avail_ring: u64,
    /// Guest physical address of the used ring.
    pub used_ring: u64,
    /// The next entry of the available ring that the device takes.
    pub next_avail: u16,
    /// The next entry of the used ring that the device fills.
    pub next_used: u16,
}

/// Which of a queue's three addresses a register belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueArea {
    /// Descriptor table.
    Desc,
    /// Available ring ("driver area").
    Avail,
    /// Used ring ("device area").
    Used,
}

/// Which half of a 64-bit register a 32-bit access belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}
/// Why a queue's configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum QueueConfigError {
    /// Not a power of two up to the maximum, or misaligned.
    #[error("size or alignment: {0}")]
    Shape(virtio_queue::Error),
    /// Not all of a ring is guest memory.
    #[error("a ring lies outside of guest memory")]
    OutsideMemory,
    /// Two rings share memory.
    #[error("the rings overlap")]
    Overlap,
}
impl QueueConfig {
    /// The registers of a queue in reset.
    pub fn in_reset(max_size: u16) -> Self {
        Self {
            size: max_size,
            ..Self::default()
        }
    }

    /// Sets half of one of the three addresses.
    pub fn set_address(&mut self, area: QueueArea, half: Half, value: u32) {
        let address = match area {
            QueueArea::Desc => &mut self.desc_table,
            QueueArea::Avail => &mut self.avail_ring,
            QueueArea::Used => &mut self.used_ring,
        };
        *address = half.replaced(*address, value);
    }

    /// The queue that these registers describe.
    ///
    /// # Errors
    /// If it is not one that a driver may enable.
    pub fn validated<M: GuestMemory>(
        &self,
        max_size: u16,
        event_idx: bool,
        mem: &M,
    ) -> Result<Queue, QueueConfigError> {
        let queue = Queue::try_from(QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: event_idx,
            size: self.size,
            ready: true,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        })
        .map_err(QueueConfigError::Shape)?;
        // Not virtio-queue's own check, which logs each refusal: a guest could fill the log by it.
        let readable = [self.desc(), self.avail()];
        let inside = |(start, len): (u64, u64), access| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            mem.check_range(GuestAddress(start), len, access)
        };
        let all_inside = readable
            .into_iter()
            .all(|ring| inside(ring, Permissions::Read))
            && inside(self.used(), Permissions::Write);
        // virtio-queue takes an available ring at 0 for a queue in reset.
        if self.avail_ring == 0 || !all_inside {
            return Err(QueueConfigError::OutsideMemory);
        }
        if self.rings_overlap() {
            return Err(QueueConfigError::Overlap);
        }
        Ok(queue)
    }

    /// Where the descriptor table is, and its bytes.
    fn desc(&self) -> (u64, u64) {
        (self.desc_table, u64::from(self.size).saturating_mul(16))
    }

    /// Where the available ring is, and its bytes with flags, index and `used_event`.
    fn avail(&self) -> (u64, u64) {
        let entries = u64::from(self.size).saturating_mul(2);
        (self.avail_ring, entries.saturating_add(6))
    }

    /// Where the used ring is, and its bytes with flags, index and `avail_event`.
    fn used(&self) -> (u64, u64) {
        let entries = u64::from(self.size).saturating_mul(8);
        (self.used_ring, entries.saturating_add(6))
    }

    /// True if two of the three areas share a byte.
    fn rings_overlap(&self) -> bool {
        let (desc, avail, used) = (self.desc(), self.avail(), self.used());
        let meet = |a: (u64, u64), b: (u64, u64)| {
            a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
        };
        meet(desc, avail) || meet(desc, used) || meet(avail, used)
    }
}

impl Half {
    /// The half that a "select" register chooses; None: beyond 64 bits.
    pub fn selected(select: u32) -> Option<Self> {
        match select {
            0 => Some(Self::Low),
            1 => Some(Self::High),
            _ => None,
        }
    }

    /// This half of `value`.
    pub fn of(self, value: u64) -> u32 {
        let half = match self {
            Self::Low => value & u64::from(u32::MAX),
            Self::High => value >> 32,
        };
        u32::try_from(half).unwrap_or(0)
    }

    /// `value` with this half replaced.
    pub fn replaced(self, value: u64, new: u32) -> u64 {
        match self {
            Self::Low => (value & !u64::from(u32::MAX)) | u64::from(new),
            Self::High => (value & u64::from(u32::MAX)) | (u64::from(new) << 32),
        }
    }
}
