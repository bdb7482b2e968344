//! Application credentials over HTTP: a user's own to make; the secret is answered once.

use super::users::USER;
use super::{Reply, bad, collection, created, forbidden, hashing, no_content, not_found, ok};
use super::{conflict, oneself_or_more};
use crate::application_credentials::{ApplicationCredential, find};
use crate::password;
use crate::tokens::{Named, Token};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::query::Params;
use berth_controller_core::store::{Json, StoreError};
use berth_controller_core::{ApiError, AppState, Call, Service, params, read, secret, time, tx};
use serde_json::{Value, json};

/// How many a user may have: each costs a log-in nothing, and a list its length.
const MOST: i64 = 100;

fn view(app: &AppState, one: &ApplicationCredential, roles: &[Named]) -> Value {
    let roles = roles.iter().filter(|role| one.roles.0.contains(&role.id));
    let roles = roles.map(|r| json!({"id": r.id, "name": r.name, "domain_id": null}));
    let path = format!("users/{}/application_credentials/{}", one.user_id, one.id);
    json!({
        "id": one.id,
        "name": one.name,
        "description": one.description,
        "user_id": one.user_id,
        "project_id": one.project_id,
        "roles": roles.collect::<Vec<_>>(),
        "unrestricted": one.unrestricted,
        "expires_at": one.expires_at.map(time::exact),
        "system": null,
        "links": {"self": format!("{}/identity/v3/{path}", app.base_url)},
    })
}

async fn all_roles(call: &Call) -> Result<Vec<Named>, ApiError> {
    read!(call, |tx| [] {
        Ok::<_, ApiError>(tx.query("SELECT id, name FROM roles ORDER BY name", &[]).await?)
    })
}

/// Refuses a token that was itself got by one, unless that may.
fn must_be_unrestricted(token: &Token) -> Result<(), ApiError> {
    match &token.application_credential {
        Some(by) if !by.unrestricted => Err(forbidden(
            "The token's application credential is restricted: it makes and deletes none.",
        )),
        _ => Ok(()),
    }
}

/// `GET /v3/users/{user}/application_credentials`
pub async fn list(call: Call, Path(user): Path<String>, query: Params) -> Reply {
    oneself_or_more(&call.context, &user)?;
    let name = query.get("name").map(str::to_owned);
    let rows: Vec<ApplicationCredential> = read!(call, |tx| [call, user, name] {
        USER.within(tx, &call.context.reach, &user).await?;
        let sql = "SELECT * FROM application_credentials WHERE user_id = $1 \
                   AND (CAST($2 AS TEXT) IS NULL OR name = $2) ORDER BY name";
        Ok::<_, ApiError>(tx.query(sql, params![user, name]).await?)
    })?;
    let roles = all_roles(&call).await?;
    let items = rows
        .iter()
        .map(|row| view(&call.app, row, &roles))
        .collect();
    let path = format!("users/{user}/application_credentials");
    Ok(collection(
        &call.app,
        "application_credentials",
        &path,
        items,
    ))
}

/// The roles that a body names: of those that the token has.
fn roles(fields: &Fields<'_>, token: &Token) -> Result<Vec<String>, ApiError> {
    let Some(list) = fields.list("roles")?.filter(|list| !list.is_empty()) else {
        return Ok(token.roles.iter().map(|role| role.id.clone()).collect());
    };
    let mut ids = Vec::new();
    for value in list {
        let role = Fields::of(Service::Identity, value, "application_credential.roles")?;
        let (id, name) = (role.text("id", 64)?, role.text("name", 255)?);
        if id.is_none() && name.is_none() {
            return Err(role.wrong("id", "is missing, and so is name"));
        }
        let has = token.roles.iter().find(|has| {
            id.as_ref().is_none_or(|id| *id == has.id)
                && name.as_ref().is_none_or(|name| *name == has.name)
        });
        let has = has.ok_or_else(|| {
            bad("application_credential.roles names a role that you do not have on the project.")
        })?;
        ids.push(has.id.clone());
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// `POST /v3/users/{user}/application_credentials`
pub async fn create(
    call: Call,
    Extension(token): Extension<Token>,
    Path(user): Path<String>,
    bytes: Bytes,
) -> Reply {
    oneself_or_more(&call.context, &user)?;
    must_be_unrestricted(&token)?;
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "application_credential")?;
    fields.only(&[
        "name",
        "description",
        "secret",
        "roles",
        "expires_at",
        "unrestricted",
        "access_rules",
        "project_id",
    ])?;
    if fields
        .list("access_rules")?
        .is_some_and(|rules| !rules.is_empty())
    {
        return Err(bad(
            "application_credential.access_rules is not offered here, and would not be enforced.",
        ));
    }
    let Some(project_id) = token.project_id().map(str::to_owned) else {
        return Err(bad(
            "An application credential is for the project of the token that makes it: use a token \
             scoped to one.",
        ));
    };
    if fields
        .text("project_id", 64)?
        .is_some_and(|id| id != project_id)
    {
        return Err(fields.wrong("project_id", "is not the token's project"));
    }
    let expires_at = match fields.text("expires_at", 64)? {
        None => None,
        Some(text) => {
            let at = time::parse_exact(&text)
                .ok_or_else(|| fields.wrong("expires_at", "is no time as in ISO 8601"))?;
            if at <= call.now().saturating_mul(1000) {
                return Err(fields.wrong("expires_at", "is in the past"));
            }
            Some(at)
        }
    };
    let given = fields
        .text("secret", 255)?
        .filter(|secret| !secret.is_empty());
    let secret = given.unwrap_or_else(|| secret::new(&*call.app.rng));
    let hash = password::hash(&*call.app.rng, secret.clone()).await;
    let one = ApplicationCredential {
        id: crate::new_id(&*call.app.rng),
        user_id: user,
        project_id,
        name: fields.name("name")?,
        description: super::resource::description(&fields)?,
        secret_hash: hash.map_err(hashing)?,
        roles: Json(roles(&fields, &token)?),
        unrestricted: fields.flag("unrestricted")?.unwrap_or(false),
        expires_at,
    };
    let now = call.now();
    tx!(call, |tx| [one] {
        // Whether there are too many is asked by the statement that needs it.
        let made = tx.execute(
            "INSERT INTO application_credentials (id, user_id, project_id, name, description, \
             secret_hash, roles, unrestricted, expires_at, created_at) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 \
             WHERE (SELECT COUNT(*) FROM application_credentials WHERE user_id = $2) < $11",
            params![
                &one.id,
                &one.user_id,
                &one.project_id,
                &one.name,
                one.description.clone(),
                &one.secret_hash,
                json!(one.roles.0),
                one.unrestricted,
                one.expires_at,
                now,
                MOST
            ],
        )
        .await;
        match made {
            Err(StoreError::Conflict(_)) => Err(conflict(format!(
                "You have an application credential named {} already.",
                one.name
            ))),
            Err(other) => Err(other.into()),
            Ok(0) => Err(forbidden(format!(
                "A user has at most {MOST} application credentials: delete one first."
            ))),
            Ok(_) => Ok(()),
        }
    })?;
    let roles = all_roles(&call).await?;
    let mut shown = view(&call.app, &one, &roles);
    shown["secret"] = json!(secret);
    Ok(created(json!({"application_credential": shown})))
}

/// One of that user's.
async fn load(call: &Call, user: &str, id: &str) -> Result<ApplicationCredential, ApiError> {
    oneself_or_more(&call.context, user)?;
    let (user, id) = (user.to_owned(), id.to_owned());
    read!(call, |tx| [call, user, id] {
        USER.within(tx, &call.context.reach, &user).await?;
        let found = find(tx, &id).await?.filter(|one| one.user_id == user);
        found.ok_or_else(|| not_found("application credential", &id))
    })
}

/// `GET /v3/users/{user}/application_credentials/{id}`
pub async fn show(call: Call, Path((user, id)): Path<(String, String)>) -> Reply {
    let one = load(&call, &user, &id).await?;
    let roles = all_roles(&call).await?;
    Ok(ok(
        json!({"application_credential": view(&call.app, &one, &roles)}),
    ))
}

/// `DELETE /v3/users/{user}/application_credentials/{id}`: its tokens end with it.
pub async fn delete(
    call: Call,
    Extension(token): Extension<Token>,
    Path((user, id)): Path<(String, String)>,
) -> Reply {
    must_be_unrestricted(&token)?;
    let one = load(&call, &user, &id).await?;
    tx!(call, |tx| [one] {
        for sql in [
            "DELETE FROM tokens WHERE target_kind = 'application_credential' AND target_id = $1",
            "DELETE FROM application_credentials WHERE id = $1",
        ] {
            tx.execute(sql, params![&one.id]).await?;
        }
        Ok::<_, ApiError>(())
    })?;
    Ok(no_content())
}
