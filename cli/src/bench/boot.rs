//! `berth bench boot`: exec of the VMM to a marker on the guest's serial console.
//!
//! Every program gets the same kernel, initrd, command line, memory and vCPUs, on virtio-mmio
//! or none, and is killed when its marker is seen. The clock runs from just before the fork.

use super::report::{self, Series};
use crate::tools;
use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Arguments of `berth bench boot`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A peer, `NAME=PATH`: firecracker, cloud-hypervisor, qemu, berth, or any name that
    /// begins with one of these (`firecracker-1.16=…`). May be repeated.
    #[arg(long = "vs", value_name = "NAME=PATH")]
    peers: Vec<String>,
    /// Runs of each program, interleaved.
    #[arg(long, default_value_t = 11)]
    runs: u32,
    /// Kernel for all of them.
    #[arg(long)]
    kernel: PathBuf,
    /// Initial ramdisk for all of them.
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// Kernel command line for all of them.
    #[arg(long, default_value = "console=ttyS0 reboot=k panic=1")]
    cmdline: String,
    /// Text on the serial console that ends a run; without it the first byte does.
    #[arg(long)]
    marker: Option<String>,
    /// Memory in MiB.
    #[arg(long, default_value_t = 128)]
    memory: u64,
    /// Virtual processors.
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Seconds after which a run has failed.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// The berth-vmm to measure; beside this program by default.
    #[arg(long)]
    vmm: Option<PathBuf>,
    /// Print JSON, raw values included.
    #[arg(long)]
    json: bool,
}

/// How a program is told what to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// `--no-api --config-file`, Firecracker's JSON.
    Firecracker,
    CloudHypervisor,
    QemuMicrovm,
    /// Any program that takes Berth's own command line, `--config-file` first.
    Berth,
}

struct Contender {
    name: String,
    path: PathBuf,
    dialect: Dialect,
}

/// Measures and prints.
pub fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut contenders = vec![Contender {
        name: "berth".into(),
        path: arguments
            .vmm
            .clone()
            .map_or_else(|| tools::find("berth-vmm"), Ok)?,
        dialect: Dialect::Berth,
    }];
    for peer in &arguments.peers {
        contenders.push(contender(peer)?);
    }
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("guest.json");
    std::fs::write(&config, firecracker_config(arguments)?)?;
    let mut all: Vec<Series> = contenders
        .iter()
        .map(|c| Series {
            name: c.name.clone(),
            milliseconds: Vec::new(),
        })
        .collect();
    // One unmeasured round each: KVM's modules and the page cache warm up for all alike.
    for round in 0..=arguments.runs {
        for (contender, series) in contenders.iter().zip(&mut all) {
            let took = one_run(contender, arguments, &config)
                .with_context(|| format!("{}, run {round}", contender.name))?;
            if round > 0 {
                series.milliseconds.push(took.as_secs_f64() * 1e3);
            }
        }
        eprint!("\rrun {round} of {}", arguments.runs);
    }
    eprintln!();
    let summaries = report::summarise(&all);
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({"summary": summaries, "runs": all}))?
        );
    } else {
        print!("{}", report::table(&summaries));
    }
    Ok(ExitCode::SUCCESS)
}

fn contender(text: &str) -> anyhow::Result<Contender> {
    let Some((name, path)) = text.split_once('=') else {
        bail!("--vs {text}: write NAME=PATH");
    };
    let dialect = if name.starts_with("firecracker") {
        Dialect::Firecracker
    } else if name.starts_with("cloud-hypervisor") {
        Dialect::CloudHypervisor
    } else if name.starts_with("qemu") {
        Dialect::QemuMicrovm
    } else if name.starts_with("berth") {
        Dialect::Berth
    } else {
        bail!(
            "--vs {text}: the name must begin with firecracker, cloud-hypervisor, qemu or berth, to tell how it is called"
        );
    };
    if !Path::new(path).is_file() {
        bail!("--vs {text}: {path} is not a file");
    }
    Ok(Contender {
        name: name.into(),
        path: path.into(),
        dialect,
    })
}

fn firecracker_config(arguments: &Arguments) -> anyhow::Result<String> {
    Ok(serde_json::to_string(&serde_json::json!({
        "boot-source": {
            "kernel_image_path": arguments.kernel,
            "initrd_path": arguments.initrd,
            "boot_args": arguments.cmdline,
        },
        "drives": [],
        "machine-config": {"vcpu_count": arguments.cpus, "mem_size_mib": arguments.memory},
    }))?)
}

fn command(contender: &Contender, arguments: &Arguments, config: &Path) -> Command {
    let mut command = Command::new(&contender.path);
    match contender.dialect {
        Dialect::Firecracker | Dialect::Berth => {
            command.arg("--no-api").arg("--config-file").arg(config);
            if contender.dialect == Dialect::Firecracker {
                // Its log goes to standard output, before the guest's first byte.
                command.args(["--level", "Error"]);
            }
        }
        Dialect::CloudHypervisor => {
            command
                .arg("--kernel")
                .arg(&arguments.kernel)
                .args([
                    "--cmdline",
                    &arguments.cmdline,
                    "--serial",
                    "tty",
                    "--console",
                    "off",
                ])
                .args(["--cpus", &format!("boot={}", arguments.cpus)])
                .args(["--memory", &format!("size={}M", arguments.memory)]);
            if let Some(initrd) = &arguments.initrd {
                command.arg("--initramfs").arg(initrd);
            }
        }
        Dialect::QemuMicrovm => {
            command
                .args([
                    "-M",
                    "microvm,acpi=on,rtc=off",
                    "-accel",
                    "kvm",
                    "-cpu",
                    "host",
                ])
                .args([
                    "-nodefaults",
                    "-no-user-config",
                    "-nographic",
                    "-serial",
                    "stdio",
                    "-no-reboot",
                ])
                .args(["-global", "virtio-mmio.force-legacy=false"])
                .args([
                    "-smp",
                    &arguments.cpus.to_string(),
                    "-m",
                    &arguments.memory.to_string(),
                ])
                .arg("-kernel")
                .arg(&arguments.kernel)
                .args(["-append", &arguments.cmdline]);
            if let Some(initrd) = &arguments.initrd {
                command.arg("-initrd").arg(initrd);
            }
        }
    }
    command
}

/// Starts the program, waits for the marker, kills it; gives the time between.
fn one_run(
    contender: &Contender,
    arguments: &Arguments,
    config: &Path,
) -> anyhow::Result<Duration> {
    let mut command = command(contender, arguments, config);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = Killed(
        command
            .spawn()
            .with_context(|| format!("exec {}", contender.path.display()))?,
    );
    let mut console = child.0.stdout.take().context("the console pipe")?;
    let deadline = started + Duration::from_secs(arguments.timeout);
    let mut seen = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(
            &mut [PollFd::new(console.as_fd(), PollFlags::POLLIN)],
            timeout,
        )?;
        let at = Instant::now();
        if ready == 0 {
            bail!(
                "no marker within {} s; the console said: {}",
                arguments.timeout,
                tail(&seen)
            );
        }
        let count = console.read(&mut buffer)?;
        if count == 0 {
            let mut said = String::new();
            if let Some(mut stderr) = child.0.stderr.take() {
                drop(child.0.kill());
                stderr.read_to_string(&mut said)?;
            }
            bail!(
                "it ended before the marker; the console said: {}; the program said: {}",
                tail(&seen),
                said.trim()
            );
        }
        let arrived = match &arguments.marker {
            None => true,
            Some(marker) => {
                seen.extend_from_slice(buffer.get(..count).unwrap_or_default());
                contains(&seen, marker.as_bytes())
            }
        };
        if arrived {
            return Ok(at - started);
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    word.is_empty() || text.windows(word.len()).any(|window| window == word)
}

/// The end of a console, for an error message.
fn tail(seen: &[u8]) -> String {
    let from = seen.len().saturating_sub(400);
    String::from_utf8_lossy(seen.get(from..).unwrap_or_default()).into_owned()
}

/// A child that does not outlive its run.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_peer_is_told_apart_by_its_name() {
        let peer = contender("firecracker-1.16=/bin/true").unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.dialect),
            ("firecracker-1.16", Dialect::Firecracker)
        );
        assert!(contender("hal=/bin/true").is_err());
        assert!(contender("firecracker").is_err());
        assert!(contender("firecracker=/no/such").is_err());
    }

    #[test]
    fn a_marker_is_found_wherever_reads_split_it() {
        assert!(contains(b"Welcome to Debian login: ", b"login:"));
        assert!(!contains(b"log", b"login:"));
    }
}
