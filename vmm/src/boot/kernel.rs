//! Kernels: ELF (PVH note or Linux 64-bit entry) and bzImage (64-bit entry), told apart by their
//! first bytes.
//!
//! Guarantees: a kernel lies wholly in RAM above 1 MiB and below the hole, or is refused. The
//! PVH entry is preferred where an ELF has the note; a bzImage must have the 64-bit entry, which
//! every x86-64 Linux since 3.8 has.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress, ReadVolatile};

use super::{Entry, layout};
use crate::machine::AddressMap;
use crate::machine::address_map::HIGH_MEMORY_START;
use crate::memory::GuestMemory;

/// What is wrong with a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The first bytes are of no format that boots.
    #[error(
        "is neither an ELF nor a bzImage (it starts with {0:02x?}); a compressed vmlinux must be \
         unpacked first"
    )]
    UnknownFormat([u8; 4]),
    /// The format is known, the contents do not hold together.
    #[error("is corrupt or truncated: {0}")]
    Corrupt(String),
    /// It is a kernel for another processor.
    #[error("is not for x86-64 ({0})")]
    WrongMachine(String),
    /// A bzImage without the 64-bit entry.
    #[error("has no 64-bit entry (xloadflags {0:#x})")]
    No64BitEntry(u16),
    /// It does not fit into the guest.
    #[error("does not fit into guest memory: {0}; give the guest more memory")]
    TooLarge(String),
    /// The command line is longer than this kernel reads.
    #[error("reads a command line of at most {limit} bytes, and this one has {len}")]
    CmdlineTooLong {
        /// Bytes of the command line.
        len: usize,
        /// Bytes that the kernel takes.
        limit: usize,
    },
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// How it is entered.
    pub entry: Entry,
    /// The first byte behind it, and behind what it needs before it knows its memory.
    pub end: u64,
    /// A bzImage's header, which goes back to it in the zero page.
    pub setup_header: Option<setup_header>,
}

impl Kernel {
    /// Room for the command line and its final zero.
    pub fn cmdline_limit(&self) -> usize {
        let own = self
            .setup_header
            .map(|header| header.cmdline_size as usize + 1);
        own.filter(|limit| *limit > 1)
            .unwrap_or(layout::CMDLINE_MAX)
            .min(layout::CMDLINE_MAX)
    }

    /// The first address that an initrd may not use.
    pub fn initrd_limit(&self) -> u64 {
        let own = self
            .setup_header
            .map(|header| u64::from(header.initrd_addr_max) + 1);
        own.filter(|limit| *limit > 1).unwrap_or(u64::MAX)
    }
}

/// The most bytes of notes (`PT_NOTE`) that are searched for the PVH entry; Linux has a few hundred.
const MAX_NOTES: u64 = 64 << 10;

/// Where a bzImage has its setup header.
const HEADER_START: usize = 0x1F1;

/// Loads a kernel into guest memory.
///
/// # Errors
/// If it is no kernel for this machine, damaged, or too large.
pub fn load(memory: &GuestMemory, map: &AddressMap, file: &File) -> Result<Kernel, KernelError> {
    // As far as a bzImage's setup header reaches.
    let mut head = [0; HEADER_START + size_of::<setup_header>()];
    let got = read_head(file, &mut head)?;
    let kernel = if got >= 64 && head.starts_with(b"\x7fELF") {
        load_elf(memory, map, &head, file)?
    } else if got == head.len() && head[0x202..0x206] == *b"HdrS" {
        load_bzimage(memory, &head, &mut Source(file))?
    } else {
        return Err(KernelError::UnknownFormat([
            head[0], head[1], head[2], head[3],
        ]));
    };
    if kernel.end > map.low_ram_end() {
        return Err(KernelError::TooLarge(format!(
            "it needs memory up to {} MiB, and there are {} MiB",
            kernel.end.div_ceil(1 << 20),
            map.low_ram_end() >> 20
        )));
    }
    Ok(kernel)
}

fn read_head(file: &File, head: &mut [u8]) -> Result<usize, KernelError> {
    let mut got = 0;
    while got < head.len() {
        match file.read_at(&mut head[got..], got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

fn load_elf(
    memory: &GuestMemory,
    map: &AddressMap,
    head: &[u8],
    file: &File,
) -> Result<Kernel, KernelError> {
    const ELFCLASS64: u8 = 2;
    const EM_X86_64: u16 = 62;
    let machine = u16::from_le_bytes([head[18], head[19]]);
    if head[4] != ELFCLASS64 || machine != EM_X86_64 {
        return Err(KernelError::WrongMachine(format!(
            "ELF class {}, machine {machine}",
            head[4]
        )));
    }
    check_segments(map, head, file)?;
    let highmem = Some(GuestAddress(HIGH_MEMORY_START));
    let loaded = Elf::load(memory, None, &mut Source(file), highmem).map_err(explain)?;
    if loaded.kernel_end == 0 {
        return Err(KernelError::Corrupt("it has no segment to load".to_owned()));
    }
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => Entry::Pvh { eip: address.0 },
        _ => Entry::Linux64 {
            rip: loaded.kernel_load.0,
        },
    };
    Ok(Kernel {
        entry,
        end: page_up(loaded.kernel_end),
        setup_header: None,
    })
}

/// Checks that each segment of an ELF is in the file and fits into RAM, so that whoever gave a
/// truncated file or too little memory is told which of the two it was; and that loading takes no
/// longer than reading the file once, whatever its headers say (CVE-2022-23523 of linux-loader).
fn check_segments(map: &AddressMap, head: &[u8], file: &File) -> Result<(), KernelError> {
    const SEGMENT: usize = 56;
    const PT_LOAD: u64 = 1;
    const PT_NOTE: u64 = 4;
    let corrupt = |why: String| Err(KernelError::Corrupt(why));
    let table_start = field(head, 32, 8);
    let (size, count) = (field(head, 54, 2) as usize, field(head, 56, 2) as usize);
    if size != SEGMENT {
        return corrupt(format!("its program headers have {size} bytes each"));
    }
    let length = file.metadata()?.len();
    let mut table = vec![0; count * SEGMENT];
    if file.read_exact_at(&mut table, table_start).is_err() {
        return corrupt(format!("its program headers are not in its {length} bytes"));
    }
    let mut loaded = 0_u64;
    for segment in table.chunks_exact(SEGMENT) {
        let (offset, address) = (field(segment, 8, 8), field(segment, 24, 8));
        let (in_file, in_memory) = (field(segment, 32, 8), field(segment, 40, 8));
        if field(segment, 0, 4) == PT_NOTE && in_file > MAX_NOTES {
            return corrupt(format!(
                "its notes have {in_file} bytes; no kernel has more than {MAX_NOTES}"
            ));
        }
        if field(segment, 0, 4) != PT_LOAD || in_file == 0 {
            continue;
        }
        if offset.checked_add(in_file).is_none_or(|end| end > length) {
            return corrupt(format!(
                "the file has {length} bytes, and a segment of {in_file} bytes begins at {offset}"
            ));
        }
        loaded = loaded.saturating_add(in_file);
        if loaded > length {
            return corrupt("its segments overlap in the file".to_owned());
        }
        if address < HIGH_MEMORY_START {
            return corrupt(format!(
                "a segment is to be loaded at {address:#x}, below 1 MiB"
            ));
        }
        let end = address.checked_add(in_memory.max(in_file));
        if end.is_none_or(|end| end > map.low_ram_end()) {
            return Err(KernelError::TooLarge(format!(
                "a segment of {} KiB is to be loaded at {} KiB, and there are {} KiB",
                in_memory.max(in_file) >> 10,
                address >> 10,
                map.low_ram_end() >> 10
            )));
        }
    }
    Ok(())
}

/// A little-endian field of `size` bytes, which the caller knows to be there.
fn field(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes
        .iter()
        .skip(offset)
        .take(size)
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn load_bzimage(
    memory: &GuestMemory,
    head: &[u8],
    source: &mut Source<'_>,
) -> Result<Kernel, KernelError> {
    const XLF_KERNEL_64: u16 = 1;
    const ENTRY_64: u64 = 0x200;
    let header = setup_header::from_slice(&head[HEADER_START..])
        .copied()
        .ok_or_else(|| KernelError::Corrupt("its setup header cannot be read".to_owned()))?;
    let xloadflags = header.xloadflags;
    if xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::No64BitEntry(xloadflags));
    }
    // Documentation/arch/x86/boot.rst: 0 means 4, as in the oldest kernels.
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    let payload_end = u64::from(header.payload_offset) + u64::from(header.payload_length);
    let length = source.0.metadata()?.len();
    if length < setup + payload_end {
        return Err(KernelError::Corrupt(format!(
            "the file has {length} bytes, and its header promises {}",
            setup + payload_end
        )));
    }
    let highmem = Some(GuestAddress(HIGH_MEMORY_START));
    let loaded = BzImage::load(memory, None, source, highmem).map_err(explain)?;
    // Where it unpacks itself, it must find memory too: from its preferred address on.
    let (preferred, init_size) = (header.pref_address, u64::from(header.init_size));
    let end = loaded.kernel_end.max(preferred.saturating_add(init_size));
    Ok(Kernel {
        entry: Entry::Linux64 {
            rip: loaded.kernel_load.0 + ENTRY_64,
        },
        end: page_up(end),
        setup_header: loaded.setup_header,
    })
}

fn explain(error: linux_loader::loader::Error) -> KernelError {
    KernelError::Corrupt(error.to_string())
}

fn page_up(address: u64) -> u64 {
    address.saturating_add(0xFFF) & !0xFFF
}

/// A file as linux-loader wants it. Its offset is the loader's own: what a file descriptor that
/// somebody shares with us points to does not matter, since every load seeks first.
struct Source<'a>(&'a File);

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for Source<'_> {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(position)
    }
}

impl ReadVolatile for Source<'_> {
    fn read_volatile<B: vm_memory::bitmap::BitmapSlice>(
        &mut self,
        buffer: &mut vm_memory::VolatileSlice<'_, B>,
    ) -> Result<usize, vm_memory::VolatileMemoryError> {
        self.0.read_volatile(buffer)
    }
}

#[cfg(test)]
mod tests;
