#![allow(clippy::unwrap_used)]
use super::*;
use crate::machine::{ONLY, Progress};
use berth_rpc_types::{OperationId, VmmState};
use serde_json::json;

/// A domain of orders by name, in which changes answer nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plain;

impl Domain for Plain {
    type About = ();
    type Change = &'static str;
    type Reply = &'static str;
    type Target = u8;
    type Order = &'static str;
    type Reached = ();
    type Limits = ();
}

type Happens = Event<&'static str>;

/// Four steps: a row, a command, an order that gives the right away, and what comes after.
struct Moving;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    rows: u32,
    prepared: bool,
}

impl Machine for Moving {
    type In = Plain;
    type Memory = Memory;
    const NAME: &'static str = "moving";
    const ABOUT: () = ();
    const STEPS: &'static [Step] = &[
        Step::new("row", Undo::Declared),
        Step::new("prepare", Undo::Declared),
        Step::new("go", Undo::Needless("only a refusal leads back")).giving_right(),
        Step::new("tidy", Undo::Needless("only forward")),
    ];

    fn next(at: &mut At<'_, Memory>, event: &Happens, (): &()) -> Then<Plain> {
        let send = |name, order| Then::Wait(vec![Effect::Send { name, to: 1, order }]);
        match (at.step, event) {
            ("row", Event::Run) => {
                at.memory.rows += 1;
                Then::Go("prepare", vec![Effect::Change("make")])
            }
            ("prepare", Event::Run) => Then::Wait(
                ["source", "target"]
                    .map(|name| Effect::Send {
                        name,
                        to: 1,
                        order: "prepare",
                    })
                    .into(),
            ),
            ("prepare", Event::Answer { settled, .. }) => match settled {
                Settled::Outcome(Outcome::Done { .. }) if at.waits.is_empty() => {
                    at.memory.prepared = true;
                    Then::Go("go", vec![])
                }
                Settled::Outcome(Outcome::Done { .. }) => Then::ignore(),
                Settled::Outcome(Outcome::StaleEpoch { .. }) => Then::Retry("row"),
                _ => Then::Fail(bad("prepare")),
            },
            ("go", Event::Run) => send(ONLY, "go"),
            ("go", Event::Answer { settled, .. }) => match settled {
                Settled::Outcome(Outcome::Done { .. }) => Then::Go("tidy", vec![]),
                _ => Then::Fail(bad("go")),
            },
            ("go", Event::Timer(_)) => Then::Fail(bad("too long")),
            ("tidy", Event::Timer(_)) => Then::Fail(bad("tidy")),
            ("tidy", Event::Run) => Then::Done(None),
            _ => Then::ignore(),
        }
    }

    fn undo(step: &'static str, memory: &mut Memory) -> Vec<Effect<Plain>> {
        match step {
            "row" => {
                memory.rows -= 1;
                vec![Effect::Change("unmake")]
            }
            _ => {
                memory.prepared = false;
                vec![
                    Effect::Change("unprepared"),
                    Effect::Send {
                        name: ONLY,
                        to: 1,
                        order: "unprepare",
                    },
                ]
            }
        }
    }
}

fn bad(what: &str) -> Failure {
    Failure {
        message: what.into(),
        detail: String::new(),
    }
}

fn at(step: &str, waits: &[&str]) -> Standing {
    Standing {
        step: step.into(),
        attempt: 1,
        params: json!({"given": {"n": 1}, "rows": 1, "prepared": true}),
        waits: waits.iter().map(|&w| w.to_owned()).collect(),
    }
}

fn then(decided: &Decided<Plain>, waits: &[&str]) -> Standing {
    Standing {
        step: decided.step.into(),
        attempt: decided.attempt,
        params: decided.params.clone(),
        waits: waits.iter().map(|&w| w.to_owned()).collect(),
    }
}

fn answer(outcome: Outcome) -> Happens {
    Event::Answer {
        command: "x".into(),
        settled: Settled::Outcome(outcome),
    }
}

fn done() -> Happens {
    answer(Outcome::done(VmmState::Running, 1))
}

fn failed() -> Happens {
    answer(Outcome::Failed {
        message: "no".into(),
        detail: String::new(),
        undone: false,
        retry_elsewhere: false,
        seen: None,
    })
}

fn on(standing: &Standing, event: &Happens) -> Decided<Plain> {
    decide::<Moving>(standing, event, &()).unwrap()
}

fn ended(decided: &Decided<Plain>) -> Option<&Ending<Plain>> {
    decided.effects.iter().find_map(|effect| match effect {
        Effect::End(ending) => Some(ending),
        _ => None,
    })
}

#[test]
fn several_commands_are_waited_for_by_their_names() {
    let sent = on(&at("prepare", &[]), &Event::Run);
    assert_eq!(sent.effects.len(), 2);
    let half = on(&at("prepare", &["target"]), &done());
    assert_eq!((half.step, half.effects.len()), ("prepare", 0));
    assert_eq!(on(&at("prepare", &[]), &done()).step, "go");
}

#[test]
fn what_the_request_said_and_what_is_remembered_are_kept_together() {
    let gone_on = on(&at("row", &[]), &Event::Run);
    let kept = json!({"given": {"n": 1}, "rows": 2, "prepared": true});
    assert_eq!(gone_on.params, kept);
    assert!(gone_on.again);
}

#[test]
fn a_failure_is_taken_back_backwards_commands_first_and_changes_once_they_are_answered() {
    let begun = on(&at("prepare", &[]), &failed());
    assert_eq!((begun.step, begun.attempt), ("prepare", 2));
    assert!(begun.effects.is_empty() && begun.again);
    // A crash between the two runs it again, with the same messages.
    for _ in 0..2 {
        let sent = on(&then(&begun, &[]), &Event::Run);
        assert!(matches!(
            sent.effects[..],
            [Effect::Send {
                order: "unprepare",
                ..
            }]
        ));
        assert_eq!(sent.params, begun.params);
    }
    let over = on(&then(&begun, &[]), &done());
    assert_eq!(
        over.effects,
        [
            Effect::Change("unprepared"),
            Effect::Change("unmake"),
            Effect::End(Ending::Failed(bad("prepare"))),
        ]
    );
    assert_eq!(over.params["rows"], 0);
}

#[test]
fn a_retry_goes_back_to_its_step_as_a_new_attempt() {
    let stale = answer(Outcome::StaleEpoch { current: 2 });
    let begun = on(&at("prepare", &[]), &stale);
    let back = on(&then(&begun, &[]), &done());
    assert_eq!((back.step, back.attempt, back.again), ("row", 3, true));
    let effects = [Effect::Change("unprepared"), Effect::Change("unmake")];
    assert_eq!(back.effects, effects);
    assert!(back.params.get("undoing").is_none());
}

#[test]
fn what_cannot_be_taken_back_is_left_and_told() {
    let begun = on(&at("prepare", &[]), &failed());
    let left = on(&then(&begun, &[]), &failed());
    let Some(Ending::Failed(failure)) = ended(&left) else {
        panic!("{left:?}");
    };
    assert!(failure.message.starts_with("prepare"), "{failure:?}");
    assert!(
        failure
            .detail
            .contains("step prepare was not taken back: no")
    );
    assert_eq!(left.effects.len(), 1);
    // An undo that was never begun is tried again; so often, and no oftener.
    let stale = answer(Outcome::StaleEpoch { current: 2 });
    let mut standing = then(&begun, &[]);
    while let again = on(&standing, &stale)
        && ended(&again).is_none()
    {
        assert!(again.attempt == standing.attempt + 1 && again.again);
        standing = then(&again, &[]);
    }
    assert_eq!(standing.attempt, ATTEMPTS_MAX);
}

#[test]
fn between_the_order_that_gives_the_right_and_its_answer_there_is_neither_undo_nor_delete() {
    let by = OperationId::from_u128(1);
    let waiting = at("go", &[ONLY]);
    let held = on(&waiting, &Event::Timer("patience".into()));
    assert_eq!((held.step, held.effects.len()), ("go", 0));
    assert!(held.params.get("undoing").is_none());
    let refused = signal::<Moving>(&waiting, &Signal::Delete { by }, &()).unwrap();
    assert!(refused.unwrap_err().contains("changing hands"));
    // What the broker gave up on was not answered.
    let lost = Event::Answer {
        command: ONLY.into(),
        settled: Settled::DeadLetter("poison".into()),
    };
    assert_eq!(on(&at("go", &[]), &lost).effects, []);
    // Its answer says that the right was refused: then it is taken back.
    let refused = on(&at("go", &[]), &failed());
    assert_eq!((refused.step, refused.again), ("prepare", true));
}

#[test]
fn after_the_right_was_given_there_is_only_forward() {
    let forward = on(&at("go", &[]), &done());
    assert_eq!(forward.step, "tidy");
    let left = on(&then(&forward, &[]), &Event::Timer("patience".into()));
    assert_eq!(left.effects, [Effect::End(Ending::Failed(bad("tidy")))]);
}

#[test]
fn a_delete_takes_the_place_of_a_kind_and_other_signals_are_refused_in_words() {
    let by = OperationId::from_u128(1);
    let standing = at("prepare", &["source"]);
    let gone = signal::<Moving>(&standing, &Signal::Delete { by }, &()).unwrap();
    assert_eq!(ended(&gone.unwrap()), Some(&Ending::GaveWay(by)));
    for other in [
        Signal::Abort,
        Signal::ForceComplete,
        Signal::Confirm,
        Signal::Revert,
    ] {
        let refused = signal::<Moving>(&standing, &other, &()).unwrap();
        assert!(refused.unwrap_err().contains(other.as_str()));
    }
    // While it is taken back, a delete still may.
    let begun = on(&at("prepare", &[]), &failed());
    let standing = then(&begun, &[ONLY]);
    let gone = signal::<Moving>(&standing, &Signal::Delete { by }, &()).unwrap();
    assert_eq!(ended(&gone.unwrap()), Some(&Ending::GaveWay(by)));
    let abort = signal::<Moving>(&standing, &Signal::Abort, &()).unwrap();
    assert!(abort.unwrap_err().contains("taken back"));
}

#[test]
fn a_late_answer_and_news_of_children_are_events_that_change_nothing_here() {
    let late = Event::Late {
        step: "prepare".into(),
        attempt: 1,
        command: "source".into(),
        settled: Settled::Unroutable("no queue".into()),
    };
    for event in [late, Event::Children(Progress::default())] {
        let same = on(&at("tidy", &[]), &event);
        assert_eq!((same.step, same.effects.len()), ("tidy", 0));
    }
}

#[test]
fn a_row_that_its_kind_cannot_read_is_named_by_its_column() {
    let unknown = at("fly", &[]);
    let error = decide::<Moving>(&unknown, &Event::Run, &()).unwrap_err();
    assert_eq!(error.column, "step");
    let standing = Standing {
        params: json!({"given": null, "rows": "many"}),
        ..at("row", &[])
    };
    let error = decide::<Moving>(&standing, &Event::Run, &()).unwrap_err();
    assert_eq!(error.column, "params");
}
