//! Where the boot structures lie below 1 MiB. Only until the kernel has read them: all of it is
//! RAM to the guest, but for the ACPI tables (`machine::address_map::ACPI`).

/// The global descriptor table.
pub const GDT: u64 = 0x500;
/// PVH's start info, its module list behind it.
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH's module list.
pub const PVH_MODULES: u64 = 0x6040;
/// PVH's memory map.
pub const PVH_MEMORY_MAP: u64 = 0x6080;
/// Linux's zero page (`struct boot_params`).
pub const ZERO_PAGE: u64 = 0x7000;
/// The first stack.
pub const STACK: u64 = 0x8FF0;
/// Page tables of the 64-bit entry.
pub const PML4: u64 = 0x9000;
/// See [`PML4`].
pub const PDPT: u64 = 0xA000;
/// See [`PML4`].
pub const PD: u64 = 0xB000;
/// The command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line and its final zero, in bytes: Linux's `COMMAND_LINE_SIZE` on x86.
pub const CMDLINE_MAX: usize = 2048;
