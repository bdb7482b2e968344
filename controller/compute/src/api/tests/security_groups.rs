//! Security groups, in Nova's form.

use super::*;

#[tokio::test]
async fn security_groups_are_shown_in_novas_form_up_to_2_35() {
    let cloud = cloud().await;
    let path = "/compute/v2.1/os-security-groups";
    let body = json!({"security_group": {"name": "web", "description": "d"}});
    let group = cloud.member.post(path, body).await;
    assert_eq!(group.status, 200, "{}", group.json());
    let id = text(&group.json()["security_group"]["id"]);
    let rule = json!({"security_group_rule": {
        "parent_group_id": id, "ip_protocol": "tcp", "from_port": 22, "to_port": 22,
    }});
    let rules = "/compute/v2.1/os-security-group-rules";
    let made = cloud.member.post(rules, rule).await;
    assert_eq!(made.status, 200, "{}", made.json());
    let made = &made.json()["security_group_rule"];
    assert_eq!(made["ip_range"], json!({"cidr": "0.0.0.0/0"}));
    assert_eq!(
        (&made["from_port"], &made["group"]),
        (&json!(22), &json!({}))
    );
    let shown = cloud.member.get(&format!("{path}/{id}")).await.json();
    assert_eq!(
        shown["security_group"]["rules"].as_array().unwrap().len(),
        1
    );
    let late = Cloud::at(&cloud.member, "GET", path, None, "2.36").await;
    assert_eq!(late.status, 404);
    assert_eq!(
        cloud
            .member
            .delete(&format!("{rules}/{}", text(&made["id"])))
            .await
            .status,
        202
    );
    let server = cloud.created("x").await;
    let on = cloud
        .member
        .get(&format!("{SERVERS}/{server}/os-security-groups"))
        .await
        .json();
    assert_eq!(on["security_groups"][0]["name"], "default");
    assert_eq!(
        cloud.member.delete(&format!("{path}/{id}")).await.status,
        202
    );
}
