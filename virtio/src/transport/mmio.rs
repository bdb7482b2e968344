//! The virtio-mmio face, version 2 (virtio 1.2, 4.2.2): registers onto the transport core.
//!
//! Guarantees: every offset, width and alignment is safe. Registers answer aligned 32-bit accesses
//! only (4.2.2.2); other accesses read 0 and write nothing. The configuration space, from 0x100,
//! may be accessed in any width.
//!
//! A machine maps [`MMIO_REGION_SIZE`] bytes, and for speed registers each queue's
//! [`notify_eventfd`](MmioTransport::notify_eventfd) at `base + QUEUE_NOTIFY` (0x50), 32 bits wide,
//! with the queue's number as datamatch; without it a write to that register does the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::device::{DeviceError, GuestBitmap, GuestMem, VirtioDevice};
use crate::interrupt::{Interrupt, IrqLine};
use crate::transport::core::{SharedStatus, TransportCore};
use crate::transport::queue_config::{Half, QueueArea};
use crate::transport::state::{RestoreError, TransportState};

/// Bytes of guest physical address space that one device takes.
pub const MMIO_REGION_SIZE: u64 = 0x1000;
/// Offset of the queue notification register: where a machine puts its ioeventfds.
pub const QUEUE_NOTIFY: u64 = 0x50;

const CONFIG: u64 = 0x100;
/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// Subsystem vendor; drivers do not interpret it. "BRTH", little endian.
const VENDOR: u32 = 0x4854_5242;
const INTERRUPT_QUEUE: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

/// A device behind virtio-mmio registers.
pub struct MmioTransport<B: GuestBitmap> {
    core: TransportCore<B>,
    interrupt: Arc<MmioInterrupt>,
}

/// The interrupt status register and the line that goes with it.
struct MmioInterrupt {
    status: AtomicU32,
    shared: Arc<SharedStatus>,
    line: Arc<dyn IrqLine>,
}

impl MmioInterrupt {
    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::AcqRel);
        self.line.trigger();
    }
}

impl Interrupt for MmioInterrupt {
    fn signal_queue(&self, _queue: u16) {
        self.raise(INTERRUPT_QUEUE);
    }

    fn signal_config(&self) {
        self.shared.bump_generation();
        self.raise(INTERRUPT_CONFIG);
    }

    fn needs_reset(&self) {
        if self.shared.set_needs_reset() {
            self.signal_config();
        }
    }
}

impl<B: GuestBitmap> MmioTransport<B> {
    /// `device` in reset, behind registers, with `line` as its interrupt.
    ///
    /// # Errors
    /// If the eventfds for the queues cannot be made (file descriptor limit).
    pub fn new(
        device: Box<dyn VirtioDevice<B>>,
        mem: GuestMem<B>,
        line: Arc<dyn IrqLine>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(SharedStatus::default());
        let interrupt = Arc::new(MmioInterrupt {
            status: AtomicU32::new(0),
            shared: Arc::clone(&shared),
            line,
        });
        let to_device = Arc::clone(&interrupt) as Arc<dyn Interrupt>;
        let core = TransportCore::new(device, mem, shared, to_device)?;
        Ok(Self { core, interrupt })
    }

    /// The state that is not the face's own.
    pub fn core(&mut self) -> &mut TransportCore<B> {
        &mut self.core
    }

    /// How many queues the device has: one ioeventfd each.
    pub fn queue_count(&self) -> u16 {
        self.core.queue_count()
    }

    /// The doorbell of queue `queue`; None: there is no such queue.
    pub fn notify_eventfd(&self, queue: u16) -> Option<&EventFd> {
        self.core.notify_eventfd(queue)
    }

    /// The guest reads `data.len()` bytes at `offset` of the region.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.core.read_config(offset, data);
            return;
        }
        data.fill(0);
        if let Ok(word) = <&mut [u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    /// The guest writes `data` at `offset` of the region.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.core.write_config(offset, data);
        } else if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        } else {
            tracing::debug!(
                offset,
                width = data.len(),
                "an odd register write is ignored"
            );
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.core.device_type(),
            0x0c => VENDOR,
            0x10 => self.core.device_features(),
            0x34 => u32::from(self.core.queue_max_size()),
            0x44 => self.core.queue().map_or(0, |queue| u32::from(queue.ready)),
            0x60 => self.interrupt.status.load(Ordering::Acquire),
            0x70 => self.core.status(),
            // Shared memory regions: there are none, which is said by a length of all ones.
            0xb0..=0xbc => u32::MAX,
            0xfc => self.core.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        use Half::{High, Low};
        use QueueArea::{Avail, Desc, Used};
        match offset {
            0x14 => self.core.select_device_features(value),
            0x20 => self.core.set_driver_features(value),
            0x24 => self.core.select_driver_features(value),
            0x30 => self.core.select_queue(value),
            0x38 => self.core.set_queue_size(value),
            0x44 => self.core.set_queue_ready(value & 1 != 0),
            QUEUE_NOTIFY => self.core.notify(value),
            0x64 => {
                self.interrupt.status.fetch_and(!value, Ordering::AcqRel);
            }
            0x70 => {
                self.core.set_status(value);
                if value == 0 {
                    self.interrupt.status.store(0, Ordering::Release);
                }
            }
            0x80 => self.core.set_queue_address(Desc, Low, value),
            0x84 => self.core.set_queue_address(Desc, High, value),
            0x90 => self.core.set_queue_address(Avail, Low, value),
            0x94 => self.core.set_queue_address(Avail, High, value),
            0xa0 => self.core.set_queue_address(Used, Low, value),
            0xa4 => self.core.set_queue_address(Used, High, value),
            _ => tracing::debug!(offset, "a write to no register is ignored"),
        }
    }

    /// Resets the device, as the driver's write of 0 to the status register (machine reset).
    pub fn reset(&mut self) {
        self.core.reset();
        self.interrupt.status.store(0, Ordering::Release);
    }

    /// Stops the device, if it runs, so that guest memory is at rest.
    ///
    /// # Errors
    /// As [`VirtioDevice::pause`].
    pub fn pause(&mut self) -> Result<(), DeviceError> {
        self.core.pause()
    }

    /// Lets a paused device run again.
    ///
    /// # Errors
    /// As [`VirtioDevice::resume`].
    pub fn resume(&mut self) -> Result<(), DeviceError> {
        self.core.resume()
    }

    /// The state of a paused transport.
    pub fn save(&self) -> TransportState {
        self.core
            .save(self.interrupt.status.load(Ordering::Acquire))
    }

    /// Takes over a saved state, on a transport that was just made; leaves the device paused.
    ///
    /// # Errors
    /// As [`TransportCore::restore`].
    pub fn restore(&mut self, state: &TransportState) -> Result<(), RestoreError> {
        self.core.restore(state)?;
        let known = INTERRUPT_QUEUE | INTERRUPT_CONFIG;
        self.interrupt
            .status
            .store(state.interrupt_status & known, Ordering::Release);
        Ok(())
    }
}
