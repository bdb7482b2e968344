#![allow(clippy::unwrap_used)]
use crate::testing::{Client, PASSWORD, app, login_body};
use axum::http::StatusCode;
use berth_controller_core::params;
use berth_controller_core::store::StoreError;
use serde_json::json;

#[tokio::test]
async fn a_password_gives_a_token_with_roles_and_a_catalogue() {
    let app = app().await;
    let answer = Client::anonymous(&app)
        .post(
            "/identity/v3/auth/tokens",
            login_body("admin", PASSWORD, "admin"),
        )
        .await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert!(answer.headers.contains_key("x-subject-token"));
    let request_id = answer.headers["x-openstack-request-id"].to_str().unwrap();
    assert!(
        request_id.starts_with("req-") && request_id.len() == 40,
        "{request_id}"
    );
    let token = &answer.json()["token"];
    assert_eq!(token["project"]["name"], "admin");
    assert_eq!(token["user"]["domain"]["id"], "default");
    let roles: Vec<_> = token["roles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].clone())
        .collect();
    assert_eq!(roles, ["admin", "manager", "member", "reader"]);
    let types: Vec<_> = token["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["type"].clone())
        .collect();
    assert_eq!(types, ["compute", "identity", "image", "network"]);
}

#[tokio::test]
async fn wrong_credentials_are_401_and_do_not_tell_what_exists() {
    let app = app().await;
    let client = Client::anonymous(&app);
    let mut messages = Vec::new();
    for (user, password) in [("admin", "wrong"), ("nobody", PASSWORD)] {
        let answer = client
            .post(
                "/identity/v3/auth/tokens",
                login_body(user, password, "admin"),
            )
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        messages.push(answer.json()["error"]["message"].clone());
    }
    assert_eq!(messages[0], messages[1]);
    let answer = client.get("/identity/v3/users").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(
        answer.headers["www-authenticate"]
            .to_str()
            .unwrap()
            .contains("/identity")
    );
}

#[tokio::test]
async fn an_expired_a_revoked_and_an_invented_token_each_name_their_cause() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let expired = client.clone();
    app.store
        .tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                let sql = "UPDATE tokens SET expires_at = $1";
                tx.execute(sql, params![1_000_i64]).await
            })
        })
        .await
        .unwrap();
    let answer = expired.get("/identity/v3/users").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("expired at 1970-01-01T00:00:01Z")
    );

    let client = Client::admin(&app).await;
    let token = client.token.clone().unwrap();
    let revoked = client
        .send(
            "DELETE",
            "/identity/v3/auth/tokens",
            None,
            &[("x-subject-token", &token)],
        )
        .await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert_eq!(
        client.get("/identity/v3/users").await.status,
        StatusCode::UNAUTHORIZED
    );
    let invented = Client {
        token: Some("../../etc/passwd".into()),
        ..client
    };
    // Another service says the same in its own words.
    let answer = invented.get("/network/v2.0/networks").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(
        answer.json()["NeutronError"]["message"]
            .as_str()
            .unwrap()
            .contains("not known")
    );
}

#[tokio::test]
async fn scopes_are_project_domain_system_or_none_and_a_token_gives_a_token() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let secret = client.token.clone().unwrap();
    for (scope, key) in [
        (json!({"domain": {"name": "Default"}}), "domain"),
        (json!({"system": {"all": true}}), "system"),
        (
            json!({"project": {"name": "admin", "domain": {"id": "default"}}}),
            "project",
        ),
        (json!("unscoped"), "methods"),
    ] {
        let body = json!({"auth": {
            "identity": {"methods": ["token"], "token": {"id": secret}}, "scope": scope,
        }});
        let answer = Client::anonymous(&app)
            .post("/identity/v3/auth/tokens", body)
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{key}");
        let token = &answer.json()["token"];
        assert!(!token[key].is_null(), "{key}");
        assert_eq!(token["roles"].is_null(), key == "methods");
    }
    let body = json!({"auth": {
        "identity": {"methods": ["token"], "token": {"id": secret}},
        "scope": {"project": {"id": "no-such"}},
    }});
    let answer = Client::anonymous(&app)
        .post("/identity/v3/auth/tokens", body)
        .await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_member_may_not_administer_and_loses_the_token_with_the_role() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (member, project) = admin.member("alice").await;
    for path in [
        "users",
        "projects",
        "roles",
        "domains",
        "services",
        "endpoints",
    ] {
        let answer = member.get(&format!("/identity/v3/{path}")).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(
        member
            .get(&format!("/identity/v3/projects/{project}"))
            .await
            .status,
        200
    );
    let mine = member.get("/identity/v3/auth/projects").await.json();
    assert_eq!(mine["projects"].as_array().unwrap().len(), 1);
    let users = admin.get("/identity/v3/users?name=alice").await.json();
    let user = users["users"][0]["id"].as_str().unwrap().to_owned();
    let roles = admin.get("/identity/v3/roles?name=member").await.json();
    let role = roles["roles"][0]["id"].as_str().unwrap();
    let grant = format!("/identity/v3/projects/{project}/users/{user}/roles/{role}");
    assert_eq!(admin.delete(&grant).await.status, 204);
    assert_eq!(admin.delete(&grant).await.status, 404);
    let answer = member.get("/identity/v3/auth/projects").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no longer has a role")
    );
}

#[tokio::test]
async fn names_are_checked_and_unique_and_errors_name_the_field() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    for (name, status) in [
        (json!("a/b"), 201),
        (json!("a/b"), 409),
        (json!("x".repeat(64)), 201),
        (json!("x".repeat(65)), 400),
        (json!(""), 400),
        (json!(7), 400),
    ] {
        let answer = admin
            .post("/identity/v3/projects", json!({"project": {"name": name}}))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{name}");
        if status == 400 {
            assert!(
                answer.json()["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("project.name")
            );
        }
    }
    let answer = admin
        .send(
            "POST",
            "/identity/v3/projects",
            Some(b"{\"project\": ".to_vec()),
            &[],
        )
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["error"]["title"], "Bad Request");
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_not_done_is_405_in_each_services_words() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let answer = admin.get("/identity/v3/trusts").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json()["error"]["code"], 404);
    let answer = admin.put("/identity/v3/users", json!({})).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.json()["error"]["code"], 405);
    let answer = admin.get("/network/v2.0/routers").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.json()["NeutronError"]["message"].is_string());
    let big = vec![b' '; 2 << 20];
    let answer = admin
        .send("POST", "/identity/v3/users", Some(big), &[])
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn discovery_needs_no_token_and_its_links_are_absolute() {
    let app = app().await;
    let client = Client::anonymous(&app);
    let answer = client.get("/identity/").await;
    assert_eq!(answer.status, StatusCode::MULTIPLE_CHOICES);
    let version = &answer.json()["versions"]["values"][0];
    assert_eq!(version["status"], "stable");
    assert!(
        version["links"][0]["href"]
            .as_str()
            .unwrap()
            .starts_with("http://controller.test/identity/v3")
    );
    let answer = client.get("/identity/v3/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["version"]["id"], "v3.14");
}

#[tokio::test]
async fn a_new_password_ends_old_tokens() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, _) = admin.member("alice").await;
    let users = admin.get("/identity/v3/users?name=alice").await.json();
    let path = format!(
        "/identity/v3/users/{}/password",
        users["users"][0]["id"].as_str().unwrap()
    );
    let wrong = json!({"user": {"password": "new", "original_password": "no"}});
    assert_eq!(alice.post(&path, wrong).await.status, 401);
    let right = json!({"user": {"password": "new", "original_password": "pw"}});
    assert_eq!(alice.post(&path, right).await.status, 204);
    assert_eq!(alice.get("/identity/v3/auth/projects").await.status, 401);
    Client::login(&app, "alice", "new", "alice").await;
}

#[tokio::test]
async fn a_user_whose_log_ins_failed_waits_and_nobody_else_does() {
    let app = app().await;
    let wrong = login_body("admin", "guess", "admin");
    let client = Client::anonymous(&app);
    for _ in 0..10 {
        let answer = client.post("/identity/v3/auth/tokens", wrong.clone()).await;
        assert_eq!(answer.status, 401);
    }
    // The right one, too: else the limit would tell which it is.
    for password in ["guess", "secret"] {
        let body = login_body("admin", password, "admin");
        let answer = client.post("/identity/v3/auth/tokens", body).await;
        assert_eq!(answer.status, 429);
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("try again in"), "{message}");
    }
    // Nor does it tell who there is.
    let nobody = login_body("nobody", "guess", "admin");
    for n in 0..=10 {
        let answer = client
            .post("/identity/v3/auth/tokens", nobody.clone())
            .await;
        assert_eq!(answer.status, if n < 10 { 401 } else { 429 });
    }
}
