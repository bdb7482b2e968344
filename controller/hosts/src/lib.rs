//! What is known of hosts: joining, the heartbeat, fences and lineage.
//!
//! Agents speak HTTPS, not the broker's path (PROTOCOL.md, rule 6): a host is heard even while the
//! broker is down. Every call but join proves the host's secret and its key.
//!
//! - [`join`]: a token for an id and a secret; [`certificate`]: the key; [`auth`]: both, proved.
//! - [`broker`]: a host's queues, and its account there.
//! - [`sync`]: epoch, lost guests, what was seen, and what is acknowledged; [`observer`]: who is
//!   told what was seen; [`quiet`]: a report without news.
//! - [`strays`]: guests that no server has.
//! - [`fences`]: an administrator's word that a host is off, and what follows from it.
//! - [`epoch`]: what raises a host's epoch but for a fence; [`removal`]: a host that has nothing goes.
//! - [`lineage`], [`timelines`]: which database this is, and how old; `refusal`: which agents must not
//!   obey it; [`acceptance`]: an operator's word that they may.
//! - [`reconcile`]: what is kept true of them.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod acceptance;
pub mod auth;
pub mod beats;
pub mod broker;
pub mod certificate;
pub mod epoch;
pub mod fences;
pub mod join;
pub mod lineage;
pub mod observer;
pub mod quiet;
pub mod reconcile;
mod refusal;
pub mod removal;
pub mod strays;
pub mod sync;
#[cfg(test)]
mod tests;
pub mod timelines;

pub use auth::Caller;
pub use fences::Fence;
pub use observer::{Observer, Target};

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::routing::post;
use berth_controller_core::AppState;
use std::sync::Arc;

/// The largest report that is read: a host's guests, a few hundred bytes each.
const BODY_MAX: usize = 8 << 20;

/// What the agents' routes share: the application, and who is told what hosts see. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    /// The application.
    pub app: AppState,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
}

impl FromRef<Agents> for AppState {
    fn from_ref(agents: &Agents) -> Self {
        agents.app.clone()
    }
}

/// Joining, the certificate, the broker's account and the heartbeat, under `/agent/v1`.
pub fn router(agents: Agents) -> Router {
    Router::new()
        .route("/agent/v1/join", post(join::join))
        .route("/agent/v1/broker", post(broker::broker))
        .route("/agent/v1/certificate", post(certificate::certificate))
        .route("/agent/v1/sync", post(sync::sync))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(agents)
}
