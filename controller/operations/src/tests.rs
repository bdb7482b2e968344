//! The engine with a kind of its own: what it does with any.

#![allow(clippy::unwrap_used)]

use crate::answer::Source;
use crate::machine::{At, Effect, Event, Machine, ONLY, Settled, Signal, Step, Then, Undo};
use crate::*;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ControlSettings, Env, Origin, params};
use berth_controller_identity::testing;
use berth_rpc::Address;
use berth_rpc_types::{
    CommandResult, Envelope, HostId, InstanceId, MessageId, OperationId, Outcome, Subject,
    SubjectKind, VmmId, VmmState,
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use uuid::Uuid;

/// Kinds that ask hosts; what they are told is noted in `meta`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Asking;

impl Domain for Asking {
    type About = ();
    type Change = String;
    type Reply = ();
    type Target = VmmId;
    type Order = &'static str;
    type Reached = ();
    type Limits = ();
}

pub(crate) fn note(text: String) -> Effect<Asking> {
    Effect::Change(text)
}

/// A kind of two steps, `ask` and `wait`.
struct Ask;

/// What it remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Nothing {}

impl Machine for Ask {
    type In = Asking;
    type Memory = Nothing;
    const NAME: &'static str = "asking";
    const VERSION: i64 = 2;
    const ABOUT: () = ();
    const STEPS: &'static [Step] = &[
        Step::new("ask", Undo::Needless("it asks")),
        Step::new("wait", Undo::Needless("it waits")),
    ];

    fn next(at: &mut At<'_, Nothing>, event: &Event<()>, (): &()) -> Then<Asking> {
        let told = note(format!("{} {}", at.step, name(event)));
        match (at.step, event) {
            ("ask", Event::Run) => Then::Go("wait", vec![told]),
            (_, Event::Run) => Then::Wait(vec![Effect::Send {
                name: ONLY,
                to: VmmId::from_u128(3),
                order: "vmm.stop",
            }]),
            (_, Event::Answer { settled, .. }) => match settled {
                Settled::Outcome(Outcome::Superseded { .. }) => Then::Again(vec![told]),
                _ => Then::Done(None),
            },
            _ => Then::Wait(vec![told]),
        }
    }
}

fn name<R>(event: &Event<R>) -> String {
    match event {
        Event::Run => "run".into(),
        Event::Reply(_) => "reply".into(),
        Event::Answer { .. } => "answer".into(),
        Event::Late { step, attempt, .. } => format!("late {step} {attempt}"),
        Event::Timer(name) => format!("timer {name}"),
        Event::Children(progress) => format!("children {progress:?}"),
    }
}

static MACHINES: LazyLock<Vec<&'static Kind<Asking>>> = LazyLock::new(|| {
    static ASK: Kind<Asking> = Kind::of::<Ask>();
    vec![
        &ASK,
        &super::runtime_tests::SLEEP,
        &super::runtime_tests::LEAD,
    ]
});

impl Apply for Asking {
    fn machines() -> &'static [&'static Kind<Self>] {
        &MACHINES
    }

    fn limits(_control: &ControlSettings) {}

    fn change<'a>(
        tx: &'a mut Tx,
        scene: &'a Scene<'a, Self>,
        change: &'a String,
    ) -> BoxFuture<'a, Result<Option<()>, StoreError>> {
        Box::pin(async move { noted(tx, scene.env, change).await.map(|()| None) })
    }

    fn closed<'a>(
        _tx: &'a mut Tx,
        _scene: &'a Scene<'a, Self>,
        _to: VmmId,
        _command: Named<'a>,
    ) -> BoxFuture<'a, Result<Option<()>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn envelope<'a>(
        _tx: &'a mut Tx,
        scene: &'a Scene<'a, Self>,
        to: VmmId,
        order: &'a &'static str,
    ) -> BoxFuture<'a, Result<Result<Envelope, ()>, StoreError>> {
        Box::pin(async move {
            Ok(Ok(Envelope {
                message_id: scene.env.message_id(),
                operation_id: scene.operation.id,
                step: scene.step.to_owned(),
                attempt: scene.attempt,
                command: String::new(),
                host_id: HostId::from_u128(2),
                vmm_id: to,
                subject: Some(to.into()),
                sequence: 1,
                host_epoch: 1,
                host_number: None,
                timeline: None,
                lineage: String::new(),
                begin_by: None,
                silence_limit: 60,
                method: (*order).to_owned(),
                version: 1,
                request_id: "req-1".into(),
                traceparent: None,
                body: json!({}),
            }))
        })
    }

    fn end<'a>(
        tx: &'a mut Tx,
        scene: &'a Scene<'a, Self>,
        ending: &'a Ending<Self>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let error = match ending {
                Ending::Done(_) => None,
                Ending::Failed(failure) => Some(failure.message.clone()),
                Ending::GaveWay(to) => Some(format!("gave way to {to}")),
            };
            scene.operation.close(tx, scene.env, error.as_deref()).await
        })
    }

    fn begin_child<'a>(
        tx: &'a mut Tx,
        env: &'a Env,
        _parent: &'a Operation,
        child: &'a Child,
    ) -> BoxFuture<'a, Result<Result<OperationId, String>, StoreError>> {
        Box::pin(async move {
            if child.given["refused"] == true {
                return Ok(Err("it is not to be".into()));
            }
            let id = env.operation_id();
            insert(tx, id, child.kind, 1, child.subject.clone()).await?;
            Ok(Ok(id))
        })
    }

    fn observe<'a>(
        tx: &'a mut Tx,
        subject: Subject,
        outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let (kind, what) = (subject.kind.as_str(), outcome.name());
            let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            tx.execute(sql, params![format!("observed {kind}"), what])
                .await?;
            Ok(())
        })
    }
}

async fn noted(tx: &mut Tx, env: &Env, what: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO meta (name, value) VALUES ($1, $2)";
    tx.execute(sql, params![format!("told {}", env.uuid()), what])
        .await?;
    Ok(())
}

pub(crate) async fn insert(
    tx: &mut Tx,
    id: OperationId,
    kind: &str,
    version: i64,
    subject: Subject,
) -> Result<(), StoreError> {
    let origin = Origin {
        request_id: "req-1".into(),
        user_id: "u".into(),
        project_id: "p".into(),
        traceparent: None,
    };
    let machines = Asking::machines().iter().copied();
    let first = machines.filter(|m| m.name == kind).map(Kind::first).next();
    let new = New {
        id,
        kind,
        version,
        step: first.unwrap_or_default(),
        subject,
        origin: &origin,
        given: &json!({"n": 1}),
    };
    Operation::insert(tx, 1, new).await
}

pub(crate) async fn engine() -> Engine {
    let app = testing::app().await;
    Engine {
        app: (*app).clone(),
        kinds: Arc::new(Asking),
    }
}

/// One transaction, with clones.
macro_rules! in_tx {
    ($engine:expr, |$tx:ident| [$($name:ident),*] $body:expr) => {{
        let of = &$engine;
        let done = of.app.store.tx::<_, berth_controller_core::store::StoreError, _>(|$tx| {
            $(let $name = $name.clone();)*
            Box::pin(async move { $body })
        });
        done.await.unwrap()
    }};
}
pub(crate) use in_tx;

/// An operation at its first step.
pub(crate) async fn begun(engine: &Engine, kind: &'static str, version: i64) -> OperationId {
    let id = engine.app.env().operation_id();
    let subject = InstanceId::from_u128(1);
    in_tx!(engine, |tx| [] insert(tx, id, kind, version, subject.into()).await);
    id
}

pub(crate) async fn round(engine: &Engine, id: OperationId) -> Advanced {
    in_tx!(engine, |tx| [engine] driver::round(tx, &engine, id).await)
}

/// What the kind was told, in order.
pub(crate) async fn told(engine: &Engine) -> Vec<String> {
    let rows: Vec<(String,)> = in_tx!(engine, |tx| [] {
        let sql = "SELECT value FROM meta WHERE name LIKE 'told %' ORDER BY rowid";
        tx.query(sql, params![]).await
    });
    rows.into_iter().map(|(value,)| value).collect()
}

async fn orders(engine: &Engine) -> Vec<Envelope> {
    let rows: Vec<(String,)> = in_tx!(engine, |tx| [] {
        let sql = "SELECT envelope FROM outbox ORDER BY rowid";
        tx.query(sql, params![]).await
    });
    let parse = |(text,): &(String,)| serde_json::from_str(text).unwrap();
    rows.iter().map(parse).collect()
}

fn result(order: &Envelope, outcome: Outcome) -> CommandResult {
    CommandResult {
        message_id: order.message_id,
        operation_id: order.operation_id,
        step: order.step.clone(),
        attempt: order.attempt,
        host_id: order.host_id,
        host_epoch: order.host_epoch,
        vmm_id: order.vmm_id,
        sequence: order.sequence,
        request_id: order.request_id.clone(),
        outcome,
    }
}

async fn answered(engine: &Engine, order: &Envelope, outcome: Outcome) -> Advanced {
    let result = result(order, outcome);
    in_tx!(engine, |tx| [engine, result] results::fold(tx, &engine, &Source::Own, &result).await)
}

fn done() -> Outcome {
    Outcome::done(VmmState::Stopped, 2)
}

async fn observed(engine: &Engine) -> i64 {
    let rows: Vec<(i64,)> = in_tx!(engine, |tx| [] {
        let sql = "SELECT COUNT(*) AS n FROM meta WHERE name = 'observed vmm'";
        tx.query(sql, params![]).await
    });
    rows[0].0
}

#[tokio::test]
async fn a_step_is_written_down_and_an_answer_is_folded_in_once() {
    let engine = engine().await;
    let id = begun(&engine, "asking", 1).await;
    assert_eq!(round(&engine, id).await, Advanced::Again);
    assert_eq!(round(&engine, id).await, Advanced::Waits);
    // A step that is run twice sends one message.
    assert_eq!(round(&engine, id).await, Advanced::Waits);
    let orders = orders(&engine).await;
    assert_eq!(orders.len(), 1);
    let answers = [
        answered(&engine, &orders[0], done()).await,
        answered(&engine, &orders[0], done()).await,
    ];
    assert_eq!(answers, [Advanced::Nothing, Advanced::Nothing]);
    assert_eq!(told(&engine).await, ["ask run"]);
    assert_eq!(observed(&engine).await, 1);
}

#[tokio::test]
async fn commands_carry_their_subject_their_timeline_and_the_next_number_of_their_host() {
    let engine = engine().await;
    let timeline = Uuid::from_u128(7);
    let begun_one = engine.app.store.tx::<_, StoreError, _>(|tx| {
        Box::pin(async move {
            let sql = "INSERT INTO timelines (number, id, lineage, counter, began_at) \
                       VALUES (1, $1, 'of-a-test', 1, 1)";
            tx.execute(sql, params![timeline.to_string()]).await
        })
    });
    begun_one.await.unwrap();
    for _ in 0..2 {
        let id = begun(&engine, "asking", 1).await;
        round(&engine, id).await;
        round(&engine, id).await;
    }
    let orders = orders(&engine).await;
    let numbers: Vec<_> = orders.iter().map(|order| order.host_number).collect();
    assert_eq!(numbers, [Some(1), Some(2)]);
    for order in orders {
        assert_eq!(order.subject().kind, SubjectKind::Vmm);
        assert_eq!(
            (&*order.lineage, order.timeline),
            ("of-a-test", Some(timeline))
        );
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_holds_up_neither_commands_nor_steps() {
    let engine = engine().await;
    let id = begun(&engine, "asking", 1).await;
    assert_eq!(driver::due(&engine).await.unwrap().len(), 1);
    in_tx!(engine, |tx| [] {
        // By a clock that was a year ahead, which is right again.
        let year = 365 * 86_400_000i64;
        tx.execute("UPDATE operations SET wake_at = wake_at + $1", params![year]).await
    });
    assert_eq!(driver::due(&engine).await.unwrap().len(), 1);
    round(&engine, id).await;
    round(&engine, id).await;
    let sent = async |engine: &Engine| outbox::take_due(&engine.app).await.unwrap().len();
    assert_eq!(sent(&engine).await, 1);
    assert_eq!(sent(&engine).await, 0, "it waits for its answer");
    in_tx!(engine, |tx| [] {
        let year = 365 * 86_400_000i64;
        tx.execute("UPDATE outbox SET next_send_at = next_send_at + $1", params![year]).await
    });
    assert_eq!(sent(&engine).await, 1);
    assert_eq!(sent(&engine).await, 0);
}

#[tokio::test]
async fn a_hosts_watermark_lies_below_every_command_that_has_not_ended() {
    let engine = engine().await;
    let numbers = async |engine: &Engine, host: HostId| {
        let numbers = in_tx!(engine, |tx| [host] outbox::numbers(tx, host).await);
        (numbers.last, numbers.watermark)
    };
    let nobody = HostId::from_u128(99);
    assert_eq!(numbers(&engine, nobody).await, (0, 0));
    for _ in 0..3 {
        let id = begun(&engine, "asking", 1).await;
        round(&engine, id).await;
        round(&engine, id).await;
    }
    let orders = orders(&engine).await;
    let host = orders[0].host_id;
    assert_eq!(numbers(&engine, host).await, (3, 0));
    // The second ends first: the first may still be on its way.
    answered(&engine, &orders[1], done()).await;
    assert_eq!(numbers(&engine, host).await, (3, 0));
    answered(&engine, &orders[0], done()).await;
    assert_eq!(numbers(&engine, host).await, (3, 2));
    answered(&engine, &orders[2], done()).await;
    assert_eq!(numbers(&engine, host).await, (3, 3));
    // One that a controller of the release before wrote down has its number in the envelope only.
    in_tx!(engine, |tx| [] {
        let sql = "UPDATE outbox SET host_number = NULL, result = NULL WHERE host_number = 2";
        tx.execute(sql, params![]).await
    });
    assert_eq!(numbers(&engine, host).await, (3, 0));
}

async fn publish(engine: &Engine, order: &Envelope) {
    let result = result(order, done());
    let (id, payload) = (
        order.message_id.to_string(),
        serde_json::to_vec(&result).unwrap(),
    );
    let sent = engine
        .app
        .transport
        .publish(Address::Results, &id, payload.into());
    sent.await.unwrap();
}

async fn is_settled(engine: &Engine, order: &Envelope) -> bool {
    let id = order.message_id;
    let row: Option<(Option<String>,)> = in_tx!(engine, |tx| [] {
        tx.query_opt("SELECT result FROM outbox WHERE message_id = $1", params![id]).await
    });
    row.unwrap().0.is_some()
}

#[tokio::test]
async fn answers_that_the_database_does_not_take_hold_up_no_other() {
    let engine = engine().await;
    let mut last = None;
    for _ in 0..5 {
        let id = begun(&engine, "asking", 1).await;
        round(&engine, id).await;
        round(&engine, id).await;
        last = Some(id);
    }
    let (orders, last) = (orders(&engine).await, last.unwrap());
    let (good, poison) = orders.split_last().unwrap();
    in_tx!(engine, |tx| [last] {
        let trigger = format!(
            "CREATE TRIGGER poison BEFORE UPDATE ON outbox WHEN old.operation_id <> '{last}' \
             BEGIN SELECT RAISE(ABORT, 'poison'); END"
        );
        tx.execute(&trigger, params![]).await
    });
    let stop = tokio_util::sync::CancellationToken::new();
    let consumer = tokio::spawn(results::run_results(engine.clone(), stop.clone()));
    for order in poison {
        publish(&engine, order).await;
    }
    publish(&engine, good).await;
    while !is_settled(&engine, good).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for order in poison {
        assert!(!is_settled(&engine, order).await);
    }
    // What was in the way is gone: they are folded in, too.
    in_tx!(engine, |tx| [] tx.execute("DROP TRIGGER poison", params![]).await);
    for order in poison {
        while !is_settled(&engine, order).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop.cancel();
    consumer.await.unwrap();
}

#[tokio::test]
async fn what_a_newer_controller_began_is_not_driven_and_its_answer_not_settled() {
    let engine = engine().await;
    let id = begun(&engine, "asking", 2).await;
    round(&engine, id).await;
    round(&engine, id).await;
    let newer = "UPDATE operations SET version = 3";
    in_tx!(engine, |tx| [] tx.execute(newer, params![]).await);
    assert_eq!(round(&engine, id).await, Advanced::Newer);
    let order = orders(&engine).await.remove(0);
    assert_eq!(answered(&engine, &order, done()).await, Advanced::Newer);
    assert_eq!(told(&engine).await, ["ask run"]);
    assert_eq!(observed(&engine).await, 0);
}

#[tokio::test]
async fn a_step_that_somebody_else_took_is_not_written() {
    let engine = engine().await;
    let id = begun(&engine, "asking", 1).await;
    let saved = in_tx!(engine, |tx| [engine] {
        let env = engine.app.env();
        let opened = Operation::open(tx, &*engine.kinds, id).await?;
        let Opened::Ours(operation) = opened else {
            return Ok((false, false));
        };
        let next = Next {
            step: "wait",
            attempt: 1,
            params: json!({}),
            again: true,
        };
        let first = operation.save(tx, &env, &next, true).await?;
        Ok((first, operation.save(tx, &env, &next, true).await?))
    });
    assert_eq!(saved, (true, false));
}

#[tokio::test]
async fn an_answer_to_what_was_left_behind_is_an_event_of_its_own() {
    let engine = engine().await;
    let id = begun(&engine, "asking", 1).await;
    round(&engine, id).await;
    round(&engine, id).await;
    // The first is sent again as a second attempt; then an answer to it comes after all.
    let first = orders(&engine).await.remove(0);
    let superseded = Outcome::Superseded { by: 2 };
    let advanced = answered(&engine, &first, superseded).await;
    assert_eq!(advanced, Advanced::Again);
    round(&engine, id).await;
    let unsettled = "UPDATE outbox SET result = NULL WHERE attempt = 1";
    in_tx!(engine, |tx| [] tx.execute(unsettled, params![]).await);
    // It has a turn to come, which the answer does not take away.
    let due = "UPDATE operations SET wake_at = 5";
    in_tx!(engine, |tx| [] tx.execute(due, params![]).await);
    assert_eq!(answered(&engine, &first, done()).await, Advanced::Waits);
    let wake_at: Vec<(Option<i64>,)> = in_tx!(engine, |tx| [] {
        tx.query("SELECT wake_at FROM operations", params![]).await
    });
    assert_eq!(wake_at, [(Some(5),)]);
    let expected = ["ask run", "wait answer", "wait late wait 1"];
    assert_eq!(told(&engine).await, expected);
}

#[tokio::test]
async fn an_operation_that_gave_way_is_over_and_its_command_not_sent_again() {
    let engine = engine().await;
    let id = begun(&engine, "asking", 1).await;
    round(&engine, id).await;
    round(&engine, id).await;
    let order = orders(&engine).await.remove(0);
    let by = OperationId::from_u128(9);
    let (first, second, due) = in_tx!(engine, |tx| [engine] {
        let (kinds, env) = (&*engine.kinds, engine.app.env());
        let delete = Signal::Delete { by };
        let first = signal(tx, kinds, &env, id, delete).await?;
        let second = signal(tx, kinds, &env, id, delete).await?;
        let due = "SELECT message_id FROM outbox WHERE next_send_at IS NOT NULL";
        Ok((first, second, tx.query::<(MessageId,)>(due, params![]).await?))
    });
    assert_eq!((first, second), (Signalled::Taken, Signalled::Over));
    assert!(due.is_empty());
    // A late answer is settled and observed; nobody waits for it.
    assert_eq!(answered(&engine, &order, done()).await, Advanced::Nothing);
    assert_eq!(observed(&engine).await, 1);
}

#[tokio::test]
async fn a_signal_that_a_kind_does_not_know_is_refused_in_words() {
    let engine = engine().await;
    let id = begun(&engine, "asking", 1).await;
    let refused = in_tx!(engine, |tx| [engine] {
        signal(tx, &*engine.kinds, &engine.app.env(), id, Signal::Confirm).await
    });
    let Signalled::Refused(why) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("asking") && why.contains("confirm"), "{why}");
}
