//! Reconcilers: each looks at the whole state of one thing, and repairs it. No input, no memory:
//! a timer and a poke start them, and running one twice, or on two controllers at once, is the
//! same as running it once.
//!
//! What they may not do is free anything because time went by (PROTOCOL.md, rule 1), or remove
//! what nobody asked to remove (rule 5).
//!
//! - [`lineage`]: which database this is, and how old.
//! - [`operations`]: what lost its wake-up, and what is silent.
//! - [`claims`]: claims equal what is, or may be, there.
//! - [`vmms`]: VMMs whose server is gone get their tombstone.
//! - [`prune`]: what nobody asks for any more.

pub mod claims;
pub mod lineage;
pub mod operations;
pub mod prune;
pub mod vmms;

use crate::api::AppState;
use crate::store::StoreError;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two rounds.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Runs rounds until `stop` is cancelled.
pub async fn run(app: AppState, stop: CancellationToken) {
    while !stop.is_cancelled() {
        round(&app).await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.clock.sleep(INTERVAL) => {}
        }
    }
}

/// Every reconciler once. One that fails keeps none of the others from running.
pub async fn round(app: &AppState) {
    let outcomes: [(&str, Result<u64, StoreError>); 5] = [
        ("lineage", lineage::advance(app).await),
        ("operations", operations::reconcile(app).await),
        ("claims", claims::reconcile(app).await),
        ("vmms", vmms::reconcile(app).await),
        ("prune", prune::reconcile(app).await),
    ];
    for (name, outcome) in outcomes {
        if let Err(error) = outcome {
            tracing::error!(%error, reconciler = name, "a reconciler failed; the next round tries again");
        }
    }
}
