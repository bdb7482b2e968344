//! How much a project may have. Counted in the transaction that adds, which is serializable; what a server takes
//! is counted before ([`berth_controller_core::additions`]).

use super::errors::conflict;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, params};

/// A counted resource: its name in the API, its table, and what a project may have by default.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// `network`
    pub name: &'static str,
    table: &'static str,
    /// -1 is no limit.
    pub default: i64,
}

/// All of them.
pub const COUNTED: &[Counted] = &[NETWORK, SUBNET, PORT, SECURITY_GROUP, SECURITY_GROUP_RULE];
/// Networks.
pub const NETWORK: Counted = counted("network", "networks", 100);
/// Subnets.
pub const SUBNET: Counted = counted("subnet", "subnets", 100);
/// Ports.
pub const PORT: Counted = counted("port", "ports", 500);
/// Security groups.
pub const SECURITY_GROUP: Counted = counted("security_group", "security_groups", 10);
/// Rules.
pub const SECURITY_GROUP_RULE: Counted =
    counted("security_group_rule", "security_group_rules", 100);

const fn counted(name: &'static str, table: &'static str, default: i64) -> Counted {
    Counted {
        name,
        table,
        default,
    }
}

/// What a project may have of one resource.
///
/// # Errors
/// The store's.
pub async fn limit(tx: &mut Tx, project: &str, what: Counted) -> Result<i64, StoreError> {
    let sql = "SELECT value FROM network_quotas WHERE project_id = $1 AND resource = $2";
    let row: Option<(i64,)> = tx.query_opt(sql, params![project, what.name]).await?;
    Ok(row.map_or(what.default, |(value,)| value))
}

/// What a project has.
///
/// # Errors
/// The store's.
pub async fn used(tx: &mut Tx, project: &str, what: Counted) -> Result<i64, StoreError> {
    let sql = format!(
        "SELECT COUNT(*) AS n FROM {} WHERE project_id = $1",
        what.table
    );
    let row: Option<(i64,)> = tx.query_opt(&sql, params![project]).await?;
    Ok(row.map_or(0, |(n,)| n))
}

/// What a project has of one resource, and may have.
#[derive(Clone, Debug)]
pub struct Room {
    project: String,
    what: Counted,
    limit: i64,
    used: i64,
}

impl Room {
    /// As it is now.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(tx: &mut Tx, project: &str, what: Counted) -> Result<Self, StoreError> {
        Ok(Self {
            project: project.to_owned(),
            what,
            limit: limit(tx, project, what).await?,
            used: used(tx, project, what).await?,
        })
    }

    /// Takes one.
    ///
    /// # Errors
    /// 409 `OverQuota`, which names the limit, if that is one too many.
    pub fn take(&mut self) -> Result<(), ApiError> {
        let Self {
            project,
            limit,
            used,
            ..
        } = &*self;
        if *limit >= 0 && used >= limit {
            return Err(conflict(
                "OverQuota",
                format!(
                    "Quota exceeded for resources: ['{}']: {used} of {limit} are in use; an \
                     administrator can raise it at /v2.0/quotas/{project}.",
                    self.what.name
                ),
            ));
        }
        self.used = self.used.saturating_add(1);
        Ok(())
    }
}

/// Refuses one more if that is one too many. Call it in the transaction that inserts.
///
/// # Errors
/// 409 `OverQuota`, which names the limit.
pub async fn one_more(tx: &mut Tx, project: &str, what: Counted) -> Result<(), ApiError> {
    Room::of(tx, project, what).await?.take()
}
