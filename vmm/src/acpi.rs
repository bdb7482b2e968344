//! ACPI: the tables by which a stock kernel finds its machine.
//!
//! Guarantees: everything that a table tells comes from the [`Machine`]; all tables lie in
//! [`address_map::ACPI`](crate::machine::address_map::ACPI), the RSDP first; every checksum is
//! right. The platform is hardware-reduced (ACPI 6.5, 4.1): no PM timer, no fixed events; sleep
//! and reset are registers in the FADT, the power button is a device that the generic event
//! device notifies.
//!
//! virtio-mmio devices are `LNRO0005`, with their registers and interrupt. Without PCI there is
//! no host bridge and no MCFG; both have their place in the address map.

use acpi_tables::aml::{self, Path};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::machine::address_map::ACPI;
use crate::machine::{Machine, Slot};
use crate::memory::GuestMemory;

const OEM_ID: [u8; 6] = *b"BERTH ";
const OEM_TABLE_ID: [u8; 8] = *b"BERTHVMM";
const OEM_REVISION: u32 = 1;

/// The value of SLP_TYPx that means S5, in `_S5_` and in the sleep control register.
pub const SLEEP_TYPE_S5: u8 = 5;
/// What the guest's generic event device reads when the power button was pressed.
pub const GED_POWER_BUTTON: u8 = 1;

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// They need more room than they have.
    #[error("the ACPI tables need {0} bytes, and there is room for {max}", max = ACPI.len)]
    TooLarge(u64),
    /// Guest memory does not reach so far; its least size excludes it.
    #[error("cannot write the ACPI tables: {0}")]
    Write(#[from] GuestMemoryError),
}

/// Writes the tables into guest memory.
///
/// # Errors
/// If they do not fit.
pub fn write(memory: &GuestMemory, machine: &Machine) -> Result<(), AcpiError> {
    let image = image(machine);
    if image.len() as u64 > ACPI.len {
        return Err(AcpiError::TooLarge(image.len() as u64));
    }
    memory.write_slice(&image, GuestAddress(ACPI.start))?;
    Ok(())
}

/// All tables, as they lie from [`ACPI`]`.start` on.
fn image(machine: &Machine) -> Vec<u8> {
    const ALIGN: usize = 16;
    let mut image = vec![0; Rsdp::len().next_multiple_of(ALIGN)];
    let mut place = |table: &dyn Aml| {
        let address = ACPI.start + image.len() as u64;
        table.to_aml_bytes(&mut image);
        image.resize(image.len().next_multiple_of(ALIGN), 0);
        address
    };
    let dsdt = place(&Bytes8(dsdt(machine).as_slice().to_vec()));
    let fadt = place(&fadt(machine, dsdt));
    let madt = place(&madt(machine));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    image[..rsdp.len()].copy_from_slice(&rsdp);
    image
}

/// Bytes that are a table already.
struct Bytes8(Vec<u8>);

impl Aml for Bytes8 {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn fadt(machine: &Machine, dsdt: u64) -> impl Aml {
    // IAPC_BOOT_ARCH: no VGA, no CMOS clock; no 8042 is said by its flag's absence.
    const VGA_NOT_PRESENT: u16 = 1 << 2;
    const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
    let port = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(port),
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // The power button is a control method device, and there is no sleep button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = port(machine.ports.acpi_reset);
    fadt.reset_value = machine.ports.acpi_reset_value;
    fadt.sleep_control_reg = port(machine.ports.acpi_sleep_control);
    fadt.sleep_status_reg = port(machine.ports.acpi_sleep_status);
    fadt.finalize()
}

fn madt(machine: &Machine) -> MADT {
    let lapic = LocalInterruptController::Address(machine.map.lapic.start as u32);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapic);
    for vcpu in 0..machine.topology.vcpus() {
        // At most 255 vCPUs of one socket, or their ids would not fit into this structure.
        let apic_id = machine.topology.apic_id(vcpu) as u8;
        madt.add_structure(ProcessorLocalApic::new(
            vcpu as u8,
            apic_id,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, machine.map.ioapic.start as u32, 0));
    madt
}

fn dsdt(machine: &Machine) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut code = Vec::new();
    serial(machine).to_aml(&mut code);
    power_button(&mut code);
    generic_event_device(machine, &mut code);
    for (index, slot) in machine.slots.iter().enumerate() {
        virtio_mmio(index, slot, &mut code);
    }
    // \_S5_: what to write to the sleep control register for soft-off.
    let s5 = aml::Package::new(vec![&SLEEP_TYPE_S5]);
    aml::Name::new("_S5_".into(), &s5).to_aml_bytes(&mut code);
    dsdt.append_slice(&code);
    dsdt
}

/// A serial port's ports and interrupt, which its device borrows.
struct SerialPort {
    port: u16,
    gsi: u32,
}

fn serial(machine: &Machine) -> SerialPort {
    SerialPort {
        port: machine.ports.serial,
        gsi: machine.irqs.serial,
    }
}

impl SerialPort {
    fn to_aml(&self, code: &mut Vec<u8>) {
        aml::Device::new(
            "_SB_.COM1".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_DDN".into(), &"COM1"),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![
                        &aml::Interrupt::new(true, true, false, false, self.gsi),
                        &aml::IO::new(self.port, self.port, 0, 8),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(code);
    }
}

fn power_button(code: &mut Vec<u8>) {
    aml::Device::new(
        "_SB_.PWRB".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C0C")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
        ],
    )
    .to_aml_bytes(code);
}

/// The generic event device (ACPI 6.5, 5.6.9): on its interrupt it reads, and so clears, the byte
/// that says what happened, and notifies whom it concerns.
fn generic_event_device(machine: &Machine, code: &mut Vec<u8>) {
    const NOTIFY_BUTTON_PRESSED: u8 = 0x80;
    let base = machine.map.ged.start as u32;
    let pressed = aml::And::new(&aml::ZERO, &aml::Local(0), &GED_POWER_BUTTON);
    let notify = aml::Notify::new(&NAME_PWRB, &NOTIFY_BUTTON_PRESSED);
    aml::Device::new(
        "_SB_.GED_".into(),
        vec![
            &aml::Name::new("_HID".into(), &"ACPI0013"),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&aml::Interrupt::new(
                    true,
                    true,
                    false,
                    false,
                    machine.irqs.ged,
                )]),
            ),
            &aml::OpRegion::new(
                "GREG".into(),
                aml::OpRegionSpace::SystemMemory,
                &(base as usize),
                &1_usize,
            ),
            &aml::Field::new(
                "GREG".into(),
                aml::FieldAccessType::Byte,
                aml::FieldLockRule::NoLock,
                aml::FieldUpdateRule::WriteAsZeroes,
                vec![aml::FieldEntry::Named(*b"GEVT", 8)],
            ),
            &aml::Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &aml::Store::new(&aml::Local(0), &Path::new("GEVT")),
                    &aml::If::new(&pressed, vec![&notify]),
                ],
            ),
        ],
    )
    .to_aml_bytes(code);
}

/// `\_SB_.PWRB`, named from inside a method.
struct PowerButtonPath;
const NAME_PWRB: PowerButtonPath = PowerButtonPath;

impl Aml for PowerButtonPath {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Path::new("\\_SB_.PWRB").to_aml_bytes(sink);
    }
}

fn virtio_mmio(index: usize, slot: &Slot, code: &mut Vec<u8>) {
    aml::Device::new(
        Path::new(&format!("_SB_.VR{index:02X}")),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &(index as u32)),
            // Coherent with the processors' caches: DMA needs no care.
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::Memory32Fixed::new(
                        true,
                        slot.registers.start as u32,
                        slot.registers.len as u32,
                    ),
                    &aml::Interrupt::new(true, true, false, false, slot.gsi),
                ]),
            ),
        ],
    )
    .to_aml_bytes(code);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::{CpuModel, SlotKind, Topology};

    fn machine(devices: usize) -> Machine {
        let devices: Vec<_> = (0..devices)
            .map(|n| (format!("d{n}"), SlotKind::Block))
            .collect();
        Machine::plan(
            64 << 20,
            Topology::one_socket(4, false),
            CpuModel::default(),
            &devices,
        )
        .unwrap()
    }

    fn u64_at(image: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(image[offset..offset + 8].try_into().unwrap())
    }

    /// The table at a guest-physical address, checked.
    fn table(image: &[u8], address: u64) -> Vec<u8> {
        let start = (address - ACPI.start) as usize;
        let length = u32::from_le_bytes(image[start + 4..start + 8].try_into().unwrap());
        let table = image[start..start + length as usize].to_vec();
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(
            sum,
            0,
            "checksum of {:?}",
            String::from_utf8_lossy(&table[..4])
        );
        table
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_with_a_right_checksum() {
        let image = image(&machine(3));
        assert_eq!(&image[..8], b"RSD PTR ");
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        let xsdt = table(&image, u64_at(&image, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        let fadt = table(&image, u64_at(&xsdt, 36));
        let madt = table(&image, u64_at(&xsdt, 44));
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        let dsdt = table(&image, u64_at(&fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
    }

    #[test]
    fn each_processor_and_the_io_apic_are_in_the_madt() {
        let image = image(&machine(0));
        let xsdt = table(&image, u64_at(&image, 24));
        let madt = table(&image, u64_at(&xsdt, 44));
        let mut kinds = Vec::new();
        let mut rest = &madt[44..];
        while let [kind, length, ..] = rest {
            kinds.push(*kind);
            rest = &rest[usize::from(*length)..];
        }
        assert_eq!(kinds, [0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_full_machine_fits_into_its_place() {
        assert!((image(&machine(18)).len() as u64) < ACPI.len);
    }

    #[test]
    fn each_slot_is_a_virtio_mmio_device_of_its_own() {
        let code = dsdt(&machine(5)).as_slice().to_vec();
        let count = |name: &[u8]| {
            code.windows(name.len())
                .filter(|window| *window == name)
                .count()
        };
        assert_eq!(count(b"LNRO0005"), 5);
        assert_eq!(count(b"VR04"), 1);
    }
}
