//! The kills, on PostgreSQL with two controllers and two simulated hosts as processes of their
//! own: `kill -9` at each named point of controller and agent during create, stop, start, reboot
//! and delete; of RabbitMQ during each of them, and of RabbitMQ and of PostgreSQL while all five
//! are under way.
//!
//! After each: the process starts again; the operation has finished, or ended in a clear error,
//! once (one operation in the database, each effect on the host once); the servers that nobody
//! touched are what they were, to the last report; and the audit finds nothing. The list of
//! points is made from the source: one that is never hit fails the test. Those of the KVM driver
//! need guests, and are hit where there are some.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rare;
mod rest;
mod rig;
mod strikes;
mod sweep;
mod trace;

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use berth_rpc::kill_point::names_in;
use berth_tests::net::TestNet;
use berth_tests::{binaries, skip};

use crate::rig::{Op, Rig};
use crate::sweep::{Table, kill, say};

/// RabbitMQ 3.10 loses the leader of a queue that was declared less than this before its death.
const QUEUES_SETTLE: Duration = Duration::from_secs(8);

fn points(folder: &str) -> BTreeSet<String> {
    let names = names_in(&binaries::workspace().join(folder)).unwrap();
    names.into_iter().collect()
}

/// The agent's points and the controller's. Those of the KVM driver need guests.
fn ours() -> (BTreeSet<String>, BTreeSet<String>) {
    let of_agent = &points("agent/src") - &points("agent/src/kvm");
    (of_agent, points("controller"))
}

/// Each point on a server's life, at its `pass`th time, during each operation.
fn sweep_once(rig: &mut Rig, table: &mut Table, pass: u32) {
    let (of_agent, of_controller) = ours();
    let all = of_agent.iter().map(|point| (true, point));
    let all = all.chain(of_controller.iter().map(|point| (false, point)));
    let all = all.filter(|(_, point)| !rare::POINTS.contains(&point.as_str()));
    for (at, (agent, point)) in all.enumerate() {
        let mut server = rig.named(&format!("target-{pass}-{at}"), at % 2);
        for op in Op::ALL {
            if !kill(rig, table, point, pass, agent, op, &mut server) {
                say(&format!(
                    "{point} is not {pass} times on the path of {}",
                    op.name()
                ));
            }
        }
        rig.audit();
    }
}

#[test]
fn a_kill_at_each_point_during_each_operation() {
    if let Some(why) = skip::missing_for_hosts() {
        skip!("{why}");
    }
    let of_kvm = points("agent/src/kvm");
    let (of_agent, of_controller) = ours();
    let net = TestNet::new().unwrap();
    let mut rig = Rig::start(&net);
    let mut table = Table::default();
    let begun = Instant::now();
    sweep_once(&mut rig, &mut table, 1);
    rare::all(&mut rig, &mut table);
    table.close();
    say(&format!("in {:.0} s", begun.elapsed().as_secs_f64()));
    let names: Vec<&str> = of_kvm.iter().map(String::as_str).collect();
    say(&format!(
        "not here, but with guests (e2e_cloud): {}",
        names.join(", ")
    ));
    let missed: Vec<&String> = of_agent
        .iter()
        .chain(&of_controller)
        .filter(|point| !table.hit(point))
        .collect();
    assert!(
        missed.is_empty(),
        "kill points that nothing has hit: {missed:?}"
    );
}

/// The later passes of each point, where an operation comes there more than once.
#[test]
#[ignore = "takes half an hour: make soak"]
fn soak_a_kill_at_each_later_pass_of_each_point() {
    if let Some(why) = skip::missing_for_hosts() {
        skip!("{why}");
    }
    let net = TestNet::new().unwrap();
    let mut rig = Rig::start(&net);
    let mut table = Table::default();
    for pass in 2..=6 {
        sweep_once(&mut rig, &mut table, pass);
    }
    table.close();
}

#[test]
fn rabbitmq_and_postgresql_are_killed_with_operations_under_way() {
    if let Some(why) = skip::missing_for_hosts() {
        skip!("{why}");
    }
    let net = TestNet::new().unwrap();
    let mut rig = Rig::start(&net);
    let mut table = Table::default();
    // Slow enough that none is over when the kill comes.
    rig.agent_env = vec![("BERTH_AGENT_SIMULATED__STEP_MS".into(), "400".into())];
    rig.restart_all();
    sleep(QUEUES_SETTLE);
    let kill_broker = |rig: &mut Rig| rig.cloud.rabbit.kill9().unwrap();
    let start_broker = |rig: &mut Rig| rig.cloud.rabbit.restart().unwrap();
    strikes::broker_during_each(&mut rig, &mut table);
    let kill_database = |rig: &mut Rig| rig.cloud.postgres.as_mut().unwrap().kill9().unwrap();
    let start_database = |rig: &mut Rig| rig.cloud.postgres.as_mut().unwrap().restart().unwrap();
    strikes::five_under_way(
        &mut rig,
        &mut table,
        "postgresql",
        kill_database,
        start_database,
        false,
    );
    strikes::five_under_way(
        &mut rig,
        &mut table,
        "rabbitmq",
        kill_broker,
        start_broker,
        false,
    );
    strikes::five_under_way(
        &mut rig,
        &mut table,
        "rabbitmq-away",
        kill_broker,
        start_broker,
        true,
    );
    table.close();
    assert_eq!(
        rig.deaths, 0,
        "controllers and agents outlive broker and database: {}",
        rig.last_words
    );
}
