//! `make demo`: the whole system from bare, in front of your eyes. Every step is verified, and
//! the exit code is 0 only if all of them were. Nothing is left running or lying about.
//!
//! The figures at the end are of emulated hosts where this machine has no hardware KVM: a guest's
//! processor is emulated twice then. They show order, not speed.

#![allow(clippy::exit, reason = "a program's last word is its exit code")]

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::cloud::{Cloud, Plan};
use berth_tests::debian::{self, BOOT, Key, ping};
use berth_tests::images::Images;
use berth_tests::net::TestNet;
use berth_tests::openstack::OpenStack;
use berth_tests::process::wait_until;
use berth_tests::skip::missing_for_hosts;

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
        eprintln!("{}", cloud.explain());
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
        debian::register(openstack, images)?;
        show(openstack, &["image", "list"])
    })?;
    let key = steps.run("a network, a subnet, a flavor and a key", || {
        let key = Key::make(dir)?;
        debian::furnish(openstack, net, &key)?;
        Ok(key)
    })?;
    steps.run("server create --wait: ACTIVE", || {
        let create = [
            "server",
            "create",
            "--image",
            debian::IMAGE,
            "--flavor",
            debian::NAME,
            "--network",
            debian::NAME,
        ];
        openstack.run(&[&create[..], &["--key-name", debian::NAME, "--wait", SERVER]].concat())?;
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
    steps.run("ssh with that key", || log_in(&key, &address))?;
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
        let before = key.boot_id(&address)?;
        openstack.run(&["server", "reboot", "--wait", SERVER])?;
        key.booted_since(&address, &before)?;
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
    let address = server["addresses"][debian::NAME][0].as_str();
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

fn log_in(key: &Key, address: &str) -> Result<()> {
    let said = key.ssh_when_up(address, "hostname; uname -sr; uptime -p")?;
    ensure!(said.starts_with(SERVER), "the guest calls itself {said}");
    said.lines().for_each(|line| println!("    | {line}"));
    Ok(())
}

fn show(openstack: &OpenStack, words: &[&str]) -> Result<()> {
    println!("    $ openstack {}", words.join(" "));
    openstack
        .run(words)?
        .lines()
        .for_each(|line| println!("    {line}"));
    Ok(())
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
