//! Brokers under test.

use berth_rpc::clock::{SeededRng, SystemClock, SystemRng};
use berth_rpc::{Accounts, Address, Client, Faults, InProcess, Transport, connect};
use berth_tests::rabbit::{PrivateRabbit, TlsFiles};
use futures::future::BoxFuture;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A broker, and what may befall it.
pub trait World: Sync {
    /// A client of its own.
    fn client(&self) -> Arc<dyn Transport>;
    /// Kills the broker; it comes back on its data, or with an empty disk.
    fn crash(&self, disk_lost: bool) -> BoxFuture<'_, ()>;
    /// How long a new queue must have been there to survive a kill of the broker.
    fn settling(&self) -> Duration;
}

/// The in-process transport.
pub struct InProcessWorld(InProcess);

impl Default for InProcessWorld {
    fn default() -> Self {
        let rng = Arc::new(SeededRng::new(1));
        Self(InProcess::new(
            Faults::default(),
            rng,
            Arc::new(SystemClock::default()),
        ))
    }
}

impl InProcessWorld {
    /// One where everything goes wrong one time in twenty.
    pub fn with_faults(seed: u64) -> Self {
        let faults = Faults {
            lose: 50,
            doubt: 50,
            repeat: 50,
            reorder: 50,
            delay: 50,
            delay_max: Duration::from_millis(20),
            lose_ack: 50,
        };
        let rng = Arc::new(SeededRng::new(seed));
        Self(InProcess::new(
            faults,
            rng,
            Arc::new(SystemClock::default()),
        ))
    }

    /// A restart in the midst of the faults, then their end.
    pub async fn calm_after_a_while(&self) {
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.restart(false);
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.set_faults(Faults::default());
    }
}

impl World for InProcessWorld {
    fn client(&self) -> Arc<dyn Transport> {
        self.0.transport()
    }

    fn crash(&self, disk_lost: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.restart(disk_lost) })
    }

    fn settling(&self) -> Duration {
        Duration::ZERO
    }
}

/// The in-process broker, with its clients at the other end of a socket.
pub struct SocketWorld {
    broker: InProcess,
    path: PathBuf,
    _dir: TempDir,
    serving: Mutex<Option<DropGuard>>,
}

impl Default for SocketWorld {
    fn default() -> Self {
        let InProcessWorld(broker) = InProcessWorld::default();
        let dir = tempfile::tempdir().unwrap();
        let world = Self {
            broker,
            path: dir.path().join("broker"),
            _dir: dir,
            serving: Mutex::default(),
        };
        world.serve_anew();
        world
    }
}

impl SocketWorld {
    /// Ends all connections, and lets clients in again.
    pub fn serve_anew(&self) {
        let mut serving = self.serving.lock().unwrap();
        if serving.take().is_some() {
            std::fs::remove_file(&self.path).unwrap();
        }
        let stop = CancellationToken::new();
        berth_rpc::socket::serve(&self.path, self.broker.clone(), stop.clone()).unwrap();
        *serving = Some(stop.drop_guard());
    }
}

impl World for SocketWorld {
    fn client(&self) -> Arc<dyn Transport> {
        let url = format!("unix://{}", self.path.display());
        let clock = Arc::new(SystemClock::default());
        connect(&[url], Client::named("test"), clock, Arc::new(SystemRng)).unwrap()
    }

    fn crash(&self, disk_lost: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.broker.restart(disk_lost) })
    }

    fn settling(&self) -> Duration {
        Duration::ZERO
    }
}

/// A real broker.
pub struct RabbitWorld {
    rabbit: Arc<Mutex<PrivateRabbit>>,
    /// URLs, without the namespace.
    urls: Vec<String>,
    namespace: Mutex<String>,
    _certificates: Option<TempDir>,
}

impl RabbitWorld {
    /// None, with a line that says so, where there is no RabbitMQ.
    pub async fn start() -> Option<Self> {
        if !installed() {
            return None;
        }
        let rabbit = blocking(|| PrivateRabbit::start().unwrap()).await;
        let urls = vec![format!("{}?heartbeat=5", rabbit.url())];
        Some(Self::of(rabbit, urls, None))
    }

    /// Over TLS by a certificate authority of the test's own; the list begins with a broker that
    /// does not run.
    pub async fn start_with_tls() -> Option<Self> {
        if !installed() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let files = certificates(&dir);
        let ca = files.ca.display().to_string();
        let local = Ipv4Addr::LOCALHOST.into();
        let rabbit = blocking(move || PrivateRabbit::start_on(local, Some(files)).unwrap()).await;
        let down = berth_tests::ports::free_port(local).unwrap();
        let urls = vec![
            format!("amqps://guest:guest@127.0.0.1:{down}/%2f?cafile={ca}"),
            format!("{}?cafile={ca}", rabbit.tls_url().unwrap()),
        ];
        Some(Self::of(rabbit, urls, Some(dir)))
    }

    fn of(rabbit: PrivateRabbit, urls: Vec<String>, certificates: Option<TempDir>) -> Self {
        Self {
            rabbit: Arc::new(Mutex::new(rabbit)),
            urls,
            namespace: Mutex::default(),
            _certificates: certificates,
        }
    }

    /// From now on clients are in a namespace of this name: a broker that is new to them.
    pub fn enter(&self, property: &str) {
        println!("{property}");
        let mut namespace = self.namespace.lock().unwrap();
        *namespace = property.chars().take(64).collect();
    }

    /// The brokers' URLs, as clients have them now.
    pub fn urls(&self) -> Vec<String> {
        let namespace = self.namespace.lock().unwrap().clone();
        let urls = self.urls.iter();
        urls.map(|url| format!("{url}&namespace={namespace}"))
            .collect()
    }

    fn connected(&self, client: Client) -> Arc<dyn Transport> {
        let clock = Arc::new(SystemClock::default());
        connect(&self.urls(), client, clock, Arc::new(SystemRng)).unwrap()
    }

    /// A client that has a queue of answers, as controllers do.
    pub fn asking_client(&self) -> Arc<dyn Transport> {
        self.connected(Client {
            asks_as: Some(uuid::Uuid::from_u128(7)),
            ..Client::named("asking")
        })
    }

    /// A host's client.
    pub fn host_client(&self, accounts: &Arc<impl Accounts + 'static>) -> Arc<dyn Transport> {
        self.connected(Client {
            accounts: Some(Arc::clone(accounts) as Arc<dyn Accounts>),
            ..Client::named("host")
        })
    }

    /// The key that hosts' accounts are signed with.
    pub fn host_key(&self) -> std::path::PathBuf {
        self.rabbit.lock().unwrap().host_key()
    }

    /// An operator's slip.
    pub async fn delete_queue(&self, address: Address) {
        let namespace = self.namespace.lock().unwrap().clone();
        let rabbit = Arc::clone(&self.rabbit);
        let queue = format!("{namespace}.{address}");
        blocking(move || {
            rabbit
                .lock()
                .unwrap()
                .ctl(&["delete_queue", &queue])
                .unwrap()
        })
        .await;
    }

    pub async fn stop(self) {
        blocking(move || drop(self)).await;
    }
}

impl World for RabbitWorld {
    fn client(&self) -> Arc<dyn Transport> {
        self.connected(Client::named("conformance"))
    }

    fn crash(&self, disk_lost: bool) -> BoxFuture<'_, ()> {
        let rabbit = Arc::clone(&self.rabbit);
        Box::pin(blocking(move || {
            let mut rabbit = rabbit.lock().unwrap();
            rabbit.kill9().unwrap();
            if disk_lost {
                std::fs::remove_dir_all(rabbit.dir().join("data")).unwrap();
            }
            rabbit.restart().unwrap();
        }))
    }

    fn settling(&self) -> Duration {
        // RabbitMQ 3.10 writes a new quorum queue's Raft metadata lazily. One that is killed half
        // a second after it was declared has no leader ever again ("leader not known", their
        // issue 10070), until `rabbitmqctl eval 'ra:trigger_election(..)'` or its deletion.
        Duration::from_secs(7)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn installed() -> bool {
    let there = std::path::Path::new("/usr/lib/rabbitmq/bin").exists();
    if !there {
        berth_tests::skip::announce(
            "rpc conformance on RabbitMQ",
            "it is not installed: make deps",
        );
    }
    there
}

/// A certificate authority, and a certificate for 127.0.0.1 signed by it, by `openssl`.
fn certificates(dir: &TempDir) -> TlsFiles {
    let path = |name: &str| dir.path().join(name);
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command
            .current_dir(dir.path())
            .args(arguments.split_whitespace());
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::write(path("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch";
    openssl(&format!(
        "req -x509 {key} -subj /CN=ca -keyout ca.key -out ca.pem -days 2"
    ));
    openssl(&format!(
        "req {key} -subj /CN=broker -keyout broker.key -out broker.csr"
    ));
    openssl(
        "x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile san -out broker.pem",
    );
    TlsFiles {
        ca: path("ca.pem"),
        cert: path("broker.pem"),
        key: path("broker.key"),
    }
}
