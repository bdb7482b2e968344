//! Users and their passwords.

use super::resource::{Column, Extra, InDomain, Resource, description, extra, with_extra};
use super::{Reply, bad, beyond, hashing, no_content, ok, oneself_or_more, self_link};
use crate::tokens::unauthorized;
use crate::{assignments, password};
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::query::Params;
use berth_controller_core::store::Json;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, AppState, Call, Service, params, read, row, tx};
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

/// Ends all of a user's tokens.
const REVOKE: &str = "DELETE FROM tokens WHERE user_id = $1";

row! {
    pub(super) struct User {
        id: String,
        domain_id: String,
        name: String,
        enabled: bool,
        password_hash: String,
        default_project_id: Option<String>,
        email: Option<String>,
        description: Option<String>,
        extra: Option<Json<Extra>>,
    }
}

/// With a user go their roles and tokens.
pub(super) static USER: Resource<User> = Resource {
    one: "user",
    all: "users",
    domain: Some(InDomain {
        column: "domain_id",
        of: |user| &user.domain_id,
    }),
    unique: " in that domain",
    view,
    may_go: |_| Ok(()),
    goes_with_it: &[
        REVOKE,
        "DELETE FROM role_assignments WHERE user_id = $1",
        "DELETE FROM wider_assignments WHERE actor_kind = 'user' AND actor_id = $1",
        "DELETE FROM group_members WHERE user_id = $1",
        "DELETE FROM application_credentials WHERE user_id = $1",
    ],
};

fn view(app: &AppState, user: &User) -> Value {
    let mut shown = json!({
        "links": self_link(app, "users", &user.id),
        "id": user.id,
        "name": user.name,
        "domain_id": user.domain_id,
        "enabled": user.enabled,
        "password_expires_at": null,
        "options": {},
    });
    for (field, value) in [
        ("default_project_id", &user.default_project_id),
        ("email", &user.email),
        ("description", &user.description),
    ] {
        if let Some(value) = value {
            shown[field] = json!(value);
        }
    }
    with_extra(shown, user.extra.as_ref())
}

/// `GET /v3/users`
pub async fn list(call: Call, query: Params) -> Reply {
    USER.list(&call, &query, &["name", "domain_id", "enabled"])
        .await
}

/// What may be said of a user at any time.
fn columns(fields: &Fields<'_>) -> Result<Vec<Column>, ApiError> {
    Ok(vec![
        (
            "default_project_id",
            fields.text("default_project_id", 64)?.into(),
        ),
        ("email", fields.text("email", 255)?.into()),
        ("description", description(fields)?.into()),
    ])
}

async fn password_hash(call: &Call, fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    match fields.text("password", 4096)? {
        Some(secret) => {
            let hash = password::hash(&*call.app.rng, secret).await;
            hash.map(Some).map_err(hashing)
        }
        None => Ok(None),
    }
}

/// `POST /v3/users`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "user")?;
    let more = extra(&fields, &FIELDS)?;
    let domain = fields.text("domain_id", 64)?;
    let mut columns = columns(&fields)?;
    columns.extend([
        ("name", fields.name("name")?.into()),
        ("domain_id", super::domain_or_own(&call, domain).into()),
        ("enabled", fields.flag("enabled")?.unwrap_or(true).into()),
        (
            "password_hash",
            password_hash(&call, &fields)
                .await?
                .unwrap_or_default()
                .into(),
        ),
        ("id", crate::new_id(&*call.app.rng).into()),
        ("created_at", call.now().into()),
        more,
    ]);
    USER.create(&call, columns).await
}

/// `GET /v3/users/{id}`: oneself, or as administrator.
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    oneself_or_more(&call.context, &id)?;
    USER.show(&call, &id).await
}

/// `PATCH /v3/users/{id}`. A new password, or being disabled, ends the user's tokens.
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "user")?;
    let more = extra(&fields, &[&FIELDS[..], &["id"]].concat())?;
    let enabled = fields.flag("enabled")?;
    let domain = fields.text("domain_id", 64)?;
    let hash = password_hash(&call, &fields).await?;
    let revokes = hash.is_some() || enabled == Some(false);
    let mut columns = columns(&fields)?;
    columns.extend([
        ("name", fields.opt_name("name")?.into()),
        ("enabled", enabled.map(i64::from).into()),
        ("password_hash", hash.into()),
        more,
    ]);
    let row = tx!(call, |tx| [call, id, columns, domain] {
        let before = within(tx, &call, &id).await?.domain_id;
        if domain.is_some_and(|domain| domain != before) {
            return Err(bad("user.domain_id cannot be changed."));
        }
        if revokes {
            revoke_all(tx, &id).await?;
        }
        USER.change(tx, &id, &columns).await
    })?;
    Ok(ok(USER.body(&call.app, &row)))
}

/// A user that the caller may change. Somebody with rights beyond the domain is beyond it: who sets
/// their password has these rights.
pub(super) async fn within(tx: &mut Tx, call: &Call, id: &str) -> Result<User, ApiError> {
    let user = USER.within(tx, &call.context.reach, id).await?;
    if call.context.reach.domain().is_some() {
        let more = assignments::is_beyond_a_domain(tx, id).await?;
        if more && call.context.user_id != id {
            return Err(beyond());
        }
    }
    Ok(user)
}

async fn revoke_all(tx: &mut Tx, user_id: &str) -> Result<(), StoreError> {
    tx.execute(REVOKE, params![user_id]).await.map(drop)
}

/// `POST /v3/users/{id}/password`: whoever proves the old one may give a new one.
pub async fn change_password(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "user")?;
    fields.only(&["password", "original_password"])?;
    let given = |name: &str| {
        let text = fields.text(name, 4096)?;
        text.ok_or_else(|| fields.wrong(name, "is missing"))
    };
    let (new, old) = (given("password")?, given("original_password")?);
    // Whether there is such a user is nobody's to learn here: one who is not there is never right.
    let stored = read!(call, |tx| [id] {
        let sql = "SELECT password_hash FROM users WHERE id = $1";
        Ok::<_, ApiError>(tx.query_opt::<(String,)>(sql, params![id]).await?)
    })?;
    let stored = stored.map(|(hash,)| hash);
    let (log_ins, now) = (&call.app.log_ins, call.app.clock.monotonic());
    if log_ins.wait(&id, now).is_some() {
        return Err(unauthorized(
            "Too many passwords of this user were wrong: try again in a minute.",
        ));
    }
    if !password::verify(stored, old).await.map_err(hashing)? {
        log_ins.failed(&id, now);
        return Err(unauthorized("user.original_password is wrong."));
    }
    let hash = password::hash(&*call.app.rng, new).await.map_err(hashing)?;
    tx!(call, |tx| [id, hash] {
        USER.change(tx, &id, &[("password_hash", hash.into())]).await?;
        revoke_all(tx, &id).await?;
        Ok::<_, ApiError>(())
    })?;
    Ok(no_content())
}

/// `GET /v3/users/{id}/projects`
pub async fn projects(call: Call, Path(id): Path<String>) -> Reply {
    oneself_or_more(&call.context, &id)?;
    read!(call, |tx| [call, id] { USER.within(tx, &call.context.reach, &id).await })?;
    let path = format!("users/{id}/projects");
    super::projects::PROJECT
        .list_of_user(&call, &id, &path)
        .await
}

/// `DELETE /v3/users/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] { within(tx, &call, &id).await })?;
    USER.delete(&call, &id).await
}
