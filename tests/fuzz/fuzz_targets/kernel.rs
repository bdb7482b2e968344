//! A kernel's file, ELF or bzImage: into guest memory, with an initrd and everything it is told.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use berth_virtio::testkit::unnamed_file;
use berth_vmm::boot::{self, BootFiles, NamedFile, unpack};
use berth_vmm::machine::AddressMap;
use berth_vmm::memory::{Backing, GuestMemory, create};
use libfuzzer_sys::fuzz_target;

struct Rig {
    memory: GuestMemory,
    map: AddressMap,
    kernel: NamedFile,
    initrd: NamedFile,
}

fn named(file: File) -> NamedFile {
    NamedFile {
        path: "fuzz".into(),
        file,
    }
}

static RIG: OnceLock<Rig> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    let rig = RIG.get_or_init(|| {
        let map = AddressMap::new(8 << 20, 40).expect("8 MiB are a machine");
        let initrd = unnamed_file();
        initrd.write_all_at(&[7; 5000], 0).expect("room for it");
        Rig {
            memory: create(&map.ram, Backing::Anonymous).expect("8 MiB"),
            map,
            kernel: named(unnamed_file()),
            initrd: named(initrd),
        }
    });
    let file = &rig.kernel.file;
    file.set_len(0)
        .and_then(|()| file.write_all_at(input, 0))
        .expect("room for it");
    let files = BootFiles {
        kernel: &rig.kernel,
        initrd: Some(&rig.initrd),
        cmdline: "console=ttyS0 root=/dev/vda",
        rsdp: 0xe_0000,
    };
    if let Err(error) = boot::load(&rig.memory, &rig.map, &files) {
        assert!(
            error.to_string().contains("fuzz"),
            "{error}: names the file"
        );
    }
    // Of the compressions, the one that this crate undoes itself.
    if let Ok(payload) = unpack::payload(input) {
        let _ = unpack::unlz4_legacy(payload.strip_prefix(unpack::LZ4_LEGACY).unwrap_or(payload));
    }
});
