//! A cloud of two emulated hosts with real guests, and everything that can happen to those: one
//! cloud for all of it, since each takes seconds, and each chapter leaves the cloud whole.
//!
//! A second guest, on the other host, is pinged from its first answer to the end: it must never
//! notice what happens to others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod death;
mod life;
mod rig;
mod sweep;
mod traces;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use berth_tests::debian::{BOOT, Pinger, ping};
use berth_tests::net::TestNet;
use berth_tests::skip;
use berth_tests::skip::missing_for_hosts;
use rig::{Rig, Server};
use serde_json::json;

/// The guest that things happen to, and the one that must not notice.
struct Cast {
    target: Server,
    /// The number of the target's host.
    home: usize,
    /// The target's address.
    address: String,
    bystander: Server,
    pinger: Pinger,
}

#[test]
fn guests_survive_what_is_not_theirs_and_come_back_from_what_is() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let net = TestNet::new().unwrap();
    let mut rig = Rig::start(&net).unwrap();
    if let Err(error) = story(&mut rig) {
        eprintln!("{}", rig.cloud.explain());
        panic!("{error:#}");
    }
}

fn story(rig: &mut Rig) -> Result<()> {
    let cast = chapter("two guests, on two hosts", || life::two_guests(rig))?;
    chapter("a good build's trace", || traces::a_good_build(rig, &cast))?;
    chapter("kill points", || sweep::all(rig, &cast))?;
    chapter("a corrupt image", || traces::a_corrupt_image(rig, &cast))?;
    chapter("the agent is killed", || death::of_the_agent(rig, &cast))?;
    chapter("the VMM is killed", || death::of_the_vmm(rig, &cast))?;
    chapter("the guest reboots and powers off", || {
        life::by_itself(rig, &cast)
    })?;
    chapter("pause", || life::pause(rig, &cast))?;
    chapter("reboots", || life::reboots(rig, &cast))?;
    chapter("an address goes to the next", || life::heir(rig, &cast))?;
    chapter("forced down", || death::of_a_host_by_word(rig, &cast))?;
    chapter("power cut", || death::of_the_host(rig, &cast))?;
    chapter("nothing is left", || the_end(rig, cast))
}

/// One part, timed; the next begins only if this one came true.
fn chapter<T>(name: &str, part: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let told = part().with_context(|| name.to_owned())?;
    println!("{:6.1} s  {name}", began.elapsed().as_secs_f32());
    Ok(told)
}

fn the_end(rig: &Rig, cast: Cast) -> Result<()> {
    ping(&rig.address(&cast.bystander)?, BOOT)?;
    let pings = cast.pinger.finish()?;
    ensure!(pings.sent > 100, "it was not pinged all along: {pings:?}");
    ensure!(pings.lost == 0, "the bystander noticed: {pings:?}");
    let shown = rig.wait(&cast.bystander, "ACTIVE")?;
    ensure!(shown["fault"] == json!(null), "{}", shown["fault"]);
    rig.delete(&cast.target)?;
    rig.delete(&cast.bystander)?;
    for host in 0..rig.cloud.hosts.len() {
        rig.nothing_left(host)?;
    }
    rig.cloud.audit()
}
