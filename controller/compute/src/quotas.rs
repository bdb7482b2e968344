//! Quotas of instances, cores and RAM: the limits, the use, and the words. A request that adds counts before its
//! transaction ([`Counted`]), which then holds it to that.
//!
//! Resources whose limits are not enforced are not stored: asking to set one is refused.

use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{additions, params};
use berth_controller_network::quotas::{PORT, Room};

/// What is enforced, in Nova's order, with Nova's default.
pub const ENFORCED: &[(&str, i64)] = &[
    ("instances", 10),
    ("cores", 20),
    ("ram", 51_200),
    ("key_pairs", 100),
    ("server_groups", 10),
    ("server_group_members", 10),
    ("metadata_items", 128),
];

/// Limits of what an instance takes; -1 is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeLimits {
    /// Servers.
    pub instances: i64,
    /// Virtual CPUs.
    pub cores: i64,
    /// MiB.
    pub ram: i64,
}

/// What a project uses now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Servers.
    pub instances: i64,
    /// Virtual CPUs.
    pub cores: i64,
    /// MiB.
    pub ram: i64,
}

/// The default limit of a resource, if it is enforced.
pub fn default_limit(resource: &str) -> Option<i64> {
    let found = ENFORCED.iter().find(|(name, _)| *name == resource);
    found.map(|(_, limit)| *limit)
}

/// All limits of a project, in the order of [`ENFORCED`].
///
/// # Errors
/// [`StoreError`]
pub async fn limits(tx: &mut Tx, project: &str) -> Result<Vec<(&'static str, i64)>, StoreError> {
    let rows: Vec<(String, i64)> = tx
        .query(
            "SELECT resource, hard_limit FROM quotas WHERE project_id = $1",
            params![project],
        )
        .await?;
    let mut all = ENFORCED.to_vec();
    for (resource, limit) in rows {
        if let Some(entry) = all.iter_mut().find(|(name, _)| *name == resource) {
            entry.1 = limit;
        }
    }
    Ok(all)
}

/// One limit out of [`limits`].
pub fn limit_of(limits: &[(&'static str, i64)], resource: &str) -> i64 {
    let found = limits.iter().find(|(name, _)| *name == resource);
    found.map_or(-1, |(_, limit)| *limit)
}

/// The limits that a create is held to.
pub fn compute_limits(limits: &[(&'static str, i64)]) -> ComputeLimits {
    ComputeLimits {
        instances: limit_of(limits, "instances"),
        cores: limit_of(limits, "cores"),
        ram: limit_of(limits, "ram"),
    }
}

/// What a project uses.
///
/// # Errors
/// [`StoreError`]
pub async fn usage(tx: &mut Tx, project: &str) -> Result<Usage, StoreError> {
    let (instances, cores, ram) = tx
        .query_opt(
            "SELECT COUNT(*) AS instances, CAST(COALESCE(SUM(vcpus), 0) AS BIGINT) AS cores, \
             CAST(COALESCE(SUM(memory_mib), 0) AS BIGINT) AS ram \
             FROM instances WHERE project_id = $1 AND deleted_at IS NULL",
            params![project],
        )
        .await?
        .unwrap_or_default();
    Ok(Usage {
        instances,
        cores,
        ram,
    })
}

/// What a project has of all that a server takes, and when that was.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The number of additions until then ([`additions`]).
    pub additions: i64,
    /// What its servers take.
    pub usage: Usage,
    /// Its ports.
    pub ports: Room,
}

impl Counted {
    /// As it is now, to a transaction that only reads.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn now(tx: &mut Tx, project: &str) -> Result<Self, StoreError> {
        Ok(Self {
            additions: additions::number(tx, project).await?,
            usage: usage(tx, project).await?,
            ports: Room::of(tx, project, PORT).await?,
        })
    }
}

/// Sets a limit.
///
/// # Errors
/// [`StoreError`]
pub async fn set(tx: &mut Tx, project: &str, resource: &str, limit: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO quotas (project_id, resource, hard_limit) VALUES ($1, $2, $3) \
         ON CONFLICT (project_id, resource) DO UPDATE SET hard_limit = excluded.hard_limit",
        params![project, resource, limit],
    )
    .await?;
    Ok(())
}

/// Back to the defaults.
///
/// # Errors
/// [`StoreError`]
pub async fn reset(tx: &mut Tx, project: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM quotas WHERE project_id = $1", params![project])
        .await?;
    Ok(())
}

/// Nova's words for what would go over, if anything would.
pub fn over_quota(limits: ComputeLimits, usage: Usage, requested: Usage) -> Option<String> {
    let table = [
        (
            "instances",
            requested.instances,
            usage.instances,
            limits.instances,
        ),
        ("cores", requested.cores, usage.cores, limits.cores),
        ("ram", requested.ram, usage.ram, limits.ram),
    ];
    let over: Vec<_> = table
        .iter()
        .filter(|(_, asked, used, limit)| *limit >= 0 && used.saturating_add(*asked) > *limit)
        .collect();
    if over.is_empty() {
        return None;
    }
    let join = |part: fn(&(&str, i64, i64, i64)) -> String| {
        over.iter().map(|o| part(o)).collect::<Vec<_>>().join(", ")
    };
    let names = join(|o| o.0.to_owned());
    Some(format!(
        "Quota exceeded for {names}: Requested {}, but already used {} of {} {names}",
        join(|o| o.1.to_string()),
        join(|o| o.2.to_string()),
        join(|o| o.3.to_string()),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_controller_core::store::Store;

    #[test]
    fn what_is_over_is_named_with_requested_used_and_limit() {
        let limits = ComputeLimits {
            instances: 10,
            cores: 20,
            ram: -1,
        };
        let used = Usage {
            instances: 10,
            cores: 20,
            ram: 99_999,
        };
        let asked = Usage {
            instances: 1,
            cores: 2,
            ram: 512,
        };
        assert_eq!(
            over_quota(limits, used, asked).unwrap(),
            "Quota exceeded for instances, cores: Requested 1, 2, but already used 10, 20 of 10, 20 instances, cores"
        );
        let nothing = Usage {
            instances: 0,
            cores: 0,
            ram: 0,
        };
        assert_eq!(over_quota(limits, nothing, asked), None);
    }

    #[tokio::test]
    async fn a_set_limit_replaces_the_default_until_it_is_reset() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        store
            .tx(|tx| {
                Box::pin(async move {
                    set(tx, "p", "cores", 4).await?;
                    set(tx, "p", "cores", 5).await?;
                    assert_eq!(limit_of(&limits(tx, "p").await?, "cores"), 5);
                    assert_eq!(limit_of(&limits(tx, "other").await?, "cores"), 20);
                    reset(tx, "p").await?;
                    assert_eq!(limit_of(&limits(tx, "p").await?, "cores"), 20);
                    assert_eq!(usage(tx, "p").await?.instances, 0);
                    Ok::<_, StoreError>(())
                })
            })
            .await
            .unwrap();
    }
}
