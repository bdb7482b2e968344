//! What a hostile driver may lay out: descriptors, tables, heads and indices, of which most lie
//! where a device looks at all.

use berth_virtio::testkit::{BUFFERS, Driver, MEMORY, SECOND_REGION};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// Descriptors in a queue's table.
pub const SIZE: u16 = 16;
/// Indirect tables, one after the other, 4 KiB each.
const TABLES: u64 = BUFFERS + 0x8_0000;

/// Where a descriptor points.
#[derive(Arbitrary, Debug)]
enum Place {
    /// One of the headers at the front of the buffers.
    Front(u8),
    /// Into the buffers, whose first bytes are the input's.
    Buffers(u16),
    /// Around the end of memory's first region.
    End(u8),
    /// Around the beginning of the second.
    Second(i8),
    /// To the rings themselves.
    Rings(u16),
    /// To one of the indirect tables.
    Table(u8),
    /// Anywhere.
    Any(u64),
}

impl Place {
    fn address(&self) -> u64 {
        match self {
            Self::Front(number) => BUFFERS + 16 * u64::from(*number % 8),
            Self::Buffers(offset) => BUFFERS + u64::from(*offset),
            Self::End(back) => MEMORY - u64::from(*back),
            Self::Second(by) => SECOND_REGION.wrapping_add_signed(i64::from(*by)),
            Self::Rings(offset) => 0x1_0000 + 4 * u64::from(*offset),
            Self::Table(number) => TABLES + 0x1000 * u64::from(*number % 8),
            Self::Any(address) => *address,
        }
    }
}

/// How long a descriptor says it is.
#[derive(Arbitrary, Debug)]
enum Length {
    Sectors(u8),
    Entries(u8),
    Header,
    Byte,
    Short(u16),
    Any(u32),
}

impl Length {
    fn bytes(&self) -> u32 {
        match self {
            Self::Sectors(count) => u32::from(count % 20) * 512,
            Self::Entries(count) => u32::from(*count) * 16,
            Self::Header => 16,
            Self::Byte => 1,
            Self::Short(bytes) => u32::from(*bytes),
            Self::Any(bytes) => *bytes,
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Descriptor {
    place: Place,
    length: Length,
    /// NEXT, WRITE, INDIRECT and bits that mean nothing.
    flags: u8,
    /// None: the following one.
    next: Option<u8>,
}

impl Descriptor {
    fn write(&self, driver: &Driver, table: u64, index: u16) {
        let buffer = berth_virtio::testkit::Buffer {
            addr: self.place.address(),
            len: self.length.bytes(),
            flags: u16::from(self.flags & 0xf),
        };
        let next = self.next.map_or(index.wrapping_add(1), u16::from);
        driver.descriptor(table, index, buffer, next);
    }
}

/// One queue's content.
#[derive(Arbitrary, Debug)]
pub struct Ring {
    table: Vec<Descriptor>,
    indirect: Vec<Vec<Descriptor>>,
    heads: Vec<u8>,
    /// Not as many entries as heads.
    lie: Option<u16>,
    used_event: u16,
    no_interrupt: bool,
}

impl Ring {
    /// Lays it out in the driver's memory and tells the device.
    pub fn write(&self, driver: &mut Driver, queue: usize) {
        let rings = driver.rings[queue];
        for (index, descriptor) in (0..SIZE).zip(&self.table) {
            descriptor.write(driver, rings.desc, index);
        }
        for (number, table) in (0..8).zip(&self.indirect) {
            for (index, descriptor) in (0..256).zip(table) {
                descriptor.write(driver, TABLES + 0x1000 * number, index);
            }
        }
        driver.store(rings.avail, u16::from(self.no_interrupt));
        let entries = rings.avail + 4;
        driver.store(entries + 2 * u64::from(SIZE), self.used_event);
        for head in self.heads.iter().take(usize::from(SIZE)) {
            driver.offer(queue, u16::from(*head));
        }
        if let Some(index) = self.lie {
            driver.store(rings.avail + 2, index);
        }
        driver.kick(queue);
    }
}
