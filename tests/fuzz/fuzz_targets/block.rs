//! Any content of a disk's rings, tables and request headers, before and after a reset.
#![no_main]

mod rings;

use std::fs::File;
use std::sync::OnceLock;

use berth_virtio::testkit::{
    BUFFERS, Driver, EVENT_IDX, NEEDS_RESET, STATUS, Still, VERSION_1, readable, sample_disk,
    unnamed_file, writable,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rings::{Ring, SIZE};

/// The beginning of a block request.
#[derive(Arbitrary, Debug)]
struct Header {
    kind: u8,
    sector: Sector,
}

#[derive(Arbitrary, Debug)]
enum Sector {
    /// On the disk, mostly.
    Near(u8),
    Any(u64),
}

/// A request as a driver that keeps the rules lays it out, but for its header's content.
#[derive(Arbitrary, Debug)]
struct Request {
    header: u8,
    /// Sectors of each part of its data.
    data: Vec<u8>,
    to_disk: bool,
}

impl Request {
    fn submit(&self, driver: &mut Driver) {
        let header = BUFFERS + 16 * u64::from(self.header % 8);
        let mut chain = vec![readable(header, 16)];
        for (number, sectors) in (1..=8).zip(&self.data) {
            let (at, len) = (BUFFERS + 0x4000 * number, u32::from(sectors % 20) * 512);
            chain.push(match self.to_disk {
                true => readable(at, len),
                false => writable(at, len),
            });
        }
        chain.push(writable(BUFFERS + 0x1000, 1));
        driver.submit(0, &chain);
    }
}

/// Rings of any content, or requests over it.
#[derive(Arbitrary, Debug)]
struct Round {
    ring: Option<Ring>,
    requests: Vec<Request>,
}

#[derive(Arbitrary, Debug)]
struct Case {
    event_idx: bool,
    indirect: bool,
    headers: Vec<Header>,
    rounds: Vec<Round>,
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
        let sector = match header.sector {
            Sector::Near(sector) => u64::from(sector % 20),
            Sector::Any(sector) => sector,
        };
        driver.store(address + 8, sector);
    }
    for round in case.rounds.iter().take(4) {
        if let Some(ring) = &round.ring {
            ring.write(&mut driver, 0);
        }
        for request in round.requests.iter().take(4) {
            request.submit(&mut driver);
        }
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
