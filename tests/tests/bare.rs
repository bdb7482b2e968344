//! A new Debian machine is enough: the packages of `scripts/install-deps`, in a fresh root, also
//! where part of another QEMU is there already, and every program that scripts and tests call.
//! `make bare` does the same with all that the README promises.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::Duration;

use berth_tests::binaries::workspace;
use berth_tests::process::check;
use berth_tests::skip;
use nix::unistd::Uid;

/// Some 300 MB of packages, on a slow line.
const PATIENCE: Duration = Duration::from_secs(1200);

#[test]
fn packages_of_a_fresh_root_bring_every_program_that_scripts_and_tests_call() {
    if !Uid::effective().is_root() {
        skip!("a root is made by debootstrap, as root");
    }
    let mut bare = Command::new(workspace().join("scripts/bare"));
    bare.arg("--packages");
    let figures = check(bare, PATIENCE).unwrap();
    // A fresh root, and three states of QEMU.
    assert_eq!(figures.lines().count(), 4, "{figures}");
    println!("{figures}");
}
