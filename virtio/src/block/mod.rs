//! The block device (virtio 1.2, 5.2) on a raw file.
//!
//! Guarantees: a request reads or writes exactly its sectors or is answered with `IOERR`; nothing
//! beyond the capacity, and nothing at all on a read-only disk, is written. A write that was
//! answered survives a host crash once a flush was answered, unless the disk was configured to be
//! [`CacheMode::Unsafe`]. The format is never guessed from the bytes: a guest that writes a qcow2
//! header into its raw disk has written a header into a raw disk.
//!
//! [`device`] is the life of the device, [`request`] parses what the driver asks, [`raw`] does it.

mod device;
mod raw;
mod request;

pub use device::{Block, BlockConfig, BlockError, CacheMode};

#[cfg(test)]
mod tests;
