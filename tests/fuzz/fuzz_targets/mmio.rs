//! Any sequence of register accesses, pauses and restores, to a device that runs its real threads.
#![no_main]

use berth_virtio::testkit::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, Driver, FEATURES_OK, NEEDS_RESET, STATUS, sample_net,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// The registers that do anything (virtio 1.2, 4.2.2), and the configuration space.
const REGISTERS: [u64; 26] = [
    0x00, 0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90,
    0x94, 0xa0, 0xa4, 0xb0, 0xfc, 0x100, 0x104, 0x108, 0x10b, 0x110,
];

#[derive(Arbitrary, Debug)]
enum Offset {
    Register(u8),
    Any(u16),
}

impl Offset {
    fn value(&self) -> u64 {
        match self {
            Self::Register(index) => REGISTERS[usize::from(*index) % REGISTERS.len()],
            Self::Any(offset) => u64::from(*offset),
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Access {
    Read(Offset, u8),
    Write(Offset, u32),
    WriteAnyWidth(Offset, [u8; 8], u8),
    /// A step that a driver which keeps the rules takes.
    Status(u8),
    Features(u64),
    Queue(u8, u8),
    Restart,
    Pause,
    Resume,
    /// Saves, and goes on with another device.
    Move,
}

fuzz_target!(|accesses: Vec<Access>| {
    let fresh = || {
        let (net, wire) = sample_net();
        (Driver::new(net), wire)
    };
    let (mut driver, mut _wire) = fresh();
    for access in accesses.iter().take(64) {
        match access {
            Access::Read(offset, width) => {
                let mut data = [0xaa; 16];
                driver
                    .mmio
                    .read(offset.value(), &mut data[..usize::from(width % 17)]);
            }
            Access::Write(offset, value) => driver.write(offset.value(), *value),
            Access::WriteAnyWidth(offset, data, width) => {
                driver
                    .mmio
                    .write(offset.value(), &data[..usize::from(width % 9)]);
            }
            Access::Status(bits) => driver.add_status(u32::from(*bits)),
            Access::Features(features) => {
                for half in 0..2 {
                    driver.write(0x24, half);
                    driver.write(0x20, (features >> (32 * half)) as u32 | half);
                }
            }
            Access::Queue(queue, exponent) => {
                let queue = u16::from(*queue % 2);
                let rings = driver.place_rings(queue, 1 << (exponent % 10));
                driver.configure_queue(queue, &rings);
            }
            Access::Restart => driver.write(STATUS, 0),
            Access::Pause => drop(driver.mmio.pause()),
            Access::Resume => drop(driver.mmio.resume()),
            Access::Move => {
                let running = driver.read(STATUS) & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
                // Err: it is paused already.
                let _ = driver.mmio.pause();
                let state = driver.mmio.save();
                let (mut other, wire) = fresh();
                if other.mmio.restore(&state).is_ok() {
                    assert_eq!(
                        other.mmio.save(),
                        state,
                        "what is restored is what was saved"
                    );
                    // In other memory, whose rings are empty: as good.
                    (driver, _wire) = (other, wire);
                    if running {
                        let _ = driver.mmio.resume();
                    }
                }
            }
        }
        let status = driver.read(STATUS);
        for (step, before) in [
            (DRIVER, ACKNOWLEDGE),
            (FEATURES_OK, DRIVER),
            (DRIVER_OK, FEATURES_OK),
        ] {
            assert!(
                status & step == 0 || status & before != 0,
                "status {status:#x} skips a step"
            );
        }
    }
});
