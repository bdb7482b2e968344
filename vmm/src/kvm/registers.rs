//! The state in which the first processor enters a kernel.
//!
//! Guarantees: exactly what the two boot protocols ask for, and nothing that a kernel would have
//! to undo. Linux (`Documentation/arch/x86/boot.rst`, 64-bit boot protocol): long mode, identity
//! mapped, RSI at the zero page. PVH (Xen `docs/misc/pvh.pandoc`): 32-bit protected mode without
//! paging, EBX at the start info.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::vm::{KvmError, refused};
use crate::boot::layout;
use crate::memory::GuestMemory;

/// How the first processor enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Linux's 64-bit protocol, with the zero page at [`layout::ZERO_PAGE`].
    Linux64 {
        /// Where it starts.
        rip: u64,
    },
    /// PVH, with the start info at [`layout::PVH_START_INFO`].
    Pvh {
        /// Where it starts.
        eip: u64,
    },
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_MISC_ENABLE: u32 = 0x1A0;
const MSR_MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2FF;
const MSR_MTRR_DEF_TYPE_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Writes what the entry needs in guest memory: the GDT, and page tables for long mode.
///
/// # Errors
/// If guest memory does not reach so far, which its least size excludes.
pub fn write_tables(memory: &GuestMemory, entry: Entry) -> Result<(), vm_memory::GuestMemoryError> {
    let gdt: Vec<u8> = gdt(entry)
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    memory.write_slice(&gdt, GuestAddress(layout::GDT))?;
    if let Entry::Linux64 { .. } = entry {
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 1 << 7;
        memory.write_obj(layout::PDPT | PRESENT_WRITABLE, GuestAddress(layout::PML4))?;
        memory.write_obj(layout::PD | PRESENT_WRITABLE, GuestAddress(layout::PDPT))?;
        // 512 pages of 2 MiB: the first GiB, which holds kernel, zero page and command line.
        let directory: Vec<u8> = (0..512_u64)
            .flat_map(|page| (page << 21 | PRESENT_WRITABLE | LARGE).to_le_bytes())
            .collect();
        memory.write_slice(&directory, GuestAddress(layout::PD))?;
    }
    Ok(())
}

/// Null, (null), code, data: Linux wants `__BOOT_CS` 0x10 and `__BOOT_DS` 0x18; and a TSS.
fn gdt(entry: Entry) -> [u64; 5] {
    let (code, data) = flat_segments(entry);
    [
        0,
        0,
        descriptor(&code),
        descriptor(&data),
        descriptor(&task_segment()),
    ]
}

/// A segment as the GDT spells it.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    };
    let flags = u64::from(segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7)
        | u64::from(segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3) << 12;
    u64::from(limit & 0xFFFF)
        | (segment.base & 0xFF_FFFF) << 16
        | flags << 40
        | u64::from(limit >> 16 & 0xF) << 48
        | (segment.base >> 24 & 0xFF) << 56
}

fn flat_segments(entry: Entry) -> (kvm_segment, kvm_segment) {
    const CODE_READ_ACCESSED: u8 = 0xB;
    const DATA_WRITE_ACCESSED: u8 = 0x3;
    let long = u8::from(matches!(entry, Entry::Linux64 { .. }));
    let flat = kvm_segment {
        limit: 0xFFFF_FFFF,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment {
        selector: 0x10,
        type_: CODE_READ_ACCESSED,
        l: long,
        db: 1 - long,
        ..flat
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: DATA_WRITE_ACCESSED,
        db: 1,
        ..flat
    };
    (code, data)
}

fn task_segment() -> kvm_segment {
    const TSS_BUSY: u8 = 0xB;
    kvm_segment {
        selector: 0x20,
        limit: 0x67,
        type_: TSS_BUSY,
        present: 1,
        ..Default::default()
    }
}

/// Sets the first processor's registers.
///
/// # Errors
/// If KVM refuses.
pub fn set_boot_state(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    apply(&mut sregs, entry);
    vcpu.set_sregs(&sregs).map_err(refused("KVM_SET_SREGS"))?;
    let regs = match entry {
        Entry::Linux64 { rip } => kvm_regs {
            rip,
            rsi: layout::ZERO_PAGE,
            rsp: layout::STACK,
            rbp: layout::STACK,
            rflags: 2,
            ..Default::default()
        },
        Entry::Pvh { eip } => kvm_regs {
            rip: eip,
            rbx: layout::PVH_START_INFO,
            rflags: 2,
            ..Default::default()
        },
    };
    vcpu.set_regs(&regs).map_err(refused("KVM_SET_REGS"))
}

fn apply(sregs: &mut kvm_sregs, entry: Entry) {
    let (code, data) = flat_segments(entry);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task_segment();
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    if let Entry::Linux64 { .. } = entry {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = layout::PML4;
        sregs.cr4 = CR4_PAE;
        sregs.efer |= EFER_LME | EFER_LMA;
    }
}

/// Sets the MSRs that firmware would: memory is write-back by default, string operations are fast.
/// KVM's reset values serve for the others.
///
/// # Errors
/// If KVM refuses.
pub fn set_boot_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE_ENABLED_WRITE_BACK),
        entry(MSR_MISC_ENABLE, MSR_MISC_ENABLE_FAST_STRING),
    ];
    let msrs = Msrs::from_entries(&entries)
        .map_err(|_| refused("KVM_SET_MSRS")(kvm_ioctls::Error::new(libc::ENOMEM)))?;
    let written = vcpu.set_msrs(&msrs).map_err(refused("KVM_SET_MSRS"))?;
    if written < entries.len() {
        // The guest's own write would be refused alike; it boots without.
        tracing::debug!(msr = entries[written].index, "KVM does not take an MSR");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::address_map::ram;
    use crate::memory::{Backing, create};

    #[test]
    fn descriptors_are_those_of_the_kernels_own_boot_gdt() {
        // arch/x86/boot/compressed/head_64.S: 0x00af9a00..., here with the accessed bit.
        let linux = gdt(Entry::Linux64 { rip: 0 });
        assert_eq!(linux[2], 0x00AF_9B00_0000_FFFF);
        assert_eq!(linux[3], 0x00CF_9300_0000_FFFF);
        assert_eq!(gdt(Entry::Pvh { eip: 0 })[2], 0x00CF_9B00_0000_FFFF);
    }

    #[test]
    fn the_first_gib_is_identity_mapped() {
        let memory = create(&ram(4 << 20), Backing::Anonymous).unwrap();
        write_tables(&memory, Entry::Linux64 { rip: 0x100_0000 }).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(read(layout::PML4) & !0xFFF, layout::PDPT);
        assert_eq!(read(layout::PDPT) & !0xFFF, layout::PD);
        assert_eq!(read(layout::PD + 8 * 511), 511 << 21 | 0x83);
    }
}
