//! A server's row, and the JSON parts of it.
//!
//! What the user wants is in [`Instance::body`] and [`Instance::flavor`]; what became of it in
//! the states. Every change of a body is a compare-and-swap on the row's generation, so that
//! two requests at once cannot undo each other.

use super::flavors::FlavorSnapshot;
use berth_controller_core::listing::Condition;
use berth_controller_core::params;
use berth_controller_core::store::{FromRow, Json, Row, StoreError, Tx};
use berth_rpc_types::{
    HostId, ImageId, InstanceId, OperationId, Stored, TaskState, VmState, VmmId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What the user said that no query needs as a column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Body {
    /// Key and value pairs for the guest and the user.
    pub metadata: BTreeMap<String, String>,
    /// Base64, as the API took it.
    pub user_data: Option<String>,
    /// Since 2.26.
    pub tags: BTreeSet<String>,
    /// Since 2.19.
    pub description: Option<String>,
    /// Scheduler hints that are understood.
    pub hints: Hints,
    /// The availability zone asked for.
    pub requested_zone: Option<String>,
    /// The host asked for by an administrator (`az:host`), by hostname.
    pub requested_host: Option<String>,
    /// Whether the user asked for a config drive (guests get one in any case).
    pub config_drive: bool,
    /// Shown, not used.
    pub access_ip_v4: Option<std::net::Ipv4Addr>,
    /// Shown, not used.
    pub access_ip_v6: Option<std::net::Ipv6Addr>,
    /// The key's OpenSSH form as it was when the server was made.
    pub public_key: Option<String>,
    /// Names of security groups, as asked.
    pub security_groups: Vec<String>,
    /// `r-...`: the same for all servers of a request.
    pub reservation_id: String,
    /// Number within its request, from 0.
    pub launch_index: u32,
    /// `OS-DCF:diskConfig` is MANUAL.
    pub manual_disk_config: bool,
    /// Who locked it: `owner` or `admin`.
    pub locked_by: Option<String>,
    /// Why, if they said.
    pub locked_reason: Option<String>,
    /// The hostname asked for, instead of one made from the name.
    pub hostname: Option<String>,
}

/// Scheduler hints that are understood; the scheduler has a filter for each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hints {
    /// A server group.
    pub group: Option<String>,
    /// On a host of one of these.
    pub same_host: Vec<InstanceId>,
    /// On a host of none of these.
    pub different_host: Vec<InstanceId>,
}

/// Why a server is in ERROR, or why its last action failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// HTTP-like; 500 for most.
    pub code: i64,
    /// For the user: what, why, which knob. Placement's has its counts for each filter.
    pub message: String,
    /// For administrators.
    #[serde(default)]
    pub details: String,
    /// Unix milliseconds.
    pub created: i64,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Whose.
    pub project_id: String,
    /// Who made it.
    pub user_id: String,
    /// Its name.
    pub name: String,
    /// Stable state.
    pub vm_state: Stored<VmState>,
    /// What is being done.
    pub task_state: Option<Stored<TaskState>>,
    /// Nova's number, as last seen.
    pub power_state: i64,
    /// Where it is.
    pub host_id: Option<HostId>,
    /// The process that has the right to run.
    pub active_vmm_id: Option<VmmId>,
    /// Where it is, by zone.
    pub availability_zone: Option<String>,
    /// The flavor as it was.
    pub flavor: FlavorSnapshot,
    /// What it booted from.
    pub image_id: Option<ImageId>,
    /// Name of its key.
    pub key_name: Option<String>,
    /// Whether only administrators may act on it.
    pub locked: bool,
    /// Why it is in ERROR.
    pub fault: Option<Fault>,
    /// The rest.
    pub body: Body,
    /// Rises with each change of the body.
    pub generation: i64,
    /// The one open operation.
    pub operation_id: Option<OperationId>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
    /// Unix milliseconds; set when it first ran.
    pub launched_at: Option<i64>,
    /// Unix milliseconds.
    pub deleted_at: Option<i64>,
}

impl FromRow for Instance {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let fault: Option<String> = row.get("fault")?;
        Ok(Self {
            id: row.get("id")?,
            project_id: row.get("project_id")?,
            user_id: row.get("user_id")?,
            name: row.get("name")?,
            vm_state: row.get("vm_state")?,
            task_state: row.get("task_state")?,
            power_state: row.get("power_state")?,
            host_id: row.get("host_id")?,
            active_vmm_id: row.get("active_vmm_id")?,
            availability_zone: row.get("availability_zone")?,
            flavor: row.get::<Json<_>>("flavor")?.0,
            image_id: row.get("image_id")?,
            key_name: row.get("key_name")?,
            locked: row.get("locked")?,
            // Shown only: a fault that does not parse must not hide the server.
            fault: fault.and_then(|f| serde_json::from_str(&f).ok()),
            body: row.get::<Json<_>>("body")?.0,
            generation: row.get("generation")?,
            operation_id: row.get("operation_id")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
            launched_at: row.get("launched_at")?,
            deleted_at: row.get("deleted_at")?,
        })
    }
}

impl Instance {
    /// Nova's `status`; `UNKNOWN`, as there, for a state that only a newer controller knows.
    pub fn status(&self) -> &'static str {
        let task = self.task_state.as_ref().and_then(Stored::known);
        self.vm_state
            .known()
            .map_or("UNKNOWN", |state| super::states::status(state, task))
    }

    /// The guest's hostname: the one that was asked for, or the name with what DNS does not allow taken
    /// out, at most 63 long.
    pub fn hostname(&self) -> String {
        if let Some(hostname) = &self.body.hostname {
            return hostname.clone();
        }
        let mut out = String::new();
        for c in self.name.chars() {
            match c {
                'a'..='z' | '0'..='9' => out.push(c),
                'A'..='Z' => out.push(c.to_ascii_lowercase()),
                ' ' | '_' | '-' | '.' | '/' if !out.ends_with('-') => out.push('-'),
                _ => {}
            }
        }
        let out: String = out.trim_matches('-').chars().take(63).collect();
        let out = out.trim_end_matches('-');
        if out.is_empty() {
            format!("server-{}", self.id)
        } else {
            out.to_owned()
        }
    }
}

/// A server that is not deleted, by id.
///
/// # Errors
/// [`StoreError`]
pub async fn load(tx: &mut Tx, id: InstanceId) -> Result<Option<Instance>, StoreError> {
    tx.query_opt(
        "SELECT * FROM instances WHERE id = $1 AND deleted_at IS NULL",
        params![id],
    )
    .await
}

/// Those that meet a condition, deleted ones too, in no order.
///
/// # Errors
/// [`StoreError`]
pub(crate) async fn which(tx: &mut Tx, which: &Condition) -> Result<Vec<Instance>, StoreError> {
    let (sql, values) = which.statement("SELECT * FROM instances", "");
    tx.query(&sql, &values).await
}

/// A server to be inserted. Its first states are `building` and no power.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Its id.
    pub id: InstanceId,
    /// Whose.
    pub project_id: String,
    /// Who makes it.
    pub user_id: String,
    /// Its name.
    pub name: String,
    /// The flavor as it is now.
    pub flavor: FlavorSnapshot,
    /// What it boots from.
    pub image_id: ImageId,
    /// Name of its key.
    pub key_name: Option<String>,
    /// The rest.
    pub body: Body,
}

/// Inserts a server. The quota is the caller's to look at.
///
/// # Errors
/// [`StoreError`]
pub async fn insert(tx: &mut Tx, now: i64, new: &NewInstance) -> Result<(), StoreError> {
    let flavor = serde_json::to_value(&new.flavor).unwrap_or_default();
    let body = serde_json::to_value(&new.body).unwrap_or_default();
    tx.execute(
        "INSERT INTO instances (id, project_id, user_id, name, vm_state, power_state, flavor, \
         vcpus, memory_mib, image_id, key_name, locked, body, generation, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, 'building', 0, $5, $6, $7, $8, $9, 0, $10, 1, $11, $11)",
        params![
            new.id,
            &new.project_id,
            &new.user_id,
            &new.name,
            flavor,
            new.flavor.vcpus,
            new.flavor.ram,
            new.image_id,
            new.key_name.clone(),
            body,
            now
        ],
    )
    .await?;
    Ok(())
}

/// Inserts a server's root disk.
///
/// # Errors
/// [`StoreError`]
pub async fn insert_root_disk(
    tx: &mut Tx,
    now: i64,
    disk_id: uuid::Uuid,
    new: &NewInstance,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO disks (id, instance_id, position, size_gib, image_id, format, \
         writer_generation, created_at) VALUES ($1, $2, 0, $3, $4, 'raw', 1, $5)",
        params![disk_id, new.id, new.flavor.disk, new.image_id, now],
    )
    .await?;
    Ok(())
}

/// Writes name, lock and body back if nobody else did since they were read. `false`: somebody did.
///
/// # Errors
/// [`StoreError`]
pub async fn save(tx: &mut Tx, now: i64, instance: &Instance) -> Result<bool, StoreError> {
    let body = serde_json::to_value(&instance.body).unwrap_or_default();
    let changed = tx
        .execute(
            "UPDATE instances SET name = $1, locked = $2, body = $3, updated_at = $4, \
             generation = generation + 1 \
             WHERE id = $5 AND generation = $6 AND deleted_at IS NULL",
            params![
                &instance.name,
                instance.locked,
                body,
                now,
                instance.id,
                instance.generation
            ],
        )
        .await?;
    Ok(changed == 1)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_controller_core::store::Store;

    pub(crate) fn new_instance(number: u128, vcpus: i64, ram: i64) -> NewInstance {
        NewInstance {
            id: InstanceId::from_u128(number),
            project_id: "p".into(),
            user_id: "u".into(),
            name: format!("Server {number}"),
            flavor: FlavorSnapshot {
                id: "1".into(),
                name: "m1.tiny".into(),
                vcpus,
                ram,
                disk: 1,
                ..FlavorSnapshot::default()
            },
            image_id: ImageId::from_u128(7),
            key_name: None,
            body: Body::default(),
        }
    }

    #[tokio::test]
    async fn a_save_that_lost_a_race_changes_nothing() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let (first, second, name) = store
            .tx(|tx| {
                Box::pin(async move {
                    insert(tx, 1, &new_instance(1, 1, 1)).await?;
                    let id = InstanceId::from_u128(1);
                    let mut one = load(tx, id).await?.unwrap();
                    let mut two = one.clone();
                    one.name = "one".into();
                    two.name = "two".into();
                    let first = save(tx, 2, &one).await?;
                    let second = save(tx, 3, &two).await?;
                    Ok::<_, StoreError>((first, second, load(tx, id).await?.unwrap().name))
                })
            })
            .await
            .unwrap();
        assert_eq!((first, second, name.as_str()), (true, false, "one"));
    }

    #[tokio::test]
    async fn a_hostname_is_what_dns_allows() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let instance = store
            .tx(|tx| {
                Box::pin(async move {
                    let mut new = new_instance(1, 1, 1);
                    new.name = "Web_1/Überall.".into();
                    insert(tx, 1, &new).await?;
                    load(tx, new.id).await
                })
            })
            .await
            .unwrap()
            .unwrap();
        assert_eq!(instance.hostname(), "web-1-berall");
        let nameless = Instance {
            name: "///".into(),
            ..instance
        };
        assert_eq!(nameless.hostname(), format!("server-{}", nameless.id));
    }
}
