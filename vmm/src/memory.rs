//! Guest memory: what backs it, chosen when the guest is made.
//!
//! Guarantees: memory is never touched before the guest or a loader touches it (no zeroing, no
//! reservation), and what the host cannot give is an error that names the size and the backing.
//!
//! Today's backings are anonymous: small pages, small pages with the advice to merge them, and
//! 2 MiB pages. Shared and file backings (vhost-user, clones, post-copy) get their place in
//! [`Backing`]; a conflict will be refused there.

#![expect(unsafe_code, reason = "mmap and madvise of guest memory")]

use berth_vmm_api::HugePages;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use crate::machine::Region;

/// The dirty bitmap of guest memory. The VMM's own writes need none until memory is migrated.
pub type DirtyBitmap = ();
/// Guest memory, as every part of the VMM and every device sees it.
pub type GuestMemory = GuestMemoryMmap<DirtyBitmap>;

/// What backs guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous pages of the host's base size.
    Anonymous,
    /// The same, advised to be merged into transparent huge pages.
    Transparent,
    /// Private anonymous pages of 2 MiB from the host's reserved pool.
    Hugetlb2M,
}

impl From<HugePages> for Backing {
    fn from(pages: HugePages) -> Backing {
        match pages {
            HugePages::None => Backing::Anonymous,
            HugePages::Transparent => Backing::Transparent,
            HugePages::Hugetlbfs2M => Backing::Hugetlb2M,
        }
    }
}

/// Memory that the host did not give.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The mapping failed.
    #[error(
        "Invalid Memory Configuration: Cannot create mmap region: {cause} ({mib} MiB of \
         {backing:?} memory); give the guest less, or the host more"
    )]
    Map {
        /// MiB of the region.
        mib: u64,
        /// What was to back it.
        backing: Backing,
        /// What the system said.
        cause: String,
    },
    /// The regions do not form a memory; a bug.
    #[error("guest memory regions do not fit together: {0}")]
    Layout(String),
}

/// Maps RAM at the given places.
///
/// # Errors
/// If the host has not enough address space or huge pages.
pub fn create(ram: &[Region], backing: Backing) -> Result<GuestMemory, MemoryError> {
    let flags = match backing {
        Backing::Anonymous | Backing::Transparent => libc::MAP_NORESERVE,
        // Reserved from the pool now, or refused: later, a page that is missing is a SIGBUS.
        Backing::Hugetlb2M => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
    };
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mut regions = Vec::with_capacity(ram.len());
    for ram in ram {
        let failed = |cause: String| MemoryError::Map {
            mib: ram.len >> 20,
            backing,
            cause,
        };
        let size = usize::try_from(ram.len).map_err(|error| failed(error.to_string()))?;
        let address = map_aligned(size, flags).map_err(|error| failed(error.to_string()))?;
        // SAFETY: `address` is the start of a fresh mapping of `size` bytes with this protection
        // and these flags, which nobody else has and nobody unmaps: see `map_aligned`.
        let builder = unsafe { MmapRegionBuilder::new(size).with_raw_mmap_pointer(address) };
        let mapping = builder
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(flags)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(ram.start))
            .ok_or_else(|| MemoryError::Layout(format!("{ram:x?} wraps around")))?;
        regions.push(region);
    }
    let memory = GuestMemory::from_regions(regions)
        .map_err(|error| MemoryError::Layout(error.to_string()))?;
    if backing == Backing::Transparent {
        advise_huge_pages(&memory);
    }
    Ok(memory)
}

/// Maps `size` bytes at a multiple of 2 MiB. KVM backs a guest's 2 MiB with one page of its page
/// tables only where guest and host addresses are congruent: without it, a boot takes an exit for
/// each 4 KiB that the guest touches first. The mapping lives as long as the process, as its guest
/// does.
fn map_aligned(size: usize, flags: libc::c_int) -> std::io::Result<*mut u8> {
    const ALIGNMENT: usize = 2 << 20;
    let room = size.saturating_add(ALIGNMENT);
    let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at a place of the kernel's choice touches no memory in use.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, reserve, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let aligned = start.map_addr(|address| address.next_multiple_of(ALIGNMENT));
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: `aligned..aligned + size` lies in the reservation just made, which nobody else knows.
    let mapped = unsafe { libc::mmap(aligned, size, access, flags | libc::MAP_FIXED, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(mapped.cast())
}

/// Asks for transparent huge pages. A host without them is no error: the guest is only slower.
fn advise_huge_pages(memory: &GuestMemory) {
    for region in memory.iter() {
        let Ok(start) = region.get_host_address(MemoryRegionAddress(0)) else {
            continue;
        };
        let len = usize::try_from(region.len()).unwrap_or(0);
        // SAFETY: the range is one live mapping of ours; the advice changes no content.
        let result = unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            tracing::warn!(%error, "the host gives no transparent huge pages");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use vm_memory::Bytes;

    use super::*;
    use crate::machine::address_map::ram;

    #[test]
    fn host_and_guest_addresses_are_congruent_for_huge_pages() {
        let memory = create(&ram(4 << 30), Backing::Anonymous).unwrap();
        for region in memory.iter() {
            let host = region.get_host_address(MemoryRegionAddress(0)).unwrap();
            let guest = usize::try_from(region.start_addr().0).unwrap();
            assert_eq!(host.addr() % (2 << 20), guest % (2 << 20));
        }
    }

    #[test]
    fn memory_around_the_hole_is_one_address_space_with_a_gap() {
        let memory = create(&ram(4 << 30), Backing::Transparent).unwrap();
        memory
            .write_obj(7_u32, GuestAddress(0x1_0000_0000))
            .unwrap();
        assert_eq!(
            memory.read_obj::<u32>(GuestAddress(0x1_0000_0000)).unwrap(),
            7
        );
        assert!(memory.write_obj(7_u32, GuestAddress(0xC000_0000)).is_err());
    }

    /// #6076 of Firecracker: MiB that overflow as bytes.
    #[test]
    fn memory_beyond_the_hosts_address_space_is_refused_with_its_size() {
        for bytes in [1 << 50, u64::MAX >> 20 << 20, u64::MAX] {
            let error = create(&ram(bytes), Backing::Anonymous)
                .unwrap_err()
                .to_string();
            assert!(error.contains("Cannot create mmap region"), "{error}");
            assert!(error.contains("MiB of Anonymous memory"), "{error}");
        }
    }
}
