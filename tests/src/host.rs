//! Emulated KVM hosts: QEMU runs Debian's kernel with kvm_amd in an emulated processor that has
//! SVM, so that `/dev/kvm` inside is hardware KVM, on any machine.
//!
//! On a machine with hardware KVM the same host runs on that, nested, many times as fast.
//! A host is a shared read-only root below a disk of its own, which lives as long as the value:
//! it survives [`EmulatedHost::power_cut`]. Everything goes when the value is dropped.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use berth_tests::{host::EmulatedHost, net::TestNet};
//! let net = TestNet::new()?;
//! let host = EmulatedHost::builder("one").net(&net)?.file("a.out", "/usr/local/bin/a.out").start()?;
//! assert_eq!(host.sh("a.out --version")?, "1\n");
//! # Ok(()) }
//! ```

mod qemu;
mod serial;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::binaries;
use crate::client::{Client, Output};
use crate::images::Images;
use crate::net::TestNet;
use crate::process::{self, Child};
use crate::scratch;

/// A boot takes 4 s; a machine that builds at the same time can need ten times that.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// What [`EmulatedHost::sh`] gives a script.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(60);
/// How a host reaches services that the test runs, where it has no [`TestNet`].
pub const OUTER_ADDRESS: &str = "10.0.2.2";

/// What a host is to be; see [`EmulatedHost::builder`].
#[derive(Debug)]
pub struct Builder {
    name: String,
    memory_mib: u32,
    processors: u32,
    high_resolution_timers: bool,
    files: Vec<(PathBuf, String)>,
    wiring: Option<Wiring>,
}

/// A host's place on a [`TestNet`].
#[derive(Debug)]
struct Wiring {
    ip: Ipv4Addr,
    gateway: String,
    taps: [String; 2],
}

impl Builder {
    /// Memory in MiB; 2048 unless told.
    #[must_use]
    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory_mib = memory;
        self
    }

    /// Two processors, emulated or not (see `qemu.rs`).
    #[must_use]
    pub fn two_processors(mut self) -> Self {
        self.processors = 2;
        self
    }

    /// Timers finer than the host kernel's tick of 4 ms: for what measures time (see `qemu.rs`).
    #[must_use]
    pub fn high_resolution_timers(mut self) -> Self {
        self.high_resolution_timers = true;
        self
    }

    /// Puts a copy of the file `from` into the host, at the absolute path `to`, mode included.
    #[must_use]
    pub fn file(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.files.push((from.into(), to.into()));
        self
    }

    /// Puts the host on `net`: eth0 with an address of its own on the hosts' network, and eth1,
    /// in the bridge `br-provider`, on the guests'.
    ///
    /// # Errors
    /// If no tap can be made.
    pub fn net(mut self, net: &TestNet) -> Result<Self> {
        self.wiring = Some(Wiring {
            ip: net.next_host(),
            gateway: net.ip().to_string(),
            taps: net.next_taps()?,
        });
        Ok(self)
    }

    /// Makes its disk, switches it on and waits until it takes commands.
    ///
    /// # Errors
    /// What failed, with the end of the host's console.
    pub fn start(self) -> Result<EmulatedHost> {
        let mut host = self.switch_on()?;
        host.wait_up()?;
        Ok(host)
    }

    fn switch_on(self) -> Result<EmulatedHost> {
        let images = Images::get()?;
        let dir = scratch::folder("host")?;
        let stage = dir.path().join("stage");
        stage_file(
            &stage,
            &binaries::own("berth-testhost")?,
            "/usr/local/bin/berth-testhost",
        )?;
        for (from, to) in &self.files {
            stage_file(&stage, from, to)?;
        }
        make_disk(&dir.path().join("disk"), &stage)?;
        fs::remove_dir_all(stage)?;
        let mut host = EmulatedHost {
            client: None,
            qemu: None,
            dir,
            images,
            spec: self,
        };
        host.boot()?;
        Ok(host)
    }
}

/// A running host, or one whose power was cut.
#[derive(Debug)]
pub struct EmulatedHost {
    // Fields drop in this order: the connection, the machine, then its files.
    client: Option<Client>,
    qemu: Option<Child>,
    dir: TempDir,
    images: Images,
    spec: Builder,
}

impl EmulatedHost {
    /// A host called `name`, to be completed and started.
    #[must_use]
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.into(),
            memory_mib: 2048,
            processors: qemu::processors(),
            high_resolution_timers: false,
            files: Vec::new(),
            wiring: None,
        }
    }

    /// Starts several hosts at once, which takes little longer than one.
    ///
    /// # Errors
    /// The first failure; the others' hosts are gone then, too.
    pub fn start_all(builders: Vec<Builder>) -> Result<Vec<Self>> {
        let mut hosts = builders
            .into_iter()
            .map(Builder::switch_on)
            .collect::<Result<Vec<_>>>()?;
        for host in &mut hosts {
            host.wait_up()?;
        }
        Ok(hosts)
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How many processors it has.
    #[must_use]
    pub fn processors(&self) -> u32 {
        self.spec.processors
    }

    /// Its address on the hosts' network; none without a [`TestNet`].
    #[must_use]
    pub fn ip(&self) -> Option<Ipv4Addr> {
        self.spec.wiring.as_ref().map(|wiring| wiring.ip)
    }

    /// Runs a command for at most `patience`. An exit code other than 0 is no error here.
    ///
    /// # Errors
    /// If the command cannot be started, takes too long (it is killed then), or the host dies.
    pub fn run(&self, argv: &[&str], patience: Duration) -> Result<Output> {
        self.run_with_input(argv, &[], patience)
    }

    /// Runs a command as [`EmulatedHost::run`] does, with `input` on its standard input.
    ///
    /// # Errors
    /// As [`EmulatedHost::run`].
    pub fn run_with_input(
        &self,
        argv: &[&str],
        input: &[u8],
        patience: Duration,
    ) -> Result<Output> {
        self.client()?.run(argv, input, patience).map_err(|error| {
            // QEMU's SVM fails now and then: that is told apart from what the test is about.
            let console = self.console();
            match console.find("Kernel panic") {
                Some(at) => error.context(format!(
                    "the emulated host {} panicked, which is a failure of the rig:\n{}",
                    self.name(),
                    console[at..].chars().take(2000).collect::<String>()
                )),
                None => error,
            }
        })
    }

    /// Runs a shell script for at most a minute and gives its standard output.
    ///
    /// # Errors
    /// As [`EmulatedHost::run`], and if it exits with another code than 0.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.sh_for(script, SCRIPT_PATIENCE)
    }

    /// Runs a shell script as [`EmulatedHost::sh`] does, for at most `patience`.
    ///
    /// # Errors
    /// As [`EmulatedHost::sh`].
    pub fn sh_for(&self, script: &str, patience: Duration) -> Result<String> {
        let output = self.run(&["/bin/sh", "-c", script], patience)?;
        if !output.success() {
            bail!(
                "on {}: `{script}` exited with {}: {}{}",
                self.name(),
                output.code,
                output.text(),
                output.error_text()
            );
        }
        Ok(output.text())
    }

    /// Starts a program that goes on when this call returns, its output in `/var/log/NAME.log`;
    /// gives its process id there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_daemon(&self, name: &str, argv: &[&str]) -> Result<u32> {
        // The log is there before the daemon is: the shell's child may come to it late.
        let script = r#"log=/var/log/$0.log; command -v "$1" >/dev/null || { echo "no program $1" >&2; exit 1; }
            : >>"$log"; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!"#;
        let argv: Vec<&str> = ["/bin/sh", "-c", script, name]
            .into_iter()
            .chain(argv.iter().copied())
            .collect();
        let output = self.run(&argv, SCRIPT_PATIENCE)?;
        if !output.success() {
            bail!(
                "on {}: {name} does not start: {}",
                self.name(),
                output.error_text()
            );
        }
        Ok(output.text().trim().parse()?)
    }

    /// Writes a file in the host; its folder is made if it is missing.
    ///
    /// # Errors
    /// What the host's shell says.
    pub fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        let argv = ["/bin/sh", "-c", r#"mkdir -p "${0%/*}" && cat > "$0""#, path];
        let output = self.run_with_input(&argv, content, BOOT_PATIENCE)?;
        if !output.success() {
            bail!(
                "on {}: cannot write {path}: {}",
                self.name(),
                output.error_text()
            );
        }
        Ok(())
    }

    /// Reads a file of the host's.
    ///
    /// # Errors
    /// What `cat` says.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.run(&["/bin/cat", path], BOOT_PATIENCE)?;
        if !output.success() {
            bail!("on {}: {}", self.name(), output.error_text());
        }
        Ok(output.stdout)
    }

    /// What its serial console has shown, all boots together.
    #[must_use]
    pub fn console(&self) -> String {
        process::tail(&self.console_path(), usize::MAX)
    }

    /// The folder with its disk, console and QEMU's log, removed when this value is dropped.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The power goes: what its disk was not told is lost, nobody says goodbye.
    ///
    /// # Errors
    /// If it has no power.
    pub fn power_cut(&mut self) -> Result<()> {
        self.client = None;
        self.qemu.take().context("the host has no power")?.kill9()
    }

    /// Power again, after [`EmulatedHost::power_cut`]: the same disk, address and name.
    ///
    /// # Errors
    /// If it has power, or does not come up.
    pub fn power_on(&mut self) -> Result<()> {
        if self.qemu.is_some() {
            bail!("the host {} has power", self.name());
        }
        self.boot()?;
        self.wait_up()
    }

    fn client(&self) -> Result<&Client> {
        self.client
            .as_ref()
            .with_context(|| format!("the host {} has no power", self.name()))
    }

    fn console_path(&self) -> PathBuf {
        self.dir.path().join("console")
    }

    /// The socket of its serial console's input, where it has one.
    fn serial_path(&self) -> PathBuf {
        self.dir.path().join("serial")
    }

    fn boot(&mut self) -> Result<()> {
        let socket = self.dir.path().join("channel");
        let _ = fs::remove_file(&socket);
        let qemu = Child::spawn(
            &format!("host {}", self.name()),
            self.qemu(),
            &self.dir.path().join("qemu.log"),
        )?;
        let qemu = self.qemu.insert(qemu);
        match Client::connect(&socket, Duration::from_secs(20)) {
            Ok(client) => self.client = Some(client),
            Err(error) => {
                qemu.check_alive()?;
                return Err(error);
            }
        }
        if self.spec.high_resolution_timers {
            serial::keep_awake(&self.serial_path())?;
        }
        Ok(())
    }

    fn wait_up(&mut self) -> Result<()> {
        let end = Instant::now() + BOOT_PATIENCE;
        while !self.client()?.is_up(Duration::from_millis(250)) {
            let alive = self
                .qemu
                .as_mut()
                .context("the host has no power")?
                .check_alive();
            if alive.is_err() || Instant::now() > end {
                let console = process::tail(&self.console_path(), 3000);
                alive.with_context(|| {
                    format!(
                        "the host {} died; its console ends:\n{console}",
                        self.spec.name
                    )
                })?;
                bail!(
                    "the host {} is not up after {BOOT_PATIENCE:?}; its console ends:\n{console}",
                    self.spec.name
                );
            }
        }
        Ok(())
    }
}

/// Puts a copy of `from` where it will be `to` in the host: above the shared root.
fn stage_file(stage: &Path, from: &Path, to: &str) -> Result<()> {
    let to = to
        .strip_prefix('/')
        .with_context(|| format!("{to}: not an absolute path"))?;
    // Files for the host's own disk go there, all others above the shared root.
    let target = match to.strip_prefix("var/lib/berth/") {
        Some(rest) => stage.join("state").join(rest),
        None => stage.join("upper").join(to),
    };
    let folder = target.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)?;
    if fs::hard_link(from, &target).is_err() {
        fs::copy(from, &target)
            .with_context(|| format!("cannot copy {} for the host", from.display()))?;
    }
    Ok(())
}

/// Makes a host's own disk with the files of `stage`: ext4, sparse, 16 GiB.
fn make_disk(disk: &Path, stage: &Path) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args([
        "-q",
        "-t",
        "ext4",
        "-m",
        "0",
        "-J",
        "size=16",
        "-O",
        "^metadata_csum",
    ]);
    mke2fs.args([
        "-E",
        "lazy_itable_init=0,nodiscard,assume_storage_prezeroed=1,root_owner=0:0",
    ]);
    mke2fs.arg("-d").arg(stage).arg(disk).arg("16G");
    process::check(mke2fs, SCRIPT_PATIENCE)
        .context("cannot make the host's disk")
        .map(|_| ())
}
