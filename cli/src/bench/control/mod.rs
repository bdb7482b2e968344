//! `berth bench control`: what the controllers cost with so many hosts and servers.
//!
//! Controllers and fleet are processes of their own, the fleet's hosts simulated; the database and the
//! broker are real ones that the caller names. The first servers are made through the API; the others
//! are copies of one of them by SQL, as old as they are many, beside as many that were deleted. The
//! load is offered by a clock, and each latency counts from when its request was due: a cloud that
//! stalls is not asked less. The database is to be one that nobody else uses.

mod api;
mod claims;
mod cloud;
mod cost;
pub(super) mod fleet;
mod load;
mod results;
mod seed;

use anyhow::Context as _;
use berth_controller::core::ControlSettings;
use berth_controller::core::store::Store;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `berth bench control`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Simulated hosts.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    hosts: u32,
    /// Servers that are there already; so many deleted ones are, too.
    #[arg(long, value_name = "M", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    servers: u32,
    /// Controllers side by side.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    controllers: u16,
    /// An empty database, `postgres://…`; SQLite in a folder of its own without it.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The broker, `amqp://…`; one within the fleet, which the controllers reach by a socket, without it.
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// The key by which the broker knows hosts, if it does.
    #[arg(long, value_name = "FILE")]
    broker_key: Option<PathBuf>,
    /// Seconds of load before it is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    warm_up: u64,
    /// Seconds for which each thing is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// GETs that are offered a second.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    gets: u32,
    /// Creates that are offered a second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    creates: u32,
    /// Servers that are made as fast as can be, to count how many become ACTIVE a second.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    burst: u32,
    /// Seconds between two reports of a host, at the least: a large fleet is asked for fewer.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    report_interval: u64,
    /// The controller's program.
    #[arg(long, value_name = "PATH")]
    controller: Option<PathBuf>,
    /// Writes the results there as JSON, besides the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it.
pub fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let results = runtime.block_on(measure(arguments))?;
    print!("{}", results.table());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(arguments: &Arguments) -> anyhow::Result<results::Results> {
    cloud::many_files()?;
    let seconds = Duration::from_secs(arguments.seconds);
    let mut cloud = cloud::Cloud::start(arguments).await?;
    let store = Store::connect_beside(cloud.database())
        .await
        .context("the database")?;
    say("hosts have joined; making servers");
    let api = api::Api::log_in(&cloud).await?;
    let furnished = seed::furnish(&api, cloud.is_postgres()).await?;
    // What they are about would only be in the way.
    cloud.stop_controllers().await?;
    seed::servers(&store, &furnished, arguments.servers).await?;

    say("claims, without controllers");
    let claims = claims::a_second(&store, &furnished, seconds.min(Duration::from_secs(10))).await?;
    cloud.start_controllers().await?;
    cloud.hosts_are_up().await?;

    say("a quiet cloud");
    // What the controllers ask of so many hosts.
    let asked = ControlSettings::default().report_every(arguments.hosts);
    let report_interval_s = arguments.report_interval.max(asked.into());
    let interval = Duration::from_secs(report_interval_s);
    let quiet = cost::quiet(&cloud, &store, interval, seconds).await?;
    say("offered load");
    let offered = load::Offered {
        gets: arguments.gets,
        creates: arguments.creates,
        warm_up: Duration::from_secs(arguments.warm_up),
        measured: seconds,
    };
    let latencies = load::offered(&api, &store, &furnished, &offered).await?;
    say("creates, as fast as can be");
    let creates = load::burst(&api, &store, &furnished, arguments.burst).await?;
    let memory = cloud.memory_mib()?;
    let heartbeats = f64::from(arguments.hosts) * seconds.as_secs_f64() / interval.as_secs_f64();
    cloud.end().await?;
    Ok(results::Results::new(
        results::About {
            hosts: arguments.hosts,
            servers: arguments.servers,
            controllers: arguments.controllers,
            report_interval_s,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        },
        &latencies,
        results::Figures {
            claims,
            creates,
            memory,
            controller_ms: quiet.controller_ms / heartbeats,
            database_ms: quiet.database_ms.map(|ms| ms / heartbeats),
        },
    ))
}

fn say(what: &str) {
    eprintln!("berth: {what}");
}
