//! Services, hypervisors and zones.

use super::*;

#[tokio::test]
async fn hosts_are_services_and_hypervisors_in_the_form_of_each_microversion() {
    let cloud = cloud().await;
    assert_eq!(
        cloud.member.get("/compute/v2.1/os-services").await.status,
        403
    );
    let services = async |version: &str| {
        let all = Cloud::at(
            &cloud.admin,
            "GET",
            "/compute/v2.1/os-services",
            None,
            version,
        )
        .await;
        all.json()["services"][0].clone()
    };
    let old = services("2.1").await;
    assert_eq!((&old["id"], &old["state"]), (&json!(1), &json!("up")));
    assert!(old.get("forced_down").is_none());
    assert_eq!(services("2.11").await["forced_down"], json!(false));
    assert_eq!(services("2.53").await["id"], json!(HOST));
    let one = format!("/compute/v2.1/os-services/{HOST}");
    let down =
        Some(json!({"forced_down": true, "status": "disabled", "disabled_reason": "broken"}));
    let changed = Cloud::at(&cloud.admin, "PUT", &one, down, "2.53").await;
    assert_eq!(changed.status, 200, "{}", changed.json());
    assert_eq!(changed.json()["service"]["state"], "down");
    let hypervisors = "/compute/v2.1/os-hypervisors/detail";
    let old = Cloud::at(&cloud.admin, "GET", hypervisors, None, "2.1")
        .await
        .json();
    assert!(old["hypervisors"][0]["cpu_info"].is_string());
    let new = Cloud::at(&cloud.admin, "GET", hypervisors, None, "2.53")
        .await
        .json();
    assert!(new["hypervisors"][0]["cpu_info"].is_object());
    assert_eq!(new["hypervisors"][0]["id"], json!(HOST));
    assert_eq!(new["hypervisors"][0]["free_ram_mb"], json!(16_384));
    let sums = cloud
        .admin
        .get("/compute/v2.1/os-hypervisors/statistics")
        .await
        .json();
    assert_eq!(sums["hypervisor_statistics"]["count"], 0);
    let zones = cloud
        .member
        .get("/compute/v2.1/os-availability-zone")
        .await
        .json();
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneName"], "nova");
    assert_eq!(zones["availabilityZoneInfo"][0]["hosts"], Value::Null);
}

#[tokio::test]
async fn a_host_is_removed_when_it_has_nothing_and_begins_above_its_epoch_when_it_joins_again() {
    let cloud = cloud().await;
    let one = format!("/compute/v2.1/os-services/{HOST}");
    let delete = async |path: &str, version: &str| {
        Cloud::at(&cloud.admin, "DELETE", path, None, version).await
    };
    assert_eq!(cloud.member.delete(&one).await.status, 403);
    let unknown = format!("/compute/v2.1/os-services/{}", uuid::Uuid::nil());
    assert_eq!(delete(&unknown, "2.53").await.status, 404);
    assert_eq!(
        delete("/compute/v2.1/os-services/x", "2.53").await.status,
        400
    );
    assert_eq!(
        delete("/compute/v2.1/os-services/9", "2.1").await.status,
        404
    );
    // What it has keeps it.
    let change = async |sql: &'static str| {
        let host: berth_rpc_types::HostId = HOST.parse().unwrap();
        let done = cloud.app.store.tx::<_, StoreError, _>(|tx| {
            Box::pin(async move { tx.execute(sql, params![host]).await })
        });
        done.await.unwrap()
    };
    let kept = "INSERT INTO vmms (id, instance_id, host_id, role, state, sequence, observation, created_at) \
                VALUES ('v', 'i', $1, 'active', 'running', 1, 1, 1)";
    change(kept).await;
    assert_eq!(delete(&one, "2.53").await.status, 409);
    change("UPDATE vmms SET deleted_at = 2 WHERE host_id = $1").await;
    change("INSERT INTO strays (vmm_id, host_id, state, seen_at) VALUES ('s', $1, 'running', 1)")
        .await;
    assert_eq!(delete(&one, "2.53").await.status, 409);
    change("UPDATE hosts SET forced_down = 1, epoch = 5 WHERE id = $1").await;
    assert_eq!(delete(&one, "2.53").await.status, 204);
    assert_eq!(delete(&one, "2.53").await.status, 404);
    let services = cloud.admin.get("/compute/v2.1/os-services").await.json();
    assert_eq!(services["services"], json!([]));
}
