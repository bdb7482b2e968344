//! What holds for every chain that a driver may lay out and every frame that may come, against a
//! model of a few lines. The device runs on the test's thread, so that a case is over when it is.

use proptest::prelude::*;

use super::*;

const SIZE: u16 = 16;
/// Where the buffers of these tests are, and where they end.
const ARENA: u64 = BUFFERS;
const ARENA_END: u64 = MEMORY;
/// Room for a part of a buffer: the next one begins behind an untouched gap.
const SLOT: u64 = 0x4000;

fn still(features: u64) -> (Still<Net<()>>, Driver, UnixDatagram) {
    let (device, wire) = device();
    wire.set_nonblocking(true).unwrap();
    let device = Still::new(device);
    let driver = Driver::running(device.clone(), VERSION_1 | EVENT_IDX | features, SIZE);
    let pattern: Vec<u8> = (0..ARENA_END - ARENA)
        .map(|at| (at % 251) as u8 ^ (at >> 14) as u8)
        .collect();
    driver.fill(ARENA, &pattern);
    (device, driver, wire)
}

fn arena(driver: &Driver) -> Vec<u8> {
    driver.bytes(ARENA, (ARENA_END - ARENA) as usize)
}

fn slot(number: usize) -> u64 {
    ARENA + number as u64 * SLOT
}

#[test]
fn a_frame_allocates_nothing_once_the_device_is_warm() {
    let (device, mut driver, wire) = still(MRG_RXBUF);
    let mut seen = vec![0; 1 << 17];
    let mut round = || {
        for number in 0..12 {
            driver.submit(RX, &[writable(slot(number), 1526)]);
        }
        driver.submit(TX, &[readable(slot(20), 12), readable(slot(21), 1500)]);
        // The second is longer than the room that is kept ready: its end is copied.
        for len in [60, 9000, 1500] {
            wire.send(&frame(len)).unwrap();
        }
        let allocated = device.run(4);
        let received = std::iter::from_fn(|| driver.used(RX)).count();
        let sent = std::iter::from_fn(|| driver.used(TX)).count();
        assert_eq!((received, sent), (1 + 6 + 1, 1));
        assert_eq!(wire.recv(&mut seen).unwrap(), 1512);
        // What is left posted is used up, so that each round finds the same.
        for _ in 0..4 {
            wire.send(&frame(60)).unwrap();
        }
        device.run(4);
        assert_eq!(std::iter::from_fn(|| driver.used(RX)).count(), 4);
        allocated
    };
    assert!(round() > 0, "it is counted");
    // Having seen a long frame, it keeps more buffers ready.
    round();
    assert_eq!(round(), 0);
}

/// A part of a frame to send.
#[derive(Clone, Debug)]
enum Part {
    Readable(u32),
    Writable(u32),
    Outside(u32),
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        20 => (0_u32..3000).prop_map(Part::Readable),
        4 => (0_u32..14).prop_map(Part::Readable),
        1 => (0_u32..100).prop_map(Part::Writable),
        1 => (1_u32..100).prop_map(Part::Outside),
    ]
}

/// What a device owes for a chain to send.
enum Owed {
    Frame(Vec<u8>),
    Nothing,
    Reset,
}

/// Lays parts out from slot `first` on, and says what is owed for them.
fn lay_out(driver: &Driver, parts: &[Part], first: usize) -> (Vec<Buffer>, Owed) {
    let (mut buffers, mut frame) = (Vec::new(), Vec::new());
    let (mut is_writable, mut is_outside, mut is_disordered) = (false, false, false);
    for (number, part) in parts.iter().enumerate() {
        let at = slot(first + number);
        match *part {
            Part::Readable(len) => {
                is_disordered |= buffers.iter().any(|buffer: &Buffer| buffer.flags != 0);
                frame.extend(driver.bytes(at, len as usize));
                buffers.push(readable(at, len));
            }
            Part::Writable(len) => {
                is_writable |= len > 0;
                buffers.push(writable(at, len));
            }
            Part::Outside(len) => {
                is_disordered |= buffers.iter().any(|buffer: &Buffer| buffer.flags != 0);
                is_outside = true;
                frame.resize(frame.len() + len as usize, 0);
                buffers.push(readable(MEMORY + u64::from(len), len));
            }
        }
    }
    let owed = if is_disordered || is_writable || frame.len() < HEADER_BYTES {
        Owed::Reset
    } else if frame.len() > MAX_FRAME {
        Owed::Nothing
    } else if is_outside {
        Owed::Reset
    } else {
        Owed::Frame(frame)
    };
    (buffers, owed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Each chain is a frame on the wire, byte for byte, or the device's end; a used entry of
    /// length 0 for each that was served; and not a byte of the guest's is written.
    #[test]
    fn what_is_sent_is_what_was_laid_out(
        chains in prop::collection::vec(prop::collection::vec(part(), 1..5), 1..5),
    ) {
        let (device, mut driver, wire) = still(0);
        let before = arena(&driver);
        let (mut heads, mut frames, mut resets) = (Vec::new(), Vec::new(), false);
        for (number, parts) in chains.iter().enumerate() {
            let (buffers, owed) = lay_out(&driver, parts, number * 5);
            let head = driver.submit(TX, &buffers);
            if resets {
                continue; // Behind a mistake nothing is served.
            }
            match owed {
                Owed::Reset => resets = true,
                Owed::Nothing => heads.push(head),
                Owed::Frame(frame) => {
                    heads.push(head);
                    frames.push(frame);
                }
            }
        }
        device.run(4);
        prop_assert_eq!(driver.read(STATUS) & NEEDS_RESET != 0, resets);
        for head in heads {
            prop_assert_eq!(driver.used(TX), Some((head, 0)));
        }
        prop_assert_eq!(driver.used(TX), None);
        let mut seen = vec![0; 1 << 17];
        for frame in frames {
            let len = wire.recv(&mut seen).unwrap();
            prop_assert!(seen[..len] == frame, "a frame of {} bytes is sent as {len}", frame.len());
        }
        prop_assert!(wire.recv(&mut seen).is_err(), "nothing else is sent");
        prop_assert!(arena(&driver) == before, "the guest's memory is only read");
    }

    /// Each frame is in the buffers that come first, whole, with `num_buffers` and the used
    /// lengths telling where; what has no room waits or is lost, as the device says it does; and
    /// nothing outside of the buffers posted is written.
    #[test]
    fn what_is_received_is_what_came(
        mergeable in any::<bool>(),
        buffers in prop::collection::vec(prop::collection::vec(1_u32..3000, 1..4), 0..17),
        frames in prop::collection::vec(
            prop_oneof![8 => 0_usize..2000, 1 => 2000_usize..20_000], 0..8),
    ) {
        let (device, mut driver, wire) = still(if mergeable { MRG_RXBUF } else { 0 });
        // One table entry a buffer: its parts are in an indirect table.
        let tables = SECOND_REGION;
        let mut posted = Vec::new();
        for (number, parts) in buffers.iter().enumerate() {
            let table = tables + 64 * number as u64;
            for (index, len) in parts.iter().enumerate() {
                let more = if index + 1 < parts.len() { NEXT } else { 0 };
                let buffer = Buffer { flags: WRITE | more, ..writable(slot(3 * number + index), *len) };
                driver.descriptor(table, index as u16, buffer, index as u16 + 1);
            }
            let indirect = Buffer { addr: table, len: 16 * parts.len() as u32, flags: INDIRECT };
            let head = driver.submit(RX, &[indirect]);
            posted.push((head, parts.iter().map(|len| *len as usize).sum::<usize>()));
        }
        let before = arena(&driver);
        let came: Vec<_> = frames.iter().filter(|len| wire.send(&frame(**len)).is_ok()).collect();
        device.run(8);
        prop_assert_eq!(driver.read(STATUS) & NEEDS_RESET, 0);

        let mut next = 0;
        for len in came {
            let bytes = HEADER_BYTES + len;
            let rest = &posted[next..];
            let mut room = 0;
            let enough = rest.iter().position(|(_, len)| { room += len; room >= bytes });
            let count = match enough {
                Some(last) if mergeable || last == 0 => last + 1,
                // Waits for buffers, which nobody posts.
                _ if rest.is_empty() || (mergeable && rest.len() < usize::from(SIZE)) => break,
                _ => continue, // Lost.
            };
            let mut content = Vec::new();
            for (number, (head, capacity)) in posted.iter().enumerate().skip(next).take(count) {
                let used = (bytes - content.len()).min(*capacity);
                prop_assert_eq!(driver.used(RX), Some((*head, used as u32)));
                let mut whole = Vec::new();
                for (index, len) in buffers[number].iter().enumerate() {
                    whole.extend(driver.bytes(slot(3 * number + index), *len as usize));
                }
                content.extend_from_slice(&whole[..used]);
            }
            prop_assert!(content == received(*len, count as u16), "a frame of {} bytes", len);
            next += count;
        }
        prop_assert_eq!(driver.used(RX), None, "nothing else is delivered");
        prop_assert_eq!(driver.interrupts() > 0, next > 0);

        let after = arena(&driver);
        let mut at = 0;
        for (number, parts) in buffers.iter().enumerate() {
            for (index, len) in parts.iter().enumerate() {
                let begin = (slot(3 * number + index) - ARENA) as usize;
                prop_assert!(after[at..begin] == before[at..begin], "written before {begin:#x}");
                at = begin + *len as usize;
            }
        }
        prop_assert!(after[at..] == before[at..], "written behind the last buffer");
    }

    /// Whatever lies in descriptors and rings: no panic, and a reset mends the device.
    #[test]
    fn any_rings_end_in_service_or_a_reset(
        queue in 0_usize..2,
        table in prop::collection::vec(
            (any::<u64>(), any::<u32>(), 0_u16..8, 0_u16..20, 0_u8..4), 1..16),
        heads in prop::collection::vec(0_u16..20, 0..16),
        index in prop::option::of(any::<u16>()),
        lengths in prop::collection::vec(0_usize..4000, 0..4),
    ) {
        let (device, mut driver, wire) = still(MRG_RXBUF);
        for (number, (addr, len, flags, next, shape)) in table.iter().enumerate() {
            let (addr, len) = match shape {
                0 => (ARENA + addr % 0x1_0000, len % 4096),
                1 => (MEMORY - 1024 + addr % 2048, len % 4096),
                2 => (driver.rings[queue].desc + addr % 0xc000, len % 4096),
                _ => (*addr, *len),
            };
            let buffer = Buffer { addr, len, flags: *flags };
            driver.descriptor(driver.rings[queue].desc, number as u16, buffer, *next);
        }
        for head in heads {
            driver.offer(queue, head);
        }
        if let Some(index) = index {
            driver.store(driver.rings[queue].avail + 2, index);
        }
        for len in lengths {
            let _ = wire.send(&frame(len));
        }
        driver.kick(queue);
        device.run(4);
        driver.write(STATUS, 0);
        driver.start(VERSION_1 | EVENT_IDX, SIZE);
        let mut seen = vec![0; 1 << 17];
        while wire.recv(&mut seen).is_ok() {}
        driver.fill(ARENA, &frame(60));
        driver.submit(TX, &[readable(ARENA, 72)]);
        device.run(4);
        prop_assert_eq!(wire.recv(&mut seen).unwrap(), 72, "it sends after a reset");
    }
}
