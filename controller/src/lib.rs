//! The controller: OpenStack's APIs in front, a database behind, agents at the far end.
//!
//! A request becomes rows and an operation in one transaction, and is answered. From then on
//! the rows drive: workflows choose a host, claim it, bind ports and put commands into the
//! outbox; a sender publishes what is due until it is answered; a consumer folds results in.
//! Nothing is held outside the database (and an image directory), so that any number of
//! controllers run side by side and each may be killed at any instant.
//!
//! Reading order:
//! - [`store`]: the database, and the one way in.
//! - [`config`]: what can be set.
//! - [`workflow`]: operations and their steps, as pure functions, and who runs them.
//! - [`compute`]: instances, flavors, keypairs, quotas, and the table of states.
//! - [`api`]: REST: identity, compute, image, network.

pub mod api;
pub mod compute;
pub mod config;
pub mod identity;
pub mod image;
pub mod network;
pub mod store;
pub mod workflow;
