//! Create: place an instance, bind its ports, build its VMM.
//!
//! A build that left nothing behind is tried on another host: what was reserved is given back first.
//! One that left something is left as it is, with its claim, for a delete to remove (PROTOCOL.md,
//! rule 1).

use super::super::domain::{
    About, Change, Effect, Event, InstanceKinds, Limits, Order, Reply, Then,
};
use super::super::words;
use crate::states::Transition;
use berth_controller_hosts::Target;
use berth_controller_operations::{At, Failure, Machine, ONLY, Settled, Step, Undo};
use berth_rpc_types::{HostId, Outcome, Seen, TaskState, VmState};
use serde::{Deserialize, Serialize};

pub(super) struct Create;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// What was reserved.
    target: Option<Target>,
    /// Whether a build was ordered there that may have been begun, though nobody says so.
    doubtful: bool,
    /// Hosts that failed this create.
    excluded: Vec<HostId>,
    /// Why, each.
    failures: Vec<String>,
}

type Here<'a> = At<'a, Memory>;

impl Machine for Create {
    type In = InstanceKinds;
    type Memory = Memory;
    const NAME: &'static str = "create";
    const ABOUT: About = About::new("compute__do_build_and_run_instance", LINE);
    const STEPS: &'static [Step] = &[
        Step::new("place", Undo::Declared),
        Step::new("bind", Undo::Needless("giving back unbinds")),
        Step::new(
            "build",
            Undo::Needless("it is taken back only if its agent left nothing behind"),
        ),
    ];

    fn next(at: &mut Here<'_>, event: &Event, limits: &Limits) -> Then {
        match at.step {
            "place" => place(at, event),
            "bind" => bind(at, event),
            _ => build(at, event, *limits),
        }
    }

    fn undo(_step: &'static str, memory: &mut Memory) -> Vec<Effect> {
        let target = memory.target.take();
        let give_back = |target| Effect::Change(Change::GiveBack(target));
        target.map(give_back).into_iter().collect()
    }
}

fn task(state: TaskState) -> Effect {
    Effect::Change(Change::Task(state))
}

fn place(at: &mut Here<'_>, event: &Event) -> Then {
    match event {
        Event::Run => {
            let excluded = at.memory.excluded.clone();
            Then::Wait(vec![
                task(TaskState::Scheduling),
                Effect::Change(Change::Reserve { excluded }),
            ])
        }
        Event::Reply(Reply::Reserved(target)) => {
            at.memory.target = Some(*target);
            // In the transaction that reserved it: releases before this one hand over there.
            let hand_over = Effect::Change(Change::HandOver(*target));
            Then::Go("bind", vec![hand_over, task(TaskState::Networking)])
        }
        Event::Reply(Reply::NoHost(why)) => {
            let mut message = why.clone();
            for failure in &at.memory.failures {
                message.push_str("; tried before: ");
                message.push_str(failure);
            }
            Then::Fail(words::failure(message))
        }
        _ => Then::ignore(),
    }
}

fn bind(at: &mut Here<'_>, event: &Event) -> Then {
    match (event, at.memory.target) {
        (Event::Run, Some(target)) => Then::Go(
            "build",
            vec![
                Effect::Change(Change::Bind(target)),
                task(TaskState::BlockDeviceMapping),
            ],
        ),
        _ => Then::ignore(),
    }
}

fn build(at: &mut Here<'_>, event: &Event, limits: Limits) -> Then {
    let Some(target) = at.memory.target else {
        return Then::ignore();
    };
    match event {
        Event::Run => Then::Wait(vec![
            Effect::Send {
                name: ONLY,
                to: target,
                order: Order::Build,
            },
            task(TaskState::Spawning),
        ]),
        Event::Answer { settled, .. } => answered(at, target, event, settled, limits),
        Event::Reply(Reply::Fenced { fence, sent: false }) if !at.memory.doubtful => {
            let failure = Failure {
                message: fence.why.clone(),
                detail: fence.who.clone(),
            };
            elsewhere(at, target, failure, limits)
        }
        Event::Reply(Reply::Fenced { fence, .. }) => Then::Leave(words::fenced(
            fence,
            "What became of the build there is not known: delete the server, and create it again.",
        )),
        _ => match words::refused(Create::NAME, event) {
            None => Then::ignore(),
            Some(failure) if at.memory.doubtful => Then::Leave(failure),
            Some(failure) => Then::Fail(failure),
        },
    }
}

fn answered(
    at: &mut Here<'_>,
    target: Target,
    event: &Event,
    settled: &Settled,
    limits: Limits,
) -> Then {
    if let Settled::Outcome(Outcome::Done { answer, .. }) = settled {
        return Then::Done(answer.seen().map(|Seen { state, .. }| *state));
    }
    let Some(failure) = words::refused(Create::NAME, event) else {
        return Then::ignore();
    };
    match settled {
        Settled::Outcome(Outcome::Failed {
            undone: true,
            retry_elsewhere,
            ..
        }) => match retry_elsewhere {
            true => elsewhere(at, target, failure, limits),
            false => Then::Fail(failure),
        },
        // Not begun under this epoch; a journal that was lost may have known of it. So nothing is
        // given back: it is ordered once more there, with the epoch as it is now.
        Settled::Outcome(Outcome::StaleEpoch { .. }) if at.attempt < limits.max_attempts => {
            at.memory.doubtful = true;
            Then::Again(vec![])
        }
        Settled::Outcome(Outcome::Unsupported { .. }) | Settled::Unroutable(_)
            if !at.memory.doubtful =>
        {
            elsewhere(at, target, failure, limits)
        }
        // What is, or may be, left on the host is still claimed; a delete removes both.
        _ => Then::Leave(failure),
    }
}

/// The build left nothing behind: somewhere else, if there are attempts left. A host that was
/// asked for by name has no elsewhere: its failure is the end, in its own words, as in Nova.
fn elsewhere(at: &mut Here<'_>, target: Target, failure: Failure, limits: Limits) -> Then {
    if at.given["forced_host"].is_string() {
        return Then::Fail(failure);
    }
    if at.attempt >= limits.max_attempts {
        let attempts = at.attempt;
        let Failure { message, detail } = failure;
        return Then::Fail(Failure {
            message: format!("Exceeded maximum number of attempts ({attempts}). Last: {message}"),
            detail,
        });
    }
    let memory = &mut at.memory;
    let why = format!("host {}: {}", target.host_id, failure.message);
    memory.failures.push(why);
    memory.excluded.push(target.host_id);
    memory.doubtful = false;
    Then::Retry("place")
}

const LINE: &[Transition; 1] = &[Transition {
    action: "create",
    variant: "",
    from: &[VmState::Building],
    tasks: &[
        TaskState::Scheduling,
        TaskState::Networking,
        TaskState::BlockDeviceMapping,
        TaskState::Spawning,
    ],
    done: VmState::Active,
    failed: Some(VmState::Error),
    launched: false,
    preempts: false,
}];
