//! `make demo`: the whole system from bare, in front of your eyes. Every step is verified, and
//! the exit code is 0 only if all of them were. Nothing is left running or lying about.
//!
//! The figures at the end are of emulated hosts where this machine has no hardware KVM: a guest's
//! processor is emulated twice then. They show order, not speed.

#![allow(clippy::exit, reason = "a program's last word is its exit code")]

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::cloud::{Cloud, PHYSICAL_NETWORK, Plan};
use berth_tests::images::Images;
use berth_tests::net::TestNet;
use berth_tests::openstack::OpenStack;
use berth_tests::process::{check, wait_until};
use berth_tests::skip::missing_for_hosts;

/// A guest boots in 15 s under two emulations; the machine may be busy.
const BOOT: Duration = Duration::from_secs(300);
const SERVER: &str = "first";

fn main() {
    let mut steps = Steps::default();
    let done = demo(&mut steps);
    steps.table();
    match done {
        Ok(()) => println!("\nEvery step was verified. Nothing is left running."),
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            std::process::exit(1);
        }
    }
}

fn demo(steps: &mut Steps) -> Result<()> {
    if let Some(missing) = missing_for_hosts() {
        bail!("{missing}");
    }
    let images = steps.run("Debian's kernel and userland, as images", Images::get)?;
    steps.run("the openstack command", OpenStack::program)?;
    let net = TestNet::new()?;
    let plan = Plan {
        controllers: 1,
        postgres: false,
        emulated_hosts: 2,
        simulated_hosts: 0,
    };
    let cloud = steps.run("RabbitMQ, a controller, two compute hosts", || {
        Cloud::start(&net, plan)
    })?;
    let openstack = cloud.openstack()?;
    show(&openstack, &["compute", "service", "list"])?;
    let dir = tempfile::tempdir()?;
    let result = tour(steps, &cloud, &openstack, &images, &net, dir.path());
    if result.is_err() {
        explain(&cloud);
    }
    result?;
    steps.run("audit: nothing is lost, nothing is left", || cloud.audit())
}

fn tour(
    steps: &mut Steps,
    cloud: &Cloud,
    openstack: &OpenStack,
    images: &Images,
    net: &TestNet,
    dir: &Path,
) -> Result<()> {
    steps.run("images registered (kernel, ramdisk, root)", || {
        register(openstack, images)
    })?;
    steps.run("a network, a subnet, a flavor and a key", || {
        prepare(openstack, net, dir)
    })?;
    steps.run("server create --wait: ACTIVE", || {
        let create = [
            "server",
            "create",
            "--image",
            "debian",
            "--flavor",
            "demo",
            "--network",
            "demo",
        ];
        openstack.run(&[&create[..], &["--key-name", "demo", "--wait", SERVER]].concat())?;
        expect_status(openstack, "ACTIVE")
    })?;
    let address = address(openstack)?;
    steps.run("its console, up to the login prompt", || {
        let console = login_prompt(openstack, 1)?;
        let shown: Vec<&str> = console.lines().rev().take(4).collect();
        shown.iter().rev().for_each(|line| println!("    | {line}"));
        Ok(())
    })?;
    steps.run("ping", || ping(&address, BOOT))?;
    steps.run("ssh with that key", || log_in(dir, &address))?;
    steps.run("server stop: SHUTOFF, silent on the network", || {
        openstack.run(&["server", "stop", SERVER])?;
        wait_for_status(openstack, "SHUTOFF")?;
        ensure!(
            ping(&address, Duration::from_secs(1)).is_err(),
            "{address} still answers"
        );
        Ok(())
    })?;
    steps.run("server start: ACTIVE, answers again", || {
        openstack.run(&["server", "start", SERVER])?;
        wait_for_status(openstack, "ACTIVE")?;
        ping(&address, BOOT)
    })?;
    steps.run("server reboot: a new boot id", || {
        let before = boot_id(dir, &address)?;
        openstack.run(&["server", "reboot", "--wait", SERVER])?;
        let changed = || Ok(boot_id(dir, &address).ok().filter(|now| *now != before));
        wait_until(BOOT, changed)?.context("the guest was not booted again")?;
        expect_status(openstack, "ACTIVE")
    })?;
    steps.run("server delete --wait: gone, with all it had", || {
        openstack.run(&["server", "delete", "--wait", SERVER])?;
        ensure!(
            openstack
                .json(&["server", "list"])?
                .as_array()
                .is_some_and(Vec::is_empty),
            "a server is left"
        );
        ensure!(
            ping(&address, Duration::from_secs(1)).is_err(),
            "{address} still answers"
        );
        for host in &cloud.hosts {
            let left = host.sh(
                "pgrep -a berth-vmm; ls /var/lib/berth/agent/vmms; ip -br link | grep '^bt'; true",
            )?;
            ensure!(left.trim().is_empty(), "left on {}: {left}", host.name());
        }
        Ok(())
    })
}

/// Kernel and ramdisk first: the root image names them.
fn register(openstack: &OpenStack, images: &Images) -> Result<()> {
    let create =
        |name: &str, format: &str, file: PathBuf, properties: &[String]| -> Result<String> {
            let file = file.to_str().context("paths are UTF-8")?.to_owned();
            let mut words = vec![
                "image",
                "create",
                "--disk-format",
                format,
                "--container-format",
            ];
            words.extend([
                if matches!(format, "aki" | "ari") {
                    format
                } else {
                    "bare"
                },
                "--file",
                &file,
            ]);
            for property in properties {
                words.extend(["--property", property]);
            }
            words.push(name);
            let made = openstack.json(&words)?;
            Ok(made["id"]
                .as_str()
                .context("an image has an id")?
                .to_owned())
        };
    let kernel = create("debian-kernel", "aki", images.vmlinuz(), &[])?;
    let ramdisk = create("debian-ramdisk", "ari", images.guest_initrd(), &[])?;
    let properties = [
        format!("kernel_id={kernel}"),
        format!("ramdisk_id={ramdisk}"),
        format!("os_command_line={}", images.guest_cmdline()?.trim()),
    ];
    create("debian", "qcow2", images.guest_qcow2(), &properties)?;
    show(openstack, &["image", "list"])
}

fn prepare(openstack: &OpenStack, net: &TestNet, dir: &Path) -> Result<()> {
    let key = dir.join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    check(keygen, BOOT)?;
    let public = key.with_extension("pub");
    let public = public.to_str().context("paths are UTF-8")?;
    openstack.run(&[
        "network",
        "create",
        "--provider-network-type",
        "flat",
        "--provider-physical-network",
        PHYSICAL_NETWORK,
        "--share",
        "demo",
    ])?;
    let (cidr, gateway) = (net.provider_cidr(), net.provider_ip().to_string());
    openstack.run(&[
        "subnet",
        "create",
        "--network",
        "demo",
        "--subnet-range",
        &cidr,
        "--gateway",
        &gateway,
        "demo",
    ])?;
    openstack.run(&[
        "flavor", "create", "--vcpus", "1", "--ram", "512", "--disk", "2", "demo",
    ])?;
    openstack.run(&["keypair", "create", "--public-key", public, "demo"])?;
    Ok(())
}

fn status(openstack: &OpenStack) -> Result<String> {
    let server = openstack.json(&["server", "show", SERVER])?;
    let status = server["status"].as_str().unwrap_or_default().to_owned();
    if status == "ERROR" {
        bail!("the server is in ERROR: {}", server["fault"]);
    }
    Ok(status)
}

fn expect_status(openstack: &OpenStack, wanted: &str) -> Result<()> {
    let status = status(openstack)?;
    ensure!(status == wanted, "the server is {status}, not {wanted}");
    Ok(())
}

fn wait_for_status(openstack: &OpenStack, wanted: &str) -> Result<()> {
    let reached = || Ok((status(openstack)? == wanted).then_some(()));
    wait_until(BOOT, reached)?.with_context(|| format!("the server does not become {wanted}"))
}

fn address(openstack: &OpenStack) -> Result<String> {
    let server = openstack.json(&["server", "show", SERVER])?;
    let address = server["addresses"]["demo"][0].as_str();
    Ok(address
        .with_context(|| format!("no address: {}", server["addresses"]))?
        .to_owned())
}

/// Waits until the console log shows that many login prompts.
fn login_prompt(openstack: &OpenStack, count: usize) -> Result<String> {
    let prompt = format!("{SERVER} login:");
    let mut console = String::new();
    let seen = wait_until(BOOT, || {
        console = openstack.run(&["console", "log", "show", SERVER])?;
        Ok((console.matches(&prompt).count() >= count).then_some(()))
    })?;
    ensure!(seen.is_some(), "no login prompt on the console:\n{console}");
    Ok(console)
}

fn ping(address: &str, patience: Duration) -> Result<()> {
    let answers = || {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "1", address]);
        Ok(check(ping, BOOT).ok())
    };
    wait_until(patience, answers)?.with_context(|| format!("{address} does not answer"))?;
    Ok(())
}

fn ssh(dir: &Path, address: &str, script: &str) -> Result<String> {
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-q",
        "-F",
        "none",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]);
    ssh.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-i"]);
    ssh.arg(dir.join("key"))
        .arg(format!("root@{address}"))
        .arg(script);
    check(ssh, BOOT)
}

fn log_in(dir: &Path, address: &str) -> Result<()> {
    // sshd comes up a moment after the address does.
    let said = wait_until(BOOT, || {
        Ok(ssh(dir, address, "hostname; uname -sr; uptime -p").ok())
    })?;
    let said = said.context("ssh does not let us in")?;
    ensure!(said.starts_with(SERVER), "the guest calls itself {said}");
    said.lines().for_each(|line| println!("    | {line}"));
    Ok(())
}

fn boot_id(dir: &Path, address: &str) -> Result<String> {
    let script = "cat /proc/sys/kernel/random/boot_id";
    let id = wait_until(BOOT, || Ok(ssh(dir, address, script).ok()))?;
    id.context("ssh does not let us in")
}

fn show(openstack: &OpenStack, words: &[&str]) -> Result<()> {
    println!("    $ openstack {}", words.join(" "));
    openstack
        .run(words)?
        .lines()
        .for_each(|line| println!("    {line}"));
    Ok(())
}

/// What the services said last, where a step failed.
fn explain(cloud: &Cloud) {
    for controller in &cloud.controllers {
        eprintln!("--- {}\n{}", controller.name, controller.log_tail());
    }
    for host in &cloud.hosts {
        let log = host
            .sh("tail -c 4000 /var/log/agent.log; tail -c 1500 /var/lib/berth/agent/vmms/*/*.log");
        eprintln!(
            "--- {}\n{}",
            host.name(),
            log.unwrap_or_else(|error| error.to_string())
        );
    }
    if let Ok(folder) = std::env::var("BERTH_DEMO_KEEP_LOGS") {
        let _ = fs::create_dir_all(&folder);
        for controller in &cloud.controllers {
            let _ = fs::copy(&controller.log, Path::new(&folder).join(&controller.name));
        }
    }
}

/// The steps so far, with what each took.
#[derive(Default)]
struct Steps(Vec<(String, Duration, bool)>);

impl Steps {
    fn run<T>(&mut self, what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        if std::io::stdout().is_terminal() {
            println!("\x1b[1m==> {what}\x1b[0m");
        } else {
            println!("==> {what}");
        }
        let began = Instant::now();
        let result = step();
        self.0
            .push((what.to_owned(), began.elapsed(), result.is_ok()));
        result.with_context(|| what.to_owned())
    }

    fn table(&self) {
        println!("\n{:<50} {:>8}", "step", "seconds");
        for (what, took, ok) in &self.0 {
            println!(
                "{what:<50} {:>8.1}  {}",
                took.as_secs_f32(),
                if *ok { "ok" } else { "FAILED" }
            );
        }
        let all: Duration = self.0.iter().map(|(_, took, _)| *took).sum();
        println!("{:<50} {:>8.1}", "all", all.as_secs_f32());
    }
}
