//! What happens without a command: guests that end or reset by themselves, guests that the
//! controller has given away, guests that nobody here has accepted.
//!
//! Level-triggered: a hint from the driver only makes the engine look, under the VMM's gate,
//! at what is there now. A hint too many, or one that comes late, changes nothing.

use super::Engine;
use super::carry_out::state_of;
use crate::driver::{DriverError, Exit, Job, Observed};
use crate::gate::Holder;
use crate::journal::JournalError;
use crate::progress::Progress;
use crate::record::VmmRecord;
use berth_rpc::kill_point;
use berth_rpc_types::{Command, Outcome, VmmId, VmmState};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A guest that resets all the time is started again no faster than this.
const RESET_PAUSE: Duration = Duration::from_millis(200);

/// Whether a guest that asked for a reset may be started again: not before the agent knows
/// what it has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Yes,
    NotYet,
}

impl Engine {
    /// Follows the driver's hints until the agent ends.
    pub async fn watch_guests(self: Arc<Self>) {
        loop {
            let vmm_id = self.driver.next_change().await;
            let engine = Arc::clone(&self);
            self.spawn(async move { engine.look(vmm_id, Restart::Yes).await });
        }
    }

    /// Looks at every VMM on record.
    pub async fn look_at_all(self: &Arc<Self>, restart: Restart) {
        for record in self.journal.vmms() {
            self.look(record.vmm_id, restart).await;
        }
    }

    /// Looks at one VMM, unless a command is open on it: that will see for itself.
    pub async fn look(self: &Arc<Self>, vmm_id: VmmId, restart: Restart) {
        let gate = self.vmm_gate(vmm_id);
        let _held = gate.lock().await;
        let Some(record) = self.journal.vmm(vmm_id) else {
            return;
        };
        if record.tombstone || record.next_open().is_some() || record.state == VmmState::Quarantined
        {
            return;
        }
        let observed = match self.driver.observe(vmm_id).await {
            Ok(observed) => observed,
            Err(error) => return tracing::warn!(%vmm_id, %error, "not observed"),
        };
        let wanted = matches!(record.state, VmmState::Running | VmmState::Paused);
        let (state, error) = match observed {
            Observed::Exited(Exit::Reset) if wanted && restart == Restart::NotYet => return,
            Observed::Exited(Exit::Reset) if wanted => self.start_again(&record).await,
            Observed::Absent if record.state != VmmState::Deleted => (
                VmmState::Crashed,
                Some("everything of it is gone from the host".into()),
            ),
            observed => state_of(observed),
        };
        if state != record.state {
            tracing::info!(%vmm_id, was = %record.state, is = %state, error = error.as_deref().unwrap_or(""), "a guest changed by itself");
        }
        match self
            .journal
            .update(vmm_id, |record| record.see(state, error))
            .await
        {
            Ok(()) => self.news.notify_one(),
            Err(error) => self.gate.close(Holder::Journal, error.to_string()),
        }
    }

    /// Reset on real hardware starts the machine again; so does this.
    async fn start_again(self: &Arc<Self>, record: &VmmRecord) -> (VmmState, Option<String>) {
        tracing::info!(vmm_id = %record.vmm_id, "the guest asked for a reset");
        let Some(spec) = record.spec.clone() else {
            return (
                VmmState::Crashed,
                Some("no specification to start it again from".into()),
            );
        };
        self.clock.sleep(RESET_PAUSE).await;
        let job = self.own_job(
            record.vmm_id,
            Command::Start(Box::new(spec.clone())),
            Some(spec),
        );
        match self.run_own(&job).await {
            Ok(()) => self
                .driver
                .observe(record.vmm_id)
                .await
                .map_or_else(|e| (VmmState::Crashed, Some(e.to_string())), state_of),
            Err(error) => (
                VmmState::Crashed,
                Some(format!("not started again after its reset: {error}")),
            ),
        }
    }

    fn own_job(
        &self,
        vmm_id: VmmId,
        command: Command,
        spec: Option<berth_rpc_types::VmmSpec>,
    ) -> Job {
        Job {
            vmm_id,
            command,
            spec,
            request_id: String::new(),
            operation_id: None,
            message_id: None,
            cancelled: CancellationToken::new(),
            progress: Progress::default(),
        }
    }

    async fn run_own(&self, job: &Job) -> Result<(), DriverError> {
        for step in self.driver.plan(job) {
            if !step.check().await? {
                step.run().await?;
            }
        }
        Ok(())
    }

    /// Notes what is on the host but not in the journal, and leaves it alone (rule 5).
    ///
    /// # Errors
    /// If that cannot be journalled, or the host cannot be listed.
    pub async fn quarantine_unknown(&self) -> Result<(), QuarantineError> {
        for vmm_id in self.driver.list().await? {
            if self.journal.vmm(vmm_id).is_none() {
                tracing::warn!(%vmm_id, "found a guest that this agent never accepted; left alone");
                let see = |record: &mut VmmRecord| record.see(VmmState::Quarantined, None);
                self.journal.update(vmm_id, see).await?;
            }
        }
        Ok(())
    }

    /// Removes a VMM that the controller has given away: its words are the tombstone.
    ///
    /// # Errors
    /// The journal's; a removal that fails is logged and tried again at the next sync, since
    /// the controller goes on listing the VMM until it is reported deleted.
    pub async fn lose(self: &Arc<Self>, vmm_id: VmmId) -> Result<(), JournalError> {
        let is_buried = |record: Arc<VmmRecord>| record.tombstone;
        if self.journal.vmm(vmm_id).is_some_and(is_buried) {
            return Ok(());
        }
        let gate = {
            let mut slots = self.slots();
            let slot = slots.entry(vmm_id).or_default();
            slot.lost = true;
            if let Some((_, cancelled)) = &slot.under_way {
                cancelled.cancel();
            }
            Arc::clone(&slot.gate)
        };
        let held = gate.lock().await;
        let removed = self.remove_lost(vmm_id).await?;
        drop(held);
        if removed {
            // The tombstone keeps everything out now but a delete, which is to be answered.
            self.slots().entry(vmm_id).or_default().lost = false;
            self.wake(vmm_id);
        }
        Ok(())
    }

    /// Whether nothing of it is left. Called with the VMM's gate held.
    async fn remove_lost(self: &Arc<Self>, vmm_id: VmmId) -> Result<bool, JournalError> {
        let record = self.journal.vmm(vmm_id);
        if record.as_ref().is_some_and(|r| r.tombstone) {
            return Ok(true);
        }
        tracing::warn!(%vmm_id, "lost by the controller's word: removing");
        let open = record
            .iter()
            .flat_map(|r| &r.entries)
            .filter(|e| e.is_open());
        for entry in open {
            let current = self.journal.host().epoch;
            self.conclude(entry, Outcome::StaleEpoch { current })
                .await?;
        }
        let spec = record.and_then(|r| r.spec.clone());
        let job = self.own_job(vmm_id, Command::Delete, spec);
        if let Err(error) = self.run_own(&job).await {
            tracing::error!(%vmm_id, %error, "a lost guest is not removed yet");
            return Ok(false);
        }
        kill_point!("agent.lost.removed");
        let last = self.journal.host().last_number;
        let bury = |record: &mut VmmRecord| record.bury_lost(last);
        self.journal.update(vmm_id, bury).await?;
        self.news.notify_one();
        Ok(true)
    }
}

/// Why unknown guests could not be noted.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The driver's.
    #[error("guests cannot be listed: {0}")]
    Driver(#[from] DriverError),
    /// The journal's.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
