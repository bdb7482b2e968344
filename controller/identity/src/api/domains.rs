//! Domains: where user and project names are unique.

use super::resource::{
    Extra, InDomain, Resource, description, extra, opt_short_name, short_name, with_extra,
};
use super::{Reply, beyond, forbidden, self_link};
use crate::DEFAULT_DOMAIN;
use crate::tokens::Token;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::Json;
use berth_controller_core::{AppState, Call, Service, row};
use serde_json::{Value, json};

row! {
    pub(super) struct Domain {
        id: String,
        name: String,
        description: String,
        enabled: bool,
        extra: Option<Json<Extra>>,
    }
}

/// With a domain, once it is disabled, goes all that is in it.
pub(super) static DOMAIN: Resource<Domain> = Resource {
    one: "domain",
    all: "domains",
    domain: Some(InDomain {
        column: "id",
        of: |domain| &domain.id,
    }),
    unique: "",
    view,
    may_go: |domain| match domain.enabled {
        true => Err(forbidden(
            "A domain that is enabled cannot be deleted: disable it first.",
        )),
        false => Ok(()),
    },
    goes_with_it: &[
        "DELETE FROM tokens WHERE user_id IN (SELECT id FROM users WHERE domain_id = $1)",
        "DELETE FROM tokens WHERE target_id = $1 \
         OR target_id IN (SELECT id FROM projects WHERE domain_id = $1)",
        "DELETE FROM role_assignments WHERE target_id = $1 \
         OR user_id IN (SELECT id FROM users WHERE domain_id = $1) \
         OR target_id IN (SELECT id FROM projects WHERE domain_id = $1)",
        "DELETE FROM wider_assignments WHERE target_id = $1 \
         OR target_id IN (SELECT id FROM projects WHERE domain_id = $1) \
         OR actor_id IN (SELECT id FROM users WHERE domain_id = $1) \
         OR actor_id IN (SELECT id FROM groups WHERE domain_id = $1)",
        "DELETE FROM group_members WHERE user_id IN (SELECT id FROM users WHERE domain_id = $1) \
         OR group_id IN (SELECT id FROM groups WHERE domain_id = $1)",
        "DELETE FROM application_credentials WHERE \
         user_id IN (SELECT id FROM users WHERE domain_id = $1) \
         OR project_id IN (SELECT id FROM projects WHERE domain_id = $1)",
        "DELETE FROM identity_extra WHERE id IN (SELECT id FROM users WHERE domain_id = $1) \
         OR id IN (SELECT id FROM projects WHERE domain_id = $1) \
         OR id IN (SELECT id FROM groups WHERE domain_id = $1)",
        "DELETE FROM groups WHERE domain_id = $1",
        "DELETE FROM users WHERE domain_id = $1",
        "DELETE FROM projects WHERE domain_id = $1",
    ],
};

fn view(app: &AppState, domain: &Domain) -> Value {
    let view = json!({
        "links": self_link(app, "domains", &domain.id),
        "id": domain.id,
        "name": domain.name,
        "description": domain.description,
        "enabled": domain.enabled,
        "tags": [],
        "options": {},
    });
    with_extra(view, domain.extra.as_ref())
}

/// `GET /v3/domains`
pub async fn list(call: Call, query: Params) -> Reply {
    DOMAIN.list(&call, &query, &["name", "enabled"]).await
}

/// `POST /v3/domains`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "domain")?;
    let more = extra(
        &fields,
        &["name", "description", "enabled", "options", "tags"],
    )?;
    let columns = vec![
        ("id", crate::new_id(&*call.app.rng).into()),
        ("name", short_name(&fields)?.into()),
        (
            "description",
            description(&fields)?.unwrap_or_default().into(),
        ),
        ("enabled", fields.flag("enabled")?.unwrap_or(true).into()),
        ("created_at", call.now().into()),
        more,
    ];
    DOMAIN.create(&call, columns).await
}

/// `GET /v3/domains/{id}`
pub async fn show(call: Call, Extension(token): Extension<Token>, Path(id): Path<String>) -> Reply {
    if matches!(call.context.reach, Reach::Oneself(_)) && token.user_domain.id != id {
        return Err(beyond());
    }
    DOMAIN.show(&call, &id).await
}

/// `PATCH /v3/domains/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "domain")?;
    let more = extra(
        &fields,
        &["name", "description", "enabled", "options", "tags", "id"],
    )?;
    let enabled = fields.flag("enabled")?;
    if id == DEFAULT_DOMAIN && enabled == Some(false) {
        return Err(forbidden("The default domain cannot be disabled."));
    }
    let columns = vec![
        ("name", opt_short_name(&fields)?.into()),
        ("description", description(&fields)?.into()),
        ("enabled", enabled.map(i64::from).into()),
        more,
    ];
    DOMAIN.update(&call, &id, columns, |_, _| Ok(())).await
}

/// `DELETE /v3/domains/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    DOMAIN.delete(&call, &id).await
}
