//! Ports: a MAC, addresses, groups, and what holds them.

use super::addresses;
use super::errors::{conflict, invalid, not_found};
use super::networks::Network;
use super::subnets::{self, Subnet};
use super::tags::{self, Kind, Tagged};
use berth_controller_core::listing::{Condition, Direction, Field, Ids, Is, Table, markers};
use berth_controller_core::store::{Parsed, StoreError, Tx};
use berth_controller_core::{ApiError, params, policy::Reach, row};
use berth_rpc::clock::Rng;
use ipnet::IpNet;
use std::net::IpAddr;

/// As they are listed.
pub(crate) const TABLE: Table = Table {
    kind: "port",
    from: "ports p",
    id: "p.id",
    owner: "p.project_id",
    fields: &[
        Field::new("id", "p.id", Is::Text),
        Field::new("name", "p.name", Is::Text),
        Field::new("description", "p.description", Is::Text),
        Field::new("network_id", "p.network_id", Is::Text),
        Field::new("project_id", "p.project_id", Is::Text),
        Field::new("tenant_id", "p.project_id", Is::Text),
        Field::new("admin_state_up", "p.admin_state_up", Is::Flag),
        Field::new("status", "p.status", Is::Text),
        Field::new("mac_address", "p.mac", Is::Text),
        Field::new("device_id", "p.device_id", Is::Text),
        Field::new("device_owner", "p.device_owner", Is::Text),
        Field::new("port_security_enabled", "CAST(0 AS BIGINT)", Is::Flag),
        Field::new("revision_number", "p.revision", Is::Number),
        Field::new("created_at", "p.created_at", Is::Time),
        Field::new("updated_at", "p.updated_at", Is::Time),
        Field::new("binding:host_id", "p.host_id", Is::Text).or_null(),
        Field::new("binding:vnic_type", "CAST('normal' AS TEXT)", Is::Text),
    ],
    order: &[
        ("created_at", Direction::Ascending),
        ("id", Direction::Ascending),
    ],
};

/// Those that have one of these addresses, by the text of it: in whatever subnet that can hold it.
pub(crate) fn with_address(wanted: &[&str]) -> Condition {
    let of_one = |text: &&str| -> Option<Condition> {
        let address: IpAddr = text.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let holding = (1..=most).filter_map(|length| {
            let cidr = IpNet::new(address, length).ok()?.trunc();
            let position = addresses::position(cidr, address)?;
            let at = "s.cidr = ? AND a.position = ?";
            Some(Condition::new(
                at,
                [cidr.to_string().into(), position.into()],
            ))
        });
        Some(Condition::any(holding))
    };
    Condition::any(wanted.iter().filter_map(of_one)).within(
        "p.id",
        "SELECT a.holder FROM subnets s JOIN address_allocations a ON a.subnet_id = s.id",
    )
}

row! {
    /// A port as stored.
    #[derive(Clone, Debug)]
    pub struct Port {
        /// Its id.
        pub id: String,
        /// Its network.
        pub network_id: String,
        /// Whose.
        pub project_id: String,
        /// Its name; may be empty.
        pub name: String,
        /// Words.
        pub description: String,
        /// Whether it may carry traffic. A port that is down cannot be given to a server.
        pub admin_state_up: bool,
        /// `fa:16:3e:…`
        pub mac: String,
        /// What holds it: a server's id.
        pub device_id: String,
        /// `compute:<zone>`
        pub device_owner: String,
        /// `ACTIVE`, `DOWN`
        pub status: String,
        /// Whether it goes with its server.
        pub made_by_compute: bool,
        /// The server that holds it, as compute knows it.
        pub instance_id: Option<String>,
        /// Its place among that server's ports.
        pub device_index: i64,
        /// The VMM that it is actively bound for ([`super::bindings`]).
        pub vmm_id: Option<String>,
        /// The host that it is actively bound on.
        pub host_id: Option<String>,
        /// Rises with each change.
        pub revision: i64,
        /// Unix milliseconds.
        pub created_at: i64,
        /// Unix milliseconds.
        pub updated_at: i64,
    } beside {
        /// Addresses, with their subnets.
        pub fixed_ips: Vec<(String, IpAddr)>,
        /// Security groups.
        pub groups: Vec<String>,
        /// Its tags, where they are shown.
        pub tags: Vec<String>,
    }
}

impl Tagged for Port {
    const KIND: Kind = Kind::Ports;

    fn id(&self) -> &str {
        &self.id
    }

    fn tags(&mut self) -> &mut Vec<String> {
        &mut self.tags
    }
}

/// Which ports a query is about.
#[derive(Clone, Debug)]
pub enum Which {
    /// One, by id.
    Id(String),
    /// Bound on one host, actively or not.
    Host(String),
    /// Of one server.
    Instance(String),
}

impl Which {
    fn condition(&self) -> Condition {
        match self {
            Self::Id(id) => Condition::new("p.id = ?", [id.into()]),
            Self::Host(id) => Condition::new(
                "p.id IN (SELECT q.id FROM ports q WHERE q.host_id = ? \
                 UNION SELECT b.port_id FROM port_bindings b WHERE b.host_id = ?)",
                [id.into(), id.into()],
            ),
            Self::Instance(id) => Condition::new("p.instance_id = ?", [id.into()]),
        }
    }
}

/// A 404 for a port.
pub fn missing(id: &str) -> ApiError {
    not_found("PortNotFound", "Port", id)
}

/// Ports with their addresses and groups, in the order in which servers have them.
///
/// # Errors
/// The store's.
pub async fn list(tx: &mut Tx, which: &Which) -> Result<Vec<Port>, StoreError> {
    of(tx, &which.condition()).await
}

/// Those of a page, in its order.
///
/// # Errors
/// The store's.
pub(crate) async fn of_page(tx: &mut Tx, page: &Ids) -> Result<Vec<Port>, StoreError> {
    let mut found = of(tx, &page.among("p.id")).await?;
    tags::fill(tx, &mut found).await?;
    Ok(page.in_order(found, |port| port.id.clone()))
}

async fn of(tx: &mut Tx, which: &Condition) -> Result<Vec<Port>, StoreError> {
    let (sql, values) = which.statement(
        "SELECT p.* FROM ports p",
        "ORDER BY p.device_index, p.created_at, p.id",
    );
    let mut ports: Vec<Port> = tx.query(&sql, &values).await?;
    let (sql, values) = which.statement(
        "SELECT a.holder, s.id, s.cidr, a.position FROM address_allocations a \
         JOIN ports p ON p.id = a.holder JOIN subnets s ON s.id = a.subnet_id",
        "ORDER BY s.created_at, a.position",
    );
    type Held = (String, String, Parsed<IpNet>, i64);
    let held = tx.query::<Held>(&sql, &values).await?;
    let (sql, values) = which.statement(
        "SELECT g.port_id, g.group_id FROM port_security_groups g JOIN ports p ON p.id = g.port_id",
        "ORDER BY g.group_id",
    );
    let groups = tx.query::<(String, String)>(&sql, &values).await?;
    let places: std::collections::HashMap<String, usize> = ports
        .iter()
        .enumerate()
        .map(|(n, p)| (p.id.clone(), n))
        .collect();
    for (holder, subnet_id, Parsed(cidr), position) in held {
        let address = addresses::at(cidr, position);
        if let (Some(n), Some(address)) = (places.get(&holder), address) {
            ports[*n].fixed_ips.push((subnet_id, address));
        }
    }
    for (port_id, group_id) in groups {
        if let Some(n) = places.get(&port_id) {
            ports[*n].groups.push(group_id);
        }
    }
    Ok(ports)
}

/// One, if the caller may see it.
///
/// # Errors
/// 404 otherwise.
pub async fn load(tx: &mut Tx, reach: &Reach, id: &str) -> Result<Port, ApiError> {
    let found = list(tx, &Which::Id(id.to_owned()))
        .await?
        .into_iter()
        .next();
    found
        .filter(|p| reach.covers(&p.project_id))
        .ok_or_else(|| missing(id))
}

/// An address that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedAddress {
    /// In this subnet; `None` for the one that holds `address`.
    pub subnet_id: Option<String>,
    /// This one; `None` for any.
    pub address: Option<IpAddr>,
}

/// A MAC with OpenStack's prefix.
pub fn new_mac(rng: &dyn Rng) -> String {
    let b = rng.bits().to_be_bytes();
    format!("fa:16:3e:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2])
}

/// Stores a new port and gives it addresses: those `wanted`, or (`None`) one of each IP version
/// that the network has. Returns it as stored. The quota is the caller's to look at.
///
/// # Errors
/// 409 for a taken MAC or address, or an empty pool; 400 for an address that is in none of the
/// network's subnets.
pub async fn insert(
    tx: &mut Tx,
    network: &Network,
    port: &Port,
    wanted: Option<&[WantedAddress]>,
) -> Result<Port, ApiError> {
    let p = port.clone();
    tx.execute(
        "INSERT INTO ports (id, network_id, project_id, name, description, admin_state_up, mac, \
         device_id, device_owner, status, made_by_compute, instance_id, device_index, revision, \
         created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        params![
            p.id,
            p.network_id,
            p.project_id,
            p.name,
            p.description,
            p.admin_state_up,
            p.mac,
            p.device_id,
            p.device_owner,
            p.status,
            p.made_by_compute,
            p.instance_id,
            p.device_index,
            p.revision,
            p.created_at,
            p.updated_at
        ],
    )
    .await
    .map_err(|e| match e {
        StoreError::Conflict(_) => mac_taken(port),
        other => other.into(),
    })?;
    let mut stored = port.clone();
    stored.fixed_ips = give_addresses(tx, network, &port.id, wanted).await?;
    stored.groups.sort_unstable();
    stored.groups.dedup();
    join_groups(tx, &port.id, &stored.groups).await?;
    Ok(stored)
}

fn mac_taken(port: &Port) -> ApiError {
    conflict(
        "MacAddressInUse",
        format!(
            "Unable to complete operation for network {}. The mac address {} is in use.",
            port.network_id, port.mac
        ),
    )
}

/// Gives a port, which has none, its addresses. Returns them, each with its subnet, in the order in which
/// [`list`] has them.
///
/// # Errors
/// As [`insert`].
pub async fn give_addresses(
    tx: &mut Tx,
    network: &Network,
    port_id: &str,
    wanted: Option<&[WantedAddress]>,
) -> Result<Vec<(String, IpAddr)>, ApiError> {
    let all = subnets::list(tx, &network.id).await?;
    let mut given = match wanted {
        Some(wanted) => give_wanted_addresses(tx, network, &all, port_id, wanted).await?,
        None => give_default_addresses(tx, &all, port_id).await?,
    };
    let place = |id: &str| all.iter().position(|subnet| subnet.id == id);
    given.sort_by_key(|(subnet, address)| (place(subnet), *address));
    Ok(given)
}

/// Those that are asked for.
async fn give_wanted_addresses(
    tx: &mut Tx,
    network: &Network,
    all: &[Subnet],
    port_id: &str,
    wanted: &[WantedAddress],
) -> Result<Vec<(String, IpAddr)>, ApiError> {
    let mut given = Vec::new();
    for want in wanted {
        let fits = |s: &&Subnet| match (&want.subnet_id, want.address) {
            (Some(id), _) => s.id == *id,
            (None, Some(address)) => s.cidr.contains(&address),
            (None, None) => false,
        };
        let Some(subnet) = all.iter().find(fits) else {
            return Err(invalid(format!(
                "Invalid input for operation: fixed_ips names {}, which is in no subnet of \
                 network {}.",
                match (&want.subnet_id, want.address) {
                    (Some(id), _) => format!("subnet {}", berth_controller_core::body::clip(id)),
                    (None, Some(address)) => format!("IP address {address}"),
                    (None, None) => "neither subnet_id nor ip_address".into(),
                },
                network.id
            )));
        };
        let address = match want.address {
            Some(address) => {
                addresses::take(tx, &subnet.id, subnet.cidr, address, port_id).await?;
                address
            }
            None => addresses::take_any(tx, &subnet.id, subnet.cidr, port_id).await?,
        };
        given.push((subnet.id.clone(), address));
    }
    Ok(given)
}

/// One address a version, from the first subnet that has one.
async fn give_default_addresses(
    tx: &mut Tx,
    all: &[Subnet],
    port_id: &str,
) -> Result<Vec<(String, IpAddr)>, ApiError> {
    let mut given = Vec::new();
    for v4 in [true, false] {
        let mut refusal = None;
        for subnet in all.iter().filter(|s| s.cidr.addr().is_ipv4() == v4) {
            match addresses::take_any(tx, &subnet.id, subnet.cidr, port_id).await {
                Ok(address) => {
                    given.push((subnet.id.clone(), address));
                    refusal = None;
                    break;
                }
                Err(error) if error.cause.is_none() => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
    }
    Ok(given)
}

/// Replaces a port's groups.
///
/// # Errors
/// The store's.
pub async fn set_groups(tx: &mut Tx, port_id: &str, groups: &[String]) -> Result<(), StoreError> {
    let sql = "DELETE FROM port_security_groups WHERE port_id = $1";
    tx.execute(sql, params![port_id]).await?;
    join_groups(tx, port_id, groups).await
}

async fn join_groups(tx: &mut Tx, port_id: &str, groups: &[String]) -> Result<(), StoreError> {
    for group in groups {
        let sql = "INSERT INTO port_security_groups (port_id, group_id) VALUES ($1, $2) \
                   ON CONFLICT DO NOTHING";
        tx.execute(sql, params![port_id, group]).await?;
    }
    Ok(())
}

/// Stores what a user changed.
///
/// # Errors
/// 409 for a taken MAC.
pub async fn update(tx: &mut Tx, port: &Port) -> Result<(), ApiError> {
    let p = port.clone();
    tx.execute(
        "UPDATE ports SET name = $1, description = $2, admin_state_up = $3, mac = $4, \
         device_id = $5, device_owner = $6, revision = revision + 1, updated_at = $7 \
         WHERE id = $8",
        params![
            p.name,
            p.description,
            p.admin_state_up,
            p.mac,
            p.device_id,
            p.device_owner,
            p.updated_at,
            p.id
        ],
    )
    .await
    .map_err(|e| match e {
        StoreError::Conflict(_) => mac_taken(port),
        other => other.into(),
    })?;
    set_groups(tx, &port.id, &port.groups).await?;
    Ok(())
}

/// Removes a port, and gives its addresses back.
///
/// # Errors
/// The store's.
pub async fn delete(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    markers::keep(tx, &TABLE, &Condition::new("p.id = ?", [id.into()])).await?;
    tags::clear(
        tx,
        Kind::Ports,
        Condition::new("resource_id = ?", [id.into()]),
    )
    .await?;
    addresses::give_back(tx, id).await?;
    for sql in [
        "DELETE FROM port_security_groups WHERE port_id = $1",
        "DELETE FROM port_bindings WHERE port_id = $1",
        "DELETE FROM ports WHERE id = $1",
    ] {
        tx.execute(sql, params![id]).await?;
    }
    Ok(())
}
