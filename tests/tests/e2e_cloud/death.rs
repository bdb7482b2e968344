//! `kill -9` of what a guest depends on, and of what it does not.

use anyhow::{Context, Result, ensure};
use berth_tests::debian::ping;
use berth_tests::process::wait_until;
use serde_json::json;

use crate::Cast;
use crate::life::CRASHED;
use crate::rig::{Rig, SOON, Server};

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

/// How often the agents on a host have said that.
fn times_logged(rig: &Rig, host: usize, words: &str) -> Result<u32> {
    let script = format!("grep -c '{words}' /var/log/agent.log || true");
    Ok(rig.cloud.hosts[host].sh(&script)?.trim().parse()?)
}

/// Waits until the server is shown as crashed, which in Nova's words is stopped with power state
/// 6, and the reason is logged (the API shows faults of servers in ERROR only).
pub fn crashed(rig: &Rig, server: &Server, why: &str) -> Result<()> {
    let shown = rig.wait(server, "SHUTOFF")?;
    ensure!(shown["OS-EXT-STS:power_state"] == CRASHED, "{shown:#}");
    let log = rig.controllers_said()?;
    let told = log
        .lines()
        .any(|line| line.contains(&server.id) && line.contains(why));
    ensure!(told, "the controller does not log {why:?}");
    Ok(())
}
