//! The network device (virtio 1.2, 5.1) on a tap.
//!
//! Guarantees: a frame goes straight between the tap and guest memory, with checksum and
//! segmentation left to whoever can do it last. Frames are bounded in both directions; a guest
//! that floods or starves its queues loses frames, and takes neither memory nor time from the host
//! beyond its own thread. When the guest has no receive buffers, the tap is not looked at until it
//! has, so that the host's queue (and its drops) are the back-pressure.
//!
//! [`tap`] is the host's side, [`device`] the life and configuration space, [`rx`] and [`tx`] the
//! two directions, which one thread (in [`job`]) serves.

mod device;
mod job;
mod rx;
mod tap;
mod tx;

pub use device::{Net, NetConfig, NetError};
pub use tap::{Tap, TapError};

/// `struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6), which is before every frame in both directions.
pub(crate) const HEADER_BYTES: usize = 12;
/// The greatest frame with its header: 64 KiB of IP, Ethernet's header and a VLAN tag.
pub(crate) const MAX_FRAME: usize = HEADER_BYTES + 18 + 65535;

#[cfg(test)]
mod tests;
