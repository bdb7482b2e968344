//! Serves the queue of a raw disk: the job of the block device's thread.
//!
//! Guarantees: a request is answered in the order it was taken, straight between the file and
//! guest memory, with no copy and no allocation. A host error is the driver's `IOERR`, not the
//! VMM's end. Notifications are off while the queue is drained, and one interrupt is sent a drain.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryMmap};

use super::request::{ID_BYTES, Operation, Request, place};
use crate::chain::Chain;
use crate::complaints::Complaints;
use crate::device::{GuestBitmap, GuestMem};
use crate::guest_io::{GuestIo, GuestIoError};
use crate::interrupt::Interrupt;
use crate::patience::Patience;
use crate::queue::{DeviceQueue, QueueFault};
use crate::worker::{Control, Job, Sources};

const KICK: Sources = 1;
/// How many requests may be answered before the driver hears of them: a slow disk must not hold
/// the first answer of a long queue back until the last.
const BATCH: u32 = 64;

/// The disk behind the queue.
pub(super) struct Disk {
    pub file: Arc<File>,
    pub read_only: bool,
    /// In sectors.
    pub capacity: u64,
    pub id: [u8; ID_BYTES],
    /// Flushes reach the file.
    pub durable: bool,
    /// The driver knows no flush, so every write has to be durable when it is answered.
    pub write_through: bool,
}

pub(super) struct RawJob<B: GuestBitmap> {
    pub mem: GuestMem<B>,
    pub queue: DeviceQueue,
    pub interrupt: Arc<dyn Interrupt>,
    pub disk: Disk,
    /// For the log.
    pub name: String,
    pub complaints: Arc<Complaints>,
    pub io: GuestIo,
    pub chain: Chain,
    pub patience: Patience,
}

impl<B: GuestBitmap> Job for RawJob<B> {
    fn sources(&self) -> Vec<(Sources, RawFd)> {
        vec![(KICK, self.queue.kick.as_raw_fd())]
    }

    fn run(&mut self, _ready: Sources, control: &Control) -> Result<Sources, QueueFault> {
        self.patience.woken();
        let guard = self.mem.memory();
        let mem: &GuestMemoryMmap<B> = &guard;
        self.queue.disable_notification(mem)?;
        while !control.stopping() {
            self.drain(mem)?;
            let queue = &self.queue;
            if self
                .patience
                .look(|| queue.has_available(mem) || control.stopping())
            {
                continue;
            }
            self.patience.sleeping();
            if !self.queue.enable_notification(mem)? {
                return Ok(0);
            }
            self.queue.disable_notification(mem)?;
        }
        // Paused: what the driver adds from now on, it shall notify.
        self.queue.enable_notification(mem)?;
        Ok(KICK)
    }

    fn failed(&mut self, fault: &QueueFault) {
        if let Some(swallowed) = self.complaints.allowed() {
            let disk = &self.name;
            tracing::warn!(
                disk, %fault, swallowed,
                "a block driver's mistake: the disk stops until it is reset"
            );
        }
        self.interrupt.needs_reset();
    }
}

impl<B: GuestBitmap> RawJob<B> {
    /// Answers up to [`BATCH`] requests, then tells the driver, if it wants to know.
    fn drain(&mut self, mem: &GuestMemoryMmap<B>) -> Result<(), QueueFault> {
        let mut result = Ok(true);
        for _ in 0..BATCH {
            result = self.serve_next(mem);
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        // What was answered before a fault is the driver's all the same.
        if self.queue.wants_interrupt(mem)? {
            self.interrupt.signal_queue(self.queue.index);
        }
        result.map(drop)
    }

    /// Answers the next request; false if there is none.
    fn serve_next(&mut self, mem: &GuestMemoryMmap<B>) -> Result<bool, QueueFault> {
        if !self.queue.pop(mem, &mut self.chain)? {
            return Ok(false);
        }
        let written = self.answer(mem)?;
        self.queue.add_used(mem, self.chain.head, written)?;
        self.queue.publish(mem)?;
        Ok(true)
    }

    /// Serves the request in `self.chain`; returns how many bytes were written to the guest.
    fn answer(&mut self, mem: &GuestMemoryMmap<B>) -> Result<u32, QueueFault> {
        let request = Request::parse(mem, &mut self.chain)?;
        let (status, data) = match self.serve(mem, &request) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(Refusal::Failed) => (VIRTIO_BLK_S_IOERR, 0),
            Err(Refusal::Host(error)) => {
                self.complain(&request, &error);
                (VIRTIO_BLK_S_IOERR, 0)
            }
            Err(Refusal::Fault(fault)) => return Err(fault),
        };
        let status = u8::try_from(status).unwrap_or(u8::MAX);
        mem.write_obj(status, request.status)
            .map_err(|_| QueueFault::OutsideMemory {
                addr: request.status.0,
                len: 1,
            })?;
        Ok(data.saturating_add(1))
    }

    fn complain(&self, request: &Request, error: &io::Error) {
        if let Some(swallowed) = self.complaints.allowed() {
            let (disk, sector, operation) = (&self.name, request.sector, request.operation);
            tracing::warn!(
                disk, ?operation, sector, %error, swallowed,
                "a disk's file failed: the guest gets an I/O error (is its file system full?)"
            );
        }
    }

    fn serve(&mut self, mem: &GuestMemoryMmap<B>, request: &Request) -> Result<u32, Refusal> {
        let disk = &self.disk;
        let file = disk.file.as_fd();
        let place = |bytes| place(request.sector, bytes, disk.capacity).ok_or(Refusal::Failed);
        match request.operation {
            Operation::Read => {
                let data = &self.chain.writable;
                let offset = place(data.bytes())?;
                self.io.read_at(mem, data.as_slice(), file, offset)?;
                u32::try_from(data.bytes()).map_err(|_| Refusal::Failed)
            }
            Operation::Write => {
                let data = &self.chain.readable;
                let offset = place(data.bytes())?;
                if disk.read_only {
                    return Err(Refusal::Failed);
                }
                self.io.write_at(mem, data.as_slice(), file, offset)?;
                if disk.write_through {
                    disk.file.sync_data().map_err(Refusal::Host)?;
                }
                Ok(0)
            }
            Operation::Flush => {
                if disk.durable {
                    disk.file.sync_data().map_err(Refusal::Host)?;
                }
                Ok(0)
            }
            Operation::GetId => {
                if self.chain.writable.bytes() < disk.id.len() as u64 {
                    return Err(Refusal::Failed);
                }
                self.chain
                    .writable
                    .copy_from(mem, 0, &disk.id)
                    .map_err(Refusal::Fault)?;
                Ok(ID_BYTES as u32)
            }
            Operation::Unsupported(kind) => {
                tracing::debug!(kind, "a block request of a type that was not offered");
                Err(Refusal::Unsupported)
            }
        }
    }
}

/// Why a request was not done.
enum Refusal {
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported,
    /// `VIRTIO_BLK_S_IOERR`: the request cannot be.
    Failed,
    /// `VIRTIO_BLK_S_IOERR`: the file did not do it.
    Host(io::Error),
    /// The driver pointed out of its memory.
    Fault(QueueFault),
}

impl From<GuestIoError> for Refusal {
    fn from(error: GuestIoError) -> Self {
        match error {
            GuestIoError::Guest(fault) => Self::Fault(fault),
            GuestIoError::Host(error) => Self::Host(error),
        }
    }
}
