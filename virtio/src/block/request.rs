//! What the driver asks of a disk (virtio 1.2, 5.2.6).
//!
//! Guarantees: a parsed [`Request`] has its 16-byte header, however it was split over descriptors,
//! a byte for its status, and only data between them. What cannot be answered for want of these is
//! a fault; what can be answered is left to the disk.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use vm_memory::{GuestAddress, GuestMemory};

use crate::chain::Chain;
use crate::queue::QueueFault;

/// Bytes in a sector, whatever the disk's own block size (virtio 1.2, 5.2.4).
pub const SECTOR: u64 = 512;
/// Bytes in the answer to `GET_ID`.
pub const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
/// `struct virtio_blk_req` before its data: le32 type, le32 reserved, le64 sector.
const HEADER_BYTES: usize = 16;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Disk to guest.
    Read,
    /// Guest to disk.
    Write,
    /// Make what was written durable.
    Flush,
    /// Tell the disk's serial.
    GetId,
    /// Something that was not offered.
    Unsupported(u32),
}

/// One request, whose data is what is left in the chain: `readable` for a write, `writable` for
/// everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// Where, in sectors.
    pub sector: u64,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

impl Request {
    /// Takes header and status off `chain`.
    ///
    /// # Errors
    /// If either is missing.
    pub fn parse<M: GuestMemory>(mem: &M, chain: &mut Chain) -> Result<Self, QueueFault> {
        let mut header = [0; HEADER_BYTES];
        chain
            .readable
            .copy_to(mem, &mut header)
            .map_err(|fault| fault.instead("a block request has no whole header"))?;
        chain.readable.advance(HEADER_BYTES as u64);
        let status = chain.writable.pop_last_byte().ok_or(QueueFault::Malformed(
            "a block request has no room for its status",
        ))?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let operation = match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => Operation::Read,
            VIRTIO_BLK_T_OUT => Operation::Write,
            VIRTIO_BLK_T_FLUSH => Operation::Flush,
            VIRTIO_BLK_T_GET_ID => Operation::GetId,
            other => Operation::Unsupported(other),
        };
        Ok(Self {
            operation,
            sector: u64::from_le_bytes(sector),
            status,
        })
    }
}

/// The byte at which `bytes` bytes from `sector` begin, if they are whole sectors that all lie
/// within a disk of `capacity` sectors.
pub fn place(sector: u64, bytes: u64, capacity: u64) -> Option<u64> {
    let end = sector.checked_add(bytes / SECTOR)?;
    if !bytes.is_multiple_of(SECTOR) || end > capacity {
        return None;
    }
    sector.checked_mul(SECTOR)
}
