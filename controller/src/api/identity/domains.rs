//! Domains: where user and project names are unique.

use super::{
    Reply, admin_only, collection, conflict, created, forbidden, no_content, not_found, ok,
    self_link,
};
use crate::api::body::{self, Fields};
use crate::api::query::Params;
use crate::api::{ApiError, AppState, RequestContext, Service};
use crate::identity::DEFAULT_DOMAIN;
use crate::identity::tokens::Token;
use crate::params;
use crate::store::{Row, StoreError, Tx};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};

fn view(app: &AppState, row: &Row) -> Result<Value, StoreError> {
    let id = row.text("id")?;
    Ok(json!({
        "links": self_link(app, "domains", &id),
        "id": id,
        "name": row.text("name")?,
        "description": row.text("description")?,
        "enabled": row.flag("enabled")?,
        "tags": [],
        "options": {},
    }))
}

async fn load(tx: &mut Tx, id: &str) -> Result<Row, ApiError> {
    let row = tx
        .query_opt("SELECT * FROM domains WHERE id = $1", params![id])
        .await?;
    row.ok_or_else(|| not_found("domain", id))
}

/// `GET /v3/domains`
pub async fn list(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    query: Params,
) -> Reply {
    admin_only(&context)?;
    let rows = app
        .store
        .tx::<_, ApiError, _>(|tx| {
            Box::pin(async move { Ok(tx.query("SELECT * FROM domains ORDER BY name", &[]).await?) })
        })
        .await?;
    let (name, enabled) = (query.get("name"), query.flag("enabled"));
    let mut items = Vec::new();
    for row in &rows {
        let fits = name.is_none_or(|n| row.text("name").is_ok_and(|have| have == n))
            && enabled.is_none_or(|e| row.flag("enabled").is_ok_and(|have| have == e));
        if fits {
            items.push(view(&app, row)?);
        }
    }
    Ok(collection(&app, "domains", "domains", items))
}

/// `GET /v3/auth/domains`: where the user has a role.
pub async fn list_of_user(app: &AppState, user_id: &str) -> Reply {
    let rows = app
        .store
        .tx::<_, ApiError, _>(|tx| {
            let user_id = user_id.to_owned();
            Box::pin(async move {
                let sql = "SELECT * FROM domains WHERE enabled = 1 AND id IN (SELECT target_id \
                           FROM role_assignments WHERE user_id = $1 AND target_kind = 'domain')";
                Ok(tx.query(sql, params![user_id]).await?)
            })
        })
        .await?;
    let items: Vec<Value> = rows
        .iter()
        .map(|r| view(app, r))
        .collect::<Result<_, _>>()?;
    Ok(collection(app, "domains", "auth/domains", items))
}

/// `POST /v3/domains`
pub async fn create(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "domain")?;
    fields.only(&["name", "description", "enabled", "options", "tags"])?;
    let name = fields.name("name")?;
    let description = fields.text("description", 65_535)?.unwrap_or_default();
    let enabled = fields.flag("enabled")?.unwrap_or(true);
    let id = crate::identity::new_id(&*app.rng);
    let now = app.clock.now_millis();
    let row = app
        .store
        .tx(|tx| {
            let (id, name, description) = (id.clone(), name.clone(), description.clone());
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO domains (id, name, description, enabled, created_at) \
                     VALUES ($1, $2, $3, $4, $5)",
                    params![&id, &name, description, enabled, now],
                )
                .await
                .map_err(|e| taken(e, &name))?;
                load(tx, &id).await
            })
        })
        .await?;
    Ok(created(json!({"domain": view(&app, &row)?})))
}

fn taken(error: StoreError, name: &str) -> ApiError {
    match error {
        StoreError::Conflict(_) => conflict(format!("There is already a domain named {name}.")),
        other => other.into(),
    }
}

/// `GET /v3/domains/{id}`
pub async fn show(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Extension(token): Extension<Token>,
    Path(id): Path<String>,
) -> Reply {
    if token.user_domain.id != id {
        admin_only(&context)?;
    }
    let row = app
        .store
        .tx(|tx| {
            let id = id.clone();
            Box::pin(async move { load(tx, &id).await })
        })
        .await?;
    Ok(ok(json!({"domain": view(&app, &row)?})))
}

/// `PATCH /v3/domains/{id}`
pub async fn update(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "domain")?;
    fields.only(&["name", "description", "enabled", "options", "tags"])?;
    let name = fields.opt_name("name")?;
    let description = fields.text("description", 65_535)?;
    let enabled = fields.flag("enabled")?;
    if id == DEFAULT_DOMAIN && enabled == Some(false) {
        return Err(forbidden("The default domain cannot be disabled."));
    }
    let row = app
        .store
        .tx(|tx| {
            let (id, name, description) = (id.clone(), name.clone(), description.clone());
            Box::pin(async move {
                tx.execute(
                    "UPDATE domains SET name = COALESCE($1, name), \
                     description = COALESCE($2, description), enabled = COALESCE($3, enabled) \
                     WHERE id = $4",
                    params![name.clone(), description, enabled.map(i64::from), &id],
                )
                .await
                .map_err(|e| taken(e, name.as_deref().unwrap_or_default()))?;
                load(tx, &id).await
            })
        })
        .await?;
    Ok(ok(json!({"domain": view(&app, &row)?})))
}

/// `DELETE /v3/domains/{id}`: a domain that is disabled, with all that is in it.
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
                if load(tx, &id).await?.flag("enabled")? {
                    return Err(forbidden(
                        "A domain that is enabled cannot be deleted: disable it first.",
                    ));
                }
                for sql in [
                    "DELETE FROM tokens WHERE user_id IN (SELECT id FROM users WHERE domain_id = $1)",
                    "DELETE FROM tokens WHERE target_id = $1 \
                     OR target_id IN (SELECT id FROM projects WHERE domain_id = $1)",
                    "DELETE FROM role_assignments WHERE target_id = $1 \
                     OR user_id IN (SELECT id FROM users WHERE domain_id = $1) \
                     OR target_id IN (SELECT id FROM projects WHERE domain_id = $1)",
                    "DELETE FROM users WHERE domain_id = $1",
                    "DELETE FROM projects WHERE domain_id = $1",
                    "DELETE FROM domains WHERE id = $1",
                ] {
                    tx.execute(sql, params![&id]).await?;
                }
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(no_content())
}
