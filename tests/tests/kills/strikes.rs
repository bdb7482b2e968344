//! The broker or the database is killed while operations are under way: one, or all five.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::rig::{Ended, Op, PATIENCE, Rig, Server};
use crate::sweep::{Before, Table, say};

/// One server for each operation, in the state that it starts from.
fn prepare(rig: &mut Rig, round: &str) -> Vec<(Op, Server)> {
    let mut servers = Vec::new();
    for (at, op) in Op::ALL.into_iter().enumerate() {
        let mut server = rig.named(&format!("{round}-{}", op.name()), at % 2);
        if op != Op::Create {
            rig.carry_out(Op::Create, &mut server);
        }
        if op == Op::Start {
            rig.carry_out(Op::Stop, &mut server);
        }
        servers.push((op, server));
    }
    servers
}

/// `strike` kills and starts again what it will, and says when it was back, once the requests
/// are accepted (with `before`: earlier, so that they are accepted without it).
pub fn five_under_way(
    rig: &mut Rig,
    table: &mut Table,
    what: &str,
    strike: fn(&mut Rig),
    restart: fn(&mut Rig),
    before: bool,
) {
    let mut servers = prepare(rig, what);
    let looks: Vec<Before> = servers
        .iter()
        .map(|(op, server)| Before::look(rig, *op, server))
        .collect();
    if before {
        strike(rig);
    }
    for (op, server) in &mut servers {
        rig.ask(*op, server);
    }
    if !before {
        strike(rig);
    }
    let struck = Instant::now();
    sleep(Duration::from_millis(300));
    restart(rig);
    let back = Instant::now();
    say(&format!(
        "{what} was away for {:.1} s",
        (back - struck).as_secs_f64()
    ));
    let mut later = Vec::new();
    for ((op, server), before) in servers.iter_mut().zip(&looks) {
        assert_eq!(
            rig.settled(*op, server),
            Ended::Reached,
            "{what} during {op:?}\n{}",
            rig.logs()
        );
        later.push((*op, back.elapsed()));
        before.happened_once(rig, *op, server, &format!("{what} during {}", op.name()));
    }
    for (op, recovery) in later {
        table.add(what, op.name(), "finished", recovery);
    }
    rig.bystanders_never_noticed();
    rig.audit();
    for (op, server) in &mut servers {
        if *op != Op::Delete {
            rig.carry_out(Op::Delete, server);
        }
    }
}

/// The broker is killed during each operation of one server's life: when the agent has accepted
/// the command, and long before it is done with it.
pub fn broker_during_each(rig: &mut Rig, table: &mut Table) {
    let what = "rabbitmq-alone";
    let mut server = rig.named(what, 0);
    for op in Op::ALL {
        let before = Before::look(rig, op, &server);
        rig.ask(op, &mut server);
        wait_for_the_agent(rig, op, &server);
        rig.cloud.rabbit.kill9().unwrap();
        let under_way = rig.operations(op, &server);
        assert_eq!(
            under_way.last().map(String::as_str),
            Some("running"),
            "{op:?} was over before the broker died"
        );
        sleep(Duration::from_millis(300));
        rig.cloud.rabbit.restart().unwrap();
        let back = Instant::now();
        let ended = rig.settled(op, &server);
        assert_eq!(ended, Ended::Reached, "{what} {op:?}\n{}", rig.logs());
        table.add(what, op.name(), "finished", back.elapsed());
        before.happened_once(rig, op, &server, &format!("{what} during {}", op.name()));
        rig.bystanders_never_noticed();
        rig.audit();
    }
}

/// Waits until the server's agent has accepted the command of the operation under way.
fn wait_for_the_agent(rig: &Rig, op: Op, server: &Server) {
    let (id, kind) = (&server.id, op.name());
    let request_id = rig.sql(&format!(
        "SELECT request_id FROM operations WHERE instance_id = '{id}' AND kind = '{kind}' \
         AND state = 'running'"
    ));
    assert!(!request_id.is_empty(), "{op:?} was over at once");
    let end = Instant::now() + PATIENCE;
    let accepted = |line: &str| line.contains(&request_id) && line.contains("\"accepted\"");
    loop {
        let log = fs::read_to_string(&rig.cloud.agents[server.host].log).unwrap();
        if log.lines().rev().any(accepted) {
            return;
        }
        assert!(Instant::now() < end, "{op:?} does not reach the agent");
        sleep(Duration::from_millis(5));
    }
}
