//! The life of a virtio device, in one trait.
//!
//! Guarantees: every device, on every transport, goes through the same states, and a transport
//! or a machine needs nothing but this trait to drive it:
//!
//! ```text
//!              activate            resume
//!   Inactive ------------> Paused <------> Running
//!      ^        restore      |     pause      |
//!      |                     |                |
//!      +------ reset --------+----------------+
//! ```
//!
//! A driver's `DRIVER_OK` is `activate` and `resume`; a restored snapshot is `restore`, `activate`
//! with the saved queues, and `resume` when the machine runs again: one path starts a device.
//!
//! The trait knows neither a transport nor KVM. It is generic over vm-memory's bitmap `B`, since
//! the pages that a device writes are invisible to KVM's dirty log and are tracked there.
//!
//! Threads: all methods are called by one owner (the transport, under its lock). A device does its
//! I/O in threads of its own, which end before `pause` and `reset` return.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::interrupt::Interrupt;
use crate::queue::DeviceQueue;

/// What guest memory's dirty bitmap must be, to be shared with a device's threads.
pub trait GuestBitmap: Bitmap + Send + Sync + 'static {}
impl<B: Bitmap + Send + Sync + 'static> GuestBitmap for B {}

/// Guest memory, replaceable while devices run (memory hotplug); a device takes one guard a drain.
pub type GuestMem<B> = GuestMemoryAtomic<GuestMemoryMmap<B>>;

/// What a transport hands to a device when the driver sets `DRIVER_OK`.
pub struct Activation<B: GuestBitmap> {
    /// Guest memory.
    pub mem: GuestMem<B>,
    /// The feature bits that the driver accepted: a subset of those offered.
    pub features: u64,
    /// The queues that the driver enabled, by ascending index; validated and from now on frozen.
    pub queues: Vec<DeviceQueue>,
    /// The way back to the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// Why a device could not do what its owner asked. The driver sees `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver set `DRIVER_OK` without enabling a queue that the device cannot do without.
    #[error("the driver set DRIVER_OK but did not enable queue {0}, which this device needs")]
    MissingQueue(u16),
    /// A call that the device's state does not allow; a bug of the caller, and harmless.
    #[error("{call} is not allowed while the device is {state}")]
    WrongState {
        /// The method that was called.
        call: &'static str,
        /// The state that the device is in.
        state: &'static str,
    },
    /// The host refused something that the device needs to run.
    #[error("cannot {doing}: {source}")]
    Host {
        /// What was attempted.
        doing: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
    /// A saved state does not fit this device.
    #[error("the saved state does not fit this device: {0}")]
    BadState(String),
}

/// A device's own part of a snapshot; what it serves and how far it got lies in its queues.
///
/// It describes what the *guest* was shown, so that a restore onto another backing (a disk of
/// another size, say) is refused instead of surprising the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Virtio device id (virtio 1.2, section 5).
    pub device_type: u32,
    /// The feature bits that were offered.
    pub features: u64,
    /// The whole configuration space, as the driver reads it.
    pub config: Vec<u8>,
}

/// One virtio device, free of transport and of KVM.
pub trait VirtioDevice<B: GuestBitmap>: Send {
    /// Virtio device id (virtio 1.2, section 5): 1 is net, 2 is block.
    fn device_type(&self) -> u32;

    /// The feature bits offered, `VIRTIO_F_VERSION_1` among them; constant for the device's life.
    fn features(&self) -> u64;

    /// The greatest size of each queue, in descriptors: powers of two up to 32768. Constant.
    fn queue_max_sizes(&self) -> &[u16];

    /// The device configuration space, little endian. Its length is constant; its content changes
    /// only together with [`Interrupt::signal_config`].
    fn config(&self) -> Vec<u8>;

    /// The driver wrote `data` at `offset` of the configuration space. The transport has checked
    /// that the range lies inside [`config`](Self::config). Most devices have nothing writable.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// `Inactive` to `Paused`: takes the queues and prepares to run, touching no guest memory yet.
    /// Called once after each reset, with features that the device offered and queues that have
    /// been validated. Work that the driver queued before is found without another notification.
    ///
    /// # Errors
    /// The device stays `Inactive`; the transport sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation<B>) -> Result<(), DeviceError>;

    /// `Running` to `Paused`: stops taking new work, finishes or returns to the queue what was
    /// taken, ends the device's threads, and reports where each queue stands. When it returns, the
    /// device does not touch guest memory until `resume`, and no completion is outstanding. It
    /// waits for host I/O in flight, and so may block as long as the storage does.
    ///
    /// # Errors
    /// `WrongState` if not `Running`; nothing has changed then.
    fn pause(&mut self) -> Result<Vec<(u16, QueueState)>, DeviceError>;

    /// The device's own state, without its queues; allowed in `Inactive` and `Paused`.
    fn save(&self) -> DeviceState {
        DeviceState {
            device_type: self.device_type(),
            features: self.features(),
            config: self.config(),
        }
    }

    /// Takes over a saved state, on a device that was just made and is `Inactive`.
    ///
    /// The state is untrusted input.
    ///
    /// # Errors
    /// `BadState` if the guest would find another device than it left.
    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        let own = self.save();
        if *state == own {
            return Ok(());
        }
        let what = if state.device_type != own.device_type {
            format!(
                "device type {} instead of {}",
                state.device_type, own.device_type
            )
        } else if state.features != own.features {
            format!(
                "features {:#x} instead of {:#x}",
                state.features, own.features
            )
        } else {
            "its configuration space (capacity, MAC or MTU, say) differs".to_owned()
        };
        Err(DeviceError::BadState(what))
    }

    /// `Paused` to `Running`: starts the device's threads, with the queues where `activate` or
    /// `pause` left them.
    ///
    /// # Errors
    /// `WrongState` if not `Paused`; `Host` if a thread could not be started (still `Paused`).
    fn resume(&mut self) -> Result<(), DeviceError>;

    /// Any state to `Inactive`: as `pause`, then forgets the queues and the driver's features.
    /// I/O in flight is finished first, so that a driver that reuses its memory after reading
    /// status 0 finds no late write in it. Never fails.
    fn reset(&mut self);
}
