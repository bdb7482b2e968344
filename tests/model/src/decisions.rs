//! What the product's kinds decide, for the kinds that there are: create, start and delete.
//!
//! The model has its own steps for what the product cannot do yet (migrate, and recovery from the
//! disk). Where it has the kind, the model asks the kind: each answer is put to it once, at the
//! step that waits for a command, and what it makes of it is kept in a table, so that the millions
//! of states that are visited ask a table.

use crate::words::Reply;
use berth_controller_compute::workflow::{Change, Kind, Limits};
use berth_controller_hosts::Target;
use berth_controller_operations::decide::Standing;
use berth_controller_operations::{Effect, Ending, Event, ONLY, Settled};
use berth_rpc_types::{HostId, VmmId, VmmState};
use serde_json::json;
use std::sync::LazyLock;

/// What a kind does at an answer to its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is over, as it was meant.
    Done,
    /// It is over; what is, or may be, on the host is still claimed.
    Left,
    /// The same once more, with what is known now.
    Again,
    /// The VMM is given back; if the operation goes on, it is with another.
    GivenBack {
        /// On another host.
        excluded: bool,
    },
}

/// What this kind decides at this answer.
///
/// # Panics
/// If the kind has no command, or decides something that the model has no word for: then the
/// model is to be taught.
pub fn decided(kind: Kind, reply: Reply) -> Decision {
    let found = TABLE.iter().find(|((k, r), _)| (*k, *r) == (kind, reply));
    match found {
        Some((_, decision)) => *decision,
        None => ask(kind, reply),
    }
}

type Table = Vec<((Kind, Reply), Decision)>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let done = [
        VmmState::Running,
        VmmState::Stopped,
        VmmState::Paused,
        VmmState::Deleted,
    ];
    let mut replies = vec![
        Reply::Failed { undone: true },
        Reply::Failed { undone: false },
        Reply::Superseded,
        Reply::StaleEpoch,
        Reply::BelowWatermark,
    ];
    replies.extend(done.map(Reply::Done));
    let kinds = [Kind::Create, Kind::Start, Kind::Delete];
    let pairs = kinds
        .into_iter()
        .flat_map(|k| replies.iter().map(move |r| (k, *r)));
    pairs.map(|(k, r)| ((k, r), ask(k, r))).collect()
});

fn ask(kind: Kind, reply: Reply) -> Decision {
    let host_id = HostId::from_u128(1);
    let target = Target {
        vmm_id: VmmId::from_u128(1),
        host_id,
    };
    let machine = kind.machine();
    // The last step is the one that waits for a command; a test of the kinds says so.
    let step = machine.steps.last().map_or("", |step| step.name);
    let standing = Standing {
        step: step.to_owned(),
        attempt: 1,
        params: json!({"given": {}, "target": target}),
        waits: Vec::new(),
    };
    let event = Event::Answer {
        command: ONLY.to_owned(),
        settled: Settled::Outcome(reply.outcome()),
    };
    let limits = Limits {
        max_attempts: 3,
        grace_s: 60,
    };
    let decided = match (machine.decide)(&standing, &event, &limits) {
        Ok(decided) => decided,
        Err(error) => panic!("{kind:?} at {reply:?}: {error}"),
    };
    let gives_back = Effect::Change(Change::GiveBack(target));
    match decided.effects.as_slice() {
        [Effect::End(Ending::Done(_))] => Decision::Done,
        [Effect::End(Ending::Failed(_))] => Decision::Left,
        [] if decided.again && decided.step == step => Decision::Again,
        [only] if decided.again && *only == gives_back => {
            let excluded = decided.params["excluded"].as_array();
            Decision::GivenBack {
                excluded: excluded.is_some_and(|hosts| hosts.contains(&json!(host_id))),
            }
        }
        _ => panic!("{kind:?} at {reply:?}: the model has no word for {decided:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_given_back_only_if_its_agent_says_that_nothing_is_left() {
        for (reply, decision) in [
            (Reply::Done(VmmState::Running), Decision::Done),
            (
                Reply::Failed { undone: true },
                Decision::GivenBack { excluded: true },
            ),
            (Reply::Failed { undone: false }, Decision::Left),
            (Reply::Superseded, Decision::Left),
            (Reply::StaleEpoch, Decision::Again),
            (Reply::BelowWatermark, Decision::Again),
        ] {
            assert_eq!(decided(Kind::Create, reply), decision, "{reply:?}");
        }
    }
}
