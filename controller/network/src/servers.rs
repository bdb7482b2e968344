//! A server's ports: given to it, shown, and taken away.
//!
//! A port belongs to a server from the request's own transaction on ([`allocate`]), to a VMM on
//! a host once that is chosen ([`super::bindings`]), and to nobody once the delete is answered
//! ([`release`]).

use super::bindings;
use super::errors::{conflict, not_found};
use super::networks::{self, Network};
use super::ports::{self, Port, WantedAddress, Which};
use super::quotas::Room;
use super::security_groups;
use berth_controller_core::store::{Parsed, StoreError, Tx, Value};
use berth_controller_core::{ApiError, Env, params, policy::Reach, row};
use berth_rpc_types::InstanceId;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// What a server asks for: a network, or a port that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedNetwork {
    /// A port on this network.
    pub network_id: Option<String>,
    /// This port.
    pub port_id: Option<String>,
    /// With this address.
    pub fixed_ip: Option<IpAddr>,
    /// In these security groups, by id; empty for the project's default one.
    pub security_groups: Vec<String>,
}

/// An address of a server, for its view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// The network's name.
    pub network: String,
    /// The port.
    pub port_id: String,
    /// The port's MAC.
    pub mac: String,
    /// The address.
    pub address: IpAddr,
}

/// Gives a new server its ports: makes them, with addresses, or takes the given ones. What is made is taken
/// from `room`, the project's quota of ports.
///
/// # Errors
/// 404 for a network or port that the project may not use, 409 for a port in use, a full
/// subnet or a quota.
pub async fn allocate(
    tx: &mut Tx,
    env: &Env,
    instance_id: InstanceId,
    project_id: &str,
    requested: &[RequestedNetwork],
    room: &mut Room,
) -> Result<(), ApiError> {
    // What the project itself may use, whoever asks for it.
    let reach = Reach::Project(project_id.to_owned());
    for (index, request) in (0..).zip(requested) {
        match &request.port_id {
            Some(port_id) => take_port(tx, env, instance_id, &reach, port_id, index).await?,
            None => {
                room.take()?;
                make_port(tx, env, instance_id, project_id, request, index).await?;
            }
        }
    }
    Ok(())
}

async fn take_port(
    tx: &mut Tx,
    env: &Env,
    instance_id: InstanceId,
    reach: &Reach,
    port_id: &str,
    index: i64,
) -> Result<(), ApiError> {
    let port = ports::load(tx, reach, port_id).await?;
    let network = networks::load(tx, reach, &port.network_id).await?;
    may_carry(&network, Some(&port))?;
    // The check is in the statement: of two servers that ask, one gets it.
    let taken = tx
        .execute(
            "UPDATE ports SET device_id = $1, instance_id = $1, device_owner = 'compute:nova', \
             device_index = $2, revision = revision + 1, updated_at = $3 \
             WHERE id = $4 AND device_id = ''",
            params![instance_id, index, env.now(), port_id],
        )
        .await?;
    if taken == 0 {
        return Err(conflict(
            "PortInUse",
            format!("Port {port_id} is still in use by {}.", port.device_id),
        ));
    }
    Ok(())
}

/// What is down carries no traffic, so no server is put on it.
fn may_carry(network: &Network, port: Option<&Port>) -> Result<(), ApiError> {
    if !network.admin_state_up {
        return Err(conflict(
            "NetworkDown",
            format!(
                "Network {} has admin_state_up false: set it up first.",
                network.id
            ),
        ));
    }
    if let Some(port) = port.filter(|p| !p.admin_state_up) {
        return Err(conflict(
            "PortDown",
            format!(
                "Port {} has admin_state_up false: set it up first.",
                port.id
            ),
        ));
    }
    Ok(())
}

async fn make_port(
    tx: &mut Tx,
    env: &Env,
    instance_id: InstanceId,
    project_id: &str,
    request: &RequestedNetwork,
    index: i64,
) -> Result<(), ApiError> {
    let reach = Reach::Project(project_id.to_owned());
    let id = request.network_id.as_deref().unwrap_or_default();
    let network = networks::load(tx, &reach, id).await?;
    if !network.usable_by(&reach) {
        return Err(networks::missing(id));
    }
    may_carry(&network, None)?;
    let groups = if request.security_groups.is_empty() {
        vec![security_groups::ensure_default(tx, env, project_id).await?]
    } else {
        for group in &request.security_groups {
            let found = security_groups::find(tx, group).await?;
            if found.is_none_or(|g| g.project_id != project_id) {
                return Err(security_groups::missing(group));
            }
        }
        request.security_groups.clone()
    };
    let now = env.now();
    let port = Port {
        id: env.port_id().to_string(),
        network_id: network.id.clone(),
        project_id: project_id.to_owned(),
        name: String::new(),
        description: String::new(),
        admin_state_up: true,
        mac: ports::new_mac(&*env.rng),
        device_id: instance_id.to_string(),
        device_owner: "compute:nova".into(),
        status: "DOWN".into(),
        made_by_compute: true,
        instance_id: Some(instance_id.to_string()),
        device_index: index,
        vmm_id: None,
        host_id: None,
        revision: 1,
        created_at: now,
        updated_at: now,
        fixed_ips: Vec::new(),
        groups,
        tags: Vec::new(),
    };
    let wanted = request.fixed_ip.map(|address| {
        vec![WantedAddress {
            subnet_id: None,
            address: Some(address),
        }]
    });
    let stored = ports::insert(tx, &network, &port, wanted.as_deref()).await?;
    if stored.fixed_ips.is_empty() {
        return Err(conflict(
            "NetworkWithoutSubnet",
            format!(
                "Network {} requires a subnet in order to boot instances on.",
                network.id
            ),
        ));
    }
    Ok(())
}

/// Shows a server's ports as `ACTIVE` or `DOWN`.
///
/// # Errors
/// The store's.
pub async fn set_active(
    tx: &mut Tx,
    instance_id: InstanceId,
    active: bool,
) -> Result<(), StoreError> {
    let status = if active { "ACTIVE" } else { "DOWN" };
    tx.execute(
        "UPDATE ports SET status = $1 WHERE instance_id = $2",
        params![status, instance_id],
    )
    .await?;
    Ok(())
}

/// Takes a server's ports away from it: those that compute made are deleted, the user's are free
/// again. Call it when the delete has been answered, or when the server never reached a host.
///
/// # Errors
/// The store's.
pub async fn release(tx: &mut Tx, instance_id: InstanceId) -> Result<(), StoreError> {
    let id = instance_id.to_string();
    bindings::hosts_changed(tx, "instance_id", &id).await?;
    bindings::forget(tx, instance_id).await?;
    for port in ports::list(tx, &Which::Instance(id.clone())).await? {
        if port.made_by_compute {
            ports::delete(tx, &port.id).await?;
        }
    }
    tx.execute(
        "UPDATE ports SET device_id = '', device_owner = '', instance_id = NULL, \
         device_index = 0, vmm_id = NULL, host_id = NULL, status = 'DOWN', \
         revision = revision + 1 WHERE instance_id = $1",
        params![id],
    )
    .await?;
    Ok(())
}

row! {
    struct Held {
        instance_id: InstanceId,
        id: String,
        mac: String,
        name: String,
        cidr: Parsed<IpNet>,
        position: i64,
    }
}

/// The addresses of servers, in guest order.
///
/// # Errors
/// The store's.
pub async fn addresses(
    tx: &mut Tx,
    ids: &[InstanceId],
) -> Result<HashMap<InstanceId, Vec<ServerAddress>>, StoreError> {
    let mut all: HashMap<InstanceId, Vec<ServerAddress>> = HashMap::new();
    // In slices, as a statement takes a bounded number of parameters.
    for slice in ids.chunks(200) {
        let marks: Vec<String> = (1..=slice.len()).map(|n| format!("${n}")).collect();
        let sql = format!(
            "SELECT p.instance_id, p.id, p.mac, n.name, s.cidr, a.position FROM ports p \
             JOIN networks n ON n.id = p.network_id \
             JOIN address_allocations a ON a.holder = p.id \
             JOIN subnets s ON s.id = a.subnet_id WHERE p.instance_id IN ({}) \
             ORDER BY p.device_index, p.created_at, p.id, s.created_at, a.position",
            marks.join(", ")
        );
        let parameters: Vec<Value> = slice.iter().map(|i| (*i).into()).collect();
        for held in tx.query::<Held>(&sql, &parameters).await? {
            if let Some(address) = super::addresses::at(held.cidr.0, held.position) {
                let addresses = all.entry(held.instance_id).or_default();
                addresses.push(ServerAddress {
                    network: held.name,
                    port_id: held.id,
                    mac: held.mac,
                    address,
                });
            }
        }
    }
    Ok(all)
}

/// The networks that a server gets if it names none (`auto`): the project's only one, or the
/// only shared one.
///
/// # Errors
/// 409 if there are several, 404 if there is none.
pub async fn only_network(tx: &mut Tx, project_id: &str) -> Result<String, ApiError> {
    let sql = "SELECT n.id FROM networks n WHERE n.project_id = $1 AND n.external = 0 \
               AND EXISTS (SELECT 1 FROM subnets s WHERE s.network_id = n.id)";
    let mut rows: Vec<(String,)> = tx.query(sql, params![project_id]).await?;
    if rows.is_empty() {
        let sql = "SELECT n.id FROM networks n WHERE n.shared = 1 \
                   AND EXISTS (SELECT 1 FROM subnets s WHERE s.network_id = n.id)";
        rows = tx.query(sql, &[]).await?;
    }
    match rows.as_slice() {
        [(one,)] => Ok(one.clone()),
        [] => Err(not_found(
            "NetworkNotFound",
            "A network for the project",
            project_id,
        )),
        _ => Err(conflict(
            "NetworkAmbiguous",
            "Multiple possible networks found, use a Network ID to be more specific.",
        )),
    }
}
