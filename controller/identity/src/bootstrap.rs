//! The first domain, project, roles and administrator, made at every start if missing.
//!
//! The administrator's password follows the configuration: who can change that file and
//! restart the controller has not lost their cloud.

use super::{DEFAULT_DOMAIN, new_id, password};
use berth_controller_core::params;
use berth_controller_core::store::{Store, StoreError};
use berth_rpc::clock::{Clock, Rng};

/// The roles that Keystone's own bootstrap makes, and `service`.
const ROLES: [&str; 5] = ["admin", "manager", "member", "reader", "service"];

/// Why the first administrator could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The database.
    #[error("making the first domain, project and administrator: {0}")]
    Store(#[from] StoreError),
    /// The password.
    #[error("hashing the administrator's password: {0}")]
    Password(#[from] password::PasswordError),
}

/// Makes what is missing. Safe to run by several controllers at once.
///
/// # Errors
/// [`BootstrapError`].
pub async fn bootstrap(
    store: &Store,
    clock: &dyn Clock,
    rng: &dyn Rng,
    admin_password: &str,
) -> Result<(), BootstrapError> {
    let now = clock.now_millis();
    let stored = store
        .tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                let sql = "SELECT password_hash FROM users WHERE domain_id = $1 AND name = 'admin'";
                tx.query_opt::<(String,)>(sql, params![DEFAULT_DOMAIN])
                    .await
            })
        })
        .await?;
    let hash = match stored {
        Some((hash,))
            if password::verify(Some(hash.clone()), admin_password.to_owned()).await? =>
        {
            hash
        }
        _ => password::hash(rng, admin_password.to_owned()).await?,
    };
    let role_ids: Vec<(String, &str)> = ROLES.iter().map(|r| (new_id(rng), *r)).collect();
    let (project_id, user_id) = (new_id(rng), new_id(rng));
    store
        .tx(|tx| {
            let (hash, role_ids) = (hash.clone(), role_ids.clone());
            let (project_id, user_id) = (project_id.clone(), user_id.clone());
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO domains (id, name, description, enabled, created_at) \
                     VALUES ($1, 'Default', 'The default domain', 1, $2) ON CONFLICT DO NOTHING",
                    params![DEFAULT_DOMAIN, now],
                )
                .await?;
                for (id, name) in &role_ids {
                    tx.execute(
                        "INSERT INTO roles (id, name, description, created_at) \
                         VALUES ($1, $2, '', $3) ON CONFLICT DO NOTHING",
                        params![id, *name, now],
                    )
                    .await?;
                }
                tx.execute(
                    "INSERT INTO projects (id, domain_id, name, description, enabled, tags, \
                     created_at) VALUES ($1, $2, 'admin', '', 1, '[]', $3) ON CONFLICT DO NOTHING",
                    params![&project_id, DEFAULT_DOMAIN, now],
                )
                .await?;
                tx.execute(
                    "INSERT INTO users (id, domain_id, name, password_hash, enabled, created_at) \
                     VALUES ($1, $2, 'admin', $3, 1, $4) ON CONFLICT DO NOTHING",
                    params![&user_id, DEFAULT_DOMAIN, &hash, now],
                )
                .await?;
                tx.execute(
                    "UPDATE users SET password_hash = $1, enabled = 1 \
                     WHERE domain_id = $2 AND name = 'admin'",
                    params![&hash, DEFAULT_DOMAIN],
                )
                .await?;
                for (kind, target) in [
                    (
                        "project",
                        "(SELECT id FROM projects WHERE domain_id = $1 AND name = 'admin')",
                    ),
                    ("domain", "$1"),
                    ("system", "'all'"),
                ] {
                    let sql = format!(
                        "INSERT INTO role_assignments (user_id, target_kind, target_id, role_id) \
                         SELECT u.id, '{kind}', CAST({target} AS TEXT), r.id FROM users u, roles r \
                         WHERE u.domain_id = $1 AND u.name = 'admin' AND r.name = 'admin' \
                         ON CONFLICT DO NOTHING"
                    );
                    tx.execute(&sql, params![DEFAULT_DOMAIN]).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await?;
    Ok(())
}
