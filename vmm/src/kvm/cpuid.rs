//! CPUID: what the guest's processors say they are.
//!
//! Guarantees: nothing is offered that KVM does not support (the start is always its supported
//! set), and the topology that the leaves tell is the machine's, not the host's: leaf 1, leaf 4
//! (Intel), 0xB and 0x1F, 0x8000_0008, 0x8000_001D and 0x8000_001E (AMD). A vCPU's leaves differ
//! from its neighbour's only in their ids.
//!
//! Sources: Intel SDM 2A (CPUID), AMD APM 3 appendix E, Linux `Documentation/virt/kvm/x86/cpuid.rst`.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::machine::Topology;

/// Leaf 1, ECX: TSC-deadline mode of the local APIC timer. KVM supports it with its own APIC but
/// leaves it out of the supported set (`KVM_CAP_TSC_DEADLINE_TIMER` tells it).
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: running under a hypervisor.
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: x2APIC.
const LEAF1_ECX_X2APIC: u32 = 1 << 21;
/// Leaf 1, EDX: the package holds more than one logical processor.
const LEAF1_EDX_HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: AMD's core ids are legacy-compatible with more than one core.
const EXT1_ECX_CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001, ECX: leaves 0x8000_001D and 0x8000_001E exist.
const EXT1_ECX_TOPOEXT: u32 = 1 << 22;

/// The model that every vCPU shares: KVM's supported set with the machine's topology.
pub fn model(
    supported: &[kvm_cpuid_entry2],
    topology: Topology,
    tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let mut leaves: Vec<_> = supported
        .iter()
        // Topology and cache leaves are written anew; what the host has there is the host's.
        .filter(|leaf| !matches!(leaf.function, 0xB | 0x1F | 0x8000_001E))
        .copied()
        .collect();
    let amd = is_amd(supported);
    let shared = u32::from(topology.per_socket());
    for leaf in &mut leaves {
        match leaf.function {
            1 => {
                leaf.ecx |= LEAF1_ECX_HYPERVISOR;
                set(&mut leaf.ecx, LEAF1_ECX_TSC_DEADLINE, tsc_deadline);
                set(&mut leaf.edx, LEAF1_EDX_HTT, shared > 1);
                // Ids that fit into the field, as wide as the topology leaves say.
                let ids = (1_u32 << topology.socket_shift()).min(255);
                leaf.ebx = leaf.ebx & 0x0000_FFFF | ids << 16;
            }
            4 => set_cache_sharing_intel(leaf, topology),
            0x8000_0001 if amd => {
                set(&mut leaf.ecx, EXT1_ECX_CMP_LEGACY, shared > 1);
            }
            0x8000_0008 if amd => {
                // NC: threads in the package less one; ApicIdCoreIdSize: their bits.
                leaf.ecx = leaf.ecx & !0xFFFF
                    | shared.saturating_sub(1).min(255)
                    | topology.socket_shift() << 12;
            }
            0x8000_001D => set_cache_sharing_amd(leaf, topology),
            _ => {}
        }
    }
    let largest = largest_basic(&leaves);
    if largest >= 0xB {
        leaves.extend(extended_topology(0xB, topology));
        if !amd && largest >= 0x1F {
            leaves.extend(extended_topology(0x1F, topology));
        }
    }
    let topoext = leaves
        .iter()
        .any(|leaf| leaf.function == 0x8000_0001 && leaf.ecx & EXT1_ECX_TOPOEXT != 0);
    if amd && topoext {
        leaves.push(kvm_cpuid_entry2 {
            function: 0x8000_001E,
            ebx: u32::from(topology.threads.saturating_sub(1)) << 8,
            ..Default::default()
        });
    }
    leaves
}

/// The model with the ids of one vCPU in place.
pub fn for_vcpu(
    model: &[kvm_cpuid_entry2],
    topology: Topology,
    vcpu: u16,
) -> Vec<kvm_cpuid_entry2> {
    let apic_id = topology.apic_id(vcpu);
    let mut leaves = model.to_vec();
    for leaf in &mut leaves {
        match leaf.function {
            1 => leaf.ebx = leaf.ebx & 0x00FF_FFFF | (apic_id & 0xFF) << 24,
            0xB | 0x1F => leaf.edx = apic_id,
            0x8000_001E => {
                leaf.eax = apic_id;
                let core = apic_id >> topology.thread_bits() & 0xFF;
                leaf.ebx = leaf.ebx & !0xFF | core;
                leaf.ecx = (apic_id >> topology.socket_shift()) & 0xFF;
            }
            _ => {}
        }
    }
    leaves
}

/// Leaf 0xB or 0x1F: a level for threads, one for cores, and the empty one that ends the list.
fn extended_topology(function: u32, topology: Topology) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1;
    const CORES: u32 = 2;
    let level = |index, kind: u32, shift, count: u16| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: u32::from(count),
        ecx: kind << 8 | index,
        ..Default::default()
    };
    [
        level(0, THREADS, topology.thread_bits(), topology.threads),
        level(1, CORES, topology.socket_shift(), topology.per_socket()),
        level(2, 0, 0, 0),
    ]
}

/// Leaf 4: caches up to level 2 belong to a core, the others to the package.
fn set_cache_sharing_intel(leaf: &mut kvm_cpuid_entry2, topology: Topology) {
    if leaf.eax & 0x1F == 0 {
        return;
    }
    let level = leaf.eax >> 5 & 7;
    let bits = if level <= 2 {
        topology.thread_bits()
    } else {
        topology.socket_shift()
    };
    let sharing = (1_u32 << bits) - 1;
    let cores = (1_u32 << topology.core_bits()) - 1;
    leaf.eax = leaf.eax & 0x3FFF | (sharing & 0xFFF) << 14 | (cores & 0x3F) << 26;
}

/// Leaf 0x8000_001D: as leaf 4, without the count of cores.
fn set_cache_sharing_amd(leaf: &mut kvm_cpuid_entry2, topology: Topology) {
    if leaf.eax & 0x1F == 0 {
        return;
    }
    let level = leaf.eax >> 5 & 7;
    let sharing = if level <= 2 {
        topology.threads
    } else {
        topology.per_socket()
    };
    leaf.eax = leaf.eax & !(0xFFF << 14) | (u32::from(sharing).saturating_sub(1) & 0xFFF) << 14;
}

/// Whether leaf 0 says AuthenticAMD or HygonGenuine.
fn is_amd(leaves: &[kvm_cpuid_entry2]) -> bool {
    leaves
        .iter()
        .find(|leaf| leaf.function == 0)
        .is_some_and(|leaf| matches!(&leaf.ebx.to_le_bytes(), b"Auth" | b"Hygo"))
}

fn largest_basic(leaves: &[kvm_cpuid_entry2]) -> u32 {
    leaves
        .iter()
        .find(|leaf| leaf.function == 0)
        .map_or(0, |leaf| leaf.eax)
}

/// Whether the model lets the guest use x2APIC mode.
pub fn has_x2apic(model: &[kvm_cpuid_entry2]) -> bool {
    model
        .iter()
        .any(|leaf| leaf.function == 1 && leaf.ecx & LEAF1_ECX_X2APIC != 0)
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn supported(vendor: &[u8; 4]) -> Vec<kvm_cpuid_entry2> {
        vec![
            leaf(0, 0, [0x1F, u32::from_le_bytes(*vendor), 0, 0]),
            leaf(1, 0, [0, 0xFFFF_0800, 0, LEAF1_EDX_HTT]),
            leaf(4, 0, [0x1C00_4121, 0, 0, 0]),
            leaf(4, 3, [0x1C03_C163, 0, 0, 0]),
            leaf(0xB, 0, [9, 9, 9, 9]),
            leaf(0x8000_0001, 0, [0, 0, EXT1_ECX_TOPOEXT, 0]),
            leaf(0x8000_0008, 0, [0x3030, 0, 0xFFFF, 0]),
            leaf(0x8000_001D, 3, [0x163 | 0xFFF << 14, 0, 0, 0]),
        ]
    }

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = leaves
            .iter()
            .find(|l| l.function == function && l.index == index);
        *found.unwrap()
    }

    #[test]
    fn the_hosts_topology_is_replaced_by_the_machines() {
        let topology = Topology::one_socket(4, true);
        let model = model(&supported(b"Genu"), topology, true);
        let third = for_vcpu(&model, topology, 3);
        assert_eq!(find(&third, 1, 0).ebx, 3 << 24 | 4 << 16 | 0x0800);
        assert_eq!(find(&third, 0xB, 0).edx, 3);
        assert_eq!((find(&third, 0xB, 0).eax, find(&third, 0xB, 0).ebx), (1, 2));
        assert_eq!((find(&third, 0xB, 1).eax, find(&third, 0xB, 1).ebx), (2, 4));
        assert_eq!(find(&third, 0xB, 1).ecx >> 8, 2);
        assert_eq!(find(&third, 0x1F, 1).edx, 3);
        assert_eq!(third.iter().filter(|l| l.function == 0xB).count(), 3);
    }

    #[test]
    fn caches_up_to_level_2_are_shared_by_a_cores_threads_and_others_by_the_package() {
        let topology = Topology {
            sockets: 1,
            cores: 4,
            threads: 2,
        };
        let intel = model(&supported(b"Genu"), topology, true);
        let sharing = |index| find(&intel, 4, index).eax >> 14 & 0xFFF;
        assert_eq!((sharing(0), sharing(3)), (1, 7));
        assert_eq!(find(&intel, 4, 3).eax >> 26, 3);
        let amd = model(&supported(b"Auth"), topology, true);
        assert_eq!(find(&amd, 0x8000_001D, 3).eax >> 14 & 0xFFF, 7);
    }

    #[test]
    fn amd_leaves_tell_the_same_ids_as_leaf_b() {
        let topology = Topology {
            sockets: 2,
            cores: 3,
            threads: 2,
        };
        let model = model(&supported(b"Auth"), topology, false);
        assert_eq!(find(&model, 0x8000_0008, 0).ecx, 5 | 3 << 12);
        for vcpu in 0..topology.vcpus() {
            let leaves = for_vcpu(&model, topology, vcpu);
            let id = topology.apic_id(vcpu);
            let extended = find(&leaves, 0x8000_001E, 0);
            assert_eq!(extended.eax, id);
            assert_eq!(extended.ecx & 0xFF, id >> 3);
            assert_eq!(extended.ebx >> 8 & 0xFF, 1);
            assert_eq!(find(&leaves, 1, 0).ebx >> 24, id);
        }
    }

    #[test]
    fn a_single_processor_is_no_hyperthread() {
        let topology = Topology::one_socket(1, false);
        let model = model(&supported(b"Auth"), topology, true);
        assert_eq!(find(&model, 1, 0).edx & LEAF1_EDX_HTT, 0);
        assert_eq!(find(&model, 0x8000_0001, 0).ecx & EXT1_ECX_CMP_LEGACY, 0);
        assert_ne!(find(&model, 1, 0).ecx & LEAF1_ECX_HYPERVISOR, 0);
    }

    #[test]
    fn the_deadline_timer_is_offered_only_where_kvm_has_it() {
        let topology = Topology::one_socket(1, false);
        for has in [true, false] {
            let model = model(&supported(b"Genu"), topology, has);
            assert_eq!(find(&model, 1, 0).ecx & LEAF1_ECX_TSC_DEADLINE != 0, has);
        }
    }

    #[test]
    fn an_empty_supported_set_gives_an_empty_model_and_no_panic() {
        assert!(model(&[], Topology::one_socket(255, true), true).is_empty());
    }
}
