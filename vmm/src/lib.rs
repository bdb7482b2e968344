//! `berth-vmm`: one guest, one process, on `/dev/kvm`.
//!
//! The crate is a library for its own binary and tests; the agent and the command line know only
//! its API (`berth-vmm-api`) and its socket. It is not a hypervisor toolkit: it builds one kind of
//! machine, the one that [`machine`] writes down.
//!
//! ```text
//!   HTTP over the Unix socket (api)    configuration file (main)    SIGTERM
//!            \                               |                      /
//!             +-----------> Action ----------+---------------------+
//!                             |
//!                 state driver (driver): one thread owns the guest; a table says
//!                             |          which action is allowed in which state
//!                 resources --+--> guest: machine, memory, boot, acpi, kvm, devices
//!                                    |
//!                 vCPU threads (kvm::vcpu) <-> bus (devices) <-> virtio workers (berth-virtio)
//! ```
//!
//! Threads: `berth_vmm` (the state driver; the main thread), `berth_vcpu N`, `berth_console`,
//! `berth_stdin`, `berth_signal`, `berth_api` and one a connection, and the workers of virtio
//! devices. None polls; all end with the process, whose end is the guest's.
//!
//! A guest's reset ends the process with its own exit code (`berth_vmm_api::ExitCode::GuestReset`)
//! and whoever started it starts it again: a fresh process and a fresh KVM VM take 2 ms and carry
//! nothing over, where a reset in place would have to undo the state of each device and vCPU.
//!
//! Unsafe code is in `kvm::vm`, `kvm::kick`, `memory` and `inherited`, and nowhere else.

// What a guest sees.
pub mod acpi;
pub mod boot;
pub mod devices;
pub mod kvm;
pub mod machine;
pub mod memory;
// What a guest is made of, and the guest itself.
pub mod guest;
pub mod inherited;
pub mod resources;
// How it is asked for.
pub mod action;
pub mod api;
pub mod driver;
pub mod launch;
// The process around it.
pub mod cli;
pub mod log;
pub mod metrics;
pub mod signals;
pub mod status;
pub mod terminal;
