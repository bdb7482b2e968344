//! Where everything lies in guest-physical memory.
//!
//! Guarantees: no two regions overlap, RAM never reaches into the hole below 4 GiB nor into the
//! 64-bit window, and every region that later devices need (PCI windows, ECAM, hotplug and GED
//! registers) has had its place since the first version, so that a guest that was started without
//! PCI keeps its addresses when it is rebuilt by a VMM that has it.
//!
//! ```text
//!   0                    RAM; below 1 MiB: boot structures, ACPI tables (reserved in the e820 map)
//!   0xC000_0000  3 GiB   hole: boot timer, 32-bit PCI window, ECAM, virtio-mmio, GED, APICs, TSS
//!   0x1_0000_0000        RAM above 3 GiB of it
//!   half of what the processor addresses: the 64-bit window
//! ```

use serde::{Deserialize, Serialize};

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

impl Region {
    /// A region of `len` bytes from `start`.
    pub const fn new(start: u64, len: u64) -> Region {
        Region { start, len }
    }

    /// The first address behind the region.
    pub const fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Whether `address` lies inside.
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.start && address - self.start < self.len
    }
}

/// The end of low RAM and the start of the hole.
pub const HOLE_START: u64 = 0xC000_0000;
/// The end of the hole and the start of high RAM.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// Where kernels are loaded at the lowest.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;
/// The first byte of the area below 1 MiB that is not the guest's to use.
pub const EBDA_START: u64 = 0x9_FC00;
/// Where the RSDP is, and behind it the other ACPI tables; a guest without the boot protocols'
/// pointers finds it by the search that the ACPI specification prescribes (5.2.5.1).
pub const ACPI: Region = Region::new(0xE_0000, 0x2_0000);
/// The size of one virtio-mmio register block.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// The smallest memory that a guest can have: the boot structures and room for a kernel.
pub const MIN_RAM: u64 = 2 << 20;

/// The regions of one machine. Stored with it; a machine is rebuilt from what is stored, not
/// from today's constants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressMap {
    /// RAM, ascending: one region, or two around the hole.
    pub ram: Vec<Region>,
    /// Firecracker's boot timer: a write of 123 here is logged with the time since start.
    pub boot_timer: Region,
    /// For 32-bit BARs.
    pub pci_window_32: Region,
    /// PCI configuration space (MCFG).
    pub ecam: Region,
    /// virtio-mmio register blocks, `VIRTIO_MMIO_SIZE` each.
    pub virtio_mmio: Region,
    /// The registers behind the generic event device and hotplug.
    pub ged: Region,
    /// I/O APIC.
    pub ioapic: Region,
    /// Local APICs.
    pub lapic: Region,
    /// Three pages and the identity map page before them, which KVM on Intel needs.
    pub kvm_tss: Region,
    /// For 64-bit BARs.
    pub pci_window_64: Region,
}

/// A memory size that has no place in the map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressMapError {
    /// Less than a kernel needs.
    #[error("{0} bytes of memory are too few to boot: give the machine at least 2 MiB")]
    TooSmall(u64),
    /// More than lies below the 64-bit window.
    #[error(
        "{asked} MiB of memory do not fit: this host's processor has {phys_bits} address bits, of \
         which a guest's memory may use half ({limit} MiB)"
    )]
    TooLarge {
        /// MiB asked for.
        asked: u64,
        /// Of the host's processor.
        phys_bits: u8,
        /// MiB that fit.
        limit: u64,
    },
}

/// Where `memory` bytes of RAM lie: below the hole, and above it what does not fit there.
pub fn ram(memory: u64) -> Vec<Region> {
    let mut ram = vec![Region::new(0, memory.min(HOLE_START))];
    if memory > HOLE_START {
        ram.push(Region::new(HOLE_END, memory - HOLE_START));
    }
    ram
}

impl AddressMap {
    /// The map of a machine with `memory` bytes of RAM on a processor with `phys_bits` bits of
    /// physical address.
    ///
    /// # Errors
    /// If the memory is too small to boot or reaches the 64-bit window.
    pub fn new(memory: u64, phys_bits: u8) -> Result<AddressMap, AddressMapError> {
        if memory < MIN_RAM {
            return Err(AddressMapError::TooSmall(memory));
        }
        // Fewer than 36 bits are no 64-bit processor, more than 52 do not exist in long mode.
        let phys_bits = phys_bits.clamp(36, 52);
        let window_start = 1_u64 << (phys_bits - 1);
        let hole = HOLE_END - HOLE_START;
        if memory > window_start - hole {
            return Err(AddressMapError::TooLarge {
                asked: memory >> 20,
                phys_bits,
                limit: (window_start - hole) >> 20,
            });
        }
        Ok(AddressMap {
            ram: ram(memory),
            boot_timer: Region::new(0xC000_0000, 0x1000),
            pci_window_32: Region::new(0xC100_0000, 0xE000_0000 - 0xC100_0000),
            ecam: Region::new(0xE000_0000, 0x1000_0000),
            virtio_mmio: Region::new(0xF000_0000, 64 * VIRTIO_MMIO_SIZE),
            ged: Region::new(0xF010_0000, 0x1000),
            ioapic: Region::new(0xFEC0_0000, 0x1000),
            lapic: Region::new(0xFEE0_0000, 0x1000),
            kvm_tss: Region::new(0xFFFB_C000, 0x4000),
            pci_window_64: Region::new(window_start, window_start / 2),
        })
    }

    /// Bytes of RAM.
    pub fn memory(&self) -> u64 {
        self.ram.iter().map(|region| region.len).sum()
    }

    /// The end of the RAM below the hole.
    pub fn low_ram_end(&self) -> u64 {
        self.ram.first().map_or(0, Region::end)
    }

    /// The e820 map: (address, length, type), in which type 1 is RAM and 2 is reserved.
    pub fn e820(&self) -> Vec<(u64, u64, u32)> {
        const RAM: u32 = 1;
        const RESERVED: u32 = 2;
        let mut entries = vec![
            (0, EBDA_START, RAM),
            (EBDA_START, HIGH_MEMORY_START - EBDA_START, RESERVED),
            (
                HIGH_MEMORY_START,
                self.low_ram_end() - HIGH_MEMORY_START,
                RAM,
            ),
        ];
        entries.extend(
            self.ram
                .iter()
                .skip(1)
                .map(|high| (high.start, high.len, RAM)),
        );
        // Linux uses ECAM only where firmware says that the region is taken.
        entries.push((self.ecam.start, self.ecam.len, RESERVED));
        entries.push((self.kvm_tss.start, self.kvm_tss.len, RESERVED));
        entries.sort_unstable();
        entries
    }

    #[cfg(test)]
    fn regions(&self) -> Vec<Region> {
        let mut all = self.ram.clone();
        all.extend([
            self.boot_timer,
            self.pci_window_32,
            self.ecam,
            self.virtio_mmio,
            self.ged,
            self.ioapic,
            self.lapic,
            self.kvm_tss,
            self.pci_window_64,
        ]);
        all.sort_by_key(|region| region.start);
        all
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_goes_around_the_hole_below_4_gib() {
        let map = AddressMap::new(8 * GIB, 48).unwrap();
        assert_eq!(
            map.ram,
            [Region::new(0, 3 * GIB), Region::new(4 * GIB, 5 * GIB)]
        );
        assert_eq!(AddressMap::new(3 * GIB, 48).unwrap().ram.len(), 1);
        assert_eq!(
            AddressMap::new(3 * GIB + MIB, 48).unwrap().ram[1],
            Region::new(4 * GIB, MIB)
        );
    }

    #[test]
    fn no_two_regions_overlap_at_any_size() {
        for memory in [
            2 * MIB,
            128 * MIB,
            3 * GIB - MIB,
            3 * GIB,
            3 * GIB + MIB,
            31 * GIB,
        ] {
            for phys_bits in [36, 39, 46, 52] {
                let map = AddressMap::new(memory, phys_bits).unwrap();
                assert_eq!(map.memory(), memory);
                for pair in map.regions().windows(2) {
                    assert!(pair[0].end() <= pair[1].start, "{pair:x?} at {memory:#x}");
                }
                assert!(map.pci_window_64.end() <= 1 << phys_bits);
            }
        }
    }

    #[test]
    fn the_e820_map_is_ascending_and_never_calls_the_hole_ram() {
        let map = AddressMap::new(5 * GIB, 40).unwrap();
        let e820 = map.e820();
        for pair in e820.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        for (start, len, kind) in e820 {
            let in_hole = start < HOLE_END && start + len > HOLE_START;
            assert!(
                !(in_hole && kind == 1),
                "{start:#x} is in the hole and called RAM"
            );
        }
    }

    #[test]
    fn memory_that_does_not_fit_is_refused_with_the_limit() {
        let error = AddressMap::new(40 * GIB, 36).unwrap_err();
        assert!(error.to_string().contains("(31744 MiB)"), "{error}");
        assert_eq!(
            AddressMap::new(MIB, 40),
            Err(AddressMapError::TooSmall(MIB))
        );
        assert!(AddressMap::new(u64::MAX, 52).is_err());
    }
}
