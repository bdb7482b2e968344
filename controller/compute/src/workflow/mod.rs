//! Workflows: what is done to instances, step by step, for the engine ([`berth_controller_operations`]).
//!
//! A kind is a file in [`kinds`]: its steps as pure functions, what it remembers, its undo, its line
//! in the table of states. The engine has an event folded in ([`InstanceKinds`]) in one transaction
//! with its effects, which are rows too: a claim, a binding, a command in the outbox.
//!
//! Reading order: [`domain`] (what kinds may change and order), [`kinds`], [`begin`] and `child` (how
//! an operation starts), `apply` and `spec` (what a step may do to rows), [`power`] (what guests do by
//! themselves).

mod apply;
mod begin;
mod child;
mod domain;
mod kinds;
pub mod power;
mod spec;
#[cfg(test)]
mod tests;
mod words;

pub use begin::{Begin, BeginError, begin, reap};
pub use domain::{About, Change, InstanceKinds, Limits, Order, Reply};
pub use kinds::Kind;
