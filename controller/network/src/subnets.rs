//! Subnets and their allocation pools.

use super::addresses::{self, DHCP};
use super::errors::{conflict, invalid, not_found};
use super::quotas;
use super::tags::{self, Kind, Tagged};
use berth_controller_core::listing::{Condition, Direction, Field, Ids, Is, Table, markers};
use berth_controller_core::store::{FromRow, Json, Parsed, Row, StoreError, Tx};
use berth_controller_core::{ApiError, params, row};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// As they are listed.
pub(crate) const TABLE: Table = Table {
    kind: "subnet",
    from: "subnets s",
    id: "s.id",
    owner: "s.project_id",
    fields: &[
        Field::new("id", "s.id", Is::Text),
        Field::new("name", "s.name", Is::Text),
        Field::new("description", "s.description", Is::Text),
        Field::new("network_id", "s.network_id", Is::Text),
        Field::new("project_id", "s.project_id", Is::Text),
        Field::new("tenant_id", "s.project_id", Is::Text),
        Field::new(
            "ip_version",
            "CAST(CASE WHEN s.cidr LIKE '%:%' THEN 6 ELSE 4 END AS BIGINT)",
            Is::Number,
        ),
        Field::new("cidr", "s.cidr", Is::Text),
        Field::new("gateway_ip", "s.gateway", Is::Text).or_null(),
        Field::new("enable_dhcp", "s.dhcp", Is::Flag),
        Field::new("revision_number", "s.revision", Is::Number),
        Field::new("created_at", "s.created_at", Is::Time),
        Field::new("updated_at", "s.updated_at", Is::Time),
        Field::new("subnetpool_id", "CAST(NULL AS TEXT)", Is::Text).or_null(),
        Field::new("ipv6_ra_mode", "CAST(NULL AS TEXT)", Is::Text).or_null(),
        Field::new("ipv6_address_mode", "CAST(NULL AS TEXT)", Is::Text).or_null(),
    ],
    order: &[
        ("created_at", Direction::Ascending),
        ("id", Direction::Ascending),
    ],
};

/// Those that a project may see: its own, and those of networks that it may use. By indexes, so that
/// other projects' cost nothing.
pub(crate) fn visible(project: Option<&str>) -> Condition {
    match project {
        None => Condition::default(),
        Some(project) => Condition::new(
            "s.id IN (SELECT id FROM subnets WHERE project_id = ? \
             UNION SELECT u.id FROM networks n JOIN subnets u ON u.network_id = n.id \
             WHERE n.project_id = ? OR n.shared = 1)",
            [project.into(), project.into()],
        ),
    }
}

/// A subnet as stored.
#[derive(Clone, Debug)]
pub struct Subnet {
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
    /// `10.0.0.0/24`
    pub cidr: IpNet,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
    /// Whether DHCP serves it.
    pub dhcp: bool,
    /// Resolvers.
    pub dns: Vec<IpAddr>,
    /// First and last address of each pool, ascending.
    pub pools: Vec<(IpAddr, IpAddr)>,
    /// Rises with each change.
    pub revision: i64,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
    /// Its tags, where they are shown.
    pub tags: Vec<String>,
}

impl Tagged for Subnet {
    const KIND: Kind = Kind::Subnets;

    fn id(&self) -> &str {
        &self.id
    }

    fn tags(&mut self) -> &mut Vec<String> {
        &mut self.tags
    }
}

/// Without its pools, which are rows of their own.
impl FromRow for Subnet {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let gateway: Option<Parsed<IpAddr>> = row.get("gateway")?;
        Ok(Self {
            id: row.get("id")?,
            network_id: row.get("network_id")?,
            project_id: row.get("project_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            cidr: row.get::<Parsed<IpNet>>("cidr")?.0,
            gateway: gateway.map(|gateway| gateway.0),
            dhcp: row.get("dhcp")?,
            dns: row.get::<Json<_>>("dns")?.0,
            pools: Vec::new(),
            revision: row.get("revision")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
            tags: Vec::new(),
        })
    }
}

row! {
    struct Pool {
        subnet_id: String,
        first_position: i64,
        last_position: i64,
    }
}

impl Subnet {
    /// Whether addresses are handed out by DHCP: IPv4's only; IPv6 comes by the config drive.
    pub fn serves_dhcp(&self) -> bool {
        self.dhcp && self.cidr.addr().is_ipv4()
    }

    /// With its pools.
    fn with(mut self, pools: &[Pool]) -> Self {
        let own = pools.iter().filter_map(|pool| {
            let first = addresses::at(self.cidr, pool.first_position);
            first.zip(addresses::at(self.cidr, pool.last_position))
        });
        self.pools = own.collect();
        self
    }

    /// The pools that a subnet has if none are asked for: all but the gateway.
    pub fn default_pools(cidr: IpNet, gateway: Option<IpAddr>) -> Vec<(IpAddr, IpAddr)> {
        let (first, last) = (addresses::first(cidr), addresses::last(cidr));
        let hole = gateway.and_then(|g| addresses::position(cidr, g));
        let spans = match hole {
            Some(hole) if (first..=last).contains(&hole) => [
                hole.checked_sub(1).map(|end| (first, end)),
                hole.checked_add(1).map(|start| (start, last)),
            ],
            _ => [Some((first, last)), None],
        };
        spans
            .into_iter()
            .flatten()
            .filter(|(from, to)| from <= to)
            .filter_map(|(from, to)| addresses::at(cidr, from).zip(addresses::at(cidr, to)))
            .collect()
    }

    /// Checks what the fields say of each other.
    ///
    /// # Errors
    /// 400 or 409 with Neutron's name for what is wrong.
    pub fn check(&self) -> Result<(), ApiError> {
        let cidr = self.cidr;
        if cidr.prefix_len() == 0 {
            return Err(invalid(format!(
                "{cidr} is no subnet: its prefix length is 0."
            )));
        }
        if let Some((range, what)) = reserved(cidr) {
            return Err(invalid(format!(
                "Invalid input for operation: {cidr} is no subnet of hosts: {range} is {what}."
            )));
        }
        let most = if cidr.addr().is_ipv4() { 30 } else { 126 };
        if self.dhcp && cidr.prefix_len() > most {
            return Err(invalid(format!(
                "Invalid input for operation: Subnet {cidr} has a prefix length that is incompatible \
                 with DHCP service enabled (at most {most}): make it larger, or set enable_dhcp to \
                 false."
            )));
        }
        if let Some(gateway) = self.gateway
            && (gateway.is_ipv4() != cidr.addr().is_ipv4() || gateway.is_unspecified())
        {
            return Err(invalid(format!(
                "gateway_ip {gateway} is not an address of {cidr}'s version."
            )));
        }
        if let Some(other) = self.dns.iter().find(|d| d.is_unspecified()) {
            return Err(invalid(format!("dns_nameservers: {other} is no address.")));
        }
        let mut spans = Vec::new();
        for (start, end) in &self.pools {
            let span = addresses::position(cidr, *start).zip(addresses::position(cidr, *end));
            let Some((from, to)) = span else {
                return Err(invalid(format!(
                    "The allocation pool {start}-{end} spans beyond the subnet cidr {cidr} (or \
                     farther than 64 bits into it)."
                )));
            };
            if from > to || from < addresses::first(cidr) || to > addresses::last(cidr) {
                return Err(invalid(format!(
                    "The allocation pool {start}-{end} is not valid in {cidr}."
                )));
            }
            if self.gateway.is_some_and(|g| {
                addresses::position(cidr, g).is_some_and(|p| (from..=to).contains(&p))
            }) {
                return Err(conflict(
                    "GatewayConflictWithAllocationPools",
                    format!("The gateway conflicts with allocation pool {start}-{end}."),
                ));
            }
            spans.push((from, to));
        }
        spans.sort_unstable();
        if spans.windows(2).any(|w| w[0].1 >= w[1].0) {
            return Err(conflict(
                "OverlappingAllocationPools",
                format!("The allocation pools overlap in {cidr}."),
            ));
        }
        Ok(())
    }
}

/// Ranges that no host has an address in (RFC 6890, RFC 4291), with what they are.
const RESERVED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "\"this network\""),
    ("127.0.0.0/8", "every host's own loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    (
        "::/96",
        "the unspecified address, and every host's own loopback",
    ),
    ("::ffff:0:0/96", "IPv4's addresses, mapped"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// The reserved range that a subnet touches.
fn reserved(cidr: IpNet) -> Option<(IpNet, &'static str)> {
    let all = RESERVED
        .iter()
        .filter_map(|(range, what)| Some((range.parse().ok()?, *what)));
    let mut touched =
        all.filter(|(range, _): &(IpNet, _)| range.contains(&cidr) || cidr.contains(range));
    touched.next()
}

/// A 404 for a subnet.
pub fn missing(id: &str) -> ApiError {
    not_found("SubnetNotFound", "Subnet", id)
}

/// All subnets of one network.
///
/// # Errors
/// The store's.
pub async fn list(tx: &mut Tx, network_id: &str) -> Result<Vec<Subnet>, StoreError> {
    let own = Condition::new("s.network_id = ?", [network_id.into()]);
    which(tx, &own).await
}

/// Those of a page, in its order.
///
/// # Errors
/// The store's.
pub(crate) async fn of_page(tx: &mut Tx, page: &Ids) -> Result<Vec<Subnet>, StoreError> {
    let mut found = which(tx, &page.among("s.id")).await?;
    tags::fill(tx, &mut found).await?;
    Ok(page.in_order(found, |subnet| subnet.id.clone()))
}

async fn which(tx: &mut Tx, which: &Condition) -> Result<Vec<Subnet>, StoreError> {
    let (sql, values) = which.statement("SELECT s.* FROM subnets s", "ORDER BY created_at, id");
    let subnets: Vec<Subnet> = tx.query(&sql, &values).await?;
    let (sql, values) = which.statement(
        "SELECT p.* FROM subnet_pools p JOIN subnets s ON s.id = p.subnet_id",
        "ORDER BY p.first_position",
    );
    let mut pools: HashMap<String, Vec<Pool>> = HashMap::new();
    for pool in tx.query::<Pool>(&sql, &values).await? {
        pools.entry(pool.subnet_id.clone()).or_default().push(pool);
    }
    let with = |subnet: Subnet| {
        let own = pools.remove(&subnet.id).unwrap_or_default();
        subnet.with(&own)
    };
    Ok(subnets.into_iter().map(with).collect())
}

/// One.
///
/// # Errors
/// The store's; `None` if there is none.
pub async fn find(tx: &mut Tx, id: &str) -> Result<Option<Subnet>, StoreError> {
    let found = which(tx, &Condition::new("s.id = ?", [id.into()])).await?;
    Ok(found.into_iter().next())
}

/// Stores a new one, checked, and takes the address of its DHCP servers.
///
/// # Errors
/// 400 for an overlap with another subnet of the network, 409 over quota.
pub async fn insert(tx: &mut Tx, subnet: &Subnet) -> Result<(), ApiError> {
    subnet.check()?;
    quotas::one_more(tx, &subnet.project_id, quotas::SUBNET).await?;
    for other in list(tx, &subnet.network_id).await? {
        if other.cidr.contains(&subnet.cidr.network())
            || subnet.cidr.contains(&other.cidr.network())
        {
            return Err(invalid(format!(
                "Invalid input for operation: Requested subnet with cidr: {} for network: {} \
                 overlaps with another subnet.",
                subnet.cidr, subnet.network_id
            )));
        }
    }
    let s = subnet.clone();
    tx.execute(
        "INSERT INTO subnets (id, network_id, project_id, name, description, cidr, gateway, dhcp, \
         dns, revision, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        params![
            s.id,
            s.network_id,
            s.project_id,
            s.name,
            s.description,
            s.cidr.to_string(),
            s.gateway.map(|g| g.to_string()),
            s.dhcp,
            serde_json::json!(s.dns),
            s.revision,
            s.created_at,
            s.updated_at
        ],
    )
    .await?;
    store_pools(tx, subnet).await?;
    if subnet.serves_dhcp() {
        addresses::take_any(tx, &subnet.id, subnet.cidr, DHCP).await?;
    }
    Ok(())
}

async fn store_pools(tx: &mut Tx, subnet: &Subnet) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM subnet_pools WHERE subnet_id = $1",
        params![&subnet.id],
    )
    .await?;
    for (start, end) in &subnet.pools {
        let first = addresses::position(subnet.cidr, *start);
        let last = addresses::position(subnet.cidr, *end);
        tx.execute(
            "INSERT INTO subnet_pools (subnet_id, first_position, last_position) \
             VALUES ($1, $2, $3)",
            params![&subnet.id, first, last],
        )
        .await?;
    }
    Ok(())
}

/// Stores a changed one, checked.
///
/// # Errors
/// As [`insert`].
pub async fn update(tx: &mut Tx, before: &Subnet, after: &Subnet) -> Result<(), ApiError> {
    after.check()?;
    let s = after.clone();
    tx.execute(
        "UPDATE subnets SET name = $1, description = $2, gateway = $3, dhcp = $4, dns = $5, \
         revision = revision + 1, updated_at = $6 WHERE id = $7",
        params![
            s.name,
            s.description,
            s.gateway.map(|g| g.to_string()),
            s.dhcp,
            serde_json::json!(s.dns),
            s.updated_at,
            s.id
        ],
    )
    .await?;
    store_pools(tx, after).await?;
    match (before.serves_dhcp(), after.serves_dhcp()) {
        (false, true) => {
            addresses::take_any(tx, &after.id, after.cidr, DHCP).await?;
        }
        (true, false) => {
            let sql = "DELETE FROM address_allocations WHERE subnet_id = $1 AND holder = $2";
            tx.execute(sql, params![&after.id, DHCP]).await?;
        }
        _ => {}
    }
    super::bindings::changed(tx, &after.network_id).await?;
    Ok(())
}

/// Removes one.
///
/// # Errors
/// 409 `SubnetInUse` while a port has an address of it.
pub async fn delete(tx: &mut Tx, id: &str) -> Result<(), ApiError> {
    let sql = "SELECT holder FROM address_allocations WHERE subnet_id = $1 AND holder <> $2";
    if let Some((holder,)) = tx.query_opt::<(String,)>(sql, params![id, DHCP]).await? {
        return Err(conflict(
            "SubnetInUse",
            format!(
                "Unable to complete operation on subnet {id}: One or more ports have an IP \
                 allocation from this subnet, for example port {holder}."
            ),
        ));
    }
    markers::keep(tx, &TABLE, &Condition::new("s.id = ?", [id.into()])).await?;
    tags::clear(
        tx,
        Kind::Subnets,
        Condition::new("resource_id = ?", [id.into()]),
    )
    .await?;
    for sql in [
        "DELETE FROM address_allocations WHERE subnet_id = $1",
        "DELETE FROM subnet_pools WHERE subnet_id = $1",
        "DELETE FROM subnets WHERE id = $1",
    ] {
        tx.execute(sql, params![id]).await?;
    }
    Ok(())
}

/// The address that DHCP servers take there.
///
/// # Errors
/// The store's.
pub async fn dhcp_address(tx: &mut Tx, subnet: &Subnet) -> Result<Option<IpAddr>, StoreError> {
    let sql = "SELECT position FROM address_allocations WHERE subnet_id = $1 AND holder = $2";
    let row: Option<(i64,)> = tx.query_opt(sql, params![&subnet.id, DHCP]).await?;
    Ok(row.and_then(|(position,)| addresses::at(subnet.cidr, position)))
}
