//! The words that a kind of operation is written in: where an operation stands, what happens to
//! it, and what it wants done.
//!
//! A kind is a [`Machine`]: its steps as a pure function, (state, event) -> (state, effects), with
//! what it remembers and what takes its steps back. What a kind may change, order and learn is
//! its [`Domain`]'s; the engine knows none of it. Names of kinds, steps, commands and timers, and
//! what a kind remembers, are stored: they are never reused for something else.

use crate::decide::{self, Decided, Standing};
use berth_rpc_types::{OperationId, Outcome, Subject};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::convert::Infallible;
use std::fmt::Debug;

/// What the kinds of one service share.
pub trait Domain: Copy + Debug + PartialEq + Send + Sync + 'static {
    /// What the service says of each kind, for example its lines in the table of states.
    type About: Send + Sync + 'static;
    /// A change of rows.
    type Change: Clone + Debug + PartialEq + Send + Sync;
    /// What a change answers with, in the same transaction; and why a command was not sent.
    type Reply: Clone + Debug + PartialEq + Send + Sync;
    /// Where a command goes.
    type Target: Copy + Debug + PartialEq + Send + Sync;
    /// A command to be, without what only rows know.
    type Order: Clone + Debug + PartialEq + Send + Sync;
    /// What an operation that is done has reached.
    type Reached: Clone + Debug + PartialEq + Send + Sync;
    /// What steps obey; the same for all controllers.
    type Limits: Clone + Debug + Send + Sync;
}

/// A kind of operation.
pub trait Machine: 'static {
    /// Whose it is.
    type In: Domain;
    /// What it remembers between its steps, stored beside what the request said. Fields have
    /// defaults: what an older release wrote lacks the newer ones.
    type Memory: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned;
    /// The text in `operations.kind`.
    const NAME: &'static str;
    /// The version of its steps that this build begins. An operation keeps the version that it was
    /// begun with: steps of older versions stay until no release that began them is supported,
    /// and a newer one is left to the controllers that know it.
    const VERSION: i64 = 1;
    /// Its steps, in order; the first is where it begins.
    const STEPS: &'static [Step];
    /// See [`Domain::About`].
    const ABOUT: <Self::In as Domain>::About;

    /// What to do when something happens. What the step does not wait for changes nothing.
    fn next(
        at: &mut At<'_, Self::Memory>,
        event: &Event<<Self::In as Domain>::Reply>,
        limits: &<Self::In as Domain>::Limits,
    ) -> Then<Self::In>;

    /// What takes a step's work back: its commands are sent first; its changes are made, and its
    /// memory kept, once all of those are answered. For steps that declare it ([`Undo::Declared`]).
    fn undo(_step: &'static str, _memory: &mut Self::Memory) -> Vec<Effect<Self::In>> {
        vec![]
    }

    /// What to do when the API says something. A delete takes the place of every kind that does
    /// not say otherwise; nothing else is understood.
    ///
    /// # Errors
    /// In words: why not now, or never.
    fn signal(
        _at: &mut At<'_, Self::Memory>,
        signal: &Signal,
        _limits: &<Self::In as Domain>::Limits,
    ) -> Result<Then<Self::In>, String> {
        match signal {
            Signal::Delete { by } => Ok(Then::GiveWay(*by)),
            other => Err(format!(
                "what is under way ({}) knows no {}",
                Self::NAME,
                other.as_str()
            )),
        }
    }
}

/// A step of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The text in `operations.step` and in envelopes.
    pub name: &'static str,
    /// What takes it back.
    pub undo: Undo,
    /// Its order may give the right to run away (PROTOCOL.md, rule 7): until it is answered there
    /// is neither undo nor delete, and what comes after it is not taken back.
    pub gives_right: bool,
}

/// What takes a step back, should a later one fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Nothing has to. Says why.
    Needless(&'static str),
    /// [`Machine::undo`].
    Declared,
}

impl Step {
    /// A step.
    pub const fn new(name: &'static str, undo: Undo) -> Self {
        Self {
            name,
            undo,
            gives_right: false,
        }
    }

    /// That step, whose order may give the right to run away.
    #[must_use]
    pub const fn giving_right(self) -> Self {
        Self {
            gives_right: true,
            ..self
        }
    }
}

/// Where an operation stands, as its kind sees it.
#[derive(Debug)]
pub struct At<'a, M> {
    /// The current step.
    pub step: &'static str,
    /// Counts from 1; a command of a new attempt has a new message id.
    pub attempt: u32,
    /// What the request said.
    pub given: &'a Value,
    /// The names of this step's commands that are not answered yet. Filled for answers, signals
    /// and timers.
    pub waits: &'a [String],
    /// What it remembers.
    pub memory: M,
}

/// What happens to an operation; `R` is what its own changes answer with.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<R = Infallible> {
    /// The driver got to it: do the step's work, which may have been done already.
    Run,
    /// A change's answer, or why a command was not sent.
    Reply(R),
    /// The end of a command of this step and attempt.
    Answer {
        /// Its name.
        command: String,
        /// How it ended.
        settled: Settled,
    },
    /// The end of a command that an earlier step or attempt had sent.
    Late {
        /// That step.
        step: String,
        /// Its attempt.
        attempt: u32,
        /// The command's name.
        command: String,
        /// How it ended.
        settled: Settled,
    },
    /// A timer ran out.
    Timer(String),
    /// Children began or ended.
    Children(Progress),
}

impl Event {
    /// The same, for a kind: what comes from outside is nobody's reply.
    pub fn for_kind<R>(self) -> Event<R> {
        match self {
            Self::Run => Event::Run,
            Self::Reply(never) => match never {},
            Self::Answer { command, settled } => Event::Answer { command, settled },
            Self::Late {
                step,
                attempt,
                command,
                settled,
            } => Event::Late {
                step,
                attempt,
                command,
                settled,
            },
            Self::Timer(name) => Event::Timer(name),
            Self::Children(progress) => Event::Children(progress),
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// The agent's final answer.
    Outcome(Outcome),
    /// It never left: its host has no queue.
    Unroutable(String),
    /// The broker gave up on it (rule 9). Whether it was begun is not known.
    DeadLetter(String),
}

/// What the API says to an operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Give up, and take back what was done.
    Abort,
    /// Do not wait for the guest to come to rest.
    ForceComplete,
    /// Keep what was reached.
    Confirm,
    /// Go back to what was.
    Revert,
    /// The subject is to be deleted by that operation.
    Delete {
        /// The delete.
        by: OperationId,
    },
}

impl Signal {
    /// In words.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::ForceComplete => "force-complete",
            Self::Confirm => "confirm",
            Self::Revert => "revert",
            Self::Delete { .. } => "delete",
        }
    }
}

/// How many children there are, by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Not begun: as many run as may.
    pub waiting: u32,
    /// Under way.
    pub running: u32,
    /// Done.
    pub done: u32,
    /// Failed, or refused at their beginning.
    pub failed: u32,
    /// Not begun, and not to be any more.
    pub stopped: u32,
}

impl Progress {
    /// Whether all are over.
    pub const fn is_over(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }
}

/// An operation to be begun by another.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: &'static str,
    /// What it is about.
    pub subject: Subject,
    /// What its request would say.
    pub given: Value,
}

/// What a step wants done. In its own transaction, all or nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<D: Domain> {
    /// A change of rows.
    Change(D::Change),
    /// A command, unless this step and attempt has put one of that name into the outbox.
    Send {
        /// Tells the commands of one step apart; [`ONLY`] where there is one.
        name: &'static str,
        /// Where it goes.
        to: D::Target,
        /// What it orders.
        order: D::Order,
    },
    /// A timer. One of that name that runs already is set anew.
    Timer {
        /// Its name.
        name: &'static str,
        /// Milliseconds from now.
        after_ms: i64,
    },
    /// Operations of its own, of which `at_once` run at a time.
    Children {
        /// In order.
        children: Vec<Child>,
        /// At least 1.
        at_once: u32,
    },
    /// Children that have not begun never do; those that run are told to abort.
    StopChildren,
    /// The end.
    End(Ending<D>),
}

/// The name of a step's one command. Stored as nothing, as releases do that knew no names.
pub const ONLY: &str = "";

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending<D: Domain> {
    /// As it should. With what was reached, if anything was asked.
    Done(Option<D::Reached>),
    /// Not.
    Failed(Failure),
    /// Another operation took its place.
    GaveWay(OperationId),
}

/// Why an operation failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For the user: what, why, which knob.
    pub message: String,
    /// For operators.
    pub detail: String,
}

/// What a step decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Then<D: Domain> {
    /// It waits for an event.
    Wait(Vec<Effect<D>>),
    /// On to that step, at once.
    Go(&'static str, Vec<Effect<D>>),
    /// The same step again, as a new attempt with new messages.
    Again(Vec<Effect<D>>),
    /// What was done since that step is taken back, that step's work too; then it is tried again,
    /// as a new attempt.
    Retry(&'static str),
    /// Done.
    Done(Option<D::Reached>),
    /// Failed: what was done is taken back, backwards from this step, and then it is over.
    Fail(Failure),
    /// Failed, and over: what was done stays for a delete to remove.
    Leave(Failure),
    /// Over, since another takes its place.
    GiveWay(OperationId),
}

impl<D: Domain> Then<D> {
    /// Nothing happens.
    pub const fn ignore() -> Self {
        Self::Wait(Vec::new())
    }
}

type Decides<D> = fn(
    &Standing,
    &Event<<D as Domain>::Reply>,
    &<D as Domain>::Limits,
) -> Result<Decided<D>, decide::Unreadable>;

type Signals<D> = fn(
    &Standing,
    &Signal,
    &<D as Domain>::Limits,
) -> Result<Result<Decided<D>, String>, decide::Unreadable>;

/// A [`Machine`], for those who do not know which.
pub struct Kind<D: Domain> {
    /// The text in `operations.kind`.
    pub name: &'static str,
    /// The newest version of its steps.
    pub version: i64,
    /// Its steps, in order.
    pub steps: &'static [Step],
    /// See [`Domain::About`].
    pub about: D::About,
    /// What it does at an event.
    pub decide: Decides<D>,
    /// What it does at a signal, or why it does nothing.
    pub signal: Signals<D>,
}

impl<D: Domain> Kind<D> {
    /// That machine.
    pub const fn of<M: Machine<In = D>>() -> Self {
        Self {
            name: M::NAME,
            version: M::VERSION,
            steps: M::STEPS,
            about: M::ABOUT,
            decide: decide::decide::<M>,
            signal: decide::signal::<M>,
        }
    }

    /// Where it begins.
    pub fn first(&self) -> &'static str {
        // A kind has a step: a test says so of each.
        self.steps.first().map_or("", |step| step.name)
    }

    /// Its step of that name.
    pub fn step(&self, name: &str) -> Option<&'static Step> {
        self.steps.iter().find(|step| step.name == name)
    }
}
