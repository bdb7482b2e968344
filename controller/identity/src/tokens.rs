//! Tokens: 256 random bits, stored as SHA-256, scoped to a project, a domain, the system or
//! nothing.
//!
//! A token is looked up by its hash, so that no comparison of secrets takes a time that tells.
//! Validation reads user, scope and roles as they are now: a disabled user, a deleted project
//! or the last role taken away ends a token at once.

use crate::application_credentials::{self as credentials, ApplicationCredential};
use crate::assignments;
use axum::http::StatusCode;
use berth_controller_core::store::{Json, StoreError, Tx};
use berth_controller_core::{ApiError, AppState, Service, params, row, secret, time};

row! {
    /// A name with its id.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Named {
        /// The id.
        pub id: String,
        /// The name.
        pub name: String,
    }
}

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only for asking for another token.
    Unscoped,
    /// A project, and its domain.
    Project(Named, Named),
    /// A domain.
    Domain(Named),
    /// The whole installation.
    System,
}

/// What is stored as a token's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A scope, for the user.
    Scope(Scope),
    /// What an application credential is good for, by its id.
    ApplicationCredential(String),
}

impl Target {
    /// As the database has it: `(target_kind, target_id)`.
    fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::Scope(scope) => scope.target(),
            Self::ApplicationCredential(id) => (credentials::TARGET, id),
        }
    }
}

impl Scope {
    /// As the database has it: `(target_kind, target_id)`.
    pub fn target(&self) -> (&'static str, &str) {
        match self {
            Self::Unscoped => ("none", ""),
            Self::Project(project, _) => ("project", &project.id),
            Self::Domain(domain) => ("domain", &domain.id),
            Self::System => ("system", "all"),
        }
    }
}

/// A token that was found good.
#[derive(Clone, Debug)]
pub struct Token {
    /// SHA-256 of the secret, hexadecimal.
    pub hash: String,
    /// What may be shown of it in logs.
    pub audit_id: String,
    /// The user.
    pub user_id: String,
    /// The user's name.
    pub user_name: String,
    /// The user's domain.
    pub user_domain: Named,
    /// What it is good for.
    pub scope: Scope,
    /// Roles there, implied ones too.
    pub roles: Vec<Named>,
    /// `password`, `token`, `application_credential`
    pub methods: Vec<String>,
    /// What it was got by, if it was.
    pub application_credential: Option<ApplicationCredential>,
    /// Unix milliseconds.
    pub issued_at: i64,
    /// Unix milliseconds.
    pub expires_at: i64,
}

impl Token {
    /// The scope's project.
    pub fn project_id(&self) -> Option<&str> {
        match &self.scope {
            Scope::Project(project, _) => Some(&project.id),
            _ => None,
        }
    }
}

/// A 401 in Keystone's form.
pub fn unauthorized(message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Identity, StatusCode::UNAUTHORIZED, message)
}

/// The token behind a secret, if it is good now.
///
/// # Errors
/// 401 that tells why it is not: unknown or revoked, expired, user or scope gone.
pub async fn validate(app: &AppState, secret: &str) -> Result<Token, ApiError> {
    let hash = secret::digest(secret);
    let now = app.clock.now_millis();
    app.store
        .read(|tx| {
            let hash = hash.clone();
            Box::pin(async move { load(tx, &hash, now).await })
        })
        .await
}

row! {
    struct TokenRow {
        audit_id: String,
        user_id: String,
        target_kind: String,
        target_id: String,
        methods: Json<Vec<String>>,
        issued_at: i64,
        expires_at: i64,
        user_name: String,
        user_enabled: bool,
        domain_id: String,
        domain_name: String,
        domain_enabled: bool,
    }
}

/// As [`validate`], by hash and inside a transaction.
///
/// # Errors
/// As [`validate`].
pub async fn load(tx: &mut Tx, hash: &str, now: i64) -> Result<Token, ApiError> {
    let sql = "SELECT t.audit_id, t.user_id, t.target_kind, t.target_id, t.methods, t.issued_at, \
               t.expires_at, u.name AS user_name, u.enabled AS user_enabled, d.id AS domain_id, \
               d.name AS domain_name, d.enabled AS domain_enabled \
               FROM tokens t JOIN users u ON u.id = t.user_id JOIN domains d ON d.id = u.domain_id \
               WHERE t.token_hash = $1";
    let Some(row) = tx.query_opt::<TokenRow>(sql, params![hash]).await? else {
        return Err(unauthorized(
            "The token is not known here: it was never issued, or it was revoked.",
        ));
    };
    if row.expires_at <= now {
        return Err(unauthorized(format!(
            "The token expired at {}; ask for a new one.",
            time::seconds(row.expires_at)
        )));
    }
    if !row.user_enabled || !row.domain_enabled {
        return Err(unauthorized("The token's user or its domain is disabled."));
    }
    let mut application_credential = None;
    let (scope, roles) = if row.target_kind == credentials::TARGET {
        let found = credentials::find(tx, &row.target_id).await?;
        let found =
            found.ok_or_else(|| unauthorized("The token's application credential is gone."))?;
        let good_for = credentials::scope(tx, &found, now).await?;
        application_credential = Some(found);
        good_for
    } else {
        let scope = scope_by_id(tx, &row.target_kind, &row.target_id)
            .await?
            .ok_or_else(|| {
                unauthorized("The token's project or domain no longer exists, or is disabled.")
            })?;
        let roles = assignments::roles(tx, &row.user_id, &scope).await?;
        if roles.is_empty() && scope != Scope::Unscoped {
            return Err(unauthorized(
                "The token's user no longer has a role on its project, domain or system.",
            ));
        }
        (scope, roles)
    };
    Ok(Token {
        hash: hash.to_owned(),
        audit_id: row.audit_id,
        user_id: row.user_id,
        user_name: row.user_name,
        user_domain: Named {
            id: row.domain_id,
            name: row.domain_name,
        },
        scope,
        roles,
        methods: row.methods.0,
        application_credential,
        issued_at: row.issued_at,
        expires_at: row.expires_at,
    })
}

/// A scope as it is now; `None` if it is gone or disabled.
///
/// # Errors
/// The store's.
pub async fn scope_by_id(tx: &mut Tx, kind: &str, id: &str) -> Result<Option<Scope>, StoreError> {
    match kind {
        "none" => Ok(Some(Scope::Unscoped)),
        "system" => Ok(Some(Scope::System)),
        "domain" => {
            let sql = "SELECT id, name FROM domains WHERE id = $1 AND enabled = 1";
            let domain = tx.query_opt::<Named>(sql, params![id]).await?;
            Ok(domain.map(Scope::Domain))
        }
        _ => {
            let sql = "SELECT p.id, p.name, d.id AS domain_id, d.name AS domain_name \
                       FROM projects p JOIN domains d ON d.id = p.domain_id \
                       WHERE p.id = $1 AND p.enabled = 1 AND d.enabled = 1";
            type Found = (String, String, String, String);
            let found = tx.query_opt::<Found>(sql, params![id]).await?;
            Ok(found.map(|(id, name, domain_id, domain_name)| {
                let domain = Named {
                    id: domain_id,
                    name: domain_name,
                };
                Scope::Project(Named { id, name }, domain)
            }))
        }
    }
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The secret, made outside the transaction.
    pub secret: String,
    /// Its public id.
    pub audit_id: String,
    /// Whose.
    pub user_id: String,
    /// For what.
    pub target: Target,
    /// How the user proved to be it.
    pub methods: Vec<String>,
    /// Unix milliseconds.
    pub now: i64,
    /// Unix milliseconds.
    pub expires_at: i64,
}

/// Stores a token, and takes the expired ones away.
///
/// # Errors
/// 401 if the user has no role on the scope.
pub async fn issue(tx: &mut Tx, new: &NewToken) -> Result<Token, ApiError> {
    let (kind, id) = new.target.columns();
    tx.execute(
        "DELETE FROM tokens WHERE expires_at < $1",
        // An hour's grace, so that a caller is told "expired" rather than "not known".
        params![new.now - 3_600_000],
    )
    .await?;
    let hash = secret::digest(&new.secret);
    tx.execute(
        "INSERT INTO tokens (token_hash, audit_id, user_id, target_kind, target_id, methods, \
         issued_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        params![
            &hash,
            &new.audit_id,
            &new.user_id,
            kind,
            id,
            serde_json::json!(new.methods),
            new.now,
            new.expires_at
        ],
    )
    .await?;
    load(tx, &hash, new.now).await
}
