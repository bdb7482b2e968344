//! Versions side by side: the programs of the commit in `tests/previous` beside today's through
//! every operation, and the database of the first release, upgraded in the middle of everything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod upgrade;

use berth_tests::cloud::{Cloud, Plan};
use berth_tests::net::TestNet;
use berth_tests::previous::{Programs, pinned, programs};
use berth_tests::skip;
use berth_tests::skip::missing_for_hosts;
use berth_tests::users::Users;
use serde_json::{Value, json};

/// What is on which side, in this order: a controller each, and a simulated host each.
const PLAN: Plan = Plan {
    controllers: 2,
    postgres: true,
    emulated_hosts: 0,
    simulated_hosts: 2,
};

/// What is done to a server, in order, and the status after it; `None`: it is gone.
fn life() -> [(Value, Option<&'static str>); 7] {
    [
        (json!({"pause": null}), Some("PAUSED")),
        (json!({"unpause": null}), Some("ACTIVE")),
        (json!({"reboot": {"type": "SOFT"}}), Some("ACTIVE")),
        (json!({"reboot": {"type": "HARD"}}), Some("ACTIVE")),
        (json!({"os-stop": null}), Some("SHUTOFF")),
        (json!({"os-start": null}), Some("ACTIVE")),
        (Value::Null, None),
    ]
}

#[test]
fn the_previous_version_and_todays_run_side_by_side_through_every_operation() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let previous = match programs(pinned()).unwrap() {
        Ok(programs) => programs,
        Err(missing) => skip!("{missing}"),
    };
    let net = TestNet::new().unwrap();
    // As a cloud is upgraded: the older controller runs, and goes on when the newer one has brought
    // the database up to date under it.
    let programs = [previous, Programs::todays().unwrap()];
    let cloud = Cloud::start_with(&net, PLAN, &programs).unwrap();
    let users = Users::furnish(&cloud).unwrap();

    // Asked of each controller in turn, for a guest on each agent's host: whichever drives the
    // operation and folds the answer in.
    let servers = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(host, asked)| {
        let name = format!("host-{host}-asked-{asked}");
        (users.create(asked, &name, host).unwrap(), asked)
    });
    for (id, _) in &servers {
        users.until(&cloud, id, Some("ACTIVE"));
    }
    for (turn, (action, status)) in life().iter().enumerate() {
        for (id, asked) in &servers {
            users.ask((asked + turn) % 2, action, id).unwrap();
        }
        for (id, _) in &servers {
            users.until(&cloud, id, *status);
        }
    }
    cloud.audit().unwrap();
}
