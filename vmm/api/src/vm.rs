//! What a VMM says of itself over the socket, and what it is asked to do.

use serde::{Deserialize, Serialize};

use crate::config::{BootSource, Drive, Logger, MachineConfig, Metrics, NetworkInterface, Serial};

/// A guest's state, in Firecracker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VmState {
    /// Configured or not, but not started.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The vCPUs run.
    Running,
    /// The vCPUs stand still and the devices are drained.
    Paused,
}

impl std::fmt::Display for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            VmState::NotStarted => "Not started",
            VmState::Running => "Running",
            VmState::Paused => "Paused",
        })
    }
}

/// `GET /`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// `--id`.
    pub id: String,
    /// The guest's state.
    pub state: VmState,
    /// The VMM's version.
    pub vmm_version: String,
    /// `Berth`.
    pub app_name: String,
}

/// `GET /version`. The key is the one that Firecracker's clients read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The VMM's version.
    pub firecracker_version: String,
}

/// `GET /vm/config`: nulls are kept and defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FullVmConfig {
    /// No balloon yet: null.
    pub balloon: Option<serde_json::Value>,
    /// Disks, the root disk first.
    pub drives: Vec<Drive>,
    /// What boots.
    pub boot_source: BootSource,
    /// No custom CPU templates yet: null.
    pub cpu_config: Option<serde_json::Value>,
    /// The VMM's log; null, as Firecracker answers.
    pub logger: Option<Logger>,
    /// Processors and memory.
    pub machine_config: MachineConfig,
    /// The VMM's metrics; null, as Firecracker answers.
    pub metrics: Option<Metrics>,
    /// No metadata service in the VMM: null.
    pub mmds_config: Option<serde_json::Value>,
    /// Network interfaces.
    pub network_interfaces: Vec<NetworkInterface>,
    /// No vsock yet: null.
    pub vsock: Option<serde_json::Value>,
    /// No entropy device yet: null.
    pub entropy: Option<serde_json::Value>,
    /// No pmem devices: empty.
    pub pmem: Vec<serde_json::Value>,
    /// No memory hotplug yet: null.
    pub memory_hotplug: Option<serde_json::Value>,
    /// **Berth's**: the serial console, if it was configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
}

/// What `PUT /actions` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionType {
    /// Writes the metrics now.
    FlushMetrics,
    /// Boots the guest.
    InstanceStart,
    /// Presses the power button (Firecracker: the keys, by which its guests reboot).
    SendCtrlAltDel,
    /// **Berth's**: presses the ACPI power button.
    PowerButton,
    /// **Berth's**: ends the VMM with [`ExitCode::GuestReset`](crate::ExitCode::GuestReset),
    /// asking nobody in the guest; who started it starts it again.
    Reset,
    /// **Berth's**: ends the VMM with [`ExitCode::Ok`](crate::ExitCode::Ok), asking nobody in
    /// the guest.
    Stop,
}

/// The body of `PUT /actions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// What to do.
    pub action_type: ActionType,
}

/// The states that `PATCH /vm` can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmStateUpdate {
    /// Stop the vCPUs and drain the devices.
    Paused,
    /// Let them run.
    Resumed,
}

/// The body of `PATCH /vm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmStateRequest {
    /// The state asked for.
    pub state: VmStateUpdate,
}

/// The body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultMessage {
    /// What was wrong.
    pub fault_message: String,
}
