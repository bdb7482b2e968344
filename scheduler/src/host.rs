//! What there is: one host as the database knows it at one moment.

use crate::Policy;
use berth_rpc_types::{HostId, InstanceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One host. What is used is the sum of its claims, never what the agent measures; only
/// `disk_available_least_gib` is a measurement, since images and logs take room that nobody
/// claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// The host.
    pub id: HostId,
    /// Its label.
    pub hostname: String,
    /// Whether its agent gave a sign of life lately.
    pub up: bool,
    /// Whether its service is enabled, and nobody forced it down.
    pub enabled: bool,
    /// The zone it is in.
    pub availability_zone: String,
    /// Logical CPUs.
    pub vcpus: u32,
    /// vCPUs claimed.
    pub vcpus_used: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// MiB claimed.
    pub memory_used_mib: u64,
    /// Size of the file system with the guests' disks, in GiB.
    pub disk_gib: u64,
    /// GiB claimed.
    pub disk_used_gib: u64,
    /// GiB free on it, as measured; `None` if not known.
    pub disk_available_least_gib: Option<u64>,
    /// Operations with heavy disk I/O now under way.
    pub io_operations: u32,
    /// `x86_64`.
    pub architecture: String,
    /// What it may be called in `img_hv_type`: `kvm`, or `simulated`.
    pub hypervisor_type: String,
    /// Physical networks it is wired to.
    pub physical_networks: BTreeSet<String>,
    /// Instances that are there, or claimed to be.
    pub instances: BTreeSet<InstanceId>,
}

impl HostSnapshot {
    /// vCPUs that may still be claimed.
    pub fn usable_vcpus(&self, policy: &Policy) -> f64 {
        f64::from(self.vcpus) * policy.cpu_allocation_ratio - f64::from(self.vcpus_used)
    }

    /// MiB that may still be claimed: (total - reserved) x ratio - used, as Placement counts.
    pub fn usable_memory_mib(&self, policy: &Policy) -> f64 {
        self.guest_memory_mib(policy) * policy.ram_allocation_ratio - float(self.memory_used_mib)
    }

    /// GiB that may still be claimed: what the ratio allows, less what is gone, by claims or by
    /// measurement, whichever leaves less (Nova's `DiskFilter`).
    pub fn usable_disk_gib(&self, policy: &Policy) -> f64 {
        let total = self.guest_disk_gib(policy);
        total * policy.disk_allocation_ratio - (total - self.free_disk_gib(policy))
    }

    /// MiB that are not the host's own.
    pub fn guest_memory_mib(&self, policy: &Policy) -> f64 {
        float(
            self.memory_mib
                .saturating_sub(policy.reserved_host_memory_mib),
        )
    }

    /// MiB that are free without over-commitment; may be negative.
    pub fn free_memory_mib(&self, policy: &Policy) -> f64 {
        self.guest_memory_mib(policy) - float(self.memory_used_mib)
    }

    /// GiB that are not the host's own.
    pub fn guest_disk_gib(&self, policy: &Policy) -> f64 {
        float(self.disk_gib.saturating_sub(policy.reserved_host_disk_gib))
    }

    /// GiB that are free without over-commitment; may be negative.
    pub fn free_disk_gib(&self, policy: &Policy) -> f64 {
        let by_claims = self.guest_disk_gib(policy) - float(self.disk_used_gib);
        match self.disk_available_least_gib {
            Some(least) => by_claims.min(float(least) - float(policy.reserved_host_disk_gib)),
            None => by_claims,
        }
    }
}

/// Exact up to 2^53, which is 8 ZiB in MiB.
#[expect(clippy::cast_precision_loss, reason = "no host has 2^53 MiB")]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}
