//! One controller and one simulated host, joined over HTTPS as `berth up` joins them, with a
//! wire between them that can spoil commands, and a clock that can be put forward.

use axum::body::Body;
use axum::http::Request;
use berth_agent::options::SimulatedOptions;
use berth_agent::{DriverKind, Options};
use berth_controller::config::{Config, ControlSettings};
use berth_controller::controller::{self, Handle};
use berth_controller::core::params;
use berth_controller::core::store::StoreError;
use berth_controller::{Controller, audit};
use berth_rpc::clock::{Clock, SeededRng, SystemClock};
use berth_rpc::{
    Address, ConsumeOptions, Consumer, Delivery, Faults, InProcess, ReadRequest, RpcError,
    Transport,
};
use berth_rpc_types::{Envelope, HostId};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(60);
const BROKER: &str = "inproc://bad-input";

/// What the wire does to commands on their way to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wire {
    /// Nothing.
    Sound,
    /// They are in the next version: to the agent, which is one behind, unknown.
    Newer,
    /// They are cut in half.
    Garbled,
}

/// The machine's clock, put forward.
#[derive(Default)]
struct Shifted {
    machine: SystemClock,
    ahead: AtomicI64,
}

impl Clock for Shifted {
    fn now_millis(&self) -> i64 {
        self.machine.now_millis() + self.ahead.load(Ordering::SeqCst)
    }
    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.machine.sleep(duration)
    }
}

pub struct World {
    controller: Handle,
    clock: Arc<Shifted>,
    wire: Arc<AtomicU8>,
    broker: InProcess,
    pub host_id: HostId,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Shifted::default());
        let broker = InProcess::new(
            Faults::default(),
            Arc::new(SeededRng::new(1)),
            Arc::new(SystemClock::default()),
        );
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            brokers: vec![BROKER.into()],
            state_dir: folder.path().join("controller"),
            admin_password: "secret".into(),
            control: ControlSettings {
                join_token: Some("join".into()),
                ..ControlSettings::default()
            },
            ..Config::default()
        };
        let options = controller::Options {
            config,
            clock: clock.clone(),
            rng: Arc::new(SeededRng::new(2)),
            transport: Some(broker.transport()),
        };
        let controller = Controller::start(options).await.unwrap();
        let wire = Arc::new(AtomicU8::new(Wire::Sound as u8));
        let options = Options {
            state_dir: folder.path().join("agent"),
            controller_url: controller.base_url().into(),
            controller_ca: folder.path().join("controller/ca.pem"),
            join_token: Some("join".into()),
            driver: DriverKind::Simulated,
            hostname: Some("host".into()),
            report_interval_s: 1,
            simulated: SimulatedOptions {
                physical_networks: vec!["physnet1".into()],
                ..SimulatedOptions::default()
            },
            ..Options::default()
        };
        let transport = Arc::new(Spoiling {
            inner: broker.transport(),
            wire: Arc::clone(&wire),
        });
        let machine = Arc::new(SystemClock::default());
        let rng = Arc::new(SeededRng::new(3));
        let assembled = berth_agent::assemble(&options, machine, rng, Some(transport)).await;
        let (service, agent) = assembled.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(service.run(stop.clone()));
        tokio::time::timeout(PATIENCE, agent.consuming())
            .await
            .unwrap();
        Self {
            controller,
            clock,
            wire,
            broker,
            host_id: agent.host_id(),
            stop,
            _folder: folder,
        }
    }

    pub fn set_wire(&self, wire: Wire) {
        self.wire.store(wire as u8, Ordering::SeqCst);
    }

    /// Puts the controller's clock forward.
    pub fn time_passes(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap();
        self.clock.ahead.fetch_add(by, Ordering::SeqCst);
    }

    /// Puts raw bytes on the host's queue.
    pub async fn publish(&self, message_id: &str, bytes: &'static [u8]) {
        let to = Address::Agent(self.host_id);
        let transport = self.broker.transport();
        let published = transport.publish(to, message_id, Bytes::from_static(bytes));
        published.await.unwrap();
    }

    /// One call; the status, and the body as JSON or else as text.
    pub async fn send(&self, token: &str, method: &str, path: &str, body: Body) -> Answer {
        let kind = match (method, path) {
            (_, path) if path.ends_with("/file") => "application/octet-stream",
            ("PATCH", path) if path.starts_with("/image") => {
                "application/openstack-images-v2.1-json-patch"
            }
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", token)
            .header("content-type", kind)
            .body(body)
            .unwrap();
        let router = berth_controller::router::router(self.controller.app().clone());
        let response = router.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let token = response.headers().get("x-subject-token");
        let token = token.map(|t| t.to_str().unwrap().to_owned());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
            token,
        }
    }

    /// A token of this user, for the project of the same name.
    pub async fn login(&self, name: &str) -> Caller<'_> {
        let domain = json!({"id": "default"});
        let user = json!({"name": name, "domain": domain});
        let scope = json!({"project": {"name": name, "domain": domain}});
        self.login_by(user, scope).await
    }

    /// A token of the user with this id, for what `scope` names.
    pub async fn login_as(&self, user: &str, scope: Value) -> Caller<'_> {
        self.login_by(json!({"id": user}), scope).await
    }

    async fn login_by(&self, mut user: Value, scope: Value) -> Caller<'_> {
        user["password"] = json!("secret");
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": scope}});
        let path = "/identity/v3/auth/tokens";
        let answer = self.send("", "POST", path, login.to_string().into()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        Caller {
            world: self,
            token: answer.token.unwrap(),
        }
    }

    /// The newest command about a server, as its host got it.
    pub async fn last_order(&self, server: &str) -> Value {
        let server = server.to_owned();
        let store = &self.controller.app().store;
        let row = store.tx::<_, StoreError, _>(|tx| {
            let server = server.clone();
            let sql = "SELECT b.envelope FROM outbox b JOIN operations o ON o.id = b.operation_id \
                       WHERE o.instance_id = $1 ORDER BY b.sequence DESC LIMIT 1";
            Box::pin(async move { tx.query_opt::<(String,)>(sql, params![server]).await })
        });
        let (envelope,) = row.await.unwrap().unwrap();
        serde_json::from_str(&envelope).unwrap()
    }

    /// Makes an image's row say that so many bytes were uploaded; nobody has the time to.
    pub async fn image_has(&self, id: &str, bytes: i64) {
        let id = id.to_owned();
        let store = &self.controller.app().store;
        let done = store.tx::<_, StoreError, _>(|tx| {
            let id = id.clone();
            let sql = "UPDATE images SET size = $1 WHERE id = $2";
            Box::pin(async move { tx.execute(sql, params![bytes, id]).await })
        });
        assert_eq!(done.await.unwrap(), 1);
    }

    pub async fn in_order(&self) {
        let store = &self.controller.app().store;
        let findings = audit::audit(store, true).await.unwrap();
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub text: String,
    token: Option<String>,
}

impl Answer {
    /// This status, and a message with each of these words in it.
    #[track_caller]
    pub fn refused(&self, status: u16, words: &[&str]) {
        assert_eq!(self.status, status, "{}", self.text);
        for word in words {
            assert!(self.text.contains(word), "no {word:?} in {}", self.text);
        }
    }

    #[track_caller]
    pub fn taken(&self, status: u16) -> &Value {
        assert_eq!(self.status, status, "{}", self.text);
        &self.body
    }
}

/// Somebody with a token.
pub struct Caller<'w> {
    world: &'w World,
    pub token: String,
}

impl Caller<'_> {
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        self.world.send(&self.token, method, path, body).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    pub async fn put_file(&self, image: &str, bytes: impl Into<Body>) -> Answer {
        let path = format!("/image/v2/images/{image}/file");
        self.world
            .send(&self.token, "PUT", &path, bytes.into())
            .await
    }

    pub async fn patch_image(&self, image: &str, patch: Value) -> Answer {
        let path = format!("/image/v2/images/{image}");
        self.call("PATCH", &path, patch).await
    }

    /// An image that a server boots, with its kernel; more about it in `about`.
    pub async fn image(&self, mut about: Value) -> String {
        about["kernel_id"] = json!(self.kernel("public").await);
        self.disk(about).await
    }

    /// A root disk, and nothing that goes with it.
    pub async fn disk(&self, mut about: Value) -> String {
        about["disk_format"] = json!("raw");
        about["container_format"] = json!("bare");
        about["visibility"] = json!("public");
        let image = text(&self.post("/image/v2/images", about).await.taken(201)["id"]);
        self.put_file(&image, "disk").await.taken(204);
        image
    }

    pub async fn kernel(&self, visibility: &str) -> String {
        let kernel = json!({"name": "kernel", "disk_format": "aki", "container_format": "aki",
            "visibility": visibility});
        let kernel = text(&self.post("/image/v2/images", kernel).await.taken(201)["id"]);
        self.put_file(&kernel, "kernel").await.taken(204);
        kernel
    }

    pub async fn flavor(&self, vcpus: u32, disk: u32) -> String {
        let name = format!("f{vcpus}-{disk}");
        let flavor = json!({"flavor": {"name": name, "vcpus": vcpus, "ram": 128, "disk": disk}});
        text(&self.post("/compute/v2.1/flavors", flavor).await.taken(200)["flavor"]["id"])
    }

    /// A server without a network.
    pub async fn server(&self, name: &str, image: &str, flavor: &str) -> Answer {
        let server = json!({"server": {"name": name, "imageRef": image, "flavorRef": flavor}});
        self.post("/compute/v2.1/servers", server).await
    }

    /// Until the server has this status and nothing is being done to it; `GONE` for no server.
    pub async fn until(&self, id: &str, wanted: &str) -> Value {
        let path = format!("/compute/v2.1/servers/{id}");
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.get(&path).await;
            let server = &answer.body["server"];
            let idle = server["OS-EXT-STS:task_state"].is_null();
            if (answer.status == 404 && wanted == "GONE") || (idle && server["status"] == wanted) {
                return server.clone();
            }
            let late = tokio::time::Instant::now() > end;
            assert!(!late, "{id} is not {wanted}: {}", answer.text);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn delete(&self, id: &str) {
        let path = format!("/compute/v2.1/servers/{id}");
        self.call("DELETE", &path, Value::Null).await.taken(204);
        self.until(id, "GONE").await;
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The agent's transport, with [`Wire`] in it.
struct Spoiling {
    inner: Arc<dyn Transport>,
    wire: Arc<AtomicU8>,
}

struct SpoilingConsumer {
    inner: Box<dyn Consumer>,
    wire: Arc<AtomicU8>,
}

impl Consumer for SpoilingConsumer {
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async move {
            let mut delivery = self.inner.next().await?;
            let wire = self.wire.load(Ordering::SeqCst);
            if wire == Wire::Newer as u8 {
                let mut envelope: Envelope = serde_json::from_slice(&delivery.payload).unwrap();
                envelope.version += 1;
                delivery.payload = serde_json::to_vec(&envelope).unwrap().into();
            } else if wire == Wire::Garbled as u8 {
                delivery.payload.truncate(delivery.payload.len() / 2);
            }
            Some(delivery)
        })
    }
}

impl Transport for Spoiling {
    fn declare(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        self.inner.declare(address)
    }
    fn restore(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        self.inner.restore(address)
    }
    fn publish<'a>(
        &'a self,
        address: Address,
        message_id: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), RpcError>> {
        self.inner.publish(address, message_id, payload)
    }
    fn consume(
        &self,
        address: Address,
        options: ConsumeOptions,
    ) -> BoxFuture<'_, Result<Box<dyn Consumer>, RpcError>> {
        Box::pin(async move {
            let inner = self.inner.consume(address, options).await?;
            let wire = Arc::clone(&self.wire);
            Ok(Box::new(SpoilingConsumer { inner, wire }) as Box<dyn Consumer>)
        })
    }
    fn read(
        &self,
        address: Address,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcError>> {
        self.inner.read(address, payload, timeout)
    }
    fn serve_reads(
        &self,
        address: Address,
    ) -> BoxFuture<'_, Result<tokio::sync::mpsc::Receiver<ReadRequest>, RpcError>> {
        self.inner.serve_reads(address)
    }
    fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
