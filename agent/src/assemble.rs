//! An agent from its options alone: joins if it must, and connects link, transport and driver.

use crate::broker::HostAccounts;
use crate::driver::Driver;
use crate::kvm::KvmDriver;
use crate::link::{Controller, Credentials, HttpsLink, LinkError};
use crate::options::{DriverKind, Options};
use crate::service::{AgentError, Handle, Parts, Service};
use crate::simulated::SimulatedHost;
use crate::state_dir::{StateDir, StateDirError};
use berth_rpc::clock::{Clock, Rng};
use berth_rpc::{Client, RpcError, Transport};
use berth_rpc_types::link::{JoinReply, JoinRequest};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why no agent could be made.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The link to the controller.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The host has not joined, and cannot.
    #[error("this host has not joined a controller yet: set join_token to a token made there")]
    NoToken,
    /// The CA file.
    #[error("controller_ca {path}: {source}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The transport.
    #[error(transparent)]
    Transport(#[from] RpcError),
    /// No broker is known.
    #[error("no broker is known: set broker_urls")]
    NoBroker,
    /// The driver.
    #[error("the {kind} driver cannot be used: {reason}")]
    Driver {
        /// Which.
        kind: &'static str,
        /// Why not.
        reason: String,
    },
    /// The service.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Makes an agent. Waits for the controller if the host has still to join it.
/// `transport` replaces the one that the options name.
///
/// # Errors
/// See [`AssembleError`].
pub async fn assemble(
    options: &Options,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    transport: Option<Arc<dyn Transport>>,
) -> Result<(Service, Handle), AssembleError> {
    let state_dir = StateDir::open(&options.state_dir, &*rng)?;
    let ca = std::fs::read(&options.controller_ca).map_err(|source| AssembleError::Ca {
        path: options.controller_ca.clone(),
        source,
    })?;
    let joined = match state_dir.joined()? {
        Some(joined) => joined,
        None => join(options, &state_dir, &ca, &*clock, &*rng).await?,
    };
    let link = HttpsLink::new(
        &options.controller_url,
        &ca,
        Credentials {
            host_id: state_dir.host_id(),
            secret: joined.secret.clone(),
            key: state_dir.key()?,
        },
        Arc::clone(&clock),
    )?;
    let controller: Arc<dyn Controller> = Arc::new(link.clone());
    let transport = match transport {
        Some(transport) => transport,
        None => {
            let mut urls = options.broker_urls.clone();
            if urls.is_empty() {
                urls.extend(joined.broker_url);
            }
            if urls.is_empty() {
                return Err(AssembleError::NoBroker);
            }
            let client = Client {
                name: format!("berth-agent {}", state_dir.host_id()),
                accounts: Some(Arc::new(HostAccounts::new(link, Arc::clone(&clock)))),
                asks_as: None,
            };
            berth_rpc::connect(&urls, client, Arc::clone(&clock), Arc::clone(&rng))?
        }
    };
    let parts = Parts {
        driver: driver(options, &state_dir, &controller, &clock)?,
        controller,
        transport,
        clock,
        rng,
    };
    Ok(Service::new(options, state_dir, parts)?)
}

async fn join(
    options: &Options,
    state_dir: &StateDir,
    ca: &[u8],
    clock: &dyn Clock,
    rng: &dyn Rng,
) -> Result<JoinReply, AssembleError> {
    let token = options.join_token.clone().ok_or(AssembleError::NoToken)?;
    let request = JoinRequest {
        token,
        host_id: state_dir.host_id(),
        hostname: options.hostname(),
        secret: Some(state_dir.secret(rng)?),
    };
    loop {
        match HttpsLink::join(&options.controller_url, ca, &request).await {
            Ok(reply) => {
                state_dir.keep_joined(&reply)?;
                tracing::info!(host_id = %request.host_id, "joined");
                return Ok(reply);
            }
            Err(error @ LinkError::Unreachable { .. }) => {
                tracing::warn!(%error, "not joined yet; trying again");
                clock.sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn driver(
    options: &Options,
    state_dir: &StateDir,
    controller: &Arc<dyn Controller>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Driver>, AssembleError> {
    match options.driver {
        DriverKind::Simulated => {
            let folder = state_dir.path().join("simulated");
            let clock = Arc::clone(clock);
            SimulatedHost::new(options.simulated.clone(), clock, Some(&folder))
                .map(|host| host.driver())
                .map_err(|error| AssembleError::Driver {
                    kind: "simulated",
                    reason: error.to_string(),
                })
        }
        DriverKind::Kvm => KvmDriver::new(options, state_dir.path(), Arc::clone(controller))
            .map(|driver| Arc::new(driver) as Arc<dyn Driver>)
            .map_err(|error| AssembleError::Driver {
                kind: "kvm",
                reason: error.to_string(),
            }),
    }
}
