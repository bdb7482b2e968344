//! What the controller, the scheduler and the agents say to each other, as plain data.
//!
//! This crate is the only thing those three share. It holds no I/O, no clock and no
//! tokio: ids, states, units, specifications and messages, with their JSON forms.
//! How messages travel is `berth-rpc`'s matter; what they promise is `PROTOCOL.md`'s.
//!
//! Reading order:
//! - [`ids`]: typed ids; a [`HostId`] cannot be passed as a [`VmmId`].
//! - [`states`]: Nova's vm, task and power states, and the states of a VMM process.
//! - [`subject`]: what a command or an operation is about.
//! - [`spec`]: what a guest is to be ([`VmmSpec`]), with its disks, ports and images.
//! - [`envelope`]: what every message carries, and how versions are negotiated.
//! - [`command`]: the orders a controller gives an agent; [`result`]: what becomes of them.
//! - [`report`]: what an agent tells unasked: capacity, observations, telemetry.
//! - [`link`]: the agent's HTTPS conversation with the controller.

pub mod command;
pub mod envelope;
pub mod ids;
pub mod link;
pub mod report;
pub mod result;
pub mod spec;
pub mod states;
pub mod subject;

pub use command::{Command, CommandError, Read, ReadReply};
pub use envelope::{Envelope, METHOD_VERSION_MAX, METHOD_VERSION_MIN};
pub use ids::{
    HostId, ImageId, InstanceId, MessageId, NetworkId, OperationId, PortId, SubnetId, VmmId,
};
pub use report::{ByteCount, Capacity, Observation, Telemetry};
pub use result::{Answer, CommandResult, DiskSeen, Outcome, ResultError, Seen};
pub use spec::{BootSpec, ConfigDriveSpec, DiskSpec, ImageSpec, PortSpec, VmmSpec};
pub use states::{PowerState, Stored, TaskState, VmState, VmmRole, VmmState};
pub use subject::{Subject, SubjectKind};
