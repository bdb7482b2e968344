//! What a newer controller or agent left, and this build does not know (PROTOCOL.md, "The
//! controller"): it is shown, and neither driven, settled, acknowledged nor ended, until somebody
//! who knows it comes.

use crate::kit::Cloud;
use axum::http::StatusCode;
use berth_rpc::Faults;
use berth_tests::postgres::PrivatePostgres;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// Longer than driver, outbox, reconcilers and a passed-on answer take to come round twice.
const A_WHILE: Duration = Duration::from_millis(2500);
const OPERATION: &str = "0b5e5a70-0000-4000-8000-000000000001";
const MESSAGE: &str = "0b5e5a70-0000-4000-8000-000000000002";
const SERVERS: &str = "/compute/v2.1/servers";

/// An answer to [`MESSAGE`].
async fn answer(cloud: &Cloud, id: &str, outcome: Value) -> Value {
    let find = |column: &str| {
        let sql = format!("SELECT {column} AS found FROM vmms WHERE instance_id = '{id}'");
        async move { cloud.look_up(&sql).await.unwrap() }
    };
    json!({
        "message_id": MESSAGE, "operation_id": OPERATION, "step": "act", "attempt": 1,
        "host_id": find("host_id").await, "host_epoch": 1, "vmm_id": find("id").await,
        "sequence": 2, "request_id": "req-newer", "outcome": outcome,
    })
}

/// An open operation of the server, as a controller would have begun it, that waits for the
/// answer to [`MESSAGE`].
async fn begun(cloud: &Cloud, id: &str, kind: &str, version: u32, step: &str, task: &str) {
    let operation = format!(
        "INSERT INTO operations (id, kind, version, instance_id, project_id, user_id, request_id, \
         step, attempt, state, params, wake_at, created_at, updated_at) \
         SELECT '{OPERATION}', '{kind}', {version}, '{id}', project_id, user_id, 'req-newer', \
         '{step}', 1, 'running', '{{}}', 1, 1, 1 FROM instances WHERE id = '{id}'"
    );
    let command = format!(
        "INSERT INTO outbox (message_id, operation_id, step, attempt, host_id, vmm_id, sequence, \
         envelope, sends, next_send_at, created_at) SELECT '{MESSAGE}', '{OPERATION}', '{step}', 1, \
         host_id, id, 2, '{{}}', 1, NULL, 1 FROM vmms WHERE instance_id = '{id}'"
    );
    let held = format!(
        "UPDATE instances SET operation_id = '{OPERATION}', task_state = '{task}' WHERE id = '{id}'"
    );
    let numbered = format!("UPDATE vmms SET sequence = 2 WHERE instance_id = '{id}'");
    for sql in [operation, command, held, numbered] {
        cloud.execute(&sql).await;
    }
}

async fn unsettled(cloud: &Cloud) {
    let sql = format!(
        "SELECT o.state || ' ' || o.step || ' ' || CAST(o.updated_at AS TEXT) AS found \
         FROM operations o JOIN outbox b ON b.operation_id = o.id \
         WHERE o.id = '{OPERATION}' AND b.result IS NULL"
    );
    let found = cloud.look_up(&sql).await.expect("settled");
    assert!(
        found.starts_with("running ") && found.ends_with(" 1"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_of_a_newer_controller_is_left_to_it_with_its_answers() {
    left_alone_on("sqlite::memory:").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_of_a_newer_controller_is_left_to_it_with_its_answers_on_postgresql() {
    let postgres = PrivatePostgres::start().unwrap();
    left_alone_on(&postgres.url()).await;
}

async fn left_alone_on(database: &str) {
    let cloud = Cloud::on_database(database, 31, 1).await;
    let id = cloud.create("web").await;
    cloud.until(&id, "ACTIVE").await;
    // A kind, a version of a kind, and a step that are not known here; the driver is due.
    begun(&cloud, &id, "hibernate", 1, "act", "hibernating").await;
    let done = json!({"outcome": "done", "state": "paused", "observation": 99, "spans": []});
    let done = answer(&cloud, &id, done).await;
    for (kind, version, step) in [
        ("hibernate", 1, "act"),
        ("pause", 9, "act"),
        ("pause", 1, "copy"),
    ] {
        cloud
            .execute(&format!(
                "UPDATE operations SET kind = '{kind}', version = {version}, step = '{step}' \
                 WHERE id = '{OPERATION}'"
            ))
            .await;
        cloud.answer(MESSAGE, &done).await;
        sleep(A_WHILE).await;
        unsettled(&cloud).await;
    }

    // Shown as it is; nothing is begun beside it, and not even a delete ends it.
    let (status, shown) = cloud
        .ask("GET", &format!("{SERVERS}/{id}"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(shown["server"]["status"], "ACTIVE");
    assert_eq!(shown["server"]["OS-EXT-STS:task_state"], "hibernating");
    let (status, said) = cloud
        .ask("DELETE", &format!("{SERVERS}/{id}"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let pausing = "UPDATE instances SET task_state = 'pausing' WHERE operation_id IS NOT NULL";
    cloud.execute(pausing).await;
    let (status, said) = cloud
        .ask("DELETE", &format!("{SERVERS}/{id}"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    assert!(said.to_string().contains("newer controller"), "{said}");
    unsettled(&cloud).await;

    // A controller that knows it comes: the answers are all still there, and are folded in.
    let known = format!("UPDATE operations SET step = 'act' WHERE id = '{OPERATION}'");
    cloud.execute(&known).await;
    cloud.until(&id, "PAUSED").await;
    cloud.act(&id, json!({"unpause": null})).await;
    cloud.until(&id, "ACTIVE").await;
    cloud.delete(&id).await;
    cloud.gone(&id).await;
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_a_newer_agents_words_is_neither_settled_nor_acknowledged() {
    let cloud = Cloud::new(32, Faults::default(), 2, 1).await;
    let id = cloud.create("web").await;
    cloud.until(&id, "ACTIVE").await;
    begun(&cloud, &id, "pause", 1, "act", "pausing").await;
    // The driver finds the command sent, and waits.
    for outcome in [
        json!({"outcome": "handed_over", "generation": 2}),
        json!({"outcome": "done", "state": "incoming", "observation": 99, "spans": []}),
    ] {
        let newer = answer(&cloud, &id, outcome).await;
        cloud.answer(MESSAGE, &newer).await;
    }
    sleep(A_WHILE).await;
    let waits = format!(
        "SELECT o.step AS found FROM operations o JOIN outbox b ON b.operation_id = o.id \
         WHERE o.id = '{OPERATION}' AND o.state = 'running' AND b.result IS NULL"
    );
    assert_eq!(cloud.look_up(&waits).await.as_deref(), Some("act"));
    // Others are answered meanwhile.
    let other = cloud.create("other").await;
    cloud.until(&other, "ACTIVE").await;
    let done = json!({"outcome": "done", "state": "paused", "observation": 99, "spans": []});
    let done = answer(&cloud, &id, done).await;
    cloud.answer(MESSAGE, &done).await;
    cloud.until(&id, "PAUSED").await;
    for id in [&id, &other] {
        cloud.delete(id).await;
        cloud.gone(id).await;
    }
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_a_state_of_a_newer_controller_is_shown_and_left_as_it_is() {
    let cloud = Cloud::new(33, Faults::default(), 1, 1).await;
    let id = cloud.create("web").await;
    let other = cloud.create("other").await;
    cloud.until(&id, "ACTIVE").await;
    cloud.until(&other, "ACTIVE").await;
    let state =
        |state: &str| format!("UPDATE instances SET vm_state = '{state}' WHERE id = '{id}'");
    cloud.execute(&state("shelved")).await;
    // What its guest does by itself does not change that, and is told again.
    let vmm = format!("SELECT id AS found FROM vmms WHERE instance_id = '{id}'");
    let vmm = cloud.look_up(&vmm).await.unwrap().parse().unwrap();
    cloud.machines[0].guest_ends(vmm, berth_agent::Exit::PowerOff);
    sleep(A_WHILE).await;
    let (status, list) = cloud
        .ask("GET", &format!("{SERVERS}/detail"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK);
    let servers = list["servers"].as_array().unwrap();
    let found = servers
        .iter()
        .find(|server| server["id"] == json!(id))
        .unwrap();
    assert_eq!(
        (&found["status"], &found["OS-EXT-STS:vm_state"]),
        (&json!("UNKNOWN"), &json!("shelved"))
    );
    assert_eq!(servers.len(), 2);
    let stop = json!({"os-stop": null});
    let (status, said) = cloud
        .ask("POST", &format!("{SERVERS}/{id}/action"), &stop)
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let (status, said) = cloud
        .ask("DELETE", &format!("{SERVERS}/{id}"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");

    cloud.execute(&state("active")).await;
    cloud.until(&id, "SHUTOFF").await;
    for id in [&id, &other] {
        cloud.delete(id).await;
        cloud.gone(id).await;
    }
    cloud.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_in_a_newer_agents_words_is_folded_in_as_far_as_it_is_understood() {
    let mut cloud = Cloud::new(34, Faults::default(), 1, 1).await;
    let mut vmms = vec![];
    let ids = [cloud.create("one").await, cloud.create("two").await];
    for id in &ids {
        cloud.until(id, "ACTIVE").await;
        let vmm = format!("SELECT id AS found FROM vmms WHERE instance_id = '{id}'");
        vmms.push(cloud.look_up(&vmm).await.unwrap());
    }
    cloud.stop_agent(0).await;
    let observations = json!([
        {"vmm_id": vmms[0], "observation": 98, "state": "incoming", "generation": 3},
        {"vmm_id": vmms[1], "observation": 99, "state": "stopped"},
    ]);
    let reply = cloud.report(0, observations).await;
    // The one is told again, to a controller that knows more.
    assert_eq!(reply["acknowledged"], json!([[vmms[1], 99]]));
    cloud.until(&ids[1], "SHUTOFF").await;
    cloud.until(&ids[0], "ACTIVE").await;
    cloud.start_agent(0).await;
    for id in &ids {
        cloud.delete(id).await;
        cloud.gone(id).await;
    }
    cloud.in_order().await;
}
