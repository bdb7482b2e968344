//! The VMM's API, as types: what travels over `berth-vmm`'s Unix socket, in its configuration
//! file, in its status file and in its exit code.
//!
//! The HTTP API is Firecracker's (paths, fields, codes, `fault_message`), so that its clients
//! work, and a superset of it. A field that Firecracker does not have is marked **Berth's** and
//! is left out of answers while it is unset, so that a client that compares whole objects with
//! Firecracker's finds them equal.
//!
//! This crate is all that the agent and the command line know of the VMM: they never link it.
//!
//! - [`config`]: what a guest is made of: boot source, machine, drives, interfaces, serial.
//! - [`vm`]: what a running VMM says of itself: state, version, full configuration, faults.
//! - [`status`]: how a VMM tells its end to who started it: [`ExitCode`] and [`VmmStatus`].
//! - [`client`]: a small blocking client for the socket, without a runtime.
//!
//! Types only parse; whether a value makes sense on this host is decided by the VMM.

pub mod client;
pub mod config;
pub mod mac;
pub mod status;
pub mod vm;

pub use client::{Client, ClientError};
pub use config::{
    BootSource, CacheType, CpuTemplate, Drive, DriveUpdate, HugePages, IoEngine, LogLevel, Logger,
    MachineConfig, MachineConfigUpdate, Metrics, NetworkInterface, NetworkInterfaceUpdate,
    RateLimiter, Serial, TokenBucket, VmmConfig,
};
pub use mac::{MacAddr, MacError};
pub use status::{ExitCode, ExitReason, Phase, VmmStatus};
pub use vm::{
    ActionRequest, ActionType, FaultMessage, FullVmConfig, InstanceInfo, VersionInfo, VmState,
    VmStateRequest, VmStateUpdate,
};

/// The header that carries OpenStack's request id into the VMM's log, from REST to KVM.
pub const REQUEST_ID_HEADER: &str = "x-openstack-request-id";

/// The largest request body that the VMM reads unless it is told otherwise, in bytes
/// (Firecracker's `--http-api-max-payload-size`).
pub const MAX_PAYLOAD: usize = 51_200;
