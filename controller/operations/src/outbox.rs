//! The outbox: commands are sent, and sent again with the same message id, until an answer is
//! folded in (PROTOCOL.md, rule 2).
//!
//! Guarantees that a command whose step committed is sent, whatever is killed; that a broker
//! which lost its disk costs time only; and that nothing is taken back because time went by. A
//! row is taken for one sending by a conditional UPDATE, so that controllers side by side do
//! not all send it. Repeats do no harm: agents fold them away by message id.
//!
//! Unroutable means that the host's queue is gone. For a command that never left, that is an
//! answer ("never begun"), and its operation goes on at once. One that left before may have
//! been journalled: it is sent again until its agent, which declares the queue, answers.

use crate::answer::{Source, answered};
use crate::{Engine, Operation, Settled};
use berth_controller_core::listing::Condition;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, Env, beat, params, row};
use berth_rpc::{Address, RpcError, kill_point};
use berth_rpc_types::link::HostNumbers;
use berth_rpc_types::{Envelope, HostId, MessageId, OperationId};
use bytes::Bytes;
use futures::StreamExt as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How long the sender sleeps if nobody pokes it.
const IDLE: Duration = Duration::from_millis(500);
/// Rows taken in one round.
const BATCH: i64 = 64;
/// Publishes under way at once.
const CONCURRENT: usize = 16;
/// Milliseconds until a command is sent again: doubling from the first to the second.
const RESEND_MS: (i64, i64) = (5_000, 60_000);
/// Milliseconds that no command waits for its next sending: the longest back-off, and its spread. One
/// that is to be sent later was written down before the clock was set back.
const LONGEST_MS: i64 = 75_000;
/// Milliseconds until a publish in doubt is tried again.
const DOUBT_MS: i64 = 1_000;

row! {
    /// A command that is due.
    #[derive(Clone, Debug)]
    pub(crate) struct Due {
        message_id: MessageId,
        operation_id: OperationId,
        host_id: HostId,
        envelope: String,
        request_id: String,
        /// How often it was sent before.
        sends: i64,
        next_send_at: i64,
    }
}

/// Whether a step's attempt has put its command of that name here.
///
/// # Errors
/// [`StoreError`]
pub async fn has(
    tx: &mut Tx,
    operation_id: OperationId,
    step: &str,
    attempt: u32,
    command: &str,
) -> Result<bool, StoreError> {
    let row = tx
        .query_opt::<(MessageId,)>(
            "SELECT message_id FROM outbox WHERE operation_id = $1 AND step = $2 AND attempt = $3 \
             AND command = $4",
            params![operation_id, step, attempt, command],
        )
        .await?;
    Ok(row.is_some())
}

/// The names of the commands of an operation's step and attempt that have not ended.
///
/// # Errors
/// [`StoreError`]
pub async fn waits(tx: &mut Tx, operation: &Operation) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = tx
        .query(
            "SELECT command FROM outbox WHERE operation_id = $1 AND step = $2 AND attempt = $3 \
             AND result IS NULL ORDER BY command",
            params![operation.id, &operation.step, operation.attempt],
        )
        .await?;
    Ok(rows.into_iter().map(|(command,)| command).collect())
}

/// Puts a command here, due at once, under its name and the next number of its host. A unique index
/// lets a step's attempt do so once for a name.
///
/// # Errors
/// [`StoreError`]
pub async fn put(
    tx: &mut Tx,
    env: &Env,
    command: &str,
    envelope: Envelope,
) -> Result<(), StoreError> {
    let drawn = draw_number(tx, envelope.host_id).await?;
    let number = drawn.number;
    let envelope = Envelope {
        command: command.to_owned(),
        host_number: Some(number),
        timeline: drawn.timeline,
        lineage: drawn.lineage.unwrap_or_default(),
        ..envelope
    };
    let subject = envelope.subject();
    tx.execute(
        "INSERT INTO outbox (message_id, operation_id, step, attempt, host_id, vmm_id, sequence, \
         envelope, sends, next_send_at, created_at, command, subject_kind, host_number) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $9, $10, $11, $12)",
        params![
            envelope.message_id,
            envelope.operation_id,
            &envelope.step,
            envelope.attempt,
            envelope.host_id,
            subject.id.to_string(),
            envelope.sequence,
            serde_json::to_value(&envelope).unwrap_or_default(),
            env.now(),
            command,
            subject.kind.as_str(),
            number
        ],
    )
    .await?;
    Ok(())
}

/// A number of a host's, and in which timeline of which lineage it was drawn; `None` before any
/// controller has begun one.
struct Drawn {
    number: u64,
    timeline: Option<uuid::Uuid>,
    lineage: Option<String>,
}

/// Draws the next number of a command to a host, from 1 (PROTOCOL.md, rules 3 and 5).
async fn draw_number(tx: &mut Tx, host_id: HostId) -> Result<Drawn, StoreError> {
    let row: Option<(u64, Option<i64>)> = tx
        .query_opt(
            "INSERT INTO host_numbers (host_id, last, timeline) \
             VALUES ($1, 1, (SELECT MAX(number) FROM timelines)) \
             ON CONFLICT (host_id) DO UPDATE SET last = host_numbers.last + 1 \
             RETURNING last, timeline",
            params![host_id],
        )
        .await?;
    // An upsert always gives its row.
    let (number, timeline) = row.unwrap_or((1, None));
    let sql = "SELECT id, lineage FROM timelines WHERE number = $1";
    let of = tx
        .query_opt::<(String, String)>(sql, params![timeline])
        .await?;
    let (timeline, lineage) = of.unzip();
    Ok(Drawn {
        number,
        timeline: timeline.and_then(|id| id.parse().ok()),
        lineage,
    })
}

/// The last number that was drawn for a host, and its watermark: lower than the number of every
/// command that has not ended, so that none at or below it is wanted any more (PROTOCOL.md, rule 3). A
/// command of a release that notes no number keeps it at 0.
///
/// # Errors
/// [`StoreError`]
pub async fn numbers(tx: &mut Tx, host_id: HostId) -> Result<HostNumbers, StoreError> {
    // One statement: a number that is drawn meanwhile is in neither part or in both.
    let row = tx
        .query_opt::<(Option<i64>, Option<i64>)>(
            "SELECT (SELECT last FROM host_numbers WHERE host_id = $1), \
             (SELECT MIN(COALESCE(host_number, 0)) FROM outbox WHERE host_id = $1 AND result IS NULL)",
            params![host_id],
        )
        .await?;
    let (last, unsettled) = row.unwrap_or_default();
    let last = u64::try_from(last.unwrap_or(0)).unwrap_or(0);
    let below = unsettled.map(|number| u64::try_from(number - 1).unwrap_or(0));
    Ok(HostNumbers {
        last,
        watermark: below.unwrap_or(last).min(last),
    })
}

/// Sends until `stop` is cancelled.
pub async fn run(engine: Engine, stop: CancellationToken) {
    let app = &engine.app;
    while !stop.is_cancelled() {
        let due = match take_due(app).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "the outbox cannot be read; trying again");
                vec![]
            }
        };
        let idle = due.is_empty();
        futures::stream::iter(due)
            .for_each_concurrent(CONCURRENT, |due| {
                let span = tracing::info_span!("send", request_id = %due.request_id,
                    operation_id = %due.operation_id, message_id = %due.message_id);
                send(&engine, due).instrument(span)
            })
            .await;
        if idle {
            tokio::select! {
                () = stop.cancelled() => {}
                () = app.wake_outbox.notified() => {}
                () = app.clock.sleep(IDLE) => {}
            }
        }
    }
}

/// Takes what is due: from now on it is due again after its back-off, sent or not.
pub(crate) async fn take_due(app: &AppState) -> Result<Vec<Due>, StoreError> {
    let env = app.env();
    let now = env.now();
    // Looked for on a snapshot: what is put here meanwhile is no conflict, and due in the next round.
    let found: Vec<Due> = app
        .store
        .read::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                tx.query(
                    "SELECT b.message_id, b.operation_id, b.host_id, b.envelope, b.sends, \
                     b.next_send_at, o.request_id FROM outbox b \
                     JOIN operations o ON o.id = b.operation_id \
                     WHERE b.next_send_at <= $1 OR b.next_send_at > $3 \
                     ORDER BY b.next_send_at LIMIT $2",
                    params![now, BATCH, now + LONGEST_MS],
                )
                .await
            })
        })
        .await?;
    if found.is_empty() {
        return Ok(found);
    }
    app.store
        .tx(|tx| {
            let (env, found) = (env.clone(), found.clone());
            Box::pin(async move {
                let mut due = Vec::new();
                for one in found {
                    let taken = tx
                        .execute(
                            "UPDATE outbox SET sends = sends + 1, next_send_at = $1 \
                             WHERE message_id = $2 AND next_send_at = $3",
                            params![
                                now + back_off(one.sends, env.rng.below(1000)),
                                one.message_id,
                                one.next_send_at
                            ],
                        )
                        .await?;
                    if taken == 1 {
                        due.push(one);
                    }
                }
                Ok(due)
            })
        })
        .await
}

/// Milliseconds until the next sending, after `sends` earlier ones; `draw` (below 1000) spreads it.
fn back_off(sends: i64, draw: u64) -> i64 {
    let (first, most) = RESEND_MS;
    let doubled = first << sends.clamp(0, 10);
    let spread = i64::try_from(draw).unwrap_or(0);
    doubled.min(most) * (1000 + spread / 4) / 1000
}

async fn send(engine: &Engine, due: Due) {
    let app = &engine.app;
    kill_point!("controller.outbox.taken");
    let address = Address::Agent(due.host_id);
    let id = due.message_id.to_string();
    let payload = Bytes::from(due.envelope.clone());
    let mut published = app.transport.publish(address, &id, payload.clone()).await;
    if matches!(published, Err(RpcError::Unroutable(_))) && host_is_up(app, due.host_id).await {
        // Its agent lives, so a broker has lost the queue: make it again.
        if app.transport.declare(address).await.is_ok() {
            published = app.transport.publish(address, &id, payload).await;
        }
    }
    kill_point!("controller.outbox.published");
    match published {
        Ok(()) => {
            app.metrics.command_sent(due.sends > 0);
            tracing::info!(host_id = %due.host_id, again = due.sends > 0, "command sent");
        }
        Err(RpcError::Unroutable(_)) if due.sends == 0 => unroutable(engine, &due).await,
        Err(error) => {
            tracing::warn!(%error, host_id = %due.host_id, "command not sent; trying again");
            sooner(app, &due).await;
        }
    }
}

async fn host_is_up(app: &AppState, host_id: HostId) -> bool {
    let mut asked = beat::is_up(&app.control);
    asked.and(Condition::new("hosts.id = ?", [host_id.into()]));
    let found = app
        .store
        .tx::<_, StoreError, _>(|tx| {
            let (sql, values) = asked.statement("SELECT hosts.id FROM hosts", "");
            Box::pin(async move { tx.query_opt::<(HostId,)>(&sql, &values).await })
        })
        .await;
    matches!(found, Ok(Some(_)))
}

/// It never left: an answer like any other, folded in once.
async fn unroutable(engine: &Engine, due: &Due) {
    let app = &engine.app;
    let message_id = due.message_id;
    let why = format!(
        "Host {} has no command queue and its agent has not been seen for {} s: start berth-agent there, or, if it is gone \
         for good, force the host down (openstack compute service set --down).",
        due.host_id, app.control.service_down_time
    );
    tracing::warn!(%why, "command cannot be routed");
    let folded = app
        .store
        .tx(|tx| {
            let (engine, why) = (engine.clone(), why.clone());
            Box::pin(async move {
                answered(
                    tx,
                    &engine,
                    &Source::Own,
                    message_id,
                    Settled::Unroutable(why),
                )
                .await
            })
        })
        .await;
    kill_point!("controller.outbox.unroutable");
    match folded {
        Ok(_) => app.wake.notify_one(),
        Err(error) => {
            // Sent again after its back-off: rule 2.
            tracing::error!(%error, "an unroutable command could not be folded in");
        }
    }
}

async fn sooner(app: &AppState, due: &Due) {
    let at = app.clock.now_millis() + DOUBT_MS;
    let message_id = due.message_id;
    let done: Result<u64, StoreError> = app
        .store
        .tx(|tx| {
            Box::pin(async move {
                tx.execute(
                    "UPDATE outbox SET next_send_at = $1 \
                     WHERE message_id = $2 AND next_send_at > $1",
                    params![at, message_id],
                )
                .await
            })
        })
        .await;
    if let Err(error) = done {
        tracing::error!(%error, "the outbox cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_again_backs_off_to_a_minute_and_spreads() {
        assert_eq!(back_off(0, 0), 5_000);
        assert_eq!(back_off(1, 0), 10_000);
        assert_eq!(back_off(9, 0), 60_000);
        assert_eq!(back_off(1_000_000, 0), 60_000);
        assert!(back_off(0, 999) > 6_000 && back_off(9, 999) < 76_000);
    }
}
