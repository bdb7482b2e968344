//! Keys.

use super::*;

#[tokio::test]
async fn keys_are_imported_or_made_and_belong_to_their_user() {
    let cloud = cloud().await;
    let keys = "/compute/v2.1/os-keypairs";
    let body = json!({"keypair": {"name": "made"}});
    let made = cloud.member.post(keys, body.clone()).await;
    assert_eq!(made.status, 200);
    let made = made.json();
    assert!(text(&made["keypair"]["private_key"]).contains("OPENSSH PRIVATE KEY"));
    assert!(made["keypair"].get("type").is_none());
    assert_eq!(cloud.member.post(keys, body).await.status, 409);
    let import = json!({"keypair": {
        "name": "mine", "type": "ssh", "public_key": made["keypair"]["public_key"],
    }});
    let imported = Cloud::at(&cloud.member, "POST", keys, Some(import), "2.10").await;
    assert_eq!(imported.status, 201, "{}", imported.json());
    assert_eq!(
        imported.json()["keypair"]["fingerprint"],
        made["keypair"]["fingerprint"]
    );
    assert!(imported.json()["keypair"].get("private_key").is_none());
    for (name, key) in [("x", "ssh-rsa nonsense"), ("x/y", "")] {
        let bad = json!({"keypair": {"name": name, "public_key": key}});
        assert_eq!(cloud.member.post(keys, bad).await.status, 400);
    }
    assert_eq!(cloud.admin.get(&format!("{keys}/mine")).await.status, 404);
    let mut body = cloud.server("with-key");
    body["server"]["key_name"] = json!("mine");
    assert_eq!(cloud.create(body).await.status, 202);
    let gone = Cloud::at(
        &cloud.member,
        "DELETE",
        &format!("{keys}/mine"),
        None,
        "2.10",
    )
    .await;
    assert_eq!(gone.status, 204);
    assert_eq!(
        cloud.member.delete(&format!("{keys}/made")).await.status,
        202
    );
}
