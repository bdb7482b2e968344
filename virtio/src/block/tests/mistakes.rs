//! The disk as an attacker in the driver's place sees it.

use proptest::prelude::*;

use super::*;

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

#[test]
fn what_was_answered_before_a_mistake_is_told_to_the_driver() {
    let mut driver = driver(&disk_file(&pattern(512)));
    write_header(&driver, 0, 0);
    let status = writable(STATUS_BYTE, 1);
    let good = driver.chain(0, &[readable(HEADER, 16), writable(DATA, 512), status]);
    let bad = driver.chain(0, &[readable(HEADER, 3), status]);
    driver.offer(0, good);
    driver.offer(0, bad);
    driver.kick(0);
    driver.wait_needs_reset();
    assert_eq!(driver.used(0), Some((good, 513)));
    assert_eq!(
        driver.read(0x60),
        0b11,
        "a used buffer, and the device's failure"
    );
}

/// CVE-2026-27211 of Cloud Hypervisor: a raw disk whose guest wrote a qcow2 header was taken for
/// one when it was opened again, and the header named a file of the host.
#[test]
fn a_format_that_the_guest_writes_into_its_disk_is_only_bytes() {
    let file = disk_file(&pattern(64 * 512));
    let mut first = driver(&file);
    let mut header = vec![0; 512];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[24..32].copy_from_slice(&(1_u64 << 40).to_be_bytes());
    first.fill(DATA, &header);
    assert_eq!(request(&mut first, 1, 0, &[readable(DATA, 512)]).0, OK);
    drop(first);
    let mut second = driver(&file);
    assert_eq!(second.read(0x100), 64, "sectors");
    assert_eq!(
        request(&mut second, 0, 0, &[writable(DATA + 512, 512)]).0,
        OK
    );
    assert_eq!(second.bytes(DATA + 512, 512), header);
}

/// CVE-2016-5403 of QEMU: a chain without bound makes the device allocate without bound.
#[test]
fn a_chain_has_at_most_as_many_descriptors_as_one_call_takes() {
    const MOST: u16 = 1024;
    let content = pattern(8 * 512);
    for (count, served) in [(MOST, true), (MOST + 1, false)] {
        let mut driver = driver(&disk_file(&content));
        write_header(&driver, 0, 0);
        let table = BUFFERS + 0x2_0000;
        driver.descriptor(
            table,
            0,
            Buffer {
                flags: NEXT,
                ..readable(HEADER, 16)
            },
            1,
        );
        // 512 bytes of data in 511 single bytes and one more part; the last byte is the status.
        for index in 1..count {
            let at = u64::from(index - 1);
            let len = match index {
                1..=512 => 1,
                _ if index + 1 == count => 1,
                _ => 0,
            };
            let more = if index + 1 < count { NEXT } else { 0 };
            let part = Buffer {
                flags: WRITE | more,
                ..writable(DATA + at, len)
            };
            driver.descriptor(table, index, part, index + 1);
        }
        let len = 16 * u32::from(count);
        driver.submit(
            0,
            &[Buffer {
                addr: table,
                len,
                flags: INDIRECT,
            }],
        );
        if served {
            assert_eq!(driver.wait_used(0).1, 513);
            assert_eq!(driver.bytes(DATA, 512), content[..512]);
        } else {
            driver.wait_needs_reset();
        }
    }
}

/// CVE-2021-20255 of QEMU and its like: a device that is made to write to itself.
#[test]
fn data_that_lands_on_the_rings_themselves_harms_nobody_else() {
    let file = disk_file(&[0xff; 64 * 512]);
    let mut driver = driver(&file);
    let rings = driver.rings[0];
    for target in [rings.desc, rings.avail, rings.used] {
        write_header(&driver, 0, 0);
        let chain = [
            readable(HEADER, 16),
            writable(target, 1024),
            writable(STATUS_BYTE, 1),
        ];
        driver.submit(0, &chain);
        // Served or stopped: the rings are rubbish now, and a reset mends all.
        wait_for("the disk to come to rest", || {
            driver.load::<u8>(STATUS_BYTE) != UNTOUCHED || driver.read(STATUS) & NEEDS_RESET != 0
        });
        driver.write(STATUS, 0);
        driver.start(VERSION_1 | EVENT_IDX | FLUSH, 64);
        assert_eq!(request(&mut driver, 0, 0, &[writable(DATA, 512)]).0, OK);
    }
    assert_eq!(file.metadata().unwrap().len(), 64 * 512);
}
