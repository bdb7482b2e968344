//! Networks.

use super::errors::{conflict, not_found};
use super::quotas;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, params, policy::Reach, row};

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

/// All that the caller may see.
///
/// # Errors
/// The store's.
pub async fn list(tx: &mut Tx, reach: &Reach) -> Result<Vec<Network>, StoreError> {
    let sql = "SELECT * FROM networks WHERE CAST($1 AS TEXT) IS NULL OR project_id = $1 \
               OR shared = 1 OR external = 1 ORDER BY created_at, id";
    tx.query(sql, params![reach.project()]).await
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
