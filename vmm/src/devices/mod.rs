//! The devices that are the machine's own, and the way to all of them.
//!
//! - [`bus`]: from an address or a port to a device; what nobody claims reads as all ones.
//! - [`console`]: the bounded way of the serial port's bytes to a file or terminal, and back.
//! - [`ring_file`]: the file of bounded size that a console may go to.
//! - [`power`]: ACPI reset and sleep registers, the old ways to reset, the power button.
//!
//! virtio devices are in `berth-virtio`; this crate gives them addresses, doorbells and
//! interrupts.

pub mod bus;
pub mod console;
pub mod power;
pub mod ring_file;
