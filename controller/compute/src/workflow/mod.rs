//! Workflows: what is done to instances, step by step, for the engine ([`berth_controller_operations`]).
//!
//! Steps are pure functions, (state, event) -> (state, effects), in [`steps`]: no I/O, no clock, no
//! chance, and so tested without any. The engine has an event folded in ([`InstanceKinds`]) in one
//! transaction with its effects, which are rows too: a claim, a binding, a command in the outbox.
//!
//! Reading order: `kind` (what there is to do), `begin` (how it starts), [`state`] and [`steps`]
//! (the pure part), `effects` and `spec` (what a step may do to rows), `fold` (events, steps and
//! effects together), [`power`] (what guests do by themselves).

mod begin;
mod effects;
mod fold;
mod kind;
pub mod power;
mod spec;
pub mod state;
pub mod steps;

pub use begin::{Begin, BeginError, begin, reap};
pub use fold::InstanceKinds;
pub use kind::Kind;
pub use state::{Event, Step};
