//! Frames from the guest to the tap.
//!
//! Guarantees: a frame is written straight from guest memory. The header's offload fields are the
//! kernel's to judge (it refuses what makes no sense, and the frame is lost); its length is judged
//! here. What the tap does not take is lost, as on any wire: the guest is never held up.

use std::os::fd::BorrowedFd;

use vm_memory::GuestMemoryMmap;

use super::{HEADER_BYTES, MAX_FRAME};
use crate::chain::Chain;
use crate::device::GuestBitmap;
use crate::guest_io::{GuestIo, GuestIoError};
use crate::queue::{DeviceQueue, QueueFault};

/// Frames a pass: after so many, the driver hears of them and the other direction has its turn.
const PASS: u32 = 64;

#[derive(Default)]
pub(super) struct Transmitter {
    io: GuestIo,
    chain: Chain,
}

impl Transmitter {
    /// Sends up to [`PASS`] frames; true if there may be more.
    pub fn pass<B: GuestBitmap>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        queue: &mut DeviceQueue,
        tap: BorrowedFd<'_>,
    ) -> Result<bool, QueueFault> {
        let mut result = Ok(true);
        for _ in 0..PASS {
            result = self.send_next(mem, queue, tap);
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        // What was sent before a fault is the driver's again all the same.
        queue.publish(mem)?;
        result
    }

    /// Sends the next frame; false if there is none.
    fn send_next<B: GuestBitmap>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        queue: &mut DeviceQueue,
        tap: BorrowedFd<'_>,
    ) -> Result<bool, QueueFault> {
        if !queue.pop(mem, &mut self.chain)? {
            return Ok(false);
        }
        self.send(mem, tap)?;
        queue.add_used(mem, self.chain.head, 0)?;
        Ok(true)
    }

    fn send<B: GuestBitmap>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        tap: BorrowedFd<'_>,
    ) -> Result<(), QueueFault> {
        let frame = &self.chain.readable;
        if self.chain.writable.bytes() > 0 || frame.bytes() < HEADER_BYTES as u64 {
            return Err(QueueFault::Malformed(
                "a frame to send must be readable, with a header",
            ));
        }
        if frame.bytes() > MAX_FRAME as u64 {
            tracing::debug!(
                bytes = frame.bytes(),
                "a frame that is too long is not sent"
            );
            return Ok(());
        }
        match self.io.write_frame(mem, frame.as_slice(), tap) {
            Ok(_) => Ok(()),
            Err(GuestIoError::Guest(fault)) => Err(fault),
            Err(GuestIoError::Host(error)) => {
                tracing::debug!(%error, "the tap refused a frame");
                Ok(())
            }
        }
    }
}
