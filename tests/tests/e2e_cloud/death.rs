//! `kill -9` of what a guest depends on, and of what it does not.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use berth_rpc::kill_point::names_in;
use berth_tests::binaries::workspace;
use berth_tests::debian::ping;
use berth_tests::process::wait_until;
use serde_json::{Value, json};

use crate::Cast;
use crate::life::CRASHED;
use crate::rig::{Rig, SOON, Server};
use crate::traces;

/// Guests outlive the agent; the next one adopts them, and they obey it.
pub fn of_the_agent(rig: &Rig, cast: &Cast) -> Result<()> {
    let vmm = rig.pid(cast.home, "berth-vmm")?;
    let boot = rig.key.boot_id(&cast.address)?;
    let adopted = || times_logged(rig, cast.home, "guest adopted");
    let before = adopted()?;
    rig.kill9(cast.home, "berth-agent")?;
    ping(&cast.address, SOON)?;
    rig.start_agent(cast.home)?;
    let again = || Ok((adopted()? > before).then_some(()));
    wait_until(SOON, again)?.context("the guest is not adopted")?;
    ensure!(rig.pid(cast.home, "berth-vmm")? == vmm, "another VMM runs");
    ensure!(
        rig.key.boot_id(&cast.address)? == boot,
        "it was booted again"
    );

    rig.act(&cast.target, &json!({"os-stop": null}))?;
    rig.wait(&cast.target, "SHUTOFF")?;
    ensure!(
        rig.pids(cast.home, "berth-vmm")?.is_empty(),
        "a VMM is left"
    );
    rig.act(&cast.target, &json!({"os-start": null}))?;
    rig.wait(&cast.target, "ACTIVE")?;
    rig.key.booted_since(&cast.address, &boot)?;
    Ok(())
}

/// A VMM's death is seen and told, and a start brings the guest back.
pub fn of_the_vmm(rig: &Rig, cast: &Cast) -> Result<()> {
    let boot = rig.key.boot_id(&cast.address)?;
    rig.kill9(cast.home, "berth-vmm")?;
    crashed(rig, &cast.target, "its VMM was killed")?;
    rig.act(&cast.target, &json!({"os-start": null}))?;
    rig.wait(&cast.target, "ACTIVE")?;
    rig.key.booted_since(&cast.address, &boot)?;
    Ok(())
}

/// The power of a whole host goes, and comes again.
pub fn of_the_host(rig: &mut Rig, cast: &Cast) -> Result<()> {
    rig.key.ssh(&cast.address, "echo kept > /root/kept; sync")?;
    rig.cloud.hosts[cast.home].power_cut()?;
    ping(&rig.address(&cast.bystander)?, SOON)?;
    rig.cloud.hosts[cast.home].power_on()?;
    rig.start_agent(cast.home)?;
    crashed(rig, &cast.target, "the host was restarted")?;
    rig.act(&cast.target, &json!({"os-start": null}))?;
    rig.wait(&cast.target, "ACTIVE")?;
    let kept = rig.key.ssh_when_up(&cast.address, "cat /root/kept")?;
    ensure!(kept == "kept\n", "what was synced is lost: {kept}");
    Ok(())
}

/// The agent dies at each of the KVM driver's kill points, one after the other while one server
/// is built and deleted; each next agent goes on where the last one died.
pub fn at_every_kill_point(rig: &Rig, cast: &Cast) -> Result<()> {
    let points = names_in(&workspace().join("agent/src/kvm"))?;
    // Those that a delete passes; all others are passed by a build.
    let (of_delete, of_build): (Vec<_>, Vec<_>) = points
        .into_iter()
        .partition(|name| matches!(name.as_str(), "agent.vmm.ended" | "agent.directory.removed"));
    // A network's DHCP server is started where none runs: by the next agent after this.
    let dhcp = "agent.dhcp.started";
    let of_build = in_order(of_build.into_iter().filter(|name| name != dhcp).collect());
    rig.kill9(cast.home, "berth-agent")?;
    rig.cloud.hosts[cast.home].sh("pkill -9 dnsmasq; true")?;
    rig.arm(cast.home, dhcp)?;
    rig.start_agent(cast.home)?;
    dies(rig, cast.home, dhcp)?;

    rig.arm(cast.home, &of_build[0])?;
    rig.start_agent(cast.home)?;
    wait_up(rig, cast.home)?;
    let image = rig.small_image("killed")?;
    let zone = format!("nova:{}", rig.cloud.hosts[cast.home].name());
    let about = json!({"imageRef": image, "flavorRef": "tiny", "availability_zone": zone});
    let server = rig.create("killed", &about)?;
    die_one_by_one(rig, cast.home, &of_build)?;
    rig.wait(&server, "ACTIVE")?;
    traces::a_build_through_kills(rig, &server, of_build.len())?;
    ensure!(
        rig.pids(cast.home, "berth-vmm")?.len() == 2,
        "a VMM too many"
    );

    let of_delete = in_order(of_delete);
    rig.arm(cast.home, &of_delete[0])?;
    let path = format!("/compute/v2.1/servers/{}", server.id);
    rig.rest.done("DELETE", &path, &Value::Null)?;
    die_one_by_one(rig, cast.home, &of_delete)?;
    rig.wait_gone(&server)?;
    only_the_target_is_left(rig, cast)
}

/// The order in which a build or a delete passes them. One that is unknown here comes last, and
/// is found never to be reached: the list below is to be completed then.
fn in_order(mut points: Vec<String>) -> Vec<String> {
    const PASSED: &[&str] = &[
        "agent.directory.made",
        "agent.image.fetched",
        "agent.image.made",
        "agent.image.ready",
        "agent.disk.made",
        "agent.vmm.spawned",
        "agent.vmm.recorded",
        "agent.vmm.started",
        "agent.vmm.ended",
        "agent.directory.removed",
    ];
    let place = |name: &String| PASSED.iter().position(|p| p == name);
    points.sort_by_key(|name| place(name).unwrap_or(PASSED.len()));
    points
}

/// The first is armed; each death arms the next, before the agent comes again.
fn die_one_by_one(rig: &Rig, host: usize, points: &[String]) -> Result<()> {
    for (at, point) in points.iter().enumerate() {
        dies(rig, host, point)?;
        if let Some(next) = points.get(at + 1) {
            rig.arm(host, next)?;
        }
        rig.start_agent(host)?;
    }
    Ok(())
}

/// Waits until the agent has died at that kill point: the order is gone, and so is the process,
/// which an agent on its way to its exec is not yet by name.
fn dies(rig: &Rig, host: usize, point: &str) -> Result<()> {
    let dead = || {
        let gone = !rig.is_armed(host)? && rig.pids(host, "berth-agent")?.is_empty();
        Ok(gone.then_some(()))
    };
    if wait_until(SOON, dead)?.is_some() {
        return Ok(());
    }
    bail!(
        "{point}: order stands: {}, agents: {:?}",
        rig.is_armed(host)?,
        rig.pids(host, "berth-agent")?
    )
}

/// How often the agents on a host have said that.
fn times_logged(rig: &Rig, host: usize, words: &str) -> Result<u32> {
    let script = format!("grep -c '{words}' /var/log/agent.log || true");
    Ok(rig.cloud.hosts[host].sh(&script)?.trim().parse()?)
}

/// Waits until the controller calls a host up, so that servers may be placed there.
fn wait_up(rig: &Rig, host: usize) -> Result<()> {
    let name = rig.cloud.hosts[host].name();
    let began = Instant::now();
    let up = || {
        let path = format!("/compute/v2.1/os-services?host={name}&binary=nova-compute");
        let services = rig.rest.done("GET", &path, &Value::Null)?;
        Ok((services.body["services"][0]["state"] == "up").then_some(()))
    };
    wait_until(SOON, up)?.with_context(|| format!("{name} is down after {:?}", began.elapsed()))
}

fn only_the_target_is_left(rig: &Rig, cast: &Cast) -> Result<()> {
    let script = "ls /var/lib/berth/agent/vmms | wc -l; pgrep -c berth-vmm; \
        ip -br link | grep -c '^bt'; pgrep -c dnsmasq; \
        ls /var/lib/berth/agent/images | grep -c partial; true";
    let left = rig.cloud.hosts[cast.home].sh(script)?;
    ensure!(left == "1\n1\n1\n1\n0\n", "left beside the target: {left}");
    ping(&cast.address, SOON)
}

/// Waits until the server is shown as crashed, which in Nova's words is stopped with power state
/// 6, and the reason is logged (the API shows faults of servers in ERROR only).
fn crashed(rig: &Rig, server: &Server, why: &str) -> Result<()> {
    let shown = rig.wait(server, "SHUTOFF")?;
    ensure!(shown["OS-EXT-STS:power_state"] == CRASHED, "{shown:#}");
    let log = fs::read_to_string(&rig.cloud.controllers[0].log)?;
    let told = log
        .lines()
        .any(|line| line.contains(&server.id) && line.contains(why));
    ensure!(told, "the controller does not log {why:?}");
    Ok(())
}
