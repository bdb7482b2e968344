//! Server groups: affinity and anti-affinity that the scheduler keeps.

use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{params, row};
use berth_rpc_types::InstanceId;

/// Policies that are understood.
pub const POLICIES: &[&str] = &[
    "affinity",
    "anti-affinity",
    "soft-affinity",
    "soft-anti-affinity",
];

row! {
    /// A server group.
    #[derive(Clone, Debug)]
    pub struct Group {
        /// Its id.
        pub id: String,
        /// Whose.
        pub project_id: String,
        /// Who made it.
        pub user_id: String,
        /// Its name; not unique.
        pub name: String,
        /// One of [`POLICIES`].
        pub policy: String,
    } beside {
        /// Servers that are not deleted.
        pub members: Vec<InstanceId>,
    }
}

impl Group {
    async fn with_members(mut self, tx: &mut Tx) -> Result<Self, StoreError> {
        let members: Vec<(InstanceId,)> = tx
            .query(
                "SELECT m.instance_id FROM server_group_members m JOIN instances i \
                 ON i.id = m.instance_id WHERE m.group_id = $1 AND i.deleted_at IS NULL \
                 ORDER BY m.instance_id",
                params![&self.id],
            )
            .await?;
        self.members = members.into_iter().map(|(id,)| id).collect();
        Ok(self)
    }
}

/// One group.
///
/// # Errors
/// [`StoreError`]
pub async fn get(tx: &mut Tx, id: &str) -> Result<Option<Group>, StoreError> {
    let group: Option<Group> = tx
        .query_opt("SELECT * FROM server_groups WHERE id = $1", params![id])
        .await?;
    match group {
        None => Ok(None),
        Some(group) => group.with_members(tx).await.map(Some),
    }
}

/// The groups of a project, or all.
///
/// # Errors
/// [`StoreError`]
pub async fn list(tx: &mut Tx, project: Option<&str>) -> Result<Vec<Group>, StoreError> {
    let found: Vec<Group> = match project {
        None => {
            tx.query(
                "SELECT * FROM server_groups ORDER BY created_at, id",
                params![],
            )
            .await?
        }
        Some(project) => {
            tx.query(
                "SELECT * FROM server_groups WHERE project_id = $1 ORDER BY created_at, id",
                params![project],
            )
            .await?
        }
    };
    let mut groups = Vec::with_capacity(found.len());
    for group in found {
        groups.push(group.with_members(tx).await?);
    }
    Ok(groups)
}

/// Stores a group; its members are not looked at.
///
/// # Errors
/// [`StoreError`]
pub async fn insert(tx: &mut Tx, now: i64, group: &Group) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO server_groups (id, project_id, user_id, name, policy, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        params![
            &group.id,
            &group.project_id,
            &group.user_id,
            &group.name,
            &group.policy,
            now
        ],
    )
    .await?;
    Ok(())
}

/// Adds a server to a group.
///
/// # Errors
/// [`StoreError`]
pub async fn join(tx: &mut Tx, group: &str, instance: InstanceId) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO server_group_members (group_id, instance_id) VALUES ($1, $2)",
        params![group, instance],
    )
    .await?;
    Ok(())
}

/// Removes a group; its servers stay where they are.
///
/// # Errors
/// [`StoreError`]
pub async fn delete(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM server_group_members WHERE group_id = $1",
        params![id],
    )
    .await?;
    tx.execute("DELETE FROM server_groups WHERE id = $1", params![id])
        .await?;
    Ok(())
}
