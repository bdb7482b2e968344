//! How failures are worded, for all kinds alike: what failed, why, and which knob to turn.

use super::domain::{Event, Reply};
use berth_controller_hosts::Fence;
use berth_controller_operations::{Failure, Settled};
use berth_rpc_types::Outcome;

/// A failure without detail.
pub(super) fn failure(message: String) -> Failure {
    Failure {
        message,
        detail: String::new(),
    }
}

/// In a fence's words, and what to do about it.
pub(super) fn fenced(fence: &Fence, remedy: &str) -> Failure {
    Failure {
        message: format!("{} {remedy}", fence.why),
        detail: fence.who.clone(),
    }
}

/// The failure that an event is to an order of that kind; `None`: it is none.
pub(super) fn refused(kind: &str, event: &Event) -> Option<Failure> {
    match event {
        Event::Answer { settled, .. } => ended_badly(kind, settled),
        Event::Reply(Reply::Unwritable(why)) => Some(failure(why.clone())),
        _ => None,
    }
}

fn ended_badly(kind: &str, settled: &Settled) -> Option<Failure> {
    match settled {
        Settled::Outcome(Outcome::Done { .. } | Outcome::Progress { .. }) => None,
        Settled::Outcome(Outcome::Failed {
            message, detail, ..
        }) => Some(Failure {
            message: message.clone(),
            detail: detail.clone(),
        }),
        Settled::Outcome(outcome) => Some(failure(explain(kind, outcome))),
        Settled::Unroutable(why) | Settled::DeadLetter(why) => Some(failure(why.clone())),
    }
}

/// Why an agent did not begin what it was ordered.
fn explain(kind: &str, outcome: &Outcome) -> String {
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
