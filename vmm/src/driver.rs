//! The state driver: the one thread that owns the guest.
//!
//! Everything that happens to a VMM arrives here, in one queue, one message at a time: a request
//! that the API translated into an [`Action`], the end of the guest as a vCPU saw it, a signal.
//! So there are no races to decide but here: a pause that meets a shutdown is either before it or
//! after it.
//!
//! ```text
//!   not started --start--> running <--pause, resume--> paused
//!        |                    |                          |
//!        +------ stop --------+-- reset, guest's end ----+------> Outcome (the process ends)
//! ```
//!
//! Guarantees: an action that [`Action::allowed_in`] refuses has no effect; one that fails leaves
//! the state as it was; every request is answered, the one that ends the VMM too. The queue is
//! bounded by [`QUEUE`]; the API's connections wait in it, and each vCPU puts one message in at
//! most.
//!
//! What may block: starting a guest reads its files; a pause waits for disk I/O in flight.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use berth_kill_point::kill_point;
use berth_vmm_api as api;
use berth_vmm_api::{ExitCode, ExitReason, Phase, VmState};

use crate::action::{Action, Answer, NotAllowed};
use crate::guest::GuestError;
use crate::kvm::vcpu::GuestExit;
use crate::log;
use crate::resources::{GuestPlan, ResourceError, Resources};
use crate::status::StatusFile;

/// Messages that wait at most.
pub const QUEUE: usize = 256;

/// A guest that was launched, as the state driver sees it.
pub trait Life {
    /// Stops vCPUs and devices.
    ///
    /// # Errors
    /// The guest runs on.
    fn pause(&mut self) -> Result<(), GuestError>;

    /// Lets them go on.
    ///
    /// # Errors
    /// The guest stands still.
    fn resume(&mut self) -> Result<(), GuestError>;

    /// Asks the guest to power off.
    ///
    /// # Errors
    /// The guest was not asked.
    fn press_power_button(&self) -> Result<(), GuestError>;
}

/// Makes guests: on KVM, or for tests.
pub trait Launcher {
    /// What it makes.
    type Guest: Life;

    /// Starts what was planned. `on_exit` is to be called when the guest ends by itself.
    ///
    /// # Errors
    /// Nothing was started; what the plan still has can be used again.
    fn launch(
        &mut self,
        plan: &mut GuestPlan,
        on_exit: Arc<dyn Fn(GuestExit) + Send + Sync>,
    ) -> Result<Self::Guest, GuestError>;
}

/// What reaches the state driver.
pub enum Message {
    /// A request.
    Request(Box<Request>),
    /// The guest ended.
    GuestExited(GuestExit),
    /// The VMM is asked to end by a signal of this number.
    Signal(i32),
}

/// An action and the way back.
pub struct Request {
    /// What is asked for.
    pub action: Action,
    /// The request id that it came with.
    pub request_id: Option<String>,
    /// Where the answer goes; room for one.
    pub reply: SyncSender<Result<Answer, ActionError>>,
}

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The state does not allow the action.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// What was configured cannot be.
    #[error("{0}")]
    Resource(#[from] ResourceError),
    /// The guest did not start; it can be corrected and started again.
    #[error("Start microvm error: {0}")]
    Start(#[source] GuestError),
    /// The guest, which runs, did not follow.
    #[error("Internal VMM error: {0}")]
    Guest(#[source] GuestError),
    /// Nothing to boot was configured.
    #[error("Start microvm error: Cannot start microvm without kernel configuration.")]
    NoBootSource,
    /// An update that updates nothing.
    #[error("Empty PATCH request.")]
    EmptyUpdate,
    /// The log cannot go where it was to go.
    #[error("Logger error: {0}")]
    Logger(String),
    /// Metrics cannot be written where they were to go.
    #[error("Metrics error: {0}")]
    Metrics(String),
    /// The state driver has ended before it answered.
    #[error("The VMM has ended.")]
    Gone,
}

/// How a VMM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The process's exit code.
    pub code: ExitCode,
    /// Why.
    pub reason: ExitReason,
    /// In words, if it was no wish of anybody's.
    pub error: Option<String>,
}

/// The state driver.
pub struct StateDriver<L: Launcher> {
    id: String,
    launcher: L,
    inbox: Receiver<Message>,
    sender: SyncSender<Message>,
    resources: Resources,
    /// What the guest was started with.
    started: Option<api::FullVmConfig>,
    guest: Option<L::Guest>,
    state: VmState,
    status: StatusFile,
    metrics: crate::metrics::Metrics,
}

impl<L: Launcher> StateDriver<L> {
    /// A driver with nothing started, called `id`.
    pub fn new(id: &str, launcher: L, resources: Resources, status: StatusFile) -> Self {
        let (sender, inbox) = sync_channel(QUEUE);
        StateDriver {
            id: id.to_owned(),
            launcher,
            inbox,
            sender,
            resources,
            started: None,
            guest: None,
            state: VmState::NotStarted,
            status,
            metrics: crate::metrics::Metrics::default(),
        }
    }

    /// Where messages go in.
    pub fn sender(&self) -> SyncSender<Message> {
        self.sender.clone()
    }

    /// What makes the guests, to be set up before the first.
    pub fn launcher(&mut self) -> &mut L {
        &mut self.launcher
    }

    /// Takes messages until the VMM is to end.
    pub fn run(&mut self) -> Outcome {
        loop {
            // The driver holds a sender itself, so that the queue never closes.
            let Ok(message) = self.inbox.recv() else {
                return Outcome {
                    code: ExitCode::Unexpected,
                    reason: ExitReason::Error,
                    error: Some("the state driver's queue was closed".to_owned()),
                };
            };
            if let Some(outcome) = self.take(message) {
                return outcome;
            }
        }
    }

    /// One message. Some: the VMM is to end.
    fn take(&mut self, message: Message) -> Option<Outcome> {
        match message {
            Message::Request(request) => self.answer(*request),
            Message::GuestExited(exit) => Some(guest_ended(exit)),
            Message::Signal(number) => {
                tracing::info!(signal = number, "ended by a signal");
                let (code, reason) = (ExitCode::Ok, ExitReason::Signal);
                Some(Outcome {
                    code,
                    reason,
                    error: None,
                })
            }
        }
    }

    fn answer(&mut self, request: Request) -> Option<Outcome> {
        if let Some(id) = &request.request_id {
            log::set_request_id(id);
            self.status.set_request_id(id);
        }
        let ends = match request.action {
            Action::Stop => Some((ExitCode::Ok, ExitReason::ApiStop)),
            Action::Reset => Some((ExitCode::GuestReset, ExitReason::ApiReset)),
            _ => None,
        };
        let starts = request.action == Action::Start;
        let result = self.act(request.action);
        if let Err(error) = &result {
            self.metrics.refused += 1;
            self.status.set_error(&error.to_string());
        }
        let ends = ends.filter(|_| result.is_ok());
        // Who asked may have gone; what was done stays done.
        let _ = request.reply.send(result);
        if starts {
            kill_point!("vmm.start.answered");
        }
        ends.map(|(code, reason)| Outcome {
            code,
            reason,
            error: None,
        })
    }

    /// Does one action, if the state allows it.
    ///
    /// # Errors
    /// Why it was not done; the state is as it was.
    pub fn act(&mut self, action: Action) -> Result<Answer, ActionError> {
        action.allowed_in(self.state)?;
        self.metrics.actions += 1;
        let configures = action.configures();
        match action {
            Action::ConfigureBootSource(config) => self.resources.set_boot_source(config)?,
            Action::ConfigureMachine(config) => self.resources.set_machine(config)?,
            Action::UpdateMachine(update) => {
                if update.is_empty() {
                    return Err(ActionError::EmptyUpdate);
                }
                let updated = update.apply(self.resources.machine());
                self.resources.set_machine(updated)?;
            }
            Action::InsertDrive(config) => self.resources.put_drive(config)?,
            Action::InsertInterface(config) => self.resources.put_net(config)?,
            Action::UpdateDrive(update) => self.update_drive(&update)?,
            Action::UpdateInterface(update) => self.update_interface(&update)?,
            Action::ConfigureSerial(config) => self.resources.set_serial(config)?,
            Action::ConfigureLogger(config) => {
                log::configure(&config).map_err(|error| ActionError::Logger(error.to_string()))?;
            }
            Action::ConfigureMetrics(config) => self
                .metrics
                .configure(&config, &self.id)
                .map_err(|error| ActionError::Metrics(error.to_string()))?,
            Action::FlushMetrics => self
                .metrics
                .flush()
                .map_err(|error| ActionError::Metrics(error.to_string()))?,
            Action::GetInfo => return Ok(Answer::Info(self.info())),
            Action::GetVersion => return Ok(Answer::Version(version())),
            Action::GetMachine => return Ok(Answer::Machine(self.full_config().machine_config)),
            Action::GetFullConfig => return Ok(Answer::FullConfig(Box::new(self.full_config()))),
            Action::Start => self.start()?,
            Action::Pause => self.pause()?,
            Action::Resume => self.resume()?,
            Action::PressPowerButton => {
                if let Some(guest) = &self.guest {
                    kill_point!("vmm.button.asked");
                    guest.press_power_button().map_err(ActionError::Guest)?;
                    tracing::info!("the power button was pressed");
                    kill_point!("vmm.button.pressed");
                }
            }
            // The outcome is made of these where they were asked for.
            Action::Reset | Action::Stop => kill_point!("vmm.stop.asked"),
        }
        if configures {
            kill_point!("vmm.configuration.accepted");
        }
        Ok(Answer::Empty)
    }

    fn start(&mut self) -> Result<(), ActionError> {
        kill_point!("vmm.start.asked");
        let config = self.resources.full_config();
        let mut plan = self
            .resources
            .take_plan()?
            .ok_or(ActionError::NoBootSource)?;
        let sender = self.sender.clone();
        let on_exit = Arc::new(move |exit| {
            // The queue closes only with the process.
            let _ = sender.send(Message::GuestExited(exit));
        });
        match self.launcher.launch(&mut plan, on_exit) {
            Ok(guest) => self.guest = Some(guest),
            Err(error) => {
                self.resources.put_back(plan);
                tracing::error!(%error, "the guest did not start");
                return Err(ActionError::Start(error));
            }
        }
        kill_point!("vmm.guest.running");
        self.started = Some(config);
        self.enter(VmState::Running);
        tracing::info!("the guest was started");
        Ok(())
    }

    fn pause(&mut self) -> Result<(), ActionError> {
        if self.state == VmState::Running
            && let Some(guest) = &mut self.guest
        {
            guest.pause().map_err(ActionError::Guest)?;
            kill_point!("vmm.guest.paused");
            self.enter(VmState::Paused);
            tracing::info!("the guest was paused");
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), ActionError> {
        if self.state == VmState::Paused
            && let Some(guest) = &mut self.guest
        {
            guest.resume().map_err(ActionError::Guest)?;
            kill_point!("vmm.guest.resumed");
            self.enter(VmState::Running);
            tracing::info!("the guest was resumed");
        }
        Ok(())
    }

    fn enter(&mut self, state: VmState) {
        self.state = state;
        self.status.set_phase(match state {
            VmState::NotStarted => Phase::NotStarted,
            VmState::Running => Phase::Running,
            VmState::Paused => Phase::Paused,
        });
    }

    fn update_drive(&self, update: &api::DriveUpdate) -> Result<(), ActionError> {
        let config = self.full_config();
        if !config
            .drives
            .iter()
            .any(|drive| drive.drive_id == update.drive_id)
        {
            return Err(ResourceError::NoSuchDevice(update.drive_id.clone()).into());
        }
        if update.path_on_host.is_some() || update.rate_limiter.is_some() {
            return Err(ResourceError::Unsupported {
                field: "changing a drive of a running guest",
                hint: "stop the guest and start it with the new drive",
            }
            .into());
        }
        Ok(())
    }

    fn update_interface(&self, update: &api::NetworkInterfaceUpdate) -> Result<(), ActionError> {
        let config = self.full_config();
        if !config
            .network_interfaces
            .iter()
            .any(|net| net.iface_id == update.iface_id)
        {
            return Err(ResourceError::NoSuchDevice(update.iface_id.clone()).into());
        }
        if update.rx_rate_limiter.is_some() || update.tx_rate_limiter.is_some() {
            return Err(ResourceError::Unsupported {
                field: "a rate limiter",
                hint: "limits are not enforced yet, so they are not accepted",
            }
            .into());
        }
        Ok(())
    }

    fn full_config(&self) -> api::FullVmConfig {
        self.started
            .clone()
            .unwrap_or_else(|| self.resources.full_config())
    }

    fn info(&self) -> api::InstanceInfo {
        api::InstanceInfo {
            id: self.id.clone(),
            state: self.state,
            vmm_version: env!("CARGO_PKG_VERSION").to_owned(),
            app_name: "Berth".to_owned(),
        }
    }

    /// Ends the guest, if there is one, and writes down how the VMM ended.
    pub fn finish(mut self, outcome: &Outcome) {
        drop(self.guest.take());
        kill_point!("vmm.guest.ended");
        if let Err(error) = self.metrics.flush() {
            tracing::warn!(%error, "the last metrics are lost");
        }
        self.status.set_outcome(outcome);
    }
}

fn version() -> api::VersionInfo {
    api::VersionInfo {
        firecracker_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn guest_ended(exit: GuestExit) -> Outcome {
    kill_point!("vmm.guest.exited");
    tracing::info!(?exit, "the guest ended");
    let (code, reason, error) = match exit {
        GuestExit::Shutdown => (ExitCode::Ok, ExitReason::GuestShutdown, None),
        GuestExit::Reset => (ExitCode::GuestReset, ExitReason::GuestReset, None),
        GuestExit::TripleFault => (ExitCode::GuestReset, ExitReason::TripleFault, None),
        GuestExit::Crashed(why) => (ExitCode::GuestCrashed, ExitReason::GuestCrashed, Some(why)),
    };
    Outcome {
        code,
        reason,
        error,
    }
}

#[cfg(test)]
mod tests;
