//! From the first release: its controllers stop, its agents stay. The database holds each kind at
//! each step; some answers wait on the queue when today's controller comes, others come after it.

use std::time::Duration;

use berth_tests::cloud::{Cloud, Plan};
use berth_tests::net::TestNet;
use berth_tests::postgres::PrivatePostgres;
use berth_tests::previous::{FIRST, Programs, programs};
use berth_tests::process::wait_until;
use berth_tests::skip;
use berth_tests::skip::missing_for_hosts;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use berth_tests::users::Users;

const PATIENCE: Duration = Duration::from_secs(60);
/// When the driver looks at what the test holds back.
const NEVER: &str = "9999999999999";

/// What is open when the controllers change, each on both hosts.
struct Open {
    /// What brings the server there from ACTIVE, and its status then.
    before: (Value, &'static str),
    /// What is asked of it.
    action: Value,
    /// Its status in the end.
    status: Option<&'static str>,
    /// One on each host.
    ids: Vec<String>,
}

fn open() -> Vec<Open> {
    let (nothing, stop, pause) = (
        Value::Null,
        json!({"os-stop": null}),
        json!({"pause": null}),
    );
    let reboot = |how: &str| json!({"reboot": {"type": how}});
    let running = || (nothing.clone(), "ACTIVE");
    let all = [
        (running(), stop.clone(), Some("SHUTOFF")),
        ((stop, "SHUTOFF"), json!({"os-start": null}), Some("ACTIVE")),
        (running(), reboot("SOFT"), Some("ACTIVE")),
        (running(), reboot("HARD"), Some("ACTIVE")),
        (running(), pause.clone(), Some("PAUSED")),
        ((pause, "PAUSED"), json!({"unpause": null}), Some("ACTIVE")),
        // A delete.
        (running(), Value::Null, None),
    ];
    let of = |(before, action, status)| Open {
        before,
        action,
        status,
        ids: vec![],
    };
    all.into_iter().map(of).collect()
}

#[test]
fn a_database_of_the_first_release_is_upgraded_with_each_kind_at_each_step() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let first = match programs(FIRST).unwrap() {
        Ok(programs) => programs,
        Err(missing) => skip!("{missing}"),
    };
    let net = TestNet::new().unwrap();
    let plan = Plan {
        controllers: 1,
        postgres: true,
        emulated_hosts: 0,
        simulated_hosts: 2,
    };
    let mut cloud = Cloud::start_with(&net, plan, &[first]).unwrap();
    let users = Users::furnish(&cloud).unwrap();
    let mut open = open();
    for (number, open) in open.iter_mut().enumerate() {
        let make = |host| users.create(0, &format!("open-{number}"), host).unwrap();
        open.ids = (0..2).map(make).collect();
    }
    for open in &open {
        for id in &open.ids {
            users.until(&cloud, id, Some("ACTIVE"));
            if !open.before.0.is_null() {
                users.ask(0, &open.before.0, id).unwrap();
            }
        }
    }
    for open in &open {
        open.ids
            .iter()
            .for_each(|id| users.until(&cloud, id, Some(open.before.1)));
    }

    // The agents stand still: commands reach their queues, and no answer comes.
    for agent in &cloud.agents {
        agent.signal(Signal::SIGSTOP).unwrap();
    }
    for open in &open {
        for id in &open.ids {
            users.ask(0, &open.action, id).unwrap();
        }
    }
    let mut made: Vec<String> = (0..2)
        .map(|host| users.create(0, "build", host).unwrap())
        .collect();
    let database = |cloud: &Cloud, sql: &str| -> String {
        let postgres: &PrivatePostgres = cloud.postgres.as_ref().unwrap();
        postgres.query("berth", sql).unwrap().trim().to_owned()
    };
    let sent = "SELECT COUNT(*) FROM operations o JOIN outbox b ON b.operation_id = o.id \
                AND b.step = o.step WHERE o.state = 'running' AND b.sends > 0 AND b.result IS NULL";
    let wanted = (2 * (open.len() + 1)).to_string();
    let all_sent = wait_until(PATIENCE, || {
        Ok((database(&cloud, sent) == wanted).then_some(()))
    });
    assert!(
        all_sent.unwrap().is_some(),
        "{} of {wanted} are sent",
        database(&cloud, sent)
    );

    // Two creates that stand before their commands: one at `bind`, one at `place`.
    let dies = |cloud: &mut Cloud, point: &str, request: Option<&str>| {
        let file = cloud.dir().join("die-at");
        let file_name = file.to_str().unwrap().to_owned();
        let _ = cloud.controllers[0].kill9();
        match request {
            None => cloud.controllers[0]
                .start(&[("BERTH_KILL_POINT", point)])
                .unwrap(),
            Some(name) => {
                let environment = [("BERTH_KILL_POINT_FILE", file_name.as_str())];
                cloud.controllers[0].start(&environment).unwrap();
                let up = wait_until(PATIENCE, || Ok(users.named("build").ok().flatten()));
                assert!(up.unwrap().is_some(), "{}", cloud.explain());
                std::fs::write(&file, point).unwrap();
                // It is answered by nobody.
                assert!(users.create(0, name, 0).is_err());
            }
        }
        let dead = wait_until(PATIENCE, || {
            Ok((!cloud.controllers[0].is_alive()).then_some(()))
        });
        assert!(dead.unwrap().is_some(), "it did not die at {point}");
    };
    let wake = |cloud: &Cloud, step: &str, at: &str| {
        let sql = format!(
            "UPDATE operations SET wake_at = {at} WHERE kind = 'create' AND step = '{step}' \
             AND state = 'running'"
        );
        database(cloud, &sql);
    };
    dies(&mut cloud, "controller.request.committed", Some("bind"));
    dies(&mut cloud, "controller.step.committed", None);
    // Held there while the next comes.
    wake(&cloud, "bind", NEVER);
    dies(&mut cloud, "controller.request.committed", Some("place"));
    // No host is up while there is no controller: nothing could be placed yet.
    wake(&cloud, "place", NEVER);
    wake(&cloud, "bind", "1");
    let steps =
        "SELECT DISTINCT kind || ' ' || step FROM operations WHERE state = 'running' ORDER BY 1";
    assert_eq!(
        database(&cloud, steps)
            .lines()
            .map(str::trim)
            .collect::<Vec<_>>(),
        [
            "create bind",
            "create build",
            "create place",
            "delete destroy",
            "pause act",
            "reboot act",
            "start act",
            "stop act",
            "unpause act",
        ]
    );

    // One host's answers are on the queue before today's controller is there, the other's come
    // once it has taken over what is open.
    cloud.agents[0].signal(Signal::SIGCONT).unwrap();
    let answers = wait_until(PATIENCE, || {
        let queues = cloud.rabbit.ctl(&["list_queues", "name", "messages"])?;
        let results = queues
            .lines()
            .find(|line| line.starts_with("controller.results"));
        let count = results.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        Ok(count.filter(|count: &usize| *count > open.len()))
    });
    assert!(
        answers.unwrap().is_some(),
        "no answers wait:\n{}",
        cloud.explain()
    );
    cloud.controllers[0].program = Programs::todays().unwrap().controller;
    cloud.controllers[0].start(&[]).unwrap();
    for open in &open {
        users.until(&cloud, &open.ids[0], open.status);
    }
    cloud.agents[1].signal(Signal::SIGCONT).unwrap();
    for open in &open {
        users.until(&cloud, &open.ids[1], open.status);
    }
    wake(&cloud, "place", "1");
    for name in ["bind", "place"] {
        made.push(users.named(name).unwrap().unwrap());
    }
    for id in &made {
        users.until(&cloud, id, Some("ACTIVE"));
    }
    cloud.audit().unwrap();

    // All that is left goes by today's controller's orders.
    let left = open.iter().filter(|open| open.status.is_some());
    let left = left.flat_map(|open| &open.ids).chain(&made);
    for id in left.clone() {
        users.ask(0, &Value::Null, id).unwrap();
    }
    for id in left {
        users.until(&cloud, id, None);
    }
    cloud.audit().unwrap();
}
