//! A queue in a device's hands.
//!
//! Guarantees: a [`DeviceQueue`] exists only for rings that were validated whole when the driver
//! enabled them; its size and addresses never change. Whatever the driver writes into the rings
//! later becomes a [`QueueFault`], never a panic. Used entries become visible to the driver
//! together, by [`DeviceQueue::publish`], and one interrupt a drain is enough
//! ([`DeviceQueue::wants_interrupt`], virtio 1.2, 2.7.7 and 2.7.10).

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory};
use vmm_sys_util::eventfd::EventFd;

use crate::chain::{Chain, Segment};

/// A driver's mistake in its rings or requests. It ends the device's work until a reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueFault {
    /// The rings themselves: an available index too far ahead, a ring that left guest memory.
    #[error("the rings are unusable: {0}")]
    Ring(virtio_queue::Error),
    /// A chain that loops, leaves its table, nests tables or exceeds 4 GiB.
    #[error("the descriptor chain that begins at {head} is broken (loop, index, table or length)")]
    BrokenChain {
        /// Where the chain begins.
        head: u16,
    },
    /// A device-readable descriptor behind a device-writable one.
    #[error("the descriptor chain that begins at {head} has readable parts after writable ones")]
    ReadableAfterWritable {
        /// Where the chain begins.
        head: u16,
    },
    /// More descriptors than [`MAX_SEGMENTS`](crate::chain::MAX_SEGMENTS).
    #[error("the descriptor chain that begins at {head} has too many descriptors")]
    ChainTooLong {
        /// Where the chain begins.
        head: u16,
    },
    /// A buffer that is not, or not wholly, in guest memory.
    #[error("{len} bytes at {addr:#x} are not all guest memory")]
    OutsideMemory {
        /// Guest physical address.
        addr: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A request that the device's own rules do not allow.
    #[error("{0}")]
    Malformed(&'static str),
}

impl QueueFault {
    /// The fault of a buffer outside of guest memory.
    pub fn outside(segment: &Segment) -> Self {
        Self::OutsideMemory {
            addr: segment.addr.0,
            len: segment.len,
        }
    }

    /// The same fault, told in a device's terms if it was only "too short".
    pub fn instead(self, text: &'static str) -> Self {
        if let Self::Malformed(_) = self {
            Self::Malformed(text)
        } else {
            self
        }
    }
}

/// An enabled virtqueue with its doorbell.
pub struct DeviceQueue {
    /// The queue's number in the device.
    pub index: u16,
    /// Written by the driver's notification (through ioeventfd, or by the transport).
    pub kick: EventFd,
    queue: Queue,
    /// Where the used index stood when the driver was last considered for an interrupt.
    considered: Wrapping<u16>,
}

impl DeviceQueue {
    /// Wraps a queue that the transport has validated.
    pub fn new(index: u16, queue: Queue, kick: EventFd) -> Self {
        let considered = Wrapping(queue.next_used());
        Self {
            index,
            kick,
            queue,
            considered,
        }
    }

    /// Size in descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Where the queue stands.
    pub fn state(&self) -> virtio_queue::QueueState {
        self.queue.state()
    }

    /// Takes the next available chain into `chain`; false if there is none.
    ///
    /// # Errors
    /// If the available index is impossible or the chain is malformed.
    pub fn pop<M: GuestMemory>(&mut self, mem: &M, chain: &mut Chain) -> Result<bool, QueueFault> {
        match self.queue.iter(mem).map_err(QueueFault::Ring)?.next() {
            Some(descriptors) => chain.load(descriptors).map(|()| true),
            None => Ok(false),
        }
    }

    /// True if [`pop`](Self::pop) would find something (or a fault). Cheap: for polling.
    pub fn has_available<M: GuestMemory>(&self, mem: &M) -> bool {
        // An unreadable ring says true, so that pop reports it.
        self.queue
            .avail_idx(mem, Ordering::Acquire)
            .map_or(true, |index| index.0 != self.queue.next_avail())
    }

    /// Gives the last `count` chains popped back, unused and in order.
    pub fn unpop(&mut self, count: u16) {
        let next = Wrapping(self.queue.next_avail()) - Wrapping(count);
        self.queue.set_next_avail(next.0);
    }

    /// Writes one used entry; the driver sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// If the used ring is no longer guest memory, or the head is out of range.
    pub fn add_used<M: GuestMemory>(
        &mut self,
        mem: &M,
        head: u16,
        len: u32,
    ) -> Result<(), QueueFault> {
        if head >= self.queue.size() {
            return Err(QueueFault::BrokenChain { head });
        }
        let next = self.queue.next_used();
        let slot = next.checked_rem(self.queue.size()).unwrap_or(0);
        let at = ring_address(self.queue.used_ring(), u64::from(slot).saturating_mul(8), 4)?;
        // struct virtq_used_elem: le32 id, le32 len.
        let element = u64::from(head) | (u64::from(len) << 32);
        mem.write_obj(element.to_le(), at)
            .map_err(|error| QueueFault::Ring(virtio_queue::Error::GuestMemory(error)))?;
        self.queue.set_next_used(next.wrapping_add(1));
        Ok(())
    }

    /// Shows the driver all used entries written so far.
    ///
    /// # Errors
    /// If the used ring is no longer guest memory.
    pub fn publish<M: GuestMemory>(&mut self, mem: &M) -> Result<(), QueueFault> {
        let at = ring_address(self.queue.used_ring(), 0, 2)?;
        mem.store(self.queue.next_used().to_le(), at, Ordering::Release)
            .map_err(|error| QueueFault::Ring(virtio_queue::Error::GuestMemory(error)))
    }

    /// Whether the driver wants an interrupt for what was published since the last call.
    ///
    /// # Errors
    /// If the available ring is no longer guest memory.
    pub fn wants_interrupt<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, QueueFault> {
        let old = self.considered;
        let new = Wrapping(self.queue.next_used());
        self.considered = new;
        if new == old {
            return Ok(false);
        }
        // The used index must be visible before the driver's wish is read: the driver writes its
        // wish, then reads the used index.
        fence(Ordering::SeqCst);
        let load = |at: GuestAddress| {
            mem.load::<u16>(at, Ordering::Relaxed)
                .map(u16::from_le)
                .map_err(|error| QueueFault::Ring(virtio_queue::Error::GuestMemory(error)))
        };
        let avail = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            let entries = u64::from(self.queue.size()).saturating_mul(2);
            let event = Wrapping(load(ring_address(avail, entries, 4)?)?);
            Ok(new - event - Wrapping(1) < new - old)
        } else {
            let flags = u32::from(load(ring_address(avail, 0, 0)?)?);
            Ok(flags & VRING_AVAIL_F_NO_INTERRUPT == 0)
        }
    }

    /// Tells the driver that notifications are not needed for now.
    ///
    /// # Errors
    /// If the used ring is no longer guest memory.
    pub fn disable_notification<M: GuestMemory>(&mut self, mem: &M) -> Result<(), QueueFault> {
        self.queue
            .disable_notification(mem)
            .map_err(QueueFault::Ring)
    }

    /// Asks the driver to notify from now on; true if something arrived in between, for which
    /// there may be no notification.
    ///
    /// # Errors
    /// If the rings are no longer guest memory.
    pub fn enable_notification<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, QueueFault> {
        self.queue
            .enable_notification(mem)
            .map_err(QueueFault::Ring)
    }
}

fn ring_address(base: u64, entry: u64, header: u64) -> Result<GuestAddress, QueueFault> {
    GuestAddress(base)
        .checked_add(entry.saturating_add(header))
        .ok_or(QueueFault::Ring(virtio_queue::Error::AddressOverflow))
}
