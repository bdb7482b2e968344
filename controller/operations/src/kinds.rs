//! What the engine asks of those who know the kinds of operation: it knows none itself.

use crate::Operation;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ControlSettings, Env};
use berth_rpc_types::{Outcome, VmmId};
use futures::future::BoxFuture;
use serde_json::Value;

/// A kind of operation that this build can drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The text in `operations.kind`.
    pub name: &'static str,
    /// The newest version of its steps; a newer one is left to the controllers that know it.
    pub version: i64,
}

/// What happens to an operation from outside of its own transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The driver got to it: do the step's work, which may have been done already.
    Run,
    /// The command's final answer.
    Answer(Outcome),
    /// The command never left: its host has no queue.
    Unroutable(String),
    /// The broker gave up on the command (rule 9). Whether it was begun is not known.
    DeadLetter(String),
}

/// Where an operation stands after an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Folded {
    /// It is over; its row was closed ([`Operation::close`]).
    Ended,
    /// It goes on.
    Goes(Next),
}

/// An operation's state to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The text in `operations.step`.
    pub step: &'static str,
    /// Counts from 1; a command of a new attempt has a new message id.
    pub attempt: u32,
    /// What it remembers: `operations.params`.
    pub params: Value,
    /// Whether there is more to do at once; else it waits for an event.
    pub again: bool,
}

/// Those who know the kinds of operation, and what their steps do.
pub trait Kinds: Send + Sync {
    /// Every kind that this build can drive.
    fn kinds(&self) -> Vec<Kind>;

    /// The names of every step that this build knows.
    fn steps(&self) -> Vec<&'static str>;

    /// Folds one event into an operation, in the caller's transaction: the step's effects are rows,
    /// written here; the next state is the caller's to write. An error rolls back all of it.
    fn fold<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        control: &'a ControlSettings,
        operation: &'a Operation,
        event: Event,
    ) -> BoxFuture<'a, Result<Folded, StoreError>>;

    /// Writes down the state that a command's answer tells of a VMM, if that is newer than what is
    /// known (rule 10); whether anybody waits for the answer or not.
    fn observe<'a>(
        &'a self,
        tx: &'a mut Tx,
        vmm_id: VmmId,
        outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}
