//! The network device between a driver in plain memory and a wire that is a datagram socket.

#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::*;
use crate::testkit::*;

mod properties;

const MRG_RXBUF: u64 = 1 << 15;
const RX: usize = 0;
const TX: usize = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn device() -> (Net<()>, UnixDatagram) {
    let (tap, wire) = Tap::socket();
    wire.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let config = NetConfig {
        name: "test".to_owned(),
        tap,
        mac: Some(MAC),
        mtu: Some(1450),
    };
    (Net::new(config).unwrap(), wire)
}

fn driver(features: u64, size: u16) -> (Driver, UnixDatagram) {
    let (device, wire) = device();
    (
        Driver::running(device, VERSION_1 | EVENT_IDX | features, size),
        wire,
    )
}

/// A frame as the tap gives it: 12 bytes of header, then `len` bytes that tell where they are.
fn frame(len: usize) -> Vec<u8> {
    let body = (0..len).map(|i| (i % 253) as u8);
    [0u8; HEADER_BYTES].into_iter().chain(body).collect()
}

/// A frame as the driver gets it: the tap's, with `num_buffers` filled in.
fn received(len: usize, buffers: u16) -> Vec<u8> {
    let mut frame = frame(len);
    frame[10..12].copy_from_slice(&buffers.to_le_bytes());
    frame
}

/// Posts `count` receive buffers of `len` bytes from `BUFFERS` on, 64 KiB apart at most.
fn post(driver: &mut Driver, first: u64, count: u64, len: u32) {
    for i in first..first + count {
        driver.submit(RX, &[writable(BUFFERS + i * u64::from(len), len)]);
    }
}

/// Collects `count` used receive buffers: their total length and content in order of heads.
fn collect(driver: &mut Driver, count: usize, len: u32) -> Vec<u8> {
    let mut content = Vec::new();
    for _ in 0..count {
        let (head, used) = driver.wait_used(RX);
        let at = driver.load::<u64>(driver.rings[RX].desc + 16 * u64::from(head));
        assert!(used <= len);
        content.extend(driver.bytes(at, used as usize));
    }
    content
}

#[test]
fn the_configuration_space_tells_mac_and_mtu() {
    let (device, _wire) = device();
    let mut driver = Driver::new(device);
    let mut config = [0; 12];
    driver.mmio.read(0x100, &mut config);
    assert_eq!(config[..6], MAC);
    assert_eq!(u16::from_le_bytes([config[10], config[11]]), 1450);
}

#[test]
fn a_frame_from_many_descriptors_reaches_the_wire_as_one() {
    let (mut driver, wire) = driver(0, 16);
    let sent = frame(1500);
    driver.fill(BUFFERS, &sent);
    let parts = [
        readable(BUFFERS, 12),
        readable(BUFFERS + 12, 1),
        readable(BUFFERS + 13, 1499),
    ];
    let head = driver.submit(TX, &parts);
    let mut seen = vec![0; 4096];
    let len = wire.recv(&mut seen).unwrap();
    assert_eq!(seen[..len], sent);
    assert_eq!(driver.wait_used(TX), (head, 0));
}

#[test]
fn a_segmentation_offload_frame_of_64_kib_passes_whole_both_ways() {
    let (mut driver, wire) = driver(MRG_RXBUF, 256);
    let big = frame(65549);
    driver.fill(BUFFERS, &big);
    driver.submit(TX, &[readable(BUFFERS, big.len() as u32)]);
    let mut seen = vec![0; 1 << 17];
    let len = wire.recv(&mut seen).unwrap();
    assert!(seen[..len] == big, "sent whole");

    post(&mut driver, 0, 64, 1536);
    wire.send(&big).unwrap();
    let buffers = big.len().div_ceil(1536);
    let content = collect(&mut driver, buffers, 1536);
    assert!(
        content == received(65549, buffers as u16),
        "received whole, in {buffers} buffers"
    );
}

#[test]
fn frames_arrive_in_order_each_in_its_buffer() {
    let (mut driver, wire) = driver(0, 16);
    post(&mut driver, 0, 4, 2048);
    for len in [60, 1514, 14, 300] {
        wire.send(&frame(len)).unwrap();
    }
    for len in [60, 1514, 14, 300] {
        assert_eq!(collect(&mut driver, 1, 2048), received(len, 1));
    }
}

#[test]
fn without_buffers_the_tap_is_left_alone_until_there_are_some() {
    let (mut driver, wire) = driver(MRG_RXBUF, 16);
    for len in [100, 200, 300] {
        wire.send(&frame(len)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(driver.used(RX), None);
    post(&mut driver, 0, 1, 2048);
    assert_eq!(collect(&mut driver, 1, 2048), received(100, 1));
    post(&mut driver, 1, 2, 2048);
    assert_eq!(collect(&mut driver, 1, 2048), received(200, 1));
    assert_eq!(collect(&mut driver, 1, 2048), received(300, 1));
}

#[test]
fn a_long_frame_waits_for_the_buffers_that_it_lacks() {
    let (mut driver, wire) = driver(MRG_RXBUF, 64);
    post(&mut driver, 0, 2, 1536);
    wire.send(&frame(9000)).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(driver.used(RX), None, "no part of a frame is shown");
    post(&mut driver, 2, 4, 1536);
    assert_eq!(collect(&mut driver, 6, 1536), received(9000, 6));
}

#[test]
fn a_frame_that_no_queue_of_buffers_could_hold_is_lost_and_the_next_one_is_not() {
    let (mut driver, wire) = driver(MRG_RXBUF, 4);
    post(&mut driver, 0, 4, 1024);
    wire.send(&frame(9000)).unwrap();
    wire.send(&frame(100)).unwrap();
    assert_eq!(collect(&mut driver, 1, 1024), received(100, 1));
}

#[test]
fn without_mergeable_buffers_a_frame_that_is_too_long_is_lost() {
    let (mut driver, wire) = driver(0, 4);
    post(&mut driver, 0, 2, 512);
    wire.send(&frame(501)).unwrap();
    wire.send(&frame(500)).unwrap();
    assert_eq!(collect(&mut driver, 1, 512), received(500, 1));
}

#[test]
fn buffers_held_for_the_next_frame_go_back_when_the_device_pauses() {
    let (mut driver, wire) = driver(MRG_RXBUF, 16);
    post(&mut driver, 0, 3, 512);
    wire.send(&frame(100)).unwrap();
    assert_eq!(collect(&mut driver, 1, 512), received(100, 1));
    driver.mmio.pause().unwrap();
    assert_eq!(driver.mmio.save().queues[RX].next_avail, 1);
    wire.send(&frame(900)).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(driver.used(RX), None);
    driver.mmio.resume().unwrap();
    assert_eq!(collect(&mut driver, 2, 512), received(900, 2));
}

#[test]
fn frames_too_long_to_send_are_lost_and_the_sender_goes_on() {
    let (mut driver, wire) = driver(0, 16);
    driver.submit(TX, &[readable(BUFFERS, MAX_FRAME as u32 + 1)]);
    driver.wait_used(TX);
    driver.fill(BUFFERS, &frame(60));
    driver.submit(TX, &[readable(BUFFERS, 72)]);
    let mut seen = vec![0; 1 << 17];
    assert_eq!(wire.recv(&mut seen).unwrap(), 72);
}

#[test]
fn a_wire_that_is_full_holds_nobody_up() {
    let (mut driver, _wire) = driver(0, 256);
    for _ in 0..600 {
        driver.submit(TX, &[readable(BUFFERS, 1514)]);
        driver.wait_used(TX);
    }
    assert_eq!(driver.read(STATUS) & NEEDS_RESET, 0);
}

#[test]
fn a_drivers_mistake_stops_the_device_until_it_is_reset() {
    let mistakes: &[(&str, usize, &[Buffer])] = &[
        ("nothing to send", TX, &[readable(BUFFERS, 0)]),
        ("no whole header", TX, &[readable(BUFFERS, 11)]),
        (
            "a writable part to send",
            TX,
            &[readable(BUFFERS, 60), writable(BUFFERS, 60)],
        ),
        ("sending what is no memory", TX, &[readable(MEMORY, 60)]),
        ("sending what wraps", TX, &[readable(u64::MAX - 10, 60)]),
        ("receiving into nothing", RX, &[writable(BUFFERS, 0)]),
        (
            "receiving into readable memory",
            RX,
            &[readable(BUFFERS, 2048)],
        ),
        ("receiving into no memory", RX, &[writable(MEMORY, 2048)]),
    ];
    for (name, queue, chain) in mistakes {
        let (mut driver, wire) = driver(MRG_RXBUF, 16);
        driver.submit(*queue, chain);
        wire.send(&frame(60)).unwrap();
        wait_for(name, || driver.read(STATUS) & NEEDS_RESET != 0);
        driver.write(STATUS, 0);
        driver.start(VERSION_1 | EVENT_IDX, 16);
        driver.fill(BUFFERS, &frame(60));
        driver.submit(TX, &[readable(BUFFERS, 72)]);
        let mut seen = vec![0; 4096];
        assert_eq!(
            wire.recv(&mut seen).unwrap(),
            72,
            "{name}: sends again after a reset"
        );
    }
}

#[test]
fn a_header_of_one_byte_buffers_is_still_filled_in() {
    let (mut driver, wire) = driver(MRG_RXBUF, 256);
    post(&mut driver, 0, 100, 1);
    wire.send(&frame(60)).unwrap();
    assert_eq!(collect(&mut driver, 72, 1), received(60, 72));
}

#[test]
fn a_flood_in_one_direction_leaves_the_other_its_turn() {
    let (mut driver, wire) = driver(MRG_RXBUF, 256);
    post(&mut driver, 0, 200, 256);
    let flood = std::thread::spawn(move || {
        for _ in 0..200 {
            wire.send(&frame(60)).unwrap();
        }
        let mut seen = vec![0; 4096];
        wire.recv(&mut seen).unwrap()
    });
    driver.fill(SECOND_REGION, &frame(100));
    driver.submit(TX, &[readable(SECOND_REGION, 112)]);
    assert_eq!(driver.wait_used(TX).1, 0);
    assert_eq!(flood.join().unwrap(), 112);
    for _ in 0..200 {
        driver.wait_used(RX);
    }
}

#[test]
fn a_device_that_is_dropped_while_it_runs_ends_its_thread_and_closes_its_tap() {
    let (driver, wire) = driver(0, 16);
    wire.send(&frame(60)).unwrap();
    drop(driver);
    let gone = wire.send(&frame(60)).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_group_address_and_a_tiny_mtu_are_refused() {
    let make = |mac, mtu| {
        let (tap, _wire) = Tap::socket();
        Net::<()>::new(NetConfig {
            name: "test".to_owned(),
            tap,
            mac,
            mtu,
        })
    };
    assert!(matches!(
        make(Some([1, 0, 0, 0, 0, 1]), None),
        Err(NetError::GroupMac { .. })
    ));
    assert!(matches!(make(None, Some(67)), Err(NetError::Mtu { .. })));
    assert!(make(None, Some(68)).is_ok());
}
