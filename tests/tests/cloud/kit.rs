//! A cloud in one process, and a user of its REST.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use berth_agent::link::{ByteStream, Controller as Link, LinkError};
use berth_agent::options::SimulatedOptions;
use berth_agent::{DriverError, Options, Parts, Service, SimulatedHost, StateDir};
use berth_controller::audit;
use berth_controller::config::ControlSettings;
use berth_controller::controller::start_tasks;
use berth_controller::core::AppState;
use berth_controller::core::store::{Store, StoreError};
use berth_controller::hosts::lineage;
use berth_controller::identity::bootstrap::bootstrap;
use berth_controller::router::router;
use berth_rpc::clock::{Clock, Rng, SeededRng, SystemClock};
use berth_rpc::{Address, Faults, InProcess, Transport};
use berth_rpc_types::link::{JoinReply, NetworkDocument, SyncReply, SyncRequest};
use berth_rpc_types::{HostId, ImageSpec};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(60);
const JOIN_TOKEN: &str = "join";

pub struct Cloud {
    pub machines: Vec<SimulatedHost>,
    agents: Vec<Agent>,
    controllers: Vec<Router>,
    store: Store,
    token: String,
    network: String,
    image: String,
    flavor: String,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

/// What an agent is started from, again and again; its machine lives on meanwhile.
struct Agent {
    options: Options,
    host_id: HostId,
    secret: String,
    transport: Arc<dyn Transport>,
    rng: Arc<dyn Rng>,
    running: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The simulated machine refuses a step, and another host may do better.
pub fn refusal() -> DriverError {
    DriverError::host("no room for the disk", "ENOSPC")
}

impl Cloud {
    /// A cloud on a broker with these faults, drawn from the seed, and a database in memory.
    pub async fn new(seed: u64, faults: Faults, controllers: usize, hosts: usize) -> Self {
        let rng = Arc::new(SeededRng::new(seed * 1000));
        let broker = InProcess::new(faults, rng, Arc::new(SystemClock::default()));
        let transport = || broker.transport();
        Self::on("sqlite::memory:", &transport, seed, controllers, hosts).await
    }

    /// A cloud on this database, and a broker without faults.
    pub async fn on_database(database: &str, seed: u64, hosts: usize) -> Self {
        let rng = Arc::new(SeededRng::new(seed * 1000));
        let broker = InProcess::new(Faults::default(), rng, Arc::new(SystemClock::default()));
        Self::on(database, &|| broker.transport(), seed, 1, hosts).await
    }

    /// A cloud on this database, with a transport for each controller and agent.
    pub async fn on(
        database: &str,
        transport: &dyn Fn() -> Arc<dyn Transport>,
        seed: u64,
        controllers: usize,
        hosts: usize,
    ) -> Self {
        // BERTH_LOG=debug shows what happens; a second subscriber is no error.
        let filter = tracing_subscriber::EnvFilter::from_env("BERTH_LOG");
        let log = tracing_subscriber::fmt().with_env_filter(filter);
        drop(log.with_test_writer().try_init());
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let rng = |n: u64| -> Arc<dyn Rng> { Arc::new(SeededRng::new(seed * 1000 + n)) };
        let store = Store::connect(database).await.unwrap();
        bootstrap(&store, &*clock, &*rng(1), "secret")
            .await
            .unwrap();
        let stop = CancellationToken::new();
        let control = ControlSettings {
            join_token: Some(JOIN_TOKEN.into()),
            shutdown_timeout: 1,
            ..ControlSettings::default()
        };
        let mut routers = Vec::new();
        for n in 0..controllers {
            let app = AppState {
                store: store.clone(),
                transport: transport(),
                clock: Arc::clone(&clock),
                rng: rng(10 + n as u64),
                base_url: "http://controller.test".into(),
                image_dir: Arc::new(folder.path().join("images")),
                control: Arc::new(control.clone()),
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
            std::fs::create_dir_all(&*app.image_dir).unwrap();
            lineage::ensure(&app.store, &app.env()).await.unwrap();
            start_tasks(&app, &stop);
            routers.push(router(app));
        }
        let mut cloud = Self {
            machines: vec![],
            agents: vec![],
            token: String::new(),
            network: String::new(),
            image: String::new(),
            flavor: String::new(),
            controllers: routers,
            store,
            stop,
            _folder: folder,
        };
        cloud.furnish().await;
        for n in 0..hosts {
            cloud.host(n, &clock, rng(20 + n as u64), transport()).await;
        }
        cloud
    }

    /// A token, a network, an image and a flavor, by REST.
    async fn furnish(&mut self) {
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "admin", "domain": {"id": "default"}, "password": "secret"}}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}});
        let (status, headers, body) = self.send("POST", "/identity/v3/auth/tokens", &login).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        self.token = headers["x-subject-token"].to_str().unwrap().to_owned();
        let net = json!({"network": {"name": "net"}});
        let net = self.post("/network/v2.0/networks", &net).await;
        self.network = text(&net["network"]["id"]);
        let subnet = json!({"subnet": {"network_id": self.network, "ip_version": 4,
            "cidr": "10.0.0.0/24"}});
        self.post("/network/v2.0/subnets", &subnet).await;
        let kernel = self.upload("aki", json!({})).await;
        self.image = self.upload("raw", json!({"kernel_id": kernel})).await;
        let flavor = json!({"flavor": {"name": "test", "vcpus": 1, "ram": 128, "disk": 1}});
        let flavor = self.post("/compute/v2.1/flavors", &flavor).await;
        self.flavor = text(&flavor["flavor"]["id"]);
    }

    async fn upload(&self, format: &str, mut about: Value) -> String {
        let container = if format == "aki" { "aki" } else { "bare" };
        about["name"] = json!(format);
        about["disk_format"] = json!(format);
        about["container_format"] = json!(container);
        let image = self.post("/image/v2/images", &about).await;
        let id = text(&image["id"]);
        let request = Request::builder()
            .method("PUT")
            .uri(format!("/image/v2/images/{id}/file"))
            .header("x-auth-token", &self.token)
            .header("content-type", "application/octet-stream")
            .body(Body::from("bytes"))
            .unwrap();
        let response = self.controllers[0].clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        id
    }

    async fn host(
        &mut self,
        n: usize,
        clock: &Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        transport: Arc<dyn Transport>,
    ) {
        let options = Options {
            state_dir: self._folder.path().join(format!("agent-{n}")),
            report_interval_s: 1,
            hostname: Some(format!("host-{n}")),
            ..Options::default()
        };
        let machine = SimulatedOptions {
            physical_networks: vec!["physnet1".into()],
            ..SimulatedOptions::default()
        };
        let machine = SimulatedHost::new(machine, Arc::clone(clock), None).unwrap();
        let host_id = StateDir::open(&options.state_dir, &*rng).unwrap().host_id();
        let join = json!({"token": JOIN_TOKEN, "host_id": host_id, "hostname": options.hostname()});
        let joined = self.post("/agent/v1/join", &join).await;
        let joined: JoinReply = serde_json::from_value(joined).unwrap();
        self.machines.push(machine);
        self.agents.push(Agent {
            options,
            host_id,
            secret: joined.secret,
            transport,
            rng,
            running: None,
        });
        self.start_agent(n).await;
    }

    /// Starts a host's agent, and waits until it takes commands.
    pub async fn start_agent(&mut self, n: usize) {
        let agent = &mut self.agents[n];
        let state_dir = StateDir::open(&agent.options.state_dir, &*agent.rng).unwrap();
        let controller = &self.controllers[n % self.controllers.len()];
        let parts = Parts {
            driver: self.machines[n].driver(),
            controller: Arc::new(RestLink {
                router: controller.clone(),
                host_id: agent.host_id,
                secret: agent.secret.clone(),
            }),
            transport: Arc::clone(&agent.transport),
            clock: Arc::new(SystemClock::default()),
            rng: Arc::clone(&agent.rng),
        };
        let (service, handle) = Service::new(&agent.options, state_dir, parts).unwrap();
        let stop = self.stop.child_token();
        let ends = stop.clone();
        let task = tokio::spawn(async move { service.run(ends).await.unwrap() });
        agent.running = Some((stop, task));
        tokio::time::timeout(PATIENCE, handle.consuming())
            .await
            .unwrap();
    }

    /// Ends a host's agent: the host is silent, and its guests run on.
    pub async fn stop_agent(&mut self, n: usize) {
        let (stop, task) = self.agents[n].running.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    /// What an administrator says of a host.
    pub async fn force_down(&self, n: usize, down: bool) {
        let host = format!("host-{n}");
        let body = json!({"host": host, "binary": "nova-compute", "forced_down": down});
        let path = "/compute/v2.1/os-services/force-down";
        let (status, _, answer) = self.send("PUT", path, &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// The one column of one row of the database, which is text.
    pub async fn look_up(&self, sql: &str) -> Option<String> {
        let row = self.store.tx::<_, StoreError, _>(|tx| {
            let sql = sql.to_owned();
            Box::pin(async move { tx.query_opt::<(Option<String>,)>(&sql, &[]).await })
        });
        row.await.unwrap()?.0
    }

    /// Changes the database, as another controller would.
    pub async fn execute(&self, sql: &str) {
        let changed = self.store.tx::<_, StoreError, _>(|tx| {
            let sql = sql.to_owned();
            Box::pin(async move { tx.execute(&sql, &[]).await })
        });
        assert_eq!(changed.await.unwrap(), 1, "{sql}");
    }

    /// Puts an answer on the results queue, as an agent would.
    pub async fn answer(&self, message_id: &str, answer: &Value) {
        let payload = serde_json::to_vec(answer).unwrap();
        let transport = &self.agents[0].transport;
        transport
            .publish(Address::Results, message_id, payload.into())
            .await
            .unwrap();
    }

    /// A host's report of these observations, in whatever words.
    pub async fn report(&self, n: usize, observations: Value) -> Value {
        let agent = &self.agents[n];
        let link = RestLink {
            router: self.controllers[0].clone(),
            host_id: agent.host_id,
            secret: agent.secret.clone(),
        };
        let report = json!({"host_id": agent.host_id, "hostname": agent.options.hostname(),
            "version": "newer", "starting": false, "epoch": 1, "news": {"of": "a newer agent"},
            "capacity": self.machines[n].driver().capacity().await.unwrap(),
            "observations": observations});
        let body = Body::from(report.to_string());
        link.call("POST", "/agent/v1/sync", body).await.unwrap()
    }

    /// A request of whatever outcome.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let (status, _, answer) = self.send(method, path, body).await;
        (status, answer)
    }

    /// Why the last operation on a server failed.
    pub async fn last_failure(&self, id: &str) -> String {
        let sql = format!(
            "SELECT error AS found FROM operations WHERE instance_id = '{id}' \
             ORDER BY created_at DESC LIMIT 1"
        );
        self.look_up(&sql).await.unwrap()
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> (StatusCode, axum::http::HeaderMap, Value) {
        // Controllers side by side: any of them may answer.
        let controller = &self.controllers[path.len() % self.controllers.len()];
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", &self.token)
            .header("x-openstack-nova-api-version", "2.36")
            .header("content-type", "application/json")
            .body(if body.is_null() {
                Body::empty()
            } else {
                Body::from(body.to_string())
            })
            .unwrap();
        let response = controller.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (parts.status, parts.headers, body)
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, _, answer) = self.send("POST", path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub async fn create(&self, name: &str) -> String {
        self.create_on(name, None).await
    }

    /// On this host, if one is named.
    pub async fn create_on(&self, name: &str, host: Option<&str>) -> String {
        let mut server = json!({"server": {"name": name, "imageRef": self.image,
            "flavorRef": self.flavor, "networks": [{"uuid": self.network}]}});
        if let Some(host) = host {
            server["server"]["availability_zone"] = json!(format!("nova:{host}"));
        }
        let made = self.post("/compute/v2.1/servers", &server).await;
        text(&made["server"]["id"])
    }

    pub async fn act(&self, id: &str, action: Value) {
        self.post(&format!("/compute/v2.1/servers/{id}/action"), &action)
            .await;
    }

    pub async fn delete(&self, id: &str) {
        let path = format!("/compute/v2.1/servers/{id}");
        let (status, _, body) = self.send("DELETE", &path, &Value::Null).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    }

    async fn show(&self, id: &str) -> Option<Value> {
        let path = format!("/compute/v2.1/servers/{id}");
        let (status, _, body) = self.send("GET", &path, &Value::Null).await;
        (status == StatusCode::OK).then(|| body["server"].clone())
    }

    async fn wait<T>(&self, what: &str, id: &str, look: impl Fn(Option<&Value>) -> Option<T>) -> T {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let server = self.show(id).await;
            if let Some(found) = look(server.as_ref()) {
                return found;
            }
            if tokio::time::Instant::now() > end {
                panic!("{id} is not {what}: {server:#?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Until the server has this status, and nothing is being done to it.
    pub async fn until(&self, id: &str, status: &str) -> Value {
        self.wait(status, id, |server| {
            let server = server.unwrap();
            let idle = server["OS-EXT-STS:task_state"].is_null();
            (idle && server["status"] == status).then(|| server.clone())
        })
        .await
    }

    pub async fn until_task(&self, id: &str, task: &str) {
        self.wait(task, id, |server| {
            (server.unwrap()["OS-EXT-STS:task_state"] == task).then_some(())
        })
        .await;
    }

    pub async fn gone(&self, id: &str) {
        self.wait("gone", id, |server| server.is_none().then_some(()))
            .await;
    }

    /// How many claims there are.
    pub async fn claims(&self) -> String {
        let sql = "SELECT CAST(COUNT(*) AS TEXT) AS found FROM claims";
        self.look_up(sql).await.unwrap()
    }

    /// The audit at rest.
    pub async fn without_findings(&self) {
        let findings = audit::audit(&self.store, true).await.unwrap();
        assert!(findings.is_empty(), "{findings:#?}");
    }

    /// The audit at rest, and nothing on any machine.
    pub async fn in_order(&self) {
        self.without_findings().await;
        for machine in &self.machines {
            let left: Vec<_> = machine
                .guests()
                .into_iter()
                .filter(|(_, guest)| !guest.made.is_empty())
                .collect();
            assert!(left.is_empty(), "{left:#?}");
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// An agent's HTTPS, without the network.
struct RestLink {
    router: Router,
    host_id: HostId,
    secret: String,
}

impl RestLink {
    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Body,
    ) -> Result<T, LinkError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.secret))
            .header("x-berth-host", self.host_id.to_string())
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        // In a task of its own: an agent that ends in the middle of a call takes the connection
        // to the database with it, and one in memory goes with its only connection.
        let call = tokio::spawn(self.router.clone().oneshot(request));
        let response = call.await.unwrap().unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        if status != StatusCode::OK {
            return Err(LinkError::Refused {
                url: path.into(),
                status: status.as_u16(),
                message: String::from_utf8_lossy(&bytes).into_owned(),
            });
        }
        Ok(serde_json::from_slice(&bytes).unwrap())
    }
}

impl Link for RestLink {
    fn sync(&self, request: SyncRequest) -> BoxFuture<'_, Result<SyncReply, LinkError>> {
        let body = Body::from(serde_json::to_vec(&request).unwrap());
        Box::pin(async move { self.call("POST", "/agent/v1/sync", body).await })
    }

    fn networks(&self) -> BoxFuture<'_, Result<NetworkDocument, LinkError>> {
        Box::pin(async move { self.call("GET", "/agent/v1/networks", Body::empty()).await })
    }

    fn image<'a>(
        &'a self,
        _: &'a ImageSpec,
        _: u64,
    ) -> BoxFuture<'a, Result<ByteStream, LinkError>> {
        Box::pin(async {
            Err(LinkError::Configuration(
                "simulated machines fetch none".into(),
            ))
        })
    }
}
