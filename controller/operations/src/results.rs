//! Answers come in: results, dead letters and telemetry.
//!
//! Guarantees that each answer is folded in once, by its message id, in one transaction with
//! all that it changes, and is acknowledged after the commit (PROTOCOL.md, rule 11). Repeats
//! fold away. What cannot be understood is rejected to the dead letters, and those are consumed
//! here too: each is mapped to its operation and ends it with its reason (rule 9).
//!
//! A host is believed of its own commands only: who sent a message is the broker's word
//! ([`berth_rpc::Sender`]), and what is another's is dropped and told to the operator.

use crate::answer::{Source, answered, asked};
use crate::{Advanced, Engine, Opened, Operation, Settled};
use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc::{Address, ConsumeOptions, Consumer, Delivery, RpcError, kill_point};
use berth_rpc_types::{
    CommandResult, Envelope, HostId, MessageId, OperationId, Outcome, ResultError, Telemetry,
};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Answers that are folded in at the same time; each is unacknowledged meanwhile.
const PREFETCH: u16 = 32;
/// How often the database is tried for one answer.
const TRIES: u32 = 10;
/// Pause before a consumer is opened again, or an answer that the database refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Folds results in until `stop` is cancelled.
pub async fn run_results(engine: Engine, stop: CancellationToken) {
    consume(&engine, &stop, Address::Results, |engine, delivery| {
        Box::pin(result(engine, delivery))
    })
    .await;
}

/// Consumes dead letters until `stop` is cancelled.
pub async fn run_dead_letters(engine: Engine, stop: CancellationToken) {
    consume(&engine, &stop, Address::DeadLetters, |engine, delivery| {
        Box::pin(dead_letter(engine, delivery))
    })
    .await;
}

/// Notes progress until `stop` is cancelled.
pub async fn run_telemetry(engine: Engine, stop: CancellationToken) {
    consume(&engine, &stop, Address::Telemetry, |engine, delivery| {
        Box::pin(telemetry(engine, delivery))
    })
    .await;
}

type Handled<'a> = futures::future::BoxFuture<'a, ()>;

async fn consume<F>(engine: &Engine, stop: &CancellationToken, address: Address, handle: F)
where
    F: for<'a> Fn(&'a Engine, Delivery) -> Handled<'a>,
{
    let app = &engine.app;
    while !stop.is_cancelled() {
        let options = ConsumeOptions { prefetch: PREFETCH };
        let opened = tokio::select! {
            () = stop.cancelled() => return,
            opened = app.transport.consume(address, options) => opened,
        };
        let mut consumer: Box<dyn Consumer> = match opened {
            Ok(consumer) => consumer,
            Err(error @ RpcError::Configuration(_)) => {
                tracing::error!(%error, %address, "cannot consume; correct the broker's configuration");
                app.clock.sleep(RETRY * 10).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, %address, "cannot consume yet");
                app.clock.sleep(RETRY).await;
                continue;
            }
        };
        // One that cannot be folded in now holds up no other.
        let mut under_way = FuturesUnordered::new();
        loop {
            let delivery = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = under_way.next() => continue,
                delivery = consumer.next() => delivery,
            };
            let Some(delivery) = delivery else {
                tracing::warn!(%address, "the transport was closed");
                app.clock.sleep(RETRY).await;
                break;
            };
            under_way.push(handle(engine, delivery));
        }
    }
}

async fn result(engine: &Engine, delivery: Delivery) {
    let app = &engine.app;
    kill_point!("controller.result.received");
    let result = match CommandResult::parse(&delivery.payload) {
        Ok(result) => result,
        Err(ResultError::Newer { message_id, what }) => {
            let source = Source::Message(delivery.sender.clone());
            return newer(
                engine,
                Address::Results,
                source,
                delivery,
                message_id,
                &what,
            )
            .await;
        }
        Err(error) => {
            tracing::error!(%error, message_id = delivery.message_id, "not a result; to the dead letters");
            drop(delivery.reject().await);
            return;
        }
    };
    let span = tracing::info_span!("result", request_id = %result.request_id,
        operation_id = %result.operation_id, message_id = %result.message_id, vmm_id = %result.vmm_id);
    async {
        let source = Source::Message(delivery.sender.clone());
        let folded = at_last(engine, || folded(engine, &source, &result)).await;
        kill_point!("controller.result.folded");
        if let Some(Advanced::Newer) = folded {
            tracing::warn!("an answer for a newer controller's operation; passed on");
            return pass_on(engine, Address::Results, delivery);
        }
        tracing::info!(outcome = result.outcome.name(), advanced = ?folded, "result");
        if let Outcome::Failed {
            message, detail, ..
        } = &result.outcome
            && folded != Some(Advanced::Disbelieved)
        {
            tracing::warn!(error = message, detail, "the host could not");
        }
        app.wake.notify_one();
        // Lost with its connection, it comes again and folds away.
        drop(delivery.ack().await);
        kill_point!("controller.result.acknowledged");
    }
    .instrument(span)
    .await;
}

/// What the database makes of an answer, if it takes it within some tries. It stays unacknowledged
/// meanwhile, so that it comes again if this controller dies. `None`: it is given up, since its command
/// is still in the outbox, so that it is sent again and answered again (rule 2).
async fn at_last<T, F>(engine: &Engine, fold: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..TRIES {
        match fold().await {
            Ok(folded) => return Some(folded),
            Err(error) => {
                tracing::error!(%error, "an answer could not be folded in; trying again");
            }
        }
        engine.app.clock.sleep(RETRY).await;
    }
    tracing::error!("an answer that the database does not take; its command is sent again");
    None
}

/// An answer in words that are not known here. Where somebody waits for it, it is neither settled
/// nor acknowledged.
async fn newer(
    engine: &Engine,
    address: Address,
    source: Source,
    delivery: Delivery,
    message_id: MessageId,
    what: &str,
) {
    let awaited = || {
        engine.app.store.tx::<_, StoreError, _>(|tx| {
            let (kinds, source) = (engine.kinds.clone(), source.clone());
            Box::pin(async move {
                let Some(asked) = asked(tx, message_id).await? else {
                    return Ok(false);
                };
                if !source.speaks_for(tx, asked.host_id).await? {
                    return Ok(false);
                }
                let open = Operation::open(tx, &*kinds, asked.operation_id).await?;
                Ok(!matches!(open, Opened::Closed))
            })
        })
    };
    // Passed on it has this controller's name: only what is believed may be.
    if at_last(engine, awaited).await != Some(true) {
        tracing::warn!(%message_id, what, "an answer that nobody waits for, or not from the host that was to give it; dropped");
        drop(delivery.ack().await);
        return;
    }
    tracing::warn!(%message_id, what, "an answer in a newer version's words; passed on");
    pass_on(engine, address, delivery);
}

/// Gives a message that only a newer controller understands to whichever consumes next. It goes
/// to the queue's end, where it holds up nobody, and after a pause: if there is no newer
/// controller, it comes back. Acknowledged only once it is there again.
fn pass_on(engine: &Engine, address: Address, delivery: Delivery) {
    let app = engine.app.clone();
    tokio::spawn(async move {
        loop {
            app.clock.sleep(RETRY).await;
            let (id, payload) = (&delivery.message_id, delivery.payload.clone());
            match app.transport.publish(address, id, payload).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, %address, "not passed on; trying again"),
            }
        }
        kill_point!("controller.result.passed_on");
        drop(delivery.ack().await);
    });
}

async fn folded(
    engine: &Engine,
    source: &Source,
    result: &CommandResult,
) -> Result<Advanced, StoreError> {
    let app = &engine.app;
    app.store
        .tx(|tx| {
            let (engine, source, result) = (engine.clone(), source.clone(), result.clone());
            Box::pin(async move {
                let advanced = fold(tx, &engine, &source, &result).await?;
                kill_point!("controller.result.uncommitted");
                Ok(advanced)
            })
        })
        .await
}

/// Folds one result in. Public for the simulation and for tests.
///
/// # Errors
/// [`StoreError`]
pub async fn fold(
    tx: &mut Tx,
    engine: &Engine,
    source: &Source,
    result: &CommandResult,
) -> Result<Advanced, StoreError> {
    if let Outcome::Progress { doing, percent } = &result.outcome {
        let Some(asked) = asked(tx, result.message_id).await? else {
            return Ok(Advanced::Nothing);
        };
        if !source.speaks_for(tx, asked.host_id).await? {
            return Ok(Advanced::Disbelieved);
        }
        let now = engine.app.clock.now_millis();
        sign_of_life(tx, now, asked.operation_id, doing, *percent).await?;
        return Ok(Advanced::Waits);
    }
    let settled = Settled::Outcome(result.outcome.clone());
    answered(tx, engine, source, result.message_id, settled).await
}

async fn sign_of_life(
    tx: &mut Tx,
    now: i64,
    operation_id: OperationId,
    doing: &str,
    percent: Option<u8>,
) -> Result<(), StoreError> {
    let doing: String = doing.chars().take(200).collect();
    let progress = serde_json::json!({ "doing": doing, "percent": percent });
    tx.execute(
        "UPDATE operations SET progress = $1, last_sign_at = $2 WHERE id = $3 AND state = 'running'",
        params![progress, now, operation_id],
    )
    .await?;
    Ok(())
}

/// Whether the host has an order of this operation.
async fn works_for(tx: &mut Tx, host_id: HostId, id: OperationId) -> Result<bool, StoreError> {
    let sql = "SELECT sends FROM outbox WHERE operation_id = $1 AND host_id = $2 LIMIT 1";
    let row = tx.query_opt::<(i64,)>(sql, params![id, host_id]).await?;
    Ok(row.is_some())
}

async fn dead_letter(engine: &Engine, delivery: Delivery) {
    let app = &engine.app;
    let from = delivery.dead_letter_queue.as_deref().unwrap_or("a queue");
    let envelope: Option<Envelope> = serde_json::from_slice(&delivery.payload).ok();
    // An unreadable body still has the id that it was published under.
    let message_id = envelope
        .as_ref()
        .map(|e| e.message_id)
        .or_else(|| delivery.message_id.parse().ok());
    // A result carries its command's id: either way, it is that command's operation that ends.
    // One that was passed on has lost the name of its queue, and is told by what it is.
    let is_answer = match &delivery.dead_letter_queue {
        Some(queue) => *queue == Address::Results.to_string(),
        None => envelope.is_none(),
    };
    let source = match &delivery.dead_letter_queue {
        Some(queue) if !is_answer => Source::Queue(queue.clone()),
        _ => Source::Message(delivery.sender.clone()),
    };
    // Newer than this build on both sides: no end of anything.
    if let Err(ResultError::Newer { message_id, what }) = CommandResult::parse(&delivery.payload) {
        let address = Address::DeadLetters;
        return newer(engine, address, source, delivery, message_id, &what).await;
    }
    let why = if is_answer {
        "The agent's answer could not be understood: bring agent and controller to versions at \
         most one apart. What became of the command is not known."
            .to_owned()
    } else {
        format!(
            "The command could not be delivered: it ended among the dead letters of {from}. Look \
             at that host's berth-agent log; whether it was begun is not known."
        )
    };
    let Some(message_id) = message_id else {
        tracing::error!(%from, bytes = delivery.payload.len(), "a dead letter without a message id; dropped");
        drop(delivery.ack().await);
        return;
    };
    let fold = || {
        app.store.tx(|tx| {
            let (engine, source, why) = (engine.clone(), source.clone(), why.clone());
            Box::pin(async move {
                let settled = Settled::DeadLetter(why);
                answered(tx, &engine, &source, message_id, settled).await
            })
        })
    };
    let folded = at_last(engine, fold).await;
    kill_point!("controller.dead_letter.folded");
    if let Some(Advanced::Newer) = folded {
        tracing::warn!(%message_id, "a dead letter of a newer controller's operation; passed on");
        return pass_on(engine, Address::DeadLetters, delivery);
    }
    tracing::error!(%message_id, advanced = ?folded, %from, "dead letter");
    app.wake.notify_one();
    drop(delivery.ack().await);
}

async fn telemetry(engine: &Engine, delivery: Delivery) {
    let app = &engine.app;
    let news: Option<Telemetry> = serde_json::from_slice(&delivery.payload).ok();
    if let Some(Telemetry::Progress {
        host_id,
        operation_id,
        doing,
        percent,
        ..
    }) = news
    {
        let now = app.clock.now_millis();
        let source = Source::Message(delivery.sender.clone());
        // Droppable: a database that is busy drops it.
        let _: Result<(), StoreError> = app
            .store
            .tx(|tx| {
                let (source, doing) = (source.clone(), doing.clone());
                Box::pin(async move {
                    if works_for(tx, host_id, operation_id).await?
                        && source.speaks_for(tx, host_id).await?
                    {
                        sign_of_life(tx, now, operation_id, &doing, percent).await?;
                    }
                    Ok(())
                })
            })
            .await;
    }
    drop(delivery.ack().await);
}
