//! The disk as its driver sees it, and as an attacker in the driver's place does.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;

use proptest::prelude::*;
use vm_memory::GuestAddressSpace;

use super::*;
use crate::testkit::*;

const FLUSH: u64 = 1 << 9;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const UNTOUCHED: u8 = 0xee;

const HEADER: u64 = BUFFERS;
const STATUS_BYTE: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

fn disk_file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i / 512) as u8 ^ (i % 251) as u8)
        .collect()
}

fn config(file: File) -> BlockConfig {
    BlockConfig {
        name: "test".to_owned(),
        file,
        read_only: false,
        cache: CacheMode::Writeback,
        serial: "berth-disk-0".to_owned(),
    }
}

fn disk(file: &File) -> Block<()> {
    Block::new(config(file.try_clone().unwrap())).unwrap()
}

fn driver(file: &File) -> Driver {
    Driver::running(disk(file), VERSION_1 | EVENT_IDX | FLUSH, 64)
}

fn write_header(driver: &Driver, kind: u32, sector: u64) {
    driver.store(HEADER, kind);
    driver.store(HEADER + 4, 0u32);
    driver.store(HEADER + 8, sector);
    driver.store(STATUS_BYTE, UNTOUCHED);
}

/// One request with its data in `buffers`; its status, and the used length.
fn request(driver: &mut Driver, kind: u32, sector: u64, buffers: &[Buffer]) -> (u8, u32) {
    write_header(driver, kind, sector);
    let mut chain = vec![readable(HEADER, 16)];
    chain.extend_from_slice(buffers);
    chain.push(writable(STATUS_BYTE, 1));
    let head = driver.submit(0, &chain);
    let (used_head, len) = driver.wait_used(0);
    assert_eq!(used_head, head);
    (driver.load(STATUS_BYTE), len)
}

#[test]
fn the_configuration_space_tells_capacity_and_segments() {
    let mut driver = Driver::new(disk(&disk_file(&pattern(10 * 512))));
    assert_eq!(driver.read(0x100), 10);
    assert_eq!(driver.read(0x104), 0);
    assert_eq!(driver.read(0x10c), 254, "seg_max");
    assert_eq!(driver.read(0x114), 512, "blk_size");
    let mut beyond = [1; 8];
    driver.mmio.read(0x118, &mut beyond);
    assert_eq!(beyond, [0; 8]);
}

#[test]
fn a_read_of_many_segments_brings_the_disks_bytes() {
    let content = pattern(64 * 512);
    let mut driver = driver(&disk_file(&content));
    let segments: Vec<_> = (0..20).map(|i| writable(DATA + i * 0x1000, 512)).collect();
    assert_eq!(request(&mut driver, 0, 3, &segments), (OK, 20 * 512 + 1));
    for i in 0..20 {
        let at = (3 + i as usize) * 512;
        assert_eq!(
            driver.bytes(DATA + i * 0x1000, 512),
            content[at..at + 512],
            "segment {i}"
        );
    }
}

#[test]
fn a_write_reaches_the_file_and_a_flush_is_answered() {
    let file = disk_file(&pattern(64 * 512));
    let mut driver = driver(&file);
    driver.fill(DATA, &[0xab; 1024]);
    let halves = [readable(DATA, 512), readable(DATA + 512, 512)];
    assert_eq!(request(&mut driver, 1, 62, &halves), (OK, 1));
    assert_eq!(request(&mut driver, 4, 0, &[]), (OK, 1));
    let mut found = vec![0; 1024];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 62 * 512).unwrap();
    assert_eq!(found, [0xab; 1024]);
}

#[test]
fn get_id_tells_the_serial_and_needs_room_for_it() {
    let mut driver = driver(&disk_file(&pattern(512)));
    assert_eq!(request(&mut driver, 8, 0, &[writable(DATA, 20)]), (OK, 21));
    assert_eq!(driver.bytes(DATA, 20), b"berth-disk-0\0\0\0\0\0\0\0\0");
    assert_eq!(request(&mut driver, 8, 0, &[writable(DATA, 19)]).0, IOERR);
}

#[test]
fn what_was_not_offered_is_unsupported() {
    let mut driver = driver(&disk_file(&pattern(512)));
    for kind in [2, 3, 11, 13, 14, u32::MAX] {
        assert_eq!(
            request(&mut driver, kind, 0, &[writable(DATA, 512)]).0,
            UNSUPP,
            "type {kind}"
        );
    }
}

#[test]
fn sectors_beyond_the_end_are_an_io_error_wherever_the_sum_wraps() {
    let mut driver = driver(&disk_file(&pattern(8 * 512)));
    let kib = [writable(DATA, 1024)];
    for sector in [
        7,
        8,
        u64::MAX,
        u64::MAX - 1,
        1 << 55,
        (1 << 55) - 1,
        u64::MAX / 512,
    ] {
        assert_eq!(
            request(&mut driver, 0, sector, &kib).0,
            IOERR,
            "sector {sector:#x}"
        );
    }
    assert_eq!(request(&mut driver, 0, 6, &kib).0, OK);
    assert_eq!(
        request(&mut driver, 0, 0, &[writable(DATA, 100)]).0,
        IOERR,
        "not whole sectors"
    );
}

#[test]
fn a_partial_last_sector_is_not_shown() {
    let mut driver = driver(&disk_file(&pattern(2 * 512 + 100)));
    assert_eq!(driver.read(0x100), 2);
    assert_eq!(request(&mut driver, 0, 2, &[writable(DATA, 512)]).0, IOERR);
}

#[test]
fn a_read_only_disk_refuses_writes_and_keeps_its_bytes() {
    let file = disk_file(&pattern(512));
    let mut config = config(file.try_clone().unwrap());
    config.read_only = true;
    let mut driver = Driver::running(Block::<()>::new(config).unwrap(), VERSION_1 | 1 << 5, 16);
    driver.fill(DATA, &[0xff; 512]);
    assert_eq!(request(&mut driver, 1, 0, &[readable(DATA, 512)]).0, IOERR);
    assert_eq!(
        request(&mut driver, 0, 0, &[writable(DATA + 512, 512)]).0,
        OK
    );
    assert_eq!(driver.bytes(DATA + 512, 512), pattern(512));
}

#[test]
fn a_file_that_shrank_under_the_guest_is_an_io_error() {
    let file = disk_file(&pattern(8 * 512));
    let mut driver = driver(&file);
    file.set_len(512).unwrap();
    assert_eq!(request(&mut driver, 0, 4, &[writable(DATA, 512)]).0, IOERR);
    assert_eq!(request(&mut driver, 0, 0, &[writable(DATA, 512)]).0, OK);
}

#[test]
fn a_header_split_over_descriptors_and_an_indirect_table_are_understood() {
    let content = pattern(8 * 512);
    let mut driver = driver(&disk_file(&content));
    write_header(&driver, 0, 5);
    let table = BUFFERS + 0x800;
    let parts = [
        readable(HEADER, 3),
        readable(HEADER + 3, 0),
        readable(HEADER + 3, 13),
        writable(DATA, 511),
        writable(DATA + 511, 2),
    ];
    for (i, part) in parts.iter().enumerate() {
        let flags = part.flags | if i + 1 < parts.len() { NEXT } else { 0 };
        driver.descriptor(table, i as u16, Buffer { flags, ..*part }, i as u16 + 1);
    }
    let indirect = Buffer {
        addr: table,
        len: 16 * parts.len() as u32,
        flags: INDIRECT,
    };
    driver.submit(0, &[indirect]);
    assert_eq!(driver.wait_used(0).1, 513);
    assert_eq!(driver.bytes(DATA, 512), content[5 * 512..6 * 512]);
    assert_eq!(
        driver.load::<u8>(DATA + 512),
        OK,
        "the status is the last writable byte"
    );
}

#[test]
fn requests_queued_before_driver_ok_are_found() {
    let mut driver = Driver::new(disk(&disk_file(&pattern(512))));
    driver.negotiate(VERSION_1);
    driver.enable_queue(0, 16);
    write_header(&driver, 0, 0);
    let chain = [
        readable(HEADER, 16),
        writable(DATA, 512),
        writable(STATUS_BYTE, 1),
    ];
    let head = driver.chain(0, &chain);
    driver.offer(0, head);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.wait_used(0), (head, 513));
}

#[test]
fn a_full_queue_is_answered_whole_with_few_interrupts() {
    let mut driver = driver(&disk_file(&pattern(64 * 512)));
    let mut heads = Vec::new();
    for i in 0..16u64 {
        let header = BUFFERS + i * 32;
        driver.store(header, 0u32);
        driver.store(header + 8, i);
        let data = writable(DATA + i * 0x1000, 512);
        let status = writable(STATUS_BYTE + 0x800 + i, 1);
        heads.push(driver.chain(0, &[readable(header, 16), data, status]));
    }
    // used_event: an interrupt after the sixteenth.
    driver.store(driver.rings[0].avail + 4 + 2 * 64, 15u16);
    for head in &heads {
        driver.offer(0, *head);
    }
    driver.kick(0);
    for head in heads {
        assert_eq!(driver.wait_used(0), (head, 513));
    }
    wait_for("interrupt", || driver.interrupts() > 0);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.read(0x60), 1);
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let file = disk_file(&pattern(512));
    let mut driver = Driver::running(disk(&file), VERSION_1 | FLUSH, 16);
    driver.store(driver.rings[0].avail, 1u16);
    assert_eq!(request(&mut driver, 0, 0, &[writable(DATA, 512)]).0, OK);
    driver.store(driver.rings[0].avail, 0u16);
    assert_eq!(request(&mut driver, 0, 0, &[writable(DATA, 512)]).0, OK);
    wait_for("interrupt", || driver.interrupts() > 0);
    assert_eq!(driver.interrupts(), 1);
}

/// Each is a mistake that must stop this device, at once and for good, until it is reset.
#[test]
fn a_drivers_mistake_stops_the_device_until_it_is_reset() {
    let header = readable(HEADER, 16);
    let status = writable(STATUS_BYTE, 1);
    let mistakes: &[(&str, &[Buffer])] = &[
        ("no status", &[header]),
        ("no header", &[status]),
        ("short header", &[readable(HEADER, 15), status]),
        (
            "readable after writable",
            &[header, status, readable(DATA, 512)],
        ),
        (
            "data outside memory",
            &[header, writable(MEMORY, 512), status],
        ),
        (
            "data across the end of memory",
            &[header, writable(MEMORY - 256, 512), status],
        ),
        (
            "data whose end wraps",
            &[header, writable(u64::MAX - 511, 512), status],
        ),
        ("header outside memory", &[readable(1 << 60, 16), status]),
        ("status outside memory", &[header, writable(MEMORY, 1)]),
        (
            "4 GiB and more",
            &[
                header,
                writable(DATA, u32::MAX),
                writable(DATA, u32::MAX),
                status,
            ],
        ),
        (
            "an empty indirect table",
            &[Buffer {
                addr: DATA,
                len: 0,
                flags: INDIRECT,
            }],
        ),
        (
            "a ragged indirect table",
            &[Buffer {
                addr: DATA,
                len: 17,
                flags: INDIRECT,
            }],
        ),
        (
            "an indirect table outside",
            &[Buffer {
                addr: MEMORY,
                len: 32,
                flags: INDIRECT,
            }],
        ),
        (
            "too large an indirect table",
            &[Buffer {
                addr: DATA,
                len: 1 << 24,
                flags: INDIRECT,
            }],
        ),
    ];
    let file = disk_file(&pattern(64 * 512));
    for (name, chain) in mistakes {
        let mut driver = driver(&file);
        write_header(&driver, 0, 0);
        driver.submit(0, chain);
        driver.wait_needs_reset();
        assert_ne!(driver.read(0x60) & 2, 0, "{name}: the driver is told");
        let ok = [header, writable(DATA, 512), status];
        driver.submit(0, &ok);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(
            driver.used(0),
            None,
            "{name}: a stopped device answers nothing"
        );

        driver.write(STATUS, 0);
        assert_eq!(driver.read(STATUS), 0, "{name}");
        driver.start(VERSION_1 | EVENT_IDX | FLUSH, 64);
        assert_eq!(
            request(&mut driver, 0, 0, &[writable(DATA, 512)]).0,
            OK,
            "{name}"
        );
    }
}

#[test]
fn loops_bad_indices_and_nested_tables_stop_the_device() {
    let file = disk_file(&pattern(512));
    type Trick = fn(&mut Driver);
    let tricks: &[(&str, Trick)] = &[
        ("a loop", |driver| {
            let table = driver.rings[0].desc;
            let part = Buffer {
                addr: HEADER,
                len: 16,
                flags: NEXT,
            };
            driver.descriptor(table, 0, part, 1);
            driver.descriptor(table, 1, part, 0);
            driver.offer(0, 0);
        }),
        ("a descriptor that follows itself", |driver| {
            let part = Buffer {
                addr: HEADER,
                len: 0,
                flags: NEXT,
            };
            driver.descriptor(driver.rings[0].desc, 0, part, 0);
            driver.offer(0, 0);
        }),
        ("a next index out of the table", |driver| {
            let part = Buffer {
                addr: HEADER,
                len: 16,
                flags: NEXT,
            };
            driver.descriptor(driver.rings[0].desc, 0, part, 64);
            driver.offer(0, 0);
        }),
        ("a head out of the table", |driver| driver.offer(0, 64)),
        ("a head of 0xffff", |driver| driver.offer(0, u16::MAX)),
        ("a table in a table", |driver| {
            let nested = Buffer {
                addr: DATA,
                len: 16,
                flags: INDIRECT,
            };
            driver.descriptor(DATA, 0, nested, 0);
            driver.descriptor(driver.rings[0].desc, 0, nested, 0);
            driver.offer(0, 0);
        }),
        ("an indirect table that loops", |driver| {
            let part = Buffer {
                addr: HEADER,
                len: 16,
                flags: NEXT,
            };
            driver.descriptor(DATA, 0, part, 0);
            let table = Buffer {
                addr: DATA,
                len: 16,
                flags: INDIRECT,
            };
            driver.descriptor(driver.rings[0].desc, 0, table, 0);
            driver.offer(0, 0);
        }),
        ("an available index too far ahead", |driver| {
            driver.store(driver.rings[0].avail + 2, 65u16);
        }),
        ("an available index that went back", |driver| {
            driver.store(driver.rings[0].avail + 2, u16::MAX);
        }),
    ];
    for (name, trick) in tricks {
        let mut driver = driver(&file);
        trick(&mut driver);
        driver.kick(0);
        wait_for(name, || driver.read(STATUS) & NEEDS_RESET != 0);
    }
}

#[test]
fn the_same_head_twice_is_two_requests_and_no_harm() {
    let mut driver = driver(&disk_file(&pattern(512)));
    write_header(&driver, 0, 0);
    let chain = [
        readable(HEADER, 16),
        writable(DATA, 512),
        writable(STATUS_BYTE, 1),
    ];
    let head = driver.chain(0, &chain);
    driver.offer(0, head);
    driver.offer(0, head);
    driver.kick(0);
    assert_eq!(driver.wait_used(0), (head, 513));
    assert_eq!(driver.wait_used(0), (head, 513));
}

#[test]
fn one_disks_mistake_leaves_the_other_running() {
    let file = disk_file(&pattern(512));
    let (mut bad, mut good) = (driver(&file), driver(&file));
    bad.offer(0, 999);
    bad.kick(0);
    bad.wait_needs_reset();
    assert_eq!(request(&mut good, 0, 0, &[writable(DATA, 512)]).0, OK);
    assert_eq!(good.read(STATUS) & NEEDS_RESET, 0);
}

#[test]
fn data_across_two_memory_regions_is_refused_across_a_hole_and_served_next_to_it() {
    let content = pattern(8 * 512);
    let mut driver = driver(&disk_file(&content));
    assert_eq!(
        request(&mut driver, 0, 1, &[writable(SECOND_REGION, 512)]).0,
        OK
    );
    assert_eq!(driver.bytes(SECOND_REGION, 512), content[512..1024]);
    write_header(&driver, 0, 0);
    let hole = writable(SECOND_REGION - 512, 1024);
    driver.submit(0, &[readable(HEADER, 16), hole, writable(STATUS_BYTE, 1)]);
    driver.wait_needs_reset();
}

#[test]
fn a_paused_disk_touches_nothing_and_goes_on_where_it_was() {
    let mut driver = driver(&disk_file(&pattern(512)));
    assert_eq!(request(&mut driver, 0, 0, &[writable(DATA, 512)]).0, OK);
    driver.mmio.pause().unwrap();
    assert!(
        driver.mmio.pause().is_err(),
        "a second pause is the caller's mistake"
    );
    write_header(&driver, 0, 0);
    let chain = [
        readable(HEADER, 16),
        writable(DATA, 512),
        writable(STATUS_BYTE, 1),
    ];
    let head = driver.submit(0, &chain);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(driver.used(0), None);
    driver.mmio.resume().unwrap();
    assert_eq!(driver.wait_used(0), (head, 513));
}

#[test]
fn a_saved_disk_goes_on_in_another_device_and_refuses_a_different_one() {
    let file = disk_file(&pattern(8 * 512));
    let mut first = driver(&file);
    assert_eq!(request(&mut first, 0, 0, &[writable(DATA, 512)]).0, OK);
    first.mmio.pause().unwrap();
    let state = first.mmio.save();

    let smaller = disk_file(&pattern(512));
    assert!(Driver::new(disk(&smaller)).mmio.restore(&state).is_err());

    let mut second = Driver::new(disk(&file));
    second
        .mem
        .lock()
        .unwrap()
        .replace((*first.mem.memory()).clone());
    second.rings = first.rings.clone();
    second.mmio.restore(&state).unwrap();
    second.mmio.resume().unwrap();
    assert_eq!(request(&mut second, 0, 7, &[writable(DATA, 512)]).0, OK);
}

#[test]
fn a_serial_that_does_not_fit_is_refused() {
    let mut config = config(disk_file(&[0; 512]));
    config.serial = "twenty-one characters".to_owned();
    assert!(matches!(
        Block::<()>::new(config),
        Err(BlockError::Serial { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever lies in descriptors and headers: no panic, a used entry or NEEDS_RESET for each,
    /// and the disk's size never changes.
    #[test]
    fn any_request_ends_in_an_answer_or_a_reset(
        header in any::<[u8; 16]>(),
        kind in 0u32..16,
        sector in prop_oneof![0u64..20, any::<u64>()],
        chains in prop::collection::vec(
            prop::collection::vec((any::<u64>(), any::<u32>(), 0u16..8, 0u16..20, 0u8..4), 1..6),
            1..4,
        ),
    ) {
        let file = disk_file(&pattern(16 * 512));
        let mut driver = Driver::running(disk(&file), VERSION_1 | EVENT_IDX | FLUSH, 16);
        driver.fill(HEADER, &header);
        driver.store(HEADER, kind);
        driver.store(HEADER + 8, sector);
        let table = driver.rings[0].desc;
        let mut offered = 0;
        for chain in &chains {
            let head = offered * 5;
            for (i, (addr, len, flags, next, shape)) in chain.iter().enumerate() {
                let (addr, len) = match shape {
                    0 => (HEADER, 16),
                    1 => (DATA + addr % 0x8000, len % 4096),
                    2 => (SECOND_REGION - 1024 + addr % 2048, len % 4096),
                    _ => (*addr, *len),
                };
                let index = head + i as u16;
                if index < 16 {
                    let buffer = Buffer { addr, len, flags: *flags };
                    driver.descriptor(table, index, buffer, *next);
                }
            }
            driver.offer(0, head);
            offered += 1;
        }
        driver.kick(0);
        let mut answered = 0;
        wait_for("an answer or a reset", || {
            while driver.used(0).is_some() {
                answered += 1;
            }
            answered == offered || driver.read(STATUS) & NEEDS_RESET != 0
        });
        prop_assert_eq!(file.metadata().unwrap().len(), 16 * 512);
    }
}
