#![allow(clippy::unwrap_used)]
use super::super::state::Memory;
use super::*;
use berth_rpc_types::{HostId, VmmId, VmmState};

const LIMITS: Limits = Limits {
    max_attempts: 3,
    grace_s: 60,
};

fn target(n: u128) -> Target {
    Target {
        vmm_id: VmmId::from_u128(n),
        host_id: HostId::from_u128(n),
    }
}

fn at(kind: Kind, step: Step, target: Option<Target>) -> State {
    State {
        kind,
        step,
        attempt: 1,
        memory: Memory {
            target,
            ..Memory::default()
        },
    }
}

fn done(state: VmmState) -> Event {
    Event::Answer(Outcome::Done {
        state,
        observation: 1,
        spans: vec![],
    })
}

fn failed(undone: bool, retry_elsewhere: bool) -> Event {
    Event::Answer(Outcome::Failed {
        message: "no room".into(),
        detail: "ENOSPC".into(),
        undone,
        retry_elsewhere,
        state: VmmState::Deleted,
        observation: 1,
    })
}

fn ending(next: &Next) -> Option<&Ending> {
    next.effects.iter().find_map(|effect| match effect {
        Effect::End(ending) => Some(ending),
        _ => None,
    })
}

#[test]
fn a_create_is_placed_bound_built_and_done() {
    let placing = next(&at(Kind::Create, Step::Place, None), &Event::Run, LIMITS);
    assert!(
        placing
            .effects
            .contains(&Effect::Place { excluded: vec![] })
    );
    let placed = next(&placing.state, &Event::Placed(target(1)), LIMITS);
    assert_eq!(placed.state.step, Step::Bind);
    let bound = next(&placed.state, &Event::Run, LIMITS);
    assert!(bound.effects.contains(&Effect::Bind(target(1))));
    let building = next(&bound.state, &Event::Run, LIMITS);
    let send = Effect::Send(target(1), Order::Build);
    assert!(building.effects.contains(&send) && !building.again);
    let built = next(&building.state, &done(VmmState::Running), LIMITS);
    let running = Ending::Done(Some(VmmState::Running));
    assert_eq!(ending(&built), Some(&running));
}

#[test]
fn a_build_that_was_undone_goes_to_another_host_until_the_attempts_are_used_up() {
    let mut state = at(Kind::Create, Step::Build, Some(target(1)));
    for host in 1..=2 {
        state.memory.target = Some(target(host));
        state.step = Step::Build;
        let retried = next(&state, &failed(true, true), LIMITS);
        assert_eq!(retried.state.step, Step::Place);
        assert_eq!(retried.effects, [Effect::GiveBack(target(host))]);
        assert!(
            retried
                .state
                .memory
                .excluded
                .contains(&target(host).host_id)
        );
        state = retried.state;
    }
    state.memory.target = Some(target(3));
    state.step = Step::Build;
    let over = next(&state, &failed(true, true), LIMITS);
    assert_eq!(over.effects[0], Effect::GiveBack(target(3)));
    let Some(Ending::Failed { message, .. }) = ending(&over) else {
        panic!("{over:?}");
    };
    assert!(
        message.contains("maximum number of attempts (3)"),
        "{message}"
    );
    assert!(message.contains("no room"), "{message}");
}

#[test]
fn a_build_that_was_not_undone_gives_nothing_back() {
    let state = at(Kind::Create, Step::Build, Some(target(1)));
    for event in [
        failed(false, true),
        failed(false, false),
        Event::DeadLetter("poison".into()),
        Event::Answer(Outcome::Superseded { by: 2 }),
    ] {
        let over = next(&state, &event, LIMITS);
        assert!(matches!(ending(&over), Some(Ending::Failed { .. })));
        assert!(!over.effects.contains(&Effect::GiveBack(target(1))));
    }
}

#[test]
fn a_build_that_never_began_is_given_back() {
    let state = at(Kind::Create, Step::Build, Some(target(1)));
    for event in [
        Event::Unroutable("no queue".into()),
        Event::Answer(Outcome::StaleEpoch { current: 2 }),
        Event::Answer(Outcome::Unsupported { min: 2, max: 3 }),
        Event::Unwritable("image is gone".into()),
        failed(true, false),
    ] {
        let back = next(&state, &event, LIMITS);
        assert_eq!(back.effects[0], Effect::GiveBack(target(1)), "{event:?}");
    }
}

#[test]
fn no_host_names_the_filters_and_what_was_tried_before() {
    let mut state = at(Kind::Create, Step::Place, None);
    state.memory.failures = vec!["host a: no room".into()];
    let over = next(&state, &Event::NoHost("No valid host".into()), LIMITS);
    let Some(Ending::Failed { message, .. }) = ending(&over) else {
        panic!("{over:?}");
    };
    assert!(message.starts_with("No valid host") && message.contains("host a: no room"));
}

#[test]
fn a_delete_removes_every_vmm_and_one_that_was_never_placed_needs_none() {
    let begun = next(&at(Kind::Delete, Step::Destroy, None), &Event::Run, LIMITS);
    assert_eq!(begun.effects, [Effect::Find]);
    let sent = next(&begun.state, &Event::Found(Some(target(1))), LIMITS);
    assert_eq!(sent.effects, [Effect::Send(target(1), Order::Delete)]);
    let gone = next(&sent.state, &done(VmmState::Deleted), LIMITS);
    assert_eq!(gone.effects, [Effect::GiveBack(target(1))]);
    assert_eq!((gone.state.attempt, gone.state.memory.target), (2, None));
    let over = next(&gone.state, &Event::Found(None), LIMITS);
    assert_eq!(ending(&over), Some(&Ending::Done(None)));
}

#[test]
fn a_delete_that_failed_keeps_its_claim() {
    let state = at(Kind::Delete, Step::Destroy, Some(target(1)));
    let over = next(&state, &failed(false, false), LIMITS);
    assert_eq!(over.effects.len(), 1);
    assert!(matches!(ending(&over), Some(Ending::Failed { .. })));
}

#[test]
fn running_a_step_twice_sends_the_same_command_of_the_same_attempt() {
    for (kind, step) in [
        (Kind::Create, Step::Build),
        (Kind::Delete, Step::Destroy),
        (Kind::Stop, Step::Act),
    ] {
        let state = at(kind, step, Some(target(1)));
        let once = next(&state, &Event::Run, LIMITS);
        let twice = next(&once.state, &Event::Run, LIMITS);
        assert_eq!(once, twice, "{kind:?}");
        assert_eq!(twice.state.attempt, 1);
    }
}

#[test]
fn a_stale_epoch_is_a_new_attempt_and_never_forever() {
    let mut state = at(Kind::Stop, Step::Act, Some(target(1)));
    let stale = Event::Answer(Outcome::StaleEpoch { current: 2 });
    for _ in 1..COMMANDS_MAX {
        let again = next(&state, &stale, LIMITS);
        assert!(again.again && again.effects.is_empty());
        assert_eq!(again.state.attempt, state.attempt + 1);
        state = again.state;
    }
    let over = next(&state, &stale, LIMITS);
    assert!(matches!(ending(&over), Some(Ending::Failed { .. })));
}

fn fenced(sent: bool) -> Event {
    Event::Fenced {
        fence: Fence {
            why: "Host a was forced down by an administrator.".into(),
            who: "forced down by user u, request r".into(),
        },
        sent,
    }
}

#[test]
fn a_delete_takes_its_vmm_away_from_a_fenced_host_and_looks_for_the_next() {
    for sent in [false, true] {
        let state = at(Kind::Delete, Step::Destroy, Some(target(1)));
        let taken = next(&state, &fenced(sent), LIMITS);
        assert_eq!(taken.effects, [Effect::Lose(target(1))]);
        assert!(taken.again && taken.state.memory.target.is_none());
        // A new attempt, so that what answers the old one is not taken for its own.
        assert_eq!(taken.state.attempt, 2);
        let none_left = next(&taken.state, &Event::Found(None), LIMITS);
        assert_eq!(ending(&none_left), Some(&Ending::Done(None)));
    }
}

#[test]
fn whatever_else_waits_for_a_fenced_host_fails_in_the_fences_words_and_gives_nothing_up() {
    for (kind, step) in [
        (Kind::Stop, Step::Act),
        (Kind::Start, Step::Act),
        (Kind::Reboot, Step::Act),
        (Kind::Create, Step::Build),
    ] {
        let over = next(&at(kind, step, Some(target(1))), &fenced(true), LIMITS);
        let Some(Ending::Failed { message, detail }) = ending(&over) else {
            panic!("{kind:?}: {over:?}");
        };
        assert!(message.contains("forced down"), "{message}");
        assert!(detail.contains("user u, request r"), "{detail}");
        assert_eq!(over.effects.len(), 1, "{kind:?}");
    }
}

#[test]
fn a_build_that_never_left_for_a_fenced_host_goes_elsewhere() {
    let state = at(Kind::Create, Step::Build, Some(target(1)));
    let moved = next(&state, &fenced(false), LIMITS);
    assert_eq!(moved.state.step, Step::Place);
    assert_eq!(moved.effects, [Effect::GiveBack(target(1))]);
}

#[test]
fn a_host_that_was_asked_for_by_name_is_tried_once_and_its_failure_is_the_fault() {
    let mut state = at(Kind::Create, Step::Build, Some(target(1)));
    state.memory.given = serde_json::json!({"forced_host": "node-1"});
    let over = next(&state, &failed(true, true), LIMITS);
    assert_eq!(over.effects[0], Effect::GiveBack(target(1)));
    let Some(Ending::Failed { message, detail }) = ending(&over) else {
        panic!("{over:?}");
    };
    assert_eq!((message.as_str(), detail.as_str()), ("no room", "ENOSPC"));
    // An order that was never begun, through no fault of the host's, is given again.
    let stale = Event::Answer(Outcome::StaleEpoch { current: 2 });
    assert_eq!(next(&state, &stale, LIMITS).state.step, Step::Place);
}

#[test]
fn a_stop_and_a_reboot_take_their_grace_from_the_request_or_the_settings() {
    let mut state = at(Kind::Stop, Step::Act, Some(target(1)));
    assert_eq!(order(&state, LIMITS), Order::Stop { grace_s: 60 });
    state.memory.given = serde_json::json!({"grace_s": 5, "soft": true});
    assert_eq!(order(&state, LIMITS), Order::Stop { grace_s: 5 });
    state.kind = Kind::Reboot;
    let soft = Order::Reboot {
        soft: true,
        grace_s: 5,
    };
    assert_eq!(order(&state, LIMITS), soft);
}

#[test]
fn progress_and_what_nobody_waits_for_change_nothing() {
    let progress = Event::Answer(Outcome::Progress {
        doing: "fetch".into(),
        percent: None,
    });
    for (kind, step) in [
        (Kind::Create, Step::Place),
        (Kind::Create, Step::Bind),
        (Kind::Create, Step::Build),
        (Kind::Delete, Step::Destroy),
        (Kind::Pause, Step::Act),
    ] {
        let state = at(kind, step, Some(target(1)));
        let same = next(&state, &progress, LIMITS);
        assert_eq!((same.state, same.effects.len()), (state, 0), "{kind:?}");
    }
}

#[test]
fn a_step_is_found_by_its_name() {
    for step in Step::ALL {
        assert_eq!(Step::parse(step.as_str()), Some(*step));
    }
}
