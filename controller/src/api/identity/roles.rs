//! Roles: names that policies ask for.

use super::{
    Reply, admin_only, collection, conflict, created, forbidden, no_content, not_found, ok,
    self_link,
};
use crate::api::body::{self, Fields};
use crate::api::query::Params;
use crate::api::{ApiError, AppState, RequestContext, Service};
use crate::identity::implied;
use crate::params;
use crate::store::{Row, StoreError, Tx};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};

pub(super) fn view(app: &AppState, row: &Row) -> Result<Value, StoreError> {
    let id = row.text("id")?;
    Ok(json!({
        "links": self_link(app, "roles", &id),
        "id": id,
        "name": row.text("name")?,
        "description": row.text("description")?,
        "domain_id": null,
        "options": {},
    }))
}

async fn load(tx: &mut Tx, id: &str) -> Result<Row, ApiError> {
    let row = tx
        .query_opt("SELECT * FROM roles WHERE id = $1", params![id])
        .await?;
    row.ok_or_else(|| not_found("role", id))
}

fn taken(error: StoreError, name: &str) -> ApiError {
    match error {
        StoreError::Conflict(_) => conflict(format!("There is already a role named {name}.")),
        other => other.into(),
    }
}

/// `GET /v3/roles`
pub async fn list(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    query: Params,
) -> Reply {
    admin_only(&context)?;
    let name = query.get("name").map(str::to_owned);
    // There are no roles of a domain.
    if query.get("domain_id").is_some() {
        return Ok(collection(&app, "roles", "roles", Vec::new()));
    }
    let rows = app
        .store
        .tx::<_, ApiError, _>(|tx| {
            let name = name.clone();
            Box::pin(async move {
                let sql = "SELECT * FROM roles WHERE (CAST($1 AS TEXT) IS NULL OR name = $1) \
                           ORDER BY name";
                Ok(tx.query(sql, params![name]).await?)
            })
        })
        .await?;
    let items: Vec<Value> = rows
        .iter()
        .map(|r| view(&app, r))
        .collect::<Result<_, _>>()?;
    Ok(collection(&app, "roles", "roles", items))
}

/// `POST /v3/roles`
pub async fn create(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "role")?;
    fields.only(&["name", "description", "domain_id", "options"])?;
    if fields.get("domain_id").is_some() {
        return Err(fields.wrong(
            "domain_id",
            "is not offered: roles are for all domains here",
        ));
    }
    let name = fields.name("name")?;
    let description = fields.text("description", 65_535)?.unwrap_or_default();
    let id = crate::identity::new_id(&*app.rng);
    let now = app.clock.now_millis();
    let row = app
        .store
        .tx(|tx| {
            let (id, name, description) = (id.clone(), name.clone(), description.clone());
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO roles (id, name, description, created_at) VALUES ($1, $2, $3, $4)",
                    params![&id, &name, description, now],
                )
                .await
                .map_err(|e| taken(e, &name))?;
                load(tx, &id).await
            })
        })
        .await?;
    Ok(created(json!({"role": view(&app, &row)?})))
}

/// `GET /v3/roles/{id}`
pub async fn show(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    admin_only(&context)?;
    let row = app
        .store
        .tx(|tx| {
            let id = id.clone();
            Box::pin(async move { load(tx, &id).await })
        })
        .await?;
    Ok(ok(json!({"role": view(&app, &row)?})))
}

/// The roles that policies ask for by name keep their names.
fn keep_built_in(row: &Row) -> Result<(), ApiError> {
    let name = row.text("name")?;
    if name == "reader" || name == "service" || !implied(&name).is_empty() {
        return Err(forbidden(format!(
            "The role {name} is built in: it can be neither renamed nor deleted."
        )));
    }
    Ok(())
}

/// `PATCH /v3/roles/{id}`
pub async fn update(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Reply {
    admin_only(&context)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "role")?;
    fields.only(&["name", "description", "options"])?;
    let name = fields.opt_name("name")?;
    let description = fields.text("description", 65_535)?;
    let row = app
        .store
        .tx(|tx| {
            let (id, name, description) = (id.clone(), name.clone(), description.clone());
            Box::pin(async move {
                let before = load(tx, &id).await?;
                if name.is_some() {
                    keep_built_in(&before)?;
                }
                tx.execute(
                    "UPDATE roles SET name = COALESCE($1, name), \
                     description = COALESCE($2, description) WHERE id = $3",
                    params![name.clone(), description, &id],
                )
                .await
                .map_err(|e| taken(e, name.as_deref().unwrap_or_default()))?;
                load(tx, &id).await
            })
        })
        .await?;
    Ok(ok(json!({"role": view(&app, &row)?})))
}

/// `DELETE /v3/roles/{id}`, with its assignments.
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
                keep_built_in(&load(tx, &id).await?)?;
                tx.execute(
                    "DELETE FROM role_assignments WHERE role_id = $1",
                    params![&id],
                )
                .await?;
                tx.execute("DELETE FROM roles WHERE id = $1", params![&id])
                    .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(no_content())
}
