//! Every route of the table of policies, asked by everybody that there may be, compared with the
//! table; and what was once possible and must not be.
//!
//! What the table says is worked out here a second time, from its columns alone.

use super::*;
use berth_controller_core::policy::{Role, TABLE, Who};
use std::collections::BTreeMap;

/// What somebody's token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Nothing,
    /// The project that has the things.
    Project,
    AnotherProject,
    Domain,
    System,
}

/// Somebody who asks.
struct Persona {
    name: String,
    client: Client,
    /// `None`: no token, or one that has expired.
    scope: Option<For>,
    role: Option<Role>,
    user: String,
}

const UNKNOWN: &str = "00000000-0000-4000-8000-00000000dead";

async fn log_in(cloud: &Cloud, user: &str, scope: Value) -> Client {
    let mut auth = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {
        "id": user, "password": "pw",
    }}}}});
    if !scope.is_null() {
        auth["auth"]["scope"] = scope;
    }
    let answer = Client::anonymous(&cloud.app)
        .post("/identity/v3/auth/tokens", auth)
        .await;
    assert_eq!(answer.status, 201, "{}", answer.json());
    let token = answer.headers.get("x-subject-token").unwrap();
    Client {
        app: cloud.app.clone(),
        token: Some(token.to_str().unwrap().to_owned()),
    }
}

impl Cloud {
    /// A user in a domain, with the password `pw`.
    async fn user(&self, name: &str, domain: &str) -> String {
        let user = json!({"user": {"name": name, "password": "pw", "domain_id": domain}});
        let made = self.admin.post("/identity/v3/users", user).await;
        assert_eq!(made.status, 201);
        text(&made.json()["user"]["id"])
    }

    async fn role_id(&self, name: &str) -> String {
        let path = format!("/identity/v3/roles?name={name}");
        text(&self.admin.get(&path).await.json()["roles"][0]["id"])
    }

    /// Gives a role on `projects/ID`, `domains/ID` or `system`.
    async fn give(&self, user: &str, on: &str, role: &str) {
        let role = self.role_id(role).await;
        let path = format!("/identity/v3/{on}/users/{user}/roles/{role}");
        let given = self.admin.send("PUT", &path, None, &[]).await;
        assert_eq!(given.status, 204);
    }

    async fn domain(&self, name: &str) -> String {
        let domain = json!({"domain": {"name": name}});
        let made = self.admin.post("/identity/v3/domains", domain).await;
        text(&made.json()["domain"]["id"])
    }

    /// Everybody.
    async fn everybody(&self) -> Vec<Persona> {
        let domain = self.domain("x").await;
        let custom = json!({"role": {"name": "auditor"}});
        self.admin.post("/identity/v3/roles", custom).await;
        let (other, project) = self.admin.member("mallory").await;
        let other_user = text(
            &self
                .admin
                .get("/identity/v3/users?name=mallory")
                .await
                .json()["users"][0]["id"],
        );
        let mut all = vec![Persona {
            name: "member of another project".into(),
            client: other,
            scope: Some(For::AnotherProject),
            role: Some(Role::Member),
            user: other_user,
        }];
        assert_ne!(project, self.project);
        let on = [
            (
                For::Project,
                "default",
                format!("projects/{}", self.project),
            ),
            (For::Domain, &*domain, format!("domains/{domain}")),
            (For::System, "default", "system".to_owned()),
        ];
        for (scope, home, target) in on {
            let asked = match scope {
                For::Project => json!({"project": {"id": self.project}}),
                For::Domain => json!({"domain": {"id": domain}}),
                _ => json!({"system": {"all": true}}),
            };
            for role in ["auditor", "reader", "member", "manager", "admin"] {
                let name = format!("{role} for {scope:?}");
                let user = self.user(&name, home).await;
                self.give(&user, &target, role).await;
                all.push(Persona {
                    client: log_in(self, &user, asked.clone()).await,
                    scope: Some(scope),
                    role: Role::highest([role].into_iter()),
                    name,
                    user,
                });
            }
        }
        let user = self.user("unscoped", "default").await;
        all.push(Persona {
            name: "unscoped".into(),
            client: log_in(self, &user, Value::Null).await,
            scope: Some(For::Nothing),
            role: None,
            user: user.clone(),
        });
        all.push(Persona {
            name: "nobody".into(),
            client: Client::anonymous(&self.app),
            scope: None,
            role: None,
            user: String::new(),
        });
        let expired = log_in(self, &user, Value::Null).await;
        let secret = expired.token.clone().unwrap();
        let hash = berth_controller_core::secret::digest(&secret);
        let sql = "UPDATE tokens SET expires_at = 1 WHERE token_hash = $1";
        self.app
            .store
            .tx::<_, StoreError, _>(|tx| {
                let hash = hash.clone();
                Box::pin(async move { tx.execute(sql, params![hash]).await })
            })
            .await
            .unwrap();
        all.push(Persona {
            name: "expired".into(),
            client: expired,
            scope: None,
            role: None,
            user: String::new(),
        });
        all
    }
}

/// What the table says of somebody, by its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Unauthorized,
    Forbidden,
    /// Of themself and no more.
    Oneself,
    Allowed,
}

fn verdict(who: Who, persona: &Persona) -> Verdict {
    let Who::Roles {
        project,
        domain,
        system,
        oneself,
    } = who
    else {
        return match (who, persona.scope) {
            (Who::Token, None) => Verdict::Unauthorized,
            _ => Verdict::Allowed,
        };
    };
    let lowest = match persona.scope {
        None => return Verdict::Unauthorized,
        Some(For::Nothing) => None,
        Some(For::Project | For::AnotherProject) => project,
        Some(For::Domain) => domain,
        Some(For::System) => system,
    };
    match (lowest, persona.role) {
        (Some(lowest), Some(role)) if role >= lowest => Verdict::Allowed,
        _ if oneself => Verdict::Oneself,
        _ => Verdict::Forbidden,
    }
}

/// A path with something in its placeholders; what is allowed is asked of what is not there, so that
/// nothing changes under those who ask next.
fn path_for(template: &str, persona: &Persona, verdict: Verdict, project: &str) -> String {
    let mut path = template.to_owned();
    if verdict == Verdict::Oneself {
        let own = match template {
            t if t.contains("/users/{id}") => &persona.user,
            t if t.contains("/domains/{id}") => "default",
            _ => project,
        };
        path = match template.contains("/users/{user}/application_credentials") {
            true => path.replace("{user}", &persona.user),
            false => path.replace("{id}", own),
        };
        if template.ends_with("/role_assignments") {
            path.push_str(&format!("?user.id={}", persona.user));
        }
    }
    if !template.starts_with("/identity") {
        path = path.replace("{project}", project);
    }
    while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
        path.replace_range(from..=to, UNKNOWN);
    }
    path
}

#[tokio::test]
async fn every_route_answers_everybody_as_the_table_says() {
    let cloud = cloud().await;
    let everybody = cloud.everybody().await;
    let mut tried = BTreeMap::new();
    let mut wrong = Vec::new();
    for rule in TABLE {
        for (method, template) in rule.routes {
            for persona in &everybody {
                let verdict = verdict(rule.who, persona);
                // Quotas are asked of the caller's own project; the other project's are below.
                let foreign = persona.scope == Some(For::AnotherProject);
                if foreign && !template.starts_with("/identity") && template.contains("{project}") {
                    continue;
                }
                // Who asks of themself from a domain is of that domain.
                if verdict == Verdict::Oneself
                    && (template.contains("/projects/{id}") || template.contains("/domains/{id}"))
                    && !matches!(persona.scope, Some(For::Project))
                {
                    continue;
                }
                let path = path_for(template, persona, verdict, &cloud.project);
                let body = Some(b"{}".to_vec());
                let answer = persona.client.send(method, &path, body, &[]).await;
                let fits = match (verdict, answer.status.as_u16()) {
                    (Verdict::Unauthorized, status) => status == 401,
                    (Verdict::Forbidden, status) => status == 403,
                    // Whatever it says of what is not there, or of `{}`.
                    (Verdict::Allowed | Verdict::Oneself, status) => {
                        ![401, 403, 405, 500].contains(&status)
                    }
                };
                *tried.entry(format!("{verdict:?}")).or_insert(0) += 1;
                if !fits {
                    let said = String::from_utf8_lossy(&answer.bytes).into_owned();
                    let name = &persona.name;
                    wrong.push(format!(
                        "{name}: {method} {path} is {verdict:?}, answers {}: {said}",
                        answer.status
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("tried: {tried:?}");
    let all: i32 = tried.values().sum();
    assert!(all > 3000, "{tried:?}");
}

/// What belongs to the project: a path of it, and where the path has more than one method, what
/// another project's member might send.
async fn things(cloud: &Cloud) -> Vec<(&'static str, String)> {
    let member = &cloud.member;
    let made = |answer: Answer, one: &'static str| {
        assert!(answer.status.is_success(), "{}", answer.json());
        text(&answer.json()[one]["id"])
    };
    let server = cloud.created("mine").await;
    let net = json!({"network": {"name": "mine"}});
    let net = made(member.post("/network/v2.0/networks", net).await, "network");
    let subnet = json!({"subnet": {"name": "mine", "network_id": net, "cidr": "10.9.0.0/24", "ip_version": 4}});
    let subnet = made(member.post("/network/v2.0/subnets", subnet).await, "subnet");
    let port = json!({"port": {"name": "mine", "network_id": net}});
    let port = made(member.post("/network/v2.0/ports", port).await, "port");
    let group = json!({"security_group": {"name": "mine"}});
    let group = member.post("/network/v2.0/security-groups", group).await;
    let rule = text(&group.json()["security_group"]["security_group_rules"][0]["id"]);
    let group = made(group, "security_group");
    let image = json!({"name": "mine", "visibility": "private"});
    let image = member.post("/image/v2/images", image).await;
    let image = text(&image.json()["id"]);
    let servers = json!({"server_group": {"name": "mine", "policies": ["affinity"]}});
    let servers = member.post("/compute/v2.1/os-server-groups", servers).await;
    let servers = made(servers, "server_group");
    vec![
        ("/compute/v2.1/servers/{id}", server),
        ("/compute/v2.1/os-server-groups/{id}", servers),
        ("/compute/v2.1/os-security-groups/{id}", group.clone()),
        ("/compute/v2.1/os-security-group-rules/{id}", rule.clone()),
        ("/network/v2.0/networks/{id}", net),
        ("/network/v2.0/subnets/{id}", subnet),
        ("/network/v2.0/ports/{id}", port),
        ("/network/v2.0/security-groups/{id}", group),
        ("/network/v2.0/security-group-rules/{id}", rule),
        ("/image/v2/images/{id}", image),
        (
            "/compute/v2.1/os-quota-sets/{project}",
            cloud.project.clone(),
        ),
        (
            "/compute/v2.1/os-simple-tenant-usage/{project}",
            cloud.project.clone(),
        ),
        ("/network/v2.0/quotas/{project}", cloud.project.clone()),
    ]
}

/// A body that a route would take.
fn body_of(method: &str, template: &str) -> Value {
    match (
        method,
        template.trim_start_matches("/compute/v2.1/servers/{id}"),
    ) {
        ("PUT", "") => json!({"server": {"name": "theirs"}}),
        ("POST", "/action") => json!({"os-stop": null}),
        ("POST" | "PUT", "/metadata") => json!({"metadata": {"a": "b"}}),
        ("PUT", "/metadata/{key}") => json!({"meta": {UNKNOWN: "b"}}),
        ("PUT", "/tags") => json!({"tags": ["a"]}),
        ("PUT", "/compute/v2.1/os-security-groups/{id}") => {
            json!({"security_group": {"name": "theirs", "description": ""}})
        }
        ("PUT", "/network/v2.0/networks/{id}") => json!({"network": {"name": "theirs"}}),
        ("PUT", "/network/v2.0/subnets/{id}") => json!({"subnet": {"name": "theirs"}}),
        ("PUT", "/network/v2.0/ports/{id}") => json!({"port": {"name": "theirs"}}),
        ("PUT", "/network/v2.0/security-groups/{id}") => {
            json!({"security_group": {"name": "theirs"}})
        }
        ("PATCH", "/image/v2/images/{id}") => {
            json!([{"op": "replace", "path": "/name", "value": "theirs"}])
        }
        ("PUT", path) if path.starts_with("/network/") && path.ends_with("/tags") => {
            json!({"tags": []})
        }
        ("POST", "/image/v2/images/{id}/members") => json!({"member": "theirs"}),
        ("PUT", "/image/v2/images/{id}/members/{member}") => json!({"status": "accepted"}),
        _ => Value::Null,
    }
}

#[tokio::test]
async fn what_a_project_has_is_out_of_anothers_reach_by_every_route() {
    let cloud = cloud().await;
    let things = things(&cloud).await;
    let (other, _) = cloud.admin.member("mallory").await;
    let mut tried = 0;
    for rule in TABLE {
        for (method, template) in rule.routes {
            let thing = things.iter().find(|(prefix, _)| {
                let rest = template.strip_prefix(prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            let Some((_, id)) = thing else { continue };
            // What all projects have alike.
            if template.ends_with("/defaults") {
                continue;
            }
            let mut path = template.replace("{id}", id).replace("{project}", id);
            while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
                path.replace_range(from..=to, UNKNOWN);
            }
            let kind = match (*method, template.ends_with("/file")) {
                ("PATCH", _) => "application/openstack-images-v2.1-json-patch",
                (_, true) => "application/octet-stream",
                _ => "application/json",
            };
            let headers = [
                ("content-type", kind),
                (
                    "x-openstack-nova-api-version",
                    if template.contains("tags") {
                        "2.96"
                    } else {
                        "2.1"
                    },
                ),
            ];
            let body = body_of(method, template).to_string().into_bytes();
            let answer = other.send(method, &path, Some(body), &headers).await;
            let said = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert!(
                [403, 404].contains(&answer.status.as_u16()),
                "{method} {path}: {} {said}",
                answer.status
            );
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
    // All of it is still there, and named as it was.
    for (template, id) in &things {
        if template.ends_with("{id}") && !template.contains("rules") {
            let path = template.replace("{id}", id);
            let shown = cloud.member.get(&path).await;
            assert_eq!(shown.status, 200, "{path}");
            assert!(
                String::from_utf8_lossy(&shown.bytes).contains("mine"),
                "{path}"
            );
        }
    }
    // Nor is it in a list.
    for list in [
        "/compute/v2.1/servers/detail",
        "/compute/v2.1/os-server-groups",
        "/network/v2.0/networks",
        "/network/v2.0/subnets",
        "/network/v2.0/ports",
        "/network/v2.0/security-groups",
        "/image/v2/images",
    ] {
        let shown = other.get(list).await;
        assert_eq!(shown.status, 200);
        let said = String::from_utf8_lossy(&shown.bytes).into_owned();
        assert!(!said.contains("mine"), "{list}: {said}");
    }
}

#[tokio::test]
async fn a_reader_changes_nothing() {
    let cloud = cloud().await;
    let server = cloud.created("s").await;
    let user = cloud.user("reader", "default").await;
    cloud
        .give(&user, &format!("projects/{}", cloud.project), "reader")
        .await;
    let scope = json!({"project": {"id": cloud.project}});
    let reader = log_in(&cloud, &user, scope).await;
    let path = format!("{SERVERS}/{server}");
    assert_eq!(reader.get(&path).await.status, 200);
    assert_eq!(reader.delete(&path).await.status, 403);
    let refused = reader.post(SERVERS, cloud.server("t")).await;
    assert_eq!(refused.status, 403);
    assert_eq!(
        message(&refused),
        "Policy doesn't allow os_compute_api:servers:create to be performed. \
         It needs the role member in a project."
    );
    for (action, policy) in [
        ("os-stop", "os_compute_api:servers:stop"),
        ("lock", "os_compute_api:os-lock-server:lock"),
        ("os-getConsoleOutput", "os_compute_api:os-console-output"),
    ] {
        let asked = json!({action: null});
        let refused = reader.post(&format!("{path}/action"), asked).await;
        assert_eq!(refused.status, 403);
        assert!(message(&refused).contains(policy));
    }
}

#[tokio::test]
async fn a_domains_administrator_ends_at_the_domain() {
    let cloud = cloud().await;
    let domain = cloud.domain("x").await;
    let user = cloud.user("keeper", &domain).await;
    cloud
        .give(&user, &format!("domains/{domain}"), "admin")
        .await;
    let keeper = log_in(&cloud, &user, json!({"domain": {"id": domain}})).await;
    let ids = |list: &Value| -> Vec<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|u| text(&u["id"]))
            .collect()
    };
    // It sees the domain, and no other's users, projects or domains.
    let users = keeper.get("/identity/v3/users").await.json();
    assert_eq!(ids(&users["users"]), [user.as_str()]);
    let projects = keeper.get("/identity/v3/projects").await.json();
    assert_eq!(ids(&projects["projects"]), [""; 0]);
    let domains = keeper.get("/identity/v3/domains").await.json();
    assert_eq!(ids(&domains["domains"]), [domain.as_str()]);
    // It makes users and projects there, without naming the domain.
    let made = keeper
        .post(
            "/identity/v3/users",
            json!({"user": {"name": "u", "password": "pw"}}),
        )
        .await
        .json();
    assert_eq!(made["user"]["domain_id"], json!(domain));
    let own = text(&made["user"]["id"]);
    let made = keeper
        .post("/identity/v3/projects", json!({"project": {"name": "p"}}))
        .await
        .json();
    let project = text(&made["project"]["id"]);
    // It gives roles there, but none that reaches beyond.
    let admins = text(
        &cloud
            .admin
            .get("/identity/v3/users?name=admin")
            .await
            .json()["users"][0]["id"],
    );
    for (role, on, of, status) in [
        ("member", format!("projects/{project}"), &own, 204),
        ("manager", format!("domains/{domain}"), &own, 204),
        ("admin", format!("projects/{project}"), &own, 403),
        ("admin", format!("domains/{domain}"), &own, 403),
        ("reader", "system".to_owned(), &own, 403),
        ("admin", "system".to_owned(), &user, 403),
        ("member", format!("projects/{}", cloud.project), &own, 403),
        ("member", format!("projects/{project}"), &admins, 403),
        ("member", "domains/default".to_owned(), &own, 403),
    ] {
        let role = cloud.role_id(role).await;
        let path = format!("/identity/v3/{on}/users/{of}/roles/{role}");
        let answer = keeper.send("PUT", &path, None, &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
    }
    // Who has rights beyond the domain is beyond it: with their password one has these rights.
    let powerful = cloud.user("powerful", &domain).await;
    cloud
        .give(&powerful, &format!("projects/{}", cloud.project), "admin")
        .await;
    let password = json!({"user": {"password": "mine now"}});
    for (whom, status) in [(&own, 200), (&powerful, 403), (&admins, 403)] {
        let path = format!("/identity/v3/users/{whom}");
        let answer = keeper.patch(&path, password.clone()).await;
        assert_eq!(answer.status.as_u16(), status);
    }
    let gone = keeper
        .delete(&format!("/identity/v3/users/{powerful}"))
        .await;
    assert_eq!(gone.status, 403);
    // Nothing of the cloud's is its to change, nor what projects have.
    for (method, path, body) in [
        (
            "POST",
            "/identity/v3/domains".to_owned(),
            json!({"domain": {"name": "y"}}),
        ),
        (
            "POST",
            "/identity/v3/roles".to_owned(),
            json!({"role": {"name": "y"}}),
        ),
        (
            "PUT",
            "/compute/v2.1/os-services/1".to_owned(),
            json!({"status": "disabled"}),
        ),
        (
            "GET",
            "/compute/v2.1/os-hypervisors".to_owned(),
            Value::Null,
        ),
        ("GET", SERVERS.to_owned(), Value::Null),
        ("GET", "/image/v2/images".to_owned(), Value::Null),
        ("GET", "/network/v2.0/networks".to_owned(), Value::Null),
    ] {
        let body = Some(body.to_string().into_bytes());
        let answer = keeper.send(method, &path, body, &[]).await;
        assert_eq!(answer.status, 403, "{method} {path}");
    }
    let listed = keeper.get("/identity/v3/role_assignments").await.json();
    for given in listed["role_assignments"].as_array().unwrap() {
        let scope = &given["scope"];
        assert!(
            scope["domain"]["id"] == json!(domain) || scope["project"]["id"] == json!(project),
            "{given}"
        );
    }
}

#[tokio::test]
async fn a_systems_reader_looks_at_identity_and_an_administrator_of_the_system_keeps_it() {
    let cloud = cloud().await;
    let looks = cloud.user("looks", "default").await;
    cloud.give(&looks, "system", "reader").await;
    let keeps = cloud.user("keeps", "default").await;
    cloud.give(&keeps, "system", "admin").await;
    let system = json!({"system": {"all": true}});
    let looks = log_in(&cloud, &looks, system.clone()).await;
    let keeps = log_in(&cloud, &keeps, system).await;
    assert_eq!(looks.get("/identity/v3/users").await.status, 200);
    let domain = json!({"domain": {"name": "y"}});
    let made = looks.post("/identity/v3/domains", domain.clone()).await;
    assert_eq!(made.status, 403);
    let made = keeps.post("/identity/v3/domains", domain).await;
    assert_eq!(made.status, 201);
    // As in Nova, what projects have is asked for with a project's token.
    assert_eq!(keeps.get(SERVERS).await.status, 403);
}

/// Every action that the table has without a route is asked for somewhere, and none that it lacks.
#[test]
fn the_actions_that_the_services_ask_for_are_those_of_the_table() {
    let mut sources = String::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "policy" && name != "tests" && name != "target" {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    for rule in TABLE.iter().filter(|rule| rule.routes.is_empty()) {
        let quoted = format!("\"{}\"", rule.action);
        assert!(
            sources.contains(&quoted),
            "{} is asked nowhere",
            rule.action
        );
    }
}
