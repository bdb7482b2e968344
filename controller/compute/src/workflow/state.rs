//! The words that steps are written in: where an operation stands, what happens to it, and what
//! it wants done.
//!
//! Step names and [`Memory`] are stored: they are never reused for something else.

use super::Kind;
use berth_controller_core::store::StoreError;
use berth_controller_hosts::{Fence, Target};
use berth_controller_operations as operations;
use berth_rpc_types::{HostId, Outcome, TaskState, VmmState};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A step, by name. Names are stored; they are never reused for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Choose a host and claim it.
    Place,
    /// Bind the ports to the VMM on that host.
    Bind,
    /// Order the VMM to be built, and wait for the answer.
    Build,
    /// Order a VMM to be removed, and wait for the answer; until there is none left.
    Destroy,
    /// Order the one thing that the kind is about, and wait for the answer.
    Act,
}

impl Step {
    /// Every step.
    pub const ALL: &'static [Self] = &[
        Self::Place,
        Self::Bind,
        Self::Build,
        Self::Destroy,
        Self::Act,
    ];

    /// The text in `operations.step` and in envelopes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Bind => "bind",
            Self::Build => "build",
            Self::Destroy => "destroy",
            Self::Act => "act",
        }
    }

    /// The step with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.as_str() == text)
    }

    /// Where a kind begins.
    pub const fn first(kind: Kind) -> Self {
        match kind {
            Kind::Create => Self::Place,
            Kind::Delete => Self::Destroy,
            Kind::Start | Kind::Stop | Kind::Reboot | Kind::Pause | Kind::Unpause => Self::Act,
        }
    }
}

/// What an operation remembers between its steps: `operations.params`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the request said.
    pub given: Value,
    /// What is worked on.
    pub target: Option<Target>,
    /// Hosts that failed this create.
    pub excluded: Vec<HostId>,
    /// Why, each.
    pub failures: Vec<String>,
}

/// Where an operation stands.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// What is done.
    pub kind: Kind,
    /// The current step.
    pub step: Step,
    /// Counts from 1; a command of a new attempt has a new message id.
    pub attempt: u32,
    /// What it remembers.
    pub memory: Memory,
}

impl State {
    /// Where a row of `operations` stands. One of a kind or step that this build does not know is
    /// not given to it.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] names the column.
    pub fn of(operation: &operations::Operation) -> Result<Self, StoreError> {
        let malformed = |column: &str, reason: String| StoreError::Malformed {
            table: "operations".into(),
            column: column.into(),
            reason,
        };
        let (kind, step) = (&operation.kind, &operation.step);
        let known = |text: &str| format!("{text} is not known");
        let memory = serde_json::from_value(operation.params.clone());
        Ok(Self {
            kind: Kind::parse(kind).ok_or_else(|| malformed("kind", known(kind)))?,
            step: Step::parse(step).ok_or_else(|| malformed("step", known(step)))?,
            attempt: operation.attempt,
            memory: memory.map_err(|e| malformed("params", e.to_string()))?,
        })
    }

    /// What the engine writes down. `again`: whether there is more to do at once.
    pub fn row(&self, again: bool) -> operations::Next {
        operations::Next {
            step: self.step.as_str(),
            attempt: self.attempt,
            params: serde_json::to_value(&self.memory).unwrap_or_default(),
            again,
        }
    }
}

/// Limits that steps obey; the same for all controllers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Hosts that a create tries.
    pub max_attempts: u32,
    /// Seconds a guest has to power off.
    pub grace_s: u32,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The driver got to it: do the step's work, which may have been done already.
    Run,
    /// Answers [`Effect::Place`].
    Placed(Target),
    /// Answers [`Effect::Place`]: no host will do, and why.
    NoHost(String),
    /// Answers [`Effect::Find`].
    Found(Option<Target>),
    /// Answers [`Effect::Send`]: the order cannot be written.
    Unwritable(String),
    /// The command's final answer.
    Answer(Outcome),
    /// The command never left: its host has no queue.
    Unroutable(String),
    /// Answers [`Effect::Send`]: the host is fenced. Nothing is sent there, and what was sent
    /// before will not be answered.
    Fenced {
        /// The fence.
        fence: Fence,
        /// Whether this step's command may have reached the host before.
        sent: bool,
    },
    /// The broker gave up on the command (rule 9). Whether it was begun is not known.
    DeadLetter(String),
}

impl From<operations::Event> for Event {
    fn from(event: operations::Event) -> Self {
        match event {
            operations::Event::Run => Self::Run,
            operations::Event::Answer(outcome) => Self::Answer(outcome),
            operations::Event::Unroutable(why) => Self::Unroutable(why),
            operations::Event::DeadLetter(why) => Self::DeadLetter(why),
        }
    }
}

/// What a step wants done to rows, in its own transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Show what is being done.
    Task(TaskState),
    /// Choose a host and claim it; answered by an event.
    Place {
        /// Hosts that failed.
        excluded: Vec<HostId>,
    },
    /// Find a VMM of the instance that is not gone; answered by an event.
    Find,
    /// Bind the instance's ports.
    Bind(Target),
    /// Put a command into the outbox, unless this step and attempt has one.
    Send(Target, Order),
    /// The agent answered that nothing is left: release the claim, unbind, close the VMM.
    GiveBack(Target),
    /// Take the VMM away from its fenced host, which removes it should it come back; then as
    /// [`Effect::GiveBack`].
    Lose(Target),
    /// End the operation.
    End(Ending),
}

/// A command to be, without what only rows know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `vmm.build`
    Build,
    /// `vmm.start`
    Start,
    /// `vmm.stop`
    Stop {
        /// Seconds.
        grace_s: u32,
    },
    /// `vmm.reboot`, if it runs; else it is started.
    Reboot {
        /// Through the guest.
        soft: bool,
        /// Seconds.
        grace_s: u32,
    },
    /// `vmm.pause`
    Pause,
    /// `vmm.unpause`
    Unpause,
    /// `vmm.delete`
    Delete,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// As it should. With the state that the VMM reached, if one was asked.
    Done(Option<VmmState>),
    /// Not.
    Failed {
        /// For the user: what, why, which knob.
        message: String,
        /// For operators.
        detail: String,
    },
}

/// What a step decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The state from now on.
    pub state: State,
    /// In order.
    pub effects: Vec<Effect>,
    /// Whether there is more to do at once; else it waits for an event.
    pub again: bool,
}
