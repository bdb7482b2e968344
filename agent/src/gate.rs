//! Whether the agent may consume its queue, and if not, why. Closed by several parts for
//! reasons of their own; open when no reason is left.

use std::collections::BTreeMap;
use tokio::sync::watch;

/// Who holds the gate closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The start order has not come to consuming yet.
    Start,
    /// The journal cannot be written.
    Journal,
    /// The controller's database is not the one that the agent knows (rule 5).
    Lineage,
}

/// See the module's words.
pub struct Gate(watch::Sender<BTreeMap<Holder, String>>);

impl Gate {
    /// Closed until the start order has been gone through.
    pub fn new() -> Self {
        let reasons = BTreeMap::from([(Holder::Start, "the agent is starting".to_owned())]);
        Self(watch::Sender::new(reasons))
    }

    /// Closes it, and says so once.
    pub fn close(&self, holder: Holder, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_if_modified(|reasons| {
            let new = reasons.get(&holder) != Some(&reason);
            if new {
                tracing::error!(?holder, %reason, "the agent stops taking commands");
                reasons.insert(holder, reason);
            }
            new
        });
    }

    /// Takes one holder's reason away.
    pub fn open(&self, holder: Holder) {
        self.0.send_if_modified(|reasons| {
            let was = reasons.remove(&holder).is_some();
            if was && reasons.is_empty() {
                tracing::info!(?holder, "the agent takes commands");
            }
            was
        });
    }

    /// Why it is closed; empty if it is open.
    pub fn reasons(&self) -> Vec<String> {
        self.0.borrow().values().cloned().collect()
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        // The sender lives in self: the channel cannot end.
        let _ = self.0.subscribe().wait_for(BTreeMap::is_empty).await;
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        let _ = self.0.subscribe().wait_for(|r| !r.is_empty()).await;
    }
}
