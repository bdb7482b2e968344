//! Races on PostgreSQL: two controllers, each with its own connections, are asked for the same
//! thing many times at once. What a unique index and a conditional insert promise on SQLite,
//! which has one writer, must hold here between many.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use berth_controller::core::AppState;
use berth_controller::core::store::Store;
use berth_controller::hosts::lineage;
use berth_controller::identity::bootstrap::bootstrap;
use berth_controller::router::router;
use berth_rpc::clock::{SeededRng, SystemClock};
use berth_rpc::{Faults, InProcess};
use berth_tests::postgres::PrivatePostgres;
use futures::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tower::ServiceExt as _;

/// Two controllers without background tasks: only requests race.
struct Pair {
    routers: Vec<Router>,
    token: String,
    project: String,
    postgres: PrivatePostgres,
    _folder: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Self {
        let postgres = PrivatePostgres::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::default());
        let broker = InProcess::new(
            Faults::default(),
            Arc::new(SeededRng::new(1)),
            clock.clone(),
        );
        let mut routers = Vec::new();
        for number in 0..2 {
            let rng = Arc::new(SeededRng::new(100 + number));
            let store = Store::connect(&postgres.url()).await.unwrap();
            bootstrap(&store, &*clock, &*rng, "secret").await.unwrap();
            let app = AppState {
                store,
                transport: broker.transport(),
                clock: clock.clone(),
                rng,
                base_url: "http://controller.test".into(),
                image_dir: Arc::new(folder.path().to_owned()),
                control: Arc::default(),
                turns: Arc::default(),
                heard: Arc::default(),
                hosts: Arc::default(),
                wake: Arc::default(),
                wake_outbox: Arc::default(),
                broker_accounts: None,
                host_ca: None,
                metrics: Arc::default(),
                log_ins: Arc::default(),
                settings: Arc::default(),
            };
            lineage::ensure(&app.store, &app.env()).await.unwrap();
            routers.push(router(app));
        }
        let mut pair = Self {
            routers,
            token: String::new(),
            project: String::new(),
            postgres,
            _folder: folder,
        };
        pair.log_in().await;
        pair
    }

    async fn log_in(&mut self) {
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "admin", "domain": {"id": "default"}, "password": "secret"}}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}});
        let request = Request::post("/identity/v3/auth/tokens")
            .header("content-type", "application/json")
            .body(Body::from(login.to_string()))
            .unwrap();
        let response = self.routers[0].clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let token = response.headers()["x-subject-token"].to_str().unwrap();
        self.token = token.to_owned();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.project = text(&body["token"]["project"]["id"]);
    }

    /// Asks one of the two controllers.
    async fn ask(
        &self,
        controller: usize,
        method: &str,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", &self.token)
            .header("content-type", kind)
            .body(Body::from(body))
            .unwrap();
        let router = &self.routers[controller % self.routers.len()];
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string().into_bytes();
        let (status, answer) = self.ask(0, method, path, "application/json", body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// The same request, so many times at once, by turns of the two controllers.
    async fn race(&self, times: usize, path: &str, body: &Value) -> Vec<(u16, Value)> {
        let body = body.to_string().into_bytes();
        let ask = |n| self.ask(n, "POST", path, "application/json", body.clone());
        join_all((0..times).map(ask)).await
    }

    /// A network with one subnet that has `addresses` addresses to give.
    async fn network(&self, addresses: u8) -> String {
        let body = json!({"network": {"name": "net"}});
        let network = self.send("POST", "/network/v2.0/networks", &body).await;
        let network = text(&network["network"]["id"]);
        let pool = json!({"start": "10.0.0.10", "end": format!("10.0.0.{}", 9 + addresses)});
        let subnet = json!({"subnet": {"network_id": network, "ip_version": 4,
            "cidr": "10.0.0.0/24", "enable_dhcp": false, "allocation_pools": [pool]}});
        self.send("POST", "/network/v2.0/subnets", &subnet).await;
        network
    }

    async fn image(&self, format: &str, kernel: Option<&str>) -> String {
        let container = if format == "aki" { "aki" } else { "bare" };
        let mut about =
            json!({"name": format, "disk_format": format, "container_format": container});
        if let Some(kernel) = kernel {
            about["kernel_id"] = json!(kernel);
        }
        let image = self.send("POST", "/image/v2/images", &about).await;
        let id = text(&image["id"]);
        let path = format!("/image/v2/images/{id}/file");
        let data = b"bytes".to_vec();
        let uploaded = self
            .ask(1, "PUT", &path, "application/octet-stream", data)
            .await;
        assert_eq!(uploaded.0, 204, "{}", uploaded.1);
        id
    }

    fn count(&self, sql: &str) -> usize {
        let answer = self.postgres.query("berth", sql).unwrap();
        answer.trim().parse().unwrap()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn with_status(answers: &[(u16, Value)], status: u16) -> usize {
    answers.iter().filter(|(s, _)| *s == status).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creates_at_once_the_quota_lets_exactly_its_number_through() {
    const QUOTA: usize = 5;
    const ASKED: usize = 24;
    let pair = Pair::new().await;
    let network = pair.network(100).await;
    let kernel = pair.image("aki", None).await;
    let image = pair.image("raw", Some(&kernel)).await;
    let flavor = json!({"flavor": {"name": "test", "vcpus": 1, "ram": 128, "disk": 1}});
    let flavor = pair.send("POST", "/compute/v2.1/flavors", &flavor).await;
    let quota = json!({"quota_set": {"instances": QUOTA, "cores": -1, "ram": -1}});
    let path = format!("/compute/v2.1/os-quota-sets/{}", pair.project);
    pair.send("PUT", &path, &quota).await;
    let server = json!({"server": {"name": "web", "imageRef": image,
        "flavorRef": flavor["flavor"]["id"], "networks": [{"uuid": network}]}});
    let answers = pair.race(ASKED, "/compute/v2.1/servers", &server).await;
    assert_eq!(with_status(&answers, 202), QUOTA, "{answers:#?}");
    assert_eq!(with_status(&answers, 403), ASKED - QUOTA, "{answers:#?}");
    let kept = [
        "SELECT COUNT(*) FROM instances",
        "SELECT COUNT(*) FROM ports",
        "SELECT COUNT(*) FROM address_allocations",
        "SELECT COUNT(*) FROM operations WHERE kind = 'create'",
    ];
    for sql in kept {
        assert_eq!(pair.count(sql), QUOTA, "{sql}");
    }
    let get = async |query: String| {
        let path = format!("/compute/v2.1/servers?{query}");
        let list = pair.send("GET", &path, &Value::Null).await;
        list["servers"].as_array().unwrap().clone()
    };
    for field in berth_controller::compute::listing::TABLE.fields {
        for direction in ["asc", "desc"] {
            let sort = format!("sort_key={}&sort_dir={direction}", field.name);
            let all = get(sort.clone()).await;
            assert_eq!(all.len(), QUOTA, "{sort}");
            let marker = text(&all[1]["id"]);
            let rest = get(format!("{sort}&marker={marker}")).await;
            assert_eq!(rest, all[2..], "{sort}");
        }
    }
    for (query, found) in [
        ("name=we&status=BUILD&status=ACTIVE", QUOTA),
        ("name=%5Eweb%24&availability_zone=&key_name=", QUOTA),
        ("name=%5EWEB%24", 0),
        ("status=ACTIVE", 0),
        ("status=SHUTOFF&status=REBOOT", 0),
        ("name=w.b&flavor=x", 0),
        ("ip=10.0.0", QUOTA),
        ("ip=10.0.1", 0),
    ] {
        assert_eq!(get(query.to_owned()).await.len(), found, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_ports_at_once_no_two_have_one_address_and_the_pool_is_used_to_its_end() {
    const POOL: u8 = 16;
    const ASKED: usize = 24;
    let pair = Pair::new().await;
    let network = pair.network(POOL).await;
    let port = json!({"port": {"network_id": network}});
    let answers = pair.race(ASKED, "/network/v2.0/ports", &port).await;
    let pool = usize::from(POOL);
    assert_eq!(with_status(&answers, 201), pool, "{answers:#?}");
    assert_eq!(with_status(&answers, 409), ASKED - pool, "{answers:#?}");
    let addresses: BTreeSet<String> = answers
        .iter()
        .filter(|(status, _)| *status == 201)
        .map(|(_, body)| text(&body["port"]["fixed_ips"][0]["ip_address"]))
        .collect();
    assert_eq!(addresses.len(), pool, "{addresses:?}");
    assert_eq!(pair.count("SELECT COUNT(*) FROM ports"), pool);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_ports_at_once_with_one_given_address_one_gets_it() {
    let pair = Pair::new().await;
    let network = pair.network(16).await;
    let port = json!({"port": {"network_id": network,
        "fixed_ips": [{"ip_address": "10.0.0.20"}]}});
    let answers = pair.race(12, "/network/v2.0/ports", &port).await;
    assert_eq!(with_status(&answers, 201), 1, "{answers:#?}");
    assert_eq!(with_status(&answers, 409), 11, "{answers:#?}");
}

/// Where lists are, the key of their items, and how many of their fields can be sorted by at least.
const LISTS: [(&str, &str, usize); 10] = [
    ("/network/v2.0/networks", "networks", 14),
    ("/network/v2.0/subnets", "subnets", 13),
    ("/network/v2.0/ports", "ports", 15),
    ("/network/v2.0/security-groups", "security_groups", 7),
    (
        "/network/v2.0/security-group-rules",
        "security_group_rules",
        13,
    ),
    ("/network/v2.0/agents", "agents", 6),
    ("/network/v2.0/availability_zones", "availability_zones", 3),
    ("/network/v2.0/quotas", "quotas", 1),
    ("/image/v2/images", "images", 14),
    ("/compute/v2.1/flavors/detail", "flavors", 4),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_filtered_sorted_and_paged_by_what_it_shows() {
    let pair = Pair::new().await;
    let network = pair.network(16).await;
    let port = json!({"port": {"network_id": network, "name": "a port", "device_id": "x"}});
    for _ in 0..2 {
        pair.send("POST", "/network/v2.0/ports", &port).await;
    }
    pair.network(9).await;
    pair.image("aki", None).await;
    pair.image("raw", None).await;
    for name in ["one", "two"] {
        let flavor = json!({"flavor": {"name": name, "vcpus": 1, "ram": 128, "disk": 1}});
        pair.send("POST", "/compute/v2.1/flavors", &flavor).await;
    }
    let group = json!({"security_group": {"name": "a group"}});
    pair.send("POST", "/network/v2.0/security-groups", &group)
        .await;
    let quota = json!({"quota": {"port": 77}});
    for project in [pair.project.as_str(), "another"] {
        let path = format!("/network/v2.0/quotas/{project}");
        pair.send("PUT", &path, &quota).await;
    }
    for n in [1, 2] {
        pair.count(&format!(
            "WITH made AS (INSERT INTO hosts (id, service_id, hostname, address, secret_hash, \
             epoch, availability_zone, enabled, forced_down, last_seen_at, agent_version, \
             capacity, generation, network_revision, created_at, updated_at) VALUES ('{n}', {n}, \
             'host-{n}', '', '{n}', 1, 'zone-{n}', 1, 0, 0, '', '{{}}', 1, 1, 1, 1) RETURNING 1) \
             SELECT COUNT(*) FROM made"
        ));
    }
    for (path, key, least) in LISTS {
        every_field(&pair, path, key, least).await;
    }
}

async fn every_field(pair: &Pair, path: &str, key: &str, least: usize) {
    let get = async |query: &str| {
        let path = format!("{path}?{query}");
        let (status, list) = pair.ask(0, "GET", &path, "", Vec::new()).await;
        assert!(status == 200 || status == 400, "{path}: {status} {list}");
        (status == 200).then(|| list[key].as_array().unwrap().clone())
    };
    let whole = get("").await.unwrap();
    assert!(whole.len() > 1, "{path}: {whole:?}");
    let first = whole[0].as_object().unwrap();
    let mut sorted_by = 0;
    for (name, value) in first {
        for direction in ["asc", "desc"] {
            let sort = format!("sort_key={name}&sort_dir={direction}");
            let Some(all) = get(&sort).await else {
                continue;
            };
            sorted_by += 1;
            assert_eq!(all.len(), whole.len(), "{path}?{sort}");
            // By the name of what has no id.
            let id = ["id", "name", "project_id"]
                .into_iter()
                .find(|id| first.contains_key(*id));
            let id = id.unwrap();
            let marker = text(&all[0][id]);
            let rest = get(&format!("{sort}&marker={marker}")).await.unwrap();
            assert_eq!(rest, all[1..], "{path}?{sort}&marker={marker}");
        }
        let shown = match value {
            Value::String(text) => text.replace(' ', "%20"),
            Value::Null => String::new(),
            Value::Array(_) | Value::Object(_) => continue,
            other => other.to_string(),
        };
        // Whoever is asked for by what is shown of it is found.
        if path.contains("/network/")
            && let Some(found) = get(&format!("{name}={shown}")).await
        {
            assert!(found.contains(&whole[0]), "{path}?{name}={shown}");
        }
    }
    assert!(sorted_by >= 2 * least, "{path}: {sorted_by}");
}
