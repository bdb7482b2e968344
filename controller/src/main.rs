//! `berth-controller`: runs a controller, makes tokens for hosts, accepts a restored database, adopts
//! guests, audits.

use anyhow::Context as _;
use berth_controller::compute::strays::{self, AdoptError};
use berth_controller::config::Config;
use berth_controller::controller::Options;
use berth_controller::core::Env;
use berth_controller::core::store::{Json, Store, StoreError};
use berth_controller::hosts::acceptance::{self, Standing};
use berth_controller::{Controller, audit, hosts};
use berth_rpc::clock::{SystemClock, SystemRng};
use berth_rpc_types::VmmId;
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
    /// A database that hosts refuse, since it was restored from a backup or is another one.
    Lineage {
        #[command(subcommand)]
        command: LineageCommand,
    },
    /// Guests that were found on hosts, and that no server has.
    Stray {
        #[command(subcommand)]
        command: StrayCommand,
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
enum LineageCommand {
    /// Show how each host stands to this database; exit 1 if one refuses it.
    Show,
    /// This database is the right one: hosts that refuse it follow it from now on. What it does not
    /// know is left alone, and what hosts no longer have is lost.
    Accept,
}

#[derive(Subcommand)]
enum StrayCommand {
    /// List them.
    List,
    /// Make a server of one again, with its id, name, project, ports and disks; it can be used, and
    /// deleted, like any other.
    Adopt {
        /// The guest's VMM id.
        vmm: VmmId,
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
            Command::Lineage {
                command: LineageCommand::Show,
            } => show_lineage(&config).await,
            Command::Lineage {
                command: LineageCommand::Accept,
            } => accept_lineage(&config).await,
            Command::Stray {
                command: StrayCommand::List,
            } => list_strays(&config).await,
            Command::Stray {
                command: StrayCommand::Adopt { vmm },
            } => adopt(&config, vmm).await,
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
    let token = hosts::join::create_token(&store, &env(config), lifetime, host).await?;
    let token =
        token.with_context(|| format!("no host named {} has joined", host.unwrap_or_default()))?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

fn env(config: &Config) -> Env {
    Env {
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        control: Arc::new(config.control.clone()),
        hosts: Arc::default(),
    }
}

async fn show_lineage(config: &Config) -> anyhow::Result<ExitCode> {
    let store = Store::connect_beside(&config.database_url()).await?;
    let shown = store.tx::<_, StoreError, _>(|tx| {
        Box::pin(async move {
            let (lineage, counter) = hosts::lineage::read(tx).await?;
            Ok((lineage, counter, acceptance::standing(tx).await?))
        })
    });
    let (lineage, counter, hosts) = shown.await?;
    println!("lineage {lineage}, counter {counter}");
    let mut refused = false;
    for host in hosts {
        let name = host.hostname;
        match host.standing {
            Standing::Obeys => println!("{name}: obeys it"),
            Standing::Accepted => println!("{name}: refused it; accepted since, and not back yet"),
            Standing::Down => println!("{name}: is forced down"),
            Standing::Silent => println!("{name}: has said nothing since a controller started"),
            Standing::Refuses { why, has_told } => {
                let told = if has_told {
                    ""
                } else {
                    " (it has not said yet what it has)"
                };
                println!("{name}: refuses it{told}: {why}");
                refused = true;
            }
        }
    }
    Ok(ExitCode::from(u8::from(refused)))
}

async fn accept_lineage(config: &Config) -> anyhow::Result<ExitCode> {
    let store = Store::connect_beside(&config.database_url()).await?;
    let done = acceptance::accept(&store, &env(config)).await?;
    println!(
        "lineage {} is obeyed by {} more hosts at their next reports",
        done.lineage, done.hosts
    );
    for vmm_id in &done.lost {
        println!("lost: {vmm_id}, which its host no longer has");
    }
    for vmm_id in &done.strays {
        println!("stray: {vmm_id}, which this database does not know");
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_strays(config: &Config) -> anyhow::Result<ExitCode> {
    let store = Store::connect_beside(&config.database_url()).await?;
    let strays = store.tx::<_, StoreError, _>(|tx| Box::pin(hosts::strays::list(tx)));
    for stray in strays.await? {
        let what = match stray.spec {
            Some(Json(spec)) => format!(
                "server {} ({:?}) of project {}",
                spec.instance_id, spec.name, spec.project_id
            ),
            None => "what it is to be is not known".into(),
        };
        println!(
            "{} on {}, {}: {what}",
            stray.vmm_id, stray.hostname, stray.state
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn adopt(config: &Config, vmm: VmmId) -> anyhow::Result<ExitCode> {
    let store = Store::connect_beside(&config.database_url()).await?;
    let env = env(config);
    let adopted = store.tx::<_, AdoptError, _>(|tx| {
        let env = env.clone();
        Box::pin(async move { strays::adopt(tx, &env, vmm).await })
    });
    println!("{vmm} is server {}", adopted.await?);
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
