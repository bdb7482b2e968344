//! The whole cloud in one process: controllers with their REST, agents on simulated machines,
//! and a broker that loses, repeats, delays and reorders, from a seed.
//!
//! `BERTH_SEED=n` runs one seed again; `BERTH_SEEDS=n` sets how many are run.
#![allow(clippy::unwrap_used, missing_docs)]

mod forced_down;
mod kit;
mod newer;

use berth_rpc::Faults;
use berth_rpc::clock::{SystemClock, SystemRng};
use berth_tests::postgres::PrivatePostgres;
use berth_tests::rabbit::PrivateRabbit;
use kit::Cloud;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// A bad day.
const FAULTS: Faults = Faults {
    lose: 100,
    doubt: 100,
    repeat: 200,
    reorder: 200,
    delay: 200,
    delay_max: Duration::from_millis(50),
    lose_ack: 100,
};

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match number("BERTH_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("BERTH_SEEDS").unwrap_or(3)).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_lives_and_leaves_nothing_behind() {
    let cloud = Cloud::new(1, Faults::default(), 1, 2).await;
    life(&cloud, "web").await;
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_lives_whatever_the_broker_does() {
    for seed in seeds() {
        println!("BERTH_SEED={seed}");
        let cloud = Cloud::new(seed, FAULTS, 2, 2).await;
        let (one, two, three) = (life(&cloud, "a"), life(&cloud, "b"), life(&cloud, "c"));
        tokio::join!(one, two, three);
        cloud.in_order().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_lives_on_postgresql_and_rabbitmq_with_two_controllers() {
    let postgres = PrivatePostgres::start().unwrap();
    let rabbit = PrivateRabbit::start().unwrap();
    let urls = [rabbit.url()];
    let transport = || {
        let clock = Arc::new(SystemClock::default());
        berth_rpc::connect(
            &urls,
            berth_rpc::Client::named("cloud-test"),
            clock,
            Arc::new(SystemRng),
        )
        .unwrap()
    };
    let cloud = Cloud::on(&postgres.url(), &transport, 7, 2, 2).await;
    let (one, two, three) = (life(&cloud, "a"), life(&cloud, "b"), life(&cloud, "c"));
    tokio::join!(one, two, three);
    cloud.in_order().await;
}

/// Every action once, each verified by what the API shows.
async fn life(cloud: &Cloud, name: &str) {
    let id = cloud.create(name).await;
    cloud.until(&id, "ACTIVE").await;
    cloud.act(&id, json!({"os-stop": null})).await;
    cloud.until(&id, "SHUTOFF").await;
    cloud.act(&id, json!({"os-start": null})).await;
    cloud.until(&id, "ACTIVE").await;
    cloud.act(&id, json!({"reboot": {"type": "SOFT"}})).await;
    cloud.until(&id, "ACTIVE").await;
    cloud.act(&id, json!({"reboot": {"type": "HARD"}})).await;
    cloud.until(&id, "ACTIVE").await;
    cloud.act(&id, json!({"pause": null})).await;
    cloud.until(&id, "PAUSED").await;
    cloud.act(&id, json!({"unpause": null})).await;
    cloud.until(&id, "ACTIVE").await;
    cloud.delete(&id).await;
    cloud.gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_goes_elsewhere_and_its_first_host_keeps_nothing() {
    let cloud = Cloud::new(4, Faults::default(), 1, 2).await;
    for machine in &cloud.machines {
        machine.fail_next("make_disks", kit::refusal());
    }
    let id = cloud.create("web").await;
    // Both hosts fail once; there is no third.
    let server = cloud.until(&id, "ERROR").await;
    let fault = server["fault"]["message"].as_str().unwrap();
    assert!(fault.contains("No valid host"), "{fault}");
    assert!(fault.contains("RetryFilter removed 2"), "{fault}");
    cloud.delete(&id).await;
    cloud.gone(&id).await;
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_asked_for_by_name_is_tried_once_and_its_words_are_the_fault() {
    let cloud = Cloud::new(7, Faults::default(), 1, 2).await;
    cloud.machines[1].fail_next("make_disks", kit::refusal());
    let id = cloud.create_on("web", Some("host-1")).await;
    let server = cloud.until(&id, "ERROR").await;
    assert_eq!(server["fault"]["message"], "no room for the disk");
    let tried =
        format!("SELECT CAST(COUNT(*) AS TEXT) AS found FROM vmms WHERE instance_id = '{id}'");
    assert_eq!(cloud.look_up(&tried).await.as_deref(), Some("1"));
    cloud.delete(&id).await;
    cloud.gone(&id).await;
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_pre_empts_a_build_under_way() {
    let cloud = Cloud::new(5, Faults::default(), 1, 1).await;
    cloud.machines[0].hold("make_disks");
    let id = cloud.create("web").await;
    cloud.until_task(&id, "spawning").await;
    cloud.delete(&id).await;
    cloud.gone(&id).await;
    cloud.machines[0].release("make_disks");
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_no_host_can_bear_says_why() {
    let cloud = Cloud::new(6, Faults::default(), 1, 0).await;
    let id = cloud.create("web").await;
    let server = cloud.until(&id, "ERROR").await;
    let fault = server["fault"]["message"].as_str().unwrap();
    assert!(fault.contains("no host has joined"), "{fault}");
    cloud.delete(&id).await;
    cloud.gone(&id).await;
    cloud.in_order().await;
}
