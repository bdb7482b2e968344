//! A host that is silent, and an administrator who says that it is off (PROTOCOL.md, rules 1, 4,
//! 5 and 8): what waits for it ends, what is deleted is taken away from it, and should it come
//! back, it removes exactly that before it takes any order.

use crate::kit::Cloud;
use berth_agent::simulated::{Guest, Process};
use berth_tests::postgres::PrivatePostgres;
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;

/// Longer than the driver, the outbox and a report take to come round.
const A_WHILE: Duration = Duration::from_millis(1500);

const SQLITE: &str = "sqlite::memory:";

fn running(cloud: &Cloud) -> usize {
    let guests = cloud.machines[0].guests();
    let runs = |guest: &&Guest| guest.process == Process::Running;
    guests.values().filter(runs).count()
}

/// How many VMMs the host is still to remove.
async fn to_be_removed(cloud: &Cloud) -> String {
    let sql = "SELECT CAST(COUNT(*) AS TEXT) AS found FROM vmms \
               WHERE lost_at IS NOT NULL AND removed_at IS NULL";
    cloud.look_up(sql).await.unwrap()
}

async fn until_removed(cloud: &Cloud) {
    for _ in 0..500 {
        if to_be_removed(cloud).await == "0" {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the host did not report what it removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_waits_for_a_silent_host_until_that_is_forced_down() {
    a_delete_waits_on(SQLITE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_waits_for_a_silent_host_until_that_is_forced_down_on_postgresql() {
    let postgres = PrivatePostgres::start().unwrap();
    a_delete_waits_on(&postgres.url()).await;
}

async fn a_delete_waits_on(database: &str) {
    let mut cloud = Cloud::on_database(database, 11, 1).await;
    let waits = cloud.create("waits").await;
    let later = cloud.create("later").await;
    let stays = cloud.create("stays").await;
    for id in [&waits, &later, &stays] {
        cloud.until(id, "ACTIVE").await;
    }
    cloud.stop_agent(0).await;
    cloud.delete(&waits).await;
    sleep(A_WHILE).await;
    cloud.until_task(&waits, "deleting").await;

    cloud.force_down(0, true).await;
    cloud.gone(&waits).await;
    // Nothing waits for such a host any more.
    cloud.delete(&later).await;
    cloud.gone(&later).await;
    assert_eq!(cloud.claims().await, "1");
    cloud.without_findings().await;
    let by = "SELECT u.name AS found FROM fences f JOIN users u ON u.id = f.user_id \
              JOIN hosts h ON h.id = f.host_id AND h.epoch = f.epoch \
              WHERE f.created_at > 0 AND f.request_id LIKE 'req-%'";
    assert_eq!(cloud.look_up(by).await.as_deref(), Some("admin"));
    let ended = "SELECT CAST(COUNT(*) AS TEXT) AS found FROM operations \
                 WHERE kind = 'delete' AND state = 'done'";
    assert_eq!(cloud.look_up(ended).await.as_deref(), Some("2"));

    // Its guests never knew. It comes back, and is not even forced down any more.
    assert_eq!(running(&cloud), 3);
    cloud.force_down(0, false).await;
    let lifted = "SELECT u.name AS found FROM fences f JOIN users u ON u.id = f.lifted_user_id";
    assert_eq!(cloud.look_up(lifted).await.as_deref(), Some("admin"));
    assert_eq!(to_be_removed(&cloud).await, "2");
    cloud.start_agent(0).await;
    // It takes commands: what it had lost is gone before.
    assert_eq!(running(&cloud), 1);
    until_removed(&cloud).await;
    cloud.until(&stays, "ACTIVE").await;
    cloud.act(&stays, json!({"os-stop": null})).await;
    cloud.until(&stays, "SHUTOFF").await;
    cloud.delete(&stays).await;
    cloud.gone(&stays).await;
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_host_that_is_forced_down_fails_and_says_so() {
    let mut cloud = Cloud::on_database(SQLITE, 12, 1).await;
    let stops = cloud.create("stops").await;
    let reboots = cloud.create("reboots").await;
    for id in [&stops, &reboots] {
        cloud.until(id, "ACTIVE").await;
    }
    cloud.stop_agent(0).await;
    // Its host has not yet been silent for long.
    let builds = cloud.create("builds").await;
    cloud.until_task(&builds, "spawning").await;
    cloud.act(&stops, json!({"os-stop": null})).await;
    cloud
        .act(&reboots, json!({"reboot": {"type": "HARD"}}))
        .await;
    sleep(A_WHILE).await;
    cloud.until_task(&stops, "powering-off").await;

    cloud.force_down(0, true).await;
    cloud.until(&stops, "ACTIVE").await;
    for id in [&builds, &reboots] {
        let server = cloud.until(id, "ERROR").await;
        let fault = server["fault"]["message"].as_str().unwrap();
        assert!(fault.contains("host-0 was forced down"), "{fault}");
    }
    for id in [&stops, &builds, &reboots] {
        let said = cloud.last_failure(id).await;
        assert!(said.contains("forced down by an administrator"), "{said}");
    }
    // What is asked for now fails at once.
    cloud.act(&stops, json!({"os-stop": null})).await;
    cloud.until(&stops, "ACTIVE").await;
    cloud.without_findings().await;

    // One that the host never heard of is taken away, too.
    for id in [&builds, &reboots, &stops] {
        cloud.delete(id).await;
        cloud.gone(id).await;
    }
    assert_eq!(cloud.claims().await, "0");
    cloud.start_agent(0).await;
    until_removed(&cloud).await;
    cloud.in_order().await;
    // The queue still holds orders of before: none of them makes a guest.
    sleep(A_WHILE).await;
    assert!(cloud.machines[0].guests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lives_though_it_was_forced_down_removes_what_is_deleted() {
    let cloud = Cloud::on_database(SQLITE, 13, 1).await;
    let id = cloud.create("web").await;
    cloud.until(&id, "ACTIVE").await;
    cloud.force_down(0, true).await;
    cloud.delete(&id).await;
    cloud.gone(&id).await;
    until_removed(&cloud).await;
    cloud.in_order().await;
    // It is given nothing new until it is set up again.
    let refused = cloud.create("refused").await;
    let server = cloud.until(&refused, "ERROR").await;
    let fault = server["fault"]["message"].as_str().unwrap();
    assert!(fault.contains("No valid host"), "{fault}");
    cloud.delete(&refused).await;
    cloud.gone(&refused).await;
    cloud.force_down(0, false).await;
    let again = cloud.create("again").await;
    cloud.until(&again, "ACTIVE").await;
    cloud.delete(&again).await;
    cloud.gone(&again).await;
    cloud.in_order().await;
}
