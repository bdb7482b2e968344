//! What kinds of one command have in common: it goes to the instance's VMM, its answer is the end,
//! and nothing is taken back. Such a kind says what it orders, and its line in the table of states.

use super::super::domain::{
    About, Change, Effect, Event, InstanceKinds, Limits, Order, Reply, Then,
};
use super::super::words;
use berth_controller_hosts::Target;
use berth_controller_operations::decide::ATTEMPTS_MAX;
use berth_controller_operations::{At, Machine, ONLY, Settled, Step, Undo};
use berth_rpc_types::{Outcome, Seen};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::marker::PhantomData;

/// A kind of one command.
pub(super) trait Orders: 'static {
    /// The text in `operations.kind`.
    const NAME: &'static str;
    /// What Nova says of it.
    const ABOUT: About;
    /// What it orders, by what the request said.
    fn order(given: &Value, limits: Limits) -> Order;
}

/// That kind, for the engine.
pub(super) struct OneCommand<K>(PhantomData<K>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// The instance's VMM.
    target: Option<Target>,
}

impl<K: Orders> Machine for OneCommand<K> {
    type In = InstanceKinds;
    type Memory = Memory;
    const NAME: &'static str = K::NAME;
    const ABOUT: About = K::ABOUT;
    const STEPS: &'static [Step] = &[Step::new(
        "act",
        Undo::Needless(
            "it changes only what runs, and the answer tells the state that was reached",
        ),
    )];

    fn next(at: &mut At<'_, Memory>, event: &Event, limits: &Limits) -> Then {
        match (event, at.memory.target) {
            (Event::Run, None) => Then::Wait(vec![Effect::Change(Change::Find)]),
            (&Event::Run, Some(target)) | (&Event::Reply(Reply::Found(Some(target))), _) => {
                at.memory.target = Some(target);
                Then::Wait(vec![Effect::Send {
                    name: ONLY,
                    to: target,
                    order: K::order(at.given, *limits),
                }])
            }
            (Event::Reply(Reply::Found(None)), _) => Then::Fail(words::failure(
                "The instance has nothing on any host: it was never built, or its build was \
                 undone. Delete it and create it again."
                    .to_owned(),
            )),
            (Event::Reply(Reply::Fenced { fence, .. }), _) => Then::Fail(words::fenced(
                fence,
                "What its servers do is not known: delete this one, or bring the host back and \
                 set it up again (openstack compute service set --up).",
            )),
            (Event::Answer { settled, .. }, _) => match settled {
                Settled::Outcome(Outcome::Done { answer, .. }) => {
                    Then::Done(answer.seen().map(|Seen { state, .. }| *state))
                }
                // Never begun: once more, with the epoch as it is now.
                Settled::Outcome(Outcome::StaleEpoch { .. }) if at.attempt < ATTEMPTS_MAX => {
                    Then::Again(vec![])
                }
                _ => refused::<K>(event),
            },
            _ => refused::<K>(event),
        }
    }
}

fn refused<K: Orders>(event: &Event) -> Then {
    words::refused(K::NAME, event).map_or_else(Then::ignore, Then::Fail)
}
