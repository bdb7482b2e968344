//! A descriptor chain, parsed once into what a device may read and what it may write.
//!
//! Guarantees: a loaded [`Chain`] ended where the driver said (no loop, no descriptor out of the
//! table, no table in a table), has all that is readable before all that is writable (virtio 1.2,
//! 2.7.4.2), and at most [`MAX_SEGMENTS`] segments. Addresses are checked when they are used, since
//! only then is memory guarded. The lists are reused: loading allocates nothing in the steady
//! state.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::queue::QueueFault;

/// The most descriptors that a chain may have, indirect ones included: Linux's `UIO_MAXIOV`, so
/// that any chain fits one vectored system call.
pub const MAX_SEGMENTS: usize = 1024;

/// A run of guest physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub addr: GuestAddress,
    /// Its length in bytes, never 0 within [`Segments`].
    pub len: u32,
}

/// Runs of guest memory, seen as one buffer that can be shortened at both ends.
#[derive(Debug, Default)]
pub struct Segments {
    list: Vec<Segment>,
    first: usize,
    bytes: u64,
}

impl Segments {
    /// The length of the buffer in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The runs, in order.
    pub fn as_slice(&self) -> &[Segment] {
        self.list.get(self.first..).unwrap_or_default()
    }

    /// Empties the buffer, keeping its allocation.
    pub fn clear(&mut self) {
        self.list.clear();
        self.first = 0;
        self.bytes = 0;
    }

    /// Adds a run at the end; an empty one vanishes.
    pub fn push(&mut self, segment: Segment) {
        if segment.len > 0 {
            self.list.push(segment);
            self.bytes = self.bytes.saturating_add(u64::from(segment.len));
        }
    }

    /// Drops `count` bytes at the front; all of them if there are fewer.
    pub fn advance(&mut self, count: u64) {
        let mut left = count.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(left);
        while let Some(segment) = self.list.get_mut(self.first) {
            if left < u64::from(segment.len) {
                let skip = u32::try_from(left).unwrap_or(segment.len);
                // An address that wraps here is refused when it is resolved: it ends beyond it.
                segment.addr = GuestAddress(segment.addr.0.saturating_add(left));
                segment.len = segment.len.saturating_sub(skip);
                return;
            }
            left = left.saturating_sub(u64::from(segment.len));
            self.first = self.first.saturating_add(1);
        }
    }

    /// Forgets the runs that were dropped, so that a buffer that is used as a queue stays small.
    pub fn compact(&mut self) {
        self.list.drain(..self.first.min(self.list.len()));
        self.first = 0;
    }

    /// Splits the last byte off; None if the buffer is empty.
    pub fn pop_last_byte(&mut self) -> Option<GuestAddress> {
        let segment = self.list.last_mut()?;
        segment.len = segment.len.checked_sub(1)?;
        let addr = segment.addr.0.checked_add(u64::from(segment.len))?;
        if segment.len == 0 {
            self.list.pop();
        }
        self.bytes = self.bytes.saturating_sub(1);
        Some(GuestAddress(addr))
    }

    /// Copies from the buffer's front into `out`, which it must be long enough to fill.
    pub fn copy_to<M: GuestMemory>(&self, mem: &M, out: &mut [u8]) -> Result<(), QueueFault> {
        let mut filled = 0usize;
        for segment in self.as_slice() {
            let rest = out.get_mut(filled..).unwrap_or_default();
            let len = rest
                .len()
                .min(usize::try_from(segment.len).unwrap_or(usize::MAX));
            let now = rest.get_mut(..len).unwrap_or_default();
            mem.read_slice(now, segment.addr)
                .map_err(|_| QueueFault::outside(segment))?;
            filled = filled.saturating_add(len);
            if filled == out.len() {
                return Ok(());
            }
        }
        if out.is_empty() {
            Ok(())
        } else {
            Err(QueueFault::Malformed("a buffer is too short"))
        }
    }

    /// Copies `data` into the buffer, `offset` bytes from its front; what does not fit is a fault.
    pub fn copy_from<M: GuestMemory>(
        &self,
        mem: &M,
        offset: u64,
        data: &[u8],
    ) -> Result<(), QueueFault> {
        let mut skip = offset;
        let mut rest = data;
        for segment in self.as_slice() {
            let Some(room) = u64::from(segment.len)
                .checked_sub(skip)
                .filter(|room| *room > 0)
            else {
                skip = skip.saturating_sub(u64::from(segment.len));
                continue;
            };
            let addr = GuestAddress(segment.addr.0.saturating_add(skip));
            let len = rest.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let Some((now, later)) = rest.split_at_checked(len) else {
                break;
            };
            mem.write_slice(now, addr)
                .map_err(|_| QueueFault::outside(segment))?;
            rest = later;
            skip = 0;
            if rest.is_empty() {
                break;
            }
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(QueueFault::Malformed("a buffer is too short"))
        }
    }
}

/// One request as the driver laid it out.
#[derive(Debug, Default)]
pub struct Chain {
    /// The chain's identity towards the driver.
    pub head: u16,
    /// What the device may read.
    pub readable: Segments,
    /// What the device may write.
    pub writable: Segments,
}

impl Chain {
    /// Replaces the content by `descriptors`.
    pub fn load<M>(&mut self, descriptors: DescriptorChain<M>) -> Result<(), QueueFault>
    where
        M: Deref,
        M::Target: GuestMemory,
    {
        let head = descriptors.head_index();
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        // The iterator ends silently on a loop, a bad index or a bad table; then the descriptor
        // before promised a next one that never came.
        let mut complete = false;
        let mut writing = false;
        for (position, descriptor) in descriptors.enumerate() {
            if position >= MAX_SEGMENTS {
                return Err(QueueFault::ChainTooLong { head });
            }
            let segment = Segment {
                addr: descriptor.addr(),
                len: descriptor.len(),
            };
            if descriptor.is_write_only() {
                writing = true;
                self.writable.push(segment);
            } else if writing {
                return Err(QueueFault::ReadableAfterWritable { head });
            } else {
                self.readable.push(segment);
            }
            complete = !descriptor.has_next();
        }
        if complete {
            Ok(())
        } else {
            Err(QueueFault::BrokenChain { head })
        }
    }
}
