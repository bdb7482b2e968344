//! What every virtio transport has in common: the status machine, feature negotiation, queue
//! configuration and the configuration space. (At rest: [`super::state`].)
//!
//! Guarantees, whatever the driver does and in whatever order (virtio 1.2, 2.1, 2.2, 3.1):
//! - status bits are only ever added by the driver, one step at a time, until it writes 0;
//! - `FEATURES_OK` sticks only for offered features with `VIRTIO_F_VERSION_1`, and freezes them;
//! - a queue is validated whole when it is enabled and is frozen from then on;
//! - the device is activated exactly once between two resets, and a reset returns only when the
//!   device has let go of guest memory;
//! - a mistake sets `DEVICE_NEEDS_RESET` on this device, and touches nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::Queue;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::queue_config::{Half, QueueArea, QueueConfig, QueueConfigError};
use crate::complaints::Complaints;
use crate::device::{Activation, DeviceError, GuestBitmap, GuestMem, VirtioDevice};
use crate::interrupt::Interrupt;
use crate::queue::DeviceQueue;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
pub(super) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
pub(super) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
pub(super) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;
/// The bits that a driver may set, in the order in which they take effect.
pub(super) const DRIVER_STEPS: [u32; 5] = [FAILED, ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];

/// The part of a transport that a device's threads reach without its lock.
#[derive(Debug, Default)]
pub struct SharedStatus {
    pub(super) status: AtomicU32,
    pub(super) generation: AtomicU32,
}

impl SharedStatus {
    /// Sets `DEVICE_NEEDS_RESET`; true if the driver is running and so must be told.
    pub fn set_needs_reset(&self) -> bool {
        self.status.fetch_or(NEEDS_RESET, Ordering::AcqRel) & DRIVER_OK != 0
    }

    /// A new configuration generation: the driver that read the space in two halves reads again.
    pub fn bump_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// A device with the state that all transports share. Called under the transport's lock.
pub struct TransportCore<B: GuestBitmap> {
    pub(super) device: Box<dyn VirtioDevice<B>>,
    pub(super) mem: GuestMem<B>,
    pub(super) shared: Arc<SharedStatus>,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) max_sizes: Vec<u16>,
    pub(super) queues: Vec<QueueConfig>,
    pub(super) kicks: Vec<EventFd>,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u32,
    pub(super) active: bool,
    pub(super) complaints: Complaints,
}

impl<B: GuestBitmap> TransportCore<B> {
    /// A transport core in reset, for `device`, which signals through `interrupt`.
    ///
    /// # Errors
    /// If the eventfds for the queues cannot be made (file descriptor limit).
    pub fn new(
        device: Box<dyn VirtioDevice<B>>,
        mem: GuestMem<B>,
        shared: Arc<SharedStatus>,
        interrupt: Arc<dyn Interrupt>,
    ) -> std::io::Result<Self> {
        let max_sizes = device.queue_max_sizes().to_vec();
        let kicks = max_sizes
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC))
            .collect::<Result<_, _>>()?;
        let mut core = Self {
            device,
            mem,
            shared,
            interrupt,
            queues: Vec::new(),
            max_sizes,
            kicks,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            active: false,
            complaints: Complaints::default(),
        };
        core.forget_driver();
        Ok(core)
    }

    /// Virtio device id (virtio 1.2, section 5).
    pub fn device_type(&self) -> u32 {
        self.device.device_type()
    }

    /// The device behind this transport.
    pub fn device(&mut self) -> &mut dyn VirtioDevice<B> {
        self.device.as_mut()
    }

    /// The way to the driver, for the machine's own events (a resized disk, say).
    pub fn interrupt(&self) -> &Arc<dyn Interrupt> {
        &self.interrupt
    }

    /// Doorbell of queue `queue`: a machine connects it with ioeventfd. None: no such queue.
    pub fn notify_eventfd(&self, queue: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(queue))
    }

    /// How many queues the device has.
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.kicks.len()).unwrap_or(u16::MAX)
    }

    // --- features ---------------------------------------------------------------------------

    /// Chooses which 32 bits [`device_features`](Self::device_features) shows.
    pub fn select_device_features(&mut self, select: u32) {
        self.device_features_select = select;
    }

    /// 32 of the offered feature bits; beyond 64 there are none.
    pub fn device_features(&self) -> u32 {
        let half = Half::selected(self.device_features_select);
        half.map_or(0, |half| half.of(self.device.features()))
    }

    /// Chooses which 32 bits [`set_driver_features`](Self::set_driver_features) sets.
    pub fn select_driver_features(&mut self, select: u32) {
        self.driver_features_select = select;
    }

    /// The driver's choice of features. Ignored before `DRIVER` and after `FEATURES_OK`.
    pub fn set_driver_features(&mut self, value: u32) {
        if self.status() & (DRIVER | FEATURES_OK) != DRIVER {
            tracing::debug!("driver features were written outside of negotiation: ignored");
            return;
        }
        if let Some(half) = Half::selected(self.driver_features_select) {
            self.driver_features = half.replaced(self.driver_features, value);
        }
    }

    // --- status -----------------------------------------------------------------------------

    /// The status register.
    pub fn status(&self) -> u32 {
        self.shared.status.load(Ordering::Acquire)
    }

    /// The driver writes the status register: 0 resets, anything else may only add bits.
    pub fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let old = self.status();
        if old & !value & !NEEDS_RESET != 0 {
            tracing::debug!(old, value, "the driver tried to clear status bits: ignored");
            return;
        }
        for step in DRIVER_STEPS {
            if value & !old & step != 0 && !self.take_step(step) {
                return;
            }
        }
    }

    /// Sets one status bit if the state allows it; false if it was refused.
    fn take_step(&mut self, step: u32) -> bool {
        let status = self.status();
        let before = match step {
            DRIVER => ACKNOWLEDGE,
            FEATURES_OK => ACKNOWLEDGE | DRIVER,
            DRIVER_OK => ACKNOWLEDGE | DRIVER | FEATURES_OK,
            _ => 0,
        };
        let refused = status & before != before
            || (step != FAILED && status & FAILED != 0)
            || (step == FEATURES_OK && !self.features_acceptable());
        if refused {
            tracing::debug!(status, step, "the driver's status bit is refused");
            return false;
        }
        self.shared.status.fetch_or(step, Ordering::AcqRel);
        if step == DRIVER_OK {
            self.start_device();
        }
        true
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.device.features() == 0
            && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn start_device(&mut self) {
        if self.status() & NEEDS_RESET != 0 {
            return; // A queue was refused: the driver has to begin again.
        }
        let started = self.activate().and_then(|()| self.device.resume());
        if let Err(error) = started {
            if let Some(swallowed) = self.complaints.allowed() {
                let device = self.device.device_type();
                tracing::warn!(%error, device, swallowed, "a device could not start");
            }
            self.interrupt.needs_reset();
        }
    }

    pub(super) fn activate(&mut self) -> Result<(), DeviceError> {
        let host = |doing| move |source| DeviceError::Host { doing, source };
        let mut queues = Vec::new();
        for (index, (config, kick)) in self.queues.iter().zip(&self.kicks).enumerate() {
            if !config.ready {
                continue;
            }
            let queue = self.validated(index).map_err(|error| {
                DeviceError::BadState(format!("queue {index} is no longer valid: {error}"))
            })?;
            let kick = kick
                .try_clone()
                .map_err(host("duplicate a queue's eventfd"))?;
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            queues.push(DeviceQueue::new(index, queue, kick));
        }
        self.device.activate(Activation {
            mem: self.mem.clone(),
            features: self.driver_features,
            queues,
            interrupt: Arc::clone(&self.interrupt),
        })?;
        self.active = true;
        Ok(())
    }

    /// Back to the state after power-on. Waits for I/O in flight.
    pub fn reset(&mut self) {
        self.device.reset();
        self.active = false;
        self.forget_driver();
    }

    fn forget_driver(&mut self) {
        self.queues = self
            .max_sizes
            .iter()
            .map(|max| QueueConfig::in_reset(*max))
            .collect();
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        for kick in &self.kicks {
            let _ = kick.read(); // A doorbell rung for the old driver; EAGAIN if it was not.
        }
        self.shared.status.store(0, Ordering::Release);
    }

    // --- queues -----------------------------------------------------------------------------

    /// Chooses the queue that the queue registers show. Any value is allowed (virtio 1.2, 4.2.2).
    pub fn select_queue(&mut self, queue: u32) {
        self.queue_select = queue;
    }

    /// The selected queue's registers; None: there is no such queue.
    pub fn queue(&self) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// The greatest size of the selected queue; 0: there is no such queue.
    pub fn queue_max_size(&self) -> u16 {
        let index = usize::try_from(self.queue_select).unwrap_or(usize::MAX);
        self.max_sizes.get(index).copied().unwrap_or(0)
    }

    /// Sets the selected queue's size; checked when the queue is enabled.
    pub fn set_queue_size(&mut self, size: u32) {
        // What does not fit 16 bits is no valid size either: 0 is refused at enable.
        let size = u16::try_from(size).unwrap_or(0);
        if let Some(queue) = self.configurable_queue() {
            queue.size = size;
        }
    }

    /// Sets half of one of the selected queue's addresses; checked when the queue is enabled.
    pub fn set_queue_address(&mut self, area: QueueArea, half: Half, value: u32) {
        if let Some(queue) = self.configurable_queue() {
            queue.set_address(area, half, value);
        }
    }

    /// Enables the selected queue (validating it whole), or disables it again before `DRIVER_OK`.
    pub fn set_queue_ready(&mut self, ready: bool) {
        if !self.configuring() {
            tracing::debug!("a queue was enabled or disabled outside of configuration: ignored");
            return;
        }
        let Ok(index) = usize::try_from(self.queue_select) else {
            return;
        };
        if ready
            && self.queues.get(index).is_some_and(|queue| !queue.ready)
            && let Err(error) = self.validated(index)
        {
            if let Some(swallowed) = self.complaints.allowed() {
                tracing::warn!(queue = index, %error, swallowed, "the driver enabled an invalid queue");
            }
            self.interrupt.needs_reset();
            return;
        }
        if let Some(queue) = self.queues.get_mut(index) {
            queue.ready = ready;
        }
    }

    /// The driver's notification, where no ioeventfd took it. Unknown queues are ignored.
    pub fn notify(&self, queue: u32) {
        let kick = u16::try_from(queue)
            .ok()
            .and_then(|queue| self.notify_eventfd(queue));
        match kick.map(|kick| kick.write(1)) {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::WouldBlock => {
                tracing::error!(%error, queue, "cannot write a queue's eventfd");
            }
            Some(_) => {}
            None => tracing::debug!(queue, "the driver notified a queue that does not exist"),
        }
    }

    /// Between `FEATURES_OK` and `DRIVER_OK`: the only time at which queues may be configured.
    fn configuring(&self) -> bool {
        self.status() & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK
    }

    fn configurable_queue(&mut self) -> Option<&mut QueueConfig> {
        let configuring = self.configuring();
        let index = usize::try_from(self.queue_select).ok()?;
        self.queues
            .get_mut(index)
            .filter(|queue| configuring && !queue.ready)
    }

    fn validated(&self, index: usize) -> Result<Queue, QueueConfigError> {
        let config = self
            .queues
            .get(index)
            .ok_or(QueueConfigError::OutsideMemory)?;
        let max_size = self.max_sizes.get(index).copied().unwrap_or(0);
        let event_idx = self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        config.validated(max_size, event_idx, &*self.mem.memory())
    }

    // --- configuration space ----------------------------------------------------------------

    /// The configuration generation.
    pub fn config_generation(&self) -> u32 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Reads the configuration space; bytes beyond its end are 0. (The space is built for each
    /// read: drivers read it when they probe a device or hear that it changed, not to do I/O.)
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.device.config();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let source = config.get(offset..).unwrap_or_default();
        data.fill(0);
        for (to, from) in data.iter_mut().zip(source) {
            *to = *from;
        }
    }

    /// Writes the configuration space; what does not fit whole is ignored.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        let fits = offset
            .checked_add(data.len())
            .is_some_and(|end| end <= self.device.config().len());
        if fits && self.status() & DRIVER != 0 {
            self.device.write_config(offset, data);
        }
    }
}
