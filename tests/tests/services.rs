//! The private services: ready when they say so, whole after `kill -9`, and gone when dropped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpStream;
use std::path::PathBuf;

use berth_tests::postgres::PrivatePostgres;
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
