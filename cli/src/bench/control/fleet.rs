//! `berth bench fleet`: many simulated hosts in one process, each with its agent, its journal and its
//! connections, as a host of its own has them. For `berth bench control`, which starts it.

use super::Arguments;
use anyhow::{Context as _, bail};
use berth_agent::options::SimulatedOptions;
use berth_agent::{DriverKind, Options};
use berth_rpc::clock::{SystemClock, SystemRng};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Agents that start at once.
const AT_ONCE: usize = 32;

/// Arguments of `berth bench fleet`.
#[derive(clap::Args)]
pub struct FleetArguments {
    /// The agents' options, a JSON list.
    file: PathBuf,
    /// Is the broker, and lets controllers in at this socket.
    #[arg(long, value_name = "PATH")]
    serve: Option<PathBuf>,
}

/// The broker within the fleet, for those in it.
const OWN_BROKER: &str = "inproc://fleet";

/// The options of each host of the fleet.
pub(super) fn options(
    dir: &Path,
    url: &str,
    ca: &Path,
    join_token: &str,
    arguments: &Arguments,
) -> Vec<Options> {
    let broker = arguments.broker.as_deref().unwrap_or(OWN_BROKER).to_owned();
    let of = |number: u32| Options {
        state_dir: dir.join(number.to_string()),
        controller_url: url.to_owned(),
        controller_ca: ca.to_owned(),
        join_token: Some(join_token.to_owned()),
        broker_urls: vec![broker.clone()],
        driver: DriverKind::Simulated,
        hostname: Some(format!("host-{number:05}")),
        address: "127.0.0.1".into(),
        report_interval_s: arguments.report_interval,
        simulated: SimulatedOptions {
            // No cloud of these is ever full: that would be another measurement.
            vcpus: 4096,
            memory_mib: 1 << 24,
            disk_gib: 100_000,
            physical_networks: vec!["physnet1".into()],
            ..SimulatedOptions::default()
        },
        ..Options::default()
    };
    (0..arguments.hosts).map(of).collect()
}

/// Runs them until it is told to stop; says on standard output when all take commands.
///
/// # Errors
/// The first agent that cannot start, or that ended.
pub fn main(arguments: &FleetArguments) -> anyhow::Result<ExitCode> {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let text = std::fs::read(&arguments.file).context("the fleet's options")?;
    let options: Vec<Options> = serde_json::from_slice(&text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(run(options, arguments.serve.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(options: Vec<Options>, serve: Option<&Path>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let stop = CancellationToken::new();
    if let Some(path) = serve {
        let clock = Arc::new(SystemClock::default());
        let broker = berth_rpc::in_process(OWN_BROKER, clock, Arc::new(SystemRng));
        berth_rpc::socket::serve(path, broker, stop.clone())
            .with_context(|| format!("{}", path.display()))?;
    }
    let gate = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let (ready, mut are_ready) = tokio::sync::mpsc::channel::<()>(1);
    let mut agents = JoinSet::new();
    for options in options {
        agents.spawn(agent(
            options,
            Arc::clone(&gate),
            stop.clone(),
            ready.clone(),
        ));
    }
    drop(ready);
    tokio::select! {
        // Nothing is ever sent: it ends when the last one has let go.
        _ = are_ready.recv() => println!("ready"),
        Some(ended) = agents.join_next() => bail!("an agent ended: {:#?}", ended?),
        _ = terminate.recv() => return Ok(()),
    }
    tokio::select! {
        Some(ended) = agents.join_next() => bail!("an agent ended: {:#?}", ended?),
        _ = terminate.recv() => {}
    }
    stop.cancel();
    while let Some(ended) = agents.join_next().await {
        ended??;
    }
    Ok(())
}

async fn agent(
    options: Options,
    gate: Arc<tokio::sync::Semaphore>,
    stop: CancellationToken,
    ready: tokio::sync::mpsc::Sender<()>,
) -> anyhow::Result<()> {
    let turn = gate.acquire().await?;
    std::fs::create_dir_all(&options.state_dir)?;
    let clock = Arc::new(SystemClock::default());
    let assembled = berth_agent::assemble(&options, clock, Arc::new(SystemRng), None).await;
    let (service, handle) = assembled.context("an agent cannot start")?;
    let running = service.run(stop);
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        () = handle.consuming() => {}
    }
    drop((turn, ready));
    Ok(running.await?)
}
