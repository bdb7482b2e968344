//! Users and their passwords.

use super::{
    Reply, admin_only, bad, collection, conflict, created, hashing, no_content, not_found, ok,
    self_link,
};
use crate::api::body::{self, Fields};
use crate::api::query::Params;
use crate::api::{ApiError, AppState, RequestContext, Service};
use crate::identity::tokens::unauthorized;
use crate::identity::{DEFAULT_DOMAIN, password};
use crate::params;
use crate::store::{Row, StoreError, Tx};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};

const FIELDS: [&str; 8] = [
    "name",
    "password",
    "domain_id",
    "default_project_id",
    "email",
    "description",
    "enabled",
    "options",
];

fn view(app: &AppState, row: &Row) -> Result<Value, StoreError> {
    let id = row.text("id")?;
    let mut user = json!({
        "links": self_link(app, "users", &id),
        "id": id,
        "name": row.text("name")?,
        "domain_id": row.text("domain_id")?,
        "enabled": row.flag("enabled")?,
        "password_expires_at": null,
        "options": {},
    });
    for field in ["default_project_id", "email", "description"] {
        if let Some(value) = row.opt_text(field)? {
            user[field] = json!(value);
        }
    }
    Ok(user)
}

async fn load(tx: &mut Tx, id: &str) -> Result<Row, ApiError> {
    let row = tx
        .query_opt("SELECT * FROM users WHERE id = $1", params![id])
        .await?;
    row.ok_or_else(|| not_found("user", id))
}

fn taken(error: StoreError, name: &str) -> ApiError {
    match error {
        StoreError::Conflict(_) => conflict(format!(
            "There is already a user named {name} in that domain."
        )),
        other => other.into(),
    }
}

/// `GET /v3/users`
pub async fn list(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    query: Params,
) -> Reply {
    admin_only(&context)?;
    let name = query.get("name").map(str::to_owned);
    let domain = query.get("domain_id").map(str::to_owned);
    let enabled = query.flag("enabled").map(i64::from);
    let rows = app
        .store
        .tx::<_, ApiError, _>(|tx| {
            let (name, domain) = (name.clone(), domain.clone());
            Box::pin(async move {
                let sql = "SELECT * FROM users WHERE (CAST($1 AS TEXT) IS NULL OR name = $1) \
                           AND (CAST($2 AS TEXT) IS NULL OR domain_id = $2) \
                           AND (CAST($3 AS BIGINT) IS NULL OR enabled = $3) ORDER BY name, id";
                Ok(tx.query(sql, params![name, domain, enabled]).await?)
            })
        })
        .await?;
    let items: Vec<Value> = rows
        .iter()
        .map(|r| view(&app, r))
        .collect::<Result<_, _>>()?;
    Ok(collection(&app, "users", "users", items))
}

/// `POST /v3/users`
pub async fn create(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "user")?;
    // `tenantId` is what old clients say for default_project_id; it means nothing in v3.
    fields.only(&[&FIELDS[..], &["tenantId"]].concat())?;
    let name = fields.name("name")?;
    let domain = fields
        .text("domain_id", 64)?
        .unwrap_or_else(|| DEFAULT_DOMAIN.to_owned());
    let project = fields.text("default_project_id", 64)?;
    let email = fields.text("email", 255)?;
    let description = fields.text("description", 65_535)?;
    let enabled = fields.flag("enabled")?.unwrap_or(true);
    let hash = match fields.text("password", 4096)? {
        Some(secret) => password::hash(&*app.rng, secret).await.map_err(hashing)?,
        None => String::new(),
    };
    let id = crate::identity::new_id(&*app.rng);
    let now = app.clock.now_millis();
    let row = app
        .store
        .tx(|tx| {
            let (id, name, domain) = (id.clone(), name.clone(), domain.clone());
            let (project, email) = (project.clone(), email.clone());
            let (description, hash) = (description.clone(), hash.clone());
            Box::pin(async move {
                let made = tx
                    .execute(
                        "INSERT INTO users (id, domain_id, name, password_hash, \
                         default_project_id, email, description, enabled, created_at) \
                         SELECT $1, id, $3, $4, $5, $6, $7, $8, $9 FROM domains WHERE id = $2",
                        params![
                            &id,
                            &domain,
                            &name,
                            hash,
                            project,
                            email,
                            description,
                            enabled,
                            now
                        ],
                    )
                    .await
                    .map_err(|e| taken(e, &name))?;
                if made == 0 {
                    return Err(not_found("domain", &domain));
                }
                load(tx, &id).await
            })
        })
        .await?;
    Ok(created(json!({"user": view(&app, &row)?})))
}

/// `GET /v3/users/{id}`: oneself, or as administrator.
pub async fn show(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    if context.user_id != id {
        admin_only(&context)?;
    }
    let row = app
        .store
        .tx(|tx| {
            let id = id.clone();
            Box::pin(async move { load(tx, &id).await })
        })
        .await?;
    Ok(ok(json!({"user": view(&app, &row)?})))
}

/// `PATCH /v3/users/{id}`. A new password, or being disabled, ends the user's tokens.
pub async fn update(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "user")?;
    fields.only(&[&FIELDS[..], &["id"]].concat())?;
    let name = fields.opt_name("name")?;
    let project = fields.text("default_project_id", 64)?;
    let email = fields.text("email", 255)?;
    let description = fields.text("description", 65_535)?;
    let enabled = fields.flag("enabled")?;
    let domain = fields.text("domain_id", 64)?;
    let hash = match fields.text("password", 4096)? {
        Some(secret) => Some(password::hash(&*app.rng, secret).await.map_err(hashing)?),
        None => None,
    };
    let row = app
        .store
        .tx(|tx| {
            let (id, name, domain) = (id.clone(), name.clone(), domain.clone());
            let (project, email) = (project.clone(), email.clone());
            let (description, hash) = (description.clone(), hash.clone());
            Box::pin(async move {
                let before = load(tx, &id).await?;
                if domain.is_some_and(|d| before.text("domain_id").is_ok_and(|have| have != d)) {
                    return Err(bad("user.domain_id cannot be changed."));
                }
                tx.execute(
                    "UPDATE users SET name = COALESCE($1, name), \
                     default_project_id = COALESCE($2, default_project_id), \
                     email = COALESCE($3, email), description = COALESCE($4, description), \
                     enabled = COALESCE($5, enabled), password_hash = COALESCE($6, password_hash) \
                     WHERE id = $7",
                    params![
                        name.clone(),
                        project,
                        email,
                        description,
                        enabled.map(i64::from),
                        hash.clone(),
                        &id
                    ],
                )
                .await
                .map_err(|e| taken(e, name.as_deref().unwrap_or_default()))?;
                if hash.is_some() || enabled == Some(false) {
                    revoke_all(tx, &id).await?;
                }
                load(tx, &id).await
            })
        })
        .await?;
    Ok(ok(json!({"user": view(&app, &row)?})))
}

async fn revoke_all(tx: &mut Tx, user_id: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM tokens WHERE user_id = $1", params![user_id])
        .await?;
    Ok(())
}

/// `POST /v3/users/{id}/password`: the user's own change, which proves the old one.
pub async fn change_password(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Reply {
    if context.user_id != id {
        return Err(super::forbidden(
            "Only the user may change their password here.",
        ));
    }
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "user")?;
    fields.only(&["password", "original_password"])?;
    let new = fields
        .text("password", 4096)?
        .ok_or_else(|| fields.wrong("password", "is missing"))?;
    let old = fields
        .text("original_password", 4096)?
        .ok_or_else(|| fields.wrong("original_password", "is missing"))?;
    let stored = app
        .store
        .tx(|tx| {
            let id = id.clone();
            Box::pin(async move { Ok::<_, ApiError>(load(tx, &id).await?.text("password_hash")?) })
        })
        .await?;
    if !password::verify(Some(stored), old).await.map_err(hashing)? {
        return Err(unauthorized("user.original_password is wrong."));
    }
    let hash = password::hash(&*app.rng, new).await.map_err(hashing)?;
    app.store
        .tx(|tx| {
            let (id, hash) = (id.clone(), hash.clone());
            Box::pin(async move {
                tx.execute(
                    "UPDATE users SET password_hash = $1 WHERE id = $2",
                    params![hash, &id],
                )
                .await?;
                revoke_all(tx, &id).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(no_content())
}

/// `GET /v3/users/{id}/projects`
pub async fn projects(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    if context.user_id != id {
        admin_only(&context)?;
    }
    super::projects::list_of_user(&app, &id, &format!("users/{id}/projects")).await
}

/// `DELETE /v3/users/{id}`, with roles and tokens.
pub async fn delete(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    admin_only(&context)?;
    app.store
        .tx(|tx| {
            let id = id.clone();
            Box::pin(async move {
                load(tx, &id).await?;
                revoke_all(tx, &id).await?;
                for sql in [
                    "DELETE FROM role_assignments WHERE user_id = $1",
                    "DELETE FROM users WHERE id = $1",
                ] {
                    tx.execute(sql, params![&id]).await?;
                }
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(no_content())
}
