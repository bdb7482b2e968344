//! Answers: journalled first, then published until the broker confirms, then marked so.
//! And progress, which may be lost.

use super::Engine;
use crate::gate::Holder;
use crate::journal::JournalError;
use crate::progress::Reading;
use crate::record::{Entry, VmmRecord};
use berth_rpc::{Address, RpcError, kill_point};
use berth_rpc_types::{CommandResult, Envelope, MessageId, Outcome, Telemetry};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

impl Engine {
    /// The answer to an envelope.
    pub(super) fn result(&self, envelope: &Envelope, outcome: Outcome) -> CommandResult {
        self.result_at(self.journal.host().epoch, envelope, outcome)
    }

    fn result_at(&self, host_epoch: u64, envelope: &Envelope, outcome: Outcome) -> CommandResult {
        CommandResult {
            message_id: envelope.message_id,
            operation_id: envelope.operation_id,
            step: envelope.step.clone(),
            attempt: envelope.attempt,
            host_id: self.host_id,
            host_epoch,
            vmm_id: envelope.vmm_id,
            sequence: envelope.sequence,
            request_id: envelope.request_id.clone(),
            outcome,
        }
    }

    pub(super) async fn conclude(
        self: &Arc<Self>,
        entry: &Entry,
        outcome: Outcome,
    ) -> Result<(), JournalError> {
        self.conclude_with(entry, |_| outcome).await
    }

    /// Ends a command: one journal write holds the state seen and the answer that tells it.
    pub(super) async fn conclude_with(
        self: &Arc<Self>,
        entry: &Entry,
        outcome: impl FnOnce(&mut VmmRecord) -> Outcome,
    ) -> Result<(), JournalError> {
        let envelope = &entry.envelope;
        // The journal is locked while it changes a record: what it is asked for comes before.
        let host_epoch = self.journal.host().epoch;
        let result = self
            .journal
            .update(envelope.vmm_id, |record| {
                let result = self.result_at(host_epoch, envelope, outcome(record));
                record.conclude(envelope.message_id, result.clone());
                result
            })
            .await?;
        kill_point!("agent.result.journalled");
        self.send_answer(result);
        self.news.notify_one();
        Ok(())
    }

    /// Publishes what the journal holds unconfirmed: at the start.
    pub(crate) fn send_unconfirmed(self: &Arc<Self>) {
        for record in self.journal.vmms() {
            record
                .unconfirmed()
                .cloned()
                .for_each(|result| self.send_answer(result));
        }
    }

    pub(super) fn send_answer(self: &Arc<Self>, result: CommandResult) {
        let engine = Arc::clone(self);
        self.spawn(async move {
            engine.publish_until_confirmed(&result).await;
            kill_point!("agent.result.published");
            let (vmm_id, message_id) = (result.vmm_id, result.message_id);
            let confirm = |record: &mut VmmRecord| record.confirm(message_id);
            match engine.journal.update(vmm_id, confirm).await {
                Ok(()) => kill_point!("agent.result.confirmed"),
                // It is published once more after the next start, and folds away.
                Err(error) => engine.gate.close(Holder::Journal, error.to_string()),
            }
        });
    }

    pub(super) async fn publish_until_confirmed(&self, result: &CommandResult) {
        let Ok(payload) = serde_json::to_vec(result) else {
            return tracing::error!(?result, "an answer that cannot be encoded");
        };
        let payload = Bytes::from(payload);
        let id = result.message_id.to_string();
        let mut back_off = BACK_OFF_MIN;
        loop {
            match self
                .transport
                .publish(Address::Results, &id, payload.clone())
                .await
            {
                Ok(()) => return,
                Err(RpcError::Unroutable(_)) => {
                    // No controller has declared it yet.
                    if let Err(error) = self.transport.declare(Address::Results).await {
                        tracing::warn!(%error, "results queue not declared");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, message_id = %id, "answer not published; trying again")
                }
            }
            let jitter = self
                .rng
                .below(back_off.as_millis().try_into().unwrap_or(u64::MAX));
            self.clock
                .sleep(back_off / 2 + Duration::from_millis(jitter))
                .await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// A sign of life, with how far the step is, where it says so. Nobody waits for it, and it may
    /// be lost.
    pub(super) fn progress(self: &Arc<Self>, entry: &Entry, doing: &str, reading: Option<Reading>) {
        let telemetry = Telemetry::Progress {
            host_id: self.host_id,
            operation_id: entry.envelope.operation_id,
            doing: doing.to_owned(),
            percent: reading.map(|reading| reading.percent),
            bytes: reading.map(|reading| reading.bytes),
        };
        let Ok(payload) = serde_json::to_vec(&telemetry) else {
            return;
        };
        let id = MessageId::from_u128(self.rng.bits()).to_string();
        let engine = Arc::clone(self);
        self.spawn(async move {
            let sent = engine
                .transport
                .publish(Address::Telemetry, &id, payload.into())
                .await;
            if let Err(error) = sent {
                tracing::debug!(%error, "progress lost");
            }
        });
    }
}
