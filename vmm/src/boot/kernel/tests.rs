//! Kernels as files: good, damaged, and for other machines.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use vm_memory::Bytes;

use super::*;
use crate::memory::{Backing, create};

/// An ELF with one segment of `code` at 1 MiB and, if asked for, a PVH note.
fn elf(code: &[u8], pvh: Option<u32>) -> Vec<u8> {
    let phnum = if pvh.is_some() { 2_u16 } else { 1 };
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend_from_slice(&2_u16.to_le_bytes());
    out.extend_from_slice(&62_u16.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    for field in [0x10_0000_u64, 64, 0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    for field in [64_u16, 56, phnum, 0, 0, 0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    let header = |kind: u32, offset: u64, address: u64, size: u64| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend_from_slice(&7_u32.to_le_bytes());
        for field in [offset, address, address, size, size, 4096] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes
    };
    out.extend(header(1, 0x1000, 0x10_0000, code.len() as u64));
    if pvh.is_some() {
        out.extend(header(4, 0x800, 0, 24));
    }
    out.resize(0x800, 0);
    if let Some(entry) = pvh {
        for field in [4_u32, 8, 18] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(b"Xen\0");
        out.extend_from_slice(&u64::from(entry).to_le_bytes());
    }
    out.resize(0x1000, 0);
    out.extend_from_slice(code);
    out
}

fn load_bytes(bytes: &[u8], mib: u64) -> (Result<Kernel, KernelError>, GuestMemory) {
    let map = AddressMap::new(mib << 20, 40).unwrap();
    let memory = create(&map.ram, Backing::Anonymous).unwrap();
    let path = std::env::temp_dir().join(format!(
        "berth-kernel-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    File::create(&path).unwrap().write_all(bytes).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    (load(&memory, &map, &file), memory)
}

#[test]
fn an_elf_without_a_note_enters_by_linux_64_bit_protocol() {
    let (kernel, memory) = load_bytes(&elf(b"\xf4code", None), 4);
    assert_eq!(kernel.unwrap().entry, Entry::Linux64 { rip: 0x10_0000 });
    let byte: u8 = memory.read_obj(GuestAddress(0x10_0000)).unwrap();
    assert_eq!(byte, 0xF4);
}

#[test]
fn a_pvh_note_is_preferred() {
    let (kernel, _) = load_bytes(&elf(b"\xf4", Some(0x10_0040)), 4);
    assert_eq!(kernel.unwrap().entry, Entry::Pvh { eip: 0x10_0040 });
}

#[test]
fn a_truncated_elf_is_corrupt_at_every_length() {
    let whole = elf(&[0x90; 512], Some(0x10_0000));
    for length in (64..whole.len()).step_by(61) {
        let (kernel, _) = load_bytes(&whole[..length], 4);
        assert!(
            matches!(kernel, Err(KernelError::Corrupt(_))),
            "{length} bytes: {kernel:?}"
        );
    }
}

#[test]
fn no_flipped_byte_of_the_headers_panics() {
    let whole = elf(&[0x90; 16], Some(0x10_0000));
    for index in (0..192).chain(0x800..0x818) {
        for value in [0, 0x7F, 0x80, 0xFF] {
            let mut damaged = whole.clone();
            damaged[index] = value;
            let _ = load_bytes(&damaged, 4).0;
        }
    }
}

#[test]
fn what_is_no_kernel_is_told_by_its_first_bytes() {
    for bytes in [&b""[..], b"\x7fEL", b"#!/bin/sh\n"] {
        let (kernel, _) = load_bytes(bytes, 4);
        assert!(
            matches!(kernel, Err(KernelError::UnknownFormat(_))),
            "{kernel:?}"
        );
    }
}

#[test]
fn an_elf_for_another_processor_is_refused() {
    let mut arm = elf(b"\xf4", None);
    arm[18] = 183;
    let (kernel, _) = load_bytes(&arm, 4);
    assert!(kernel.unwrap_err().to_string().contains("machine 183"));
}

#[test]
fn a_kernel_larger_than_memory_is_refused() {
    let (kernel, _) = load_bytes(&elf(&vec![0; 3 << 20], None), 2);
    assert!(
        matches!(kernel, Err(KernelError::TooLarge(_))),
        "{kernel:?}"
    );
}

#[test]
fn a_bzimage_that_promises_more_than_it_has_is_corrupt() {
    let mut image = vec![0_u8; 0x800];
    image[0x1F1] = 1;
    image[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20F_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    image[0x236] = 1;
    image[0x24C..0x250].copy_from_slice(&0x1_0000_u32.to_le_bytes());
    let (kernel, _) = load_bytes(&image, 4);
    let error = kernel.unwrap_err().to_string();
    assert!(error.contains("promises 66560"), "{error}");
    image[0x236] = 0;
    let (kernel, _) = load_bytes(&image, 4);
    assert!(matches!(kernel, Err(KernelError::No64BitEntry(0))));
}

/// CVE-2022-23523 of linux-loader: headers that make a loader read for ever.
#[test]
fn headers_that_would_make_the_loader_read_for_ever_are_corrupt() {
    const PROGRAM_HEADERS: usize = 64;
    const SIZE_IN_FILE: usize = 32;
    let mut notes = elf(b"\xf4", Some(0x10_0040));
    let at = PROGRAM_HEADERS + 56 + SIZE_IN_FILE;
    notes[at..at + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let error = load_bytes(&notes, 4).0.unwrap_err().to_string();
    assert!(error.contains("notes"), "{error}");

    // Many segments, all of them of the whole file.
    let code = [0xf4; 8192];
    let mut many = elf(&code, Some(0x10_0040));
    let first = many[PROGRAM_HEADERS..PROGRAM_HEADERS + 56].to_vec();
    let count = 30_u16;
    for n in 0..usize::from(count) {
        let at = PROGRAM_HEADERS + 56 * n;
        many[at..at + 56].copy_from_slice(&first);
    }
    many[56..58].copy_from_slice(&count.to_le_bytes());
    let error = load_bytes(&many, 4).0.unwrap_err().to_string();
    assert!(error.contains("overlap"), "{error}");
}
