//! What a guest sees: virtio devices, their queues, and the transports that present them.
//!
//! The crate knows neither KVM nor the agent, and is tested without `/dev/kvm`. A machine gives it
//! guest memory, an interrupt line and the backing (a file, a tap); it gets back registers to map
//! and eventfds to connect:
//!
//! ```text
//!   vCPU exit --> transport::mmio --> transport::core --> VirtioDevice (block, net)
//!                 (registers)         (status, queues)      |  a worker thread each
//!   ioeventfd ------------------------ kick eventfd ------->|
//!   irqfd <------ IrqLine <----------- Interrupt <----------+
//! ```
//!
//! A guest's mistake stops the device that it was made to (`DEVICE_NEEDS_RESET`), and only that one.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used
    )
)]

// What a device is.
pub mod device;
pub mod interrupt;
// How the driver reaches it.
pub mod transport;
// What devices are made of.
pub mod chain;
pub mod complaints;
pub mod guest_io;
pub mod life;
pub mod patience;
pub mod queue;
pub mod worker;
// The devices.
pub mod block;
pub mod net;

#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use block::{Block, BlockConfig, BlockError, CacheMode};
pub use device::{Activation, DeviceError, DeviceState, GuestBitmap, GuestMem, VirtioDevice};
pub use interrupt::{Interrupt, IrqLine};
pub use net::{Net, NetConfig, NetError, Tap, TapError};
pub use queue::DeviceQueue;
pub use transport::{MMIO_REGION_SIZE, MmioTransport};
