//! The node agent: one on each host. It takes orders about guests, remembers them, carries
//! them out through a driver, answers each once, and tells what guests do by themselves.
//!
//! It never touches the controller's database, and never links the VMM: it speaks to
//! `berth-vmm` processes over their sockets. Guests outlive it. `PROTOCOL.md`, "The agent", is
//! the law here; each rule's place in the code names the rule.
//!
//! An order's way: broker -> [`Service`]'s consumer -> engine (verdict of the VMM's record,
//! durable in the [`journal`], acknowledged) -> the VMM's worker -> the [`Driver`]'s plan, step
//! by step -> answer in the journal -> results queue. Beside it: reports over HTTPS
//! ([`link`]), the desired network document, and reads (console logs).
//!
//! Reading order:
//! - [`options`], [`state_dir`]: configuration, identity, the lock.
//! - [`record`], [`journal`]: what is remembered of a VMM and how it may change; how it is kept.
//! - [`driver`]: the seam to what runs guests, with its contract. [`simulated`] and [`kvm`] are
//!   the two there are. [`progress`]: how far a long step is.
//! - `engine`: commands, answers, and what happens without a command.
//! - `report`, `reads`, [`link`]: conversation with the controller.
//! - [`service`], [`assemble`]: start order and tasks; an agent from its options alone.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod assemble;
mod broker;
mod console;
pub mod driver;
mod engine;
mod gate;
mod hints;
pub mod host_record;
pub mod identity;
pub mod journal;
pub mod kvm;
pub mod link;
pub mod options;
pub mod progress;
mod reads;
pub mod record;
mod report;
pub mod service;
pub mod simulated;
pub mod state_dir;

pub use assemble::assemble;
pub use driver::{Driver, DriverError, Exit, Job, Observed, Step};
pub use kvm::KvmDriver;
pub use options::{DriverKind, Options};
pub use service::{AgentError, Handle, Parts, Service};
pub use simulated::SimulatedHost;
pub use state_dir::StateDir;
