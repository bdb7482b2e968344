//! The kinds, without I/O: each at what it decides (here), and all of them in every order
//! ([`every_order`]).

#![allow(clippy::unwrap_used)]

mod every_order;
mod world;

use super::domain::{Change, Effect, Event, InstanceKinds, Limits, Order, Reply};
use super::kinds::Kind;
use berth_controller_hosts::{Fence, Target};
use berth_controller_operations::decide::{ATTEMPTS_MAX, Decided, Kept, Standing};
use berth_controller_operations::{Ending, Failure, ONLY, Settled};
use berth_rpc_types::{HostId, Outcome, Seen, VmmId, VmmState};
use serde_json::{Value, json};

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

fn at(step: &str, target: Option<Target>) -> Standing {
    Standing {
        step: step.into(),
        attempt: 1,
        params: json!({"given": {}, "target": target}),
        waits: vec![],
    }
}

fn given(standing: Standing, given: Value) -> Standing {
    let mut params = standing.params;
    params["given"] = given;
    Standing { params, ..standing }
}

fn then(decided: &Decided<InstanceKinds>) -> Standing {
    Standing {
        step: decided.step.into(),
        attempt: decided.attempt,
        params: decided.params.clone(),
        waits: vec![],
    }
}

fn on(kind: Kind, standing: &Standing, event: &Event) -> Decided<InstanceKinds> {
    (kind.machine().decide)(standing, event, &LIMITS).unwrap()
}

fn answer(outcome: Outcome) -> Event {
    Event::Answer {
        command: ONLY.into(),
        settled: Settled::Outcome(outcome),
    }
}

fn done(state: VmmState) -> Event {
    answer(Outcome::done(state, 1))
}

fn failed(undone: bool, retry_elsewhere: bool) -> Event {
    answer(Outcome::Failed {
        message: "no room".into(),
        detail: "ENOSPC".into(),
        undone,
        retry_elsewhere,
        seen: Some(Seen {
            state: VmmState::Deleted,
            observation: 1,
        }),
    })
}

fn dead_letter() -> Event {
    Event::Answer {
        command: ONLY.into(),
        settled: Settled::DeadLetter("poison".into()),
    }
}

fn unroutable() -> Event {
    Event::Answer {
        command: ONLY.into(),
        settled: Settled::Unroutable("no queue".into()),
    }
}

fn fenced(sent: bool) -> Event {
    Event::Reply(Reply::Fenced {
        fence: Fence {
            why: "Host a was forced down by an administrator.".into(),
            who: "forced down by user u, request r".into(),
        },
        sent,
    })
}

fn stale() -> Event {
    answer(Outcome::StaleEpoch { current: 2 })
}

const fn send(to: Target, order: Order) -> Effect {
    Effect::Send {
        name: ONLY,
        to,
        order,
    }
}

const fn give_back(target: Target) -> Effect {
    Effect::Change(Change::GiveBack(target))
}

fn ending(decided: &Decided<InstanceKinds>) -> Option<&Ending<InstanceKinds>> {
    decided.effects.iter().find_map(|effect| match effect {
        Effect::End(ending) => Some(ending),
        _ => None,
    })
}

#[track_caller]
fn failure(decided: &Decided<InstanceKinds>) -> &Failure {
    match ending(decided) {
        Some(Ending::Failed(failure)) => failure,
        _ => panic!("{decided:?}"),
    }
}

#[test]
fn a_kind_is_found_by_its_text_and_its_steps_have_names_of_their_own() {
    for kind in Kind::ALL {
        let machine = kind.machine();
        assert_eq!(Kind::parse(kind.as_str()), Some(*kind));
        let mut names: Vec<_> = machine.steps.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert!(!names.is_empty() && names.len() == machine.steps.len());
        // What it remembers has no name of the engine's: none is lost when both are written.
        let decided = on(*kind, &at(machine.first(), Some(target(1))), &stale());
        let kept = serde_json::from_value::<Kept>(decided.params).unwrap();
        assert!(kept.undoing.is_none() && !kept.timers && kept.children.is_none());
    }
    assert_eq!(Kind::parse("fly"), None);
}

#[test]
fn a_create_is_placed_bound_built_and_done() {
    let create = Kind::Create;
    let placing = on(create, &at("place", None), &Event::Run);
    let reserve = Change::Reserve { excluded: vec![] };
    assert!(placing.effects.contains(&Effect::Change(reserve)));
    let placed = on(
        create,
        &then(&placing),
        &Event::Reply(Reply::Reserved(target(1))),
    );
    // Reserved and handed over in one transaction, by two effects.
    let hand_over = Effect::Change(Change::HandOver(target(1)));
    assert!(placed.step == "bind" && placed.effects.contains(&hand_over));
    let bound = on(create, &then(&placed), &Event::Run);
    let bind = Effect::Change(Change::Bind(target(1)));
    assert!(bound.effects.contains(&bind));
    let building = on(create, &then(&bound), &Event::Run);
    assert!(building.effects.contains(&send(target(1), Order::Build)) && !building.again);
    let built = on(create, &then(&building), &done(VmmState::Running));
    let running = Ending::Done(Some(VmmState::Running));
    assert_eq!(ending(&built), Some(&running));
}

#[test]
fn a_build_that_was_undone_goes_to_another_host_until_the_attempts_are_used_up() {
    let mut standing = at("build", Some(target(1)));
    for host in 1..=2 {
        standing.params["target"] = json!(target(host));
        standing.step = "build".into();
        let retried = on(Kind::Create, &standing, &failed(true, true));
        assert_eq!((retried.step, retried.again), ("place", true));
        assert_eq!(retried.effects, [give_back(target(host))]);
        let excluded = retried.params["excluded"].as_array().unwrap().clone();
        assert!(excluded.contains(&json!(target(host).host_id)));
        standing = then(&retried);
    }
    standing.params["target"] = json!(target(3));
    standing.step = "build".into();
    let over = on(Kind::Create, &standing, &failed(true, true));
    assert_eq!(over.effects[0], give_back(target(3)));
    let message = &failure(&over).message;
    assert!(
        message.contains("maximum number of attempts (3)"),
        "{message}"
    );
    assert!(message.contains("no room"), "{message}");
}

#[test]
fn a_build_that_was_not_undone_gives_nothing_back() {
    for event in [
        failed(false, true),
        failed(false, false),
        dead_letter(),
        answer(Outcome::Superseded { by: 2 }),
        fenced(true),
    ] {
        let over = on(Kind::Create, &at("build", Some(target(1))), &event);
        failure(&over);
        assert!(!over.effects.contains(&give_back(target(1))));
    }
}

#[test]
fn a_build_that_never_began_is_given_back() {
    for event in [
        unroutable(),
        answer(Outcome::Unsupported { min: 2, max: 3 }),
        Event::Reply(Reply::Unwritable("image is gone".into())),
        fenced(false),
        failed(true, false),
    ] {
        let back = on(Kind::Create, &at("build", Some(target(1))), &event);
        assert_eq!(back.effects[0], give_back(target(1)), "{event:?}");
    }
}

#[test]
fn a_build_whose_host_lost_its_journal_may_be_there_until_its_agent_says_that_it_is_not() {
    let again = on(Kind::Create, &at("build", Some(target(1))), &stale());
    // Once more, on the same host, and nothing is given back.
    assert_eq!((again.step, again.attempt, again.again), ("build", 2, true));
    assert_eq!(again.effects, []);
    let ordered = on(Kind::Create, &then(&again), &Event::Run);
    assert!(ordered.effects.contains(&send(target(1), Order::Build)));
    // That this order did not reach it says nothing of the first.
    for event in [
        unroutable(),
        answer(Outcome::Unsupported { min: 2, max: 3 }),
        Event::Reply(Reply::Unwritable("image is gone".into())),
        fenced(false),
    ] {
        let over = on(Kind::Create, &then(&ordered), &event);
        failure(&over);
        assert!(!over.effects.contains(&give_back(target(1))), "{event:?}");
    }
    let back = on(Kind::Create, &then(&ordered), &failed(true, true));
    assert_eq!(
        (back.step, &back.effects[0]),
        ("place", &give_back(target(1)))
    );
    // The next host is not in doubt.
    assert_eq!(back.params["doubtful"], false);
}

#[test]
fn no_host_names_the_filters_and_what_was_tried_before() {
    let mut standing = at("place", None);
    standing.params["failures"] = json!(["host a: no room"]);
    let none = Event::Reply(Reply::NoHost("No valid host".into()));
    let over = on(Kind::Create, &standing, &none);
    let message = &failure(&over).message;
    assert!(message.starts_with("No valid host") && message.contains("host a: no room"));
}

#[test]
fn a_host_that_was_asked_for_by_name_is_tried_once_and_its_failure_is_the_fault() {
    let forced = given(
        at("build", Some(target(1))),
        json!({"forced_host": "node-1"}),
    );
    let over = on(Kind::Create, &forced, &failed(true, true));
    assert_eq!(over.effects[0], give_back(target(1)));
    let Failure { message, detail } = failure(&over);
    assert_eq!((message.as_str(), detail.as_str()), ("no room", "ENOSPC"));
}

#[test]
fn a_delete_removes_every_vmm_and_one_that_was_never_placed_needs_none() {
    let delete = Kind::Delete;
    let begun = on(delete, &at("destroy", None), &Event::Run);
    assert_eq!(begun.effects, [Effect::Change(Change::Find)]);
    let found = Event::Reply(Reply::Found(Some(target(1))));
    let sent = on(delete, &then(&begun), &found);
    assert_eq!(sent.effects, [send(target(1), Order::Delete)]);
    let gone = on(delete, &then(&sent), &done(VmmState::Deleted));
    assert_eq!(gone.effects, [give_back(target(1))]);
    assert_eq!((gone.attempt, gone.again), (2, true));
    let over = on(delete, &then(&gone), &Event::Reply(Reply::Found(None)));
    assert_eq!(ending(&over), Some(&Ending::Done(None)));
}

#[test]
fn a_delete_that_failed_keeps_its_claim() {
    let over = on(
        Kind::Delete,
        &at("destroy", Some(target(1))),
        &failed(false, false),
    );
    assert_eq!(over.effects.len(), 1);
    failure(&over);
}

#[test]
fn a_delete_takes_its_vmm_away_from_a_fenced_host_and_looks_for_the_next() {
    for sent in [false, true] {
        let taken = on(Kind::Delete, &at("destroy", Some(target(1))), &fenced(sent));
        assert_eq!(taken.effects, [Effect::Change(Change::Lose(target(1)))]);
        // A new attempt, so that what answers the old one is not taken for its own.
        assert_eq!((taken.attempt, taken.again), (2, true));
        let none = Event::Reply(Reply::Found(None));
        let none_left = on(Kind::Delete, &then(&taken), &none);
        assert_eq!(ending(&none_left), Some(&Ending::Done(None)));
    }
}

#[test]
fn whatever_else_waits_for_a_fenced_host_fails_in_the_fences_words_and_gives_nothing_up() {
    for (kind, step) in [
        (Kind::Stop, "act"),
        (Kind::Start, "act"),
        (Kind::Reboot, "act"),
        (Kind::Create, "build"),
    ] {
        let over = on(kind, &at(step, Some(target(1))), &fenced(true));
        let Failure { message, detail } = failure(&over);
        assert!(message.contains("forced down"), "{message}");
        assert!(detail.contains("user u, request r"), "{detail}");
        assert_eq!(over.effects.len(), 1, "{kind:?}");
    }
}

#[test]
fn a_stale_epoch_is_a_new_attempt_and_never_forever() {
    for (kind, step) in [(Kind::Stop, "act"), (Kind::Delete, "destroy")] {
        let mut standing = at(step, Some(target(1)));
        for _ in 1..ATTEMPTS_MAX {
            let again = on(kind, &standing, &stale());
            assert!(again.again && again.effects.is_empty());
            assert_eq!(again.attempt, standing.attempt + 1);
            standing = then(&again);
        }
        failure(&on(kind, &standing, &stale()));
    }
    let mut standing = at("build", Some(target(1)));
    standing.attempt = LIMITS.max_attempts;
    let over = on(Kind::Create, &standing, &stale());
    failure(&over);
    assert_eq!(over.effects.len(), 1);
}

#[test]
fn a_stop_and_a_reboot_take_their_grace_from_the_request_or_the_settings() {
    let order = |kind: Kind, asked: Value| {
        let standing = given(at("act", Some(target(1))), asked);
        match on(kind, &standing, &Event::Run).effects[..] {
            [Effect::Send { order, .. }] => order,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(order(Kind::Stop, json!({})), Order::Stop { grace_s: 60 });
    let asked = json!({"grace_s": 5, "soft": true});
    let (soft, grace_s) = (true, 5);
    assert_eq!(order(Kind::Stop, asked.clone()), Order::Stop { grace_s });
    assert_eq!(order(Kind::Reboot, asked), Order::Reboot { soft, grace_s });
    assert_eq!(Kind::Reboot.line(&json!({"soft": true})).variant, "SOFT");
    assert_eq!(Kind::Reboot.line(&Value::Null).variant, "HARD");
}
