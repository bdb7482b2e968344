//! `kill -9` of what a guest depends on, and of what it does not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::debian::ping;
use berth_tests::process::wait_until;
use serde_json::{Value, json};

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

/// A host is silent, its guests are not; an administrator says that it is off. What was deleted
/// goes at the host's return, before it takes any order; its other guest is still its own.
pub fn of_a_host_by_word(rig: &Rig, cast: &Cast) -> Result<()> {
    let kernel = rig.probe_kernel()?;
    let image = rig.probe_image(&kernel, "given-up", "mode=boot end=button")?;
    let about = json!({"imageRef": image, "flavorRef": "tiny",
        "os:scheduler_hints": {"same_host": [cast.target.id]}});
    let boot = rig.key.boot_id(&cast.address)?;
    let vmm = rig.pid(cast.home, "berth-vmm")?;
    let given_up = rig.create("given-up", &about)?;
    rig.wait(&given_up, "ACTIVE")?;
    let vmms = || Ok::<_, anyhow::Error>(rig.pids(cast.home, "berth-vmm")?.len());
    ensure!(vmms()? == 2, "{} VMMs, and not two", vmms()?);

    rig.kill9(cast.home, "berth-agent")?;
    let path = format!("/compute/v2.1/servers/{}", given_up.id);
    rig.rest.done("DELETE", &path, &Value::Null)?;
    std::thread::sleep(Duration::from_secs(2));
    let shown = rig.show(&given_up)?;
    ensure!(
        shown["OS-EXT-STS:task_state"] == "deleting",
        "it does not wait for the host: {shown:#}"
    );
    force_down(rig, cast.home, true)?;
    rig.wait_gone(&given_up)?;
    ensure!(vmms()? == 2, "who killed it?");

    rig.start_agent(cast.home)?;
    let removed = || Ok((vmms()? == 1).then_some(()));
    wait_until(SOON, removed)?.context("what the host lost still runs there")?;
    ensure!(rig.pid(cast.home, "berth-vmm")? == vmm, "the wrong one");
    force_down(rig, cast.home, false)?;
    ensure!(
        rig.key.boot_id(&cast.address)? == boot,
        "it was booted again"
    );
    rig.wait(&cast.target, "ACTIVE")?;
    let lost = || {
        let left = "SELECT COUNT(*) FROM vmms WHERE lost_at IS NOT NULL AND removed_at IS NULL";
        Ok((rig.sql(left)? == "0").then_some(()))
    };
    wait_until(SOON, lost)?.context("the host does not report what it removed")?;
    rig.cloud.audit()
}

fn force_down(rig: &Rig, host: usize, down: bool) -> Result<()> {
    let services = rig
        .rest
        .done("GET", "/compute/v2.1/os-services", &Value::Null)?;
    let name = rig.cloud.hosts[host].name();
    let services = services.body["services"].as_array();
    let service = services.into_iter().flatten().find(|s| s["host"] == name);
    let id = service.context("the host is a service")?["id"].as_str();
    let path = format!("/compute/v2.1/os-services/{}", id.context("with an id")?);
    let asked = json!({"forced_down": down});
    rig.rest.done("PUT", &path, &asked).map(drop)
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
