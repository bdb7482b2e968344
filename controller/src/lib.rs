//! The controller: OpenStack's APIs in front, a database behind, agents at the far end.
//!
//! A request becomes rows and an operation in one transaction, and is answered. From then on
//! the rows drive: workflows choose a host, claim it, bind ports and put commands into the
//! outbox; a sender publishes what is due until it is answered; a consumer folds results in.
//! Nothing is held outside the database (and an image directory), so that any number of
//! controllers run side by side and each may be killed at any instant.
//!
//! Reading order:
//! - [`store`]: the database, and the one way in; in `berth-controller-core`, below every service.
//! - [`config`]: what can be set.
//! - [`workflow`]: operations and their steps, as pure functions, and who runs them;
//!   [`placement`]: which host, and the claim on it.
//! - [`outbox`], [`results`]: commands out, answers in.
//! - [`fences`]: an administrator's word that a host is off, and what follows from it.
//! - [`agents`]: the hosts' HTTPS: joining, the heartbeat, networks, images.
//! - [`reconcile`], [`audit`]: what is kept true, and the proof that it is.
//! - [`identity`], [`compute`], [`image`], [`network`]: rows and rules of each service.
//! - [`api`]: REST in front of them.
//! - [`metrics`], [`tls`], [`serve`], [`controller`]: what is counted; the listener; the whole.

pub mod agents;
pub mod api;
pub mod audit;
pub mod compute;
pub mod config;
pub mod controller;
pub mod fences;
pub mod identity;
pub mod image;
pub mod metrics;
pub mod network;
pub mod outbox;
pub mod placement;
pub mod reconcile;
pub mod results;
pub mod serve;
pub mod tls;
pub mod workflow;

pub use berth_controller_core::{params, store};
pub use controller::{Controller, Handle};
