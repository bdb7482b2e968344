//! The processes that are measured: controllers, and the fleet of simulated hosts.

use super::Arguments;
use anyhow::{Context as _, bail};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The password of the user `admin`, of a cloud that lives for minutes on a loopback address.
pub const ADMIN_PASSWORD: &str = "only-measured";
const JOIN_TOKEN: &str = "only-measured";
/// How long a process may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one host may take to join, when many do.
const JOINING: Duration = Duration::from_secs(2);

/// A running cloud; its processes die with it.
pub struct Cloud {
    dir: TempDir,
    program: PathBuf,
    database: String,
    bases: Vec<String>,
    controllers: Vec<Child>,
    fleet: Option<Child>,
    hosts: u32,
}

/// Lets this process and those that it starts have a file open for each connection.
///
/// # Errors
/// The system's.
pub fn many_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("RLIMIT_NOFILE")
}

impl Cloud {
    /// Starts controllers and fleet, and waits until every host takes commands.
    ///
    /// # Errors
    /// What does not start, with the place of its log.
    pub async fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        // Journals are on memory: a thousand of them on one disk is no fleet's disk.
        let dir = tempfile::Builder::new()
            .prefix("berth-bench-")
            .tempdir_in("/dev/shm")
            .context("a folder for the journals in /dev/shm")?;
        let program = match &arguments.controller {
            Some(path) => path.clone(),
            None => crate::tools::find("berth-controller")?,
        };
        let database = match &arguments.database {
            Some(url) => url.clone(),
            None => format!("sqlite://{}", dir.path().join("berth.db").display()),
        };
        if arguments.controllers > 1 && arguments.database.is_none() {
            bail!(
                "--controllers {}: SQLite serves one; give --database postgres://…",
                arguments.controllers
            );
        }
        let mut bases = vec![];
        for number in 0..arguments.controllers {
            let (base, text) = config(arguments, dir.path(), number, &database)?;
            bases.push(base);
            std::fs::write(dir.path().join(format!("controller-{number}.toml")), text)?;
        }
        let mut cloud = Self {
            dir,
            program,
            database,
            bases,
            controllers: vec![],
            fleet: None,
            hosts: arguments.hosts,
        };
        cloud.start_controllers().await?;
        cloud.start_fleet(arguments).await?;
        cloud.hosts_are_up().await?;
        Ok(cloud)
    }

    /// The controllers' addresses.
    pub fn bases(&self) -> &[String] {
        &self.bases
    }

    /// The database's URL.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Whether that is PostgreSQL's.
    pub fn is_postgres(&self) -> bool {
        self.database.starts_with("postgres")
    }

    /// The process ids of the controllers.
    pub fn controllers(&self) -> Vec<u32> {
        self.controllers.iter().filter_map(Child::id).collect()
    }

    /// What vouches for every controller.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("controller-0/ca.pem")
    }

    /// Starts the controllers, which were never started or have been stopped.
    ///
    /// # Errors
    /// If one does not answer.
    pub async fn start_controllers(&mut self) -> anyhow::Result<()> {
        for number in 0..self.bases.len() {
            let log = self.dir.path().join(format!("controller-{number}.log"));
            let file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)?;
            let child = Command::new(&self.program)
                .arg("--config")
                .arg(self.dir.path().join(format!("controller-{number}.toml")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(file)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("{}", self.program.display()))?;
            self.controllers.push(child);
            self.answers(number).await.with_context(|| {
                let told = std::fs::read_to_string(&log).unwrap_or_default();
                format!(
                    "controller {number} does not answer; it said: {}",
                    last(&told)
                )
            })?;
        }
        Ok(())
    }

    async fn answers(&mut self, number: usize) -> anyhow::Result<()> {
        let ca = self.ca();
        let Some(base) = self.bases.get(number) else {
            bail!("no controller {number}");
        };
        let url = format!("{base}/healthz");
        let asked = async {
            loop {
                if let Ok(tls) = crate::cloud::trusting(&ca)
                    && let Ok(http) = reqwest::Client::builder()
                        .use_preconfigured_tls(tls)
                        .build()
                    && http
                        .get(&url)
                        .send()
                        .await
                        .is_ok_and(|a| a.status().is_success())
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let Some(child) = self.controllers.get_mut(number) else {
            bail!("it was not started");
        };
        tokio::select! {
            () = asked => Ok(()),
            ended = child.wait() => bail!("it ended: {}", ended?),
            () = tokio::time::sleep(PATIENCE) => bail!("not within {PATIENCE:?}"),
        }
    }

    /// Stops the controllers; the fleet goes on, and waits for them.
    ///
    /// # Errors
    /// If one does not end.
    pub async fn stop_controllers(&mut self) -> anyhow::Result<()> {
        for mut child in self.controllers.drain(..) {
            end(&mut child).await.context("a controller")?;
        }
        Ok(())
    }

    async fn start_fleet(&mut self, arguments: &Arguments) -> anyhow::Result<()> {
        let options = super::fleet::options(
            &self.dir.path().join("fleet"),
            self.bases.first().map_or("", String::as_str),
            &self.ca(),
            JOIN_TOKEN,
            arguments,
        );
        let file = self.dir.path().join("fleet.json");
        std::fs::write(&file, serde_json::to_vec(&options)?)?;
        let log = std::fs::File::create(self.dir.path().join("fleet.log"))?;
        let own = arguments.broker.is_none().then(|| socket(self.dir.path()));
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "fleet"])
            .arg(&file)
            .args(
                own.iter()
                    .flat_map(|path| ["--serve".as_ref(), path.as_os_str()]),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("the fleet")?;
        let told = child.stdout.take().context("the fleet's output")?;
        let mut lines = BufReader::new(told).lines();
        self.fleet = Some(child);
        let patience = PATIENCE + JOINING * self.hosts;
        let line = tokio::time::timeout(patience, lines.next_line());
        match line.await.context("the fleet has not joined in time")?? {
            Some(_) => Ok(()),
            None => {
                let log = self.dir.path().join("fleet.log");
                let told = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the fleet ended: {}", last(&told))
            }
        }
    }

    /// Waits until a list of the hosts says that each is up.
    ///
    /// # Errors
    /// If that does not come.
    pub async fn hosts_are_up(&self) -> anyhow::Result<()> {
        let api = super::api::Api::log_in(self).await?;
        let wanted = usize::try_from(self.hosts)?;
        let all_up = async {
            loop {
                let path = "/compute/v2.1/os-services?binary=nova-compute";
                let list = api.ask(reqwest::Method::GET, path, &serde_json::Value::Null);
                let list = list.await?;
                let services = list["services"].as_array();
                let up = services.map_or(0, |s| s.iter().filter(|s| s["state"] == "up").count());
                if up == wanted {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let all_up = tokio::time::timeout(PATIENCE * 2, all_up);
        all_up.await.context("not every host is up in time")?
    }

    /// Megabytes that the controllers have, the largest.
    ///
    /// # Errors
    /// The system's.
    pub fn memory_mib(&self) -> anyhow::Result<f64> {
        let sizes = self
            .controllers()
            .into_iter()
            .map(super::cost::resident_mib);
        let sizes: Vec<f64> = sizes.collect::<anyhow::Result<_>>()?;
        Ok(sizes.into_iter().fold(0.0, f64::max))
    }

    /// Ends all of it.
    ///
    /// # Errors
    /// If a process does not end.
    pub async fn end(mut self) -> anyhow::Result<()> {
        if let Some(mut fleet) = self.fleet.take() {
            end(&mut fleet).await.context("the fleet")?;
        }
        self.stop_controllers().await
    }
}

async fn end(child: &mut Child) -> anyhow::Result<()> {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let id = nix::unistd::Pid::from_raw(id);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM)?;
    }
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(ended) => {
            ended?;
        }
        Err(_) => child.kill().await?,
    }
    Ok(())
}

/// Where the broker within the fleet is reached.
fn socket(dir: &Path) -> PathBuf {
    dir.join("broker")
}

/// A controller's address and its configuration.
fn config(
    arguments: &Arguments,
    dir: &Path,
    number: u16,
    database: &str,
) -> anyhow::Result<(String, String)> {
    // Free a moment ago; a bench shares its machine with nobody.
    let listen = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let path = |path: &Path| serde_json::json!(path).to_string();
    let broker = match &arguments.broker {
        Some(url) => url.clone(),
        None => format!("unix://{}", socket(dir).display()),
    };
    let mut text = format!(
        "listen = \"{listen}\"\ndatabase = {}\nbrokers = [{}]\nstate_dir = {}\nimage_dir = {}\n\
         admin_password = \"{ADMIN_PASSWORD}\"\n",
        serde_json::json!(database),
        serde_json::json!(broker),
        path(&dir.join(format!("controller-{number}"))),
        path(&dir.join("images")),
    );
    if number > 0 {
        // All of a cloud's controllers show one certificate, and vouch for hosts by one key.
        let first = dir.join("controller-0");
        for (key, name) in [
            ("tls_cert", "controller.pem"),
            ("tls_key", "controller.key"),
            ("hosts_ca_key", "hosts-ca.key"),
        ] {
            text += &format!("{key} = {}\n", path(&first.join(name)));
        }
    }
    text += &format!("[control]\njoin_token = \"{JOIN_TOKEN}\"\n");
    if let Some(key) = &arguments.broker_key {
        text += &format!("broker_key = {}\n", path(key));
    }
    Ok((format!("https://{listen}"), text))
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or("nothing")
}
