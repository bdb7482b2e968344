//! A transport at rest: pause, save and restore.
//!
//! Guarantees: a restored transport is one that a driver could have left; a state that contradicts
//! itself, this transport or this device is refused, and the transport is then in reset. The state
//! is untrusted input.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::core::{DRIVER_OK, DRIVER_STEPS, FEATURES_OK, NEEDS_RESET, TransportCore};
use super::queue_config::QueueConfig;
use crate::device::{DeviceError, DeviceState, GuestBitmap};

/// A transport with its device, at rest. Untrusted when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// The status register.
    pub status: u32,
    /// The face's pending interrupt bits.
    pub interrupt_status: u32,
    /// The configuration generation.
    pub generation: u32,
    /// Which 32 feature bits the driver reads.
    pub device_features_select: u32,
    /// Which 32 feature bits the driver writes.
    pub driver_features_select: u32,
    /// The features that the driver wrote.
    pub driver_features: u64,
    /// The queue that the queue registers show.
    pub queue_select: u32,
    /// All queues, by index.
    pub queues: Vec<QueueConfig>,
    /// The device's own part.
    pub device: DeviceState,
}

/// Why a saved transport was refused.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state contradicts itself or this transport.
    #[error("the saved virtio transport cannot be restored: {0}")]
    Invalid(String),
    /// The device refused its part.
    #[error("the saved virtio device cannot be restored")]
    Device(#[source] DeviceError),
}

impl<B: GuestBitmap> TransportCore<B> {
    /// Stops the device, if it runs, so that guest memory is at rest.
    ///
    /// # Errors
    /// As [`VirtioDevice::pause`].
    pub fn pause(&mut self) -> Result<(), DeviceError> {
        if !self.active {
            return Ok(());
        }
        for (index, state) in self.device.pause()? {
            if let Some(queue) = self.queues.get_mut(usize::from(index)) {
                queue.next_avail = state.next_avail;
                queue.next_used = state.next_used;
            }
        }
        Ok(())
    }

    /// Lets a paused device run again.
    ///
    /// # Errors
    /// As [`VirtioDevice::resume`].
    pub fn resume(&mut self) -> Result<(), DeviceError> {
        if self.active {
            self.device.resume()
        } else {
            Ok(())
        }
    }

    /// The state of a paused transport; `interrupt_status` is the face's.
    pub fn save(&self, interrupt_status: u32) -> TransportState {
        TransportState {
            status: self.status(),
            interrupt_status,
            generation: self.config_generation(),
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            driver_features: self.driver_features,
            queue_select: self.queue_select,
            queues: self.queues.clone(),
            device: self.device.save(),
        }
    }

    /// Takes over a saved state, on a transport that was just made; leaves the device paused.
    ///
    /// # Errors
    /// If the state could not have come from this transport and device. The transport is then in
    /// reset.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), RestoreError> {
        self.check_restorable(state)?;
        self.device
            .restore(&state.device)
            .map_err(RestoreError::Device)?;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.driver_features = state.driver_features;
        self.queue_select = state.queue_select;
        self.queues.clone_from(&state.queues);
        self.shared
            .generation
            .store(state.generation, Ordering::Release);
        self.shared.status.store(state.status, Ordering::Release);
        if state.status & DRIVER_OK != 0
            && state.status & NEEDS_RESET == 0
            && let Err(error) = self.activate()
        {
            self.reset();
            return Err(RestoreError::Device(error));
        }
        Ok(())
    }

    fn check_restorable(&self, state: &TransportState) -> Result<(), RestoreError> {
        let invalid = |text: String| Err(RestoreError::Invalid(text));
        let known = DRIVER_STEPS
            .iter()
            .fold(NEEDS_RESET, |all, step| all | step);
        if state.status & !known != 0 {
            return invalid(format!("status {:#x} has unknown bits", state.status));
        }
        if state.queues.len() != self.queues.len() {
            return invalid(format!(
                "it has {} queues, the device {}",
                state.queues.len(),
                self.queues.len()
            ));
        }
        let negotiated = state.status & (FEATURES_OK | DRIVER_OK) != 0;
        let acceptable = state.driver_features & !self.device.features() == 0
            && state.driver_features & (1 << VIRTIO_F_VERSION_1) != 0;
        if negotiated && !acceptable {
            return invalid(format!(
                "features {:#x} were never offered",
                state.driver_features
            ));
        }
        if state.status & DRIVER_OK != 0 && state.status & FEATURES_OK == 0 {
            return invalid("DRIVER_OK without FEATURES_OK".to_owned());
        }
        Ok(())
    }
}
