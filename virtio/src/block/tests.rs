//! The disk as its driver sees it, and as an attacker in the driver's place does.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;

use super::*;
use crate::testkit::*;

mod life;
mod mistakes;
mod requests;

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
