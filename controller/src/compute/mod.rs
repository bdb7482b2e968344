//! Servers and what belongs to them, below the API: rows, rules and states, no HTTP.
//!
//! - [`states`]: the table of actions and states.
//! - [`actions`]: what `os-instance-actions` remembers.

pub mod actions;
pub mod states;
