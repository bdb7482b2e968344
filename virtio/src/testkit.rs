//! A driver in plain memory: what the tests and fuzz targets of this crate use in a guest's place.
//!
//! It drives a device through its registers, as a real driver does, and can also do everything
//! that a real driver must not. It exists only in tests and with the feature `testkit`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![allow(missing_docs, reason = "a testkit's names say what they do")]

#[cfg(test)]
mod allocations;
mod still;

#[cfg(test)]
pub use allocations::allocations;
pub use still::{RunHere, Still};

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

#[cfg(feature = "testkit")]
use crate::block::{Block, BlockConfig, CacheMode};
use crate::device::{GuestMem, VirtioDevice};
use crate::interrupt::IrqLine;
#[cfg(feature = "testkit")]
use crate::net::{Net, NetConfig, Tap};
use crate::transport::MmioTransport;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

pub const VERSION_1: u64 = 1 << 32;
pub const EVENT_IDX: u64 = 1 << 29;

pub const ACKNOWLEDGE: u32 = 1;
pub const DRIVER: u32 = 2;
pub const DRIVER_OK: u32 = 4;
pub const FEATURES_OK: u32 = 8;
pub const NEEDS_RESET: u32 = 64;

pub const STATUS: u64 = 0x70;

/// Guest memory: 4 MiB, then a hole, then 1 MiB.
pub const MEMORY: u64 = 4 << 20;
pub const SECOND_REGION: u64 = 16 << 20;
/// Where the queues' rings begin, 64 KiB each; buffers are the tests' own, from here on.
const RINGS: u64 = 0x10_000;
pub const BUFFERS: u64 = 0x10_0000;

/// Only this crate's own tests count.
#[cfg(not(test))]
pub fn allocations() -> u64 {
    0
}

#[derive(Default)]
pub struct CountingLine(pub AtomicUsize);

impl IrqLine for CountingLine {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One descriptor's worth of request.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
}

pub fn readable(addr: u64, len: u32) -> Buffer {
    Buffer {
        addr,
        len,
        flags: 0,
    }
}

pub fn writable(addr: u64, len: u32) -> Buffer {
    Buffer {
        addr,
        len,
        flags: WRITE,
    }
}

#[derive(Clone, Copy)]
pub struct Rings {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    avail_idx: u16,
    used_idx: u16,
    next_desc: u16,
}

pub struct Driver {
    pub mmio: MmioTransport<()>,
    pub mem: GuestMem<()>,
    pub line: Arc<CountingLine>,
    pub rings: Vec<Rings>,
    pub features: u64,
}

pub fn guest_memory() -> GuestMem<()> {
    let regions = [
        (GuestAddress(0), MEMORY as usize),
        (GuestAddress(SECOND_REGION), 1 << 20),
    ];
    GuestMem::new(GuestMemoryMmap::from_ranges(&regions).unwrap())
}

impl Driver {
    /// A driver that has not touched the device.
    pub fn new(device: impl VirtioDevice<()> + 'static) -> Self {
        let mem = guest_memory();
        let line = Arc::new(CountingLine::default());
        let to_device = Arc::clone(&line) as Arc<dyn IrqLine>;
        let mmio = MmioTransport::new(Box::new(device), mem.clone(), to_device).unwrap();
        Self {
            mmio,
            mem,
            line,
            rings: Vec::new(),
            features: 0,
        }
    }

    /// A driver that has brought the device to `DRIVER_OK`, all queues of `size`, with `features`
    /// of those offered.
    pub fn running(device: impl VirtioDevice<()> + 'static, features: u64, size: u16) -> Self {
        let mut driver = Self::new(device);
        driver.start(features, size);
        driver
    }

    pub fn start(&mut self, features: u64, size: u16) {
        self.negotiate(features);
        assert_eq!(self.read(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.rings.clear();
        for queue in 0..self.mmio.queue_count() {
            self.enable_queue(queue, size);
        }
        self.add_status(DRIVER_OK);
    }

    pub fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    pub fn add_status(&mut self, bits: u32) {
        let status = self.read(STATUS);
        self.write(STATUS, status | bits);
    }

    pub fn negotiate(&mut self, features: u64) {
        self.add_status(ACKNOWLEDGE);
        self.add_status(DRIVER);
        self.features = features;
        for half in 0..2 {
            self.write(0x24, half);
            self.write(0x20, (features >> (32 * half)) as u32);
        }
        self.add_status(FEATURES_OK);
    }

    pub fn place_rings(&mut self, queue: u16, size: u16) -> Rings {
        let base = RINGS + u64::from(queue) * 0x10000;
        let rings = Rings {
            size,
            desc: base,
            avail: base + 0x8000,
            used: base + 0xa000,
            avail_idx: 0,
            used_idx: 0,
            next_desc: 0,
        };
        let zeros = vec![0; 0x10000];
        self.mem
            .memory()
            .write_slice(&zeros, GuestAddress(base))
            .unwrap();
        rings
    }

    pub fn configure_queue(&mut self, queue: u16, rings: &Rings) {
        self.write(0x30, u32::from(queue));
        self.write(0x38, u32::from(rings.size));
        for (register, value) in [(0x80, rings.desc), (0x90, rings.avail), (0xa0, rings.used)] {
            self.write(register, value as u32);
            self.write(register + 4, (value >> 32) as u32);
        }
        self.write(0x44, 1);
    }

    pub fn enable_queue(&mut self, queue: u16, size: u16) {
        let rings = self.place_rings(queue, size);
        self.configure_queue(queue, &rings);
        self.rings.push(rings);
    }

    pub fn store<T: vm_memory::ByteValued>(&self, addr: u64, value: T) {
        self.mem
            .memory()
            .write_obj(value, GuestAddress(addr))
            .unwrap();
    }

    pub fn load<T: vm_memory::ByteValued>(&self, addr: u64) -> T {
        self.mem.memory().read_obj(GuestAddress(addr)).unwrap()
    }

    pub fn fill(&self, addr: u64, data: &[u8]) {
        self.mem
            .memory()
            .write_slice(data, GuestAddress(addr))
            .unwrap();
    }

    pub fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.mem
            .memory()
            .read_slice(&mut data, GuestAddress(addr))
            .unwrap();
        data
    }

    /// Writes one descriptor, in the queue's table or any other.
    pub fn descriptor(&self, table: u64, index: u16, buffer: Buffer, next: u16) {
        let at = table + 16 * u64::from(index);
        self.store(at, buffer.addr);
        self.store(at + 8, buffer.len);
        self.store(at + 12, buffer.flags);
        self.store(at + 14, next);
    }

    /// Lays a chain out in the queue's table; returns its head.
    pub fn chain(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let rings = self.rings[queue];
        let head = rings.next_desc;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = (head + position as u16) % rings.size;
            let more = position + 1 < buffers.len();
            let flags = buffer.flags | if more { NEXT } else { 0 };
            self.descriptor(
                rings.desc,
                index,
                Buffer { flags, ..*buffer },
                (index + 1) % rings.size,
            );
        }
        self.rings[queue].next_desc = (head + buffers.len() as u16) % rings.size;
        head
    }

    /// Offers a chain to the device, without telling it.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let rings = &mut self.rings[queue];
        let slot = rings.avail + 4 + 2 * u64::from(rings.avail_idx % rings.size);
        rings.avail_idx = rings.avail_idx.wrapping_add(1);
        let (index_at, index) = (rings.avail + 2, rings.avail_idx);
        self.store(slot, head);
        self.store(index_at, index);
    }

    pub fn kick(&mut self, queue: usize) {
        self.write(0x50, queue as u32);
    }

    /// Offers a chain and tells the device.
    pub fn submit(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let head = self.chain(queue, buffers);
        self.offer(queue, head);
        self.kick(queue);
        head
    }

    /// The next used entry, if there is one: head and length.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let rings = self.rings[queue];
        if self.load::<u16>(rings.used + 2) == rings.used_idx {
            return None;
        }
        let slot = rings.used + 4 + 8 * u64::from(rings.used_idx % rings.size);
        self.rings[queue].used_idx = rings.used_idx.wrapping_add(1);
        Some((self.load::<u32>(slot) as u16, self.load::<u32>(slot + 4)))
    }

    /// Waits for the next used entry.
    pub fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        let mut entry = None;
        wait_for("a used buffer", || {
            entry = self.used(queue);
            entry.is_some()
        });
        entry.unwrap()
    }

    pub fn wait_needs_reset(&mut self) {
        wait_for("DEVICE_NEEDS_RESET", || {
            self.read(STATUS) & NEEDS_RESET != 0
        });
    }

    pub fn interrupts(&self) -> usize {
        self.line.0.load(Ordering::SeqCst)
    }
}

/// Waits up to 10 s, which no healthy machine needs, for `condition`.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "no {what} within 10 s"
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A disk of 16 sectors, on `file` (see [`unnamed_file`]).
#[cfg(feature = "testkit")]
pub fn sample_disk(file: std::fs::File) -> Block<()> {
    file.set_len(16 * 512).unwrap();
    let (name, serial) = ("fuzz".to_owned(), "fuzz".to_owned());
    let config = BlockConfig {
        name,
        file,
        read_only: false,
        cache: CacheMode::Unsafe,
        serial,
    };
    Block::new(config).unwrap()
}

/// A file that nobody else can find, and that is gone with its last descriptor.
#[cfg(feature = "testkit")]
pub fn unnamed_file() -> std::fs::File {
    let path = std::env::temp_dir().join(format!("berth-fuzz-{}", std::process::id()));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// A network device whose wire is the second value.
#[cfg(feature = "testkit")]
pub fn sample_net() -> (Net<()>, std::os::unix::net::UnixDatagram) {
    let (tap, wire) = Tap::socket();
    wire.set_nonblocking(true).unwrap();
    let config = NetConfig {
        name: "fuzz".to_owned(),
        tap,
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: Some(1500),
    };
    (Net::new(config).unwrap(), wire)
}
