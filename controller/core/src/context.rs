//! What every handler gets: the application, and who asks.

use crate::metrics::Metrics;
use crate::policy::{self, Caller, Reach, Rule, Who};
use crate::store::Store;
use crate::throttle::Throttle;
use crate::{
    ApiError, ApiSettings, BrokerAccounts, ControlSettings, Env, Heard, HostCa, KnownHosts, Turns,
};
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
    /// Hosts that this process heard, until that is written down.
    pub heard: Arc<Heard>,
    /// The hosts that placement chooses from.
    pub hosts: Arc<KnownHosts>,
    /// Requests that add to one project's things.
    pub turns: Arc<Turns>,
    /// Pokes the workflow driver of this process: there may be something to do.
    pub wake: Arc<tokio::sync::Notify>,
    /// Pokes the outbox sender of this process.
    pub wake_outbox: Arc<tokio::sync::Notify>,
    /// Hosts' accounts at the broker, where they get any.
    pub broker_accounts: Option<Arc<BrokerAccounts>>,
    /// Signs hosts' certificates; without it hosts prove their secrets only.
    pub host_ca: Option<Arc<HostCa>>,
    /// What this process counted.
    pub metrics: Arc<Metrics>,
    /// Log-ins that failed, by user.
    pub log_ins: Arc<Throttle>,
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
            hosts: Arc::clone(&self.hosts),
        }
    }
}

/// Who asks, for what, under which id, and how far that reaches. Made by the authentication layer
/// from `X-Auth-Token` and the table of [`policy`]; handlers take it as an axum extension.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// `req-<uuid>`; answered in `x-openstack-request-id`, carried to KVM.
    pub request_id: String,
    /// The user.
    pub user_id: String,
    /// The token's project; empty for one that has none.
    pub project_id: String,
    /// Scope and role, for what else the table says ([`Self::may`]).
    pub caller: Caller,
    /// How far the caller's roles reach in what was asked.
    pub reach: Reach,
    /// W3C trace context of the request, if any.
    pub traceparent: Option<String>,
}

impl RequestContext {
    /// Whether things of `project` may be seen and changed by this caller.
    pub fn may_see(&self, project: &str) -> bool {
        self.reach.covers(project)
    }

    /// Whether the table gives the caller this action, too: a field of the body, or of the answer.
    /// One that the table does not have is nobody's.
    pub fn may(&self, action: &str) -> bool {
        let rule = policy::action(action);
        rule.is_some_and(|rule| rule.who.reach(&self.caller).is_some())
    }

    /// Refuses a caller to whom the table does not give this action.
    ///
    /// # Errors
    /// 403 in the words of its service.
    pub fn require(&self, action: &'static str) -> Result<(), ApiError> {
        let Some(rule) = policy::action(action) else {
            tracing::error!(
                action,
                "the table of policies has no such action: it is refused"
            );
            let nobody = Rule {
                action,
                who: Who::Anybody,
                routes: &[],
            };
            return Err(nobody.refusal());
        };
        match rule.who.reach(&self.caller) {
            Some(_) => Ok(()),
            None => Err(rule.refusal()),
        }
    }

    /// On whose behalf what goes on after the answer is done.
    pub fn origin(&self) -> Origin {
        Origin {
            request_id: self.request_id.clone(),
            user_id: self.user_id.clone(),
            project_id: self.project_id.clone(),
            traceparent: self.traceparent.clone(),
        }
    }
}

/// On whose behalf something is done: who asked, or (both empty) nobody. It gives no right: what
/// was asked was allowed when it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `req-<uuid>`, for every log on the way.
    pub request_id: String,
    /// The user.
    pub user_id: String,
    /// The project.
    pub project_id: String,
    /// W3C trace context.
    pub traceparent: Option<String>,
}
