//! Sockets, cores and threads, and the APIC ids that spell them.
//!
//! Guarantees: the APIC id of a vCPU has a bit field each for thread, core and socket, as wide as
//! leaf 0xB says (Intel SDM 3A, 10.9.1; AMD APM 3, appendix E), so that a guest which decodes its
//! ids and one which reads the leaves see the same machine.

use serde::{Deserialize, Serialize};

/// How a machine's vCPUs are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Packages.
    pub sockets: u16,
    /// Cores in a package.
    pub cores: u16,
    /// Threads in a core.
    pub threads: u16,
}

impl Topology {
    /// One socket with `vcpus` processors, two to a core if `smt`.
    pub fn one_socket(vcpus: u8, smt: bool) -> Topology {
        let vcpus = u16::from(vcpus.max(1));
        let threads = if smt && vcpus > 1 { 2 } else { 1 };
        Topology {
            sockets: 1,
            cores: vcpus.div_ceil(threads),
            threads,
        }
    }

    /// Processors in all.
    pub fn vcpus(&self) -> u16 {
        self.sockets * self.cores * self.threads
    }

    /// Processors in a package.
    pub fn per_socket(&self) -> u16 {
        self.cores * self.threads
    }

    /// Bits of the APIC id that tell threads of a core apart.
    pub fn thread_bits(&self) -> u32 {
        bits_for(self.threads)
    }

    /// Bits of the APIC id that tell cores of a package apart.
    pub fn core_bits(&self) -> u32 {
        bits_for(self.cores)
    }

    /// Bits of the APIC id below the package's.
    pub fn socket_shift(&self) -> u32 {
        self.thread_bits() + self.core_bits()
    }

    /// The APIC id of a vCPU.
    pub fn apic_id(&self, vcpu: u16) -> u32 {
        let thread = u32::from(vcpu % self.threads);
        let core = u32::from(vcpu / self.threads % self.cores);
        let socket = u32::from(vcpu / self.per_socket());
        socket << self.socket_shift() | core << self.thread_bits() | thread
    }
}

/// How many bits tell `count` things apart.
fn bits_for(count: u16) -> u32 {
    u32::from(count.max(1)).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_core_are_neighbours() {
        let topology = Topology::one_socket(6, true);
        assert_eq!(
            topology,
            Topology {
                sockets: 1,
                cores: 3,
                threads: 2
            }
        );
        let ids: Vec<u32> = (0..6).map(|vcpu| topology.apic_id(vcpu)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
        assert_eq!((topology.thread_bits(), topology.core_bits()), (1, 2));
    }

    #[test]
    fn sockets_start_at_a_power_of_two() {
        let topology = Topology {
            sockets: 2,
            cores: 3,
            threads: 1,
        };
        let ids: Vec<u32> = (0..6).map(|vcpu| topology.apic_id(vcpu)).collect();
        assert_eq!(ids, [0, 1, 2, 4, 5, 6]);
    }

    #[test]
    fn ids_are_unique_in_every_shape() {
        for (sockets, cores, threads) in [(1, 1, 1), (1, 32, 1), (2, 5, 2), (4, 1, 2), (3, 7, 1)] {
            let topology = Topology {
                sockets,
                cores,
                threads,
            };
            let mut ids: Vec<u32> = (0..topology.vcpus()).map(|v| topology.apic_id(v)).collect();
            ids.dedup();
            assert_eq!(ids.len(), usize::from(topology.vcpus()));
        }
    }

    #[test]
    fn a_single_processor_has_no_sibling() {
        assert_eq!(
            Topology::one_socket(1, true),
            Topology {
                sockets: 1,
                cores: 1,
                threads: 1
            }
        );
    }
}
