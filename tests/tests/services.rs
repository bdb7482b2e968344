//! The private services: ready when they say so, whole after `kill -9`, and gone when dropped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use berth_tests::net::TestNet;
use berth_tests::postgres::PrivatePostgres;
use berth_tests::process::{self, Child, run, wait_until};
use berth_tests::rabbit::PrivateRabbit;

#[test]
fn rabbitmq_keeps_what_it_confirmed_across_kill_9_and_leaves_nothing_behind() {
    let mut rabbit = PrivateRabbit::start().unwrap();
    let dir: PathBuf = rabbit.dir().into();
    rabbit.ctl(&["add_vhost", "kept"]).unwrap();

    rabbit.kill9().unwrap();
    assert!(
        TcpStream::connect(rabbit.addr()).is_err(),
        "a killed broker still listens"
    );
    assert!(rabbit.kill9().is_err(), "it cannot be killed twice");

    rabbit.restart().unwrap();
    let vhosts = rabbit.ctl(&["list_vhosts"]).unwrap();
    assert!(vhosts.lines().any(|line| line == "kept"), "{vhosts}");

    drop(rabbit);
    assert!(!dir.exists());
    assert_eq!(processes_that_mention(&dir), Vec::<String>::new());
}

#[test]
fn two_brokers_run_side_by_side() {
    let first = PrivateRabbit::start().unwrap();
    let mut second = PrivateRabbit::start().unwrap();
    assert_ne!(first.url(), second.url());
    second.stop().unwrap();
    assert!(TcpStream::connect(first.addr()).is_ok());
    assert!(TcpStream::connect(second.addr()).is_err());
}

#[test]
fn postgresql_keeps_what_it_committed_across_kill_9_and_leaves_nothing_behind() {
    let mut postgres = PrivatePostgres::start().unwrap();
    let dir: PathBuf = postgres.dir().into();
    postgres
        .query(
            "berth",
            "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)",
        )
        .unwrap();

    postgres.kill9().unwrap();
    assert!(
        postgres.query("berth", "SELECT 1").is_err(),
        "a killed server still answers"
    );

    postgres.restart().unwrap();
    assert_eq!(
        postgres.query("berth", "SELECT n FROM kept").unwrap(),
        "7\n"
    );

    drop(postgres);
    assert!(!dir.exists());
    assert_eq!(processes_that_mention(&dir), Vec::<String>::new());
}

/// The command lines of the processes that have `dir` in theirs.
fn processes_that_mention(dir: &std::path::Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| line.contains(&*dir))
        .collect()
}

#[test]
fn killing_the_test_process_takes_its_services_along_and_the_next_one_sweeps_their_files() {
    const VICTIM: &str = "BERTH_TEST_VICTIM";
    if let Some(report) = std::env::var_os(VICTIM) {
        // This is the process to be killed: it says what it made, and waits.
        let postgres = PrivatePostgres::start().unwrap();
        std::fs::write(report, postgres.dir().to_str().unwrap()).unwrap();
        std::thread::sleep(Duration::from_secs(120));
        panic!("nobody killed this process");
    }
    let here = tempfile::tempdir().unwrap();
    let report = here.path().join("report");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "killing_the_test_process_takes_its_services_along_and_the_next_one_sweeps_their_files",
    ]);
    command.env(VICTIM, &report);
    let mut victim = Child::spawn("victim", command, &here.path().join("log")).unwrap();
    let told = wait_until(Duration::from_secs(120), || {
        victim.check_alive()?;
        Ok(std::fs::read_to_string(&report)
            .ok()
            .filter(|dir| !dir.is_empty()))
    });
    let dir = PathBuf::from(told.unwrap().expect("the victim reports in time"));
    assert!(!processes_that_mention(&dir).is_empty());

    victim.kill9().unwrap();
    let gone = wait_until(Duration::from_secs(20), || {
        Ok(processes_that_mention(&dir).is_empty().then_some(()))
    });
    assert!(
        gone.unwrap().is_some(),
        "still there: {:?}",
        processes_that_mention(&dir)
    );
    // Another process sweeps when it makes its first folder; this one has done so already.
    let mut sweeper = Command::new(std::env::current_exe().unwrap());
    sweeper.args([
        "--exact",
        "postgresql_keeps_what_it_committed_across_kill_9_and_leaves_nothing_behind",
    ]);
    let swept = run(sweeper, Duration::from_secs(120)).unwrap();
    assert!(swept.status.success());
    assert!(!dir.exists());
}

#[test]
fn what_installs_something_runs_outside_the_tests_network() {
    let namespace = || {
        let mut readlink = Command::new("readlink");
        readlink.arg("/proc/self/ns/net");
        readlink
    };
    let patience = Duration::from_secs(20);
    let machine = process::check(namespace(), patience).unwrap();
    let _net = TestNet::new().unwrap();
    assert_ne!(process::check(namespace(), patience).unwrap(), machine);
    assert_eq!(
        process::check_outside(namespace(), patience).unwrap(),
        machine
    );
}
