//! Carries out what the journal has accepted: one command a VMM at a time, VMMs side by side.
//!
//! The life of a command: [`Engine::accept`] parses the envelope, asks the record
//! ([`crate::record`]) for its verdict, makes that durable, acknowledges the message, and wakes
//! the VMM's worker. The worker ([`carry_out`]) goes through the driver's plan, each step noted
//! in the journal before it is begun; then the answer is journalled, and published until the
//! broker confirms it ([`answers`]). [`watch`] looks after what guests do by themselves.
//!
//! Tasks: a worker for each VMM with open commands, a publisher for each unconfirmed answer, a
//! task for each message being accepted. All end with [`Engine::ended`], at any await point:
//! to the journal that is the same as a kill.

mod answers;
mod carry_out;
mod watch;

pub(crate) use watch::Restart;

use crate::driver::Driver;
use crate::gate::{Gate, Holder};
use crate::journal::{Journal, JournalError};
use crate::record::{Entry, Verdict, VmmRecord};
use berth_rpc::clock::{Clock, Rng};
use berth_rpc::{Delivery, Transport, kill_point};
use berth_rpc_types::{
    Command, CommandError, Envelope, HostId, METHOD_VERSION_MAX, METHOD_VERSION_MIN, Outcome, Seen,
    SubjectKind, VmmId, VmmState,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch as watch_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// Larger messages are no commands: a spec with the largest user data is under 200 KiB.
const MESSAGE_LIMIT: usize = 4 << 20;
/// How long a command of a newer epoch or timeline waits for the agent to learn of it.
const LEARNING_PATIENCE: Duration = Duration::from_secs(5);

/// See the module's words.
pub(crate) struct Engine {
    pub host_id: HostId,
    pub journal: Arc<Journal>,
    pub driver: Arc<dyn Driver>,
    pub transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub gate: Gate,
    pub max_attempts: u32,
    /// Bounds builds and starts: they are what loads a disk.
    pub builds: Semaphore,
    /// Told when there is something to report.
    pub news: Notify,
    /// Told when a report has changed what is known of the host.
    pub learnt: watch_channel::Sender<()>,
    /// The agent is ending.
    pub ended: CancellationToken,
    tasks: TaskTracker,
    slots: Mutex<HashMap<VmmId, Slot>>,
}

/// What goes on at one VMM now.
#[derive(Default)]
struct Slot {
    /// Held by whoever runs a plan or changes the state seen.
    gate: Arc<tokio::sync::Mutex<()>>,
    working: bool,
    /// The command under way, and how to pre-empt it.
    under_way: Option<(u64, CancellationToken)>,
    /// The controller has given the VMM away: no more work on it.
    lost: bool,
}

/// What an engine is made of.
pub(crate) struct Parts {
    pub host_id: HostId,
    pub journal: Arc<Journal>,
    pub driver: Arc<dyn Driver>,
    pub transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub max_attempts: u32,
    pub max_builds: usize,
}

impl Engine {
    pub fn new(parts: Parts, ended: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            host_id: parts.host_id,
            journal: parts.journal,
            driver: parts.driver,
            transport: parts.transport,
            clock: parts.clock,
            rng: parts.rng,
            gate: Gate::new(),
            max_attempts: parts.max_attempts,
            builds: Semaphore::new(parts.max_builds),
            news: Notify::new(),
            learnt: watch_channel::Sender::new(()),
            ended,
            tasks: TaskTracker::new(),
            slots: Mutex::default(),
        })
    }

    /// Runs a task until it or the agent ends.
    pub fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        let work = async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = work => {}
            }
        };
        self.tasks.spawn(work.in_current_span());
    }

    /// Waits for every task, after [`Engine::ended`].
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<VmmId, Slot>> {
        // Only plain assignments happen under this lock.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vmm_gate(&self, vmm_id: VmmId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.slots().entry(vmm_id).or_default().gate)
    }

    /// Takes one message in. Returns when it is acknowledged, rejected, or, where nothing
    /// could be promised, left for the broker to deliver again.
    pub async fn accept(self: &Arc<Self>, delivery: Delivery) {
        let Some(envelope) = self.parse_envelope(&delivery) else {
            // What carries no envelope can be answered to nobody: a controller consumes it.
            let _ = delivery.reject().await;
            return;
        };
        let span = tracing::info_span!(
            "accept",
            request_id = %envelope.request_id,
            operation_id = %envelope.operation_id,
            vmm_id = %envelope.vmm_id,
            method = %envelope.method,
            sequence = envelope.sequence,
        );
        self.accept_envelope(delivery, envelope)
            .instrument(span)
            .await;
    }

    fn parse_envelope(&self, delivery: &Delivery) -> Option<Envelope> {
        let reason = if delivery.payload.len() > MESSAGE_LIMIT {
            format!(
                "{} bytes; at most {MESSAGE_LIMIT} are read",
                delivery.payload.len()
            )
        } else {
            match serde_json::from_slice::<Envelope>(&delivery.payload) {
                Ok(envelope) if envelope.host_id == self.host_id => return Some(envelope),
                Ok(envelope) => format!("it is for host {}", envelope.host_id),
                Err(error) => error.to_string(),
            }
        };
        tracing::warn!(message_id = ?delivery.message_id, ?reason, "a message that is no command goes to the dead letters");
        None
    }

    async fn accept_envelope(self: &Arc<Self>, delivery: Delivery, envelope: Envelope) {
        kill_point!("agent.command.received");
        let refusal = match self.verdict(&envelope).await {
            Ok(Ok(())) => {
                kill_point!("agent.command.accepted");
                if let Err(error) = delivery.ack().await {
                    // It comes again, and is known then.
                    tracing::debug!(%error, "not acknowledged");
                }
                kill_point!("agent.command.acknowledged");
                self.wake(envelope.vmm_id);
                return;
            }
            Ok(Err(refusal)) => refusal,
            Err(error) => {
                // Unacknowledged: it is delivered again once the journal can be written.
                self.gate.close(Holder::Journal, error.to_string());
                return;
            }
        };
        // Nothing was promised, so nothing is journalled: the answer first, then the ack.
        tracing::info!(?refusal, "refused");
        self.publish_until_confirmed(&self.result(&envelope, refusal))
            .await;
        kill_point!("agent.refusal.published");
        let _ = delivery.ack().await;
    }

    /// `Ok(Ok)`: durable, to be acknowledged. `Ok(Err)`: to be answered so.
    async fn verdict(
        self: &Arc<Self>,
        envelope: &Envelope,
    ) -> Result<Result<(), Outcome>, JournalError> {
        let vmm_id = envelope.vmm_id;
        // This release keeps records of VMMs only.
        if envelope.subject().kind != SubjectKind::Vmm {
            let (min, max) = (METHOD_VERSION_MIN, METHOD_VERSION_MAX);
            return Ok(Err(Outcome::Unsupported { min, max }));
        }
        let known = self.journal.vmm(vmm_id);
        // What was accepted keeps its answer: in an earlier epoch, or by another version.
        match known.as_ref().and_then(|r| r.recall(envelope.message_id)) {
            Some(Verdict::Answered(result)) => return Ok(Err(result.outcome)),
            Some(_) => return Ok(Ok(())),
            None => {}
        }
        let is_of_now = self.is_of_now(envelope).await;
        let host = self.journal.host();
        // One behind the watermark has ended, and what became of it is forgotten: whoever asks again
        // orders anew, as in a new epoch.
        if !is_of_now || host.is_behind(envelope.host_number) {
            let current = host.epoch;
            return Ok(Err(Outcome::StaleEpoch { current }));
        }
        let left = |undone: bool, message: String, detail: &str| {
            let never = Seen {
                state: VmmState::Deleted,
                observation: 0,
            };
            let seen = known.as_ref().map_or(never, |record| record.seen());
            Outcome::Failed {
                message,
                detail: detail.to_owned(),
                undone,
                retry_elsewhere: false,
                seen: Some(seen),
            }
        };
        let refused = |message: String, detail: &str| left(true, message, detail);
        let command = match Command::parse(envelope) {
            Ok(command) => command,
            Err(CommandError::Unsupported { min, max, .. }) => {
                return Ok(Err(Outcome::Unsupported { min, max }));
            }
            Err(error) => return Ok(Err(refused(error.to_string(), "the body was not parsed"))),
        };
        if known.is_none() && command.needs_vmm() {
            let message = format!(
                "this host has no guest {vmm_id}; {} needs one",
                envelope.method
            );
            return Ok(Err(refused(message, "no such VMM in the journal")));
        }
        let accept = |record: &mut VmmRecord| record.accept(envelope, &command);
        Ok(match self.journal.update(vmm_id, accept).await? {
            Verdict::Accepted => {
                tracing::info!("accepted");
                self.pre_empt(vmm_id, envelope.sequence, &command);
                Ok(())
            }
            Verdict::InProgress => Ok(()),
            Verdict::Answered(result) => Err(result.outcome),
            Verdict::Superseded(by) => Err(Outcome::Superseded { by }),
            Verdict::Full => Err(refused(
                format!(
                    "too many commands wait for guest {vmm_id}; try again when they have ended"
                ),
                "the record's bound (ENTRIES_KEPT)",
            )),
            // A delete that is still at it has not freed what the guest holds.
            Verdict::Tombstoned => Err(left(
                known.as_ref().is_some_and(|record| record.tombstone),
                format!("guest {vmm_id} was deleted; it is never made again"),
                "tombstone",
            )),
            // It runs: nothing of it was undone (rule 1).
            Verdict::Quarantined => Err(left(
                false,
                format!(
                    "guest {vmm_id} was found on this host but never accepted by its agent; only deleting it is possible"
                ),
                "quarantined (PROTOCOL.md, rule 5)",
            )),
        })
    }

    /// Whether a command is of this epoch and of the database that is obeyed. What is not known yet is
    /// first asked for: a newer epoch, or a timeline of which no report has told.
    async fn is_of_now(&self, envelope: &Envelope) -> bool {
        let mut learnt = self.learnt.subscribe();
        let may_learn = || self.journal.host().may_learn_of(envelope);
        if may_learn() {
            self.news.notify_one();
            tokio::select! {
                _ = learnt.wait_for(|()| !may_learn()) => {}
                () = self.clock.sleep(LEARNING_PATIENCE) => {}
            }
        }
        self.journal.host().is_of_now(envelope)
    }

    /// Ends what a new epoch has taken away, where a worker is at it; what waits is ended when its turn
    /// comes. Called after the epoch is durable, so that no worker begins it meanwhile.
    pub fn end_old_orders(&self) {
        let epoch = self.journal.host().epoch;
        for record in self.journal.vmms() {
            let Some(entry) = record.next_open().filter(|e| e.is_over_in(epoch)) else {
                continue;
            };
            if let Some((sequence, cancelled)) = self
                .slots()
                .get(&record.vmm_id)
                .and_then(|slot| slot.under_way.as_ref())
                && *sequence == entry.envelope.sequence
            {
                tracing::warn!(vmm_id = %record.vmm_id, sequence, epoch, "an order of an older epoch ends");
                cancelled.cancel();
            }
        }
    }

    fn pre_empt(&self, vmm_id: VmmId, sequence: u64, command: &Command) {
        if *command != Command::Delete {
            return;
        }
        if let Some((under_way, cancelled)) =
            self.slots().get(&vmm_id).and_then(|s| s.under_way.as_ref())
            && *under_way < sequence
        {
            tracing::info!(under_way, "pre-empts");
            cancelled.cancel();
        }
    }

    /// Wakes the VMM's worker. Called after each change that may have made work.
    pub fn wake(self: &Arc<Self>, vmm_id: VmmId) {
        let mut slots = self.slots();
        let slot = slots.entry(vmm_id).or_default();
        if !std::mem::replace(&mut slot.working, true) {
            let engine = Arc::clone(self);
            self.spawn(async move { engine.work(vmm_id).await });
        }
    }

    /// Wakes every VMM with open commands: at the start, and after the journal's recovery.
    pub fn wake_all(self: &Arc<Self>) {
        for record in self.journal.vmms() {
            if record.next_open().is_some() {
                self.wake(record.vmm_id);
            }
        }
    }

    /// Whether an entry is another version's to finish: it was begun, and this one does not
    /// understand it. What was done is not known then, so it is neither answered nor undone, and
    /// nothing else is begun on its VMM but what pre-empts it.
    fn leaves_alone(self: &Arc<Self>, record: &VmmRecord, entry: &Entry) -> bool {
        let envelope = &entry.envelope;
        if !entry.is_begun() || record.preempted_by(envelope.sequence).is_some() {
            return false;
        }
        let Err(error) = Command::parse(envelope) else {
            return false;
        };
        tracing::error!(request_id = %envelope.request_id, operation_id = %envelope.operation_id,
            vmm_id = %envelope.vmm_id, method = %envelope.method, %error,
            "begun by another version of the agent, and left to it: start that one, or delete the guest");
        self.progress(entry, "wait_for_other_version", None);
        true
    }

    /// The worker: until no command is open.
    async fn work(self: Arc<Self>, vmm_id: VmmId) {
        let gate = self.vmm_gate(vmm_id);
        loop {
            let held = gate.lock().await;
            let entry = {
                // Under the lock that wake takes: what is accepted after this look wakes anew.
                let mut slots = self.slots();
                let slot = slots.entry(vmm_id).or_default();
                let record = self.journal.vmm(vmm_id).filter(|_| !slot.lost);
                let next = record
                    .as_ref()
                    .and_then(|r| r.next_open().filter(|entry| !self.leaves_alone(r, entry)));
                match next {
                    Some(entry) => {
                        slot.under_way = Some((entry.envelope.sequence, CancellationToken::new()));
                        entry.clone()
                    }
                    None => {
                        slot.working = false;
                        slot.under_way = None;
                        return;
                    }
                }
            };
            let cancelled = self
                .slots()
                .get(&vmm_id)
                .and_then(|slot| slot.under_way.as_ref().map(|(_, token)| token.clone()))
                .unwrap_or_default();
            let span = tracing::info_span!(
                "command",
                request_id = %entry.envelope.request_id,
                operation_id = %entry.envelope.operation_id,
                vmm_id = %vmm_id,
                method = %entry.envelope.method,
                sequence = entry.envelope.sequence,
            );
            let outcome = self.carry_out(entry, cancelled).instrument(span).await;
            drop(held);
            if let Err(error) = outcome {
                // The entry stays open; whoever repairs the journal wakes us.
                self.gate.close(Holder::Journal, error.to_string());
                let mut slots = self.slots();
                let slot = slots.entry(vmm_id).or_default();
                slot.working = false;
                slot.under_way = None;
                return;
            }
        }
    }
}
