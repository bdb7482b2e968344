//! `berth doctor --broker` against a real RabbitMQ: one that answers, and one that is gone.
#![allow(clippy::unwrap_used, missing_docs)]

use berth_tests::rabbit::PrivateRabbit;
use berth_tests::{binaries, process};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What the report says of the broker.
fn broker(url: &str) -> Value {
    let mut command = Command::new(binaries::build("berth", "berth").unwrap());
    command.args(["doctor", "--json", "--broker", url]);
    let output = process::run(command, PATIENCE).unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == "broker");
    found.unwrap().clone()
}

#[test]
fn a_broker_is_tried_and_one_that_is_gone_is_told_from_one_that_refuses() {
    let mut rabbit = PrivateRabbit::start().unwrap();
    let found = broker(&rabbit.url());
    assert_eq!(found["verdict"], "ok", "{found}");
    // Nothing was declared there.
    let queues = rabbit.ctl(&["-q", "list_queues", "name"]).unwrap();
    assert!(!queues.contains("agent."), "{queues}");

    let stranger = format!("amqp://nobody:wrong@{}", rabbit.addr());
    let found = broker(&stranger);
    assert_eq!(found["verdict"], "fail", "{found}");
    assert!(
        found["found"].as_str().unwrap().contains("ACCESS"),
        "{found}"
    );

    rabbit.kill9().unwrap();
    let found = broker(&rabbit.url());
    assert_eq!(found["verdict"], "fail", "{found}");
    let why = found["found"].as_str().unwrap();
    assert!(why.to_lowercase().contains("refused"), "{found}");
}
