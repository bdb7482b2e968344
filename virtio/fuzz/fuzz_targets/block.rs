//! Any content of a disk's descriptor table, available ring and first request.
#![no_main]

use berth_virtio::testkit::{BUFFERS, Driver, EVENT_IDX, STATUS, VERSION_1, sample_disk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut driver = Driver::running(sample_disk(), VERSION_1 | EVENT_IDX, 16);
    let (rings, rest) = input.split_at(input.len().min(512));
    let (table, avail) = rings.split_at(rings.len().min(256));
    driver.fill(driver.rings[0].desc, table);
    driver.fill(driver.rings[0].avail, &avail[..avail.len().min(64)]);
    driver.fill(BUFFERS, &rest[..rest.len().min(0x10000)]);
    driver.kick(0);
    // A reset joins the device's thread: whatever it did is over when this returns.
    driver.write(STATUS, 0);
});
