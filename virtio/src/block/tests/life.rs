//! A disk that starts, pauses and moves.

use vm_memory::GuestAddressSpace;

use super::*;

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
fn a_driver_that_resets_finds_no_late_write_in_its_memory() {
    let file = disk_file(&pattern(64 * 512));
    let mut driver = driver(&file);
    let mine = [0x77; 32 * 512];
    for _ in 0..50 {
        write_header(&driver, 0, 0);
        for _ in 0..16 {
            let data = writable(DATA, 32 * 512);
            let chain = [readable(HEADER, 16), data, writable(STATUS_BYTE, 1)];
            driver.submit(0, &chain);
        }
        driver.write(STATUS, 0);
        assert_eq!(driver.read(STATUS), 0);
        // From here on the memory is the driver's.
        driver.fill(DATA, &mine);
        std::thread::sleep(std::time::Duration::from_micros(300));
        assert!(
            driver.bytes(DATA, mine.len()) == mine,
            "written after the reset"
        );
        driver.start(VERSION_1 | EVENT_IDX | FLUSH, 64);
    }
}

#[test]
fn each_request_is_told_also_where_the_indices_wrap() {
    let device = Still::new(disk(&disk_file(&pattern(512))));
    let mut driver = Driver::running(device.clone(), VERSION_1 | EVENT_IDX | FLUSH, 64);
    let used_event = driver.rings[0].avail + 4 + 2 * 64;
    write_header(&driver, 4, 0);
    for number in 0..66_000_u32 {
        // Every third interrupt is not wanted.
        let wanted = number % 3 != 0;
        let event = if wanted {
            number
        } else {
            number.wrapping_sub(1)
        };
        driver.store(used_event, event as u16);
        let before = driver.interrupts();
        driver.submit(0, &[readable(HEADER, 16), writable(STATUS_BYTE, 1)]);
        device.run(1);
        assert!(driver.used(0).is_some(), "request {number}");
        assert_eq!(
            driver.interrupts() - before,
            usize::from(wanted),
            "request {number}"
        );
    }
}
