//! `berth bench control` with PostgreSQL, over RabbitMQ and over the fleet's own broker: that it measures what
//! it says, on a small cloud; and, with patience, the figures of large ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use berth_tests::postgres::PrivatePostgres;
use berth_tests::rabbit::PrivateRabbit;
use berth_tests::{binaries, process};
use serde_json::Value;

/// Runs it; gives its results, and shows its table. Without RabbitMQ the fleet has a broker of its own.
fn measured(
    postgres: &PrivatePostgres,
    rabbit: Option<&PrivateRabbit>,
    [berth, controller]: [PathBuf; 2],
    arguments: &[&str],
    patience: Duration,
) -> Value {
    let here = tempfile::tempdir().unwrap();
    let json = here.path().join("results.json");
    let mut bench = Command::new(berth);
    bench.args(["bench", "control", "--database", &postgres.url()]);
    if let Some(rabbit) = rabbit {
        bench.args(["--broker", &rabbit.url(), "--broker-key"]);
        bench.arg(rabbit.host_key());
    }
    bench
        .arg("--controller")
        .arg(controller)
        .arg("--json")
        .arg(&json);
    bench.args(arguments);
    let table = process::check(bench, patience).unwrap();
    eprintln!("{table}");
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}

#[test]
fn a_small_cloud_is_measured() {
    let postgres = PrivatePostgres::start().unwrap();
    let arguments = [
        "--hosts=4",
        "--servers=100",
        "--controllers=2",
        "--warm-up=1",
        "--seconds=4",
        "--gets=30",
        "--creates=5",
        "--burst=20",
        "--report-interval=1",
    ];
    let programs = ["berth", "berth-controller"].map(|name| binaries::build(name, name).unwrap());
    let rabbit = PrivateRabbit::start().unwrap();
    let patience = Duration::from_secs(300);
    let results = measured(&postgres, Some(&rabbit), programs, &arguments, patience);
    assert_eq!(
        (&results["hosts"], &results["servers"]),
        (&4.into(), &100.into())
    );
    let lines = results["lines"].as_array().unwrap();
    let line = |what: &str| lines.iter().find(|line| line["what"] == what).unwrap();
    for (what, samples) in [
        ("show: p99", 40),
        ("list of 50: p99", 40),
        ("list by filter and marker: p99", 40),
        ("create accepted: p99", 20),
        ("commit: p99", 20),
    ] {
        assert_eq!(line(what)["samples"], samples, "{what}");
        assert_eq!(line(what)["refused"], 0, "{what}");
        assert!(line(what)["value"].as_f64().unwrap() >= line(what)["median"].as_f64().unwrap());
    }
    for what in [
        "claims alone",
        "creates to ACTIVE",
        "CPU a heartbeat",
        "memory of a controller",
    ] {
        assert!(line(what)["value"].as_f64().unwrap() > 0.0, "{what}");
    }
    // What it made is what it says: every server has its VMM, its claim and its port.
    let of = |sql: &str| postgres.query("berth", sql).unwrap().trim().to_owned();
    let alive = "SELECT COUNT(*) FROM instances WHERE deleted_at IS NULL";
    // The first one, the copies, the offered ones with their warm-up, and the burst.
    assert_eq!(of(alive), (1 + 100 + 25 + 20).to_string());
    for table in [
        "vmms WHERE deleted_at IS NULL",
        "claims",
        "ports WHERE instance_id IS NOT NULL",
    ] {
        assert_eq!(
            of(&format!("SELECT COUNT(*) FROM {table}")),
            "146",
            "{table}"
        );
    }
    assert_eq!(
        of("SELECT COUNT(*) FROM instances WHERE deleted_at IS NOT NULL"),
        "100"
    );
}

#[test]
fn a_small_cloud_is_measured_over_the_fleets_own_broker() {
    let postgres = PrivatePostgres::start().unwrap();
    let arguments = [
        "--hosts=4",
        "--servers=20",
        "--warm-up=1",
        "--seconds=2",
        "--gets=10",
        "--creates=5",
        "--burst=20",
        "--report-interval=1",
    ];
    let programs = ["berth", "berth-controller"].map(|name| binaries::build(name, name).unwrap());
    let patience = Duration::from_secs(300);
    let results = measured(&postgres, None, programs, &arguments, patience);
    let lines = results["lines"].as_array().unwrap();
    let created = lines.iter().find(|l| l["what"] == "creates to ACTIVE");
    assert!(created.unwrap()["value"].as_f64().unwrap() > 0.0);
}

#[test]
#[ignore = "a benchmark: it wants a quiet machine, for a quarter of an hour"]
fn a_thousand_hosts_are_measured() {
    let rabbit = PrivateRabbit::start().unwrap();
    large("1000", "10000", Some(&rabbit));
}

#[test]
#[ignore = "a benchmark: it wants a quiet machine, for an hour"]
fn ten_thousand_hosts_are_measured() {
    large("10000", "100000", None);
}

/// Measures a large cloud, or one of another size if the environment says so.
fn large(hosts: &str, servers: &str, rabbit: Option<&PrivateRabbit>) {
    let of = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let postgres = PrivatePostgres::start_durable().unwrap();
    let hosts = format!("--hosts={}", of("BERTH_HOSTS", hosts));
    let servers = format!("--servers={}", of("BERTH_SERVERS", servers));
    let controllers = format!("--controllers={}", of("BERTH_CONTROLLERS", "1"));
    let more = of("BERTH_BENCH_ARGUMENTS", "");
    let mut arguments = vec![&*hosts, &*servers, &*controllers];
    arguments.extend(more.split_whitespace());
    // Another release's, to compare.
    let folder = std::env::var_os("BERTH_PROGRAMS").map(PathBuf::from);
    let programs = ["berth", "berth-controller"].map(|name| match &folder {
        Some(folder) => folder.join(name),
        None => binaries::build_optimised(name).unwrap(),
    });
    let patience = Duration::from_secs(7200);
    let results = measured(&postgres, rabbit, programs, &arguments, patience);
    eprintln!("{}", serde_json::to_string_pretty(&results).unwrap());
    for line in results["lines"].as_array().unwrap() {
        assert!(line["value"].as_f64().unwrap() > 0.0, "{line}");
    }
}
