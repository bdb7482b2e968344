//! Guests on `/dev/kvm`: a directory and a `berth-vmm` process each.
//!
//! Reading order: [`images`] (the cache) with [`convert`] and [`helper`], [`disks`] and
//! [`config_drive`] (what a guest boots from), [`network`] with [`links`], [`tap`] and [`dhcp`],
//! [`process`] and [`spawn`] (the VMM), [`guest`] (what the VMM is told), [`steps`] (the plans), and
//! this file, which is the [`Driver`].
//!
//! | under the state directory | what |
//! | --- | --- |
//! | `vmms/<vmm id>/` | one VMM: disks, config drive, console, socket, status, log |
//! | `images/` | the cache |
//! | `networks/<network id>/` | one network's DHCP server |

#![allow(
    clippy::disallowed_methods,
    reason = "the machine's edge: it waits for processes and sockets, by their time"
)]

mod capacity;
mod config_drive;
mod convert;
mod dhcp;
mod disks;
mod eviction;
mod guest;
mod helper;
mod images;
mod links;
mod network;
mod process;
mod spawn;
mod steps;
mod tap;

use crate::driver::{Driver, DriverError, Job, Observed, Step};
use crate::hints::Hints;
use crate::link::{Controller, chain};
use crate::options::Options;
use berth_rpc_types::link::NetworkDocument;
use berth_rpc_types::{Capacity, VmmId};
use futures::future::BoxFuture;
use process::{Folder, Found};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Drawn by the kernel at each boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Runs guests on this host's KVM.
pub struct KvmDriver(Arc<Host>);

/// What the driver's parts share.
struct Host {
    vmms: PathBuf,
    vmm_binary: PathBuf,
    console_bytes: u64,
    physical_networks: Vec<String>,
    images: images::Images,
    networks: network::Networks,
    hints: Arc<Hints>,
}

impl KvmDriver {
    /// Makes the directories it needs. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If they cannot be made, or netlink cannot be opened.
    pub fn new(
        options: &Options,
        state_dir: &Path,
        controller: Arc<dyn Controller>,
    ) -> io::Result<Self> {
        // VMMs and helpers run in other directories: their arguments must be absolute.
        let state_dir = fs::canonicalize(state_dir)?;
        let folder = |name: &str| {
            let path = state_dir.join(name);
            fs::create_dir_all(&path).map(|()| path)
        };
        let networks = network::Networks::new(
            folder("networks")?,
            options.physical_networks.clone(),
            Arc::clone(&controller),
        );
        Ok(Self(Arc::new(Host {
            vmms: folder("vmms")?,
            vmm_binary: options.vmm_binary.clone(),
            console_bytes: options.console_bytes,
            physical_networks: options.physical_networks.keys().cloned().collect(),
            images: images::Images::new(
                folder("images")?,
                options.vmm_binary.clone(),
                controller,
                eviction::Bound {
                    bytes: options.image_cache_bytes,
                },
            ),
            networks: networks.map_err(io::Error::other)?,
            hints: Arc::default(),
        })))
    }
}

impl Host {
    fn folder(&self, vmm_id: VmmId) -> Folder {
        Folder(self.vmms.join(vmm_id.to_string()))
    }

    fn vmm_ids(&self) -> io::Result<Vec<VmmId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.vmms)? {
            let name = entry?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<VmmId>().ok()));
        }
        Ok(ids)
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(io::Error::other(error)),
    }
}

fn broken(what: &str, error: &io::Error) -> DriverError {
    DriverError::host(format!("{what} on this host: {error}"), chain(error))
}

impl Driver for KvmDriver {
    fn kind(&self) -> &'static str {
        "kvm"
    }

    fn boot_id(&self) -> Result<String, DriverError> {
        let read = fs::read_to_string(BOOT_ID);
        let boot_id = read.map_err(|error| broken("the boot id cannot be read", &error))?;
        Ok(boot_id.trim().to_owned())
    }

    fn capacity(&self) -> BoxFuture<'_, Result<Capacity, DriverError>> {
        Box::pin(async {
            let disks = self.0.vmms.clone();
            let capacity = blocking(move || capacity::read(&disks)).await;
            let mut capacity = capacity.map_err(|e| broken("capacity cannot be read", &e))?;
            capacity.physical_networks = self.0.physical_networks.clone();
            Ok(capacity)
        })
    }

    fn adopt(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async {
            let ids = self
                .0
                .vmm_ids()
                .map_err(|e| broken("guests cannot be listed", &e))?;
            for vmm_id in ids {
                match self.0.folder(vmm_id).find() {
                    Ok(Found::Alive(alive, _)) => {
                        tracing::info!(%vmm_id, "guest adopted");
                        process::watch(vmm_id, alive, Arc::clone(&self.0.hints));
                    }
                    Ok(_) => {}
                    // One damaged directory must not keep the others from being adopted.
                    Err(error) => tracing::error!(%vmm_id, %error, "guest not adopted"),
                }
            }
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<VmmId>, DriverError>> {
        Box::pin(async {
            self.0
                .vmm_ids()
                .map_err(|e| broken("guests cannot be listed", &e))
        })
    }

    fn observe(&self, vmm_id: VmmId) -> BoxFuture<'_, Result<Observed, DriverError>> {
        let folder = self.0.folder(vmm_id);
        Box::pin(async move {
            let observed = blocking(move || folder.observe()).await;
            observed.map_err(|e| broken("the guest cannot be observed", &e))
        })
    }

    fn plan(&self, job: &Job) -> Vec<Box<dyn Step>> {
        steps::plan(&self.0, job)
    }

    fn next_change(&self) -> BoxFuture<'_, VmmId> {
        Box::pin(self.0.hints.take())
    }

    fn console_log(
        &self,
        vmm_id: VmmId,
        lines: Option<u32>,
    ) -> BoxFuture<'_, Result<String, DriverError>> {
        let folder = self.0.folder(vmm_id);
        let limit = self.0.console_bytes.saturating_mul(2);
        Box::pin(async move {
            let path = folder.console();
            let bytes = match blocking(move || crate::console::read_end(&path, limit)).await {
                Ok(bytes) => bytes,
                // A guest that was never started has said nothing.
                Err(e) if e.kind() == io::ErrorKind::NotFound && folder.0.exists() => Vec::new(),
                Err(e) => return Err(broken("the console cannot be read", &e)),
            };
            let text = String::from_utf8_lossy(&bytes);
            Ok(crate::console::last_lines(&text, lines).to_owned())
        })
    }

    fn apply_networks(&self, document: NetworkDocument) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(self.0.networks.apply(document))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! Specs for the tests of the parts.
    #![allow(clippy::unwrap_used)]

    use berth_rpc_types::spec::{AddressSpec, BootSpec, ConfigDriveSpec};
    use berth_rpc_types::{
        DiskSpec, ImageId, ImageSpec, InstanceId, NetworkId, PortId, PortSpec, VmmSpec,
    };

    pub fn image(format: &str) -> ImageSpec {
        ImageSpec {
            id: ImageId::from_u128(1),
            disk_format: format.into(),
            size: 0,
            sha512: "0".repeat(128),
            path: "/agent/v1/images/1".into(),
            token: "t".into(),
        }
    }

    pub fn disk(n: u128) -> DiskSpec {
        DiskSpec {
            id: uuid::Uuid::from_u128(n),
            image: None,
            size_gib: 1,
            read_only: false,
        }
    }

    pub fn address(text: &str, dhcp: bool) -> AddressSpec {
        AddressSpec {
            address: text.parse().unwrap(),
            prefix: 24,
            gateway: Some("10.0.0.1".parse().unwrap()),
            dns: Vec::new(),
            dhcp,
        }
    }

    pub fn port(n: u8, addresses: Vec<AddressSpec>) -> PortSpec {
        PortSpec {
            id: PortId::from_u128(n.into()),
            network_id: NetworkId::from_u128(1),
            mac: format!("06:00:00:00:00:{n:02x}"),
            mtu: 1500,
            addresses,
        }
    }

    pub fn spec() -> VmmSpec {
        VmmSpec {
            instance_id: InstanceId::from_u128(1),
            name: "web".into(),
            project_id: "p".into(),
            vcpus: 1,
            memory_mib: 128,
            boot: BootSpec {
                kernel: image("aki"),
                ramdisk: None,
                cmdline: String::new(),
            },
            disks: Vec::new(),
            ports: Vec::new(),
            config_drive: ConfigDriveSpec::default(),
        }
    }
}
