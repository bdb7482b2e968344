//! What an operation has besides its steps: timers, children, holds and subjects.

#![allow(clippy::unwrap_used)]

use super::tests::{Asking, Nothing, begun, engine, in_tx, insert, note, round, told};
use crate::machine::{At, Child, Effect, Event, Machine, Signal, Step, Then, Undo};
use crate::*;
use berth_controller_core::params;
use berth_rpc_types::{InstanceId, OperationId, Subject, SubjectKind};
use serde_json::json;

/// A kind that sets a timer, and is done when it has run out; or is told to stop.
struct Sleep;

pub(crate) static SLEEP: Kind<Asking> = Kind::of::<Sleep>();

impl Machine for Sleep {
    type In = Asking;
    type Memory = Nothing;
    const NAME: &'static str = "sleeping";
    const ABOUT: () = ();
    const STEPS: &'static [Step] = &[
        Step::new("set", Undo::Needless("a timer ends with its operation")),
        Step::new("sleep", Undo::Needless("it waits")),
    ];

    fn next(at: &mut At<'_, Nothing>, event: &Event<()>, (): &()) -> Then<Asking> {
        match (at.step, event) {
            ("set", Event::Run) => Then::Go(
                "sleep",
                vec![
                    Effect::Timer {
                        name: "alarm",
                        after_ms: 60_000,
                    },
                    Effect::Timer {
                        name: "snooze",
                        after_ms: 90_000,
                    },
                ],
            ),
            (_, Event::Timer(name)) if name == "alarm" => Then::Wait(vec![note(name.clone())]),
            (_, Event::Timer(_)) => Then::Done(None),
            _ => Then::ignore(),
        }
    }

    fn signal(_: &mut At<'_, Nothing>, signal: &Signal, (): &()) -> Result<Then<Asking>, String> {
        match signal {
            Signal::Abort => Ok(Then::Done(None)),
            other => Err(other.as_str().into()),
        }
    }
}

/// A kind that leads five others, two at once.
struct Lead;

pub(crate) static LEAD: Kind<Asking> = Kind::of::<Lead>();

impl Machine for Lead {
    type In = Asking;
    type Memory = Nothing;
    const NAME: &'static str = "leading";
    const ABOUT: () = ();
    const STEPS: &'static [Step] = &[
        Step::new("begin", Undo::Needless("they are told to stop")),
        Step::new("lead", Undo::Needless("they are told to stop")),
    ];

    fn next(at: &mut At<'_, Nothing>, event: &Event<()>, (): &()) -> Then<Asking> {
        let child = |n: u128| Child {
            kind: "sleeping",
            subject: InstanceId::from_u128(n).into(),
            given: json!({ "refused": n == 5 }),
        };
        match (at.step, event) {
            ("begin", Event::Run) => Then::Go(
                "lead",
                vec![Effect::Children {
                    children: (1..=5).map(child).collect(),
                    at_once: 2,
                }],
            ),
            (_, Event::Children(progress)) => {
                let Progress {
                    waiting: w,
                    running: r,
                    done: d,
                    failed: f,
                    stopped: s,
                } = *progress;
                let told = note(format!("{w} {r} {d} {f} {s}"));
                match progress.is_over() {
                    true => Then::Done(None),
                    false => Then::Wait(vec![told]),
                }
            }
            _ => Then::ignore(),
        }
    }

    fn signal(_: &mut At<'_, Nothing>, signal: &Signal, (): &()) -> Result<Then<Asking>, String> {
        match signal {
            Signal::Abort => Ok(Then::Wait(vec![Effect::StopChildren])),
            other => Err(other.as_str().into()),
        }
    }
}

async fn run(engine: &Engine, id: OperationId) {
    while round(engine, id).await == Advanced::Again {}
}

async fn state(engine: &Engine, id: OperationId) -> (String, Option<i64>) {
    let row: Option<(String, Option<i64>)> = in_tx!(engine, |tx| [] {
        let sql = "SELECT state, wake_at FROM operations WHERE id = $1";
        tx.query_opt(sql, params![id]).await
    });
    row.unwrap()
}

async fn children(engine: &Engine) -> Vec<OperationId> {
    let rows: Vec<(OperationId,)> = in_tx!(engine, |tx| [] {
        let sql = "SELECT id FROM operations WHERE kind = 'sleeping' AND state = 'running' \
                   ORDER BY rowid";
        tx.query(sql, params![]).await
    });
    rows.into_iter().map(|(id,)| id).collect()
}

async fn say(engine: &Engine, id: OperationId, what: Signal) -> Signalled {
    in_tx!(engine, |tx| [engine] {
        signal(tx, &*engine.kinds, &engine.app.env(), id, what).await
    })
}

#[tokio::test]
async fn a_timer_is_a_row_that_wakes_its_operation_once() {
    let engine = engine().await;
    let id = begun(&engine, "sleeping", 1).await;
    run(&engine, id).await;
    let (_, wake_at) = state(&engine, id).await;
    let left = wake_at.unwrap() - engine.app.clock.now_millis();
    assert!((50_000..=60_000).contains(&left), "{left}");
    // It has not run out: nothing is told, and it is not taken for a clock that was set back.
    assert!(driver::due(&engine).await.unwrap().is_empty());
    run(&engine, id).await;
    assert!(told(&engine).await.is_empty());
    let over = "UPDATE timers SET due_at = 1 WHERE name = 'alarm'";
    in_tx!(engine, |tx| [] tx.execute(over, params![]).await);
    run(&engine, id).await;
    assert_eq!(told(&engine).await, ["alarm"]);
    // The other one is what it waits for now.
    let (state_now, wake_at) = state(&engine, id).await;
    let left = wake_at.unwrap() - engine.app.clock.now_millis();
    assert!(state_now == "running" && left > 60_000, "{left}");
    let over = "UPDATE timers SET due_at = 1";
    in_tx!(engine, |tx| [] tx.execute(over, params![]).await);
    run(&engine, id).await;
    assert_eq!(state(&engine, id).await, ("done".into(), None));
    assert_eq!(told(&engine).await, ["alarm"]);
}

#[tokio::test]
async fn children_run_so_many_at_once_and_their_parent_is_told_how_far_they_are() {
    let engine = engine().await;
    let id = begun(&engine, "leading", 1).await;
    run(&engine, id).await;
    assert_eq!(told(&engine).await, ["3 2 0 0 0"]);
    // Nothing new is not told again.
    run(&engine, id).await;
    assert_eq!(told(&engine).await.len(), 1);
    for _ in 0..4 {
        let running = children(&engine).await;
        assert!((1..=2).contains(&running.len()), "{}", running.len());
        assert_eq!(
            say(&engine, running[0], Signal::Abort).await,
            Signalled::Taken
        );
        // The end of a child wakes its parent.
        assert!(state(&engine, id).await.1.is_some());
        run(&engine, id).await;
    }
    // The fifth was refused: that is a failure, and no reason to wait.
    let all = ["3 2 0 0 0", "2 2 1 0 0", "1 2 2 0 0", "0 1 3 1 0"];
    assert_eq!(told(&engine).await, all);
    assert_eq!(state(&engine, id).await.0, "done");
}

#[tokio::test]
async fn children_are_stopped_together_and_those_that_run_are_told_to_abort() {
    let engine = engine().await;
    let id = begun(&engine, "leading", 1).await;
    run(&engine, id).await;
    assert_eq!(say(&engine, id, Signal::Abort).await, Signalled::Taken);
    run(&engine, id).await;
    assert!(children(&engine).await.is_empty());
    assert_eq!(state(&engine, id).await.0, "done");
}

#[tokio::test]
async fn a_parent_that_waits_for_children_has_not_lost_its_wake_up() {
    let engine = engine().await;
    let id = begun(&engine, "leading", 1).await;
    run(&engine, id).await;
    let old = "UPDATE operations SET updated_at = 1, wake_at = NULL WHERE kind = 'leading'";
    in_tx!(engine, |tx| [] tx.execute(old, params![]).await);
    let interval = std::time::Duration::from_secs(10);
    let woken = reconcile::reconcile(&engine, interval).await.unwrap();
    // Two children have something to do; they were never looked at, and are not asleep.
    assert_eq!((woken, state(&engine, id).await.1), (0, None));
    let ended = "UPDATE operations SET state = 'done', finished_at = 2 WHERE kind = 'sleeping'";
    in_tx!(engine, |tx| [] tx.execute(ended, params![]).await);
    let woken = reconcile::reconcile(&engine, interval).await.unwrap();
    assert_eq!(woken, 1);
}

#[tokio::test]
async fn a_subject_is_held_by_one_operation_until_that_is_over() {
    let engine = engine().await;
    let first = begun(&engine, "sleeping", 1).await;
    let second = begun(&engine, "sleeping", 1).await;
    let volume = Subject::new(SubjectKind::Volume, engine.app.env().uuid());
    let take = async |id: OperationId| {
        let volume = volume.clone();
        in_tx!(engine, |tx| [volume] holds::take(tx, id, &volume).await)
    };
    assert_eq!(take(first).await, Ok(()));
    assert_eq!(take(first).await, Ok(()));
    assert_eq!(take(second).await, Err(first));
    say(&engine, first, Signal::Abort).await;
    assert_eq!(take(second).await, Ok(()));
    // One that a release without holds has ended holds nothing either.
    let ended = "UPDATE operations SET state = 'failed', finished_at = 2";
    in_tx!(engine, |tx| [] tx.execute(ended, params![]).await);
    let third = begun(&engine, "sleeping", 1).await;
    assert_eq!(take(third).await, Ok(()));
}

#[tokio::test]
async fn a_subject_of_any_kind_has_its_own_sequence_and_its_operation_knows_it() {
    let engine = engine().await;
    let subjects = [SubjectKind::Volume, SubjectKind::Image]
        .map(|kind| Subject::new(kind, engine.app.env().uuid()));
    let drawn = in_tx!(engine, |tx| [subjects] {
        let mut drawn = vec![];
        for subject in [&subjects[0], &subjects[0], &subjects[1]] {
            drawn.push(holds::next_sequence(tx, subject).await?);
        }
        Ok(drawn)
    });
    assert_eq!(drawn, [1, 2, 1]);
    let id = engine.app.env().operation_id();
    let volume = Subject::new(SubjectKind::Volume, engine.app.env().uuid());
    let about = volume.clone();
    let opened = in_tx!(engine, |tx| [engine, about] {
        insert(tx, id, "sleeping", 1, about).await?;
        Operation::open(tx, &*engine.kinds, id).await
    });
    let Opened::Ours(operation) = opened else {
        panic!("{opened:?}");
    };
    assert_eq!(operation.subject, volume);
    assert!(operation.instance_id().is_err());
}
