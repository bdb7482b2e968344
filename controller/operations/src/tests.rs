//! The engine with a kind of its own: what it does with any.

#![allow(clippy::unwrap_used)]

use crate::{Advanced, fold};
use crate::{Engine, Event, Folded, Kind, Kinds, New, Next, Opened, Operation, outbox, results};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ControlSettings, Env, RequestContext, params};
use berth_controller_identity::testing;
use berth_rpc_types::{
    CommandResult, Envelope, HostId, InstanceId, MessageId, OperationId, Outcome, VmmId, VmmState,
};
use futures::future::BoxFuture;
use serde_json::json;
use std::sync::{Arc, Mutex};

/// A kind of two steps, `ask` and `wait`, that notes what it was told.
#[derive(Default)]
struct Asking {
    events: Mutex<Vec<(String, Event)>>,
    observed: Mutex<Vec<VmmId>>,
}

impl Kinds for Asking {
    fn kinds(&self) -> Vec<Kind> {
        vec![Kind {
            name: "asking",
            version: 2,
        }]
    }

    fn steps(&self) -> Vec<&'static str> {
        vec!["ask", "wait"]
    }

    fn fold<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        _control: &'a ControlSettings,
        operation: &'a Operation,
        event: Event,
    ) -> BoxFuture<'a, Result<Folded, StoreError>> {
        let told = (operation.step.clone(), event.clone());
        self.events.lock().unwrap().push(told);
        Box::pin(async move {
            if let Event::Answer(_) = event {
                operation.close(tx, env, None).await?;
                return Ok(Folded::Ended);
            }
            Ok(Folded::Goes(Next {
                step: "wait",
                attempt: 1,
                params: json!({"asked": true}),
                again: false,
            }))
        })
    }

    fn observe<'a>(
        &'a self,
        _tx: &'a mut Tx,
        vmm_id: VmmId,
        _outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.observed.lock().unwrap().push(vmm_id);
        Box::pin(async { Ok(()) })
    }
}

async fn engine() -> (Engine, Arc<Asking>) {
    let app = testing::app().await;
    let asking = Arc::new(Asking::default());
    let engine = Engine {
        app: (*app).clone(),
        kinds: asking.clone(),
    };
    (engine, asking)
}

/// An operation at its first step, of the kind in a version.
async fn begun(engine: &Engine, version: i64) -> OperationId {
    let operation_id = engine.app.env().operation_id();
    let inserted = engine.app.store.tx::<_, StoreError, _>(|tx| {
        Box::pin(async move {
            let context = RequestContext {
                request_id: "req-1".into(),
                user_id: "u".into(),
                project_id: "p".into(),
                roles: vec![],
                is_admin: false,
                system_scope: false,
                traceparent: None,
            };
            let new = New {
                id: operation_id,
                kind: "asking",
                version,
                step: "ask",
                instance_id: InstanceId::from_u128(1),
                context: &context,
                given: &json!({"n": 1}),
            };
            Operation::insert(tx, 1, new).await
        })
    });
    inserted.await.unwrap();
    operation_id
}

async fn told(engine: &Engine, operation_id: OperationId, event: Event) -> Advanced {
    let folded = engine.app.store.tx::<_, StoreError, _>(|tx| {
        let (engine, event) = (engine.clone(), event.clone());
        Box::pin(async move { fold(tx, &engine, operation_id, event).await })
    });
    folded.await.unwrap()
}

/// A command of the step `wait`, in the outbox.
async fn ordered(engine: &Engine, operation_id: OperationId) -> Envelope {
    let envelope = Envelope {
        message_id: engine.app.env().message_id(),
        operation_id,
        step: "wait".into(),
        attempt: 1,
        host_id: HostId::from_u128(2),
        vmm_id: VmmId::from_u128(3),
        sequence: 1,
        host_epoch: 1,
        begin_by: None,
        silence_limit: 60,
        method: "vmm.stop".into(),
        version: 1,
        request_id: "req-1".into(),
        traceparent: None,
        body: json!({}),
    };
    let put = engine.app.store.tx::<_, StoreError, _>(|tx| {
        let envelope = envelope.clone();
        Box::pin(async move { outbox::put(tx, 1, &envelope).await })
    });
    put.await.unwrap();
    envelope
}

async fn answered(engine: &Engine, order: &Envelope) -> Advanced {
    let result = CommandResult {
        message_id: order.message_id,
        operation_id: order.operation_id,
        step: order.step.clone(),
        attempt: order.attempt,
        host_id: order.host_id,
        host_epoch: order.host_epoch,
        vmm_id: order.vmm_id,
        sequence: order.sequence,
        request_id: order.request_id.clone(),
        outcome: Outcome::Done {
            state: VmmState::Stopped,
            observation: 2,
            spans: vec![],
        },
    };
    let folded = engine.app.store.tx::<_, StoreError, _>(|tx| {
        let (engine, result) = (engine.clone(), result.clone());
        Box::pin(async move { results::fold(tx, &engine, &result).await })
    });
    folded.await.unwrap()
}

#[tokio::test]
async fn a_step_is_written_down_and_an_answer_is_folded_in_once() {
    let (engine, asking) = engine().await;
    let operation_id = begun(&engine, 1).await;
    assert_eq!(
        told(&engine, operation_id, Event::Run).await,
        Advanced::Waits
    );
    let order = ordered(&engine, operation_id).await;
    let twice = [Advanced::Nothing, Advanced::Nothing];
    let answers = [
        answered(&engine, &order).await,
        answered(&engine, &order).await,
    ];
    assert_eq!(answers, twice);
    let events = asking.events.lock().unwrap();
    let steps: Vec<&str> = events.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(steps, ["ask", "wait"]);
    assert!(matches!(events[1].1, Event::Answer(Outcome::Done { .. })));
    assert_eq!(*asking.observed.lock().unwrap(), [order.vmm_id]);
}

#[tokio::test]
async fn what_a_newer_controller_began_is_not_driven_and_its_answer_not_settled() {
    let (engine, asking) = engine().await;
    let operation_id = begun(&engine, 3).await;
    assert_eq!(
        told(&engine, operation_id, Event::Run).await,
        Advanced::Newer
    );
    let order = ordered(&engine, operation_id).await;
    let answer = answered(&engine, &order).await;
    assert_eq!(answer, Advanced::Newer);
    assert!(asking.events.lock().unwrap().is_empty());
    assert!(asking.observed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_step_that_somebody_else_took_is_not_written() {
    let (engine, _) = engine().await;
    let operation_id = begun(&engine, 1).await;
    let saved = engine.app.store.tx::<_, StoreError, _>(|tx| {
        let engine = engine.clone();
        Box::pin(async move {
            let env = engine.app.env();
            let opened = Operation::open(tx, &*engine.kinds, operation_id).await?;
            let Opened::Ours(operation) = opened else {
                return Ok((false, false));
            };
            let next = Next {
                step: "wait",
                attempt: 1,
                params: json!({}),
                again: true,
            };
            let first = operation.save(tx, &env, &next).await?;
            Ok((first, operation.save(tx, &env, &next).await?))
        })
    });
    assert_eq!(saved.await.unwrap(), (true, false));
}

#[tokio::test]
async fn an_operation_that_another_ended_is_over_and_its_command_not_sent_again() {
    let (engine, asking) = engine().await;
    let operation_id = begun(&engine, 1).await;
    let order = ordered(&engine, operation_id).await;
    let ended = engine.app.store.tx::<_, StoreError, _>(|tx| {
        Box::pin(async move {
            let asked = Operation::pre_empt(tx, 2, operation_id, "delete").await?;
            let due = "SELECT message_id FROM outbox WHERE next_send_at IS NOT NULL";
            Ok((asked, tx.query::<(MessageId,)>(due, params![]).await?))
        })
    });
    assert_eq!(ended.await.unwrap(), (Some("req-1".into()), vec![]));
    // A late answer is settled and observed; nobody waits for it.
    let answer = answered(&engine, &order).await;
    assert_eq!(answer, Advanced::Nothing);
    assert_eq!(asking.observed.lock().unwrap().len(), 1);
    assert!(asking.events.lock().unwrap().is_empty());
}
