//! The broker or the database is killed while all five operations are under way.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::rig::{Ended, Op, Rig, Server};
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
