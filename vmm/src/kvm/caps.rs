//! What this host's KVM can do, read once at start.
//!
//! Guarantees: a capability that the VMM relies on is checked here and nowhere else, and a
//! missing one is an error that names it before any guest exists. State that only some hosts
//! have is saved and restored only if this table says so: no state ioctl is called without it.

use std::collections::BTreeMap;

use kvm_bindings as kb;
use kvm_ioctls::Kvm;

/// Whether the VMM can do without a capability.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}
use Need::{Optional, Required};

/// Every capability that the VMM asks about: name, number, need.
const TABLE: &[(&str, u32, Need)] = &[
    ("user_memory", kb::KVM_CAP_USER_MEMORY, Required),
    ("irqchip", kb::KVM_CAP_IRQCHIP, Required),
    ("irqfd", kb::KVM_CAP_IRQFD, Required),
    ("ioeventfd", kb::KVM_CAP_IOEVENTFD, Required),
    ("ext_cpuid", kb::KVM_CAP_EXT_CPUID, Required),
    ("mp_state", kb::KVM_CAP_MP_STATE, Required),
    ("immediate_exit", kb::KVM_CAP_IMMEDIATE_EXIT, Required),
    ("set_tss_addr", kb::KVM_CAP_SET_TSS_ADDR, Required),
    ("nr_memslots", kb::KVM_CAP_NR_MEMSLOTS, Required),
    ("max_vcpus", kb::KVM_CAP_MAX_VCPUS, Required),
    (
        "tsc_deadline_timer",
        kb::KVM_CAP_TSC_DEADLINE_TIMER,
        Optional,
    ),
    ("signal_msi", kb::KVM_CAP_SIGNAL_MSI, Optional),
    (
        "ioeventfd_any_length",
        kb::KVM_CAP_IOEVENTFD_ANY_LENGTH,
        Optional,
    ),
    ("x2apic_api", kb::KVM_CAP_X2APIC_API, Optional),
    ("vcpu_events", kb::KVM_CAP_VCPU_EVENTS, Optional),
    ("debugregs", kb::KVM_CAP_DEBUGREGS, Optional),
    ("xsave", kb::KVM_CAP_XSAVE, Optional),
    ("xsave2", kb::KVM_CAP_XSAVE2, Optional),
    ("xcrs", kb::KVM_CAP_XCRS, Optional),
    ("adjust_clock", kb::KVM_CAP_ADJUST_CLOCK, Optional),
    ("kvmclock_ctrl", kb::KVM_CAP_KVMCLOCK_CTRL, Optional),
    ("tsc_control", kb::KVM_CAP_TSC_CONTROL, Optional),
    ("get_tsc_khz", kb::KVM_CAP_GET_TSC_KHZ, Optional),
    ("nested_state", kb::KVM_CAP_NESTED_STATE, Optional),
    (
        "dirty_log_protect2",
        kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        Optional,
    ),
    ("dirty_log_ring", kb::KVM_CAP_DIRTY_LOG_RING, Optional),
];

/// The host lacks something without which no guest can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this host's KVM lacks {0}, which every guest needs; a newer kernel has it")]
pub struct MissingCap(pub &'static str);

/// The values of the table's capabilities; 0 is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    values: BTreeMap<&'static str, i32>,
}

impl Caps {
    /// Asks KVM about each row of the table.
    ///
    /// # Errors
    /// If a required capability is missing.
    pub fn read(kvm: &Kvm) -> Result<Caps, MissingCap> {
        Caps::from_fn(|number| kvm.check_extension_raw(u64::from(number)))
    }

    fn from_fn(mut ask: impl FnMut(u32) -> i32) -> Result<Caps, MissingCap> {
        let mut values = BTreeMap::new();
        for &(name, number, need) in TABLE {
            let value = ask(number).max(0);
            if value == 0 && need == Required {
                return Err(MissingCap(name));
            }
            values.insert(name, value);
        }
        Ok(Caps { values })
    }

    /// The value of the capability called `name` in the table; 0 if absent.
    pub fn get(&self, name: &str) -> i32 {
        self.values.get(name).copied().unwrap_or(0)
    }

    /// Whether the host has the capability.
    pub fn has(&self, name: &str) -> bool {
        self.get(name) > 0
    }

    /// All of them, for `berth doctor` and the check before a migration.
    pub fn all(&self) -> &BTreeMap<&'static str, i32> {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_required_capability_is_named() {
        let lacking = |number| i32::from(number != kb::KVM_CAP_IRQFD);
        assert_eq!(Caps::from_fn(lacking), Err(MissingCap("irqfd")));
    }

    #[test]
    fn a_missing_optional_capability_is_absent_and_no_error() {
        let caps = Caps::from_fn(|number| match number {
            kb::KVM_CAP_NESTED_STATE => 0,
            kb::KVM_CAP_XSAVE2 => 4096,
            kb::KVM_CAP_SIGNAL_MSI => -1,
            _ => 1,
        })
        .unwrap();
        assert!(!caps.has("nested_state") && !caps.has("signal_msi"));
        assert_eq!(caps.get("xsave2"), 4096);
    }
}
