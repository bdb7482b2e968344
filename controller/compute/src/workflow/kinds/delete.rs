//! Delete: remove every VMM of an instance, then all that it holds. Goes on from wherever another
//! operation was.
//!
//! There is no undo: a tombstone is not taken back, nor what is taken away from a fenced host
//! (PROTOCOL.md, rules 5 and 8). A failure leaves the claim, and deleting again goes on.

use super::super::domain::{
    About, Change, Effect, Event, InstanceKinds, Limits, Order, Reply, Then,
};
use super::super::words;
use crate::states::Transition;
use berth_controller_hosts::Target;
use berth_controller_operations::decide::ATTEMPTS_MAX;
use berth_controller_operations::{At, Machine, ONLY, Settled, Signal, Step, Undo};
use berth_rpc_types::{Outcome, TaskState, VmState};
use serde::{Deserialize, Serialize};

pub(super) struct Delete;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// The VMM that is being removed.
    target: Option<Target>,
}

impl Machine for Delete {
    type In = InstanceKinds;
    type Memory = Memory;
    const NAME: &'static str = "delete";
    const ABOUT: About = About::new("compute_terminate_instance", LINE);
    const STEPS: &'static [Step] = &[Step::new(
        "destroy",
        Undo::Needless("a tombstone is not taken back"),
    )];

    /// Deletes a VMM, then looks for the next. An attempt is one command.
    fn next(at: &mut At<'_, Memory>, event: &Event, _limits: &Limits) -> Then {
        match (event, at.memory.target) {
            (Event::Run, None) => Then::Wait(vec![Effect::Change(Change::Find)]),
            (&Event::Run, Some(target)) | (&Event::Reply(Reply::Found(Some(target))), _) => {
                at.memory.target = Some(target);
                Then::Wait(vec![Effect::Send {
                    name: ONLY,
                    to: target,
                    order: Order::Delete,
                }])
            }
            (Event::Reply(Reply::Found(None)), _) => Then::Done(None),
            (Event::Reply(Reply::Fenced { .. }), Some(target)) => {
                destroyed(at, Change::Lose(target))
            }
            (Event::Answer { settled, .. }, Some(target)) => match settled {
                Settled::Outcome(Outcome::Done { .. }) => destroyed(at, Change::GiveBack(target)),
                // Never begun: once more, with the epoch as it is now.
                Settled::Outcome(Outcome::StaleEpoch { .. }) if at.attempt < ATTEMPTS_MAX => {
                    Then::Again(vec![])
                }
                _ => refused(event),
            },
            _ => refused(event),
        }
    }

    /// Another delete is the same thing, which is being done.
    fn signal(_: &mut At<'_, Memory>, signal: &Signal, _: &Limits) -> Result<Then, String> {
        match signal {
            Signal::Delete { .. } => Ok(Then::ignore()),
            other => Err(format!("a delete knows no {}", other.as_str())),
        }
    }
}

/// One VMM is gone, or given up: on to the next.
fn destroyed(at: &mut At<'_, Memory>, change: Change) -> Then {
    at.memory.target = None;
    Then::Again(vec![Effect::Change(change)])
}

fn refused(event: &Event) -> Then {
    words::refused(Delete::NAME, event).map_or_else(Then::ignore, Then::Fail)
}

const LINE: &[Transition; 1] = &[Transition {
    action: "delete",
    variant: "",
    from: &[
        VmState::Building,
        VmState::Active,
        VmState::Stopped,
        VmState::Paused,
        VmState::Error,
    ],
    tasks: &[TaskState::Deleting],
    done: VmState::Deleted,
    failed: Some(VmState::Error),
    launched: false,
    preempts: true,
}];
