//! What every service of the controller stands on.
//!
//! - [`store`]: the database, and the one way in.
//! - [`context`]: what every handler gets: the application, and who asks. [`env`]: time and chance.
//! - [`settings`], [`metrics`]: what can be set, and what is counted.
//! - [`call`], [`body`], [`query`], [`listing`], [`time`]: a call, what it says, and pages of answers.
//! - [`error`]: refusals in the words of the service asked; [`agent`]: those that agents get.
//! - [`layers`]: what every request passes; [`policy`]: who may do what, in one table.
//! - [`broker`]: hosts' accounts at the broker; [`host_ca`]: their certificates.
//! - [`secret`]: secrets, and the hashes that are kept of them; [`throttle`]: how often somebody may
//!   fail.
//!
//! But for that table, nothing here knows a service, a kind of operation or a host.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod additions;
pub mod agent;
pub mod beat;
pub mod body;
pub mod broker;
pub mod call;
pub mod context;
pub mod env;
pub mod error;
pub mod heard;
pub mod host_ca;
pub mod known_hosts;
pub mod layers;
pub mod listing;
pub mod metrics;
pub mod policy;
pub mod query;
pub mod secret;
pub mod settings;
pub mod store;
pub mod throttle;
pub mod time;
pub mod turns;

pub use broker::BrokerAccounts;
pub use call::Call;
pub use context::{AppState, Origin, RequestContext};
pub use env::Env;
pub use error::{ApiError, Service};
pub use heard::Heard;
pub use host_ca::HostCa;
pub use known_hosts::KnownHosts;
pub use settings::{ApiSettings, ControlSettings};
pub use turns::Turns;
