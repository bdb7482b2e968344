//! The Debian guest in a test's cloud: its images registered, what a server of it needs, and the
//! ways in which a person would see that it lives: ping and ssh.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::cloud::PHYSICAL_NETWORK;
use crate::images::Images;
use crate::net::TestNet;
use crate::openstack::OpenStack;
use crate::process::{self, Child, check, wait_until};

/// A guest boots in 15 s under two emulations; the machine may be busy.
pub const BOOT: Duration = Duration::from_secs(300);
/// The root image's name.
pub const IMAGE: &str = "debian";
/// The name of network, subnet, flavor and key pair.
pub const NAME: &str = "demo";

/// Registers kernel, ramdisk and the root image that names them; gives their ids in that order.
///
/// # Errors
/// What the client says.
pub fn register(openstack: &OpenStack, images: &Images) -> Result<[String; 3]> {
    let create = |name: &str, format: &str, file: PathBuf, properties: &[String]| {
        let file = file.to_str().context("paths are UTF-8")?.to_owned();
        let container = if matches!(format, "aki" | "ari") {
            format
        } else {
            "bare"
        };
        let mut words = vec!["image", "create", "--disk-format", format, "--file", &file];
        words.extend(["--container-format", container]);
        for property in properties {
            words.extend(["--property", property]);
        }
        words.push(name);
        let made = openstack.json(&words)?;
        let id = made["id"].as_str().context("an image has an id")?;
        anyhow::Ok(id.to_owned())
    };
    let kernel = create("debian-kernel", "aki", images.vmlinuz(), &[])?;
    let ramdisk = create("debian-ramdisk", "ari", images.guest_initrd(), &[])?;
    let properties = [
        format!("kernel_id={kernel}"),
        format!("ramdisk_id={ramdisk}"),
        format!("os_command_line={}", images.guest_cmdline()?.trim()),
    ];
    let root = create(IMAGE, "qcow2", images.guest_qcow2(), &properties)?;
    Ok([kernel, ramdisk, root])
}

/// Makes the network on `net`'s guests' side, its subnet, a flavor for one guest, and the key pair.
///
/// # Errors
/// What the client says.
pub fn furnish(openstack: &OpenStack, net: &TestNet, key: &Key) -> Result<()> {
    let mut network = vec!["network", "create", "--provider-network-type", "flat"];
    network.extend(["--provider-physical-network", PHYSICAL_NETWORK]);
    network.extend(["--share", NAME]);
    openstack.run(&network)?;
    let (cidr, gateway) = (net.provider_cidr(), net.provider_ip().to_string());
    let mut subnet = vec!["subnet", "create", "--network", NAME];
    subnet.extend(["--subnet-range", &cidr, "--gateway", &gateway, NAME]);
    openstack.run(&subnet)?;
    let mut flavor = vec!["flavor", "create", "--vcpus", "1"];
    flavor.extend(["--ram", "512", "--disk", "2", NAME]);
    openstack.run(&flavor)?;
    let public = key.public();
    let public = public.to_str().context("paths are UTF-8")?;
    openstack.run(&["keypair", "create", "--public-key", public, NAME])?;
    Ok(())
}

/// A private key, by which root's door opens.
#[derive(Clone, Debug)]
pub struct Key(PathBuf);

impl Key {
    /// Makes one in `folder`.
    ///
    /// # Errors
    /// What `ssh-keygen` says.
    pub fn make(folder: &Path) -> Result<Self> {
        let key = folder.join("key");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        keygen.arg(&key);
        check(keygen, BOOT)?;
        Ok(Self(key))
    }

    /// The public key's file.
    #[must_use]
    pub fn public(&self) -> PathBuf {
        self.0.with_extension("pub")
    }

    /// Runs a script as root in the guest and gives its standard output.
    ///
    /// # Errors
    /// If the guest does not let us in, or the script exits with another code than 0.
    pub fn ssh(&self, address: &str, script: &str) -> Result<String> {
        let mut ssh = Command::new("ssh");
        ssh.args(["-q", "-F", "none", "-o", "StrictHostKeyChecking=no"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]);
        ssh.args(["-o", "ConnectTimeout=60", "-o", "ServerAliveInterval=20"]);
        ssh.arg("-i").arg(&self.0);
        ssh.arg(format!("root@{address}")).arg(script);
        check(ssh, BOOT)
    }

    /// Has the guest run a script that may take the connection down with it: a second later, so
    /// that we are gone by then. Where we are not, what becomes of the connection tells nothing.
    pub fn order(&self, address: &str, script: &str) {
        let script = format!("(sleep 1; {script}) > /dev/null 2>&1 < /dev/null &");
        let _ = self.ssh(address, &script);
    }

    /// Runs a script as [`Key::ssh`] does, as soon as the guest lets us in: sshd comes up a moment
    /// after the address does.
    ///
    /// # Errors
    /// If it does not within [`BOOT`].
    pub fn ssh_when_up(&self, address: &str, script: &str) -> Result<String> {
        let said = wait_until(BOOT, || Ok(self.ssh(address, script).ok()))?;
        said.with_context(|| format!("ssh to {address} does not let us in"))
    }

    /// Which of its lives the guest is in.
    ///
    /// # Errors
    /// As [`Key::ssh_when_up`].
    pub fn boot_id(&self, address: &str) -> Result<String> {
        self.ssh_when_up(address, "cat /proc/sys/kernel/random/boot_id")
    }

    /// Waits until the guest has been booted again since `before`.
    ///
    /// # Errors
    /// If it is not within [`BOOT`].
    pub fn booted_since(&self, address: &str, before: &str) -> Result<String> {
        let script = "cat /proc/sys/kernel/random/boot_id";
        let changed = || Ok(self.ssh(address, script).ok().filter(|now| now != before));
        wait_until(BOOT, changed)?.with_context(|| format!("{address} was not booted again"))
    }
}

/// Waits until the address answers.
///
/// # Errors
/// If it does not within `patience`; at least one echo request is sent.
pub fn ping(address: &str, patience: Duration) -> Result<()> {
    let answers = || {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "1", address]);
        Ok(check(ping, BOOT).ok())
    };
    wait_until(patience, answers)?.with_context(|| format!("{address} does not answer"))?;
    Ok(())
}

/// Pings an address all the time, twice a second, and counts.
#[derive(Debug)]
pub struct Pinger {
    child: Child,
    log: PathBuf,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// Echo requests.
    pub sent: u32,
    /// Those without an answer, however late; the last one may still have been on its way.
    pub lost: u32,
}

impl Pinger {
    /// Begins, with its log in `folder`.
    ///
    /// # Errors
    /// If `ping` cannot be started.
    pub fn start(address: &str, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("ping-{address}.log"));
        let mut ping = Command::new("ping");
        ping.args(["-n", "-i", "0.5", address]);
        let child = Child::spawn(&format!("ping {address}"), ping, &log)?;
        Ok(Self { child, log })
    }

    /// Ends and counts.
    ///
    /// # Errors
    /// If `ping` has ended before, or says what is not understood.
    pub fn finish(mut self) -> Result<Pings> {
        self.child.check_alive()?;
        self.child.signal(Signal::SIGINT)?;
        self.child.wait(Duration::from_secs(20))?;
        let said = process::tail(&self.log, 1000);
        let number = |word: &str| {
            let before = said.split(word).next()?;
            before.split_whitespace().next_back()?.parse::<u32>().ok()
        };
        let sent = number(" packets transmitted").context("ping counts")?;
        let answered = number(" received").context("ping counts")?;
        let lost = sent.saturating_sub(answered).saturating_sub(1);
        Ok(Pings { sent, lost })
    }
}
