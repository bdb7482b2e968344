//! Workflows: what was accepted, carried out step by step until it is done or has failed.
//!
//! A workflow is a row of `operations`. Its steps are pure functions, (state, event) ->
//! (state, effects), in [`steps`]: no I/O, no clock, no chance, and so tested without any. A
//! [`driver`] runs them: in one transaction it reads the state, computes the next, writes it by
//! compare-and-swap on (operation, step, attempt), and applies the effects, which are rows too
//! (a claim, a binding, a command in the outbox). Any number of controllers do so side by side:
//! whoever commits a step first has done it, and the others find it done.
//!
//! ```text
//! API handler --begin--> operations row --driver--> effects: claims, ports, outbox rows
//!                              ^                                     | outbox sender
//!                              |                                     v
//!                        results consumer <---- results queue <---- agent
//! ```
//!
//! Reading order: `kind` (what there is to do), `begin` (how it starts), [`state`] and [`steps`]
//! (the pure part), `operation` (its row), `effects` and `spec` (what a step may do to rows),
//! [`driver`] (who runs it), [`power`] (what guests do by themselves).

mod begin;
pub mod driver;
mod effects;
mod env;
mod kind;
mod operation;
pub mod power;
mod spec;
pub mod state;
pub mod steps;

pub use begin::{Begin, BeginError, begin, reap};
pub use driver::{Advanced, fold};
pub use env::Env;
pub use kind::Kind;
pub use operation::{Opened, Operation};
pub use state::{Event, Step, Target};
