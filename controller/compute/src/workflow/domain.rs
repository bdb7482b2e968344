//! What the kinds of operation on instances share: what they may change and order, and what they
//! learn from it.

use crate::states::Transition;
use berth_controller_hosts::{Fence, Target};
use berth_controller_operations::{self as operations, Domain};
use berth_rpc_types::{HostId, TaskState, VmmState};
use serde_json::Value;

/// The kinds of operation on instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceKinds;

impl Domain for InstanceKinds {
    type About = About;
    type Change = Change;
    type Reply = Reply;
    type Target = Target;
    type Order = Order;
    type Reached = VmmState;
    type Limits = Limits;
}

/// An effect of a step.
pub type Effect = operations::Effect<InstanceKinds>;
/// What a step decides.
pub type Then = operations::Then<InstanceKinds>;
/// What happens to an operation.
pub type Event = operations::Event<Reply>;

/// What Nova says of a kind.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The event that `os-instance-actions` shows.
    pub event: &'static str,
    /// Its lines in the table of states.
    pub lines: &'static [Transition],
    /// Which of them, by what the request said.
    pub line: fn(&Value) -> usize,
}

impl About {
    /// A kind of one line.
    pub const fn new(event: &'static str, lines: &'static [Transition; 1]) -> Self {
        Self {
            event,
            lines,
            line: |_| 0,
        }
    }
}

/// A change of rows, in the step's transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Show this `task_state`.
    Task(TaskState),
    /// Choose a host, claim it and make a VMM's row there; answered by [`Reply::Reserved`] or
    /// [`Reply::NoHost`].
    Reserve {
        /// Hosts that failed.
        excluded: Vec<HostId>,
    },
    /// From now on this VMM is the instance's active one, and its disks are there.
    HandOver(Target),
    /// Find a VMM of the instance that is not gone; answered by [`Reply::Found`].
    Find,
    /// Bind the instance's ports.
    Bind(Target),
    /// The agent answered that nothing is left: release the claim, unbind, close the VMM.
    GiveBack(Target),
    /// Take the VMM away from its fenced host, which removes it should it come back; then as
    /// [`Change::GiveBack`].
    Lose(Target),
}

/// What a change answers with, or why a command was not sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A host was chosen and claimed.
    Reserved(Target),
    /// No host will do, and why.
    NoHost(String),
    /// A VMM that is not gone.
    Found(Option<Target>),
    /// The order cannot be written.
    Unwritable(String),
    /// The host is fenced: nothing is sent there, and nothing that was will be answered.
    Fenced {
        /// Who said so.
        fence: Fence,
        /// Whether the command may have left before.
        sent: bool,
    },
}

/// A command to be, without what only rows know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `vmm.build`
    Build,
    /// `vmm.start`
    Start,
    /// `vmm.stop`
    Stop {
        /// Seconds.
        grace_s: u32,
    },
    /// `vmm.reboot`, if it runs; else it is started.
    Reboot {
        /// Through the guest.
        soft: bool,
        /// Seconds.
        grace_s: u32,
    },
    /// `vmm.pause`
    Pause,
    /// `vmm.unpause`
    Unpause,
    /// `vmm.delete`
    Delete,
}

/// Limits that steps obey; the same for all controllers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Hosts that a create tries.
    pub max_attempts: u32,
    /// Seconds a guest has to power off.
    pub grace_s: u32,
}

impl Limits {
    /// The seconds that a guest has to power off by itself, as the request or the settings say.
    pub fn grace_s(self, given: &Value) -> u32 {
        let asked = given["grace_s"].as_u64();
        let asked = asked.and_then(|s| u32::try_from(s).ok());
        asked.unwrap_or(self.grace_s)
    }
}
