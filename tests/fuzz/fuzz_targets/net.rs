//! Any content of both queues of a network device, with frames of any length on the wire.
#![no_main]

mod rings;

use berth_virtio::testkit::{
    BUFFERS, Driver, EVENT_IDX, NEEDS_RESET, STATUS, Still, VERSION_1, sample_net,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rings::{Ring, SIZE};

#[derive(Arbitrary, Debug)]
struct Round {
    receive: Ring,
    transmit: Ring,
    /// Lengths of frames that wait on the wire.
    frames: Vec<u16>,
}

#[derive(Arbitrary, Debug)]
struct Case {
    event_idx: bool,
    mergeable: bool,
    bytes: [u8; 32],
    rounds: Vec<Round>,
}

fuzz_target!(|case: Case| {
    let (net, wire) = sample_net();
    let device = Still::new(net);
    let mut features = VERSION_1;
    if case.event_idx {
        features |= EVENT_IDX;
    }
    if case.mergeable {
        features |= 1 << 15;
    }
    let mut driver = Driver::running(device.clone(), features, SIZE);
    driver.fill(BUFFERS, &case.bytes);
    let frame = [0x5a; 66_000];
    let mut sent = vec![0; 1 << 17];
    for round in case.rounds.iter().take(3) {
        for length in round.frames.iter().take(8) {
            let _ = wire.send(&frame[..usize::from(*length)]);
        }
        round.receive.write(&mut driver, 0);
        round.transmit.write(&mut driver, 1);
        device.run(4);
        while let Ok(length) = wire.recv(&mut sent) {
            assert!((12..=65_565).contains(&length), "a frame of {length} bytes");
        }
        if driver.read(STATUS) & NEEDS_RESET != 0 {
            driver.write(STATUS, 0);
            assert_eq!(driver.read(STATUS), 0, "a reset mends a device");
            driver.start(features, SIZE);
        }
    }
});
