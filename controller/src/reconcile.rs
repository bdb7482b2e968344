//! Reconcilers: each looks at the state of one thing, all of it or one window after the other, and
//! repairs it. No input, no memory but where the next window begins: a timer starts them, and running
//! one twice, or on two controllers at once, is the same as running it once.
//!
//! What they may not do is free anything because time went by (PROTOCOL.md, rule 1), or remove
//! what nobody asked to remove (rule 5).
//!
//! Each stands in its service; here is who runs them.

use crate::compute::reconcile::Window;
use crate::core::store::StoreError;
use crate::core::{AppState, listing};
use crate::operations::{self, Engine};
use crate::{compute, hosts, image};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two rounds.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// The image directory is read whole once in so many rounds: an hour.
const ROUNDS_A_SWEEP: u32 = 720;

/// Beats that a deleted row's place in its lists is known: a day.
const MARKERS_KEPT: i64 = 86_400;

/// Runs rounds until `stop` is cancelled.
pub async fn run(engine: Engine, stop: CancellationToken) {
    let app = &engine.app;
    let mut windows = Windows::default();
    for number in (0..ROUNDS_A_SWEEP).cycle() {
        if stop.is_cancelled() {
            break;
        }
        round(&engine, &mut windows).await;
        if number == 0 {
            say("image files", sweep(app).await);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.clock.sleep(INTERVAL) => {}
        }
    }
}

/// What no image has, as far as that may be said.
async fn sweep(app: &AppState) -> Result<u64, StoreError> {
    let store = &app.store;
    let is_undisputed = store
        .tx(|tx| Box::pin(hosts::acceptance::is_undisputed(tx)))
        .await?;
    image::reconcile::sweep(app, is_undisputed).await
}

/// Where the reconcilers of large tables are.
#[derive(Debug, Default)]
pub struct Windows {
    instances: Window,
    claims: Window,
    vmms: Window,
}

/// Every reconciler once. One that fails keeps none of the others from running.
pub async fn round(engine: &Engine, windows: &mut Windows) {
    let app = &engine.app;
    let outcomes: [(&str, Result<u64, StoreError>); 11] = [
        ("lineage", hosts::lineage::advance(app).await),
        ("fences", hosts::reconcile::fenced(engine).await),
        (
            "operations",
            operations::reconcile::reconcile(engine, INTERVAL).await,
        ),
        (
            "instances",
            compute::reconcile::instances::reconcile(app, &mut windows.instances).await,
        ),
        (
            "claims",
            compute::reconcile::claims::reconcile(app, &mut windows.claims).await,
        ),
        ("images", image::reconcile::reconcile(app).await),
        (
            "vmms",
            compute::reconcile::vmms::reconcile(app, &mut windows.vmms).await,
        ),
        ("commands", operations::reconcile::prune(app).await),
        ("join tokens", hosts::reconcile::prune(app).await),
        ("image tokens", image::reconcile::prune(app).await),
        ("markers", markers(app).await),
    ];
    for (name, outcome) in outcomes {
        say(name, outcome);
    }
}

/// What was deleted long ago is no page's marker any more.
async fn markers(app: &AppState) -> Result<u64, StoreError> {
    let store = &app.store;
    store
        .tx(|tx| Box::pin(listing::markers::prune(tx, MARKERS_KEPT)))
        .await
}

fn say(name: &str, outcome: Result<u64, StoreError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, reconciler = name, "a reconciler failed; it will try again");
    }
}
