//! What users and guests do.

use anyhow::{Context, Result, ensure};
use berth_tests::debian::{BOOT, Pinger, ping};
use berth_tests::process::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

use crate::Cast;
use crate::rig::{Rig, SOON};

/// Nova's numbers.
pub const RUNNING: u8 = 1;
pub const SHUTDOWN: u8 = 4;
pub const CRASHED: u8 = 6;

/// Two servers are built at once, the second where the first is not. The first has user data.
pub fn two_guests(rig: &Rig) -> Result<Cast> {
    // "#!/bin/sh\necho it ran > /root/user-data\n"
    let user_data = "IyEvYmluL3NoCmVjaG8gaXQgcmFuID4gL3Jvb3QvdXNlci1kYXRhCg==";
    let target = rig.create("target", &json!({"user_data": user_data}))?;
    let home = rig.host_of(&target)?;
    let hints = json!({"os:scheduler_hints": {"different_host": [target.id]}});
    let bystander = rig.create("bystander", &hints)?;
    for server in [&target, &bystander] {
        let shown = rig.wait(server, "ACTIVE")?;
        ensure!(shown["OS-EXT-STS:power_state"] == RUNNING, "{shown:#}");
        rig.login_prompt(server)?;
    }
    ensure!(rig.host_of(&bystander)? != home, "both are on one host");

    let address = rig.address(&target)?;
    ping(&address, SOON)?;
    let said = rig
        .key
        .ssh_when_up(&address, "hostname; ip -4 -br addr show eth0")?;
    ensure!(said.starts_with("target\n"), "the host name: {said}");
    ensure!(said.contains(&address), "the address: {said}");
    // The address came by DHCP, as the config drive told the guest.
    let told = "mkdir -p /run/drive && mount -o ro LABEL=config-2 /run/drive && \
        cat /run/drive/openstack/latest/network_data.json && umount /run/drive";
    let told: Value = serde_json::from_str(&rig.key.ssh(&address, told)?)?;
    ensure!(told["networks"][0]["type"] == "ipv4_dhcp", "{told:#}");
    let lease = "networkctl status eth0 | grep -i dhcp4";
    rig.key.ssh(&address, lease).context("no lease is known")?;
    let ran = wait_until(BOOT, || {
        Ok(rig.key.ssh(&address, "cat /root/user-data").ok())
    })?;
    ensure!(ran.as_deref() == Some("it ran\n"), "user data: {ran:?}");

    let pinged = rig.address(&bystander)?;
    ping(&pinged, SOON)?;
    let pinger = Pinger::start(&pinged, rig.dir.path())?;
    Ok(Cast {
        target,
        home,
        address,
        bystander,
        pinger,
    })
}

/// What a guest does to itself is seen: a reboot is carried out, a power-off is told.
pub fn by_itself(rig: &Rig, cast: &Cast) -> Result<()> {
    let before = rig.key.boot_id(&cast.address)?;
    rig.key.order(&cast.address, "systemctl reboot");
    rig.key.booted_since(&cast.address, &before)?;
    rig.wait(&cast.target, "ACTIVE")?;

    rig.key.order(&cast.address, "systemctl poweroff");
    let shown = rig.wait(&cast.target, "SHUTOFF")?;
    ensure!(shown["OS-EXT-STS:power_state"] == SHUTDOWN, "{shown:#}");
    ensure!(
        rig.pids(cast.home, "berth-vmm")?.is_empty(),
        "a VMM is left"
    );
    rig.act(&cast.target, &json!({"os-start": null}))?;
    rig.wait(&cast.target, "ACTIVE")?;
    rig.key.boot_id(&cast.address)?;
    Ok(())
}

/// A paused guest is silent and loses nothing.
pub fn pause(rig: &Rig, cast: &Cast) -> Result<()> {
    let before = rig.key.boot_id(&cast.address)?;
    ping(&cast.address, SOON)?;
    rig.act(&cast.target, &json!({"pause": null}))?;
    rig.wait(&cast.target, "PAUSED")?;
    let answer = ping(&cast.address, Duration::from_secs(2));
    ensure!(answer.is_err(), "a paused guest answers");
    rig.act(&cast.target, &json!({"unpause": null}))?;
    rig.wait(&cast.target, "ACTIVE")?;
    ping(&cast.address, SOON)?;
    let after = rig.key.boot_id(&cast.address)?;
    ensure!(after == before, "it was booted again");
    Ok(())
}

/// A soft reboot asks the guest, which shuts down in order; a hard one asks nobody.
pub fn reboots(rig: &Rig, cast: &Cast) -> Result<()> {
    let before = rig.key.boot_id(&cast.address)?;
    // systemd runs a unit's ExecStop only when the guest is shut down in order.
    let witness = "systemd-run --quiet --unit=witness --property=RemainAfterExit=yes \
        --property='ExecStop=/bin/sh -c \"echo in order > /root/witness; sync\"' /bin/true";
    rig.key.ssh(&cast.address, witness)?;
    rig.act(&cast.target, &json!({"reboot": {"type": "SOFT"}}))?;
    let before = rig.key.booted_since(&cast.address, &before)?;
    rig.wait(&cast.target, "ACTIVE")?;
    let witness = rig
        .key
        .ssh(&cast.address, "cat /root/witness; rm /root/witness; sync")?;
    ensure!(witness == "in order\n", "not shut down in order: {witness}");

    // A guest that hears no power button any more: its kernel has panicked and waits.
    let hang = "echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq; \
        echo c > /proc/sysrq-trigger";
    rig.key.order(&cast.address, hang);
    let silent = || Ok(ping(&cast.address, Duration::ZERO).is_err().then_some(()));
    wait_until(SOON, silent)?.context("the guest does not hang")?;
    rig.act(&cast.target, &json!({"reboot": {"type": "HARD"}}))?;
    rig.key.booted_since(&cast.address, &before)?;
    rig.wait(&cast.target, "ACTIVE")?;
    Ok(())
}

/// A server's address is the next one's, on the same host and network, as soon as it is deleted: its lease
/// is not waited for.
pub fn heir(rig: &Rig, cast: &Cast) -> Result<()> {
    let mut about = json!({"os:scheduler_hints": {"same_host": [cast.bystander.id]}});
    let first = rig.create("first", &about)?;
    rig.wait(&first, "ACTIVE")?;
    let address = rig.address(&first)?;
    ping(&address, BOOT)?;
    rig.delete(&first)?;
    about["networks"] = json!([{"uuid": rig.network, "fixed_ip": address}]);
    let heir = rig.create("heir", &about)?;
    rig.wait(&heir, "ACTIVE")?;
    ensure!(rig.address(&heir)? == address, "it has another address");
    ping(&address, BOOT)?;
    rig.delete(&heir)?;
    Ok(())
}
