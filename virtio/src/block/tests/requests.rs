//! The disk as its driver sees it.

use super::*;

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

#[test]
fn a_serial_that_does_not_fit_is_refused() {
    let mut config = config(disk_file(&[0; 512]));
    config.serial = "twenty-one characters".to_owned();
    assert!(matches!(
        Block::<()>::new(config),
        Err(BlockError::Serial { .. })
    ));
}

#[test]
fn a_request_allocates_nothing_once_the_device_is_warm() {
    let file = disk_file(&pattern(64 * 512));
    let device = Still::new(disk(&file));
    let mut driver = Driver::running(device.clone(), VERSION_1 | EVENT_IDX | FLUSH, 64);
    let mut round = || {
        for kind in [0, 1, 4, 8, 99] {
            write_header(&driver, kind, 3);
            let part = |at| match kind {
                1 => readable(at, 512),
                _ => writable(at, 512),
            };
            let mut chain = vec![readable(HEADER, 16)];
            chain.extend((0..10).map(|n| part(DATA + n * 0x1000)));
            chain.push(writable(STATUS_BYTE, 1));
            driver.submit(0, &chain);
        }
        let allocated = device.run(2);
        (std::iter::from_fn(|| driver.used(0)).count(), allocated)
    };
    let (served, at_first) = round();
    assert_eq!(served, 5);
    assert!(at_first > 0, "it is counted");
    assert_eq!(round(), (5, 0));
}
