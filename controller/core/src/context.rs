//! What every handler gets: the application, and who asks.

use crate::metrics::Metrics;
use crate::store::Store;
use crate::{ApiSettings, ControlSettings, Env};
use berth_rpc::{
    Transport,
    clock::{Clock, Rng},
};
use std::{path::PathBuf, sync::Arc};

/// What all handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The database.
    pub store: Store,
    /// For reads of consoles only; commands go through the outbox.
    pub transport: Arc<dyn Transport>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance: ids and tokens.
    pub rng: Arc<dyn Rng>,
    /// Base of all links, for example `https://controller:8774`, without a slash at the end.
    pub base_url: Arc<str>,
    /// Image files; shared by all controllers.
    pub image_dir: Arc<PathBuf>,
    /// What every controller of this cloud must agree on: placement, patience, grace.
    pub control: Arc<ControlSettings>,
    /// The database's lineage; in every command.
    pub lineage: Arc<str>,
    /// Pokes the workflow driver of this process: there may be something to do.
    pub wake: Arc<tokio::sync::Notify>,
    /// Pokes the outbox sender of this process.
    pub wake_outbox: Arc<tokio::sync::Notify>,
    /// What this process counted.
    pub metrics: Arc<Metrics>,
    /// What an operator may tune of the APIs.
    pub settings: Arc<ApiSettings>,
}

impl AppState {
    /// Time, chance and settings, for what runs inside a transaction.
    pub fn env(&self) -> Env {
        Env {
            clock: Arc::clone(&self.clock),
            rng: Arc::clone(&self.rng),
            control: Arc::clone(&self.control),
            lineage: Arc::clone(&self.lineage),
        }
    }
}

/// Who asks, for what, and under which id. Made by the authentication layer from
/// `X-Auth-Token`; handlers take it as an axum extension.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// `req-<uuid>`; answered in `x-openstack-request-id`, carried to KVM.
    pub request_id: String,
    /// The user.
    pub user_id: String,
    /// The token's project; empty for an unscoped or system token.
    pub project_id: String,
    /// Role names.
    pub roles: Vec<String>,
    /// Whether the token has the `admin` role.
    pub is_admin: bool,
    /// The token's system scope (`all`), if any.
    pub system_scope: bool,
    /// W3C trace context of the request, if any.
    pub traceparent: Option<String>,
}

impl RequestContext {
    /// Whether things of `project` may be seen and changed by this caller.
    pub fn may_see(&self, project: &str) -> bool {
        self.is_admin || self.project_id == project
    }
}
