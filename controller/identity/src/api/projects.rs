//! Projects: what owns servers, networks and images.

use super::resource::{
    Extra, InDomain, Resource, description, extra, opt_short_name, short_name, with_extra,
};
use super::{Reply, beyond, collection, ok, project_tags, self_link};
use crate::{assignments, tokens};
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::Json;
use berth_controller_core::{AppState, Call, Service, read, row};
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
        tags: Json<Vec<String>>,
        extra: Option<Json<Extra>>,
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
        "DELETE FROM wider_assignments WHERE target_kind = 'project' AND target_id = $1",
        "DELETE FROM tokens WHERE target_kind = 'application_credential' AND target_id IN \
         (SELECT id FROM application_credentials WHERE project_id = $1)",
        "DELETE FROM application_credentials WHERE project_id = $1",
        "UPDATE users SET default_project_id = NULL WHERE default_project_id = $1",
    ],
};

impl Project {
    pub(super) fn tags(&self) -> Vec<String> {
        self.tags.0.clone()
    }
}

fn view(app: &AppState, project: &Project) -> Value {
    let view = json!({
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
    });
    with_extra(view, project.extra.as_ref())
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
    let more = extra(&fields, &FIELDS)?;
    if fields.flag("is_domain")? == Some(true) {
        return Err(fields.wrong("is_domain", "is not offered: make a domain at /v3/domains"));
    }
    let domain = fields.text("domain_id", 64)?;
    let domain = super::domain_or_own(&call, domain);
    let tags = fields.texts("tags")?.unwrap_or_default();
    project_tags::check(&tags)?;
    if fields.text("parent_id", 64)?.is_some_and(|p| p != domain) {
        return Err(fields.wrong("parent_id", "is not the domain: projects do not nest here"));
    }
    let columns = vec![
        ("id", crate::new_id(&*call.app.rng).into()),
        ("domain_id", domain.into()),
        ("name", short_name(&fields)?.into()),
        (
            "description",
            description(&fields)?.unwrap_or_default().into(),
        ),
        ("enabled", fields.flag("enabled")?.unwrap_or(true).into()),
        ("tags", json!(tags).into()),
        ("created_at", call.now().into()),
        more,
    ];
    PROJECT.create(&call, columns).await
}

/// `GET /v3/projects/{id}`; for those who have no more: where they have a role.
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    let row = read!(call, |tx| [call, id] {
        let context = &call.context;
        if matches!(context.reach, Reach::Oneself(_)) && context.project_id != id {
            let scope = tokens::scope_by_id(tx, "project", &id).await?.ok_or_else(beyond)?;
            if assignments::roles(tx, &context.user_id, &scope).await?.is_empty() {
                return Err(beyond());
            }
        }
        PROJECT.within(tx, &context.reach, &id).await
    })?;
    Ok(ok(PROJECT.body(&call.app, &row)))
}

/// `PATCH /v3/projects/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "project")?;
    let more = extra(&fields, &[&FIELDS[..], &["id"]].concat())?;
    let tags = fields.texts("tags")?;
    project_tags::check(tags.as_deref().unwrap_or_default())?;
    let columns = vec![
        ("name", opt_short_name(&fields)?.into()),
        ("description", description(&fields)?.into()),
        ("enabled", fields.flag("enabled")?.map(i64::from).into()),
        ("tags", tags.map(|t| json!(t).to_string()).into()),
        more,
    ];
    for name in ["domain_id", "parent_id"] {
        if let Some(wanted) = fields.text(name, 64)? {
            let before = read!(call, |tx| [call, id] {
                PROJECT.within(tx, &call.context.reach, &id).await
            })?;
            if wanted != before.domain_id {
                return Err(fields.wrong(name, "cannot be changed"));
            }
        }
    }
    PROJECT.update(&call, &id, columns, |_, _| Ok(())).await
}

/// `DELETE /v3/projects/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    PROJECT.delete(&call, &id).await
}
