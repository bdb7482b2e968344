//! `berth-controller`: runs a controller, makes tokens for hosts, audits the database.

use anyhow::Context as _;
use berth_controller::config::Config;
use berth_controller::controller::Options;
use berth_controller::core::Env;
use berth_controller::core::store::Store;
use berth_controller::{Controller, audit, hosts};
use berth_rpc::clock::{SystemClock, SystemRng};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(
    version,
    about = "Berth's controller: OpenStack APIs in front, agents behind"
)]
struct Arguments {
    /// Configuration file (TOML); `BERTH_*` in the environment goes before it.
    #[arg(long, short, env = "BERTH_CONTROLLER_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run (the default).
    Run,
    /// Tokens by which hosts join.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Check the database's invariants; exit 1 if one does not hold.
    Audit {
        /// Nothing is under way: check what holds only then, too.
        #[arg(long)]
        at_rest: bool,
        /// Findings as JSON lines.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make one, good for one host, and print it.
    Create {
        /// Seconds that it is good for.
        #[arg(long, default_value_t = 3600)]
        lifetime: u32,
        /// For this host, which has joined before, to join again.
        #[arg(long)]
        host: Option<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let config = Config::load(arguments.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        match arguments.command.unwrap_or(Command::Run) {
            Command::Run => run(config).await,
            Command::Token {
                command: TokenCommand::Create { lifetime, host },
            } => create_token(&config, lifetime, host.as_deref()).await,
            Command::Audit { at_rest, json } => run_audit(&config, at_rest, json).await,
        }
    })
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    start_log(config.log_json);
    // Before anything is open, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let handle = Controller::start(Options::new(config)).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    handle.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// Spans carry the request id, and every line shows its spans.
fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BERTH_LOG")
        .unwrap_or_else(|_| "info,sqlx=error,lapin=warn".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        log.json()
            .flatten_event(true)
            .with_current_span(true)
            .init();
    } else {
        log.with_target(false).init();
    }
}

async fn create_token(
    config: &Config,
    lifetime: u32,
    host: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let store = Store::connect_beside(&config.database_url()).await?;
    let env = Env {
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        control: Arc::new(config.control.clone()),
        lineage: "".into(),
    };
    let token = hosts::join::create_token(&store, &env, lifetime, host).await?;
    let token =
        token.with_context(|| format!("no host named {} has joined", host.unwrap_or_default()))?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

async fn run_audit(config: &Config, at_rest: bool, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::connect_beside(&config.database_url()).await?;
    let findings = audit::audit(&store, at_rest).await?;
    for finding in &findings {
        if json {
            println!("{}", serde_json::to_string(finding)?);
        } else {
            println!("{finding}");
        }
    }
    if findings.is_empty() {
        eprintln!("in order");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} findings", findings.len());
    Ok(ExitCode::from(1))
}
