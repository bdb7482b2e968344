//! What is wanted of a host.

use berth_rpc_types::{HostId, InstanceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One placement. The default wants nothing, and every host that is up will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// vCPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// All local disks together (root, ephemeral, swap) in GiB, rounded up.
    pub disk_gib: u64,
    /// The zone asked for (`availability_zone`, without its `:host`).
    pub availability_zone: Option<String>,
    /// The hostname after the colon of `az:host`: only this host. As in Nova, only what the host
    /// can bear is still checked (`ComputeFilter` and capacities), not wishes.
    pub forced_host: Option<String>,
    /// What the image demands.
    pub image: ImageProperties,
    /// Hosts that were tried for this request and failed (Nova's `retry`).
    pub excluded_hosts: BTreeSet<HostId>,
    /// Hint `same_host`: on a host of any of these.
    pub same_host: BTreeSet<InstanceId>,
    /// Hint `different_host`: on a host of none of these.
    pub different_host: BTreeSet<InstanceId>,
    /// Hint `group`.
    pub group: Option<ServerGroup>,
    /// Physical networks that the server's ports need on the host.
    pub physical_networks: BTreeSet<String>,
}

/// Image properties that a host must match; what is absent is not demanded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProperties {
    /// `hw_architecture`, for example `x86_64`; `amd64` and `x64` mean it too.
    pub architecture: Option<String>,
    /// `img_hv_type`, for example `kvm`.
    pub hypervisor_type: Option<String>,
    /// `hw_vm_mode`; Berth's machines are `hvm`.
    pub vm_mode: Option<String>,
}

/// The server group that a server belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerGroup {
    /// Its policy.
    pub policy: GroupPolicy,
    /// Its members, without the server that is being placed.
    pub members: BTreeSet<InstanceId>,
    /// Members that one host may have under anti-affinity (rule `max_server_per_host`); 1 in Nova.
    pub max_server_per_host: u32,
}

/// Nova's server group policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupPolicy {
    /// All on one host, or not at all.
    Affinity,
    /// At most `max_server_per_host` on one host, or not at all.
    AntiAffinity,
    /// Together if it can be had.
    SoftAffinity,
    /// Apart if it can be had.
    SoftAntiAffinity,
}
