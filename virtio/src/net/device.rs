//! The network device's life and configuration space.

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueState;

use super::job::NetJob;
use super::rx::Receiver;
use super::tap::Tap;
use super::tx::Transmitter;
use crate::complaints::Complaints;
use crate::device::{Activation, DeviceError, GuestBitmap, VirtioDevice};
use crate::life::Life;

const QUEUE_SIZES: [u16; 2] = [256, 256];
const RX: u16 = 0;
const TX: u16 = 1;
/// The least MTU that a device may state (virtio 1.2, 5.1.4.1).
const MIN_MTU: u16 = 68;

/// A network interface to be.
#[derive(Debug)]
pub struct NetConfig {
    /// Names the interface in logs and its thread.
    pub name: String,
    /// The host's side.
    pub tap: Tap,
    /// The guest's MAC address; None: the guest makes one up.
    pub mac: Option<[u8; 6]>,
    /// The MTU that the guest is told, in bytes; None: its own default.
    pub mtu: Option<u16>,
}

/// Why a network interface could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The MAC is a group address, which no interface can have.
    #[error("interface {name}: its MAC address is a group (multicast) address")]
    GroupMac {
        /// The interface.
        name: String,
    },
    /// The MTU is below what virtio allows.
    #[error("interface {name}: an MTU of {mtu} is less than {MIN_MTU}")]
    Mtu {
        /// The interface.
        name: String,
        /// The MTU.
        mtu: u16,
    },
}

/// A virtio network device on a tap.
pub struct Net<B: GuestBitmap> {
    name: String,
    tap: Arc<Tap>,
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
    complaints: Arc<Complaints>,
    life: Life<NetJob<B>>,
}

impl<B: GuestBitmap> Net<B> {
    /// An interface as configured.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn new(config: NetConfig) -> Result<Self, NetError> {
        let NetConfig {
            name,
            tap,
            mac,
            mtu,
        } = config;
        if mac.is_some_and(|[first, ..]| first & 1 != 0) {
            return Err(NetError::GroupMac { name });
        }
        if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::Mtu { name, mtu });
        }
        let life = Life::new(&name);
        Ok(Self {
            name,
            tap: Arc::new(tap),
            mac,
            mtu,
            complaints: Arc::default(),
            life,
        })
    }
}

#[cfg(any(test, feature = "testkit"))]
impl<B: GuestBitmap> Net<B> {
    /// See [`RunHere`](crate::testkit::RunHere).
    pub(crate) fn job_here(&mut self, passes: usize) -> u64 {
        self.life.run_here(passes)
    }
}

impl<B: GuestBitmap> VirtioDevice<B> for Net<B> {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        let mut features = (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_NET_F_CSUM)
            | (1 << VIRTIO_NET_F_GUEST_CSUM)
            | (1 << VIRTIO_NET_F_GUEST_TSO4)
            | (1 << VIRTIO_NET_F_GUEST_TSO6)
            | (1 << VIRTIO_NET_F_GUEST_ECN)
            | (1 << VIRTIO_NET_F_HOST_TSO4)
            | (1 << VIRTIO_NET_F_HOST_TSO6)
            | (1 << VIRTIO_NET_F_HOST_ECN)
            | (1 << VIRTIO_NET_F_MRG_RXBUF);
        if self.mac.is_some() {
            features |= 1 << VIRTIO_NET_F_MAC;
        }
        if self.mtu.is_some() {
            features |= 1 << VIRTIO_NET_F_MTU;
        }
        features
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_net_config` up to `mtu` (virtio 1.2, 5.1.4): 6 bytes mac, le16 status, le16
    /// max_virtqueue_pairs, le16 mtu.
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(12);
        config.extend_from_slice(&self.mac.unwrap_or_default());
        config.extend_from_slice(&[0; 4]);
        config.extend_from_slice(&self.mtu.unwrap_or_default().to_le_bytes());
        config
    }

    fn activate(&mut self, activation: Activation<B>) -> Result<(), DeviceError> {
        let Activation {
            mem,
            features,
            queues,
            interrupt,
        } = activation;
        let (mut rx, mut tx) = (None, None);
        for queue in queues {
            match queue.index {
                RX => rx = Some(queue),
                TX => tx = Some(queue),
                _ => {}
            }
        }
        let rx = rx.ok_or(DeviceError::MissingQueue(RX))?;
        let tx = tx.ok_or(DeviceError::MissingQueue(TX))?;
        self.tap
            .set_offloads(tap_offloads(features))
            .map_err(|source| DeviceError::Host {
                doing: "set the tap's offloads (is the kernel older than 2.6.27?)",
                source,
            })?;
        let mergeable = features & (1 << VIRTIO_NET_F_MRG_RXBUF) != 0;
        self.life.prepare(NetJob {
            mem,
            interrupt,
            tap: Arc::clone(&self.tap),
            rx,
            tx,
            receiver: Receiver::new(mergeable),
            transmitter: Transmitter::default(),
            starved: false,
            name: self.name.clone(),
            complaints: Arc::clone(&self.complaints),
        })
    }

    fn pause(&mut self) -> Result<Vec<(u16, QueueState)>, DeviceError> {
        let job = self.life.pause()?;
        job.settle();
        Ok(vec![
            (job.rx.index, job.rx.state()),
            (job.tx.index, job.tx.state()),
        ])
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        tracing::debug!(interface = self.name, "network device runs");
        self.life.resume()
    }

    fn reset(&mut self) {
        self.life.reset();
    }
}

/// Which unfinished frames the driver said it takes, in the tap's terms. Segmentation without
/// checksumming makes no sense, and the kernel would refuse it.
fn tap_offloads(features: u64) -> u32 {
    let has = |bit: u32| features & (1 << bit) != 0;
    if !has(VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    let mut offloads = libc::TUN_F_CSUM;
    if has(VIRTIO_NET_F_GUEST_TSO4) {
        offloads |= libc::TUN_F_TSO4;
    }
    if has(VIRTIO_NET_F_GUEST_TSO6) {
        offloads |= libc::TUN_F_TSO6;
    }
    if has(VIRTIO_NET_F_GUEST_ECN) && offloads != libc::TUN_F_CSUM {
        offloads |= libc::TUN_F_TSO_ECN;
    }
    offloads
}
