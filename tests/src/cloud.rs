//! A whole Berth cloud, private to its test: RabbitMQ, a database, controllers, and hosts that
//! are emulated machines with real guests, or simulated agents on this machine.
//!
//! All of it is in the calling thread's [`TestNet`]; everything can be killed and started again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::host::EmulatedHost;
use crate::logs::brief;
use crate::net::TestNet;
use crate::openstack::OpenStack;
use crate::postgres::PrivatePostgres;
use crate::previous::Programs;
use crate::process::{self, Child};
use crate::rabbit::PrivateRabbit;
use crate::{binaries, ports};

/// A start takes a second; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lines that are shown of a log.
const TOLD: usize = 20;
/// By which any number of this cloud's hosts join.
const JOIN_TOKEN: &str = "join-for-tests";
/// The password of the user `admin`.
const ADMIN_PASSWORD: &str = "only-for-tests";
/// The guests' physical network.
pub const PHYSICAL_NETWORK: &str = "provider";

/// What a cloud is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Controllers side by side; more than one needs PostgreSQL.
    pub controllers: usize,
    /// PostgreSQL, or else SQLite.
    pub postgres: bool,
    /// Emulated machines with a KVM agent each.
    pub emulated_hosts: usize,
    /// Agents with the simulated driver, on this machine.
    pub simulated_hosts: usize,
}

/// A running cloud.
pub struct Cloud {
    /// Its broker.
    pub rabbit: PrivateRabbit,
    /// Its database, unless that is SQLite.
    pub postgres: Option<PrivatePostgres>,
    /// Its controllers.
    pub controllers: Vec<Service>,
    /// Its simulated hosts' agents.
    pub agents: Vec<Service>,
    /// Its emulated hosts; each runs `berth-agent` as the daemon `agent`.
    pub hosts: Vec<EmulatedHost>,
    base_urls: Vec<String>,
    dir: TempDir,
}

impl Cloud {
    /// Starts everything and waits until every host is up.
    ///
    /// # Errors
    /// The first thing that does not start, with the end of its log.
    pub fn start(net: &TestNet, plan: Plan) -> Result<Self> {
        Self::start_with(net, plan, &[Programs::todays()?])
    }

    /// Starts everything, where the controller and the simulated host of a number run the programs
    /// of that number; those without a number of their own run the first ones.
    ///
    /// # Errors
    /// As [`Cloud::start`].
    pub fn start_with(net: &TestNet, plan: Plan, programs: &[Programs]) -> Result<Self> {
        let of = |number: usize| programs.get(number).or(programs.first());
        let of = |number: usize| of(number).context("a cloud has programs");
        // Emulated machines take seconds: they boot while the services start.
        let builders = (0..plan.emulated_hosts)
            .map(|number| emulated(net, number))
            .collect::<Result<Vec<_>>>()?;
        let dir = tempfile::tempdir()?;
        let rabbit = PrivateRabbit::start_on(net.ip(), None)?;
        let postgres = plan.postgres.then(PrivatePostgres::start).transpose()?;
        let mut cloud = Self {
            rabbit,
            postgres,
            controllers: Vec::new(),
            agents: Vec::new(),
            hosts: Vec::new(),
            base_urls: Vec::new(),
            dir,
        };
        for number in 0..plan.controllers {
            cloud.add_controller(net, number, of(number)?)?;
        }
        for number in 0..plan.simulated_hosts {
            cloud.add_simulated_host(number, &of(number)?.agent)?;
        }
        cloud.hosts = EmulatedHost::start_all(builders)?;
        for number in 0..cloud.hosts.len() {
            cloud.start_agent(number, &[])?;
        }
        cloud.wait_for_hosts(plan.emulated_hosts + plan.simulated_hosts)?;
        Ok(cloud)
    }

    /// The base URL of a controller.
    #[must_use]
    pub fn base_url(&self, number: usize) -> &str {
        &self.base_urls[number]
    }

    /// PEM file of the authority that vouches for every controller.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The folder of configurations, state and logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The `openstack` command for the first controller, as its administrator.
    ///
    /// # Errors
    /// If the client cannot be installed.
    pub fn openstack(&self) -> Result<OpenStack> {
        self.openstack_at(0)
    }

    /// The `openstack` command for the controller of a number, as its administrator.
    ///
    /// # Errors
    /// If the client cannot be installed.
    pub fn openstack_at(&self, number: usize) -> Result<OpenStack> {
        let ca = self.ca();
        OpenStack::admin(self.base_url(number), Some(&ca), ADMIN_PASSWORD)
    }

    /// The password of the user `admin`.
    #[must_use]
    pub fn admin_password(&self) -> &'static str {
        ADMIN_PASSWORD
    }

    /// Checks every invariant with nothing under way; the error names what does not hold.
    ///
    /// # Errors
    /// The audit's findings.
    pub fn audit(&self) -> Result<()> {
        // The newest program has the last number: an older one does not open its database.
        let controller = self
            .controllers
            .last()
            .context("a cloud has a controller")?;
        let mut command = Command::new(&controller.program);
        command.arg("--config").arg(&controller.config);
        command.args(["audit", "--at-rest"]);
        let output = process::run(command, PATIENCE)?;
        if !output.status.success() {
            bail!(
                "the audit found:\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Starts the agent of an emulated host, with extra environment variables.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_agent(&self, number: usize, environment: &[(&str, &str)]) -> Result<u32> {
        let host = &self.hosts[number];
        // The harness wires eth1 into a bridge of its own; the agent makes one a network.
        host.sh("ip link del br-provider 2>/dev/null; ip link set eth1 up")?;
        host.put("/etc/berth/ca.pem", &fs::read(self.ca())?)?;
        let config = format!(
            "state_dir = \"/var/lib/berth/agent\"\n\
             controller_url = \"{}\"\ncontroller_ca = \"/etc/berth/ca.pem\"\n\
             join_token = \"{JOIN_TOKEN}\"\nbroker_urls = [\"{}\"]\n\
             hostname = \"{}\"\naddress = \"{}\"\nreport_interval_s = 2\n\
             vmm_binary = \"/usr/local/bin/berth-vmm\"\n\
             [physical_networks]\n{PHYSICAL_NETWORK} = \"eth1\"\n",
            self.base_urls[0],
            self.rabbit.url(),
            host.name(),
            host.ip().context("a cloud's host is on its network")?,
        );
        host.put("/etc/berth/agent.toml", config.as_bytes())?;
        let variables: Vec<String> = environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut argv = vec!["env", "BERTH_AGENT_LOG_FORMAT=json"];
        argv.extend(variables.iter().map(String::as_str));
        argv.extend(["berth-agent", "--config", "/etc/berth/agent.toml"]);
        host.start_daemon("agent", &argv)
    }

    fn add_controller(&mut self, net: &TestNet, number: usize, programs: &Programs) -> Result<()> {
        let dir = self.dir.path();
        let state = dir.join(format!("controller-{number}"));
        fs::create_dir_all(&state)?;
        let port = ports::free_port(net.ip())?;
        let base_url = format!("https://{}:{port}", net.ip());
        let database = match &self.postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite://{}", dir.join("berth.db").display()),
        };
        let mut config = format!(
            "listen = \"{ip}:{port}\"\npublic_url = \"{base_url}\"\nnames = [\"{ip}\"]\n\
             database = \"{database}\"\nbrokers = [\"{}\"]\nstate_dir = \"{}\"\n\
             image_dir = \"{}\"\nadmin_password = \"{ADMIN_PASSWORD}\"\nlog_json = true\n\
             default_physical_network = \"{PHYSICAL_NETWORK}\"\n",
            self.rabbit.url(),
            state.display(),
            dir.join("images").display(),
            ip = net.ip(),
        );
        if number > 0 {
            // All of a cloud's controllers show the certificate that the first one made.
            let first = dir.join("controller-0");
            config += &format!(
                "tls_cert = \"{}\"\ntls_key = \"{}\"\n",
                first.join("controller.pem").display(),
                first.join("controller.key").display()
            );
            // And give hosts certificates by its authority, if it is of a release that has one.
            let authority = first.join("hosts-ca.key");
            if programs.hands_out_accounts && authority.exists() {
                config += &format!("hosts_ca_key = \"{}\"\n", authority.display());
            }
        }
        config += &format!(
            "[control]\njoin_token = \"{JOIN_TOKEN}\"\nservice_down_time = 15\n\
             shutdown_timeout = 40\n"
        );
        if programs.hands_out_accounts {
            config += &format!("broker_key = \"{}\"\n", self.rabbit.host_key().display());
        }
        let file = dir.join(format!("controller-{number}.toml"));
        fs::write(&file, config)?;
        let name = format!("controller-{number}");
        let mut service = Service::new(&name, programs.controller.clone(), file, dir);
        service.start(&[])?;
        let made = state.join("ca.pem");
        let answers = || {
            let mut curl = Command::new("curl");
            curl.args(["-sf", "--cacert"]).arg(self.ca());
            curl.arg(format!("{base_url}/healthz"));
            if number == 0 && made.exists() {
                fs::copy(&made, self.ca())?;
            }
            Ok(process::check(curl, PATIENCE).ok())
        };
        if process::wait_until(PATIENCE, answers)?.is_none() {
            bail!(
                "controller {number} does not answer; its log:\n{}",
                service.log_tail()
            );
        }
        self.controllers.push(service);
        self.base_urls.push(base_url);
        Ok(())
    }

    fn add_simulated_host(&mut self, number: usize, program: &Path) -> Result<()> {
        let dir = self.dir.path();
        let name = format!("simulated-{number}");
        let url = &self.base_urls[number % self.base_urls.len()];
        let config = format!(
            "state_dir = \"{}\"\ncontroller_url = \"{url}\"\ncontroller_ca = \"{}\"\n\
             join_token = \"{JOIN_TOKEN}\"\nbroker_urls = [\"{}\"]\ndriver = \"simulated\"\n\
             hostname = \"{name}\"\naddress = \"127.0.0.1\"\nreport_interval_s = 2\n\
             [simulated]\nstep_ms = 5\nphysical_networks = [\"{PHYSICAL_NETWORK}\"]\n",
            dir.join(&name).display(),
            self.ca().display(),
            self.rabbit.url(),
        );
        let file = dir.join(format!("{name}.toml"));
        fs::write(&file, config)?;
        let mut service = Service::new(&name, program.to_owned(), file, dir);
        service.start(&[("BERTH_AGENT_LOG_FORMAT", "json")])?;
        self.agents.push(service);
        Ok(())
    }

    /// Waits until `count` hosts are up, by the first controller's word.
    fn wait_for_hosts(&self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let openstack = self.openstack()?;
        let up = || {
            let services = openstack.json(&["compute", "service", "list"])?;
            let rows = services.as_array().cloned().unwrap_or_default();
            let up = rows.iter().filter(|row| row["State"] == "up").count();
            Ok((up >= count).then_some(()))
        };
        if process::wait_until(PATIENCE, up)?.is_none() {
            bail!("not all of {count} hosts are up:\n{}", self.explain());
        }
        Ok(())
    }

    /// What services, hosts and guests said last, where a test fails. The whole logs are copied
    /// to the folder that `BERTH_KEEP_LOGS` names.
    #[must_use]
    pub fn explain(&self) -> String {
        if let Some(folder) = std::env::var_os("BERTH_KEEP_LOGS") {
            self.keep_logs(Path::new(&folder));
        }
        let services = self.controllers.iter().chain(&self.agents);
        let services = services.map(|s| format!("--- {}\n{}", s.name, s.log_tail()));
        services
            .chain(self.hosts.iter().map(explain_host))
            .collect()
    }

    fn keep_logs(&self, folder: &Path) {
        let _ = fs::create_dir_all(folder);
        for service in self.controllers.iter().chain(&self.agents) {
            let _ = fs::copy(&service.log, folder.join(&service.name));
        }
        for host in &self.hosts {
            if let Ok(log) = host.get("/var/log/agent.log") {
                let _ = fs::write(folder.join(host.name()), log);
            }
        }
    }
}

fn explain_host(host: &EmulatedHost) -> String {
    let script = format!(
        "cut -d' ' -f1-3 /proc/loadavg; ps -o pid,stat,time,comm | grep -E 'berth|dnsmasq'; \
         dmesg | tail -n 3; tail -n {TOLD} /var/log/agent.log; \
         for log in /var/lib/berth/agent/vmms/*/*.log; do echo \"- $log\"; tail -n 8 $log; done"
    );
    let told = host
        .sh(&script)
        .unwrap_or_else(|error| format!("{error:#}"));
    format!("--- {}\n{}", host.name(), brief(&told, usize::MAX))
}

/// An emulated host with an agent's programs in it.
fn emulated(net: &TestNet, number: usize) -> Result<crate::host::Builder> {
    let name = format!("compute-{}", number + 1);
    let mut builder = EmulatedHost::builder(&name);
    for program in ["berth-agent", "berth-vmm"] {
        let path = binaries::build(program, program)?;
        builder = builder.file(path, &format!("/usr/local/bin/{program}"));
    }
    builder.net(net)
}

/// A program of the cloud on this machine, with its configuration and log.
pub struct Service {
    /// Its name, also its log's.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its log; all its lives append to it.
    pub log: PathBuf,
    child: Option<Child>,
}

impl Service {
    fn new(name: &str, program: PathBuf, config: PathBuf, dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program,
            config,
            log: dir.join(format!("{name}.log")),
            child: None,
        }
    }

    /// Starts it, with extra environment variables.
    ///
    /// # Errors
    /// If it runs, or cannot be started.
    pub fn start(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        if let Some(child) = &mut self.child
            && child.check_alive().is_ok()
        {
            bail!("{} runs already", self.name);
        }
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        command.envs(environment.iter().copied());
        self.child = Some(Child::spawn(&self.name, command, &self.log)?);
        fs::set_permissions(&self.log, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// Whether it runs.
    pub fn is_alive(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.check_alive().is_ok())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.take().context("it was never started")?.kill9()
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it was never started")?;
        child.signal(signal)
    }

    /// The end of its log, shortened.
    #[must_use]
    pub fn log_tail(&self) -> String {
        brief(&process::tail(&self.log, 256 << 10), TOLD)
    }
}
