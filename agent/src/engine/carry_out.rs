//! Carries out one command: step after step, or back again.
//!
//! The journal says which step is begun before it is begun, and that a command is being undone
//! before anything is undone: after a death the same plan is gone through again from its start
//! (what is done checks as done), or undone again from its end.

use super::Engine;
use crate::driver::{DriverError, Exit, Job, Observed, Step};
use crate::journal::JournalError;
use crate::progress::Progress;
use crate::record::{Entry, Failure, Phase};
use berth_rpc::kill_point;
use berth_rpc_types::{Answer, Command, Outcome, Seen, VmmState};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A sign of life is sent as often as this.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How a plan went.
enum Went {
    Through,
    Cancelled,
    Wrong(Failure),
}

impl Engine {
    /// # Errors
    /// Only the journal's: the entry is then still open.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        entry: Entry,
        cancelled: CancellationToken,
    ) -> Result<(), JournalError> {
        let envelope = &entry.envelope;
        let record = self.journal.vmm(envelope.vmm_id);
        if let Some(by) = record
            .as_ref()
            .and_then(|r| r.preempted_by(envelope.sequence))
        {
            return self.conclude(&entry, Outcome::Superseded { by }).await;
        }
        if entry.is_over_in(self.journal.host().epoch) {
            return self.give_up(&entry).await;
        }
        let command = match Command::parse(envelope) {
            Ok(command) => command,
            // Accepted by another version of the agent, whose journal this was, and never begun:
            // what was begun is left alone before it comes here.
            Err(error) => {
                let failure = Failure {
                    message: error.to_string(),
                    detail: "accepted by another version of the agent, and never begun".into(),
                    retry_elsewhere: true,
                };
                return self.fail(&entry, failure, true).await;
            }
        };
        let job = Job {
            vmm_id: envelope.vmm_id,
            spec: record.and_then(|r| r.spec.clone()),
            request_id: envelope.request_id.clone(),
            operation_id: Some(envelope.operation_id),
            message_id: Some(envelope.message_id),
            cancelled,
            progress: Progress::default(),
            command,
        };
        let plan = self.driver.plan(&job);
        if let Phase::Undoing(failure) = &entry.phase {
            return self.undo(&entry, &plan, failure.clone()).await;
        }
        let attempts = self
            .change(&entry, |entry| {
                entry.attempts += 1;
                entry.attempts
            })
            .await?
            .unwrap_or_default();
        kill_point!("agent.command.begun");
        if attempts > 1 {
            tracing::warn!(attempts, last = ?entry.phase, "resumed: the agent ended during the last attempt");
        }
        let mut spans = Vec::new();
        let mut went = if attempts > self.max_attempts {
            Went::Wrong(Failure {
                message: format!(
                    "given up after {} attempts; the host's agent ended during each of them",
                    self.max_attempts
                ),
                detail: format!("last step: {:?}; see max_attempts", entry.phase),
                retry_elsewhere: true,
            })
        } else {
            self.go_through(&entry, &job, &plan, &mut spans).await?
        };
        let mut state = None;
        if let Went::Through = went {
            match self.state_after(&job).await {
                Ok(seen) => state = Some(seen),
                Err(failure) => went = Went::Wrong(failure),
            }
        }
        match (went, state) {
            (Went::Through, state) => {
                let (state, error) = state.unwrap_or((VmmState::Deleted, None));
                self.done(&entry, &job, state, error, spans).await
            }
            (Went::Wrong(failure), _)
                if matches!(job.command, Command::Build(_) | Command::Start(_)) =>
            {
                tracing::warn!(error = %failure.message, detail = %failure.detail, "failed; undoing");
                let undoing = Phase::Undoing(failure.clone());
                self.change(&entry, |entry| entry.phase = undoing).await?;
                kill_point!("agent.undo.journalled");
                self.undo(&entry, &plan, failure).await
            }
            // The others leave the guest as it is: there is nothing that they have made.
            (Went::Wrong(failure), _) => self.fail(&entry, failure, true).await,
            (Went::Cancelled, _) => self.give_up(&entry).await,
        }
    }

    async fn go_through(
        self: &Arc<Self>,
        entry: &Entry,
        job: &Job,
        plan: &[Box<dyn Step>],
        spans: &mut Vec<(String, u64)>,
    ) -> Result<Went, JournalError> {
        let _permit = if matches!(job.command, Command::Build(_) | Command::Start(_)) {
            self.progress(entry, "wait_for_turn", None);
            tokio::select! {
                permit = self.builds.acquire() => permit.ok(),
                () = job.cancelled.cancelled() => return Ok(Went::Cancelled),
            }
        } else {
            None
        };
        for step in plan {
            if job.cancelled.is_cancelled() {
                return Ok(Went::Cancelled);
            }
            let name = step.name();
            self.change(entry, |entry| entry.phase = Phase::Running(name.to_owned()))
                .await?;
            kill_point!("agent.step.journalled");
            job.progress.begin();
            self.progress(entry, name, None);
            let begun = self.clock.monotonic();
            match self
                .with_signs_of_life(entry, job, name, one_step(&**step))
                .await
            {
                Ok(()) => {}
                Err(DriverError::Cancelled) => return Ok(Went::Cancelled),
                Err(DriverError::Failed {
                    message,
                    detail,
                    retry_elsewhere,
                }) => {
                    let detail = format!("step {name}: {detail}");
                    return Ok(Went::Wrong(Failure {
                        message,
                        detail,
                        retry_elsewhere,
                    }));
                }
            }
            kill_point!("agent.step.done");
            let took = self.clock.monotonic().saturating_sub(begun).as_millis();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            tracing::info!(step = name, took_ms = took, "step done");
            spans.push((name.to_owned(), took));
        }
        Ok(Went::Through)
    }

    async fn with_signs_of_life<T>(
        self: &Arc<Self>,
        entry: &Entry,
        job: &Job,
        name: &'static str,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.clock.sleep(SIGN_OF_LIFE) => {
                    self.progress(entry, name, job.progress.reading());
                }
            }
        }
    }

    /// What the guest is in after a plan that went through.
    async fn state_after(&self, job: &Job) -> Result<(VmmState, Option<String>), Failure> {
        let failure = |message: String, detail: String| Failure {
            message,
            detail,
            retry_elsewhere: true,
        };
        let observed = self
            .driver
            .observe(job.vmm_id)
            .await
            .map_err(|e| failure("the guest's state cannot be read".into(), e.to_string()))?;
        let (state, error) = state_of(observed);
        let must_run = matches!(
            job.command,
            Command::Build(_) | Command::Start(_) | Command::Reboot { .. } | Command::Unpause
        );
        match (state, error) {
            (VmmState::Crashed, error) if must_run => {
                let error = error.unwrap_or_else(|| "no error was left behind".into());
                Err(failure(
                    format!("the guest crashed as it started: {error}"),
                    error,
                ))
            }
            (state, error) => Ok((state, error)),
        }
    }

    async fn undo(
        self: &Arc<Self>,
        entry: &Entry,
        plan: &[Box<dyn Step>],
        mut failure: Failure,
    ) -> Result<(), JournalError> {
        let mut undone = true;
        for step in plan.iter().rev() {
            self.progress(entry, "undo", None);
            if let Err(error) = step.undo().await {
                undone = false;
                let text = match &error {
                    DriverError::Failed { detail, .. } => format!("{error} ({detail})"),
                    DriverError::Cancelled => error.to_string(),
                };
                tracing::error!(step = step.name(), error = %text, "not undone");
                failure
                    .detail
                    .push_str(&format!("; not undone: {}: {text}", step.name()));
            }
            kill_point!("agent.undo.step");
        }
        self.fail(entry, failure, undone).await
    }

    async fn done(
        self: &Arc<Self>,
        entry: &Entry,
        job: &Job,
        state: VmmState,
        error: Option<String>,
        spans: Vec<(String, u64)>,
    ) -> Result<(), JournalError> {
        if job.command == Command::Delete && state != VmmState::Deleted {
            let failure = Failure {
                message: "the guest could not be removed; delete it again".into(),
                detail: format!("after every step of the delete it was still {state}"),
                retry_elsewhere: false,
            };
            return self.fail(entry, failure, false).await;
        }
        tracing::info!(%state, "done");
        self.conclude_with(entry, move |record| {
            record.see(state, error);
            let observation = record.observation;
            Outcome::Done {
                answer: Answer::Vmm(Seen { state, observation }),
                spans,
            }
        })
        .await
    }

    async fn fail(
        self: &Arc<Self>,
        entry: &Entry,
        failure: Failure,
        undone: bool,
    ) -> Result<(), JournalError> {
        let seen = self
            .driver
            .observe(entry.envelope.vmm_id)
            .await
            .ok()
            .map(state_of);
        tracing::warn!(error = %failure.message, detail = %failure.detail, undone, "failed");
        self.conclude_with(entry, move |record| {
            if let Some((state, error)) = seen {
                record.see(state, error);
            }
            Outcome::Failed {
                message: failure.message,
                detail: failure.detail,
                undone,
                retry_elsewhere: failure.retry_elsewhere,
                seen: Some(record.seen()),
            }
        })
        .await
    }

    /// Pre-empted by a delete, or the VMM was lost, or the order is of an older epoch. What is half done
    /// is removed by whoever gave the order, or taken up again by the next one.
    async fn give_up(self: &Arc<Self>, entry: &Entry) -> Result<(), JournalError> {
        let sequence = entry.envelope.sequence;
        let record = self.journal.vmm(entry.envelope.vmm_id);
        let outcome = match record.and_then(|r| r.preempted_by(sequence)) {
            Some(by) => Outcome::Superseded { by },
            None => Outcome::StaleEpoch {
                current: self.journal.host().epoch,
            },
        };
        tracing::info!(?outcome, "given up");
        self.conclude(entry, outcome).await
    }

    async fn change<T>(
        &self,
        entry: &Entry,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Result<Option<T>, JournalError> {
        let message_id = entry.envelope.message_id;
        let update =
            |record: &mut crate::record::VmmRecord| record.entry_mut(message_id).map(change);
        self.journal.update(entry.envelope.vmm_id, update).await
    }
}

async fn one_step(step: &dyn Step) -> Result<(), DriverError> {
    if step.check().await? {
        tracing::debug!(step = step.name(), "nothing to do");
        return Ok(());
    }
    step.run().await
}

/// What is there, in the words of the protocol, with the last error of a crash.
pub(super) fn state_of(observed: Observed) -> (VmmState, Option<String>) {
    match observed {
        Observed::Absent => (VmmState::Deleted, None),
        Observed::Stopped | Observed::Exited(Exit::PowerOff) => (VmmState::Stopped, None),
        // It is about to be started again.
        Observed::Running | Observed::Exited(Exit::Reset) => (VmmState::Running, None),
        Observed::Paused => (VmmState::Paused, None),
        Observed::Exited(Exit::Crash(error)) => (VmmState::Crashed, Some(error)),
    }
}
