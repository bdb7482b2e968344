//! `berth up` as a user meets it: the real program, its environment, REST, signals.
#![allow(clippy::unwrap_used, missing_docs)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Much more than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `berth up`; killed if the test ends before it.
struct Up {
    child: Child,
    environment: BTreeMap<String, String>,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(state_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args([
        "up",
        "--driver",
        "simulated",
        "--listen",
        "127.0.0.1:0",
        "--state-dir",
    ]);
    command.arg(state_dir);
    command
}

impl Up {
    /// Starts it, and reads what it prints once it is up.
    fn start(state_dir: &Path) -> Self {
        Self::start_with(state_dir, &[])
    }

    fn start_with(state_dir: &Path, more: &[&str]) -> Self {
        let mut command = command(state_dir);
        let mut child = command.args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut environment = BTreeMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.starts_with('#') {
                break;
            }
            let (name, value) = line
                .strip_prefix("export ")
                .unwrap()
                .split_once('=')
                .unwrap();
            environment.insert(name.to_owned(), value.to_owned());
        }
        assert!(environment.contains_key("OS_CACERT"), "{environment:?}");
        Self { child, environment }
    }

    fn stop(mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A user of its REST, who trusts its CA and nobody else.
struct User {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl User {
    async fn of(up: &Up) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(&up.environment["OS_CACERT"]).unwrap();
        for certificate in rustls_pemfile::certs(&mut &*pem) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .no_proxy();
        let auth = &up.environment["OS_AUTH_URL"];
        let mut user = Self {
            http: builder.build().unwrap(),
            base: auth.strip_suffix("/identity/v3").unwrap().to_owned(),
            token: String::new(),
        };
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": up.environment["OS_USERNAME"], "domain": {"name": "Default"},
                "password": up.environment["OS_PASSWORD"]}}},
            "scope": {"project": {"name": "admin", "domain": {"name": "Default"}}}}});
        let url = format!("{}/identity/v3/auth/tokens", user.base);
        let answer = user.http.post(url).json(&login).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        user.token = answer.headers()["x-subject-token"]
            .to_str()
            .unwrap()
            .to_owned();
        user
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut call = self
            .http
            .request(method, format!("{}{path}", self.base))
            .header("x-auth-token", &self.token);
        if let Some(body) = body {
            call = call.json(&body);
        }
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, Some(body)).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Waits until the server has this status; `gone` when there is none.
    async fn until(&self, id: &str, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (code, answer) = self
                .call("GET", &format!("/compute/v2.1/servers/{id}"), None)
                .await;
            let status = if code == 404 {
                "gone"
            } else {
                answer["server"]["status"].as_str().unwrap()
            };
            if status == wanted {
                return;
            }
            assert!(Instant::now() < end, "{id} is not {wanted}: {answer:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// `berth image create`, as a shell would with the environment of `berth up`.
fn upload(up: &Up, file: &Path, kernel: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .envs(&up.environment)
        .args([
            "image",
            "create",
            "debian",
            "--disk-format",
            "raw",
            "--file",
        ])
        .arg(file)
        .arg("--kernel")
        .arg(kernel)
        .args(["--cmdline", "root=/dev/vda rw"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_server_outlives_berth_up_and_is_there_again_after_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (disk, kernel) = (folder.path().join("disk"), folder.path().join("kernel"));
    std::fs::write(&disk, vec![7; 3 << 20]).unwrap();
    std::fs::write(&kernel, "a kernel").unwrap();

    let up = Up::start(&state);
    let user = User::of(&up).await;
    let image = upload(&up, &disk, &kernel);
    let shown = user
        .call("GET", &format!("/image/v2/images/{image}"), None)
        .await
        .1;
    assert_eq!(shown["status"], "active");
    assert_eq!(shown["size"], 3 << 20);
    assert_eq!(shown["os_command_line"], "root=/dev/vda rw");
    assert!(shown["kernel_id"].is_string(), "{shown}");
    let network = user
        .post("/network/v2.0/networks", json!({"network": {"name": "n"}}))
        .await;
    let network = text(&network["network"]["id"]);
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24"}});
    user.post("/network/v2.0/subnets", subnet).await;
    let flavor = json!({"flavor": {"name": "f", "vcpus": 1, "ram": 128, "disk": 1}});
    let flavor = text(&user.post("/compute/v2.1/flavors", flavor).await["flavor"]["id"]);
    let server = json!({"server": {"name": "web", "imageRef": image, "flavorRef": flavor,
        "networks": [{"uuid": network}]}});
    let server = text(&user.post("/compute/v2.1/servers", server).await["server"]["id"]);
    user.until(&server, "ACTIVE").await;

    // A second one on the same directory says whose it is.
    let mut second = command(&state)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    second
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(1));
    assert!(
        said.contains("already runs") && said.contains(&up.child.id().to_string()),
        "{said}"
    );

    let password = up.environment["OS_PASSWORD"].clone();
    assert_eq!(up.stop().code(), Some(0));

    let up = Up::start(&state);
    assert_eq!(up.environment["OS_PASSWORD"], password);
    let user = User::of(&up).await;
    user.until(&server, "ACTIVE").await;
    let (status, _) = user
        .call("DELETE", &format!("/compute/v2.1/servers/{server}"), None)
        .await;
    assert_eq!(status, 204);
    user.until(&server, "gone").await;

    let database = format!("sqlite://{}", state.join("controller/berth.db").display());
    let audit = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["doctor", "--audit", "--database", &database])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&audit.stdout);
    assert!(audit.status.success() && said.contains("audit"), "{said}");
    assert_eq!(up.stop().code(), Some(0));
}

#[tokio::test]
async fn so_many_hosts_of_that_size_are_simulated_and_are_the_same_ones_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = async |more: &[&str]| {
        let up = Up::start_with(folder.path(), more);
        let user = User::of(&up).await;
        let path = "/compute/v2.1/os-hypervisors/detail";
        let (status, list) = user.call("GET", path, None).await;
        assert_eq!(status, 200);
        assert!(up.stop().success());
        let all = list["hypervisors"].as_array().unwrap().iter();
        let host = |one: &Value| {
            let size = ["vcpus", "memory_mb", "local_gb"].map(|key| one[key].as_u64().unwrap());
            (text(&one["hypervisor_hostname"]), size)
        };
        all.map(host).collect::<BTreeMap<_, _>>()
    };
    let size = [
        "--host-vcpus",
        "100",
        "--host-memory",
        "5000",
        "--host-disk",
        "70",
    ];
    let three = hosts(&[&["--hosts", "3"][..], &size].concat()).await;
    assert_eq!(three.len(), 3);
    assert!(
        three.values().all(|size| *size == [100, 5000, 70]),
        "{three:?}"
    );
    assert_eq!(hosts(&[&["--hosts", "3"][..], &size].concat()).await, three);
}

#[test]
fn what_is_of_simulated_hosts_is_refused_for_a_real_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["up", "--hosts", "2", "--state-dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--driver simulated"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args([
            "up",
            "--driver",
            "simulated",
            "--listen",
            &address,
            "--state-dir",
        ])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&address), "{said}");
}
