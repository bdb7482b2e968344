//! A host without guests, but with all of their states: for API tests in seconds, and for
//! fleets of thousands in one process.
//!
//! A [`SimulatedHost`] is the machine: what is on it outlives the agent (the driver), as guests
//! on KVM do. With a folder it outlives the process too. Tests make it slow, make its steps
//! fail, and make its guests power off, reset and crash; it counts each effect, so that a test
//! can tell that something happened once. A test outside the process puts a file `fail-STEP` into
//! the folder: the next step of that name fails with what it says, and takes it away; a file `boot-id`
//! says what boot the machine is in.

use crate::driver::{Driver, DriverError, Exit, Job, Observed, Step};
use crate::hints::Hints;
use crate::options::SimulatedOptions;
use crate::progress::Part;
use berth_rpc::clock::Clock;
use berth_rpc_types::link::NetworkDocument;
use berth_rpc_types::{Capacity, Command, MessageId, PortId, VmmId};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The file that says what boot the machine is in.
const BOOT_ID: &str = "boot-id";

/// A machine. Cheap to clone; clones are the same machine.
#[derive(Clone)]
pub struct SimulatedHost(Arc<Machine>);

struct Machine {
    options: SimulatedOptions,
    clock: Arc<dyn Clock>,
    folder: Option<PathBuf>,
    hints: Hints,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    guests: BTreeMap<VmmId, Guest>,
    networks: NetworkDocument,
    /// Step name and error, used up by the first step of that name.
    failures: Vec<(String, DriverError)>,
    step_delay: Duration,
    /// Steps of these names stand still until cancelled or released.
    held: BTreeSet<String>,
    /// How often it was off.
    power_cycles: u64,
}

/// What the machine has of one VMM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Steps whose doing is in effect: `make_disks`, `wire_ports` and so on.
    pub made: BTreeSet<String>,
    /// Taps.
    pub ports: Vec<PortId>,
    /// Its process.
    pub process: Process,
    /// The command that its process was started for.
    pub started_for: Option<MessageId>,
    /// How often it was started.
    pub boots: u64,
    /// How often each step was really done.
    pub effects: BTreeMap<String, u64>,
    /// Its console.
    pub console: String,
}

/// A guest's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Process {
    /// None, or ended by order.
    #[default]
    None,
    /// Runs.
    Running,
    /// Stands still.
    Paused,
    /// Powered itself off.
    PoweredOff,
    /// Asked for a reset.
    Reset,
    /// Crashed so.
    Crashed(String),
}

impl SimulatedHost {
    /// A machine. With `folder`, what is on it is kept there, and found there again.
    ///
    /// # Errors
    /// If the folder cannot be made or read, or holds something else.
    pub fn new(
        options: SimulatedOptions,
        clock: Arc<dyn Clock>,
        folder: Option<&Path>,
    ) -> std::io::Result<Self> {
        let mut state = State {
            step_delay: Duration::from_millis(options.step_ms),
            ..State::default()
        };
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)?;
            state.guests = read_guests(folder)?;
        }
        Ok(Self(Arc::new(Machine {
            options,
            clock,
            folder: folder.map(Into::into),
            hints: Hints::default(),
            state: Mutex::new(state),
        })))
    }

    /// The driver for an agent at this machine.
    pub fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(self.clone())
    }

    /// What is there of a VMM.
    pub fn guest(&self, vmm_id: VmmId) -> Option<Guest> {
        self.state().guests.get(&vmm_id).cloned()
    }

    /// Every VMM of which there is anything.
    pub fn guests(&self) -> BTreeMap<VmmId, Guest> {
        self.state().guests.clone()
    }

    /// The networks last applied.
    pub fn networks(&self) -> NetworkDocument {
        self.state().networks.clone()
    }

    /// The next step of this name fails so, once.
    pub fn fail_next(&self, step: &str, error: DriverError) {
        self.state().failures.push((step.to_owned(), error));
    }

    /// Each step takes this long from now on.
    pub fn set_step_delay(&self, delay: Duration) {
        self.state().step_delay = delay;
    }

    /// Steps of this name stand still until released or cancelled.
    pub fn hold(&self, step: &str) {
        self.state().held.insert(step.to_owned());
    }

    /// Lets held steps of this name go on.
    pub fn release(&self, step: &str) {
        self.state().held.remove(step);
    }

    /// A guest nobody ordered, as if left behind by another agent.
    pub fn put_stranger(&self, vmm_id: VmmId) {
        self.change(vmm_id, |guest| guest.process = Process::Running);
    }

    /// The guest ends by itself.
    pub fn guest_ends(&self, vmm_id: VmmId, how: Exit) {
        self.change(vmm_id, |guest| {
            guest.process = match how {
                Exit::PowerOff => Process::PoweredOff,
                Exit::Reset => Process::Reset,
                Exit::Crash(error) => Process::Crashed(error),
            };
        });
        self.0.hints.give(vmm_id);
    }

    /// The machine was off: what ran on it has ended, and it booted again. Its agent is to be stopped.
    pub fn power_cycle(&self) {
        self.state().power_cycles += 1;
        for vmm_id in self.guests().into_keys() {
            self.change(vmm_id, |guest| {
                if matches!(guest.process, Process::Running | Process::Paused) {
                    guest.process = Process::Crashed("its host was off".into());
                }
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, vmm_id: VmmId, change: impl FnOnce(&mut Guest)) {
        let mut state = self.state();
        let guest = state.guests.entry(vmm_id).or_default();
        change(guest);
        if let Some(folder) = &self.0.folder {
            // A simulated machine whose disk is full is a broken test.
            if let Err(error) = write_guest(folder, vmm_id, guest) {
                tracing::error!(%vmm_id, %error, "simulated machine not kept");
            }
        }
    }

    fn remove(&self, vmm_id: VmmId) {
        self.state().guests.remove(&vmm_id);
        if let Some(folder) = &self.0.folder {
            let _ = std::fs::remove_file(folder.join(format!("{vmm_id}.json")));
        }
    }

    /// The delay, the holds and the failures that a test asked for.
    async fn suffer(&self, step: &'static str, job: &Job) -> Result<(), DriverError> {
        let delay = self.state().step_delay;
        loop {
            if job.cancelled.is_cancelled() {
                return Err(DriverError::Cancelled);
            }
            if !delay.is_zero() {
                tokio::select! {
                    () = self.0.clock.sleep(delay) => {}
                    () = job.cancelled.cancelled() => return Err(DriverError::Cancelled),
                }
            }
            if !self.state().held.contains(step) {
                break;
            }
            tokio::select! {
                () = self.0.clock.sleep(Duration::from_millis(2)) => {}
                () = job.cancelled.cancelled() => return Err(DriverError::Cancelled),
            }
        }
        if let Some(folder) = &self.0.folder {
            let order = folder.join(format!("fail-{step}"));
            if let Ok(why) = std::fs::read_to_string(&order) {
                let _ = std::fs::remove_file(order);
                return Err(DriverError::host(why.trim(), format!("simulated: {step}")));
            }
        }
        let mut state = self.state();
        match state.failures.iter().position(|(name, _)| name == step) {
            Some(index) => Err(state.failures.remove(index).1),
            None => Ok(()),
        }
    }
}

fn write_guest(folder: &Path, vmm_id: VmmId, guest: &Guest) -> std::io::Result<()> {
    let path = folder.join(format!("{vmm_id}.json"));
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(guest)?)?;
    std::fs::rename(new, path)
}

fn read_guests(folder: &Path) -> std::io::Result<BTreeMap<VmmId, Guest>> {
    let mut guests = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .and_then(|s| s.parse().ok());
        if let (Some(vmm_id), Some("json")) = (stem, path.extension().and_then(|e| e.to_str())) {
            guests.insert(vmm_id, serde_json::from_slice(&std::fs::read(&path)?)?);
        }
    }
    Ok(guests)
}

/// What a simulated step is about; its name is the KVM driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Makes something that is there until it is removed: directory, images, disks, drive.
    Make(&'static str),
    WirePorts,
    StartProcess,
    EndProcess,
    /// As [`Kind::EndProcess`], unless this very command has started the process.
    EndOldProcess,
    Pause,
    Unpause,
    RemoveAll,
}

struct SimulatedStep {
    host: SimulatedHost,
    job: Job,
    kind: Kind,
}

impl SimulatedStep {
    fn guest(&self) -> Guest {
        self.host.guest(self.job.vmm_id).unwrap_or_default()
    }

    fn is_done(&self) -> bool {
        let guest = self.host.guest(self.job.vmm_id);
        let Some(guest) = guest else {
            return matches!(self.kind, Kind::EndProcess | Kind::RemoveAll);
        };
        let runs = matches!(guest.process, Process::Running | Process::Paused);
        let ours = self.job.message_id.is_some() && guest.started_for == self.job.message_id;
        match self.kind {
            Kind::Make(name) => guest.made.contains(name),
            Kind::WirePorts => guest.made.contains("wire_ports"),
            Kind::StartProcess => runs,
            Kind::EndProcess => guest.process == Process::None,
            Kind::EndOldProcess => guest.process == Process::None || (ours && runs),
            Kind::Pause => guest.process == Process::Paused,
            Kind::Unpause => guest.process == Process::Running,
            Kind::RemoveAll => false,
        }
    }

    fn act(&self) -> Result<(), DriverError> {
        let name = self.name();
        let job = &self.job;
        if matches!(self.kind, Kind::Pause | Kind::Unpause)
            && !matches!(self.guest().process, Process::Running | Process::Paused)
        {
            let message = "the guest does not run; start it first";
            return Err(DriverError::request(message, "simulated"));
        }
        if matches!(self.kind, Kind::WirePorts | Kind::StartProcess)
            && !self.guest().made.contains("make_disks")
        {
            let message = "the guest's disks are not on this host; rebuild it";
            return Err(DriverError::request(
                message,
                "simulated: make_disks was never done",
            ));
        }
        if self.kind == Kind::RemoveAll {
            self.host.remove(job.vmm_id);
            return Ok(());
        }
        self.host.change(job.vmm_id, |guest| {
            *guest.effects.entry(name.to_owned()).or_default() += 1;
            match self.kind {
                Kind::Make(name) => {
                    guest.made.insert(name.to_owned());
                }
                Kind::WirePorts => {
                    guest.made.insert("wire_ports".to_owned());
                    let ports = job.spec.iter().flat_map(|spec| &spec.ports);
                    guest.ports = ports.map(|port| port.id).collect();
                }
                Kind::StartProcess => {
                    guest.process = Process::Running;
                    guest.started_for = job.message_id;
                    guest.boots += 1;
                    let name = job.spec.as_ref().map_or("guest", |spec| &spec.name);
                    guest.console.push_str(&format!(
                        "[    0.000000] Berth simulated guest, boot {}\n\n{name} login: \n",
                        guest.boots
                    ));
                }
                Kind::EndProcess | Kind::EndOldProcess => guest.process = Process::None,
                Kind::Pause => guest.process = Process::Paused,
                Kind::Unpause => guest.process = Process::Running,
                Kind::RemoveAll => {}
            }
        });
        Ok(())
    }

    fn take_back(&self) {
        if self.host.guest(self.job.vmm_id).is_none() {
            return;
        }
        match self.kind {
            // The directory is made first, so taken back last: with it goes everything.
            Kind::Make("make_directory") => self.host.remove(self.job.vmm_id),
            Kind::Make(name) => self.host.change(self.job.vmm_id, |guest| {
                guest.made.remove(name);
            }),
            Kind::WirePorts => self.host.change(self.job.vmm_id, |guest| {
                guest.made.remove("wire_ports");
                guest.ports.clear();
            }),
            Kind::StartProcess => self.host.change(self.job.vmm_id, |guest| {
                guest.process = Process::None;
            }),
            // These end or change what was there before; there is nothing of theirs.
            Kind::EndProcess
            | Kind::EndOldProcess
            | Kind::Pause
            | Kind::Unpause
            | Kind::RemoveAll => {}
        }
    }
}

impl Step for SimulatedStep {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Make(name) => name,
            Kind::WirePorts => "wire_ports",
            Kind::StartProcess => "start_process",
            Kind::EndProcess | Kind::EndOldProcess => "end_process",
            Kind::Pause => "pause",
            Kind::Unpause => "unpause",
            Kind::RemoveAll => "remove_all",
        }
    }

    fn check(&self) -> BoxFuture<'_, Result<bool, DriverError>> {
        Box::pin(async { Ok(self.is_done()) })
    }

    fn run(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async {
            if self.name() == "fetch_images" {
                self.job.progress.follow(&Arc::new(Part::half(2 << 20)));
            }
            self.host.suffer(self.name(), &self.job).await?;
            self.act()
        })
    }

    fn undo(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async {
            self.take_back();
            Ok(())
        })
    }
}

impl Driver for SimulatedHost {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn boot_id(&self) -> Result<String, DriverError> {
        let told = self.0.folder.as_ref().map(|folder| folder.join(BOOT_ID));
        match told.and_then(|path| std::fs::read_to_string(path).ok()) {
            Some(boot_id) => Ok(boot_id.trim().to_owned()),
            None => Ok(format!("boot {}", self.state().power_cycles)),
        }
    }

    fn capacity(&self) -> BoxFuture<'_, Result<Capacity, DriverError>> {
        let options = &self.0.options;
        let capacity = Capacity {
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
            disk_gib: options.disk_gib,
            disk_free_gib: options.disk_gib,
            driver: "simulated".into(),
            architecture: "x86_64".into(),
            cpu_model: "Simulated".into(),
            cpu_vendor: "Berth".into(),
            hypervisor_version: 1_000,
            physical_networks: options.physical_networks.clone(),
            ..Capacity::default()
        };
        Box::pin(async { Ok(capacity) })
    }

    fn adopt(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<VmmId>, DriverError>> {
        Box::pin(async { Ok(self.state().guests.keys().copied().collect()) })
    }

    fn observe(&self, vmm_id: VmmId) -> BoxFuture<'_, Result<Observed, DriverError>> {
        let observed = match self.guest(vmm_id).map(|guest| guest.process) {
            None => Observed::Absent,
            Some(Process::None) => Observed::Stopped,
            Some(Process::Running) => Observed::Running,
            Some(Process::Paused) => Observed::Paused,
            Some(Process::PoweredOff) => Observed::Exited(Exit::PowerOff),
            Some(Process::Reset) => Observed::Exited(Exit::Reset),
            Some(Process::Crashed(error)) => Observed::Exited(Exit::Crash(error)),
        };
        Box::pin(async { Ok(observed) })
    }

    fn plan(&self, job: &Job) -> Vec<Box<dyn Step>> {
        let kinds: &[Kind] = match &job.command {
            Command::Build(_) => &[
                Kind::Make("make_directory"),
                Kind::Make("fetch_images"),
                Kind::Make("make_disks"),
                Kind::Make("make_config_drive"),
                Kind::WirePorts,
                Kind::StartProcess,
            ],
            Command::Start(_) => &[Kind::WirePorts, Kind::StartProcess],
            Command::Stop { .. } => &[Kind::EndProcess],
            Command::Reboot { .. } => &[Kind::EndOldProcess, Kind::StartProcess],
            Command::Pause => &[Kind::Pause],
            Command::Unpause => &[Kind::Unpause],
            Command::Delete => &[Kind::EndProcess, Kind::RemoveAll],
        };
        let step = |kind: &Kind| {
            Box::new(SimulatedStep {
                host: self.clone(),
                job: job.clone(),
                kind: *kind,
            }) as Box<dyn Step>
        };
        kinds.iter().map(step).collect()
    }

    fn next_change(&self) -> BoxFuture<'_, VmmId> {
        Box::pin(self.0.hints.take())
    }

    fn console_log(
        &self,
        vmm_id: VmmId,
        lines: Option<u32>,
    ) -> BoxFuture<'_, Result<String, DriverError>> {
        Box::pin(async move {
            let guest = self.guest(vmm_id).ok_or_else(|| {
                DriverError::request(format!("this host has no guest {vmm_id}"), "console log")
            })?;
            Ok(crate::console::last_lines(&guest.console, lines).to_owned())
        })
    }

    fn apply_networks(&self, document: NetworkDocument) -> BoxFuture<'_, Result<(), DriverError>> {
        self.state().networks = document;
        Box::pin(async { Ok(()) })
    }
}
