//! Projects: what owns servers, networks and images.

use super::resource::{InDomain, Resource, description};
use super::{Reply, beyond, collection, ok, self_link};
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::Json;
use berth_controller_core::{AppState, Call, Service, params, row, tx};
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

row! {
    pub(super) struct Project {
        id: String,
        domain_id: String,
        name: String,
        description: String,
        enabled: bool,
        tags: Json<Value>,
    }
}

/// With a project go the roles and tokens on it.
pub(super) static PROJECT: Resource<Project> = Resource {
    one: "project",
    all: "projects",
    domain: Some(InDomain {
        column: "domain_id",
        of: |project| &project.domain_id,
    }),
    unique: " in that domain",
    view,
    may_go: |_| Ok(()),
    goes_with_it: &[
        "DELETE FROM tokens WHERE target_kind = 'project' AND target_id = $1",
        "DELETE FROM role_assignments WHERE target_kind = 'project' AND target_id = $1",
        "UPDATE users SET default_project_id = NULL WHERE default_project_id = $1",
    ],
};

fn view(app: &AppState, project: &Project) -> Value {
    json!({
        "links": self_link(app, "projects", &project.id),
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "enabled": project.enabled,
        "parent_id": project.domain_id,
        "domain_id": project.domain_id,
        "is_domain": false,
        "tags": project.tags.0,
        "options": {},
    })
}

/// `GET /v3/projects`
pub async fn list(call: Call, query: Params) -> Reply {
    if query.flag("is_domain") == Some(true) {
        return Ok(collection(&call.app, "projects", "projects", Vec::new()));
    }
    PROJECT
        .list(&call, &query, &["name", "domain_id", "enabled"])
        .await
}

/// `POST /v3/projects`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "project")?;
    fields.only(&FIELDS)?;
    if fields.flag("is_domain")? == Some(true) {
        return Err(fields.wrong("is_domain", "is not offered: make a domain at /v3/domains"));
    }
    let domain = fields.text("domain_id", 64)?;
    let domain = super::domain_or_own(&call, domain);
    if fields.text("parent_id", 64)?.is_some_and(|p| p != domain) {
        return Err(fields.wrong("parent_id", "is not the domain: projects do not nest here"));
    }
    let columns = vec![
        ("id", crate::new_id(&*call.app.rng).into()),
        ("domain_id", domain.into()),
        ("name", fields.name("name")?.into()),
        (
            "description",
            description(&fields)?.unwrap_or_default().into(),
        ),
        ("enabled", fields.flag("enabled")?.unwrap_or(true).into()),
        (
            "tags",
            json!(fields.texts("tags")?.unwrap_or_default()).into(),
        ),
        ("created_at", call.now().into()),
    ];
    PROJECT.create(&call, columns).await
}

/// `GET /v3/projects/{id}`; for those who have no more: where they have a role.
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    let row = tx!(call, |tx| [call, id] {
        let context = &call.context;
        if matches!(context.reach, Reach::Oneself(_)) && context.project_id != id {
            let sql = "SELECT role_id FROM role_assignments WHERE user_id = $1 \
                       AND target_kind = 'project' AND target_id = $2 LIMIT 1";
            let role: Option<(String,)> =
                tx.query_opt(sql, params![&context.user_id, &id]).await?;
            role.ok_or_else(beyond)?;
        }
        PROJECT.within(tx, &context.reach, &id).await
    })?;
    Ok(ok(PROJECT.body(&call.app, &row)))
}

/// `PATCH /v3/projects/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "project")?;
    fields.only(&["name", "description", "enabled", "tags", "options"])?;
    let columns = vec![
        ("name", fields.opt_name("name")?.into()),
        ("description", description(&fields)?.into()),
        ("enabled", fields.flag("enabled")?.map(i64::from).into()),
        (
            "tags",
            fields.texts("tags")?.map(|t| json!(t).to_string()).into(),
        ),
    ];
    PROJECT.update(&call, &id, columns, |_, _| Ok(())).await
}

/// `DELETE /v3/projects/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    PROJECT.delete(&call, &id).await
}
