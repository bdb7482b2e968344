//! Flavors: what a server may be made from. A server keeps the flavor as it was ([`FlavorSnapshot`]).

use berth_controller_core::listing::{Condition, Direction, Field, Ids, Is, Table, markers};
use berth_controller_core::params;
use berth_controller_core::store::{FromRow, Json, Row, StoreError, Tx};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A flavor.
#[derive(Clone, Debug, PartialEq)]
pub struct Flavor {
    /// As the administrator chose it.
    pub id: String,
    /// Unique.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: i64,
    /// Memory in MiB.
    pub ram: i64,
    /// Root disk in GiB; 0 means the image's own size.
    pub disk: i64,
    /// Since 2.55.
    pub description: Option<String>,
    /// Whether every project may use it.
    pub is_public: bool,
    /// Requirements for the scheduler.
    pub extra_specs: BTreeMap<String, String>,
}

/// A flavor as it was when a server was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlavorSnapshot {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: i64,
    /// Memory in MiB.
    pub ram: i64,
    /// Root disk in GiB.
    pub disk: i64,
    /// Requirements for the scheduler.
    #[serde(default)]
    pub extra_specs: BTreeMap<String, String>,
}

impl From<&Flavor> for FlavorSnapshot {
    fn from(flavor: &Flavor) -> Self {
        Self {
            id: flavor.id.clone(),
            name: flavor.name.clone(),
            vcpus: flavor.vcpus,
            ram: flavor.ram,
            disk: flavor.disk,
            extra_specs: flavor.extra_specs.clone(),
        }
    }
}

impl FromRow for Flavor {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            vcpus: row.get("vcpus")?,
            ram: row.get("memory_mib")?,
            disk: row.get("disk_gib")?,
            description: row.get("description")?,
            is_public: row.get("is_public")?,
            extra_specs: row.get::<Json<_>>("extra_specs")?.0,
        })
    }
}

/// One flavor, if `project` may use it (`None`: an administrator, who may use all).
///
/// # Errors
/// [`StoreError`]
pub async fn get(
    tx: &mut Tx,
    id: &str,
    project: Option<&str>,
) -> Result<Option<Flavor>, StoreError> {
    match project {
        None => {
            tx.query_opt("SELECT * FROM flavors WHERE id = $1", params![id])
                .await
        }
        Some(project) => {
            tx.query_opt(
                "SELECT * FROM flavors WHERE id = $1 AND (is_public = 1 OR EXISTS \
                 (SELECT 1 FROM flavor_access a WHERE a.flavor_id = flavors.id AND a.project_id = $2))",
                params![id, project],
            )
            .await
        }
    }
}

/// As they are listed.
pub(crate) const TABLE: Table = Table {
    kind: "flavor",
    from: "flavors f",
    id: "f.id",
    owner: "CASE WHEN f.is_public = 1 THEN '' ELSE 'nobody' END",
    fields: &[
        Field::new("flavorid", "f.id", Is::Text),
        Field::new("id", "f.id", Is::Text),
        Field::new("name", "f.name", Is::Text),
        Field::new("memory_mb", "f.memory_mib", Is::Number),
        Field::new("vcpus", "f.vcpus", Is::Number),
        Field::new("root_gb", "f.disk_gib", Is::Number),
        Field::new("is_public", "f.is_public", Is::Flag),
        Field::new("description", "f.description", Is::Text).or_null(),
        Field::new("created_at", "f.created_at", Is::Time),
        Field::new("updated_at", "f.created_at", Is::Time),
        // The same for all.
        Field::new("disabled", "CAST(0 AS BIGINT)", Is::Flag),
        Field::new("ephemeral_gb", "CAST(0 AS BIGINT)", Is::Number),
        Field::new("rxtx_factor", "CAST(1 AS BIGINT)", Is::Number),
        Field::new("swap", "CAST(0 AS BIGINT)", Is::Number),
        Field::new("vcpu_weight", "CAST(0 AS BIGINT)", Is::Number),
    ],
    order: &[("flavorid", Direction::Ascending)],
};

/// Those that a project may use; all, for who reaches all.
pub(crate) fn visible(project: Option<&str>) -> Condition {
    match project {
        None => Condition::default(),
        Some(project) => Condition::new(
            "f.is_public = 1 OR EXISTS (SELECT 1 FROM flavor_access a \
             WHERE a.flavor_id = f.id AND a.project_id = ?)",
            [project.into()],
        ),
    }
}

/// Those of a page, in its order.
///
/// # Errors
/// [`StoreError`]
pub(crate) async fn of_page(tx: &mut Tx, page: &Ids) -> Result<Vec<Flavor>, StoreError> {
    let (sql, values) = page.among("id").statement("SELECT * FROM flavors", "");
    let found = tx.query(&sql, &values).await?;
    Ok(page.in_order(found, |flavor: &Flavor| flavor.id.clone()))
}

/// Adds a flavor.
///
/// # Errors
/// [`StoreError::Conflict`] if its id or name is taken.
pub async fn insert(tx: &mut Tx, now: i64, flavor: &Flavor) -> Result<(), StoreError> {
    let specs = serde_json::to_value(&flavor.extra_specs).unwrap_or_default();
    tx.execute(
        "INSERT INTO flavors (id, name, vcpus, memory_mib, disk_gib, description, is_public, \
         extra_specs, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![
            &flavor.id,
            &flavor.name,
            flavor.vcpus,
            flavor.ram,
            flavor.disk,
            flavor.description.clone(),
            flavor.is_public,
            specs,
            now
        ],
    )
    .await?;
    Ok(())
}

/// Writes description and extra specs back.
///
/// # Errors
/// [`StoreError`]
pub async fn save(tx: &mut Tx, flavor: &Flavor) -> Result<(), StoreError> {
    let specs = serde_json::to_value(&flavor.extra_specs).unwrap_or_default();
    tx.execute(
        "UPDATE flavors SET description = $1, extra_specs = $2 WHERE id = $3",
        params![flavor.description.clone(), specs, &flavor.id],
    )
    .await?;
    Ok(())
}

/// Removes a flavor; servers made from it keep theirs. `false`: there was none.
///
/// # Errors
/// [`StoreError`]
pub async fn delete(tx: &mut Tx, id: &str) -> Result<bool, StoreError> {
    markers::keep(tx, &TABLE, &Condition::new("f.id = ?", [id.into()])).await?;
    tx.execute(
        "DELETE FROM flavor_access WHERE flavor_id = $1",
        params![id],
    )
    .await?;
    let gone = tx
        .execute("DELETE FROM flavors WHERE id = $1", params![id])
        .await?;
    Ok(gone == 1)
}

/// Projects that may use a flavor that is not public.
///
/// # Errors
/// [`StoreError`]
pub async fn access(tx: &mut Tx, id: &str) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = tx
        .query(
            "SELECT project_id FROM flavor_access WHERE flavor_id = $1 ORDER BY project_id",
            params![id],
        )
        .await?;
    Ok(rows.into_iter().map(|(project_id,)| project_id).collect())
}

/// Lets a project use a flavor. `false`: it already may.
///
/// # Errors
/// [`StoreError`]
pub async fn grant(tx: &mut Tx, id: &str, project: &str) -> Result<bool, StoreError> {
    let added = tx
        .execute(
            "INSERT INTO flavor_access (flavor_id, project_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            params![id, project],
        )
        .await?;
    Ok(added == 1)
}

/// Takes a project's use of a flavor back. `false`: it had none.
///
/// # Errors
/// [`StoreError`]
pub async fn revoke(tx: &mut Tx, id: &str, project: &str) -> Result<bool, StoreError> {
    let gone = tx
        .execute(
            "DELETE FROM flavor_access WHERE flavor_id = $1 AND project_id = $2",
            params![id, project],
        )
        .await?;
    Ok(gone == 1)
}

/// The flavors of a new database: (id, name, vcpus, MiB, GiB).
const DEFAULTS: &[(&str, &str, i64, i64, i64)] = &[
    ("1", "m1.tiny", 1, 512, 1),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
    ("4", "m1.large", 4, 8192, 80),
    ("5", "m1.xlarge", 8, 16384, 160),
];

/// Adds the default flavors to a database that has never had any. Run once a start; an
/// administrator's deletion of them is respected, because a mark is left.
///
/// # Errors
/// [`StoreError`]
pub async fn bootstrap(tx: &mut Tx, now: i64) -> Result<(), StoreError> {
    let first = tx
        .execute(
            "INSERT INTO meta (name, value) VALUES ('flavors_bootstrapped', '1') ON CONFLICT DO NOTHING",
            params![],
        )
        .await?;
    if first == 0 {
        return Ok(());
    }
    for (id, name, vcpus, ram, disk) in DEFAULTS {
        let flavor = Flavor {
            id: (*id).into(),
            name: (*name).into(),
            vcpus: *vcpus,
            ram: *ram,
            disk: *disk,
            description: None,
            is_public: true,
            extra_specs: BTreeMap::new(),
        };
        insert(tx, now, &flavor).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_controller_core::store::{Store, Value};

    async fn all(tx: &mut Tx, project: Option<&str>) -> Result<Vec<(String,)>, StoreError> {
        let (sql, values): (String, Vec<Value>) =
            visible(project).statement("SELECT f.id FROM flavors f", "");
        tx.query(&sql, &values).await
    }

    #[tokio::test]
    async fn default_flavors_come_once_and_a_deleted_one_stays_deleted() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let names = store
            .tx(|tx| {
                Box::pin(async move {
                    bootstrap(tx, 1).await?;
                    assert!(delete(tx, "1").await?);
                    bootstrap(tx, 2).await?;
                    all(tx, Some("p")).await
                })
            })
            .await
            .unwrap();
        assert_eq!(names.len(), DEFAULTS.len() - 1);
    }

    #[tokio::test]
    async fn a_private_flavor_is_there_only_for_who_was_granted_it() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        store
            .tx(|tx| {
                Box::pin(async move {
                    let flavor = Flavor {
                        id: "x".into(),
                        name: "x".into(),
                        vcpus: 1,
                        ram: 1,
                        disk: 0,
                        description: None,
                        is_public: false,
                        extra_specs: BTreeMap::new(),
                    };
                    insert(tx, 1, &flavor).await?;
                    assert!(grant(tx, "x", "friend").await?);
                    assert!(!grant(tx, "x", "friend").await?);
                    assert!(get(tx, "x", Some("friend")).await?.is_some());
                    assert!(get(tx, "x", Some("other")).await?.is_none());
                    assert!(get(tx, "x", None).await?.is_some());
                    assert!(all(tx, Some("other")).await?.is_empty());
                    assert!(revoke(tx, "x", "friend").await?);
                    assert!(get(tx, "x", Some("friend")).await?.is_none());
                    Ok::<_, StoreError>(())
                })
            })
            .await
            .unwrap();
    }
}
