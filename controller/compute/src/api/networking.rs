//! What Nova asks of Neutron: one place, so that the rest of this folder knows no network table.

use super::common::{Call, bad, conflict, uuid};
use axum::http::StatusCode;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, params, policy::Reach};
use berth_controller_network::ports::{self, Which};
use berth_controller_network::quotas::Room;
use berth_controller_network::security_groups::{self, Group};
use berth_controller_network::{self as network, RequestedNetwork, networks};
use berth_rpc_types::InstanceId;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::IpAddr;

/// An address of a server.
#[derive(Clone, Debug)]
pub struct Address {
    /// The network's name.
    pub network: String,
    /// The address.
    pub ip: IpAddr,
    /// The port's MAC.
    pub mac: String,
}

impl Address {
    /// 4 or 6.
    pub const fn version(&self) -> u8 {
        if self.ip.is_ipv4() { 4 } else { 6 }
    }
}

/// The addresses of servers.
///
/// # Errors
/// [`StoreError`]
pub async fn addresses(
    tx: &mut Tx,
    ids: &[InstanceId],
) -> Result<HashMap<InstanceId, Vec<Address>>, StoreError> {
    let all = network::addresses(tx, ids).await?;
    let convert = |a: network::ServerAddress| Address {
        network: a.network,
        ip: a.address,
        mac: a.mac,
    };
    Ok(all
        .into_iter()
        .map(|(id, list)| (id, list.into_iter().map(convert).collect()))
        .collect())
}

/// Names of the security groups on the ports of servers.
///
/// # Errors
/// [`StoreError`]
pub async fn security_groups(
    tx: &mut Tx,
    ids: &[InstanceId],
) -> Result<HashMap<InstanceId, Vec<String>>, StoreError> {
    let mut map: HashMap<InstanceId, Vec<String>> = HashMap::new();
    for chunk in ids.chunks(200) {
        let places: Vec<String> = (1..=chunk.len()).map(|n| format!("${n}")).collect();
        let sql = format!(
            "SELECT DISTINCT p.instance_id, g.name FROM ports p \
             JOIN port_security_groups b ON b.port_id = p.id \
             JOIN security_groups g ON g.id = b.group_id \
             WHERE p.instance_id IN ({}) ORDER BY g.name",
            places.join(", ")
        );
        let values: Vec<_> = chunk.iter().map(|id| (*id).into()).collect();
        for (id, name) in tx.query(&sql, &values).await? {
            map.entry(id).or_default().push(name);
        }
    }
    Ok(map)
}

/// The security groups on a server's ports, whole.
///
/// # Errors
/// [`StoreError`]
pub async fn groups_of(tx: &mut Tx, id: InstanceId) -> Result<Vec<Group>, StoreError> {
    let rows: Vec<(String,)> = tx
        .query(
            "SELECT DISTINCT b.group_id FROM ports p \
             JOIN port_security_groups b ON b.port_id = p.id \
             WHERE p.instance_id = $1 ORDER BY b.group_id",
            params![id],
        )
        .await?;
    let mut groups = Vec::new();
    for (group_id,) in rows {
        groups.extend(security_groups::find(tx, &group_id).await?);
    }
    Ok(groups)
}

/// A server's ports in the form of `os-interface`.
///
/// # Errors
/// [`StoreError`]
pub async fn interfaces(tx: &mut Tx, id: InstanceId) -> Result<Vec<Value>, StoreError> {
    let ports = ports::list(tx, &Which::Instance(id.to_string())).await?;
    let one = |port: ports::Port| {
        let ips: Vec<Value> = port
            .fixed_ips
            .iter()
            .map(|(subnet, ip)| json!({"subnet_id": subnet, "ip_address": ip}))
            .collect();
        json!({
            "port_id": port.id,
            "net_id": port.network_id,
            "mac_addr": port.mac,
            "port_state": port.status,
            "fixed_ips": ips,
        })
    };
    Ok(ports.into_iter().map(one).collect())
}

/// The networks that a request for a server wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Not said: the project's one network, or none if it has none.
    Whatever,
    /// The project's one network.
    Auto,
    /// No NIC.
    None,
    /// These.
    These(Vec<RequestedNetwork>),
}

/// One entry of `networks`.
///
/// # Errors
/// 400 that names the field.
pub fn one(item: &Fields<'_>) -> Result<RequestedNetwork, ApiError> {
    let id = |name: &str| -> Result<Option<String>, ApiError> {
        let text = item.text(name, 255)?;
        match text {
            None => Ok(None),
            Some(text) => match uuid(&text) {
                Some(id) => Ok(Some(id.to_string())),
                None => Err(bad(format!(
                    "Bad networks format: network uuid is not in proper format ({})",
                    clip(&text)
                ))),
            },
        }
    };
    let port_id = id("port")?;
    let network_id = id("uuid")?;
    let fixed_ip = match item.text("fixed_ip", 64)? {
        None => None,
        Some(text) => Some(
            text.parse::<IpAddr>()
                .map_err(|_| item.wrong("fixed_ip", "is no address"))?,
        ),
    };
    if port_id.is_none() && network_id.is_none() {
        return Err(item.wrong("uuid", "is missing: a network or a port is to be named"));
    }
    if port_id.is_some() && fixed_ip.is_some() {
        return Err(bad(
            "Specified Fixed IP cannot be used with a port: the port has its own.",
        ));
    }
    Ok(RequestedNetwork {
        network_id: network_id.filter(|_| port_id.is_none()),
        port_id,
        fixed_ip,
        security_groups: Vec::new(),
    })
}

/// The project's one network; `None` if it has none.
async fn only_network(tx: &mut Tx, call: &Call) -> Result<Option<String>, ApiError> {
    // Without an administrator's eyes: what the project itself may use.
    let member = Reach::Project(call.context.project_id.clone());
    let with_subnets = networks::for_servers(tx, &member).await?;
    match with_subnets.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => Err(conflict(
            "Multiple possible networks found, use a Network ID to be more specific.",
        )),
    }
}

/// Ids of security groups by name or id.
async fn group_ids(tx: &mut Tx, call: &Call, names: &[String]) -> Result<Vec<String>, ApiError> {
    let project = &call.context.project_id;
    security_groups::ensure_default(tx, &call.app.env(), project).await?;
    let all = security_groups::list(tx, Some(project)).await?;
    let mut ids = Vec::new();
    for name in names {
        let matching: Vec<_> = all
            .iter()
            .filter(|g| g.name == *name || g.id == *name)
            .collect();
        match matching.as_slice() {
            [one] => ids.push(one.id.clone()),
            [] => {
                return Err(bad(format!(
                    "Security group {} not found for project {project}.",
                    clip(name)
                )));
            }
            _ => {
                return Err(conflict(format!(
                    "Multiple security groups found matching '{}'. Use an ID to be more specific.",
                    clip(name)
                )));
            }
        }
    }
    Ok(ids)
}

/// Gives a server its ports in the request's own transaction, as far as there is room for them.
///
/// # Errors
/// 400 for a network, port or group that the project may not use, 409 for one in use.
pub async fn attach(
    tx: &mut Tx,
    call: &Call,
    instance: InstanceId,
    wanted: &Wanted,
    groups: Option<&[String]>,
    room: &mut Room,
) -> Result<(), ApiError> {
    let network = |id: String| RequestedNetwork {
        network_id: Some(id),
        ..RequestedNetwork::default()
    };
    let mut requested = match wanted {
        Wanted::None => Vec::new(),
        Wanted::These(list) => list.clone(),
        Wanted::Whatever => only_network(tx, call)
            .await?
            .map(network)
            .into_iter()
            .collect(),
        Wanted::Auto => match only_network(tx, call).await? {
            Some(id) => vec![network(id)],
            None => {
                return Err(bad(format!(
                    "Unable to automatically allocate a network for project {}: it has none with a subnet. Create one, or ask for 'none'.",
                    call.context.project_id
                )));
            }
        },
    };
    let ids = match groups {
        Some(names) => group_ids(tx, call, names).await?,
        None => Vec::new(),
    };
    for request in &mut requested {
        request.security_groups.clone_from(&ids);
    }
    let project = &call.context.project_id;
    let env = call.app.env();
    network::allocate(tx, &env, instance, project, &requested, room)
        .await
        .map_err(|mut error| {
            // What a request's body names and is not there is the body's fault: 400, as in Nova.
            if error.status == StatusCode::NOT_FOUND {
                error.status = StatusCode::BAD_REQUEST;
            }
            error.service = berth_controller_core::Service::Compute;
            error
        })
}
