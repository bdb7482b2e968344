//! What the engine's tasks ask of those who know the kinds of operation: they know none themselves.
//!
//! A service implements [`crate::Apply`]; this follows from it.

use crate::machine::{Child, Event, Signal};
use crate::{Operation, Step};
use berth_controller_core::Env;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::{OperationId, Outcome, Subject};
use futures::future::BoxFuture;
use serde_json::Value;

/// A kind of operation that this build can drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The text in `operations.kind`.
    pub name: &'static str,
    /// The newest version of its steps; a newer one is left to the controllers that know it.
    pub version: i64,
    /// Its steps.
    pub steps: &'static [Step],
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
    fn kinds(&self) -> Vec<Known>;

    /// Folds one event into an operation, in the caller's transaction: the step's effects are rows,
    /// written here; the next state is the caller's to write. An error rolls back all of it.
    fn fold<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        operation: &'a Operation,
        event: Event,
    ) -> BoxFuture<'a, Result<Folded, StoreError>>;

    /// As [`Kinds::fold`], for a signal. The inner error says in words why nothing was done.
    fn signal<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        operation: &'a Operation,
        signal: Signal,
    ) -> BoxFuture<'a, Result<Result<Folded, String>, StoreError>>;

    /// Begins an operation for another. The inner error says in words why not.
    fn begin_child<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        parent: &'a Operation,
        child: &'a Child,
    ) -> BoxFuture<'a, Result<Result<OperationId, String>, StoreError>>;

    /// Writes down what a command's answer tells of its subject, if that is newer than what is known
    /// (rule 10); whether anybody waits for the answer or not.
    fn observe<'a>(
        &'a self,
        tx: &'a mut Tx,
        subject: Subject,
        outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}
