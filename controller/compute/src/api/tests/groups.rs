//! Server groups.

use super::*;

#[tokio::test]
async fn a_server_group_has_one_policy_and_hints_name_it() {
    let cloud = cloud().await;
    let groups = "/compute/v2.1/os-server-groups";
    let group = |policy: &str| json!({"server_group": {"name": "g", "policies": [policy]}});
    assert_eq!(
        cloud.member.post(groups, group("nonsense")).await.status,
        400
    );
    assert_eq!(
        cloud
            .member
            .post(groups, group("soft-affinity"))
            .await
            .status,
        400
    );
    let soft = Cloud::at(
        &cloud.member,
        "POST",
        groups,
        Some(group("soft-affinity")),
        "2.15",
    )
    .await;
    assert_eq!(soft.status, 200);
    let made = cloud
        .member
        .post(groups, group("anti-affinity"))
        .await
        .json();
    let id = text(&made["server_group"]["id"]);
    assert!(made["server_group"].get("project_id").is_none());
    let mut body = cloud.server("x");
    body["os:scheduler_hints"] = json!({"group": id});
    let server = cloud.create(body.clone()).await;
    let server = text(&server.json()["server"]["id"]);
    let shown = cloud.member.get(&format!("{groups}/{id}")).await.json();
    assert_eq!(shown["server_group"]["members"], json!([server]));
    body["os:scheduler_hints"] = json!({"query": "[]"});
    let refused = cloud.create(body).await;
    assert!(message(&refused).contains("query is not kept"));
    assert_eq!(
        cloud.member.delete(&format!("{groups}/{id}")).await.status,
        204
    );
}
