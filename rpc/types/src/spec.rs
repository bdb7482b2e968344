//! What a guest is to be. Complete: an agent builds from it without asking anybody.

use crate::{ImageId, InstanceId, NetworkId, PortId};
use serde::{Deserialize, Serialize};

/// Everything an agent needs to make a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmmSpec {
    /// Whose VMM this is.
    pub instance_id: InstanceId,
    /// The server's name; becomes the hostname in the config drive.
    pub name: String,
    /// The server's project.
    pub project_id: String,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// What the machine boots.
    pub boot: BootSpec,
    /// Disks in guest order; the first is the root disk.
    pub disks: Vec<DiskSpec>,
    /// Ports in guest order.
    pub ports: Vec<PortSpec>,
    /// What the config drive says.
    pub config_drive: ConfigDriveSpec,
}

/// Direct kernel boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootSpec {
    /// bzImage or ELF.
    pub kernel: ImageSpec,
    /// initrd.
    #[serde(default)]
    pub ramdisk: Option<ImageSpec>,
    /// Kernel command line.
    pub cmdline: String,
}

/// An image's bytes, and how to know that they are the right ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The image.
    pub id: ImageId,
    /// `raw` or `qcow2` for disks; `aki`, `ari` for kernels and ramdisks. Never guessed from bytes.
    pub disk_format: String,
    /// Size of the stored file in bytes.
    pub size: u64,
    /// Lower-case hex SHA-512 of the stored file (Glance's `os_hash_value`).
    pub sha512: String,
    /// Path on the controller's HTTPS address, for example `/agent/v1/images/<id>`.
    pub path: String,
    /// Bearer token for that path, bound to one operation.
    pub token: String,
}

impl ImageSpec {
    /// No disk of a guest is larger, so no image may claim to be, in bytes.
    pub const VIRTUAL_SIZE_LIMIT: u64 = 64 << 40;
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The disk's id in the database; its file's name on the host.
    pub id: uuid::Uuid,
    /// What it is made from; `None` makes an empty disk.
    #[serde(default)]
    pub image: Option<ImageSpec>,
    /// Size in GiB that the guest sees; 0 means the image's own virtual size.
    pub size_gib: u64,
    /// Whether the guest may not write.
    #[serde(default)]
    pub read_only: bool,
}

/// One NIC.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortSpec {
    /// The port.
    pub id: PortId,
    /// Its network.
    pub network_id: NetworkId,
    /// `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Addresses, with their subnets' facts for the config drive and DHCP.
    pub addresses: Vec<AddressSpec>,
}

/// One address of a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AddressSpec {
    /// The address.
    pub address: std::net::IpAddr,
    /// The subnet's prefix length.
    pub prefix: u8,
    /// Default gateway.
    #[serde(default)]
    pub gateway: Option<std::net::IpAddr>,
    /// Resolvers.
    #[serde(default)]
    pub dns: Vec<std::net::IpAddr>,
    /// Whether DHCP hands it out.
    pub dhcp: bool,
}

/// OpenStack's config drive, as data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConfigDriveSpec {
    /// Key name and OpenSSH public key.
    #[serde(default)]
    pub public_keys: Vec<(String, String)>,
    /// Base64 user data as the API took it.
    #[serde(default)]
    pub user_data: Option<String>,
    /// Server metadata.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
    /// Availability zone.
    #[serde(default)]
    pub availability_zone: String,
    /// The server's name as the API shows it; empty from a controller that does not say it. The
    /// [`VmmSpec`]'s is its hostname.
    #[serde(default)]
    pub display_name: String,
    /// Its number within its request, from 0.
    #[serde(default)]
    pub launch_index: u32,
}
