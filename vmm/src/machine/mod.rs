//! The guest-visible machine, as one stored and versioned object.
//!
//! Everything that a guest can see of its hardware is decided here, once, and written down:
//! addresses, interrupts, processors, CPUID, device slots, ACPI's registers. The rest of the VMM builds what
//! the object says. Restart, migration and upgrade rebuild the same machine from the object; only
//! [`Machine::plan`] makes a new one.
//!
//! The version rises when the meaning of a field changes. A VMM refuses a machine with a version
//! that it does not know.

pub mod address_map;
pub mod topology;

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

pub use address_map::{AddressMap, AddressMapError, Region};
pub use topology::Topology;

use address_map::VIRTIO_MMIO_SIZE;

/// The version that [`Machine::plan`] makes.
pub const MACHINE_VERSION: u32 = 1;

/// The I/O ports of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMap {
    /// The serial console's 8 registers (COM1).
    pub serial: u16,
    /// ACPI's reset register (FADT RESET_REG): a byte.
    pub acpi_reset: u16,
    /// What the guest writes there to be reset.
    pub acpi_reset_value: u8,
    /// ACPI's sleep control register (hardware-reduced): a byte.
    pub acpi_sleep_control: u16,
    /// ACPI's sleep status register: a byte.
    pub acpi_sleep_status: u16,
}

/// The interrupts (GSIs) of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrqMap {
    /// The serial console's.
    pub serial: u32,
    /// The generic event device's.
    pub ged: u32,
    /// The first one for virtio-mmio; a slot's follows its index.
    pub virtio_first: u32,
    /// The last one for virtio-mmio: the end of the one I/O APIC.
    pub virtio_last: u32,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// virtio block.
    Block,
    /// virtio net.
    Net,
}

/// A place for a device on the virtio-mmio bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The device's id in the API.
    pub id: String,
    /// What it is.
    pub kind: SlotKind,
    /// Its registers.
    pub registers: Region,
    /// Its interrupt.
    pub gsi: u32,
}

/// The processors' model: what CPUID answers, but for the fields that differ between vCPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuModel {
    /// As KVM_SET_CPUID2 takes them, before a vCPU's own ids are filled in.
    pub cpuid: Vec<kvm_cpuid_entry2>,
}

impl CpuModel {
    /// The bits of a physical address, from leaf 0x8000_0008; 36 where it is missing.
    pub fn phys_bits(&self) -> u8 {
        self.cpuid
            .iter()
            .find(|entry| entry.function == 0x8000_0008)
            .map_or(36, |entry| entry.eax as u8)
    }
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// [`MACHINE_VERSION`] of the VMM that made it.
    pub version: u32,
    /// Where everything lies.
    pub map: AddressMap,
    /// I/O ports.
    pub ports: PortMap,
    /// Interrupts.
    pub irqs: IrqMap,
    /// Processors.
    pub topology: Topology,
    /// Their model.
    pub cpu: CpuModel,
    /// Devices, in the order in which the guest finds them.
    pub slots: Vec<Slot>,
}

/// Why a machine cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// See [`AddressMapError`].
    #[error(transparent)]
    Map(#[from] AddressMapError),
    /// More devices than interrupts.
    #[error(
        "device {id} has no slot left: a machine without PCI has {limit} of them, one for each \
         drive and network interface"
    )]
    NoSlot {
        /// The first device that did not fit.
        id: String,
        /// How many do.
        limit: u32,
    },
}

impl Machine {
    /// Decides a new machine.
    ///
    /// # Errors
    /// If its memory or its devices do not fit.
    pub fn plan(
        memory: u64,
        topology: Topology,
        cpu: CpuModel,
        devices: &[(String, SlotKind)],
    ) -> Result<Machine, MachineError> {
        let map = AddressMap::new(memory, cpu.phys_bits())?;
        let ports = PortMap {
            serial: 0x3F8,
            acpi_reset: 0x600,
            acpi_reset_value: 1,
            acpi_sleep_control: 0x601,
            acpi_sleep_status: 0x602,
        };
        let irqs = IrqMap {
            serial: 4,
            ged: 5,
            virtio_first: 6,
            virtio_last: 23,
        };
        let limit = irqs.virtio_last - irqs.virtio_first + 1;
        let slots = (0..)
            .zip(devices)
            .map(|(index, (id, kind))| {
                if index >= limit {
                    return Err(MachineError::NoSlot {
                        id: id.clone(),
                        limit,
                    });
                }
                let start = map.virtio_mmio.start + u64::from(index) * VIRTIO_MMIO_SIZE;
                Ok(Slot {
                    id: id.clone(),
                    kind: *kind,
                    registers: Region::new(start, VIRTIO_MMIO_SIZE),
                    gsi: irqs.virtio_first + index,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Machine {
            version: MACHINE_VERSION,
            map,
            ports,
            irqs,
            topology,
            cpu,
            slots,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn devices(count: usize) -> Vec<(String, SlotKind)> {
        (0..count)
            .map(|n| (format!("d{n}"), SlotKind::Block))
            .collect()
    }

    fn plan(count: usize) -> Result<Machine, MachineError> {
        let topology = Topology::one_socket(2, false);
        Machine::plan(128 << 20, topology, CpuModel::default(), &devices(count))
    }

    #[test]
    fn slots_have_registers_and_interrupts_of_their_own() {
        let machine = plan(18).unwrap();
        for pair in machine.slots.windows(2) {
            assert_eq!(pair[0].registers.end(), pair[1].registers.start);
            assert_eq!(pair[0].gsi + 1, pair[1].gsi);
        }
        assert!(
            machine
                .slots
                .iter()
                .all(|slot| slot.gsi != machine.irqs.serial)
        );
    }

    #[test]
    fn the_device_without_a_slot_is_named() {
        let error = plan(19).unwrap_err();
        assert!(
            error.to_string().starts_with("device d18 has no slot left"),
            "{error}"
        );
    }

    #[test]
    fn a_stored_machine_reads_back_as_it_was() {
        let machine = plan(3).unwrap();
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }
}
