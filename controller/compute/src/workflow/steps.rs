//! The steps, as pure functions: (state, event) -> (state, effects). No I/O, no clock, no chance.
//!
//! | kind | steps, in order | undo |
//! | --- | --- | --- |
//! | create | `place`, `bind`, `build` | `build` failed and the agent undid it: [`Effect::GiveBack`] undoes the other two (claim, bindings), then `place` again elsewhere, or the end |
//! | delete | `destroy`, once for each VMM | none: a tombstone is not taken back, nor what is taken away from a fenced host; a failure leaves the claim, and deleting again goes on |
//! | start, stop, reboot, pause, unpause | one, of their name | none: they change only what runs, and the agent's answer tells the state that was reached |
//!
//! Silence is no event: nothing here frees anything because time went by (PROTOCOL.md, rule 1).
//! A fence is one (rule 8): a delete then takes the VMM away, everything else fails.

use super::Kind;
use super::state::{Effect, Ending, Event, Limits, Next, Order, State, Step};
use berth_controller_hosts::{Fence, Target};
use berth_rpc_types::{Outcome, TaskState};
use serde_json::Value;

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
        Event::Fenced { fence, sent: false } => {
            let failed = Failure {
                message: fence.why.clone(),
                detail: fence.who.clone(),
                exclude: true,
            };
            elsewhere(state, target, failed, limits)
        }
        Event::Fenced { fence, sent: true } => fenced(
            state,
            fence,
            "What became of the build there is not known: delete the server, and create it again.",
        ),
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
            destroyed(state, Effect::GiveBack(target))
        }
        (Event::Fenced { .. }, Some(target)) => destroyed(state, Effect::Lose(target)),
        (Event::Answer(Outcome::StaleEpoch { .. }), _) if state.attempt < COMMANDS_MAX => {
            repeat(state)
        }
        _ => refused(state, event),
    }
}

/// One VMM is gone, or given up: on to the next.
fn destroyed(state: &State, effect: Effect) -> Next {
    let mut next = go(state, Step::Destroy, vec![effect]);
    next.state.attempt += 1;
    next.state.memory.target = None;
    next
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
        (Event::Fenced { fence, .. }, _) => fenced(
            state,
            fence,
            "What its servers do is not known: delete this one, or bring the host back and set it \
             up again (openstack compute service set --up).",
        ),
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

/// The build left nothing behind: somewhere else, if there are attempts left. A host that was
/// asked for by name has no elsewhere: its failure is the end, in its own words, as in Nova.
fn elsewhere(state: &State, target: Target, failure: Failure, limits: Limits) -> Next {
    if failure.exclude && state.memory.given["forced_host"].is_string() {
        return undone_and_over(state, target, failure);
    }
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

fn fenced(state: &State, fence: &Fence, remedy: &str) -> Next {
    let message = format!("{} {remedy}", fence.why);
    fail(state, message, fence.who.clone())
}

fn fail(state: &State, message: String, detail: String) -> Next {
    end(state, Ending::Failed { message, detail })
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
