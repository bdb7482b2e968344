//! `berth run`: one guest on this machine. Writes a configuration in memory and becomes
//! `berth-vmm`, so that the guest's console is this terminal and its exit code is ours.

use crate::tools;
use anyhow::{Context as _, bail};
use berth_vmm_api::{BootSource, CacheType, Drive, MachineConfig, NetworkInterface, VmmConfig};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Arguments of `berth run`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Kernel: a bzImage or an ELF (Debian's /boot/vmlinuz-… is a bzImage).
    #[arg(long)]
    kernel: PathBuf,
    /// Initial ramdisk.
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// Kernel command line; with --disk the root is /dev/vda unless it says otherwise.
    #[arg(long, default_value = "console=ttyS0 reboot=k panic=1")]
    cmdline: String,
    /// Raw disk; append `:ro` for a read-only one. The first is the guest's /dev/vda.
    #[arg(long = "disk", value_name = "FILE[:ro]")]
    disks: Vec<String>,
    /// Tap device, by name; append `,MAC` to give the guest's address.
    #[arg(long = "tap", value_name = "NAME[,MAC]")]
    taps: Vec<String>,
    /// Virtual processors.
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Memory in MiB.
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Print the VMM's configuration (Firecracker's JSON) instead of running it.
    #[arg(long)]
    print_config: bool,
    /// The VMM to run.
    #[arg(long, value_name = "PATH")]
    vmm: Option<PathBuf>,
}

/// Runs the guest; returns only if it could not be started.
pub fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let json = serde_json::to_vec_pretty(&config(arguments)?)?;
    if arguments.print_config {
        println!("{}", String::from_utf8_lossy(&json));
        return Ok(ExitCode::SUCCESS);
    }
    let vmm = arguments
        .vmm
        .clone()
        .map_or_else(|| tools::find("berth-vmm"), Ok)?;
    // A file in memory, inherited over the exec: nothing lies about when the guest ends.
    let file = memfd_create(c"berth-run", MFdFlags::empty())
        .context("memfd_create for the configuration")?;
    let mut file = std::fs::File::from(file);
    file.write_all(&json)?;
    let error = Command::new(&vmm)
        .arg("--no-api")
        .arg("--config-file")
        .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .exec();
    Err(error).with_context(|| format!("exec {}", vmm.display()))
}

fn config(arguments: &Arguments) -> anyhow::Result<VmmConfig> {
    for file in std::iter::once(&arguments.kernel).chain(&arguments.initrd) {
        readable(file)?;
    }
    let mut config = VmmConfig {
        boot_source: BootSource {
            kernel_image_path: path_text(&arguments.kernel)?,
            initrd_path: arguments.initrd.as_deref().map(path_text).transpose()?,
            boot_args: Some(command_line(arguments)),
        },
        machine_config: Some(MachineConfig {
            vcpu_count: arguments.cpus,
            mem_size_mib: arguments.memory,
            ..MachineConfig::default()
        }),
        ..VmmConfig::default()
    };
    for (number, disk) in arguments.disks.iter().enumerate() {
        let (path, read_only) = match disk.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (disk.as_str(), false),
        };
        readable(Path::new(path))?;
        config.drives.push(Drive {
            drive_id: format!("disk{number}"),
            is_read_only: Some(read_only),
            // Firecracker's default drops a guest's flushes.
            cache_type: CacheType::Writeback,
            path_on_host: Some(path.to_owned()),
            ..Drive::default()
        });
    }
    for (number, tap) in arguments.taps.iter().enumerate() {
        let (name, mac) = match tap.split_once(',') {
            Some((name, mac)) => (name, Some(mac)),
            None => (tap.as_str(), None),
        };
        let guest_mac = mac
            .map(|mac| serde_json::from_value(serde_json::Value::from(mac)))
            .transpose()
            .with_context(|| format!("--tap {tap}: the MAC address"))?;
        config.network_interfaces.push(NetworkInterface {
            iface_id: format!("net{number}"),
            host_dev_name: name.to_owned(),
            guest_mac,
            ..NetworkInterface::default()
        });
    }
    Ok(config)
}

/// The first disk is the root unless the caller, or an initrd, decides.
fn command_line(arguments: &Arguments) -> String {
    let given = &arguments.cmdline;
    let says_root = given
        .split_whitespace()
        .any(|word| word.starts_with("root="));
    match arguments.disks.first() {
        Some(disk) if !says_root => {
            let mode = if disk.ends_with(":ro") { "ro" } else { "rw" };
            format!("{given} root=/dev/vda {mode}")
        }
        _ => given.clone(),
    }
}

fn readable(path: &Path) -> anyhow::Result<()> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}

fn path_text(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{}: the path is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &[&str]) -> Arguments {
        Line::try_parse_from(std::iter::once("run").chain(words.iter().copied()))
            .unwrap()
            .arguments
    }

    #[test]
    fn the_first_disk_is_the_root_unless_the_command_line_says_so() {
        let plain = parse(&["--kernel", "/k", "--disk", "/d:ro"]);
        assert!(command_line(&plain).ends_with("root=/dev/vda ro"));
        let own = parse(&[
            "--kernel",
            "/k",
            "--disk",
            "/d",
            "--cmdline",
            "root=/dev/vdb",
        ]);
        assert_eq!(command_line(&own), "root=/dev/vdb");
    }

    #[test]
    fn a_missing_kernel_is_named() {
        let arguments = parse(&["--kernel", "/no/such/kernel"]);
        assert!(
            config(&arguments)
                .unwrap_err()
                .to_string()
                .contains("/no/such/kernel")
        );
    }

    #[test]
    fn a_bad_mac_is_named() {
        let arguments = parse(&["--kernel", "/dev/null", "--tap", "tap0,zz"]);
        assert!(format!("{:#}", config(&arguments).unwrap_err()).contains("tap0,zz"));
    }
}
