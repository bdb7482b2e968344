//! Projects: what owns servers, networks and images.

use super::{
    Reply, admin_only, collection, conflict, created, no_content, not_found, ok, self_link,
};
use crate::api::body::{self, Fields};
use crate::api::query::Params;
use crate::api::{ApiError, AppState, RequestContext, Service};
use crate::identity::DEFAULT_DOMAIN;
use crate::params;
use crate::store::{Row, StoreError, Tx};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};

const FIELDS: [&str; 8] = [
    "name",
    "description",
    "enabled",
    "domain_id",
    "parent_id",
    "is_domain",
    "tags",
    "options",
];

fn view(app: &AppState, row: &Row) -> Result<Value, StoreError> {
    let id = row.text("id")?;
    let domain = row.text("domain_id")?;
    Ok(json!({
        "links": self_link(app, "projects", &id),
        "id": id,
        "name": row.text("name")?,
        "description": row.text("description")?,
        "enabled": row.flag("enabled")?,
        "parent_id": domain,
        "domain_id": domain,
        "is_domain": false,
        "tags": row.json::<Value>("tags")?,
        "options": {},
    }))
}

async fn load(tx: &mut Tx, id: &str) -> Result<Row, ApiError> {
    let row = tx
        .query_opt("SELECT * FROM projects WHERE id = $1", params![id])
        .await?;
    row.ok_or_else(|| not_found("project", id))
}

fn taken(error: StoreError, name: &str) -> ApiError {
    match error {
        StoreError::Conflict(_) => conflict(format!(
            "There is already a project named {name} in that domain."
        )),
        other => other.into(),
    }
}

/// `GET /v3/projects`
pub async fn list(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    query: Params,
) -> Reply {
    admin_only(&context)?;
    let name = query.get("name").map(str::to_owned);
    let domain = query.get("domain_id").map(str::to_owned);
    let enabled = query.flag("enabled").map(i64::from);
    if query.flag("is_domain") == Some(true) {
        return Ok(collection(&app, "projects", "projects", Vec::new()));
    }
    let rows = app
        .store
        .tx::<_, ApiError, _>(|tx| {
            let (name, domain) = (name.clone(), domain.clone());
            Box::pin(async move {
                let sql = "SELECT * FROM projects WHERE (CAST($1 AS TEXT) IS NULL OR name = $1) \
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
    Ok(collection(&app, "projects", "projects", items))
}

/// Where the user has a role: `/v3/auth/projects`, `/v3/users/{id}/projects`.
pub async fn list_of_user(app: &AppState, user_id: &str, path: &str) -> Reply {
    let rows = app
        .store
        .tx::<_, ApiError, _>(|tx| {
            let user_id = user_id.to_owned();
            Box::pin(async move {
                let sql = "SELECT * FROM projects WHERE enabled = 1 AND id IN (SELECT target_id \
                           FROM role_assignments WHERE user_id = $1 AND target_kind = 'project') \
                           ORDER BY name, id";
                Ok(tx.query(sql, params![user_id]).await?)
            })
        })
        .await?;
    let items: Vec<Value> = rows
        .iter()
        .map(|r| view(app, r))
        .collect::<Result<_, _>>()?;
    Ok(collection(app, "projects", path, items))
}

/// `POST /v3/projects`
pub async fn create(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "project")?;
    fields.only(&FIELDS)?;
    if fields.flag("is_domain")? == Some(true) {
        return Err(fields.wrong("is_domain", "is not offered: make a domain at /v3/domains"));
    }
    let name = fields.name("name")?;
    let description = fields.text("description", 65_535)?.unwrap_or_default();
    let enabled = fields.flag("enabled")?.unwrap_or(true);
    let domain = fields
        .text("domain_id", 64)?
        .unwrap_or_else(|| DEFAULT_DOMAIN.to_owned());
    if fields.text("parent_id", 64)?.is_some_and(|p| p != domain) {
        return Err(fields.wrong("parent_id", "is not the domain: projects do not nest here"));
    }
    let tags = json!(fields.texts("tags")?.unwrap_or_default());
    let id = crate::identity::new_id(&*app.rng);
    let now = app.clock.now_millis();
    let row = app
        .store
        .tx(|tx| {
            let (id, name, description) = (id.clone(), name.clone(), description.clone());
            let (domain, tags) = (domain.clone(), tags.clone());
            Box::pin(async move {
                let made = tx
                    .execute(
                        "INSERT INTO projects (id, domain_id, name, description, enabled, tags, \
                         created_at) SELECT $1, id, $3, $4, $5, $6, $7 FROM domains WHERE id = $2",
                        params![&id, &domain, &name, description, enabled, tags, now],
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
    Ok(created(json!({"project": view(&app, &row)?})))
}

/// `GET /v3/projects/{id}`: an administrator, or who has a role there.
pub async fn show(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    let row = app
        .store
        .tx(|tx| {
            let (id, context) = (id.clone(), context.clone());
            Box::pin(async move {
                if !context.may_see(&id) {
                    let sql = "SELECT role_id FROM role_assignments WHERE user_id = $1 \
                               AND target_kind = 'project' AND target_id = $2";
                    let role = tx.query_opt(sql, params![&context.user_id, &id]).await?;
                    if role.is_none() {
                        return Err(super::forbidden(
                            "You are not authorized to see this project.",
                        ));
                    }
                }
                load(tx, &id).await
            })
        })
        .await?;
    Ok(ok(json!({"project": view(&app, &row)?})))
}

/// `PATCH /v3/projects/{id}`
pub async fn update(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "project")?;
    fields.only(&["name", "description", "enabled", "tags", "options"])?;
    let name = fields.opt_name("name")?;
    let description = fields.text("description", 65_535)?;
    let enabled = fields.flag("enabled")?.map(i64::from);
    let tags = fields.texts("tags")?.map(|t| json!(t).to_string());
    let row = app
        .store
        .tx(|tx| {
            let (id, name, description) = (id.clone(), name.clone(), description.clone());
            let tags = tags.clone();
            Box::pin(async move {
                tx.execute(
                    "UPDATE projects SET name = COALESCE($1, name), \
                     description = COALESCE($2, description), enabled = COALESCE($3, enabled), \
                     tags = COALESCE($4, tags) WHERE id = $5",
                    params![name.clone(), description, enabled, tags, &id],
                )
                .await
                .map_err(|e| taken(e, name.as_deref().unwrap_or_default()))?;
                load(tx, &id).await
            })
        })
        .await?;
    Ok(ok(json!({"project": view(&app, &row)?})))
}

/// `DELETE /v3/projects/{id}`, with the roles and tokens on it.
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
                for sql in [
                    "DELETE FROM tokens WHERE target_kind = 'project' AND target_id = $1",
                    "DELETE FROM role_assignments WHERE target_kind = 'project' AND target_id = $1",
                    "UPDATE users SET default_project_id = NULL WHERE default_project_id = $1",
                    "DELETE FROM projects WHERE id = $1",
                ] {
                    tx.execute(sql, params![&id]).await?;
                }
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(no_content())
}
