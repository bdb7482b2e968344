//! A host's networks: a bridge each, with the physical interface in it, a tap for each port,
//! and a DHCP server ([`super::dhcp`]) that knows this host's ports and nobody else.
//!
//! A reconciler: [`Networks::apply`] makes the host what the document says, whatever it was,
//! and may be called at any time with the same document. It removes only what it has made for
//! a network that the document no longer names and no tap is left on. Taps belong to their
//! VMM's commands: they are made and removed by name, and a name is a hash of VMM and port.

use super::dhcp::{self, DhcpServer};
use super::links::{Links, LinksError};
use super::{blocking, tap};
use crate::driver::DriverError;
use crate::link::{Controller, chain};
use berth_rpc_types::link::{HostNetwork, NetworkDocument};
use berth_rpc_types::{NetworkId, PortSpec, VmmId};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long a build waits for the controller's document to name its port.
const PORT_PATIENCE: u32 = 20;
const PORT_INTERVAL: Duration = Duration::from_millis(500);

/// The name of a network's bridge: 15 characters at most are a name to Linux.
pub(super) fn bridge_name(network: NetworkId) -> String {
    short("bb", &[network.0.as_bytes()])
}

/// The name of a port's tap.
pub(super) fn tap_name(vmm_id: VmmId, port: &PortSpec) -> String {
    short("bt", &[vmm_id.0.as_bytes(), port.id.0.as_bytes()])
}

fn short(prefix: &str, parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part));
    format!("{prefix}{}", &hex::encode(digest.finalize())[..12])
}

/// See the module's words.
pub(super) struct Networks {
    folder: PathBuf,
    physical: BTreeMap<String, String>,
    controller: Arc<dyn Controller>,
    links: Links,
    /// Held while anything of it is changed.
    applied: Mutex<BTreeMap<NetworkId, HostNetwork>>,
}

impl Networks {
    pub fn new(
        folder: PathBuf,
        physical: BTreeMap<String, String>,
        controller: Arc<dyn Controller>,
    ) -> Result<Self, LinksError> {
        Ok(Self {
            folder,
            physical,
            controller,
            links: Links::open()?,
            applied: Mutex::default(),
        })
    }

    /// Makes the host what the document says. Goes on with the other networks where one fails.
    pub async fn apply(&self, document: NetworkDocument) -> Result<(), DriverError> {
        let mut applied = self.applied.lock().await;
        let mut failures = Vec::new();
        for network in &document.networks {
            match self.make(network).await {
                Ok(()) => {
                    applied.insert(network.id, network.clone());
                }
                Err(error) => failures.push(format!("network {}: {error}", network.id)),
            }
        }
        for network in dhcp::networks_in(&self.folder) {
            if document.networks.iter().all(|n| n.id != network) {
                match self.remove(network).await {
                    Ok(()) => {
                        applied.remove(&network);
                    }
                    Err(error) => failures.push(format!("network {network}: {error}")),
                }
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        let text = failures.join("; ");
        Err(DriverError::host(
            format!("networks on this host: {text}"),
            text.clone(),
        ))
    }

    async fn make(&self, network: &HostNetwork) -> Result<(), NetworkError> {
        let physical = self.physical_interface(network)?;
        // The folder is what says later that the bridge is ours to remove.
        let server = DhcpServer::new(&self.folder, network);
        server.make_folder()?;
        let bridge = bridge_name(network.id);
        let index = self.links.bridge(&bridge, network.mtu).await?;
        if let Some(interface) = physical {
            self.links
                .enslave_physical(&interface, &bridge, index)
                .await?;
        }
        for subnet in network.subnets.iter().filter(|subnet| subnet.dhcp) {
            if let Some(address) = subnet.dhcp_address {
                let net: ipnet::IpNet = subnet
                    .cidr
                    .parse()
                    .map_err(|_| NetworkError::Cidr(subnet.cidr.clone()))?;
                // Where the bridge is wired to a real network, the host's own routes stay as they are.
                let with_route = physical_is_none(&self.physical, network);
                self.links
                    .address(index, address, net.prefix_len(), with_route)
                    .await?;
            }
        }
        server.serve(&bridge).await?;
        Ok(())
    }

    fn physical_interface(&self, network: &HostNetwork) -> Result<Option<String>, NetworkError> {
        if network.network_type != "flat" {
            return Err(NetworkError::Type(network.network_type.clone()));
        }
        let Some(name) = &network.physical_network else {
            return Ok(None);
        };
        match self.physical.get(name) {
            Some(interface) if interface.is_empty() => Ok(None),
            Some(interface) => Ok(Some(interface.clone())),
            None => Err(NetworkError::NotWired(name.clone())),
        }
    }

    async fn remove(&self, network: NetworkId) -> Result<(), NetworkError> {
        let bridge = bridge_name(network);
        if self.links.has_taps(&bridge).await? {
            // A guest is still on it; its delete comes first.
            return Ok(());
        }
        dhcp::stop(&self.folder, network).await?;
        self.links.remove_bridge(&bridge).await?;
        dhcp::remove_folder(&self.folder, network)?;
        tracing::info!(%network, "network removed from this host");
        Ok(())
    }

    /// Makes a port's tap, on its network's bridge. Fetches the document if the network is not
    /// known here yet, and waits a while for it to name the port, so that DHCP serves the guest
    /// from its first packet on.
    pub async fn wire(
        &self,
        vmm_id: VmmId,
        port: &PortSpec,
        cancelled: &CancellationToken,
    ) -> Result<(), DriverError> {
        for attempt in 0..PORT_PATIENCE {
            if self.knows(vmm_id, port).await {
                break;
            }
            if attempt > 0 {
                tokio::select! {
                    () = tokio::time::sleep(PORT_INTERVAL) => {}
                    () = cancelled.cancelled() => return Err(DriverError::Cancelled),
                }
            }
            match self.controller.networks().await {
                Ok(document) => self.apply(document).await?,
                Err(error) => tracing::warn!(%error, "network document not fetched"),
            }
        }
        if !self.knows(vmm_id, port).await {
            let message = format!(
                "port {}: the controller's networks for this host do not name it",
                port.id
            );
            return Err(DriverError::host(
                message,
                format!("network {}", port.network_id),
            ));
        }
        let name = tap_name(vmm_id, port);
        self.wire_tap(&name, port).await.map_err(|error| {
            let message = format!(
                "port {}: its tap {name} cannot be made on this host: {error}",
                port.id
            );
            DriverError::host(message, chain(&error))
        })
    }

    async fn wire_tap(&self, name: &str, port: &PortSpec) -> Result<(), NetworkError> {
        let tap = name.to_owned();
        blocking(move || tap::make(&tap)).await?;
        let bridge = self.links.index(&bridge_name(port.network_id)).await?;
        let bridge = bridge.ok_or(NetworkError::NoBridge(port.network_id))?;
        self.links.attach(name, bridge, port.mtu).await?;
        Ok(())
    }

    async fn knows(&self, vmm_id: VmmId, port: &PortSpec) -> bool {
        let applied = self.applied.lock().await;
        applied.get(&port.network_id).is_some_and(|network| {
            network
                .ports
                .iter()
                .any(|p| p.id == port.id && p.vmm_id == vmm_id)
        })
    }

    /// Whether a port's tap is there and on a bridge.
    pub async fn is_wired(&self, vmm_id: VmmId, port: &PortSpec) -> Result<bool, DriverError> {
        let attached = self
            .links
            .controller_of(&tap_name(vmm_id, port))
            .await
            .map_err(broken)?;
        let bridge = self
            .links
            .index(&bridge_name(port.network_id))
            .await
            .map_err(broken)?;
        Ok(bridge.is_some() && attached == bridge && self.knows(vmm_id, port).await)
    }

    /// Removes a port's tap, if it is there.
    pub async fn unwire(&self, vmm_id: VmmId, port: &PortSpec) -> Result<(), DriverError> {
        self.links
            .remove(&tap_name(vmm_id, port))
            .await
            .map_err(broken)
    }
}

fn physical_is_none(physical: &BTreeMap<String, String>, network: &HostNetwork) -> bool {
    let name = network.physical_network.as_ref();
    name.and_then(|name| physical.get(name))
        .is_none_or(String::is_empty)
}

fn broken(error: LinksError) -> DriverError {
    DriverError::host(format!("networks on this host: {error}"), chain(&error))
}

/// Why a network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    #[error(transparent)]
    Links(#[from] LinksError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("type {0} is not supported; only flat is")]
    Type(String),
    #[error(
        "this host is not wired to physical network {0}; name its interface in physical_networks"
    )]
    NotWired(String),
    #[error("{0} is no subnet")]
    Cidr(String),
    #[error("network {0} has no bridge on this host")]
    NoBridge(NetworkId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_linux_and_tell_vmms_apart() {
        let port = PortSpec {
            id: berth_rpc_types::PortId::from_u128(1),
            network_id: NetworkId::from_u128(2),
            mac: String::new(),
            mtu: 1500,
            addresses: Vec::new(),
        };
        let one = tap_name(VmmId::from_u128(1), &port);
        assert!(one.len() <= 15 && one.starts_with("bt"), "{one}");
        assert_ne!(one, tap_name(VmmId::from_u128(2), &port));
        assert!(bridge_name(port.network_id).len() <= 15);
    }
}
