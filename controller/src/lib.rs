//! The controller: OpenStack's APIs in front, a database behind, agents at the far end.
//!
//! A request becomes rows and an operation in one transaction, and is answered. From then on
//! the rows drive: workflows choose a host, claim it, bind ports and put commands into the
//! outbox; a sender publishes what is due until it is answered; a consumer folds results in.
//! Nothing is held outside the database (and an image directory), so that any number of
//! controllers run side by side and each may be killed at any instant.
//!
//! This crate only assembles the services, each a crate of its own below this folder; the
//! compiler keeps them from knowing what stands above them. Reading order:
//! - [`core`]: what every service stands on: the database, and the one way in.
//! - [`operations`]: the engine: steps, commands out, answers in. [`hosts`]: what is known of hosts.
//! - [`identity`], [`image`], [`network`], [`compute`]: rows, rules and REST of each service.
//! - [`config`]: what can be set. [`router`]: everything on the one port. [`metrics`]: its page.
//! - [`reconcile`], [`audit`]: what is kept true, and the proof that it is.
//! - [`tls`], [`serve`], [`controller`]: the listener; the whole.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod audit;
pub mod config;
pub mod controller;
pub mod metrics;
pub mod reconcile;
pub mod router;
pub mod serve;
pub mod tls;

pub use berth_controller_compute as compute;
pub use berth_controller_core as core;
pub use berth_controller_hosts as hosts;
pub use berth_controller_identity as identity;
pub use berth_controller_image as image;
pub use berth_controller_network as network;
pub use berth_controller_operations as operations;
pub use controller::{Controller, Handle};
