//! The operator's knobs, with Nova's names and defaults.

use crate::FilterName;
use serde::{Deserialize, Serialize};

/// How hosts are filtered and weighed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// vCPUs per logical CPU.
    pub cpu_allocation_ratio: f64,
    /// Guest memory per host memory that is not reserved.
    pub ram_allocation_ratio: f64,
    /// Guest disk per host disk that is not reserved.
    pub disk_allocation_ratio: f64,
    /// MiB that are the host's own.
    pub reserved_host_memory_mib: u64,
    /// GiB that are the host's own.
    pub reserved_host_disk_gib: u64,
    /// What each weigher counts.
    pub multipliers: Multipliers,
    /// The first choice is drawn from so many of the best, so that several controllers do not
    /// all take the same host. At least 1.
    pub host_subset_size: usize,
    /// Filters, in order. The first that refuses a host is the one that is blamed for it.
    pub filters: Vec<FilterName>,
}

/// What each weigher counts. Negative reverses it, 0 switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Multipliers {
    /// Free memory; positive spreads, negative stacks.
    pub ram: f64,
    /// Free disk.
    pub disk: f64,
    /// Heavy I/O under way; negative prefers idle hosts.
    pub io_ops: f64,
    /// Members of a soft-affinity group that are there.
    pub soft_affinity: f64,
    /// Members of a soft-anti-affinity group that are not.
    pub soft_anti_affinity: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            cpu_allocation_ratio: 4.0,
            ram_allocation_ratio: 1.0,
            disk_allocation_ratio: 1.0,
            reserved_host_memory_mib: 512,
            reserved_host_disk_gib: 0,
            multipliers: Multipliers::default(),
            host_subset_size: 1,
            filters: FilterName::ALL.to_vec(),
        }
    }
}

impl Default for Multipliers {
    fn default() -> Self {
        Self {
            ram: 1.0,
            disk: 1.0,
            io_ops: -1.0,
            soft_affinity: 1.0,
            soft_anti_affinity: 1.0,
        }
    }
}

/// A policy that means nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A ratio must be a positive number.
    #[error("scheduler: {name} is {value}; it must be a number above 0")]
    Ratio {
        /// The knob.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// A multiplier must be a number.
    #[error("scheduler: the {name} multiplier is {value}; it must be a finite number")]
    Multiplier {
        /// The knob.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// Nobody can be chosen from nothing.
    #[error("scheduler: host_subset_size is 0; it must be at least 1")]
    EmptySubset,
}

impl Policy {
    /// Checks what the types do not; call it once, where the configuration is read.
    ///
    /// # Errors
    /// Names the knob and its value.
    pub fn check(&self) -> Result<(), PolicyError> {
        for (name, value) in [
            ("cpu_allocation_ratio", self.cpu_allocation_ratio),
            ("ram_allocation_ratio", self.ram_allocation_ratio),
            ("disk_allocation_ratio", self.disk_allocation_ratio),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(PolicyError::Ratio { name, value });
            }
        }
        let Multipliers {
            ram,
            disk,
            io_ops,
            soft_affinity,
            soft_anti_affinity,
        } = self.multipliers;
        for (name, value) in [
            ("ram", ram),
            ("disk", disk),
            ("io_ops", io_ops),
            ("soft_affinity", soft_affinity),
            ("soft_anti_affinity", soft_anti_affinity),
        ] {
            if !value.is_finite() {
                return Err(PolicyError::Multiplier { name, value });
            }
        }
        if self.host_subset_size == 0 {
            return Err(PolicyError::EmptySubset);
        }
        Ok(())
    }
}
