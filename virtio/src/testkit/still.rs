//! A device without its thread, for fuzzing and property tests.
//!
//! Its job runs on the caller's thread when the caller says so: what the driver laid out before is
//! all that the device sees, and what it did is over when [`Still::run`] returns. A device with its
//! thread would often be reset before that thread had looked at anything.

use std::sync::{Arc, Mutex, MutexGuard};

use virtio_queue::QueueState;

use crate::block::Block;
use crate::device::{Activation, DeviceError, VirtioDevice};
use crate::net::Net;

/// A device whose job can be run by hand.
pub trait RunHere: VirtioDevice<()> + 'static {
    /// Runs the paused device's job until it has nothing to do, meets a fault, or has had
    /// `passes` passes. Returns how often it allocated (0 where nobody counts).
    fn run_here(&mut self, passes: usize) -> u64;
}

impl RunHere for Block<()> {
    fn run_here(&mut self, passes: usize) -> u64 {
        self.job_here(passes)
    }
}

impl RunHere for Net<()> {
    fn run_here(&mut self, passes: usize) -> u64 {
        self.job_here(passes)
    }
}

/// A device that never starts its thread. Clones are the same device.
pub struct Still<D> {
    device: Arc<Mutex<D>>,
    max_sizes: Vec<u16>,
}

impl<D> Clone for Still<D> {
    fn clone(&self) -> Self {
        Self {
            device: Arc::clone(&self.device),
            max_sizes: self.max_sizes.clone(),
        }
    }
}

impl<D: RunHere> Still<D> {
    pub fn new(device: D) -> Self {
        Self {
            max_sizes: device.queue_max_sizes().to_vec(),
            device: Arc::new(Mutex::new(device)),
        }
    }

    /// See [`RunHere::run_here`].
    pub fn run(&self, passes: usize) -> u64 {
        self.device().run_here(passes)
    }

    fn device(&self) -> MutexGuard<'_, D> {
        self.device.lock().unwrap()
    }
}

impl<D: RunHere> VirtioDevice<()> for Still<D> {
    fn device_type(&self) -> u32 {
        self.device().device_type()
    }

    fn features(&self) -> u64 {
        self.device().features()
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.max_sizes
    }

    fn config(&self) -> Vec<u8> {
        self.device().config()
    }

    fn activate(&mut self, activation: Activation<()>) -> Result<(), DeviceError> {
        self.device().activate(activation)
    }

    fn pause(&mut self) -> Result<Vec<(u16, QueueState)>, DeviceError> {
        self.device().pause()
    }

    /// Stays paused: [`Still::run`] is its thread.
    fn resume(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self) {
        self.device().reset();
    }
}
