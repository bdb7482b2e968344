//! The probe guest (`tests/probe`) in a `berth-vmm` of its own, on this machine's `/dev/kvm`.
//!
//! It runs on any kind of KVM, so that tests with real virtio I/O and interrupts need no emulated
//! host. A [`ProbeGuest`] is a foreground VMM with a configuration file; its serial console is
//! what a test reads. Dropping it ends the VMM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binaries;
use crate::process::{self, Child, wait_until};
use crate::scratch;

/// Room for gcc on two busy cores.
const BUILD_PATIENCE: Duration = Duration::from_secs(120);

/// The boot protocol that the image leaves to the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// PVH: the image has its note.
    Pvh,
    /// Linux's 64-bit entry: the image has no PVH note.
    Linux,
}

/// A guest to be.
#[derive(Debug)]
pub struct Config {
    entry: Entry,
    words: String,
    drives: Vec<Value>,
    nics: Vec<Value>,
}

impl Config {
    /// A guest that does what `words` on its command line say (`tests/probe/README.md`).
    #[must_use]
    pub fn new(words: &str) -> Self {
        Self {
            entry: Entry::Pvh,
            words: words.to_owned(),
            drives: Vec::new(),
            nics: Vec::new(),
        }
    }

    /// Boots by another protocol than PVH.
    #[must_use]
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entry = entry;
        self
    }

    /// Adds a disk; disks are numbered in this order.
    #[must_use]
    pub fn drive(mut self, id: &str, image: &Path, read_only: bool) -> Self {
        self.drives.push(json!({
            "drive_id": id,
            "path_on_host": image,
            "is_root_device": false,
            "is_read_only": read_only,
            "cache_type": "Writeback",
        }));
        self
    }

    /// Adds a network interface on the tap `tap` of the calling thread's namespace.
    #[must_use]
    pub fn nic(mut self, tap: &str, mac: &str) -> Self {
        self.nics.push(json!({
            "iface_id": format!("nic{}", self.nics.len()),
            "host_dev_name": tap,
            "guest_mac": mac,
        }));
        self
    }

    /// The VMM's configuration file, for a probe image at `kernel`.
    #[must_use]
    pub fn json(&self, kernel: &Path) -> Value {
        json!({
            "boot-source": { "kernel_image_path": kernel, "boot_args": self.words },
            "drives": self.drives,
            "network-interfaces": self.nics,
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
        })
    }

    /// Starts the guest.
    ///
    /// # Errors
    /// If the VMM or the probe does not build, or the VMM cannot be started.
    pub fn start(self) -> Result<ProbeGuest> {
        let vmm = binaries::build("berth-vmm", "berth-vmm")?;
        let dir = scratch::folder("probe")?;
        let kernel = build(dir.path(), self.entry)?;
        let config = self.json(&kernel);
        let file = dir.path().join("config.json");
        fs::write(&file, config.to_string())?;
        let console = dir.path().join("console");
        let mut command = Command::new(vmm);
        command.args(["--no-api", "--config-file"]).arg(file);
        let child = Child::spawn("berth-vmm", command, &console)?;
        Ok(ProbeGuest {
            child,
            console,
            _dir: dir,
        })
    }
}

/// A running probe guest.
#[derive(Debug)]
pub struct ProbeGuest {
    child: Child,
    console: PathBuf,
    _dir: TempDir,
}

impl ProbeGuest {
    /// What it has printed so far, with the VMM's own messages.
    #[must_use]
    pub fn console(&self) -> String {
        fs::read(&self.console)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits for a whole line that begins with `begin`, and gives the rest of it.
    ///
    /// # Errors
    /// If the guest ends or fails before, or `patience` is over.
    pub fn line(&mut self, begin: &str, patience: Duration) -> Result<String> {
        let found = wait_until(patience, || {
            // In this order: what it printed before it ended is all there when it has ended.
            let ended = self.child.check_alive();
            let console = self.console();
            if let Some(line) = line_of(&console, begin) {
                return Ok(Some(line));
            }
            ended.map(|()| None)
        })?;
        found.with_context(|| {
            format!(
                "no line {begin:?} within {patience:?}; the console:\n{}",
                self.console()
            )
        })
    }

    /// The process id of its VMM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits for its end; how it ended, and what it printed.
    ///
    /// # Errors
    /// If it still runs after `patience`, or told of a failure.
    pub fn finish(mut self, patience: Duration) -> Result<Finished> {
        let status = self.child.wait(patience);
        let console = self.console();
        let status = status.with_context(|| format!("the console:\n{console}"))?;
        if console.contains("probe: FAIL") {
            bail!("the probe failed:\n{console}");
        }
        Ok(Finished { status, console })
    }
}

/// A probe guest that has ended without a failure of its own.
#[derive(Debug)]
pub struct Finished {
    /// The VMM's end.
    pub status: ExitStatus,
    /// Everything that was printed.
    pub console: String,
}

impl Finished {
    /// The rest of the line that begins with `begin`.
    ///
    /// # Errors
    /// If there is none.
    pub fn line(&self, begin: &str) -> Result<String> {
        line_of(&self.console, begin)
            .with_context(|| format!("no line {begin:?} in:\n{}", self.console))
    }
}

/// Compiles the probe into `folder`.
///
/// # Errors
/// If gcc is missing or refuses; the message has its words.
pub fn build(folder: &Path, entry: Entry) -> Result<PathBuf> {
    let image = folder.join("probe.elf");
    let mut command = Command::new(binaries::workspace().join("tests/probe/build.sh"));
    command.arg(&image);
    if entry == Entry::Linux {
        command.arg("-DLINUX_ONLY");
    }
    process::check(command, BUILD_PATIENCE).context("the probe guest does not build")?;
    Ok(image)
}

/// What is missing on this machine to run it, if anything is.
#[must_use]
pub fn missing() -> Option<String> {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    kvm.err()
        .map(|error| format!("/dev/kvm cannot be opened: {error}"))
}

fn line_of(console: &str, begin: &str) -> Option<String> {
    console
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .find_map(|line| line.strip_prefix(begin))
        .map(|rest| rest.trim_end().to_owned())
}
