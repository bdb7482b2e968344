//! What an agent tells unasked.

use crate::{HostId, OperationId, VmmId, VmmState};
use serde::{Deserialize, Serialize};

/// What a host has. Totals only: what is used is the sum of the controller's claims.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Logical CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size in GiB of the file system that guests' disks are on.
    pub disk_gib: u64,
    /// Free GiB on it now (`disk_available_least`).
    pub disk_free_gib: u64,
    /// `kvm` or `simulated`.
    pub driver: String,
    /// `x86_64`.
    pub architecture: String,
    /// CPU model as /proc/cpuinfo names it.
    pub cpu_model: String,
    /// CPU vendor.
    pub cpu_vendor: String,
    /// CPU feature flags.
    pub cpu_features: Vec<String>,
    /// Operations with heavy disk I/O now under way (builds).
    pub io_operations: u32,
    /// Version of the VMM, as Nova's `hypervisor_version` number.
    pub hypervisor_version: u32,
    /// Names of flat physical networks (`physnet`) that the host is wired to.
    pub physical_networks: Vec<String>,
}

/// What an agent saw of a VMM. Folded only if newer than what is known, and only while
/// no operation is open on that VMM (rule 10); sent again until acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The VMM.
    pub vmm_id: VmmId,
    /// Rises with each change that the agent saw; kept across the agent's restarts.
    pub observation: u64,
    /// What was seen.
    pub state: VmmState,
    /// For a crash or a refusal: the VMM's last error.
    #[serde(default)]
    pub error: Option<String>,
}

/// Droppable news on the telemetry queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "telemetry", rename_all = "snake_case")]
pub enum Telemetry {
    /// Something changed on the network document's side; fetch it.
    Poke {
        /// The host that is poked.
        host_id: HostId,
    },
    /// Progress of a command.
    Progress {
        /// Who works.
        host_id: HostId,
        /// For what.
        operation_id: OperationId,
        /// The agent's step.
        doing: String,
        /// 0 to 100, where it is known.
        percent: Option<u8>,
        /// Of what is fetched for it, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<ByteCount>,
    },
}

/// So many bytes of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteCount {
    /// There.
    pub done: u64,
    /// In all.
    pub total: u64,
}
