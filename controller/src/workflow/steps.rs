//! The steps, as pure functions: (state, event) -> (state, effects). No I/O, no clock, no chance.
//!
//! | kind | steps, in order | undo |
//! | --- | --- | --- |
//! | create | `place`, `bind`, `build` | `build` failed and the agent undid it: [`Effect::GiveBack`] undoes the other two (claim, bindings), then `place` again elsewhere, or the end |
//! | delete | `destroy`, once for each VMM | none: a tombstone is not taken back; a failure leaves the claim, and deleting again goes on |
//! | start, stop, reboot, pause, unpause | one, of their name | none: they change only what runs, and the agent's answer tells the state that was reached |
//!
//! Silence is no event: nothing here frees anything because time went by (PROTOCOL.md, rule 1).

use super::Kind;
use berth_rpc_types::{HostId, Outcome, TaskState, VmmId, VmmState};
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

/// A VMM and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The VMM.
    pub vmm_id: VmmId,
    /// Its host.
    pub host_id: HostId,
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
    /// The broker gave up on the command (rule 9). Whether it was begun is not known.
    DeadLetter(String),
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

/// The one function: what to do in a state when something happens. An event that the state does
/// not wait for changes nothing.
pub fn next(state: &State, event: &Event, limits: Limits) -> Next {
    match state.step {
        Step::Place => place(state, event),
        Step::Bind => bind(state, event),
        Step::Build => build(state, event, limits),
        Step::Destroy => destroy(state, event),
        Step::Act => act(state, event, limits),
    }
}

fn place(state: &State, event: &Event) -> Next {
    match event {
        Event::Run => {
            let excluded = state.memory.excluded.clone();
            wait(
                state,
                vec![
                    Effect::Task(TaskState::Scheduling),
                    Effect::Place { excluded },
                ],
            )
        }
        Event::Placed(target) => {
            let mut next = go(state, Step::Bind, vec![Effect::Task(TaskState::Networking)]);
            next.state.memory.target = Some(*target);
            next
        }
        Event::NoHost(why) => {
            let mut message = why.clone();
            for failure in &state.memory.failures {
                message.push_str("; tried before: ");
                message.push_str(failure);
            }
            fail(state, message, String::new())
        }
        _ => wait(state, vec![]),
    }
}

fn bind(state: &State, event: &Event) -> Next {
    match (event, state.memory.target) {
        (Event::Run, Some(target)) => go(
            state,
            Step::Build,
            vec![
                Effect::Bind(target),
                Effect::Task(TaskState::BlockDeviceMapping),
            ],
        ),
        _ => wait(state, vec![]),
    }
}

fn build(state: &State, event: &Event, limits: Limits) -> Next {
    let Some(target) = state.memory.target else {
        return wait(state, vec![]);
    };
    match event {
        Event::Run => wait(
            state,
            vec![
                Effect::Send(target, Order::Build),
                Effect::Task(TaskState::Spawning),
            ],
        ),
        Event::Answer(Outcome::Done { state: reached, .. }) => {
            end(state, Ending::Done(Some(*reached)))
        }
        Event::Answer(Outcome::Failed {
            message,
            detail,
            undone,
            retry_elsewhere,
            ..
        }) => {
            let failed = Failure {
                message: message.clone(),
                detail: detail.clone(),
                exclude: true,
            };
            match (undone, retry_elsewhere) {
                (true, true) => elsewhere(state, target, failed, limits),
                (true, false) => undone_and_over(state, target, failed),
                // What is left on the host is still claimed; a delete removes both.
                (false, _) => fail(state, failed.message, failed.detail),
            }
        }
        // Never begun, since the host's ownership changed hands: the same host may do now.
        Event::Answer(Outcome::StaleEpoch { current }) => {
            let failed = Failure {
                message: format!("the host's epoch rose to {current} before the build was begun"),
                detail: String::new(),
                exclude: false,
            };
            elsewhere(state, target, failed, limits)
        }
        Event::Answer(outcome @ Outcome::Unsupported { .. }) => {
            let failed = Failure {
                message: explain(state, outcome),
                detail: String::new(),
                exclude: true,
            };
            elsewhere(state, target, failed, limits)
        }
        Event::Unroutable(why) => {
            let failed = Failure {
                message: why.clone(),
                detail: String::new(),
                exclude: true,
            };
            elsewhere(state, target, failed, limits)
        }
        Event::Unwritable(why) => {
            let failed = Failure {
                message: why.clone(),
                detail: String::new(),
                exclude: false,
            };
            undone_and_over(state, target, failed)
        }
        Event::Answer(outcome @ Outcome::Superseded { .. }) => {
            fail(state, explain(state, outcome), String::new())
        }
        Event::DeadLetter(why) => fail(state, why.clone(), String::new()),
        _ => wait(state, vec![]),
    }
}

/// Deletes a VMM, then looks for the next. An attempt is one command here.
fn destroy(state: &State, event: &Event) -> Next {
    match (event, state.memory.target) {
        (Event::Run, None) => wait(state, vec![Effect::Find]),
        (&Event::Run, Some(target)) | (&Event::Found(Some(target)), _) => {
            let mut next = wait(state, vec![Effect::Send(target, Order::Delete)]);
            next.state.memory.target = Some(target);
            next
        }
        (Event::Found(None), _) => end(state, Ending::Done(None)),
        (Event::Answer(Outcome::Done { .. }), Some(target)) => {
            let mut next = go(state, Step::Destroy, vec![Effect::GiveBack(target)]);
            next.state.attempt += 1;
            next.state.memory.target = None;
            next
        }
        (Event::Answer(Outcome::StaleEpoch { .. }), _) if state.attempt < COMMANDS_MAX => {
            repeat(state)
        }
        _ => refused(state, event),
    }
}

/// Commands that one operation sends at most, whatever happens.
const COMMANDS_MAX: u32 = 10;

fn act(state: &State, event: &Event, limits: Limits) -> Next {
    match (event, state.memory.target) {
        (Event::Run, None) => wait(state, vec![Effect::Find]),
        (&Event::Run, Some(target)) | (&Event::Found(Some(target)), _) => {
            let order = order(state, limits);
            let mut next = wait(state, vec![Effect::Send(target, order)]);
            next.state.memory.target = Some(target);
            next
        }
        (Event::Found(None), _) => {
            let message = "The instance has nothing on any host: it was never built, or its \
                           build was undone. Delete it and create it again."
                .to_owned();
            fail(state, message, String::new())
        }
        (Event::Answer(Outcome::Done { state: reached, .. }), _) => {
            end(state, Ending::Done(Some(*reached)))
        }
        // Never begun: once more, with the epoch as it is now.
        (Event::Answer(Outcome::StaleEpoch { .. }), _) if state.attempt < COMMANDS_MAX => {
            repeat(state)
        }
        _ => refused(state, event),
    }
}

fn order(state: &State, limits: Limits) -> Order {
    let given = &state.memory.given;
    let asked = given["grace_s"]
        .as_u64()
        .and_then(|s| u32::try_from(s).ok());
    let grace_s = asked.unwrap_or(limits.grace_s);
    match state.kind {
        Kind::Stop => Order::Stop { grace_s },
        Kind::Reboot => Order::Reboot {
            soft: given["soft"] == Value::Bool(true),
            grace_s,
        },
        Kind::Pause => Order::Pause,
        Kind::Unpause => Order::Unpause,
        Kind::Delete => Order::Delete,
        Kind::Create => Order::Build,
        Kind::Start => Order::Start,
    }
}

/// What ends `destroy` and `act` badly; everything else is no news to them.
fn refused(state: &State, event: &Event) -> Next {
    match event {
        Event::Answer(Outcome::Failed {
            message, detail, ..
        }) => fail(state, message.clone(), detail.clone()),
        Event::Answer(outcome) if outcome.is_final() => {
            fail(state, explain(state, outcome), String::new())
        }
        Event::Unroutable(why) | Event::DeadLetter(why) | Event::Unwritable(why) => {
            fail(state, why.clone(), String::new())
        }
        _ => wait(state, vec![]),
    }
}

fn explain(state: &State, outcome: &Outcome) -> String {
    let kind = state.kind.as_str();
    match outcome {
        Outcome::Unsupported { min, max } => format!(
            "The host's agent does not understand this {kind}: it knows versions {min} to {max} of \
             its methods. Bring agent and controller to versions at most one apart."
        ),
        Outcome::Superseded { by } => format!(
            "The host's agent had a newer command for this guest (sequence {by}) before this {kind}."
        ),
        Outcome::StaleEpoch { current } => format!(
            "The host's epoch is {current}: ownership of its guests may have been given away. \
             Look at its lost guests before you try again."
        ),
        Outcome::Failed { message, .. } => message.clone(),
        Outcome::Done { .. } | Outcome::Progress { .. } => String::new(),
    }
}

struct Failure {
    message: String,
    detail: String,
    /// Whether the host is to blame.
    exclude: bool,
}

/// The build left nothing behind: somewhere else, if there are attempts left.
fn elsewhere(state: &State, target: Target, failure: Failure, limits: Limits) -> Next {
    if state.attempt >= limits.max_attempts {
        let attempts = state.attempt;
        let failure = Failure {
            message: format!(
                "Exceeded maximum number of attempts ({attempts}). Last: {}",
                failure.message
            ),
            ..failure
        };
        return undone_and_over(state, target, failure);
    }
    let mut next = go(state, Step::Place, vec![Effect::GiveBack(target)]);
    let memory = &mut next.state.memory;
    memory.target = None;
    memory
        .failures
        .push(format!("host {}: {}", target.host_id, failure.message));
    if failure.exclude {
        memory.excluded.push(target.host_id);
    }
    next.state.attempt += 1;
    next
}

fn undone_and_over(state: &State, target: Target, failure: Failure) -> Next {
    let mut next = fail(state, failure.message, failure.detail);
    next.effects.insert(0, Effect::GiveBack(target));
    next.state.memory.target = None;
    next
}

/// The same again, as a new attempt with a new message id.
fn repeat(state: &State) -> Next {
    let mut next = go(state, state.step, vec![]);
    next.state.attempt += 1;
    next
}

fn wait(state: &State, effects: Vec<Effect>) -> Next {
    Next {
        state: state.clone(),
        effects,
        again: false,
    }
}

fn go(state: &State, step: Step, effects: Vec<Effect>) -> Next {
    let state = State {
        step,
        ..state.clone()
    };
    Next {
        state,
        effects,
        again: true,
    }
}

fn end(state: &State, ending: Ending) -> Next {
    wait(state, vec![Effect::End(ending)])
}

fn fail(state: &State, message: String, detail: String) -> Next {
    end(state, Ending::Failed { message, detail })
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
