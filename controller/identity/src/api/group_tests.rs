//! Groups, inherited roles and application credentials.

#![allow(clippy::unwrap_used)]
use crate::testing::{Answer, App, Client, app, login_body};
use serde_json::{Value, json};

const V3: &str = "/identity/v3";

struct Cast {
    app: App,
    admin: Client,
    user: String,
    project: String,
}

fn id(answer: &Answer, key: &str) -> String {
    let json = answer.json();
    json[key]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{json}"))
        .to_owned()
}

async fn role(client: &Client, name: &str) -> String {
    let roles = client.get(&format!("{V3}/roles?name={name}")).await.json();
    roles["roles"][0]["id"].as_str().unwrap().to_owned()
}

/// A user without any role, and a project.
async fn cast() -> Cast {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let body = json!({"user": {"name": "ann", "password": "pw"}});
    let user = id(&admin.post(&format!("{V3}/users"), body).await, "user");
    let body = json!({"project": {"name": "web"}});
    let project = id(
        &admin.post(&format!("{V3}/projects"), body).await,
        "project",
    );
    Cast {
        app,
        admin,
        user,
        project,
    }
}

impl Cast {
    async fn group(&self, name: &str) -> String {
        let body = json!({"group": {"name": name}});
        id(
            &self.admin.post(&format!("{V3}/groups"), body).await,
            "group",
        )
    }

    async fn put(&self, path: &str) {
        let answer = self
            .admin
            .send("PUT", &format!("{V3}{path}"), None, &[])
            .await;
        assert_eq!(answer.status, 204, "{path}: {}", answer.text());
    }

    async fn delete(&self, path: &str) {
        let answer = self.admin.delete(&format!("{V3}{path}")).await;
        assert_eq!(answer.status, 204, "{path}: {}", answer.text());
    }

    /// Whether the user gets a token for the project, and with which roles.
    async fn log_in(&self) -> Result<Vec<String>, u16> {
        let body = login_body("ann", "pw", "web");
        let path = format!("{V3}/auth/tokens");
        let answer = Client::anonymous(&self.app).post(&path, body).await;
        match answer.status.as_u16() {
            201 => Ok(names(&answer.json()["token"]["roles"])),
            other => Err(other),
        }
    }

    async fn effective(&self, query: &str) -> Vec<Value> {
        let path = format!("{V3}/role_assignments?include_names&{query}");
        let list = self.admin.get(&path).await.json();
        list["role_assignments"].as_array().unwrap().clone()
    }
}

fn names(list: &Value) -> Vec<String> {
    let all = list.as_array().unwrap().iter();
    all.map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn who_is_in_a_group_has_its_roles_for_as_long_as_that() {
    let cast = cast().await;
    let (group, member) = (cast.group("ops").await, role(&cast.admin, "member").await);
    let (user, project) = (&cast.user, &cast.project);
    cast.put(&format!(
        "/projects/{project}/groups/{group}/roles/{member}"
    ))
    .await;
    assert_eq!(cast.log_in().await, Err(401));
    cast.put(&format!("/groups/{group}/users/{user}")).await;
    assert_eq!(cast.log_in().await.unwrap(), ["member", "reader"]);
    let ann = Client::login(&cast.app, "ann", "pw", "web").await;
    let projects = ann.get(&format!("{V3}/auth/projects")).await.json();
    assert_eq!(names(&projects["projects"]), ["web"]);
    let own = ann.get(&format!("{V3}/users/{user}/groups")).await.json();
    assert_eq!(names(&own["groups"]), ["ops"]);
    // As it was made: to a group. As it takes effect: on each who is in it, with what it implies.
    let made = cast.effective(&format!("group.id={group}")).await;
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["group"]["domain"]["name"], "Default");
    let query = format!("effective&user.id={user}");
    let effective = cast.effective(&query).await;
    let roles: Vec<_> = effective
        .iter()
        .map(|one| one["role"]["name"].clone())
        .collect();
    assert_eq!(roles, ["member", "reader"]);
    let membership = format!("/identity/v3/groups/{group}/users/{user}");
    let link = effective[0]["links"]["membership"].as_str().unwrap();
    assert!(link.ends_with(&membership), "{link}");
    // Out again: the token is good for nothing at once.
    cast.delete(&format!("/groups/{group}/users/{user}")).await;
    assert_eq!(ann.get(&format!("{V3}/auth/projects")).await.status, 401);
    assert_eq!(cast.log_in().await, Err(401));
    cast.put(&format!("/groups/{group}/users/{user}")).await;
    cast.delete(&format!("/groups/{group}")).await;
    assert_eq!(cast.log_in().await, Err(401));
    assert!(
        cast.effective("effective")
            .await
            .iter()
            .all(|one| one["user"]["id"] != user.as_str())
    );
}

#[tokio::test]
async fn what_a_domain_gives_to_inherit_is_had_on_its_projects_and_not_on_it() {
    let cast = cast().await;
    let reader = role(&cast.admin, "reader").await;
    let user = &cast.user;
    let path =
        format!("/OS-INHERIT/domains/default/users/{user}/roles/{reader}/inherited_to_projects");
    let answer = cast.admin.get(&format!("{V3}{path}")).await;
    assert_eq!(answer.status, 404);
    cast.put(&path).await;
    assert_eq!(cast.admin.get(&format!("{V3}{path}")).await.status, 204);
    assert_eq!(cast.log_in().await.unwrap(), ["reader"]);
    let mut on_domain = login_body("ann", "pw", "web");
    on_domain["auth"]["scope"] = json!({"domain": {"id": "default"}});
    let answer = Client::anonymous(&cast.app)
        .post(&format!("{V3}/auth/tokens"), on_domain)
        .await;
    assert_eq!(answer.status, 401);
    let query = format!("effective&user.id={user}&scope.project.id={}", cast.project);
    let effective = cast.effective(&query).await;
    assert_eq!(effective.len(), 1);
    assert_eq!(effective[0]["scope"]["OS-INHERIT:inherited_to"], "projects");
    let made = cast
        .effective("scope.OS-INHERIT:inherited_to=projects")
        .await;
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["scope"]["domain"]["name"], "Default");
    cast.delete(&path).await;
    assert_eq!(cast.log_in().await, Err(401));
}

#[tokio::test]
async fn who_keeps_a_domain_gains_nothing_by_a_group() {
    let cast = cast().await;
    let body = json!({"domain": {"name": "d"}});
    let domain = id(
        &cast.admin.post(&format!("{V3}/domains"), body).await,
        "domain",
    );
    let body = json!({"user": {"name": "mia", "password": "pw", "domain_id": domain}});
    let mia = id(&cast.admin.post(&format!("{V3}/users"), body).await, "user");
    let (manager, admin) = (
        role(&cast.admin, "manager").await,
        role(&cast.admin, "admin").await,
    );
    cast.put(&format!("/domains/{domain}/users/{mia}/roles/{manager}"))
        .await;
    let body = json!({"group": {"name": "rulers", "domain_id": domain}});
    let rulers = id(
        &cast.admin.post(&format!("{V3}/groups"), body).await,
        "group",
    );
    cast.put(&format!("/system/groups/{rulers}/roles/{admin}"))
        .await;
    let mut log_in = login_body("mia", "pw", "");
    log_in["auth"]["identity"]["password"]["user"]["domain"] = json!({"id": domain});
    log_in["auth"]["scope"] = json!({"domain": {"id": domain}});
    let answer = Client::anonymous(&cast.app)
        .post(&format!("{V3}/auth/tokens"), log_in)
        .await;
    let token = answer.headers["x-subject-token"]
        .to_str()
        .unwrap()
        .to_owned();
    let keeper = Client {
        app: cast.app.clone(),
        token: Some(token),
    };
    let body = json!({"group": {"name": "own"}});
    let own = keeper.post(&format!("{V3}/groups"), body).await;
    assert_eq!(own.json()["group"]["domain_id"], domain.as_str());
    let own = id(&own, "group");
    let put = async |path: String| {
        keeper
            .send("PUT", &format!("{V3}{path}"), None, &[])
            .await
            .status
            .as_u16()
    };
    // Its own group, and roles that do not reach beyond the domain.
    assert_eq!(put(format!("/groups/{own}/users/{mia}")).await, 204);
    assert_eq!(
        put(format!("/domains/{domain}/groups/{own}/roles/{manager}")).await,
        204
    );
    // One that rules, somebody else's user, a role that rules, another domain's project.
    assert_eq!(put(format!("/groups/{rulers}/users/{mia}")).await, 403);
    assert_eq!(put(format!("/groups/{own}/users/{}", cast.user)).await, 403);
    assert_eq!(
        put(format!("/domains/{domain}/groups/{own}/roles/{admin}")).await,
        403
    );
    assert_eq!(
        put(format!(
            "/projects/{}/groups/{own}/roles/{manager}",
            cast.project
        ))
        .await,
        403
    );
    let inherited = "inherited_to_projects";
    let path = format!("/OS-INHERIT/domains/default/groups/{own}/roles/{manager}/{inherited}");
    assert_eq!(put(path).await, 403);
    let gone = keeper.delete(&format!("{V3}/groups/{rulers}")).await;
    assert_eq!(gone.status, 403);
    // Whoever is in the one that rules is beyond the domain, too.
    let body = json!({"user": {"name": "zoe", "password": "pw", "domain_id": domain}});
    let zoe = id(&cast.admin.post(&format!("{V3}/users"), body).await, "user");
    let path = format!("{V3}/users/{zoe}");
    let change = json!({"user": {"password": "mine"}});
    assert_eq!(keeper.patch(&path, change.clone()).await.status, 200);
    cast.put(&format!("/groups/{rulers}/users/{zoe}")).await;
    assert_eq!(keeper.patch(&path, change).await.status, 403);
}

async fn with_credential(cast: &Cast, named: Value) -> Answer {
    let body = json!({"auth": {"identity": {
        "methods": ["application_credential"], "application_credential": named}}});
    let path = format!("{V3}/auth/tokens");
    Client::anonymous(&cast.app).post(&path, body).await
}

fn client(cast: &Cast, answer: &Answer) -> Client {
    assert_eq!(answer.status, 201, "{}", answer.text());
    Client {
        app: cast.app.clone(),
        token: Some(
            answer.headers["x-subject-token"]
                .to_str()
                .unwrap()
                .to_owned(),
        ),
    }
}

#[tokio::test]
async fn a_program_logs_in_with_some_of_a_users_roles_until_one_of_them_is_gone() {
    let cast = cast().await;
    let (user, project) = (&cast.user, &cast.project);
    let (member, reader) = (
        role(&cast.admin, "member").await,
        role(&cast.admin, "reader").await,
    );
    let grant = format!("/projects/{project}/users/{user}/roles/{member}");
    cast.put(&grant).await;
    let ann = Client::login(&cast.app, "ann", "pw", "web").await;
    let path = format!("{V3}/users/{user}/application_credentials");
    let make = async |by: &Client, more: Value| {
        let mut body = json!({"name": "ci", "roles": [{"name": "reader"}]});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        by.post(&path, json!({"application_credential": body}))
            .await
    };
    for (more, status) in [
        (json!({"roles": [{"name": "admin"}]}), 400),
        (json!({"expires_at": "2001-01-01T00:00:00"}), 400),
        (
            json!({"access_rules": [{"path": "/", "method": "GET", "service": "compute"}]}),
            400,
        ),
        (json!({"project_id": "another"}), 400),
        (json!({}), 201),
        (json!({}), 409),
    ] {
        let answer = make(&ann, more.clone()).await;
        assert_eq!(answer.status, status, "{more}: {}", answer.text());
    }
    // For oneself only, an administrator too.
    assert_eq!(make(&cast.admin, json!({"name": "x"})).await.status, 403);
    let made = make(&ann, json!({"name": "given", "secret": "s3cret"}))
        .await
        .json();
    let made = &made["application_credential"];
    assert_eq!(made["secret"], "s3cret");
    assert_eq!(made["roles"][0]["id"], reader.as_str());
    let listed = ann.get(&path).await.json();
    let listed = listed["application_credentials"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|one| one.get("secret").is_none()));

    let by_id = json!({"id": made["id"], "secret": "s3cret"});
    let named = json!({"name": "given", "secret": "s3cret", "user": {"id": user}});
    let answer = with_credential(&cast, named).await;
    let token = answer.json()["token"].clone();
    assert_eq!(names(&token["roles"]), ["reader"]);
    assert_eq!(token["project"]["id"], project.as_str());
    assert_eq!(token["methods"], json!(["application_credential"]));
    assert_eq!(token["application_credential"]["restricted"], true);
    let program = client(&cast, &answer);
    assert_eq!(program.get("/identity/v3/auth/catalog").await.status, 200);
    // It is restricted, and for its project alone.
    assert_eq!(make(&program, json!({"name": "y"})).await.status, 403);
    let own = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(program.delete(&own).await.status, 403);
    let again = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": program.token}},
        "scope": {"project": {"id": project}}}});
    let again = program.post(&format!("{V3}/auth/tokens"), again).await;
    assert_eq!(again.status, 403);
    let elsewhere = json!({"auth": {"identity": {"methods": ["application_credential"],
        "application_credential": by_id}, "scope": {"project": {"id": project}}}});
    let elsewhere = program.post(&format!("{V3}/auth/tokens"), elsewhere).await;
    assert_eq!(elsewhere.status, 401);
    for wrong in [
        json!({"id": made["id"], "secret": "s3cre"}),
        json!({"id": "nobody's", "secret": "s3cret"}),
        json!({"name": "given", "secret": "s3cret", "user": {"name": "admin", "domain": {"id": "default"}}}),
    ] {
        assert_eq!(with_credential(&cast, wrong).await.status, 401);
    }
    // A role that it does not have is not missed; one that it has ends it.
    cast.put(&format!("/projects/{project}/users/{user}/roles/{reader}"))
        .await;
    cast.delete(&grant).await;
    assert_eq!(program.get("/identity/v3/auth/catalog").await.status, 200);
    cast.delete(&format!("/projects/{project}/users/{user}/roles/{reader}"))
        .await;
    assert_eq!(program.get("/identity/v3/auth/catalog").await.status, 401);
    assert_eq!(with_credential(&cast, by_id.clone()).await.status, 401);
    // Deleted, its tokens end with it.
    cast.put(&grant).await;
    let program = client(&cast, &with_credential(&cast, by_id.clone()).await);
    assert_eq!(ann.delete(&own).await.status, 204);
    assert_eq!(program.get("/identity/v3/auth/catalog").await.status, 401);
    assert_eq!(with_credential(&cast, by_id).await.status, 401);
}

#[tokio::test]
async fn an_unrestricted_credential_makes_others_and_all_go_with_their_user() {
    let cast = cast().await;
    let (user, project) = (&cast.user, &cast.project);
    let member = role(&cast.admin, "member").await;
    cast.put(&format!("/projects/{project}/users/{user}/roles/{member}"))
        .await;
    let ann = Client::login(&cast.app, "ann", "pw", "web").await;
    let path = format!("{V3}/users/{user}/application_credentials");
    let body = |name: &str| json!({"application_credential": {"name": name, "unrestricted": true, "secret": "s"}});
    let made = ann.post(&path, body("a")).await.json();
    let by_id = json!({"id": made["application_credential"]["id"], "secret": "s"});
    let program = client(&cast, &with_credential(&cast, by_id.clone()).await);
    assert_eq!(program.post(&path, body("b")).await.status, 201);
    cast.delete(&format!("/users/{user}")).await;
    assert_eq!(program.get("/identity/v3/auth/catalog").await.status, 401);
    assert_eq!(with_credential(&cast, by_id).await.status, 401);
    let left = cast
        .app
        .store
        .tx::<_, berth_controller_core::store::StoreError, _>(|tx| {
            Box::pin(tx.query::<(String,)>("SELECT id FROM application_credentials", &[]))
        });
    assert_eq!(left.await.unwrap(), []);
}

#[tokio::test]
async fn a_project_has_tags() {
    let cast = cast().await;
    let path = format!("{V3}/projects/{}/tags", cast.project);
    let put = async |tag: &str| {
        let path = format!("{path}/{tag}");
        cast.admin
            .send("PUT", &path, None, &[])
            .await
            .status
            .as_u16()
    };
    assert_eq!(put("blue").await, 201);
    assert_eq!(put("blue").await, 201);
    assert_eq!(put("a,b").await, 400);
    let tags = async || cast.admin.get(&path).await.json()["tags"].clone();
    assert_eq!(tags().await, json!(["blue"]));
    assert_eq!(cast.admin.get(&format!("{path}/blue")).await.status, 204);
    assert_eq!(cast.admin.get(&format!("{path}/red")).await.status, 404);
    let replaced = cast
        .admin
        .put(&path, json!({"tags": ["x", "y", "x"]}))
        .await;
    assert_eq!(replaced.json()["tags"], json!(["x", "y"]));
    assert_eq!(cast.admin.delete(&format!("{path}/blue")).await.status, 404);
    assert_eq!(cast.admin.delete(&format!("{path}/x")).await.status, 204);
    assert_eq!(tags().await, json!(["y"]));
    assert_eq!(cast.admin.delete(&path).await.status, 204);
    assert_eq!(tags().await, json!([]));
}

#[tokio::test]
async fn what_else_is_said_is_kept_and_shown_and_changes_nothing_that_is_known() {
    let cast = cast().await;
    for (all, one) in [
        ("users", "user"),
        ("groups", "group"),
        ("projects", "project"),
        ("roles", "role"),
        ("domains", "domain"),
    ] {
        let path = format!("{V3}/{all}");
        let said = json!({"name": "some", "colour": "red", "links": "mine", "nested": {"a": [1]}});
        let made = cast.admin.post(&path, json!({one: said})).await;
        assert_eq!(made.status, 201, "{all}: {}", made.text());
        let path = format!("{path}/{}", id(&made, one));
        let change = json!({one: {"shape": "round", "nested": null}});
        assert_eq!(cast.admin.patch(&path, change).await.status, 200);
        let shown = cast.admin.get(&path).await.json()[one].clone();
        assert_eq!(shown["colour"], "red", "{all}");
        assert_eq!(shown["shape"], "round");
        assert_eq!(shown["nested"], Value::Null);
        assert!(shown["links"]["self"].as_str().unwrap().ends_with(&path));
        let listed = cast
            .admin
            .get(&format!("{V3}/{all}?name=some"))
            .await
            .json();
        assert_eq!(listed[all][0], shown);
        let much = json!({one: {"much": "x".repeat(20_000)}});
        assert_eq!(cast.admin.patch(&path, much).await.status, 400);
        if all == "domains" {
            let off = json!({one: {"enabled": false}});
            assert_eq!(cast.admin.patch(&path, off).await.status, 200);
        }
        assert_eq!(cast.admin.delete(&path).await.status, 204);
    }
    let left = cast
        .app
        .store
        .tx::<_, berth_controller_core::store::StoreError, _>(|tx| {
            Box::pin(tx.query::<(String,)>("SELECT id FROM identity_extra", &[]))
        });
    assert_eq!(left.await.unwrap(), []);
}
