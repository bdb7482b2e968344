//! One request id, followed through the logs of controller, agent and VMM.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Cast;
use crate::rig::{Rig, Server};

fn said(told: &[String], who: &str, words: &str) -> Result<()> {
    let found = told
        .iter()
        .any(|line| line.contains(who) && line.contains(words));
    ensure!(
        found,
        "{who} does not say {words:?} in:\n{}",
        told.join("\n")
    );
    Ok(())
}

/// From the request's acceptance to the guest's start.
pub fn a_good_build(rig: &Rig, cast: &Cast) -> Result<()> {
    let told = rig.follow(&cast.target.request_id)?;
    said(&told, "controller: ", "operation accepted")?;
    let agent = format!("{} agent: ", rig.cloud.hosts[cast.home].name());
    said(&told, &agent, "the guest was started")?;
    let vmm = format!("{} vmm: ", rig.cloud.hosts[cast.home].name());
    said(&told, &vmm, "the guest was started")?;
    let elsewhere = rig.cloud.hosts[1 - cast.home].name();
    let strays = told.iter().filter(|line| line.starts_with(elsewhere));
    ensure!(strays.count() == 0, "the other host has its part in it");
    Ok(())
}

/// The same, with an agent that was killed `deaths` times in the middle.
pub fn a_build_through_kills(rig: &Rig, server: &Server, deaths: usize) -> Result<()> {
    let told = rig.follow(&server.request_id)?;
    said(&told, "controller: ", "operation accepted")?;
    said(&told, " agent: ", "\"step\":\"start_process\"")?;
    said(&told, " vmm: ", "the guest was started")?;
    let resumed = told.iter().filter(|line| line.contains("resumed: "));
    let resumed = resumed.count();
    ensure!(
        resumed == deaths,
        "{resumed} of {deaths}:\n{}",
        told.join("\n")
    );
    said(&told, "controller: ", "\"outcome\":\"done\"")?;
    Ok(())
}

/// A byte of the stored image changes: no host takes it, and the fault says which and why.
pub fn a_corrupt_image(rig: &Rig, cast: &Cast) -> Result<()> {
    let image = rig.small_image("corrupt")?;
    let file = rig.cloud.dir().join("images").join(&image);
    let mut bytes = fs::read(&file).with_context(|| file.display().to_string())?;
    bytes[4711] ^= 1;
    fs::write(&file, bytes)?;
    let about = json!({"imageRef": image, "flavorRef": "tiny"});
    let server = rig.create("corrupt", &about)?;
    let shown = rig.wait(&server, "ERROR")?;
    let fault = shown["fault"]["message"].as_str().unwrap_or_default();
    ensure!(
        fault.contains(&image) && fault.contains("checksum"),
        "the fault: {}",
        shown["fault"]
    );
    let told = rig.follow(&server.request_id)?;
    said(&told, "controller: ", "operation accepted")?;
    said(&told, "controller: ", "checksum")?;
    said(&told, " agent: ", "checksum")?;
    let tried = |host: &str| told.iter().any(|l| l.starts_with(&format!("{host} agent")));
    let tried = rig.cloud.hosts.iter().filter(|h| tried(h.name())).count();
    ensure!(tried == 1, "{tried} hosts tried what none can do");
    rig.delete(&server)?;
    let _ = cast;
    Ok(())
}
