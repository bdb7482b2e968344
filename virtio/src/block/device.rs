//! The block device's life and configuration space.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueState;

use super::raw::{Disk, RawJob};
use super::request::{ID_BYTES, SECTOR};
use crate::chain::Chain;
use crate::complaints::Complaints;
use crate::device::{Activation, DeviceError, GuestBitmap, VirtioDevice};
use crate::guest_io::GuestIo;
use crate::life::Life;
use crate::patience::Patience;

const QUEUE_SIZE: u16 = 256;
/// Data segments a request: the queue less the header's and the status's descriptor.
const SEG_MAX: u32 = 254;

/// What becomes of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Flushes reach the file, which makes answered writes durable. The default.
    #[default]
    Writeback,
    /// Flushes are answered and not done: fast, and a host crash loses data that the guest
    /// believes safe. Firecracker's default.
    Unsafe,
}

/// A disk to be.
#[derive(Debug)]
pub struct BlockConfig {
    /// Names the disk in logs and its thread.
    pub name: String,
    /// The raw image or block device, opened for reading, and for writing unless `read_only`.
    pub file: File,
    /// The guest may not write.
    pub read_only: bool,
    /// What becomes of a flush.
    pub cache: CacheMode,
    /// What `GET_ID` tells (`/dev/disk/by-id/virtio-...`): ASCII, at most 20 bytes.
    pub serial: String,
}

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The file's size could not be read.
    #[error("cannot read the size of disk {name}'s file")]
    Size {
        /// The disk.
        name: String,
        /// The host's answer.
        source: std::io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("disk {name} is neither a regular file nor a block device: give it a raw image")]
    NotADisk {
        /// The disk.
        name: String,
    },
    /// The serial does not fit `GET_ID`.
    #[error("disk {name}'s serial {serial:?} must be ASCII of at most {ID_BYTES} bytes")]
    Serial {
        /// The disk.
        name: String,
        /// The serial.
        serial: String,
    },
}

/// A virtio block device on a raw file.
pub struct Block<B: GuestBitmap> {
    name: String,
    file: Arc<File>,
    read_only: bool,
    cache: CacheMode,
    capacity: u64,
    id: [u8; ID_BYTES],
    complaints: Arc<Complaints>,
    life: Life<RawJob<B>>,
}

impl<B: GuestBitmap> Block<B> {
    /// A disk as configured.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn new(config: BlockConfig) -> Result<Self, BlockError> {
        let BlockConfig {
            name,
            mut file,
            read_only,
            cache,
            serial,
        } = config;
        let size = match disk_bytes(&mut file) {
            Ok(Some(size)) => size,
            Ok(None) => return Err(BlockError::NotADisk { name }),
            Err(source) => return Err(BlockError::Size { name, source }),
        };
        let mut id = [0; ID_BYTES];
        match id.get_mut(..serial.len()) {
            Some(room) if serial.is_ascii() => room.copy_from_slice(serial.as_bytes()),
            _ => return Err(BlockError::Serial { name, serial }),
        }
        if !size.is_multiple_of(SECTOR) {
            let lost = size % SECTOR;
            tracing::warn!(
                disk = name,
                size,
                lost,
                "the disk's last, partial sector is not shown"
            );
        }
        let file = Arc::new(file);
        let life = Life::new(&name);
        Ok(Self {
            name,
            file,
            read_only,
            cache,
            capacity: size / SECTOR,
            id,
            complaints: Arc::default(),
            life,
        })
    }

    /// Capacity in sectors of 512 bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
}

/// A disk's size in bytes, also of a block device; None if it is neither.
fn disk_bytes(file: &mut File) -> std::io::Result<Option<u64>> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok(Some(metadata.len()))
    } else if metadata.file_type().is_block_device() {
        file.seek(SeekFrom::End(0)).map(Some)
    } else {
        Ok(None)
    }
}

#[cfg(any(test, feature = "testkit"))]
impl<B: GuestBitmap> Block<B> {
    /// See [`RunHere`](crate::testkit::RunHere).
    pub(crate) fn job_here(&mut self, passes: usize) -> u64 {
        self.life.run_here(passes)
    }
}

impl<B: GuestBitmap> VirtioDevice<B> for Block<B> {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let mut features = (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_BLK_F_SEG_MAX)
            | (1 << VIRTIO_BLK_F_BLK_SIZE);
        if self.cache == CacheMode::Writeback {
            features |= 1 << VIRTIO_BLK_F_FLUSH;
        }
        if self.read_only {
            features |= 1 << VIRTIO_BLK_F_RO;
        }
        features
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config` up to `blk_size` (virtio 1.2, 5.2.4): le64 capacity, le32
    /// size_max, le32 seg_max, geometry (4 bytes), le32 blk_size.
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(24);
        config.extend_from_slice(&self.capacity.to_le_bytes());
        config.extend_from_slice(&0u32.to_le_bytes());
        config.extend_from_slice(&SEG_MAX.to_le_bytes());
        config.extend_from_slice(&[0; 4]);
        config.extend_from_slice(&512u32.to_le_bytes());
        config
    }

    fn activate(&mut self, activation: Activation<B>) -> Result<(), DeviceError> {
        let Activation {
            mem,
            features,
            queues,
            interrupt,
        } = activation;
        let queue = queues.into_iter().find(|queue| queue.index == 0);
        let queue = queue.ok_or(DeviceError::MissingQueue(0))?;
        let durable = self.cache == CacheMode::Writeback;
        self.life.prepare(RawJob {
            mem,
            queue,
            interrupt,
            disk: Disk {
                file: Arc::clone(&self.file),
                read_only: self.read_only,
                capacity: self.capacity,
                id: self.id,
                durable,
                write_through: durable && features & (1 << VIRTIO_BLK_F_FLUSH) == 0,
            },
            name: self.name.clone(),
            complaints: Arc::clone(&self.complaints),
            io: GuestIo::default(),
            chain: Chain::default(),
            patience: Patience::default(),
        })
    }

    fn pause(&mut self) -> Result<Vec<(u16, QueueState)>, DeviceError> {
        let job = self.life.pause()?;
        Ok(vec![(job.queue.index, job.queue.state())])
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        tracing::debug!(disk = self.name, "block device runs");
        self.life.resume()
    }

    fn reset(&mut self) {
        self.life.reset();
    }
}
