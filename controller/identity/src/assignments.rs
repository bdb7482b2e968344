//! Who has which role where: granted to a user or to a group that the user is in, on a project, a domain
//! or the system itself, or on a domain for the projects in it to inherit.
//!
//! Projects do not nest here: what is inherited from a project is inherited by nothing.

use crate::implied;
use crate::tokens::{Named, Scope};
use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};

/// Every assignment, as it was made.
pub const ALL: &str = "(SELECT 'user' AS actor_kind, user_id AS actor_id, target_kind, target_id, role_id, \
    CAST(0 AS BIGINT) AS inherited FROM role_assignments \
    UNION ALL SELECT actor_kind, actor_id, target_kind, target_id, role_id, inherited \
    FROM wider_assignments)";

/// Every assignment as it takes effect: of users, on what it is on. `actor_id` is the group that it comes
/// by, or the user; `from_domain` the domain that it is inherited from, or ''.
pub const EFFECTIVE: &str = "(SELECT o.user_id, o.actor_kind, o.actor_id, o.role_id, \
    CASE WHEN o.inherited = 1 THEN 'project' ELSE o.target_kind END AS target_kind, \
    CASE WHEN o.inherited = 1 THEN p.id ELSE o.target_id END AS target_id, \
    CASE WHEN o.inherited = 1 THEN o.target_id ELSE '' END AS from_domain \
    FROM (SELECT user_id, 'user' AS actor_kind, user_id AS actor_id, target_kind, target_id, role_id, \
        CAST(0 AS BIGINT) AS inherited FROM role_assignments \
        UNION ALL SELECT actor_id, 'user', actor_id, target_kind, target_id, role_id, inherited \
        FROM wider_assignments WHERE actor_kind = 'user' \
        UNION ALL SELECT m.user_id, 'group', m.group_id, w.target_kind, w.target_id, w.role_id, \
        w.inherited FROM wider_assignments w JOIN group_members m ON m.group_id = w.actor_id \
        WHERE w.actor_kind = 'group') o \
    LEFT JOIN projects p ON o.inherited = 1 AND o.target_kind = 'domain' AND p.domain_id = o.target_id \
    WHERE o.inherited = 0 OR p.id IS NOT NULL)";

/// A user's roles on a scope, implied ones too, by name.
///
/// # Errors
/// The store's.
pub async fn roles(tx: &mut Tx, user_id: &str, scope: &Scope) -> Result<Vec<Named>, StoreError> {
    let (kind, id) = scope.target();
    // The same as of [`EFFECTIVE`], by indexes: it is asked at each request.
    let sql = "SELECT role_id FROM role_assignments \
               WHERE user_id = $1 AND target_kind = $2 AND target_id = $3 \
               UNION SELECT w.role_id FROM wider_assignments w \
               WHERE ((w.actor_kind = 'user' AND w.actor_id = $1) OR (w.actor_kind = 'group' \
               AND w.actor_id IN (SELECT group_id FROM group_members WHERE user_id = $1))) \
               AND ((w.inherited = 0 AND w.target_kind = $2 AND w.target_id = $3) \
               OR (w.inherited = 1 AND w.target_kind = 'domain' AND $2 = 'project' \
               AND w.target_id = (SELECT domain_id FROM projects WHERE id = $3)))";
    let given: Vec<(String,)> = tx.query(sql, params![user_id, kind, id]).await?;
    let given: Vec<String> = given.into_iter().map(|(id,)| id).collect();
    with_implied(tx, &given).await
}

/// These roles, and those that having them implies, by name.
///
/// # Errors
/// The store's.
pub async fn with_implied(tx: &mut Tx, given: &[String]) -> Result<Vec<Named>, StoreError> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<Named> = tx
        .query("SELECT id, name FROM roles ORDER BY name", &[])
        .await?;
    let names: Vec<&str> = all
        .iter()
        .filter(|r| given.contains(&r.id))
        .flat_map(|r| std::iter::once(r.name.as_str()).chain(implied(&r.name).iter().copied()))
        .collect();
    Ok(all
        .iter()
        .filter(|r| names.contains(&r.name.as_str()))
        .cloned()
        .collect())
}

/// Whether a user, or a group (and so all who are in it), has rights beyond its domain: the role `admin`
/// anywhere, or any on the system.
///
/// # Errors
/// The store's.
pub async fn is_beyond_a_domain(tx: &mut Tx, actor: &str) -> Result<bool, StoreError> {
    let sql = format!(
        "SELECT a.role_id FROM {ALL} a JOIN roles r ON r.id = a.role_id \
         WHERE (a.actor_id = $1 OR a.actor_id IN (SELECT group_id FROM group_members \
         WHERE user_id = $1)) AND (r.name = 'admin' OR a.target_kind = 'system') LIMIT 1"
    );
    let row: Option<(String,)> = tx.query_opt(&sql, params![actor]).await?;
    Ok(row.is_some())
}
