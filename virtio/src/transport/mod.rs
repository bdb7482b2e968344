//! Transports: how a guest's driver finds a device and negotiates with it.
//!
//! One [`core`] holds everything that virtio says of every transport (status, features, queue
//! configuration, reset); a face only maps registers to it. [`mmio`] is such a face (virtio 1.2,
//! 4.2). The place of the second, `pci` (virtio 1.2, 4.1: capabilities, MSI-X, notify structure),
//! is here beside it: it would bring its own [`Interrupt`](crate::Interrupt) that turns a queue
//! into an MSI-X vector, and no state machine of its own.

pub mod core;
pub mod mmio;
pub mod queue_config;
pub mod state;

pub use self::core::TransportCore;
pub use self::mmio::{MMIO_REGION_SIZE, MmioTransport};
pub use self::queue_config::QueueConfig;
pub use self::state::{RestoreError, TransportState};

#[cfg(test)]
mod tests;
