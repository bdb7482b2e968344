//! Roles: names that policies ask for.

use super::resource::{Extra, Resource, description, extra, with_extra};
use super::{Reply, collection, forbidden, self_link};
use crate::implied;
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::query::Params;
use berth_controller_core::store::Json;
use berth_controller_core::store::Value as Stored;
use berth_controller_core::{ApiError, AppState, Call, Service, row};
use serde_json::{Value, json};

row! {
    pub(super) struct Role {
        id: String,
        name: String,
        description: String,
        extra: Option<Json<Extra>>,
    }
}

impl Role {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// With a role go its assignments.
pub(super) static ROLE: Resource<Role> = Resource {
    one: "role",
    all: "roles",
    domain: None,
    unique: "",
    view,
    may_go: keep_built_in,
    goes_with_it: &[
        "DELETE FROM role_assignments WHERE role_id = $1",
        "DELETE FROM wider_assignments WHERE role_id = $1",
    ],
};

fn view(app: &AppState, role: &Role) -> Value {
    let view = json!({
        "links": self_link(app, "roles", &role.id),
        "id": role.id,
        "name": role.name,
        "description": role.description,
        "domain_id": null,
        "options": {},
    });
    with_extra(view, role.extra.as_ref())
}

/// The roles that policies ask for by name keep their names.
fn keep_built_in(role: &Role) -> Result<(), ApiError> {
    let name = &role.name;
    if name == "reader" || name == "service" || !implied(name).is_empty() {
        return Err(forbidden(format!(
            "The role {name} is built in: it can be neither renamed nor deleted."
        )));
    }
    Ok(())
}

/// `GET /v3/roles`
pub async fn list(call: Call, query: Params) -> Reply {
    // There are no roles of a domain.
    if query.get("domain_id").is_some() {
        return Ok(collection(&call.app, "roles", "roles", Vec::new()));
    }
    ROLE.list(&call, &query, &["name"]).await
}

/// `POST /v3/roles`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "role")?;
    let more = extra(&fields, &["name", "description", "domain_id", "options"])?;
    if fields.get("domain_id").is_some() {
        return Err(fields.wrong(
            "domain_id",
            "is not offered: roles are for all domains here",
        ));
    }
    let columns = vec![
        ("id", crate::new_id(&*call.app.rng).into()),
        ("name", fields.name("name")?.into()),
        (
            "description",
            description(&fields)?.unwrap_or_default().into(),
        ),
        ("created_at", call.now().into()),
        more,
    ];
    ROLE.create(&call, columns).await
}

/// `GET /v3/roles/{id}`
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    ROLE.show(&call, &id).await
}

/// `PATCH /v3/roles/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "role")?;
    let known = ["name", "description", "options", "domain_id", "id"];
    let columns = vec![
        ("name", fields.opt_name("name")?.into()),
        ("description", description(&fields)?.into()),
        extra(&fields, &known)?,
    ];
    ROLE.update(&call, &id, columns, |role, columns| {
        let renames = columns
            .iter()
            .any(|(name, value)| *name == "name" && *value != Stored::Text(None));
        if renames { keep_built_in(role) } else { Ok(()) }
    })
    .await
}

/// `DELETE /v3/roles/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    ROLE.delete(&call, &id).await
}
