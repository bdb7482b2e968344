//! What a kernel is told when it starts: Linux's zero page, or PVH's start info.
//!
//! Guarantees: both tell the same machine: memory map, command line, initrd, RSDP.
//!
//! Sources: Linux `Documentation/arch/x86/{boot,zero-page}.rst`, Xen `include/public/arch-x86/hvm/start_info.h`.

use linux_loader::loader::bootparam::{boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::{BootFiles, Initrd, layout};
use crate::machine::AddressMap;
use crate::memory::GuestMemory;

/// Writes the zero page.
///
/// # Errors
/// If guest memory does not reach so far.
pub fn write_zero_page(
    memory: &GuestMemory,
    map: &AddressMap,
    header: Option<setup_header>,
    initrd: Initrd,
    files: &BootFiles<'_>,
) -> Result<(), GuestMemoryError> {
    let page = zero_page(map, header, initrd, files);
    memory.write_obj(page, GuestAddress(layout::ZERO_PAGE))
}

fn zero_page(
    map: &AddressMap,
    header: Option<setup_header>,
    initrd: Initrd,
    files: &BootFiles<'_>,
) -> boot_params {
    const BOOT_FLAG: u16 = 0xAA55;
    const HDRS: u32 = 0x5372_6448;
    const LOADER_UNKNOWN: u8 = 0xFF;
    let mut page = boot_params {
        hdr: header.unwrap_or_default(),
        ..Default::default()
    };
    page.hdr.boot_flag = BOOT_FLAG;
    page.hdr.header = HDRS;
    page.hdr.type_of_loader = LOADER_UNKNOWN;
    if header.is_none() {
        page.hdr.kernel_alignment = 0x100_0000;
    }
    page.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    page.hdr.cmdline_size = files.cmdline.len() as u32;
    page.hdr.ramdisk_image = initrd.address as u32;
    page.hdr.ramdisk_size = initrd.size as u32;
    page.acpi_rsdp_addr = files.rsdp;
    for (slot, (address, size, kind)) in page.e820_table.iter_mut().zip(map.e820()) {
        slot.addr = address;
        slot.size = size;
        slot.r#type = kind;
        page.e820_entries += 1;
    }
    page
}

/// Writes the start info, the memory map and the module list.
///
/// # Errors
/// If guest memory does not reach so far.
pub fn write_start_info(
    memory: &GuestMemory,
    map: &AddressMap,
    initrd: Initrd,
    files: &BootFiles<'_>,
) -> Result<(), GuestMemoryError> {
    const MAGIC: u32 = 0x336E_C578;
    let mut entries = 0;
    for (address, size, kind) in map.e820() {
        let entry = hvm_memmap_table_entry {
            addr: address,
            size,
            type_: kind,
            reserved: 0,
        };
        let offset = u64::from(entries) * size_of::<hvm_memmap_table_entry>() as u64;
        memory.write_obj(entry, GuestAddress(layout::PVH_MEMORY_MAP + offset))?;
        entries += 1;
    }
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: files.rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: entries,
        ..Default::default()
    };
    if initrd.size > 0 {
        let module = hvm_modlist_entry {
            paddr: initrd.address,
            size: initrd.size,
            ..Default::default()
        };
        memory.write_obj(module, GuestAddress(layout::PVH_MODULES))?;
        info.nr_modules = 1;
        info.modlist_paddr = layout::PVH_MODULES;
    }
    memory.write_obj(info, GuestAddress(layout::PVH_START_INFO))
}
