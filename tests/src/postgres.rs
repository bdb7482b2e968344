//! A private PostgreSQL: Debian's, on a free port and a Unix socket, in its own data directory.
//!
//! Ready means that a query is answered. `kill9` is the server's sudden death; its data and port
//! stay for `restart`. Writes are not synced to disk: a killed process loses nothing by that,
//! since the page cache is the kernel's. Dropping it removes everything.

use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::{self, Child};
use crate::scratch;

/// The database that tests get; a server has room for others (`createdb`).
const DATABASE: &str = "berth";
/// Room for a machine that is busy with everything else.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A PostgreSQL server of the test's own.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Fields drop in this order: the server, then its files.
    server: Option<Child>,
    dir: TempDir,
    programs: PathBuf,
    port: u16,
    /// PostgreSQL refuses to run as root; then it runs as Debian's user for it.
    user: Option<(u32, u32)>,
    settings: &'static [&'static str],
}

impl PrivatePostgres {
    /// Makes a new, empty database and starts its server. A power cut would lose what it committed: no
    /// test cuts this machine's.
    ///
    /// # Errors
    /// If the package is missing or the server does not come up; the message has its log.
    pub fn start() -> Result<Self> {
        Self::start_with(&["fsync=off", "shared_buffers=32MB", "max_wal_size=256MB"])
    }

    /// The same with an operator's settings, of which the benchmarks' figures are: commits are on the disk.
    ///
    /// # Errors
    /// As [`PrivatePostgres::start`].
    pub fn start_durable() -> Result<Self> {
        Self::start_with(&["fsync=on", "shared_buffers=1GB", "max_wal_size=4GB"])
    }

    fn start_with(settings: &'static [&'static str]) -> Result<Self> {
        let dir = scratch::folder("postgres")?;
        let user = unprivileged_user()?;
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let mut postgres = Self {
            server: None,
            dir,
            programs: programs()?,
            port: 0,
            user,
            settings,
        };
        let mut initdb = postgres.command("initdb");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]);
        initdb.arg("--pgdata").arg(postgres.data());
        process::check(initdb, Duration::from_secs(120))
            .context("cannot make a database cluster")?;
        postgres.port = free_port(Ipv4Addr::LOCALHOST.into())?;
        postgres.restart()?;
        postgres.query("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        Ok(postgres)
    }

    /// The URL for clients, over TCP: `postgres://postgres@127.0.0.1:port/berth`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// The folder with its data, log and socket, removed when this value is dropped.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `kill -9` of the server process; its children see that and end.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.server
            .take()
            .context("PostgreSQL is stopped already")?
            .kill9()
    }

    /// An orderly stop ("fast": open sessions are ended).
    ///
    /// # Errors
    /// If it does not run, or does not end within a minute.
    pub fn stop(&mut self) -> Result<()> {
        let mut server = self
            .server
            .take()
            .context("PostgreSQL is stopped already")?;
        server.signal(Signal::SIGINT)?;
        server.wait(Duration::from_secs(60)).map(|_| ())
    }

    /// Starts the stopped or killed server again on its data, and waits until it answers.
    ///
    /// # Errors
    /// If it runs, or does not answer; the message has its log.
    pub fn restart(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("PostgreSQL runs: stop or kill it first");
        }
        let end = Instant::now() + START_PATIENCE;
        let mut server = self.spawn()?;
        loop {
            let alive = server.check_alive();
            if alive.is_ok() && self.query("postgres", "SELECT 1").is_ok() {
                break;
            }
            if Instant::now() > end {
                alive?;
                bail!(
                    "PostgreSQL not ready after {START_PATIENCE:?}; its log ends:\n{}",
                    server.log_tail()
                );
            }
            // The children of a killed server hold its shared memory for a moment longer, and
            // it refuses to start until they are gone.
            if alive.is_err() {
                if !server.log_tail().contains("shared memory block") {
                    return alive;
                }
                server = self.spawn()?;
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.server = Some(server);
        Ok(())
    }

    /// Runs one statement with `psql` and gives its rows, unaligned, without headings.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn query(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.command("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
        ]);
        psql.arg("-h")
            .arg(self.dir.path())
            .args(["-p", &self.port.to_string(), "-c", sql]);
        process::check(psql, Duration::from_secs(30))
    }

    fn spawn(&self) -> Result<Child> {
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()]);
        let socket_dir = format!("unix_socket_directories={}", self.dir.path().display());
        for setting in [
            "listen_addresses=127.0.0.1",
            &socket_dir,
            "max_connections=200",
            "logging_collector=off",
        ] {
            command.args(["-c", setting]);
        }
        for setting in self.settings {
            command.args(["-c", setting]);
        }
        Child::spawn("PostgreSQL", command, &self.dir.path().join("postgres.log"))
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// One of PostgreSQL's programs, as the user that may run it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .current_dir(self.dir.path())
            .env("LC_ALL", "C.UTF-8")
            .env_remove("PGDATA");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Who to run the server as: oneself, unless that is root.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    bail!("PostgreSQL does not run as root, and this machine has no user `postgres`: make deps")
}

/// The folder of the newest version's programs; Debian keeps them out of the PATH.
fn programs() -> Result<PathBuf> {
    let versions =
        fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed: make deps")?;
    let newest = versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(|path| {
            path.file_name()
                .and_then(|name| name.to_str()?.parse::<u32>().ok())
        });
    Ok(newest
        .context("/usr/lib/postgresql holds no server: make deps")?
        .join("bin"))
}
