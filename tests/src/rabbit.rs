//! A private RabbitMQ: Debian's, with its own node name, ports, cookie and data directory.
//!
//! Ready means that a client can log in. `kill9` is a broker's sudden death; its data directory
//! and port stay, so that `restart` is the same broker again. Dropping it removes everything.
//!
//! It lets hosts in with accounts of their own, as docs/operating.md has it: by tokens that are
//! signed with [`PrivateRabbit::host_key`].

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::{self, Child};
use crate::scratch;

/// Debian's wrappers in /usr/sbin run only as root or `rabbitmq` and know only the system's
/// broker; the scripts that they wrap run as anybody.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";
/// Two cores shared with a build and with emulated machines make a start of 5 s one of 40.
const START_PATIENCE: Duration = Duration::from_secs(120);

const HOST_KEY: &str = "hosts.key";

/// The certificates of a broker that also speaks TLS; PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority that signed the certificate.
    pub ca: PathBuf,
    /// The broker's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A RabbitMQ broker of the test's own.
#[derive(Debug)]
pub struct PrivateRabbit {
    // Fields drop in this order: the node, its port mapper, then the files of both.
    node: Option<Child>,
    _epmd: Child,
    dir: TempDir,
    name: String,
    addr: SocketAddr,
    tls: Option<(SocketAddr, TlsFiles)>,
    epmd_port: u16,
    dist_port: u16,
}

impl PrivateRabbit {
    /// Starts a broker on the loopback address.
    ///
    /// # Errors
    /// If the package is missing or the broker does not come up; the message has its log.
    pub fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), None)
    }

    /// Starts a broker that listens on `ip`, with TLS on a second port if files are given.
    ///
    /// # Errors
    /// As [`PrivateRabbit::start`].
    pub fn start_on(ip: IpAddr, tls: Option<TlsFiles>) -> Result<Self> {
        let mut last = None;
        // A port that was free a moment ago can be taken by somebody else: try with others.
        for _ in 0..3 {
            match Self::try_start(ip, tls.clone()) {
                Ok(rabbit) => return Ok(rabbit),
                Err(error) if format!("{error:#}").contains("eaddrinuse") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("RabbitMQ was not tried")))
    }

    fn try_start(ip: IpAddr, tls: Option<TlsFiles>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth{}x{number}@localhost", std::process::id());
        let dir = scratch::folder("rabbit")?;
        let local = Ipv4Addr::LOCALHOST.into();
        let (epmd_port, dist_port) = (free_port(local)?, free_port(local)?);
        let addr = SocketAddr::new(ip, free_port(ip)?);
        let tls = match tls {
            Some(files) => Some((SocketAddr::new(ip, free_port(ip)?), files)),
            None => None,
        };
        let public = make_host_key(dir.path())?;
        let config = config(addr, tls.as_ref()) + &accounts(&public);
        fs::write(dir.path().join("rabbitmq.conf"), config)?;
        let plugins = "[rabbitmq_auth_backend_oauth2].\n";
        fs::write(dir.path().join("enabled_plugins"), plugins)?;
        fs::write(dir.path().join("env.conf"), "")?;
        // Erlang's port mapper daemonises unless it already runs: run it, to own and to end it.
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"]);
        let epmd = Child::spawn("epmd", epmd, &dir.path().join("epmd.log"))?;
        let mut rabbit = Self {
            node: None,
            _epmd: epmd,
            dir,
            name,
            addr,
            tls,
            epmd_port,
            dist_port,
        };
        rabbit.restart()?;
        Ok(rabbit)
    }

    /// The URL for clients: `amqp://guest:guest@address:port/%2f`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.addr)
    }

    /// The private key that hosts' accounts are signed with: a controller's `control.broker_key`.
    #[must_use]
    pub fn host_key(&self) -> PathBuf {
        self.dir.path().join(HOST_KEY)
    }

    /// The URL for clients over TLS, if the broker was given files for it.
    #[must_use]
    pub fn tls_url(&self) -> Option<String> {
        self.tls
            .as_ref()
            .map(|(addr, _)| format!("amqps://guest:guest@{addr}/%2f"))
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The folder with its data and logs, removed when this value is dropped.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `kill -9`: nothing is flushed, nobody is told.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.node
            .take()
            .context("RabbitMQ is stopped already")?
            .kill9()
    }

    /// An orderly stop (SIGTERM), as `systemctl stop` does it.
    ///
    /// # Errors
    /// If it does not run, or does not end within a minute.
    pub fn stop(&mut self) -> Result<()> {
        let mut node = self.node.take().context("RabbitMQ is stopped already")?;
        node.signal(Signal::SIGTERM)?;
        node.wait(Duration::from_secs(60)).map(|_| ())
    }

    /// Starts the stopped or killed broker again on its data, and waits until it is ready.
    ///
    /// # Errors
    /// If it runs, or does not become ready; the message has its log.
    pub fn restart(&mut self) -> Result<()> {
        if self.node.is_some() {
            bail!("RabbitMQ runs: stop or kill it first");
        }
        let mut command = self.command("rabbitmq-server");
        // With "input allowed" the script becomes the Erlang machine instead of watching over
        // it, so that our kill hits the broker; Erlang itself is then told to want no input.
        command.env("RABBITMQ_ALLOW_INPUT", "1");
        // Schedulers that do not spin: the tests' machine has two cores, and others want them.
        command.env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-noinput +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        );
        let mut node = Child::spawn("RabbitMQ", command, &self.dir.path().join("rabbit.log"))?;
        let end = Instant::now() + START_PATIENCE;
        loop {
            node.check_alive()?;
            match login(self.addr) {
                Ok(()) => break,
                Err(error) if Instant::now() > end => {
                    bail!(
                        "RabbitMQ not ready after {START_PATIENCE:?}: {error:#}; its log ends:\n{}",
                        node.log_tail()
                    )
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
        self.node = Some(node);
        Ok(())
    }

    /// `rabbitmqctl` on this broker: its standard output. It takes a second or two.
    ///
    /// # Errors
    /// If it exits with another code than 0.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command("rabbitmqctl");
        command.args(["--quiet", "-n", &self.name]).args(args);
        process::check(command, Duration::from_secs(60))
    }

    /// A script of RabbitMQ's in this broker's environment.
    fn command(&self, script: &str) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new(Path::new(SCRIPTS).join(script));
        command
            .current_dir(dir)
            .env_remove("NOTIFY_SOCKET")
            .env("HOME", dir)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", dir.join("env.conf"))
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            .env("LC_ALL", "C.UTF-8");
        command
    }
}

fn config(addr: SocketAddr, tls: Option<&(SocketAddr, TlsFiles)>) -> String {
    let mut lines = vec![
        format!("listeners.tcp.1 = {addr}"),
        // The account `guest` may come from an emulated host too: the network is the test's own.
        "loopback_users = none".into(),
        "vm_memory_high_watermark.absolute = 1GB".into(),
        "disk_free_limit.absolute = 50MB".into(),
        "log.console.level = info".into(),
    ];
    if let Some((addr, files)) = tls {
        lines.push(format!("listeners.ssl.1 = {addr}"));
        lines.push(format!("ssl_options.cacertfile = {}", files.ca.display()));
        lines.push(format!("ssl_options.certfile = {}", files.cert.display()));
        lines.push(format!("ssl_options.keyfile = {}", files.key.display()));
        lines.push("ssl_options.verify = verify_none".into());
    }
    lines.join("\n") + "\n"
}

/// Makes the key by which hosts get accounts; returns the public one.
fn make_host_key(dir: &Path) -> Result<PathBuf> {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.current_dir(dir).args(arguments);
        process::check(command, Duration::from_secs(60))
    };
    let curve = "ec_paramgen_curve:P-256";
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        curve,
        "-out",
        HOST_KEY,
    ])?;
    let public = "hosts.pub";
    openssl(&["pkey", "-in", HOST_KEY, "-pubout", "-out", public])?;
    Ok(dir.join(public))
}

/// Lets hosts in by tokens; word for word as docs/operating.md has it.
fn accounts(public: &Path) -> String {
    format!(
        "auth_backends.1 = internal\n\
         auth_backends.2 = rabbit_auth_backend_oauth2\n\
         auth_oauth2.resource_server_id = berth\n\
         auth_oauth2.default_key = berth\n\
         auth_oauth2.signing_keys.berth = {}\n\
         auth_oauth2.algorithms.1 = ES256\n",
        public.display()
    )
}

/// Logs in as a client does, as far as the broker's `Connection.Tune` (AMQP 0-9-1, 2.2.4): by
/// then its store, its accounts and its listener are up.
fn login(addr: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    expect_method(&mut stream, 10, "Connection.Start")?;
    let mut start_ok = vec![0, 10, 0, 11];
    start_ok.extend([0; 4]); // client properties: none
    start_ok.extend(b"\x05PLAIN");
    start_ok.extend(b"\0\0\0\x0c\0guest\0guest");
    start_ok.extend(b"\x05en_US");
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(start_ok.len())?.to_be_bytes());
    frame.extend(start_ok);
    frame.push(0xce);
    stream.write_all(&frame)?;
    expect_method(&mut stream, 30, "Connection.Tune")
}

/// Reads one frame and checks that it is the method `id` of the class Connection (10).
fn expect_method(stream: &mut TcpStream, id: u8, name: &str) -> Result<()> {
    let mut head = [0; 7];
    stream
        .read_exact(&mut head)
        .with_context(|| format!("no {name}"))?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if head[0] != 1 || !(4..=0x2_0000).contains(&size) {
        bail!("not {name}: a frame of kind {} and {size} bytes", head[0]);
    }
    let mut body = vec![0; size as usize + 1];
    stream.read_exact(&mut body)?;
    if body[..4] != [0, 10, 0, id] {
        bail!("not {name}: class and method {:?}", &body[..4]);
    }
    Ok(())
}
