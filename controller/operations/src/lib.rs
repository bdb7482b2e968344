//! The operations engine: what was accepted, carried out step by step until it is done or has failed.
//!
//! An operation is a row. What its steps do, the engine does not know: it asks [`Kinds`], which the
//! services above are. In one transaction it reads where an operation stands, has the next
//! step folded in, and writes it by compare-and-swap on (operation, step, attempt); what a step wants
//! done are rows too, for example a command in the outbox. Any number of controllers do so side by
//! side: whoever commits a step first has done it, and the others find it done.
//!
//! ```text
//! API handler --insert--> operations row --driver--> Kinds::fold: rows, and outbox rows
//!                               ^                                     | outbox sender
//!                               |                                     v
//!                         results consumer <---- results queue <---- agent
//! ```
//!
//! Reading order: [`machine`] (the words that a kind is written in), [`decide`] (what all kinds
//! share: undo, a step at a time), [`apply`] (what a service does for its kinds), [`kinds`] (what
//! is asked of them), [`operation`] (its row), [`driver`] (who runs the steps, and brings signals),
//! [`outbox`], [`results`] and [`answer`] (commands out, answers in), [`holds`], [`timers`] and
//! [`children`] (what an operation has besides), [`reconcile`] (what lost its wake-up, and what is
//! silent).

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod answer;
pub mod apply;
pub mod children;
pub mod decide;
pub mod driver;
pub mod holds;
pub mod kinds;
pub mod machine;
pub mod operation;
pub mod outbox;
pub mod reconcile;
pub mod results;
#[cfg(test)]
mod runtime_tests;
#[cfg(test)]
mod tests;
pub mod timers;

pub use apply::{Apply, Named, Scene};
pub use driver::{Advanced, Signalled, fold, signal};
pub use kinds::{Folded, Kinds, Known, Next};
pub use machine::{
    At, Child, Domain, Effect, Ending, Event, Failure, Kind, Machine, ONLY, Progress, Settled,
    Signal, Step, Then, Undo,
};
pub use operation::{New, Opened, Operation};

use berth_controller_core::AppState;
use std::sync::Arc;

/// What the engine's tasks share: the application, and the kinds that it drives. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// The application.
    pub app: AppState,
    /// The kinds of operation of this build.
    pub kinds: Arc<dyn Kinds>,
}
