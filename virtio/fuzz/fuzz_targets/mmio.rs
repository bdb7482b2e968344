//! Any sequence of register accesses to a disk: each 11 bytes are one (kind and width, offset,
//! value).
#![no_main]

use berth_virtio::testkit::{Driver, sample_disk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut driver = Driver::new(sample_disk());
    for access in input.chunks_exact(11) {
        let offset = u64::from(u16::from_le_bytes([access[1], access[2]]) & 0x1ff);
        let width = usize::from(access[0] & 0x0f).min(8);
        if access[0] & 0x80 == 0 {
            driver.mmio.read(offset, &mut vec![0; width]);
        } else {
            driver.mmio.write(offset, &access[3..3 + width]);
        }
    }
});
