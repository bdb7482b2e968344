//! How messages travel between the controller and the agents.
//!
//! [`Transport`] is the seam: RabbitMQ ([`connect`] with `amqp://` or `amqps://`), or one
//! process (`inproc://`, and to others `unix://`), which can also delay, drop, repeat and reorder.
//! What a message says is `berth-rpc-types`' matter. One conformance suite runs on all.
//!
//! What the seam promises, and what it does not:
//! - a publish that returned `Ok` is durable at the broker, and was routed to a queue;
//! - everything is delivered at least once, in any order; receivers fold repeats away;
//! - an unacknowledged delivery comes again when its consumer is gone;
//! - reads ([`Transport::read`]) are at most once, and may be lost.
//!
//! [`clock`] holds the injected `Clock` and `Rng`: nothing in Berth's logic reads the
//! system clock, sleeps or draws random numbers except through them. [`kill_point!`] names
//! the boundaries at which tests kill a process.

pub mod account;
pub mod clock;
mod transport;

mod connect;

mod amqp;
mod inproc;
pub mod socket;

pub use berth_kill_point as kill_point;
pub use berth_kill_point::kill_point;

pub use account::{Account, Accounts, Sender};
pub use connect::{Client, connect, in_process};
pub use inproc::{Faults, InProcess};
pub use transport::{
    Acker, Address, ConsumeOptions, Consumer, Delivery, ReadRequest, RpcError, Transport,
};
