//! Who runs the steps: one transaction a step, as often and by as many as there are.
//!
//! Guarantees: the state and the effects of a step commit together or not at all, and no step is
//! done twice, whichever controllers run it. No leader, no lease: the row decides.

use crate::decide::Kept;
use crate::{Engine, Event, Folded, Kinds, Opened, Operation, Signal, children, timers};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, Env, params};
use berth_rpc::kill_point;
use berth_rpc_types::OperationId;
use serde::Deserialize as _;
use std::collections::{HashSet, VecDeque};
use std::panic::resume_unwind;
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::Instrument as _;

/// How long the driver sleeps if nobody pokes it. Another controller's operation is found by it
/// if that one died.
const IDLE: Duration = Duration::from_millis(500);
/// Operations looked at in one round.
const BATCH: i64 = 64;
/// Operations advanced at once by one controller.
const CONCURRENT: usize = 8;
/// Milliseconds until a step that failed is tried again.
const POSTPONED_MS: i64 = 5_000;
/// Steps that one operation may take in one go; a bound on what a faulty step could do.
const STEPS_AT_ONCE: usize = 32;

/// What folding an event came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advanced {
    /// There is more to do at once.
    Again,
    /// It waits for an event.
    Waits,
    /// It is over, or somebody else took the step.
    Nothing,
    /// It came from somebody who does not speak for the host: nothing was changed.
    Disbelieved,
    /// Only a newer controller knows what to do with it: nothing was changed.
    Newer,
}

/// Drives operations until `stop` is cancelled. A step under way is finished.
pub async fn run(engine: Engine, stop: tokio_util::sync::CancellationToken) {
    let app = &engine.app;
    let mut found = VecDeque::new();
    let mut driven = HashSet::new();
    let mut driving = JoinSet::new();
    while !stop.is_cancelled() {
        // No operation waits for another: where one is done, the next begins.
        if found.is_empty() && driving.len() < CONCURRENT {
            match due(&engine).await {
                Ok(due) => found.extend(due.into_iter().filter(|(id, _)| !driven.contains(id))),
                Err(error) => {
                    tracing::error!(%error, "operations cannot be read; trying again");
                }
            }
        }
        while driving.len() < CONCURRENT
            && let Some((id, request_id)) = found.pop_front()
        {
            driven.insert(id);
            let span = tracing::info_span!("operation", %request_id, operation_id = %id);
            let engine = engine.clone();
            let drive = async move {
                drive(&engine, id).await;
                id
            };
            driving.spawn(drive.instrument(span));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            Some(done) = driving.join_next() => {
                driven.remove(&done.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic())));
            }
            () = app.wake.notified() => {}
            () = app.clock.sleep(IDLE) => {}
        }
    }
    while driving.join_next().await.is_some() {}
}

/// What is to be driven now. Besides timers, nothing wakes later than by [`POSTPONED_MS`]: what does
/// was written down before the clock was set back.
pub(crate) async fn due(engine: &Engine) -> Result<Vec<(OperationId, String)>, StoreError> {
    let now = engine.app.clock.now_millis();
    let ours = Operation::is_ours(&*engine.kinds);
    let store = &engine.app.store;
    store
        .read(|tx| {
            let sql = format!(
                "SELECT id, request_id FROM operations WHERE {ours} \
                 AND (wake_at <= $1 OR (wake_at > $3 AND NOT EXISTS (SELECT 1 FROM timers t \
                 WHERE t.operation_id = operations.id AND t.due_at = operations.wake_at))) \
                 ORDER BY wake_at LIMIT $2"
            );
            let latest = now + 2 * POSTPONED_MS;
            Box::pin(async move { tx.query(&sql, params![now, BATCH, latest]).await })
        })
        .await
}

async fn drive(engine: &Engine, id: OperationId) {
    let app = &engine.app;
    for _ in 0..STEPS_AT_ONCE {
        kill_point!("controller.step.before");
        let advanced = app
            .store
            .tx(|tx| {
                let engine = engine.clone();
                Box::pin(async move {
                    let advanced = round(tx, &engine, id).await?;
                    kill_point!("controller.step.uncommitted");
                    Ok::<_, StoreError>(advanced)
                })
            })
            .await;
        kill_point!("controller.step.committed");
        match advanced {
            Ok(Advanced::Again) => {}
            Ok(Advanced::Waits | Advanced::Nothing | Advanced::Disbelieved | Advanced::Newer) => {
                // Its command may be in the outbox now.
                app.wake_outbox.notify_one();
                return;
            }
            Err(error) => {
                tracing::error!(%error, "step failed; trying again");
                postpone(app, id).await;
                return;
            }
        }
    }
}

/// A step that the database or a malformed row refused is tried again after a while; the
/// reconciler reports those that stay so.
async fn postpone(app: &AppState, id: OperationId) {
    let at = app.clock.now_millis() + POSTPONED_MS;
    let done: Result<u64, StoreError> = app
        .store
        .tx(|tx| {
            Box::pin(async move {
                tx.execute(
                    "UPDATE operations SET wake_at = $1 WHERE id = $2 AND wake_at IS NOT NULL",
                    params![at, id],
                )
                .await
            })
        })
        .await;
    if let Err(error) = done {
        tracing::error!(%error, "and cannot be postponed");
    }
}

/// One turn of an operation that is due: a timer that ran out, or news of its children, or the step.
///
/// # Errors
/// [`StoreError`]; the caller's transaction then rolls back whole.
pub async fn round(tx: &mut Tx, engine: &Engine, id: OperationId) -> Result<Advanced, StoreError> {
    let (kinds, env) = (&*engine.kinds, engine.app.env());
    let mut operation = match opened(tx, kinds, id).await? {
        Ok(operation) => operation,
        Err(nothing) => return Ok(nothing),
    };
    let event = waited_for(tx, kinds, &env, &mut operation).await?;
    let is_run = event == Event::Run;
    let advanced = folded(tx, kinds, &env, &operation, event).await?;
    // The step that it may have been woken for has its turn after what it waited for.
    Ok(match advanced {
        Advanced::Waits if !is_run => Advanced::Again,
        other => other,
    })
}

async fn waited_for(
    tx: &mut Tx,
    kinds: &dyn Kinds,
    env: &Env,
    operation: &mut Operation,
) -> Result<Event, StoreError> {
    let kept = Kept::deserialize(&operation.params).map_err(|error| StoreError::Malformed {
        table: "operations".into(),
        column: "params".into(),
        reason: error.to_string(),
    })?;
    if kept.timers
        && let Some(name) = timers::take(tx, operation.id, env.now()).await?
    {
        return Ok(Event::Timer(name));
    }
    if let Some(told) = kept.children {
        let progress = children::advance(tx, kinds, env, operation).await?;
        if progress != told {
            operation.params["children"] = serde_json::json!(progress);
            return Ok(Event::Children(progress));
        }
    }
    Ok(Event::Run)
}

/// Folds one event into an operation, in the caller's transaction.
///
/// # Errors
/// [`StoreError`]; the caller's transaction then rolls back whole.
pub async fn fold(
    tx: &mut Tx,
    engine: &Engine,
    id: OperationId,
    event: Event,
) -> Result<Advanced, StoreError> {
    let (kinds, env) = (&*engine.kinds, engine.app.env());
    match opened(tx, kinds, id).await? {
        Ok(operation) => folded(tx, kinds, &env, &operation, event).await,
        Err(nothing) => Ok(nothing),
    }
}

/// What a signal came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// It was heard, and acted upon.
    Taken,
    /// Not now, or never; in words.
    Refused(String),
    /// The operation is over.
    Over,
    /// Only a newer controller knows what to do with it; in words.
    Newer(String),
}

/// Says something to an operation under way, in the caller's transaction. After the commit, poke
/// the driver.
///
/// # Errors
/// [`StoreError`]; the caller's transaction then rolls back whole.
pub async fn signal(
    tx: &mut Tx,
    kinds: &dyn Kinds,
    env: &Env,
    id: OperationId,
    signal: Signal,
) -> Result<Signalled, StoreError> {
    let operation = match Operation::open(tx, kinds, id).await? {
        Opened::Ours(operation) => *operation,
        Opened::Closed => return Ok(Signalled::Over),
        Opened::Newer(what) => return Ok(Signalled::Newer(what)),
    };
    match kinds.signal(tx, env, &operation, signal).await? {
        Err(why) => Ok(Signalled::Refused(why)),
        Ok(folded) => {
            save(tx, env, &operation, folded, false).await?;
            Ok(Signalled::Taken)
        }
    }
}

async fn opened(
    tx: &mut Tx,
    kinds: &dyn Kinds,
    id: OperationId,
) -> Result<Result<Operation, Advanced>, StoreError> {
    Ok(match Operation::open(tx, kinds, id).await? {
        Opened::Ours(operation) => Ok(*operation),
        Opened::Closed => Err(Advanced::Nothing),
        Opened::Newer(what) => {
            tracing::info!(operation_id = %id, what, "left to a newer controller");
            Err(Advanced::Newer)
        }
    })
}

async fn folded(
    tx: &mut Tx,
    kinds: &dyn Kinds,
    env: &Env,
    operation: &Operation,
    event: Event,
) -> Result<Advanced, StoreError> {
    let turn = event == Event::Run;
    let folded = kinds.fold(tx, env, operation, event).await?;
    save(tx, env, operation, folded, turn).await
}

async fn save(
    tx: &mut Tx,
    env: &Env,
    operation: &Operation,
    folded: Folded,
    turn: bool,
) -> Result<Advanced, StoreError> {
    let next = match folded {
        Folded::Ended => return Ok(Advanced::Nothing),
        Folded::Goes(next) => next,
    };
    if !operation.save(tx, env, &next, turn).await? {
        // The caller rolls back; whoever took the step did all this already.
        return Err(StoreError::Contended(1));
    }
    Ok(if next.again {
        Advanced::Again
    } else {
        Advanced::Waits
    })
}
