//! A queue in a device's hands.
//!
//! Guarantees: a [`DeviceQueue`] exists only for rings that were validated whole when the driver
//! enabled them; its size and addresses never change. Whatever the driver writes into the rings
//! later becomes a [`QueueFault`], never a panic.

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

/// An enabled virtqueue with its doorbell.
pub struct DeviceQueue {
    /// The queue's number in the device.
    pub index: u16,
    /// The rings, and how far the device got in them.
    pub queue: Queue,
    /// Written by the driver's notification (through ioeventfd, or by the transport).
    pub kick: EventFd,
}
