//! Application credentials: a secret with which a program logs in as a user, for one project, with some of
//! the roles that the user has there.
//!
//! A token got with one is stored with the credential for its target: what it is good for is read
//! with it each time. So it ends with the credential, and with any of its roles.

use crate::assignments;
use crate::tokens::{self, Named, Scope, unauthorized};
use berth_controller_core::store::{Json, Tx};
use berth_controller_core::{ApiError, params, row, time};

/// As a token's target.
pub const TARGET: &str = "application_credential";

row! {
    /// One, as stored.
    #[derive(Clone, Debug)]
    pub struct ApplicationCredential {
        /// Its id.
        pub id: String,
        /// Whose.
        pub user_id: String,
        /// For which project.
        pub project_id: String,
        /// Its name, unique among the user's.
        pub name: String,
        /// Words.
        pub description: Option<String>,
        /// argon2id, PHC form.
        pub secret_hash: String,
        /// Ids of roles.
        pub roles: Json<Vec<String>>,
        /// Whether it may make and delete others.
        pub unrestricted: bool,
        /// Unix microseconds.
        pub expires_at: Option<i64>,
    }
}

/// One by its id.
///
/// # Errors
/// The store's.
pub async fn find(tx: &mut Tx, id: &str) -> Result<Option<ApplicationCredential>, ApiError> {
    let sql = "SELECT * FROM application_credentials WHERE id = $1";
    Ok(tx.query_opt(sql, params![id]).await?)
}

/// What one is good for now.
///
/// # Errors
/// 401 if it expired, its project is gone, or its user no longer has each of its roles there.
pub async fn scope(
    tx: &mut Tx,
    credential: &ApplicationCredential,
    now: i64,
) -> Result<(Scope, Vec<Named>), ApiError> {
    if let Some(at) = credential.expires_at.filter(|at| *at / 1000 <= now) {
        return Err(unauthorized(format!(
            "The application credential expired at {}.",
            time::seconds(at / 1000)
        )));
    }
    let scope = tokens::scope_by_id(tx, "project", &credential.project_id).await?;
    let scope = scope.ok_or_else(|| {
        unauthorized("The application credential's project no longer exists, or is disabled.")
    })?;
    let has = assignments::roles(tx, &credential.user_id, &scope).await?;
    let roles = assignments::with_implied(tx, &credential.roles.0).await?;
    let lacks = credential
        .roles
        .0
        .iter()
        .any(|id| has.iter().all(|role| role.id != *id));
    if lacks || roles.is_empty() {
        return Err(unauthorized(
            "The application credential's user no longer has its roles on its project.",
        ));
    }
    Ok((scope, roles))
}
