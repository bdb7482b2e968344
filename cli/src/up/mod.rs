//! `berth up`: a controller and an agent in this process, on SQLite and the in-process
//! transport. Nothing to install, one directory of state.
//!
//! What it promises: standard output is a shell script that points the `openstack` command
//! here, printed when requests are answered and the host takes commands. SIGINT and SIGTERM
//! end it with exit code 0; guests are processes of their own and go on, and the next
//! `berth up` on the same directory adopts them. Commands that were under way are in the
//! database and in the agent's journal, and are finished by the next start.

mod home;

use crate::doctor::Verdict;
use anyhow::{Context as _, bail};
use berth_agent::options::SimulatedOptions;
use berth_agent::{AgentError, DriverKind};
use berth_controller::config::{Config, ControlSettings};
use berth_controller::{Controller, controller};
use berth_rpc::clock::{Rng as _, SystemClock, SystemRng};
use home::Home;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The broker within this process.
const BROKER: &str = "inproc://berth-up";
const REGION: &str = "RegionOne";

/// Arguments of `berth up`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Database, images, guests and passwords live here [default: ~/.local/share/berth].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where to answer, by HTTPS.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8774")]
    listen: SocketAddr,
    /// What runs the guests.
    #[arg(long, value_enum, default_value_t = Driver::Kvm)]
    driver: Driver,
    /// A physical network, and the interface that it is wired to; without one, guests on it
    /// reach each other and this machine. May be given several times.
    #[arg(
        long = "physical-network",
        value_name = "NAME[=INTERFACE]",
        default_value = "physnet1"
    )]
    physical_networks: Vec<String>,
    /// The VMM to run.
    #[arg(long, value_name = "PATH")]
    vmm: Option<PathBuf>,
    #[command(flatten)]
    simulated: Simulated,
}

/// What is simulated. None of it is of a real host.
#[derive(clap::Args)]
struct Simulated {
    /// How many hosts are simulated [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    hosts: Option<u16>,
    /// Logical CPUs of each [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    host_vcpus: Option<u32>,
    /// MiB of memory of each [default: 65536].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    host_memory: Option<u64>,
    /// GiB of disk of each [default: 1000].
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..))]
    host_disk: Option<u64>,
}

impl Simulated {
    /// The first of these that was given.
    fn given(&self) -> Option<&'static str> {
        [
            (self.hosts.is_some(), "--hosts"),
            (self.host_vcpus.is_some(), "--host-vcpus"),
            (self.host_memory.is_some(), "--host-memory"),
            (self.host_disk.is_some(), "--host-disk"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Driver {
    /// Guests on /dev/kvm; needs root, for their networks.
    Kvm,
    /// No guests at all, but all of their states: for trying the APIs.
    Simulated,
}

/// Runs until it is told to stop.
pub fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    start_log();
    if let (Driver::Kvm, Some(name)) = (arguments.driver, arguments.simulated.given()) {
        bail!("{name} is for simulated hosts: add --driver simulated");
    }
    if arguments.driver == Driver::Kvm {
        let finding = crate::doctor::kvm_here();
        let text = format!("{}; {}", finding.found, finding.remedy);
        match finding.verdict {
            Verdict::Ok => {}
            Verdict::Warn => eprintln!("berth: {text}"),
            Verdict::Fail => bail!("{text}; or try --driver simulated"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(up(arguments))
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BERTH_LOG")
        .unwrap_or_else(|_| "warn,sqlx=error".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// The database of a `berth up` that was told nothing else.
///
/// # Errors
/// If there is no home directory.
pub fn default_database() -> anyhow::Result<String> {
    let path = home::default_path()?.join("controller/berth.db");
    Ok(format!("sqlite://{}", path.display()))
}

async fn up(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Before anything is open, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let told = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(told);

    let home = match &arguments.state_dir {
        Some(path) => Home::open(path)?,
        None => Home::open(&home::default_path()?)?,
    };
    let rng = SystemRng;
    let password = home.admin_password(&rng)?;
    let join_token = format!("{:032x}", rng.bits());
    let config = controller_config(arguments, &home, &password, &join_token)?;
    let controller = Controller::start(controller::Options::new(config))
        .await
        .context("the controller cannot start")?;

    let stop = CancellationToken::new();
    let options = agent_options(arguments, &home, controller.base_url(), join_token)?;
    let ended = tokio::select! {
        started = start_agents(&options, &stop) => match started {
            Err(error) => Err(error),
            Ok(mut agents) => {
                let environment = environment(controller.base_url(), &home, &password);
                let openrc = home.write_openrc(&environment)?;
                announce(controller.base_url(), &environment, &openrc, arguments.driver);
                let ended = tokio::select! {
                    () = &mut told => Ok(()),
                    Some(ended) = agents.join_next() => agent_ended(ended),
                };
                stop.cancel();
                while let Some(ended) = agents.join_next().await {
                    agent_ended(ended)?;
                }
                ended
            }
        },
        () = &mut told => Ok(()),
    };
    stop.cancel();
    controller.shutdown().await;
    ended?;
    eprintln!("berth: stopped; guests go on, and `berth up` takes them over again");
    Ok(ExitCode::SUCCESS)
}

type Agents = JoinSet<Result<(), AgentError>>;

/// Agents that take commands, one a host.
async fn start_agents(
    options: &[berth_agent::Options],
    stop: &CancellationToken,
) -> anyhow::Result<Agents> {
    let mut agents = Agents::new();
    for options in options {
        start_agent(options, stop, &mut agents).await?;
    }
    Ok(agents)
}

async fn start_agent(
    options: &berth_agent::Options,
    stop: &CancellationToken,
    agents: &mut Agents,
) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock::default());
    let assembled = berth_agent::assemble(options, clock, Arc::new(SystemRng), None).await;
    let (service, handle) = assembled
        .context("the agent cannot start; `berth doctor` tells what this machine lacks")?;
    agents.spawn(service.run(stop.clone()));
    tokio::select! {
        () = handle.consuming() => Ok(()),
        Some(ended) = agents.join_next() => {
            agent_ended(ended)?;
            bail!("an agent ended before it took commands")
        }
    }
}

fn agent_ended(
    ended: Result<Result<(), AgentError>, tokio::task::JoinError>,
) -> anyhow::Result<()> {
    ended
        .context("the agent's task")?
        .context("the agent stopped")
}

fn controller_config(
    arguments: &Arguments,
    home: &Home,
    password: &str,
    join_token: &str,
) -> anyhow::Result<Config> {
    let listen = arguments.listen;
    if listen.ip().is_unspecified() {
        bail!("--listen {listen}: give the address by which clients reach this machine");
    }
    let physical = physical_networks(&arguments.physical_networks)?;
    let first = physical.keys().next().cloned();
    Ok(Config {
        listen,
        names: vec!["localhost".into(), listen.ip().to_string()],
        brokers: vec![BROKER.into()],
        state_dir: home.controller(),
        admin_password: password.to_owned(),
        region: REGION.into(),
        default_physical_network: first.unwrap_or_else(|| "physnet1".into()),
        control: ControlSettings {
            join_token: Some(join_token.to_owned()),
            ..ControlSettings::default()
        },
        ..Config::default()
    })
}

/// One for each host: the machine, or so many simulated ones.
fn agent_options(
    arguments: &Arguments,
    home: &Home,
    url: &str,
    join_token: String,
) -> anyhow::Result<Vec<berth_agent::Options>> {
    let first = first_agent_options(arguments, home, url, join_token)?;
    let mut all = vec![first.clone()];
    let named = first.hostname();
    for number in 2..=arguments.simulated.hosts.unwrap_or(1) {
        all.push(berth_agent::Options {
            state_dir: home.more_agents(number),
            hostname: Some(format!("{named}-{number}")),
            ..first.clone()
        });
    }
    Ok(all)
}

fn first_agent_options(
    arguments: &Arguments,
    home: &Home,
    url: &str,
    join_token: String,
) -> anyhow::Result<berth_agent::Options> {
    let simulated = &arguments.simulated;
    let usual = SimulatedOptions::default();
    let physical_networks = physical_networks(&arguments.physical_networks)?;
    let (driver, vmm_binary) = match (arguments.driver, &arguments.vmm) {
        (Driver::Simulated, _) => (DriverKind::Simulated, PathBuf::from("berth-vmm")),
        (Driver::Kvm, Some(path)) => (DriverKind::Kvm, path.clone()),
        (Driver::Kvm, None) => (DriverKind::Kvm, crate::tools::find("berth-vmm")?),
    };
    Ok(berth_agent::Options {
        state_dir: home.agent(),
        controller_url: url.to_owned(),
        controller_ca: home.controller().join("ca.pem"),
        join_token: Some(join_token),
        broker_urls: vec![BROKER.into()],
        driver,
        address: arguments.listen.ip().to_string(),
        vmm_binary,
        simulated: SimulatedOptions {
            physical_networks: physical_networks.keys().cloned().collect(),
            vcpus: simulated.host_vcpus.unwrap_or(usual.vcpus),
            memory_mib: simulated.host_memory.unwrap_or(usual.memory_mib),
            disk_gib: simulated.host_disk.unwrap_or(usual.disk_gib),
            ..usual
        },
        physical_networks,
        ..berth_agent::Options::default()
    }
    .checked()?)
}

/// `NAME` or `NAME=INTERFACE`, each.
fn physical_networks(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut networks = BTreeMap::new();
    for text in given {
        let (name, interface) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            bail!("--physical-network {text}: the name is missing");
        }
        networks.insert(name.to_owned(), interface.to_owned());
    }
    Ok(networks)
}

/// What the `openstack` command reads, as lines of a shell.
fn environment(url: &str, home: &Home, password: &str) -> String {
    let ca = home.controller().join("ca.pem");
    let ca = ca.display().to_string();
    let auth = format!("{url}/identity/v3");
    let mut text = String::new();
    for (name, value) in [
        ("OS_AUTH_URL", auth.as_str()),
        ("OS_IDENTITY_API_VERSION", "3"),
        ("OS_USERNAME", "admin"),
        ("OS_PASSWORD", password),
        ("OS_PROJECT_NAME", "admin"),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
        ("OS_REGION_NAME", REGION),
        ("OS_CACERT", &ca),
    ] {
        // Infallible: a String grows.
        let _ = writeln!(text, "export {name}={}", quoted(value));
    }
    text
}

/// A shell's word.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn announce(url: &str, environment: &str, openrc: &Path, driver: Driver) {
    print!("{environment}");
    println!("# Berth answers at {url}");
    let driver = match driver {
        Driver::Kvm => "guests run on /dev/kvm",
        Driver::Simulated => "guests are simulated",
    };
    eprintln!(
        "berth: up at {url}; {driver}. In another shell: . {} && openstack server list. Ctrl-C stops it.",
        quoted(&openrc.display().to_string())
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_shell_reads_what_is_printed() {
        assert_eq!(quoted("https://127.0.0.1:8774"), "https://127.0.0.1:8774");
        assert_eq!(quoted("/my state/it's"), r"'/my state/it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_physical_network_has_a_name_and_perhaps_an_interface() {
        let networks = physical_networks(&["a".into(), "b=eth1".into()]).unwrap();
        assert_eq!((&*networks["a"], &*networks["b"]), ("", "eth1"));
        let error = physical_networks(&["=eth1".into()]).unwrap_err();
        assert!(error.to_string().contains("=eth1"));
    }
}
