//! Tempest, unchanged, against two controllers on PostgreSQL with simulated hosts: each listed test
//! by name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use berth_tests::cloud::{Cloud, Plan};
use berth_tests::net::TestNet;
use berth_tests::{binaries, process};
use std::process::Command;
use std::time::Duration;

/// The first use installs Tempest from its package index.
const INSTALL_PATIENCE: Duration = Duration::from_secs(1200);
/// A run takes two minutes on an idle machine.
const RUN_PATIENCE: Duration = Duration::from_secs(900);

#[test]
fn every_listed_tempest_test_passes_and_none_is_skipped() {
    let root = binaries::workspace();
    let mut install = Command::new(root.join("scripts/python-env"));
    install.arg("tempest");
    process::check_outside(install, INSTALL_PATIENCE).unwrap();
    let net = TestNet::new().unwrap();
    let plan = Plan {
        controllers: 2,
        postgres: true,
        emulated_hosts: 0,
        simulated_hosts: 2,
    };
    let cloud = Cloud::start(&net, plan).unwrap();
    let mut command = Command::new(root.join("tests/tempest/run"));
    command.args(["--url", cloud.base_url(0), "--concurrency", "4", "--ca"]);
    command.arg(cloud.ca());
    command.args(["--password", cloud.admin_password()]);
    let output = process::run(command, RUN_PATIENCE).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    cloud.audit().unwrap();
}
