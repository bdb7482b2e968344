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
//! - [`images`]: uploads that nobody carries on, and files that no image has.
//! - [`vmms`]: VMMs whose server is gone get their tombstone.
//! - [`prune`]: what nobody asks for any more.

pub mod claims;
pub mod images;
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

/// The image directory is read whole once in so many rounds: an hour.
const ROUNDS_A_SWEEP: u32 = 720;

/// Runs rounds until `stop` is cancelled.
pub async fn run(app: AppState, stop: CancellationToken) {
    for number in (0..ROUNDS_A_SWEEP).cycle() {
        if stop.is_cancelled() {
            break;
        }
        round(&app).await;
        if number == 0 {
            say("image files", images::sweep(&app).await);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.clock.sleep(INTERVAL) => {}
        }
    }
}

/// Every reconciler once. One that fails keeps none of the others from running.
pub async fn round(app: &AppState) {
    let outcomes: [(&str, Result<u64, StoreError>); 6] = [
        ("lineage", lineage::advance(app).await),
        ("operations", operations::reconcile(app).await),
        ("claims", claims::reconcile(app).await),
        ("images", images::reconcile(app).await),
        ("vmms", vmms::reconcile(app).await),
        ("prune", prune::reconcile(app).await),
    ];
    for (name, outcome) in outcomes {
        say(name, outcome);
    }
}

fn say(name: &str, outcome: Result<u64, StoreError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, reconciler = name, "a reconciler failed; it will try again");
    }
}
