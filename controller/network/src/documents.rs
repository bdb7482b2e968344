//! What a VMM and a host are told of their networks: a VMM its ports, a host one document
//! (PROTOCOL.md, "The agent").
//!
//! A document holds every port that is bound on its host; a port whose binding is not the active
//! one is said to be so, as it must be ready there and carry nothing yet.

use super::networks::Network;
use super::ports::{self, Port, Which};
use super::subnets::{self, Subnet};
use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::link::{HostNetwork, HostPort, HostSubnet, NetworkDocument};
use berth_rpc_types::spec::AddressSpec;
use berth_rpc_types::{HostId, InstanceId, PortSpec, VmmId};
use std::collections::HashMap;

/// Networks by id, with their subnets.
async fn nets_of(
    tx: &mut Tx,
    ports: &[Port],
) -> Result<HashMap<String, (Network, Vec<Subnet>)>, StoreError> {
    let mut nets = HashMap::new();
    for port in ports {
        if nets.contains_key(&port.network_id) {
            continue;
        }
        let sql = "SELECT * FROM networks WHERE id = $1";
        let network: Option<Network> = tx.query_opt(sql, params![&port.network_id]).await?;
        if let Some(network) = network {
            let subnets = subnets::list(tx, &port.network_id).await?;
            nets.insert(port.network_id.clone(), (network, subnets));
        }
    }
    Ok(nets)
}

fn id<T: std::str::FromStr<Err: std::fmt::Display>>(
    table: &str,
    text: &str,
) -> Result<T, StoreError> {
    text.parse().map_err(|e: T::Err| StoreError::Malformed {
        table: table.into(),
        column: "id".into(),
        reason: e.to_string(),
    })
}

fn mtu(network: &Network) -> u16 {
    u16::try_from(network.mtu).unwrap_or(1500)
}

/// A server's ports, complete, in guest order.
///
/// # Errors
/// The store's.
pub async fn port_specs(tx: &mut Tx, instance_id: InstanceId) -> Result<Vec<PortSpec>, StoreError> {
    let ports = ports::list(tx, &Which::Instance(instance_id.to_string())).await?;
    let nets = nets_of(tx, &ports).await?;
    let mut specs = Vec::new();
    for port in &ports {
        let Some((network, subnets)) = nets.get(&port.network_id) else {
            continue;
        };
        let mut addresses = Vec::new();
        for (subnet_id, address) in &port.fixed_ips {
            if let Some(subnet) = subnets.iter().find(|s| s.id == *subnet_id) {
                addresses.push(AddressSpec {
                    address: *address,
                    prefix: subnet.cidr.prefix_len(),
                    gateway: subnet.gateway,
                    dns: subnet.dns.clone(),
                    dhcp: subnet.serves_dhcp(),
                });
            }
        }
        specs.push(PortSpec {
            id: id("ports", &port.id)?,
            network_id: id("networks", &port.network_id)?,
            mac: port.mac.clone(),
            mtu: mtu(network),
            addresses,
        });
    }
    Ok(specs)
}

/// What a host's networks are to be: every port bound there. A port stays until its server's
/// delete is answered, so that the agent never loses a tap under a VMM.
///
/// # Errors
/// The store's.
pub async fn host_document(tx: &mut Tx, host_id: HostId) -> Result<NetworkDocument, StoreError> {
    let sql = "SELECT network_revision FROM hosts WHERE id = $1";
    let row: Option<(u64,)> = tx.query_opt(sql, params![host_id]).await?;
    let ports = ports::list(tx, &Which::Host(host_id.to_string())).await?;
    let names = hostnames(tx, host_id).await?;
    let bound = bindings_of(tx, host_id, &ports).await?;
    let nets = nets_of(tx, &ports).await?;
    let mut documents: Vec<HostNetwork> = Vec::new();
    for (network, subnets) in nets.values() {
        let mut host_subnets = Vec::new();
        for subnet in subnets {
            host_subnets.push(HostSubnet {
                cidr: subnet.cidr.to_string(),
                gateway: subnet.gateway,
                dns: subnet.dns.clone(),
                dhcp: subnet.serves_dhcp(),
                dhcp_address: subnets::dhcp_address(tx, subnet).await?,
            });
        }
        let mut host_ports = Vec::new();
        for (port, bound) in ports.iter().zip(&bound) {
            if port.network_id != network.id {
                continue;
            }
            for binding in bound {
                host_ports.push(HostPort {
                    id: id("ports", &port.id)?,
                    vmm_id: binding.vmm_id,
                    mac: port.mac.clone(),
                    addresses: port.fixed_ips.iter().map(|(_, a)| *a).collect(),
                    hostname: port
                        .instance_id
                        .as_ref()
                        .and_then(|i| names.get(i).cloned()),
                    active: binding.active,
                });
            }
        }
        documents.push(HostNetwork {
            id: id("networks", &network.id)?,
            // To a host, a local network is a flat one that is wired to nothing.
            network_type: "flat".into(),
            physical_network: network.physical_network.clone(),
            mtu: mtu(network),
            subnets: host_subnets,
            ports: host_ports,
        });
    }
    documents.sort_by_key(|n| n.id);
    Ok(NetworkDocument {
        revision: row.map_or(0, |(revision,)| revision),
        networks: documents,
    })
}

/// A binding of a port on a host.
struct Bound {
    vmm_id: VmmId,
    active: bool,
}

/// The bindings on this host of each of the ports.
async fn bindings_of(
    tx: &mut Tx,
    host_id: HostId,
    ports: &[Port],
) -> Result<Vec<Vec<Bound>>, StoreError> {
    let sql = "SELECT port_id, vmm_id FROM port_bindings WHERE host_id = $1 ORDER BY vmm_id";
    let rows: Vec<(String, VmmId)> = tx.query(sql, params![host_id]).await?;
    let here = host_id.to_string();
    let mut all = Vec::new();
    for port in ports {
        let mut bound = Vec::new();
        if let Some(vmm_id) = &port.vmm_id
            && port.host_id.as_ref() == Some(&here)
        {
            let vmm_id = id("vmms", vmm_id)?;
            bound.push(Bound {
                vmm_id,
                active: true,
            });
        }
        let beside = rows.iter().filter(|(port_id, _)| *port_id == port.id);
        bound.extend(beside.map(|(_, vmm_id)| Bound {
            vmm_id: *vmm_id,
            active: false,
        }));
        all.push(bound);
    }
    Ok(all)
}

/// What DHCP calls the servers of a host: their names, as far as DNS allows.
async fn hostnames(tx: &mut Tx, host_id: HostId) -> Result<HashMap<String, String>, StoreError> {
    let sql = "SELECT i.id, i.name FROM instances i \
               WHERE i.id IN (SELECT instance_id FROM ports WHERE host_id = $1 \
               UNION SELECT p.instance_id FROM port_bindings b \
               JOIN ports p ON p.id = b.port_id WHERE b.host_id = $1)";
    let mut names = HashMap::new();
    for (id, name) in tx.query::<(String, String)>(sql, params![host_id]).await? {
        let name = hostname(&name);
        if !name.is_empty() {
            names.insert(id, name);
        }
    }
    Ok(names)
}

/// A name as a DNS label: letters, digits and hyphens, at most 63, none at its ends.
fn hostname(name: &str) -> String {
    let mapped: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' => c,
            'A'..='Z' => c.to_ascii_lowercase(),
            _ => '-',
        })
        .take(63)
        .collect();
    mapped.trim_matches('-').to_owned()
}
