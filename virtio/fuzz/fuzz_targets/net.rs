//! Any content of both queues of a network device, with a frame waiting on the wire.
#![no_main]

use berth_virtio::testkit::{BUFFERS, Driver, EVENT_IDX, STATUS, VERSION_1, sample_net};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (net, wire) = sample_net();
    let mergeable = 1 << 15;
    let mut driver = Driver::running(net, VERSION_1 | EVENT_IDX | mergeable, 16);
    let _ = wire.send(&[0; 1526]);
    for (queue, part) in input.chunks(640).take(2).enumerate() {
        let (table, rest) = part.split_at(part.len().min(256));
        let (avail, data) = rest.split_at(rest.len().min(64));
        driver.fill(driver.rings[queue].desc, table);
        driver.fill(driver.rings[queue].avail, avail);
        driver.fill(BUFFERS + 0x1000 * queue as u64, data);
        driver.kick(queue);
    }
    driver.write(STATUS, 0);
});
