//! KVM: the host's side of the machine.
//!
//! - [`caps`]: what this host can do, read once.
//! - [`cpuid`]: what the guest's processors say they are.
//! - [`vm`]: the VM: interrupt controllers, memory slots, irqfds and ioeventfds.
//! - [`registers`]: the state in which the first processor enters a kernel.
//! - [`vcpu`]: one thread a processor; how it runs, stops and ends.
//! - [`kick`]: the signal that brings a vCPU out of the guest (the only unsafe code here but for
//!   the memory slots).

pub mod caps;
pub mod cpuid;
pub mod kick;
pub mod registers;
pub mod vcpu;
pub mod vm;

pub use caps::Caps;
pub use vm::{KvmError, Vm};
