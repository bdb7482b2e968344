//! Reports: what the agent tells the controller over HTTPS, and what it learns in return.
//!
//! One report is under way at a time. Each carries every observation that is not yet
//! acknowledged. Of the answer, the epoch is made durable before anything else is acted on (rule 4),
//! and a tombstone goes once the watermark has passed it (rule 3). A database that is older than what
//! the agent has seen is refused (rule 5, [`crate::host_record`]): that is written down, nothing of the
//! answer is believed, the gate closes, and the reports go on to say what this host has.

use crate::engine::Engine;
use crate::gate::Holder;
use crate::host_record::HostRecord;
use crate::journal::JournalError;
use crate::link::{Controller, LinkError};
use crate::record::VmmRecord;
use berth_rpc::kill_point;
use berth_rpc_types::link::{HostNumbers, NetworkDocument, Refusal, SyncReply, SyncRequest};
use berth_rpc_types::{Capacity, VmmId};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;

/// Pokes closer together than this share a report.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);

/// No controller makes a host silent for longer, whatever it says.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

fn wait(own: Duration, told_s: u32) -> Duration {
    own.max(Duration::from_secs(told_s.into()).min(LONGEST_INTERVAL))
}

/// Tells and learns. See the module's words.
pub(crate) struct Reporter {
    pub engine: Arc<Engine>,
    pub controller: Arc<dyn Controller>,
    pub hostname: String,
    pub address: String,
    pub interval: Duration,
    /// Seconds between two reports, as the controller last wished.
    pub told_interval_s: AtomicU32,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Revision of the network document that was last applied.
    pub applied_networks: AtomicU64,
    /// That document: applied again at each interval, since what it describes may have died.
    pub networks: std::sync::Mutex<Option<NetworkDocument>>,
    /// Guests of which the last answer asked what they are to be. A report is under way while it is held.
    pub asked: Mutex<Vec<VmmId>>,
}

/// Why a report came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{0}")]
    Refused(String),
}

impl Reporter {
    /// Reports at each change and each interval until the agent ends.
    pub async fn run(self: Arc<Self>) {
        let engine = &self.engine;
        loop {
            tokio::select! {
                () = engine.news.notified() => engine.clock.sleep(SHORTEST_INTERVAL).await,
                () = engine.clock.sleep(self.interval()) => self.repair_networks().await,
            }
            match self.report(false).await {
                Ok(reply) => {
                    // Removing takes as long as it takes; reports go on meanwhile.
                    let engine = Arc::clone(engine);
                    let lost = reply.lost;
                    self.engine
                        .spawn(async move { lose_all(&engine, &lost).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "report failed; the next one says it again");
                    engine
                        .clock
                        .sleep(jittered(engine, Duration::from_secs(1)))
                        .await;
                }
            }
        }
    }

    /// Until the next report, if nothing happens: in a large cloud, as long as the controller says.
    fn interval(&self) -> Duration {
        wait(self.interval, self.told_interval_s.load(Ordering::Acquire))
    }

    /// The first report after the start: tried until it succeeds.
    ///
    /// # Errors
    /// Only if the journal cannot be written.
    pub async fn first(&self) -> Result<SyncReply, JournalError> {
        let mut back_off = Duration::from_millis(200);
        loop {
            match self.report(true).await {
                Ok(reply) => return Ok(reply),
                Err(ReportError::Journal(error)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the controller does not answer yet; guests run on")
                }
            }
            self.engine
                .clock
                .sleep(jittered(&self.engine, back_off))
                .await;
            back_off = (back_off * 2).min(self.interval);
        }
    }

    /// Reports once, and folds in everything of the answer but the losses, which are the
    /// caller's to remove.
    pub async fn report(&self, starting: bool) -> Result<SyncReply, ReportError> {
        let mut asked = self.asked.lock().await;
        let engine = &self.engine;
        let host = engine.journal.host();
        let vmms = engine.journal.vmms();
        let tell = |record: &Arc<VmmRecord>| match starting {
            true => Some(record.observation()),
            false => record.unacknowledged(),
        };
        let newest = |record: &Arc<VmmRecord>| record.newest();
        let request = SyncRequest {
            host_id: engine.host_id,
            hostname: self.hostname.clone(),
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            starting,
            knows_accounts: true,
            start: host.told(&self.boot_id),
            timeline: host.timelines.last().map(|timeline| timeline.id),
            numbers: Some(HostNumbers {
                last: vmms
                    .iter()
                    .filter_map(newest)
                    .fold(host.last_number, u64::max),
                watermark: host.watermark,
            }),
            refusal: host.refused.as_ref().map(|refused| Refusal {
                timeline: refused.timeline,
                records: vmms.iter().map(|record| record.recorded()).collect(),
            }),
            guests: asked
                .iter()
                .filter_map(|id| engine.journal.vmm(*id)?.stray())
                .collect(),
            epoch: host.epoch,
            lineage: host.lineage.clone(),
            lineage_counter: host.lineage_counter,
            capacity: self.capacity().await,
            observations: vmms.iter().filter_map(tell).collect(),
        };
        let reply = self.controller.sync(request).await?;
        asked.clone_from(&reply.tell);
        self.fold(&host, &reply).await?;
        let every = reply.report_every_s;
        self.told_interval_s.store(every, Ordering::Release);
        Ok(reply)
    }

    async fn capacity(&self) -> Capacity {
        self.engine.driver.capacity().await.unwrap_or_else(|error| {
            // A host that cannot say what it has offers nothing.
            tracing::error!(%error, "capacity not read");
            Capacity {
                driver: self.engine.driver.kind().into(),
                ..Capacity::default()
            }
        })
    }

    async fn fold(&self, host: &HostRecord, reply: &SyncReply) -> Result<(), ReportError> {
        let engine = &self.engine;
        let learnt = match host.learn(reply) {
            Ok(learnt) => learnt,
            Err(refused) => {
                let why = refused.why.clone();
                engine.gate.close(Holder::Lineage, why.clone());
                let latch = |host: &mut HostRecord| host.refused = Some(refused);
                engine.journal.update_host(latch).await?;
                kill_point!("agent.refusal.latched");
                return Err(ReportError::Refused(why));
            }
        };
        let watermark = learnt.watermark;
        engine.journal.update_host(|host| *host = learnt).await?;
        kill_point!("agent.epoch.stored");
        engine.learnt.send_replace(());
        engine.end_old_orders();
        engine.gate.open(Holder::Lineage);
        for (vmm_id, number) in &reply.acknowledged {
            if engine
                .journal
                .vmm(*vmm_id)
                .is_some_and(|r| r.acknowledged < *number)
            {
                let acknowledge = |record: &mut VmmRecord| {
                    record.acknowledged =
                        record.acknowledged.max((*number).min(record.observation));
                };
                engine.journal.update(*vmm_id, acknowledge).await?;
            }
        }
        for record in engine.journal.vmms() {
            let is_told =
                record.unconfirmed().next().is_none() && record.unacknowledged().is_none();
            if is_told && record.is_behind(watermark) {
                engine.journal.forget(record.vmm_id).await?;
            }
        }
        if reply.network_revision != self.applied_networks.load(Ordering::Acquire) {
            self.apply_networks().await;
        }
        Ok(())
    }

    async fn repair_networks(&self) {
        let last = self
            .networks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(document) = last
            && let Err(error) = self.engine.driver.apply_networks(document).await
        {
            tracing::error!(%error, "networks not repaired");
        }
    }

    /// A failure is told and tried again at the next report, since the revision still differs.
    async fn apply_networks(&self) {
        let document = match self.controller.networks().await {
            Ok(document) => document,
            Err(error) => return tracing::warn!(%error, "network document not fetched"),
        };
        let revision = document.revision;
        *self.networks.lock().unwrap_or_else(PoisonError::into_inner) = Some(document.clone());
        match self.engine.driver.apply_networks(document).await {
            Ok(()) => {
                self.applied_networks.store(revision, Ordering::Release);
                tracing::debug!(revision, "networks are as the controller wants them");
            }
            Err(error) => tracing::error!(revision, %error, ?error, "networks not applied"),
        }
    }
}

/// Removes what the controller has given away.
pub(crate) async fn lose_all(engine: &Arc<Engine>, lost: &[VmmId]) {
    for vmm_id in lost {
        if let Err(error) = engine.lose(*vmm_id).await {
            engine.gate.close(Holder::Journal, error.to_string());
        }
    }
}

/// Between half of it and one and a half, so that a thousand agents do not come together.
fn jittered(engine: &Engine, duration: Duration) -> Duration {
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    duration / 2 + Duration::from_millis(engine.rng.below(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_become_rarer_when_told_and_stop_for_nobody() {
        for (own, told, expected) in [
            (10, 0, 10),
            (10, 30, 30),
            (10, 3, 10),
            (10, u32::MAX, 60),
            (90, 30, 90),
        ] {
            let own = Duration::from_secs(own);
            assert_eq!(wait(own, told), Duration::from_secs(expected));
        }
    }
}
