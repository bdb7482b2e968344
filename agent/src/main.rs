//! `berth-agent`: reads its configuration, sets up its log, runs the agent until SIGTERM or
//! SIGINT. Guests run on after it.

use anyhow::Context as _;
use berth_agent::Options;
use berth_rpc::clock::{SystemClock, SystemRng};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Berth's node agent: runs guests on this host for a controller.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (TOML); BERTH_AGENT_ variables come on top, these flags last.
    #[arg(long, env = "BERTH_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// Overrides state_dir.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Overrides controller_url.
    #[arg(long)]
    controller_url: Option<String>,
    /// Overrides controller_ca.
    #[arg(long)]
    controller_ca: Option<PathBuf>,
    /// Overrides join_token.
    #[arg(long)]
    join_token: Option<String>,
    /// Overrides broker_urls; may be given several times.
    #[arg(long = "broker-url")]
    broker_urls: Vec<String>,
    /// How log lines look. RUST_LOG says which.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "BERTH_AGENT_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, with request_id, operation_id and vmm_id as fields.
    Json,
}

impl Arguments {
    fn options(self) -> anyhow::Result<Options> {
        let mut options = Options::load(self.config.as_deref())?;
        let set = |to: &mut String, from: Option<String>| {
            if let Some(value) = from {
                *to = value;
            }
        };
        set(&mut options.controller_url, self.controller_url);
        options.state_dir = self.state_dir.unwrap_or(options.state_dir);
        options.controller_ca = self.controller_ca.unwrap_or(options.controller_ca);
        options.join_token = self.join_token.or(options.join_token);
        if !self.broker_urls.is_empty() {
            options.broker_urls = self.broker_urls;
        }
        Ok(options.checked()?)
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    let options = arguments.options()?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    let told = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    let clock = Arc::new(SystemClock::default());
    let assembled = tokio::select! {
        assembled = berth_agent::assemble(&options, clock, Arc::new(SystemRng), None) => assembled,
        () = shutdown.cancelled() => return Ok(()),
    };
    let (service, _handle) = assembled.context("the agent cannot start")?;
    service.run(shutdown).await.context("the agent stopped")
}
