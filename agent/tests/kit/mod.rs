//! An agent on a simulated machine, with a broker in this process and a controller's double.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use berth_agent::link::{ByteStream, Controller, LinkError};
use berth_agent::options::SimulatedOptions;
use berth_agent::{Handle, Options, Parts, Service, SimulatedHost, StateDir};
use berth_rpc::clock::{SeededRng, SystemClock};
use berth_rpc::{Address, ConsumeOptions, Consumer, Faults, InProcess, Transport};
use berth_rpc_types::link::{HostNumbers, NetworkDocument, SyncReply, SyncRequest, Timeline};
use berth_rpc_types::spec::{BootSpec, ConfigDriveSpec};
use berth_rpc_types::{
    Command, CommandResult, Envelope, HostId, ImageId, ImageSpec, InstanceId, MessageId,
    Observation, OperationId, Outcome, VmmId, VmmSpec,
};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the double answers, and what it was told.
pub struct Double {
    pub epoch: u64,
    pub lost: Vec<VmmId>,
    pub numbers: Option<HostNumbers>,
    pub timelines: Vec<Timeline>,
    pub follows: Option<String>,
    pub lineage: String,
    pub counter: u64,
    pub refused: Option<String>,
    pub unreachable: bool,
    /// It is told, and its answers are lost.
    pub mute: bool,
    pub acknowledges: bool,
    pub syncs: Vec<SyncRequest>,
    pub seen: BTreeMap<VmmId, Observation>,
    /// How often each observation was told.
    pub told: BTreeMap<(VmmId, u64), u64>,
}

#[derive(Clone)]
pub struct DoubleController(pub Arc<Mutex<Double>>);

impl DoubleController {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Double {
            epoch: 1,
            lost: Vec::new(),
            numbers: None,
            timelines: Vec::new(),
            follows: None,
            lineage: "db-1".into(),
            counter: 1,
            refused: None,
            unreachable: false,
            mute: false,
            acknowledges: true,
            syncs: Vec::new(),
            seen: BTreeMap::new(),
            told: BTreeMap::new(),
        })))
    }
}

impl Controller for DoubleController {
    fn sync(&self, request: SyncRequest) -> BoxFuture<'_, Result<SyncReply, LinkError>> {
        let mut double = self.0.lock().unwrap();
        if double.unreachable {
            let error = LinkError::Unreachable {
                url: "double".into(),
                reason: "test".into(),
            };
            return Box::pin(async { Err(error) });
        }
        let mut acknowledged = Vec::new();
        for observation in &request.observations {
            *double
                .told
                .entry((observation.vmm_id, observation.observation))
                .or_default() += 1;
            double.seen.insert(observation.vmm_id, observation.clone());
            if double.acknowledges {
                acknowledged.push((observation.vmm_id, observation.observation));
            }
        }
        double.syncs.push(request);
        if double.mute {
            let error = LinkError::Unreachable {
                url: "double".into(),
                reason: "the answer is lost".into(),
            };
            return Box::pin(async { Err(error) });
        }
        double.counter += 1;
        let reply = SyncReply {
            epoch: double.epoch,
            lost: double.lost.clone(),
            acknowledged,
            timelines: double.timelines.clone(),
            tell: Vec::new(),
            follows: double.follows.clone(),
            lineage: double.lineage.clone(),
            lineage_counter: double.counter,
            network_revision: 1,
            forget: Vec::new(),
            numbers: double.numbers,
            refused: double.refused.clone(),
            report_every_s: 0,
        };
        Box::pin(async { Ok(reply) })
    }

    fn networks(&self) -> BoxFuture<'_, Result<NetworkDocument, LinkError>> {
        Box::pin(async {
            Ok(NetworkDocument {
                revision: 1,
                networks: Vec::new(),
            })
        })
    }

    fn image<'a>(
        &'a self,
        _: &'a ImageSpec,
        _: u64,
    ) -> BoxFuture<'a, Result<ByteStream, LinkError>> {
        Box::pin(async { Err(LinkError::Configuration("the double has no images".into())) })
    }
}

pub struct Running {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    pub handle: Handle,
}

pub struct Rig {
    pub folder: tempfile::TempDir,
    pub machine: SimulatedHost,
    pub broker: InProcess,
    pub controller: DoubleController,
    pub agent: Option<Running>,
    pub host_id: HostId,
    results: Box<dyn Consumer>,
    /// Its consumers end with it.
    _transport: Arc<dyn Transport>,
    next: u128,
}

pub fn vmm(n: u128) -> VmmId {
    VmmId::from_u128(n)
}

pub fn spec(name: &str) -> VmmSpec {
    let image = ImageSpec {
        id: ImageId::from_u128(1),
        disk_format: "aki".into(),
        size: 1,
        sha512: "0".repeat(128),
        path: "/agent/v1/images/1".into(),
        token: "t".into(),
    };
    VmmSpec {
        instance_id: InstanceId::from_u128(1),
        name: name.into(),
        project_id: "p".into(),
        vcpus: 1,
        memory_mib: 128,
        boot: BootSpec {
            kernel: image,
            ramdisk: None,
            cmdline: String::new(),
        },
        disks: Vec::new(),
        ports: Vec::new(),
        config_drive: ConfigDriveSpec::default(),
    }
}

pub fn build() -> Command {
    Command::Build(Box::new(spec("web")))
}

pub fn start() -> Command {
    Command::Start(Box::new(spec("web")))
}

pub fn options(folder: &Path) -> Options {
    Options {
        state_dir: folder.join("agent"),
        report_interval_s: 1,
        max_attempts: 3,
        hostname: Some("host-1".into()),
        ..Options::default()
    }
}

/// Makes an agent's service over the given parts.
pub fn service(
    options: &Options,
    machine: &SimulatedHost,
    transport: Arc<dyn Transport>,
    controller: &DoubleController,
) -> (Service, Handle) {
    // Another one at each start.
    static STARTS: AtomicU64 = AtomicU64::new(0);
    let rng = Arc::new(SeededRng::new(STARTS.fetch_add(1, Ordering::Relaxed)));
    let state_dir = StateDir::open(&options.state_dir, &*rng).unwrap();
    let parts = Parts {
        driver: machine.driver(),
        controller: Arc::new(controller.clone()),
        transport,
        clock: Arc::new(SystemClock::default()),
        rng,
    };
    Service::new(options, state_dir, parts).unwrap()
}

impl Rig {
    pub async fn new() -> Self {
        Self::with_faults(Faults::default()).await
    }

    pub async fn with_faults(faults: Faults) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::default());
        let broker = InProcess::new(faults, Arc::new(SeededRng::new(1)), clock.clone());
        let machine = SimulatedHost::new(SimulatedOptions::default(), clock, None).unwrap();
        let transport = broker.transport();
        let results = transport
            .consume(Address::Results, ConsumeOptions { prefetch: 100 })
            .await
            .unwrap();
        let mut rig = Self {
            folder,
            machine,
            broker,
            controller: DoubleController::new(),
            agent: None,
            host_id: HostId::from_u128(0),
            results,
            _transport: transport,
            next: 1_000,
        };
        rig.start_agent();
        rig.ready().await;
        rig
    }

    pub fn start_agent(&mut self) {
        let options = options(self.folder.path());
        let transport = self.broker.transport();
        let (service, handle) = service(&options, &self.machine, transport, &self.controller);
        self.host_id = handle.host_id();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { service.run(token).await.unwrap() });
        self.agent = Some(Running {
            shutdown,
            task,
            handle,
        });
    }

    pub async fn ready(&self) {
        let handle = &self.agent.as_ref().unwrap().handle;
        tokio::time::timeout(PATIENCE, handle.consuming())
            .await
            .expect("the agent consumes");
    }

    pub async fn stop_agent(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.shutdown.cancel();
        agent.task.await.unwrap();
    }

    pub fn envelope(&mut self, vmm_id: VmmId, sequence: u64, command: &Command) -> Envelope {
        self.next += 1;
        Envelope {
            message_id: MessageId::from_u128(self.next),
            operation_id: OperationId::from_u128(self.next),
            step: command.method().into(),
            attempt: 1,
            host_id: self.host_id,
            vmm_id,
            sequence,
            host_epoch: self.controller.0.lock().unwrap().epoch,
            command: String::new(),
            subject: None,
            host_number: u64::try_from(self.next).ok(),
            timeline: None,
            lineage: String::new(),
            begin_by: None,
            silence_limit: 60,
            method: command.method().into(),
            version: 1,
            request_id: format!("req-{}", self.next),
            traceparent: None,
            body: command.body(),
        }
    }

    pub async fn send(&self, envelope: &Envelope) {
        let payload = serde_json::to_vec(envelope).unwrap();
        self.send_bytes(&envelope.message_id.to_string(), payload)
            .await;
    }

    pub async fn send_bytes(&self, id: &str, payload: Vec<u8>) {
        let transport = self.broker.transport();
        transport
            .declare(Address::Agent(self.host_id))
            .await
            .unwrap();
        let queue = Address::Agent(self.host_id);
        // In doubt the same message is sent again, as a controller does.
        while transport
            .publish(queue, id, payload.clone().into())
            .await
            .is_err()
        {}
    }

    /// The next answer, whosever.
    pub async fn answer(&mut self) -> CommandResult {
        let next = tokio::time::timeout(PATIENCE, self.results.next());
        let delivery = next.await.expect("an answer in time").unwrap();
        // Not acknowledged means that it comes again, and folds away.
        let _ = delivery.ack().await;
        serde_json::from_slice(&delivery.payload).unwrap()
    }

    /// The answer to this message; repeats of others fold away.
    pub async fn answer_to(&mut self, envelope: &Envelope) -> Outcome {
        loop {
            let answer = self.answer().await;
            if answer.message_id == envelope.message_id {
                return answer.outcome;
            }
        }
    }

    /// No answer comes for a while.
    pub async fn silence(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(150), self.results.next()).await;
        assert!(next.is_err(), "an answer that should not be");
    }

    /// No answer to these comes for a while; repeats of others fold away.
    pub async fn unanswered(&mut self, envelopes: &[&Envelope]) {
        let end = tokio::time::Instant::now() + Duration::from_millis(300);
        while let Ok(delivery) = tokio::time::timeout_at(end, self.results.next()).await {
            let delivery = delivery.unwrap();
            let _ = delivery.ack().await;
            let answer: CommandResult = serde_json::from_slice(&delivery.payload).unwrap();
            let unwanted = envelopes.iter().any(|e| e.message_id == answer.message_id);
            assert!(!unwanted, "an answer that should not be: {answer:?}");
        }
    }

    /// Sends a command and waits for its answer.
    pub async fn order(&mut self, vmm_id: VmmId, sequence: u64, command: &Command) -> Outcome {
        let envelope = self.envelope(vmm_id, sequence, command);
        self.send(&envelope).await;
        self.answer_to(&envelope).await
    }

    /// Waits until the controller was told this of the VMM.
    pub async fn told(&self, vmm_id: VmmId, told: impl Fn(&Observation) -> bool) -> Observation {
        self.until(|| {
            let double = self.controller.0.lock().unwrap();
            double.seen.get(&vmm_id).filter(|o| told(o)).cloned()
        })
        .await
    }

    pub async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("in time")
    }
}
