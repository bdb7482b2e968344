//! Flavors.

use super::*;

#[tokio::test]
async fn flavors_are_an_administrators_to_make() {
    let cloud = cloud().await;
    let flavors = "/compute/v2.1/flavors";
    let body = json!({"flavor": {
        "name": "private", "id": "p1", "ram": 256, "vcpus": 1, "disk": 0,
        "os-flavor-access:is_public": false,
    }});
    assert_eq!(cloud.member.post(flavors, body.clone()).await.status, 403);
    assert_eq!(cloud.admin.post(flavors, body.clone()).await.status, 200);
    assert_eq!(cloud.admin.post(flavors, body).await.status, 409);
    let one = format!("{flavors}/p1");
    assert_eq!(cloud.member.get(&one).await.status, 404);
    let grant = json!({"addTenantAccess": {"tenant": cloud.project}});
    assert_eq!(
        cloud
            .admin
            .post(&format!("{one}/action"), grant)
            .await
            .status,
        200
    );
    let shown = cloud.member.get(&one).await.json();
    assert!(shown["flavor"].get("description").is_none());
    let shown = Cloud::at(&cloud.member, "GET", &one, None, "2.55")
        .await
        .json();
    assert_eq!(shown["flavor"]["description"], Value::Null);
    let specs = json!({"extra_specs": {"hw:x": "1"}});
    assert_eq!(
        cloud
            .admin
            .post(&format!("{one}/os-extra_specs"), specs)
            .await
            .status,
        200
    );
    let spec = cloud
        .member
        .get(&format!("{one}/os-extra_specs/hw:x"))
        .await;
    assert_eq!(spec.json(), json!({"hw:x": "1"}));
    for (field, value) in [
        ("ram", json!(0)),
        ("vcpus", json!("x")),
        ("swap", json!(5)),
        ("id", json!("a/b")),
    ] {
        let mut body = json!({"flavor": {"name": "bad", "ram": 1, "vcpus": 1, "disk": 1}});
        body["flavor"][field] = value;
        let answer = cloud.admin.post(flavors, body).await;
        assert_eq!(answer.status, 400, "{field}");
        assert!(message(&answer).contains(field));
    }
    assert_eq!(cloud.admin.delete(&one).await.status, 202);
    assert_eq!(cloud.admin.delete(&one).await.status, 404);
}
