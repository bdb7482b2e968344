//! The controller as a service: [`Options`], [`Controller::start`], a [`Handle`].
//!
//! Its tasks, each with an end at shutdown: the listener; the workflow driver; the outbox
//! sender; the consumers of results, dead letters and telemetry; the reconcilers. None holds
//! anything that the database does not, so that killing the process loses nothing.

use crate::compute::InstanceKinds;
use crate::config::{Config, ConfigError};
use crate::core::broker::BrokerKeyError;
use crate::core::store::{Store, StoreError};
use crate::core::{AppState, BrokerAccounts};
use crate::identity::bootstrap::{BootstrapError, bootstrap};
use crate::operations::{Engine, driver, outbox, results};
use crate::router::router;
use crate::tls::{self, TlsError};
use crate::{compute, hosts, reconcile, serve};
use berth_rpc::clock::{Clock, Rng, SystemClock, SystemRng};
use berth_rpc::{Client, RpcError, Transport};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// How long tasks have to end at shutdown.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// What a controller is made from.
pub struct Options {
    /// Its configuration.
    pub config: Config,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// Carries messages; by the configuration's `brokers` if absent.
    pub transport: Option<Arc<dyn Transport>>,
}

impl Options {
    /// With the machine's clock and randomness, and a transport by the configuration.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            clock: Arc::new(SystemClock::default()),
            rng: Arc::new(SystemRng),
            transport: None,
        }
    }
}

/// Why a controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The first administrator.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The broker's URL.
    #[error("broker: {0}")]
    Transport(#[from] RpcError),
    /// Hosts' accounts at the broker.
    #[error(transparent)]
    BrokerKey(#[from] BrokerKeyError),
    /// The certificate.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// A directory or the port.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The service.
pub struct Controller;

/// A running controller. Dropping it does not stop it; [`Handle::shutdown`] does.
pub struct Handle {
    app: AppState,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Controller {
    /// Opens everything and starts the tasks. Returns when requests are answered.
    ///
    /// # Errors
    /// [`ControllerError`]
    pub async fn start(options: Options) -> Result<Handle, ControllerError> {
        let Options {
            config,
            clock,
            rng,
            transport,
        } = options;
        config.check()?;
        for dir in [config.state_dir.clone(), config.images()] {
            std::fs::create_dir_all(&dir).map_err(|e| io(dir.display(), e))?;
        }
        // Who serves no TLS sees no certificate.
        let hosts_ca = match config.control.host_certificates && !config.plain_http {
            true => {
                let key = config.hosts_ca_key.as_deref();
                Some(Arc::new(tls::hosts_authority(&config.state_dir, key)?))
            }
            false => None,
        };
        let hosts = hosts_ca.as_deref();
        let tls = match (config.plain_http, &config.tls_cert, &config.tls_key) {
            (true, ..) => None,
            (false, Some(cert), Some(key)) => Some(tls::from_files(cert, key, hosts)?),
            _ => Some(tls::self_made(&config.state_dir, &config.names, hosts)?),
        };
        let store = Store::connect(&config.database_url()).await?;
        bootstrap(&store, &*clock, &*rng, &config.admin_password).await?;
        let now = clock.now_millis();
        store
            .tx(|tx| Box::pin(compute::flavors::bootstrap(tx, now)))
            .await?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|e| io(config.listen, e))?;
        let address = listener.local_addr().map_err(|e| io(config.listen, e))?;
        let accounts = match &config.control.broker_key {
            Some(key) => {
                let lifetime = config.control.broker_account_lifetime;
                let accounts = BrokerAccounts::load(key, &config.brokers, lifetime)?;
                Some(Arc::new(accounts))
            }
            None => {
                tracing::warn!(
                    "control.broker_key is not set: hosts share the broker's login, and each can \
                     pass for another"
                );
                None
            }
        };
        let transport = match transport {
            Some(transport) => transport,
            None => berth_rpc::connect(
                &config.brokers,
                Client {
                    name: "berth-controller".into(),
                    accounts: None,
                    asks_as: Some(own_id(&config.state_dir, &*rng)?),
                },
                Arc::clone(&clock),
                Arc::clone(&rng),
            )?,
        };
        let mut app = app_state(&config, store, transport, clock, rng, address);
        hosts::lineage::ensure(&app.store, &app.env()).await?;
        hosts::timelines::begin(&app.store, &app.env()).await?;
        app.broker_accounts = accounts;
        app.host_ca = hosts_ca;
        let stop = CancellationToken::new();
        let tasks = start_tasks(&app, &stop);
        tasks.spawn(serve::serve(
            listener,
            tls,
            router(app.clone()),
            serve::Limits {
                connections: config.max_connections,
                per_address: config.max_connections_per_address,
                head: serve::HEAD_LIMIT,
            },
            stop.clone(),
        ));
        tasks.close();
        tracing::info!(url = %app.base_url, "the controller answers");
        Ok(Handle {
            app,
            address,
            stop,
            tasks,
        })
    }
}

impl Handle {
    /// Base of all links.
    pub fn base_url(&self) -> &str {
        &self.app.base_url
    }

    /// Where it listens; tells the port if the configuration's was 0.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its handlers share; for those who embed it.
    pub const fn app(&self) -> &AppState {
        &self.app
    }

    /// Stops accepting, lets what is under way finish, and ends. What is not finished is in the
    /// database, and goes on with the next start.
    #[allow(
        clippy::disallowed_methods,
        reason = "the process ends: by the machine's time, whatever clock it had"
    )]
    pub async fn shutdown(self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_LIMIT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks did not end in time; the database has their work");
        }
        self.app.transport.close().await;
    }
}

fn app_state(
    config: &Config,
    store: Store,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    address: SocketAddr,
) -> AppState {
    let scheme = if config.plain_http { "http" } else { "https" };
    let own = || format!("{scheme}://{address}");
    let base_url = config.public_url.clone().unwrap_or_else(own);
    AppState {
        store,
        transport,
        clock,
        rng,
        base_url: base_url.trim_end_matches('/').into(),
        image_dir: Arc::new(config.images()),
        control: Arc::new(config.control.clone()),
        turns: Arc::default(),
        heard: Arc::default(),
        hosts: Arc::default(),
        wake: Arc::default(),
        wake_outbox: Arc::default(),
        broker_accounts: None,
        host_ca: None,
        metrics: Arc::default(),
        log_ins: Arc::default(),
        settings: Arc::new(config.api()),
    }
}

/// This controller's id, kept in its state directory.
fn own_id(dir: &Path, rng: &dyn Rng) -> Result<Uuid, ControllerError> {
    let path = dir.join("controller-id");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(id) = text.trim().parse()
    {
        return Ok(id);
    }
    // Whatever else is there was half written, or is nothing that anybody remembers.
    let id = uuid::Builder::from_random_bytes(rng.bits().to_be_bytes()).into_uuid();
    std::fs::write(&path, format!("{id}\n")).map_err(|e| io(path.display(), e))?;
    Ok(id)
}

/// All tasks but the listener. Public, so that a simulation can run a controller without one.
pub fn start_tasks(app: &AppState, stop: &CancellationToken) -> TaskTracker {
    let tasks = TaskTracker::new();
    let engine = Engine {
        app: app.clone(),
        kinds: Arc::new(InstanceKinds),
    };
    tasks.spawn(driver::run(engine.clone(), stop.clone()));
    tasks.spawn(outbox::run(engine.clone(), stop.clone()));
    tasks.spawn(results::run_results(engine.clone(), stop.clone()));
    tasks.spawn(results::run_dead_letters(engine.clone(), stop.clone()));
    tasks.spawn(results::run_telemetry(engine.clone(), stop.clone()));
    tasks.spawn(hosts::beats::run(app.clone(), stop.clone()));
    tasks.spawn(reconcile::run(engine, stop.clone()));
    tasks
}

fn io(what: impl std::fmt::Display, source: std::io::Error) -> ControllerError {
    ControllerError::Io {
        what: what.to_string(),
        source,
    }
}
