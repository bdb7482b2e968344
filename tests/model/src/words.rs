//! What travels: commands and answers, small enough to be compared a million times, and their
//! translation to the real ones, which the agent's record decides on.

use berth_rpc_types::{
    BootSpec, Command, CommandResult, ConfigDriveSpec, Envelope, HostId, ImageId, ImageSpec,
    InstanceId, MessageId, OperationId, Outcome, VmmId, VmmSpec, VmmState,
};
use uuid::Uuid;

/// A host: 0 or 1.
pub type HostNo = usize;

/// A VMM. 0 is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmmNo(pub u8);

impl VmmNo {
    /// Nobody.
    pub const NOBODY: Self = Self(0);

    /// As one bit of a set.
    pub fn bit(self) -> u64 {
        1 << self.0
    }

    /// As the real thing.
    pub fn id(self) -> VmmId {
        VmmId::from_u128(u128::from(self.0))
    }
}

/// The right to run a guest: a generation, and who drew it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// The generation.
    pub number: u8,
    /// As in [`Name::branch`]: a restored database may draw a number again, for another order.
    pub branch: u8,
}

impl Right {
    /// As one bit of a set.
    pub fn bit(self) -> u64 {
        1 << (u32::from(self.branch) * 32 + u32::from(self.number).min(31))
    }
}

/// What a command orders. [`Order::Incoming`], [`Order::HandOver`], [`Order::Settle`] and
/// [`Order::Resume`] are a migration's, whose commands are not on the wire yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Make the guest, take its disk, run it.
    Build,
    /// Run a guest that is there but does not run.
    Start,
    /// Load everything, and say ready.
    Incoming,
    /// Pause, drain, flush, let the disk go, and send the one "go".
    HandOver,
    /// End the matter: the right was taken, or is refused from now on.
    Settle,
    /// Go on from memory: the right came back.
    Resume {
        /// Only if the storage shows that the peer never took the right.
        unless_taken: bool,
    },
    /// The tombstone.
    Delete,
}

impl Order {
    /// Whether the right to run goes with it.
    pub fn gives_a_right(self) -> bool {
        matches!(
            self,
            Self::Build | Self::Start | Self::Incoming | Self::Resume { .. }
        )
    }

    /// The real command whose treatment by the record this one shares: what makes a VMM is a build,
    /// what needs one that is there already is neither build, start nor delete.
    fn command(self) -> Command {
        match self {
            Self::Build | Self::Incoming => Command::Build(Box::new(spec())),
            Self::Start => Command::Start(Box::new(spec())),
            Self::HandOver | Self::Settle => Command::Pause,
            Self::Resume { .. } => Command::Unpause,
            Self::Delete => Command::Delete,
        }
    }
}

/// The name of a message: who drew it, and its host's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// 1 if it was drawn after the database was restored: real ids are random, and a restored
    /// database does not draw the same ones again.
    pub branch: u8,
    /// Its host.
    pub host: HostNo,
    /// Its host's number (rule 3).
    pub number: u8,
}

impl Name {
    /// As the real thing.
    pub fn id(self) -> MessageId {
        let host = u128::try_from(self.host).unwrap_or_default();
        MessageId::from_u128(u128::from(self.branch) << 32 | host << 16 | u128::from(self.number))
    }
}

/// The real database's timeline that a branch is.
pub fn timeline(branch: u8) -> Uuid {
    Uuid::from_u128(u128::from(branch) + 1)
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// Which.
    pub name: Name,
    /// The lineage of the database that drew it: it rises when an operator accepts one.
    pub lineage: u8,
    /// The host's epoch as the controller knows it.
    pub epoch: u8,
    /// About which VMM.
    pub vmm: VmmNo,
    /// The VMM's sequence.
    pub sequence: u8,
    /// What to do.
    pub order: Order,
    /// The right that is given with it.
    pub right: Right,
    /// The other VMM of a migration.
    pub peer: VmmNo,
    /// The rights that the controller knows to be over: a set of [`Right::bit`].
    pub follows: u64,
}

impl Message {
    /// As it travels.
    pub fn envelope(&self) -> Envelope {
        let host = u128::try_from(self.name.host).unwrap_or_default();
        Envelope {
            message_id: self.name.id(),
            operation_id: OperationId::from_u128(0),
            step: String::new(),
            attempt: 1,
            host_id: HostId::from_u128(host),
            vmm_id: self.vmm.id(),
            sequence: self.sequence.into(),
            host_epoch: self.epoch.into(),
            command: String::new(),
            subject: None,
            host_number: Some(self.name.number.into()),
            timeline: Some(timeline(self.name.branch)),
            lineage: String::new(),
            begin_by: None,
            silence_limit: 0,
            method: self.command().method().to_owned(),
            version: 1,
            request_id: String::new(),
            traceparent: None,
            body: serde_json::Value::Null,
        }
    }

    /// The real command.
    pub fn command(&self) -> Command {
        self.order.command()
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// Done; the VMM is in this state. After [`Order::Settle`], `Running` says that the right was
    /// taken, `Stopped` that it is refused.
    Done(VmmState),
    /// Not done.
    Failed {
        /// Whether nothing is left of it.
        undone: bool,
    },
    /// A command with a higher sequence came first.
    Superseded,
    /// The envelope's epoch is not the host's.
    StaleEpoch,
    /// Not known, and at or below the watermark: never begun, and never will be.
    BelowWatermark,
    /// Of a lineage that the agent does not obey.
    Refused,
}

impl Reply {
    /// As the record keeps it.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Done(state) => Outcome::done(state, 0),
            Self::Failed { undone } => Outcome::Failed {
                message: String::new(),
                detail: String::new(),
                undone,
                retry_elsewhere: true,
                seen: None,
            },
            Self::Superseded => Outcome::Superseded { by: 0 },
            Self::StaleEpoch | Self::BelowWatermark | Self::Refused => {
                Outcome::StaleEpoch { current: 0 }
            }
        }
    }

    /// Of what the record kept.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done { answer, .. } => {
                let seen = answer.seen();
                Self::Done(seen.map_or(VmmState::Stopped, |seen| seen.state))
            }
            Outcome::Failed { undone, .. } => Self::Failed { undone: *undone },
            Outcome::Superseded { .. } => Self::Superseded,
            _ => Self::StaleEpoch,
        }
    }
}

/// An answer on the results queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer {
    /// To which message.
    pub to: Name,
    /// What.
    pub reply: Reply,
}

/// The real result of a message.
pub fn result(envelope: &Envelope, reply: Reply) -> CommandResult {
    CommandResult {
        message_id: envelope.message_id,
        operation_id: envelope.operation_id,
        step: String::new(),
        attempt: envelope.attempt,
        host_id: envelope.host_id,
        host_epoch: envelope.host_epoch,
        vmm_id: envelope.vmm_id,
        sequence: envelope.sequence,
        request_id: String::new(),
        outcome: reply.outcome(),
    }
}

/// The guest: the record keeps a specification, and never looks into it.
fn spec() -> VmmSpec {
    VmmSpec {
        instance_id: InstanceId::from_u128(0),
        name: String::new(),
        project_id: String::new(),
        vcpus: 1,
        memory_mib: 1,
        boot: BootSpec {
            kernel: ImageSpec {
                id: ImageId::from_u128(0),
                disk_format: String::new(),
                size: 0,
                sha512: String::new(),
                path: String::new(),
                token: String::new(),
            },
            ramdisk: None,
            cmdline: String::new(),
        },
        disks: Vec::new(),
        ports: Vec::new(),
        config_drive: ConfigDriveSpec::default(),
    }
}
