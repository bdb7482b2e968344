//! Any content of a disk's rings, tables and request headers, before and after a reset.
#![no_main]

mod rings;

use std::fs::File;
use std::sync::OnceLock;

use berth_virtio::testkit::{
    BUFFERS, Driver, EVENT_IDX, NEEDS_RESET, STATUS, Still, VERSION_1, sample_disk, unnamed_file,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rings::{Ring, SIZE};

/// The beginning of a block request.
#[derive(Arbitrary, Debug)]
struct Header {
    kind: u8,
    sector: u64,
}

#[derive(Arbitrary, Debug)]
struct Case {
    event_idx: bool,
    indirect: bool,
    headers: Vec<Header>,
    rounds: Vec<Ring>,
}

static DISK: OnceLock<File> = OnceLock::new();

fuzz_target!(|case: Case| {
    let disk = DISK.get_or_init(unnamed_file);
    let device = Still::new(sample_disk(disk.try_clone().expect("a descriptor")));
    let mut features = VERSION_1;
    if case.event_idx {
        features |= EVENT_IDX;
    }
    if case.indirect {
        features |= 1 << 28;
    }
    let mut driver = Driver::running(device.clone(), features, SIZE);
    for (at, header) in (0..64).zip(&case.headers) {
        let address = BUFFERS + 16 * at;
        driver.store(address, u32::from(header.kind % 16));
        driver.store(address + 8, header.sector);
    }
    for round in case.rounds.iter().take(4) {
        round.write(&mut driver, 0);
        device.run(3);
        if driver.read(STATUS) & NEEDS_RESET != 0 {
            driver.write(STATUS, 0);
            assert_eq!(driver.read(STATUS), 0, "a reset mends a device");
            driver.start(features, SIZE);
        }
    }
    let length = disk.metadata().map(|metadata| metadata.len()).unwrap_or(0);
    assert_eq!(length, 16 * 512, "a guest never resizes its disk");
});
