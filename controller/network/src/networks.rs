//! Networks.

use super::errors::{conflict, not_found};
use super::quotas;
use super::tags::{self, Kind, Tagged};
use berth_controller_core::listing::{Condition, Direction, Field, Ids, Is, Table, markers};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, params, policy::Reach, row};
use std::collections::HashMap;

/// As they are listed.
pub(crate) const TABLE: Table = Table {
    kind: "network",
    from: "networks n",
    id: "n.id",
    owner: "CASE WHEN n.shared = 1 OR n.external = 1 THEN '' ELSE n.project_id END",
    fields: &[
        Field::new("id", "n.id", Is::Text),
        Field::new("name", "n.name", Is::Text),
        Field::new("description", "n.description", Is::Text),
        Field::new("admin_state_up", "n.admin_state_up", Is::Flag),
        Field::new("status", "CAST('ACTIVE' AS TEXT)", Is::Text),
        Field::new("shared", "n.shared", Is::Flag),
        Field::new("project_id", "n.project_id", Is::Text),
        Field::new("tenant_id", "n.project_id", Is::Text),
        Field::new("router:external", "n.external", Is::Flag),
        Field::new("mtu", "n.mtu", Is::Number),
        Field::new("port_security_enabled", "CAST(0 AS BIGINT)", Is::Flag),
        Field::new("revision_number", "n.revision", Is::Number),
        Field::new("created_at", "n.created_at", Is::Time),
        Field::new("updated_at", "n.updated_at", Is::Time),
        Field::new("provider:network_type", "n.network_type", Is::Text),
        Field::new("provider:physical_network", "n.physical_network", Is::Text).or_null(),
        Field::new(
            "provider:segmentation_id",
            "CAST(NULL AS BIGINT)",
            Is::Number,
        )
        .or_null(),
    ],
    order: &[
        ("created_at", Direction::Ascending),
        ("id", Direction::Ascending),
    ],
};

/// Those that a project may see.
pub(crate) fn visible(project: Option<&str>) -> Condition {
    match project {
        None => Condition::default(),
        Some(project) => Condition::new(
            "n.project_id = ? OR n.shared = 1 OR n.external = 1",
            [project.into()],
        ),
    }
}

row! {
    /// A network as stored.
    #[derive(Clone, Debug)]
    pub struct Network {
        /// Its id.
        pub id: String,
        /// Whose.
        pub project_id: String,
        /// Its name; may be empty.
        pub name: String,
        /// Words.
        pub description: String,
        /// Whether servers may be put on it.
        pub admin_state_up: bool,
        /// Whether every project may use it.
        pub shared: bool,
        /// Whether every project may see it.
        pub external: bool,
        /// `flat`, or `local`: a bridge of its own on each host.
        pub network_type: String,
        /// The physical network of a flat one.
        pub physical_network: Option<String>,
        /// Bytes.
        pub mtu: i64,
        /// Rises with each change.
        pub revision: i64,
        /// Unix milliseconds.
        pub created_at: i64,
        /// Unix milliseconds.
        pub updated_at: i64,
    } beside {
        /// Its tags, where they are shown.
        pub tags: Vec<String>,
    }
}

impl Tagged for Network {
    const KIND: Kind = Kind::Networks;

    fn id(&self) -> &str {
        &self.id
    }

    fn tags(&mut self) -> &mut Vec<String> {
        &mut self.tags
    }
}

impl Network {
    /// Whether who reaches so far may see it.
    pub fn visible_to(&self, reach: &Reach) -> bool {
        self.shared || self.external || reach.covers(&self.project_id)
    }

    /// Whether who reaches so far may put ports on it.
    pub fn usable_by(&self, reach: &Reach) -> bool {
        self.shared || reach.covers(&self.project_id)
    }
}

/// A 404 for a network.
pub fn missing(id: &str) -> ApiError {
    not_found("NetworkNotFound", "Network", id)
}

/// Those of a page, in its order, each with the ids of its subnets.
///
/// # Errors
/// The store's.
pub(crate) async fn of_page(
    tx: &mut Tx,
    page: &Ids,
) -> Result<Vec<(Network, Vec<String>)>, StoreError> {
    let (sql, values) = page.among("id").statement("SELECT * FROM networks", "");
    let mut networks: Vec<Network> = tx.query(&sql, &values).await?;
    tags::fill(tx, &mut networks).await?;
    let (sql, values) = page.among("network_id").statement(
        "SELECT network_id, id FROM subnets",
        "ORDER BY created_at, id",
    );
    let mut subnets: HashMap<String, Vec<String>> = HashMap::new();
    for (network_id, id) in tx.query(&sql, &values).await? {
        subnets.entry(network_id).or_default().push(id);
    }
    let networks = page.in_order(networks, |network| network.id.clone());
    let with = |network: Network| {
        let own = subnets.remove(&network.id).unwrap_or_default();
        (network, own)
    };
    Ok(networks.into_iter().map(with).collect())
}

/// The ids of those that who reaches so far may put servers on, and that have subnets.
///
/// # Errors
/// The store's.
pub async fn for_servers(tx: &mut Tx, reach: &Reach) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT n.id FROM networks n \
               WHERE (CAST($1 AS TEXT) IS NULL OR n.project_id = $1 OR n.shared = 1) \
               AND n.external = 0 AND n.admin_state_up = 1 \
               AND EXISTS (SELECT 1 FROM subnets s WHERE s.network_id = n.id) \
               ORDER BY n.created_at, n.id";
    let rows: Vec<(String,)> = tx.query(sql, params![reach.project()]).await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// One, if the caller may see it.
///
/// # Errors
/// 404 otherwise.
pub async fn load(tx: &mut Tx, reach: &Reach, id: &str) -> Result<Network, ApiError> {
    let network: Option<Network> = tx
        .query_opt("SELECT * FROM networks WHERE id = $1", params![id])
        .await?;
    network
        .filter(|n| n.visible_to(reach))
        .ok_or_else(|| missing(id))
}

/// Stores a new one.
///
/// # Errors
/// 409 over quota, or for a physical network that is taken.
pub async fn insert(tx: &mut Tx, network: &Network) -> Result<(), ApiError> {
    let n = network.clone();
    quotas::one_more(tx, &n.project_id, quotas::NETWORK).await?;
    tx.execute(
        "INSERT INTO networks (id, project_id, name, description, admin_state_up, shared, \
         external, network_type, physical_network, mtu, revision, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        params![
            n.id,
            n.project_id,
            n.name,
            n.description,
            n.admin_state_up,
            n.shared,
            n.external,
            n.network_type,
            n.physical_network,
            n.mtu,
            n.revision,
            n.created_at,
            n.updated_at
        ],
    )
    .await
    .map_err(|e| match e {
        StoreError::Conflict(_) => conflict(
            "FlatNetworkInUse",
            format!(
                "Unable to create the flat network. Physical network {} is in use.",
                network.physical_network.as_deref().unwrap_or_default()
            ),
        ),
        other => other.into(),
    })?;
    Ok(())
}

/// Stores a changed one.
///
/// # Errors
/// The store's.
pub async fn update(tx: &mut Tx, network: &Network) -> Result<(), StoreError> {
    let n = network.clone();
    tx.execute(
        "UPDATE networks SET name = $1, description = $2, admin_state_up = $3, shared = $4, \
         external = $5, mtu = $6, revision = revision + 1, updated_at = $7 WHERE id = $8",
        params![
            n.name,
            n.description,
            n.admin_state_up,
            n.shared,
            n.external,
            n.mtu,
            n.updated_at,
            n.id
        ],
    )
    .await?;
    Ok(())
}

/// Removes a network with its subnets.
///
/// # Errors
/// 409 `NetworkInUse` while there are ports on it.
pub async fn delete(tx: &mut Tx, id: &str) -> Result<(), ApiError> {
    let ports: Vec<(String,)> = tx
        .query("SELECT id FROM ports WHERE network_id = $1", params![id])
        .await?;
    if let Some((port,)) = ports.first() {
        return Err(conflict(
            "NetworkInUse",
            format!(
                "Unable to complete operation on network {id}. There are one or more ports still \
                 in use on the network, id for these ports is {port}."
            ),
        ));
    }
    let own = Condition::new("s.network_id = ?", [id.into()]);
    markers::keep(tx, &super::subnets::TABLE, &own).await?;
    let its = Condition::new("s.network_id = ?", [id.into()]);
    let its = its.within("resource_id", "SELECT s.id FROM subnets s");
    tags::clear(tx, Kind::Subnets, its).await?;
    tags::clear(
        tx,
        Kind::Networks,
        Condition::new("resource_id = ?", [id.into()]),
    )
    .await?;
    markers::keep(tx, &TABLE, &Condition::new("n.id = ?", [id.into()])).await?;
    for sql in [
        "DELETE FROM address_allocations WHERE subnet_id IN \
         (SELECT id FROM subnets WHERE network_id = $1)",
        "DELETE FROM subnet_pools WHERE subnet_id IN \
         (SELECT id FROM subnets WHERE network_id = $1)",
        "DELETE FROM subnets WHERE network_id = $1",
        "DELETE FROM networks WHERE id = $1",
    ] {
        tx.execute(sql, params![id]).await?;
    }
    Ok(())
}

/// A fresh id in Neutron's form.
pub fn new_id(rng: &dyn berth_rpc::clock::Rng) -> String {
    uuid::Builder::from_random_bytes(rng.bits().to_be_bytes())
        .into_uuid()
        .to_string()
}

/// Refuses to take a network down under servers: their ports would go on carrying traffic.
///
/// # Errors
/// 409 that names a port.
pub async fn must_hold_no_server(tx: &mut Tx, id: &str) -> Result<(), ApiError> {
    let sql = "SELECT id FROM ports WHERE network_id = $1 AND instance_id IS NOT NULL";
    match tx.query_opt::<(String,)>(sql, params![id]).await? {
        None => Ok(()),
        Some((port,)) => Err(conflict(
            "NetworkInUse",
            format!("Network {id} cannot be set down while servers use it: port {port} is one's."),
        )),
    }
}

/// Refuses to take a network from projects that use it.
///
/// # Errors
/// 409 `InvalidSharedSetting`.
pub async fn must_hold_no_foreign_port(tx: &mut Tx, network: &Network) -> Result<(), ApiError> {
    let sql = "SELECT id FROM ports WHERE network_id = $1 AND project_id <> $2";
    match tx
        .query_opt::<(String,)>(sql, params![&network.id, &network.project_id])
        .await?
    {
        None => Ok(()),
        Some(_) => Err(conflict(
            "InvalidSharedSetting",
            format!(
                "Unable to reconfigure sharing settings for network {}. Multiple projects are \
                 using it.",
                network.id
            ),
        )),
    }
}

/// The ids of its subnets.
///
/// # Errors
/// The store's.
pub async fn subnet_ids(tx: &mut Tx, id: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT id FROM subnets WHERE network_id = $1 ORDER BY created_at, id";
    let rows: Vec<(String,)> = tx.query(sql, params![id]).await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}
