//! What can run guests: the seam between the engine, which decides, and KVM or a simulation.
//!
//! The engine owns order, journal and answers; a driver owns what is on the host. They meet in
//! a *plan*: the named steps that carry out one command. The contract, for every driver:
//!
//! - **Twice is once.** `check`, `run` and `undo` of a step may each be called any number of
//!   times, in a process that knows nothing of an earlier call, after a death in the middle of
//!   any of them. `check` says whether there is nothing left to do; `run` begins by clearing
//!   away what an interrupted `run` left; `undo` succeeds where there is nothing to undo.
//! - **One command a VMM.** The engine never runs two plans for one VMM at the same time;
//!   plans of different VMMs run concurrently.
//! - **Cancellation is prompt.** Each long wait watches [`Job::cancelled`] and then returns
//!   [`DriverError::Cancelled`] within about a second, with nothing of its own still running.
//!   The engine waits for that; what is half done is the following delete's to remove.
//!   The future itself is dropped only when the agent ends, which equals a kill.
//! - **Keyed by VMM id.** Nothing is shared between VMMs but caches. A driver touches nothing
//!   that it cannot prove to be of the VMM it was asked about.
//! - **Observing changes nothing**, and reports what is, not what was wanted.
//! - **Guests outlive the agent.** Dropping the driver leaves every guest running.

use crate::progress::Progress;
use berth_rpc_types::link::NetworkDocument;
use berth_rpc_types::{Capacity, Command, MessageId, OperationId, VmmId, VmmSpec};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// Why a driver could not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// [`Job::cancelled`] was seen.
    #[error("given up: a delete came")]
    Cancelled,
    /// Anything else.
    #[error("{message}")]
    Failed {
        /// What failed, why, and which knob to turn, for the user; nothing of the host's insides.
        message: String,
        /// The cause chain, for operators and logs.
        detail: String,
        /// Whether the fault is this host's rather than the request's.
        retry_elsewhere: bool,
    },
}

impl DriverError {
    /// The request cannot be carried out anywhere: a corrupt image, a disk too small.
    pub fn request(message: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            detail: detail.into(),
            retry_elsewhere: false,
        }
    }

    /// This host cannot: no space, no tap, no VMM.
    pub fn host(message: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            detail: detail.into(),
            retry_elsewhere: true,
        }
    }
}

/// One command being carried out.
#[derive(Clone, Debug)]
pub struct Job {
    /// For which VMM.
    pub vmm_id: VmmId,
    /// What is to be done.
    pub command: Command,
    /// The last spec known, for commands that carry none.
    pub spec: Option<VmmSpec>,
    /// The REST request that it is for; empty if the agent acts by itself.
    pub request_id: String,
    /// The operation that it is for, if any.
    pub operation_id: Option<OperationId>,
    /// The command's message, if it is one: a guest that was started for it needs no second
    /// start for it, which is how a reboot is carried out once.
    pub message_id: Option<MessageId>,
    /// A delete pre-empts: see the module's contract.
    pub cancelled: CancellationToken,
    /// Where a long step may tell how far it is. The engine clears it before each step.
    pub progress: Progress,
}

/// One step of a plan.
pub trait Step: Send + Sync {
    /// Stable name, for the journal, progress and logs.
    fn name(&self) -> &'static str;
    /// Whether there is nothing left to do.
    fn check(&self) -> BoxFuture<'_, Result<bool, DriverError>>;
    /// Does it.
    fn run(&self) -> BoxFuture<'_, Result<(), DriverError>>;
    /// Takes it back. A step with nothing to take back says why where it is defined.
    fn undo(&self) -> BoxFuture<'_, Result<(), DriverError>>;
}

/// What is there of a VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Absent,
    /// Its directory, but no guest was ever started, or it was stopped by order.
    Stopped,
    /// Runs.
    Running,
    /// vCPUs stand still.
    Paused,
    /// The process ended without an order.
    Exited(Exit),
}

/// How a guest ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It powered itself off.
    PowerOff,
    /// It asked for a reset: to be started again.
    Reset,
    /// It crashed, or its VMM did, or was killed; with the last error.
    Crash(String),
}

/// Runs guests. See the module's words for what every method promises.
pub trait Driver: Send + Sync {
    /// `kvm` or `simulated`.
    fn kind(&self) -> &'static str;

    /// The kernel's boot id: another one after each boot of the host.
    ///
    /// # Errors
    /// [`DriverError::Failed`]
    fn boot_id(&self) -> Result<String, DriverError>;

    /// What the host has now.
    fn capacity(&self) -> BoxFuture<'_, Result<Capacity, DriverError>>;

    /// Takes running guests over after a start. Called once, before anything else.
    fn adopt(&self) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Every VMM of which there is anything on this host.
    fn list(&self) -> BoxFuture<'_, Result<Vec<VmmId>, DriverError>>;

    /// What is there of a VMM.
    fn observe(&self, vmm_id: VmmId) -> BoxFuture<'_, Result<Observed, DriverError>>;

    /// The steps that carry out a command, in order; undone in reverse.
    fn plan(&self, job: &Job) -> Vec<Box<dyn Step>>;

    /// Waits until something may have happened to a VMM by itself: a hint to observe it.
    fn next_change(&self) -> BoxFuture<'_, VmmId>;

    /// The last `lines` lines of the guest's console, or all that is kept.
    fn console_log(
        &self,
        vmm_id: VmmId,
        lines: Option<u32>,
    ) -> BoxFuture<'_, Result<String, DriverError>>;

    /// Makes the host's networks what the document says, whatever they were.
    fn apply_networks(&self, document: NetworkDocument) -> BoxFuture<'_, Result<(), DriverError>>;
}
