//! What is kept true of hosts: operations that wait for one that is forced down go on, and join
//! tokens that nobody can use any more go.

use crate::fences;
use berth_controller_core::store::StoreError;
use berth_controller_core::{AppState, params};
use berth_controller_operations::Engine;

/// Milliseconds that a join token is kept after it expired.
const KEPT_MS: i64 = 24 * 3_600_000;

/// Wakes what waits for a host that is forced down. Usually done by the force-down itself; a newer
/// controller may have made it.
///
/// # Errors
/// [`StoreError`]
pub async fn fenced(engine: &Engine) -> Result<u64, StoreError> {
    let now = engine.app.clock.now_millis();
    let store = &engine.app.store;
    store
        .tx(|tx| {
            let kinds = engine.kinds.clone();
            Box::pin(async move { fences::wake_waiting(tx, &*kinds, now).await })
        })
        .await
}

/// Removes join tokens that expired long ago.
///
/// # Errors
/// [`StoreError`]
pub async fn prune(app: &AppState) -> Result<u64, StoreError> {
    let before = app.clock.now_millis() - KEPT_MS;
    app.store
        .tx(|tx| {
            Box::pin(async move {
                tx.execute(
                    "DELETE FROM join_tokens WHERE expires_at < $1",
                    params![before],
                )
                .await
            })
        })
        .await
}
