//! How a device tells its driver that something happened.
//!
//! Guarantees: a device names the *event* (a queue, the configuration, its own failure); which
//! register bit or MSI-X vector that becomes, and which line is pulled, is the transport's and
//! the machine's business. Every method may be called from any thread, never blocks and never
//! fails: an interrupt that cannot be delivered is the machine's fault to log, not the device's.

use vmm_sys_util::eventfd::EventFd;

/// Implemented by a transport, called by a device's worker.
pub trait Interrupt: Send + Sync {
    /// Buffers were used in queue `queue`, and the driver asked to hear of it.
    fn signal_queue(&self, queue: u16);

    /// The device configuration space changed (virtio 1.2, 2.5). The transport raises the
    /// configuration generation before the driver can see the interrupt.
    fn signal_config(&self);

    /// The device met a driver's mistake that it cannot recover from: the transport sets
    /// `DEVICE_NEEDS_RESET` and, if the driver is running, sends a configuration interrupt
    /// (virtio 1.2, 2.1.2). The device has already stopped touching guest memory.
    fn needs_reset(&self);
}

/// One interrupt line into the guest; the machine implements it, usually by an irqfd.
pub trait IrqLine: Send + Sync {
    /// Raises an edge on the line. Never blocks; may coalesce with an edge not yet taken.
    fn trigger(&self);
}

/// An irqfd: KVM injects the interrupt when the eventfd is written.
impl IrqLine for EventFd {
    fn trigger(&self) {
        // A full counter (EAGAIN) means that an edge is already pending, which is all we want.
        if let Err(error) = self.write(1)
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            tracing::error!(%error, "cannot write an interrupt's eventfd");
        }
    }
}
