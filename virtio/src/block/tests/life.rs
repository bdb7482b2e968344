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
