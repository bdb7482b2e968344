//! Servers and what belongs to them, below the API: rows, rules and states, no HTTP.
//!
//! - [`states`]: the table of actions and states.
//! - [`instances`]: a server's row and its JSON parts.
//! - [`listing`]: which servers a list shows, and in which order.
//! - [`actions`]: what `os-instance-actions` remembers.
//! - [`flavors`], [`keypairs`], [`quotas`], [`groups`]: what servers are made from and held to.

pub mod actions;
pub mod flavors;
pub mod groups;
pub mod instances;
pub mod keypairs;
pub mod listing;
pub mod quotas;
pub mod states;
