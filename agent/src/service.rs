//! The agent as a service: made from [`Options`], run until told to stop, watched by a handle.
//!
//! [`Service::run`] is PROTOCOL.md's start order, line by line, and then four tasks: the
//! consumer of commands, the answerer of reads, the reporter, and the watcher of guests.

use crate::driver::Driver;
use crate::engine::Restart;
use crate::engine::{self, Engine};
use crate::gate::Holder;
use crate::host_record::HostRecord;
use crate::journal::{Journal, JournalError};
use crate::link::Controller;
use crate::options::Options;
use crate::reads;
use crate::report::{Reporter, lose_all};
use crate::state_dir::{StateDir, StateDirError};
use berth_rpc::clock::{Clock, Rng};
use berth_rpc::{Address, ConsumeOptions, RpcError, Transport, kill_point};
use berth_rpc_types::HostId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Messages held unacknowledged while they are being journalled.
const PREFETCH: u16 = 32;
/// How often a failed journal is tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(2);
/// How often a broker that cannot be reached is tried again, about.
const BROKER_RETRY: Duration = Duration::from_secs(1);

/// Why an agent ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The journal, at the start; later failures stop consumption only.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Guests that run could not be taken over.
    #[error("the guests on this host cannot be taken over: {0}")]
    Adopt(String),
    /// The transport was closed, or is configured wrongly.
    #[error("commands cannot be consumed: {0}")]
    Transport(String),
}

/// What an agent needs from outside.
pub struct Parts {
    /// Runs the guests.
    pub driver: Arc<dyn Driver>,
    /// HTTPS to the controller, or its double.
    pub controller: Arc<dyn Controller>,
    /// Carries commands and answers.
    pub transport: Arc<dyn Transport>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
}

/// An agent, ready to run.
pub struct Service {
    engine: Arc<Engine>,
    reporter: Arc<Reporter>,
    // Last: the lock is let go only when everything else is.
    _state_dir: StateDir,
}

/// Looks at a running agent. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    engine: Arc<Engine>,
}

impl Handle {
    /// Who the host is.
    pub fn host_id(&self) -> HostId {
        self.engine.host_id
    }

    /// Why the agent takes no commands now; empty if it takes them.
    pub fn not_consuming_because(&self) -> Vec<String> {
        self.engine.gate.reasons()
    }

    /// Waits until the start order has been gone through and commands are taken.
    pub async fn consuming(&self) {
        self.engine.gate.opened().await;
    }
}

impl Service {
    /// Opens the journal in the (locked) state directory. Nothing runs yet.
    ///
    /// # Errors
    /// [`AgentError::Journal`].
    pub fn new(
        options: &Options,
        state_dir: StateDir,
        parts: Parts,
    ) -> Result<(Self, Handle), AgentError> {
        let journal = Journal::open(state_dir.path())?;
        let boot_id = parts
            .driver
            .boot_id()
            .map_err(|error| AgentError::Adopt(error.to_string()))?;
        let engine = Engine::new(
            engine::Parts {
                host_id: state_dir.host_id(),
                journal,
                driver: parts.driver,
                transport: parts.transport,
                clock: parts.clock,
                rng: parts.rng,
                max_attempts: options.max_attempts,
                max_builds: options.max_builds,
            },
            CancellationToken::new(),
        );
        let reporter = Arc::new(Reporter {
            engine: Arc::clone(&engine),
            controller: parts.controller,
            hostname: options.hostname(),
            address: options.address.clone(),
            interval: options.report_interval(),
            told_interval_s: AtomicU32::new(0),
            boot_id,
            applied_networks: AtomicU64::new(u64::MAX),
            networks: std::sync::Mutex::default(),
            asked: tokio::sync::Mutex::default(),
        });
        let handle = Handle {
            engine: Arc::clone(&engine),
        };
        let service = Self {
            engine,
            reporter,
            _state_dir: state_dir,
        };
        Ok((service, handle))
    }

    /// Runs until `shutdown`, then lets go: guests run on, open commands stay in the journal
    /// for the next start.
    ///
    /// # Errors
    /// See [`AgentError`]; guests run on then, too.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = self.live() => ended,
        };
        self.engine.ended.cancel();
        self.engine.finished().await;
        tracing::info!("the agent has ended; its guests run on");
        ended
    }

    async fn live(&self) -> Result<(), AgentError> {
        let engine = &self.engine;
        tracing::info!(host_id = %engine.host_id, driver = engine.driver.kind(), "the agent starts");
        // Running guests are adopted; what nobody accepted is left alone.
        let adopt = |error: &dyn std::error::Error| AgentError::Adopt(error.to_string());
        engine.driver.adopt().await.map_err(|e| adopt(&e))?;
        engine.quarantine_unknown().await.map_err(|e| adopt(&e))?;
        engine.look_at_all(Restart::NotYet).await;
        let drawn = Uuid::from_u128(engine.rng.bits());
        let begin = |host: &mut HostRecord| host.begin(drawn);
        engine.journal.update_host(begin).await?;
        kill_point!("agent.start.drawn");
        if let Some(refused) = engine.journal.host().refused {
            engine.gate.close(Holder::Lineage, refused.why);
        }
        // Epoch and lost list; what is lost goes.
        let reply = self.reporter.first().await?;
        lose_all(engine, &reply.lost).await;
        // Open entries are resumed or undone, unconfirmed answers published again.
        engine.wake_all();
        engine.send_unconfirmed();
        engine.spawn(Arc::clone(engine).watch_guests());
        engine.look_at_all(Restart::Yes).await;
        // Everything is reported.
        engine.spawn(Arc::clone(&self.reporter).run());
        engine.news.notify_one();
        // Only then are commands consumed.
        engine.spawn(keep_journal(Arc::clone(engine)));
        engine.spawn(reads::answer(Arc::clone(engine)));
        engine.gate.open(Holder::Start);
        self.consume().await
    }

    async fn consume(&self) -> Result<(), AgentError> {
        let engine = &self.engine;
        let options = ConsumeOptions { prefetch: PREFETCH };
        loop {
            engine.gate.opened().await;
            let queue = Address::Agent(engine.host_id);
            let mut consumer = match engine.transport.consume(queue, options).await {
                Ok(consumer) => consumer,
                Err(RpcError::Configuration(reason)) => return Err(AgentError::Transport(reason)),
                Err(error) => {
                    tracing::warn!(%error, "cannot consume yet");
                    engine.clock.sleep(BROKER_RETRY).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    // Dropping the consumer gives back what it holds.
                    () = engine.gate.closed() => break,
                    delivery = consumer.next() => match delivery {
                        Some(delivery) => {
                            let engine = Arc::clone(engine);
                            let accept = async move { engine.accept(delivery).await };
                            self.engine.spawn(accept);
                        }
                        None => return Err(AgentError::Transport("the transport was closed".into())),
                    },
                }
            }
        }
    }
}

/// Repairs a failed journal, and takes up again what it had stopped.
async fn keep_journal(engine: Arc<Engine>) {
    loop {
        engine.clock.sleep(JOURNAL_RETRY).await;
        let Some(error) = engine.journal.failed() else {
            engine.gate.open(Holder::Journal);
            continue;
        };
        engine.gate.close(Holder::Journal, error.to_string());
        match engine.journal.recover().await {
            Ok(()) => {
                engine.gate.open(Holder::Journal);
                engine.wake_all();
                engine.send_unconfirmed();
            }
            Err(error) => tracing::error!(%error, "the journal still cannot be written"),
        }
    }
}
