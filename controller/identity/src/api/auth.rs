//! Tokens over HTTP: asking for one, looking at one, taking one back.

use super::domains::DOMAIN;
use super::projects::PROJECT;
use super::{Reply, bad, hashing, no_content, not_found, ok};
use crate::application_credentials::{ApplicationCredential, TARGET};
use crate::tokens::{self, NewToken, Scope, Target, Token, unauthorized};
use crate::{assignments, catalog, password};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use berth_controller_core::body::{self, Fields};
use berth_controller_core::store::Tx;
use berth_controller_core::{
    ApiError, AppState, Call, RequestContext, Service, params, read, secret, time, tx,
};
use serde_json::{Value, json};

const WRONG: &str = "The request you have made requires authentication: the user, its domain or \
                     the password is wrong, or the user is disabled.";

/// How a thing is named in an authentication request: by id, or by name within a domain.
#[derive(Clone, Debug)]
enum Reference {
    Id(String),
    Name {
        name: String,
        domain: Box<Reference>,
    },
}

impl Reference {
    /// A project or user. `default_domain` is taken where none is named.
    fn parse(fields: &Fields<'_>) -> Result<Self, ApiError> {
        if let Some(id) = fields.text("id", 255)? {
            return Ok(Self::Id(id));
        }
        let name = fields.name("name")?;
        let domain = match fields.object("domain")? {
            Some(domain) => Self::parse_domain(&domain)?,
            None => return Err(fields.wrong("domain", "is missing: a name needs its domain")),
        };
        Ok(Self::Name {
            name,
            domain: Box::new(domain),
        })
    }

    fn parse_domain(fields: &Fields<'_>) -> Result<Self, ApiError> {
        if let Some(id) = fields.text("id", 255)? {
            return Ok(Self::Id(id));
        }
        Ok(Self::Name {
            name: fields.name("name")?,
            domain: Box::new(Self::Id(String::new())),
        })
    }

    async fn domain_id(&self, tx: &mut Tx) -> Result<Option<String>, ApiError> {
        let row: Option<(String,)> = match self {
            Self::Id(id) => {
                tx.query_opt("SELECT id FROM domains WHERE id = $1", params![id])
                    .await?
            }
            Self::Name { name, .. } => {
                tx.query_opt("SELECT id FROM domains WHERE name = $1", params![name])
                    .await?
            }
        };
        Ok(row.map(|(id,)| id))
    }

    /// The id, looked up in `users` or `projects`.
    async fn id_in(&self, tx: &mut Tx, table: &'static str) -> Result<Option<String>, ApiError> {
        let (name, domain) = match self {
            Self::Id(id) => return Ok(Some(id.clone())),
            Self::Name { name, domain } => (name, domain),
        };
        let Some(domain) = Box::pin(domain.domain_id(tx)).await? else {
            return Ok(None);
        };
        let sql = format!("SELECT id FROM {table} WHERE domain_id = $1 AND name = $2");
        let row = tx
            .query_opt::<(String,)>(&sql, params![domain, name])
            .await?;
        Ok(row.map(|(id,)| id))
    }
}

/// What the caller wants the token for.
#[derive(Clone, Debug)]
enum Wanted {
    /// Nothing said: the user's default project, if any.
    Default,
    Unscoped,
    Project(Reference),
    Domain(Reference),
    System,
    /// What the credential with this id, which was proved, is for.
    ApplicationCredential(String),
}

impl Wanted {
    fn parse(auth: &Value) -> Result<Self, ApiError> {
        match auth.get("scope") {
            None | Some(Value::Null) => Ok(Self::Default),
            Some(Value::String(text)) if text == "unscoped" => Ok(Self::Unscoped),
            Some(value) => {
                let scope = Fields::of(Service::Identity, value, "auth.scope")?;
                scope.only(&["project", "domain", "system", "unscoped"])?;
                if let Some(project) = scope.object("project")? {
                    Reference::parse(&project).map(Self::Project)
                } else if let Some(domain) = scope.object("domain")? {
                    Reference::parse_domain(&domain).map(Self::Domain)
                } else if let Some(system) = scope.object("system")? {
                    match system.flag("all")? {
                        Some(true) => Ok(Self::System),
                        _ => Err(system.wrong("all", "is to be true")),
                    }
                } else if scope.has("unscoped") {
                    Ok(Self::Unscoped)
                } else {
                    Err(bad("auth.scope names no project, domain or system."))
                }
            }
        }
    }
}

/// Who has proved to be whom.
struct Proof {
    user_id: String,
    methods: Vec<String>,
    /// A token got by a token lives no longer than that.
    not_after: i64,
}

/// `POST /v3/auth/tokens`
pub async fn create(State(app): State<AppState>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let auth = Fields::within(Service::Identity, &body, "auth")?;
    let identity = auth
        .object("identity")?
        .ok_or_else(|| auth.wrong("identity", "is missing"))?;
    let methods = identity
        .texts("methods")?
        .ok_or_else(|| identity.wrong("methods", "is missing"))?;
    let mut wanted = Wanted::parse(&body["auth"])?;
    let proof = match methods.as_slice() {
        [one] if one == "password" => by_password(&app, &identity).await?,
        [one] if one == "token" => by_token(&app, &identity).await?,
        [one] if one == TARGET => {
            if !matches!(wanted, Wanted::Default) {
                return Err(unauthorized(
                    "An application credential is for its own project: auth.scope is to be left out.",
                ));
            }
            let (proof, id) = by_application_credential(&app, &identity).await?;
            wanted = Wanted::ApplicationCredential(id);
            proof
        }
        _ => {
            return Err(unauthorized(
                "auth.identity.methods is to be [\"password\"], [\"token\"] or \
                 [\"application_credential\"]; no other is offered.",
            ));
        }
    };
    let secret = secret::new(&*app.rng);
    let audit_id = crate::new_id(&*app.rng);
    let now = app.clock.now_millis();
    let expires_at =
        (now + app.settings.token_lifetime_secs.saturating_mul(1000)).min(proof.not_after);
    let token = app
        .store
        .tx(|tx| {
            let (wanted, user_id) = (wanted.clone(), proof.user_id.clone());
            let (secret, audit_id) = (secret.clone(), audit_id.clone());
            let methods = proof.methods.clone();
            Box::pin(async move {
                let target = match &wanted {
                    Wanted::ApplicationCredential(id) => Target::ApplicationCredential(id.clone()),
                    other => Target::Scope(resolve(tx, &user_id, other).await?),
                };
                let new = NewToken {
                    secret,
                    audit_id,
                    user_id,
                    target,
                    methods,
                    now,
                    expires_at,
                };
                tokens::issue(tx, &new).await
            })
        })
        .await?;
    tracing::info!(user = %token.user_id, audit_id = %token.audit_id, "token issued");
    let mut response = (StatusCode::CREATED, Json(view(&app, &token))).into_response();
    subject(&mut response, &secret);
    Ok(response)
}

fn subject(response: &mut axum::response::Response, secret: &str) {
    if let Ok(mut value) = HeaderValue::from_str(secret) {
        value.set_sensitive(true);
        response.headers_mut().insert("x-subject-token", value);
    }
    response
        .headers_mut()
        .insert("vary", HeaderValue::from_static("X-Auth-Token"));
}

async fn by_password(app: &AppState, identity: &Fields<'_>) -> Result<Proof, ApiError> {
    let given = identity
        .object("password")?
        .ok_or_else(|| identity.wrong("password", "is missing"))?;
    let user = given
        .object("user")?
        .ok_or_else(|| given.wrong("user", "is missing"))?;
    let secret = user
        .text("password", 4096)?
        .ok_or_else(|| user.wrong("password", "is missing"))?;
    let reference = Reference::parse(&user)?;
    let found = app
        .store
        .tx(|tx| {
            let reference = reference.clone();
            Box::pin(async move {
                let Some(id) = reference.id_in(tx, "users").await? else {
                    return Ok::<_, ApiError>(None);
                };
                let sql = "SELECT u.id, u.password_hash FROM users u \
                           JOIN domains d ON d.id = u.domain_id \
                           WHERE u.id = $1 AND u.enabled = 1 AND d.enabled = 1";
                Ok(tx.query_opt::<(String, String)>(sql, params![id]).await?)
            })
        })
        .await?;
    let (user_id, stored) = found.unzip();
    // One who is not there is counted, too: else the limit would tell who is.
    let whose = match &user_id {
        Some(id) => id.clone(),
        None => format!("{reference:?}"),
    };
    if let Some(wait) = app.log_ins.wait(&whose, app.clock.monotonic()) {
        return Err(too_many(wait));
    }
    // A user who is not there costs the same time as one who is.
    let right = password::verify(stored, secret).await.map_err(hashing)?;
    match user_id {
        Some(user_id) if right => {
            app.log_ins.succeeded(&user_id);
            Ok(Proof {
                user_id,
                methods: vec!["password".into()],
                not_after: i64::MAX,
            })
        }
        _ => {
            app.log_ins.failed(&whose, app.clock.monotonic());
            Err(unauthorized(WRONG))
        }
    }
}

/// By its id, or by its name and user; and its secret.
async fn by_application_credential(
    app: &AppState,
    identity: &Fields<'_>,
) -> Result<(Proof, String), ApiError> {
    let given = identity
        .object(TARGET)?
        .ok_or_else(|| identity.wrong(TARGET, "is missing"))?;
    let secret = given
        .text("secret", 4096)?
        .ok_or_else(|| given.wrong("secret", "is missing"))?;
    let id = given.text("id", 255)?;
    let named = match &id {
        Some(_) => None,
        None => {
            let user = given
                .object("user")?
                .ok_or_else(|| given.wrong("user", "is missing: a name needs its user"))?;
            Some((given.name("name")?, Reference::parse(&user)?))
        }
    };
    let whose = format!("application credential {id:?} {named:?}");
    let now = app.clock.monotonic();
    if let Some(wait) = app.log_ins.wait(&whose, now) {
        return Err(too_many(wait));
    }
    let found: Option<ApplicationCredential> = app
        .store
        .tx(|tx| {
            let (id, named) = (id.clone(), named.clone());
            Box::pin(async move {
                // Of users that are there and enabled.
                let sql = "SELECT c.* FROM application_credentials c \
                           JOIN users u ON u.id = c.user_id JOIN domains d ON d.id = u.domain_id \
                           WHERE u.enabled = 1 AND d.enabled = 1 AND";
                if let Some(id) = id {
                    let sql = format!("{sql} c.id = $1");
                    return Ok::<_, ApiError>(tx.query_opt(&sql, params![id]).await?);
                }
                let Some((name, user)) = named else {
                    return Ok(None);
                };
                let user = user.id_in(tx, "users").await?;
                let sql = format!("{sql} c.user_id = $1 AND c.name = $2");
                Ok(tx.query_opt(&sql, params![user, name]).await?)
            })
        })
        .await?;
    let stored = found.as_ref().map(|one| one.secret_hash.clone());
    let right = password::verify(stored, secret).await.map_err(hashing)?;
    match found {
        Some(one) if right => {
            app.log_ins.succeeded(&whose);
            let proof = Proof {
                user_id: one.user_id,
                methods: vec![TARGET.into()],
                not_after: one.expires_at.map_or(i64::MAX, |at| at / 1000),
            };
            Ok((proof, one.id))
        }
        _ => {
            app.log_ins.failed(&whose, now);
            Err(unauthorized(
                "The request you have made requires authentication: the application credential or its \
                 secret is wrong, or its user is disabled.",
            ))
        }
    }
}

fn too_many(wait: std::time::Duration) -> ApiError {
    ApiError::new(
        Service::Identity,
        StatusCode::TOO_MANY_REQUESTS,
        format!(
            "Too many log-ins of this user failed: try again in {} s.",
            wait.as_secs() + 1
        ),
    )
}

async fn by_token(app: &AppState, identity: &Fields<'_>) -> Result<Proof, ApiError> {
    let given = identity
        .object("token")?
        .ok_or_else(|| identity.wrong("token", "is missing"))?;
    let secret = given
        .text("id", 255)?
        .ok_or_else(|| given.wrong("id", "is missing"))?;
    let token = tokens::validate(app, &secret).await?;
    if token.application_credential.is_some() {
        return Err(super::forbidden(
            "A token that was got by an application credential gets no other: use the credential.",
        ));
    }
    let mut methods = vec!["token".to_owned()];
    methods.extend(token.methods.into_iter().filter(|m| m != "token"));
    Ok(Proof {
        user_id: token.user_id,
        methods,
        not_after: token.expires_at,
    })
}

/// The scope that was asked for; 401 if there is no such, or no role on it.
async fn resolve(tx: &mut Tx, user_id: &str, wanted: &Wanted) -> Result<Scope, ApiError> {
    let (kind, id) = match wanted {
        Wanted::Unscoped | Wanted::ApplicationCredential(_) => return Ok(Scope::Unscoped),
        Wanted::System => return permitted(tx, user_id, Scope::System).await,
        Wanted::Default => {
            let sql = "SELECT default_project_id FROM users WHERE id = $1";
            let row: Option<(Option<String>,)> = tx.query_opt(sql, params![user_id]).await?;
            let Some((id,)) = row else {
                return Ok(Scope::Unscoped);
            };
            let Some(scope) = tokens::scope_by_id(tx, "project", &id.unwrap_or_default()).await?
            else {
                return Ok(Scope::Unscoped);
            };
            return match permitted(tx, user_id, scope).await {
                Err(error) if error.status == StatusCode::UNAUTHORIZED => Ok(Scope::Unscoped),
                other => other,
            };
        }
        Wanted::Project(reference) => ("project", reference.id_in(tx, "projects").await?),
        Wanted::Domain(reference) => ("domain", reference.domain_id(tx).await?),
    };
    let scope = match id {
        Some(id) => tokens::scope_by_id(tx, kind, &id).await?,
        None => None,
    };
    match scope {
        Some(scope) => permitted(tx, user_id, scope).await,
        // The same words as for no role: who has none is not told what exists.
        None => Err(no_role()),
    }
}

fn no_role() -> ApiError {
    unauthorized("The user has no role on the project, domain or system that auth.scope names.")
}

async fn permitted(tx: &mut Tx, user_id: &str, scope: Scope) -> Result<Scope, ApiError> {
    if assignments::roles(tx, user_id, &scope).await?.is_empty() {
        return Err(no_role());
    }
    Ok(scope)
}

/// A token as the API shows it.
fn view(app: &AppState, token: &Token) -> Value {
    let domain = |d: &tokens::Named| json!({"id": d.id, "name": d.name});
    let mut body = json!({
        "methods": token.methods,
        "user": {
            "id": token.user_id, "name": token.user_name,
            "domain": domain(&token.user_domain), "password_expires_at": null,
        },
        "audit_ids": [token.audit_id],
        "expires_at": time::micros(token.expires_at),
        "issued_at": time::micros(token.issued_at),
    });
    if let Some(by) = &token.application_credential {
        body[TARGET] = json!({"id": by.id, "name": by.name, "restricted": !by.unrestricted});
    }
    match &token.scope {
        Scope::Unscoped => return json!({"token": body}),
        Scope::Project(project, in_domain) => {
            body["project"] =
                json!({"id": project.id, "name": project.name, "domain": domain(in_domain)});
            body["is_domain"] = json!(false);
        }
        Scope::Domain(scoped) => body["domain"] = domain(scoped),
        Scope::System => body["system"] = json!({"all": true}),
    }
    body["roles"] = token
        .roles
        .iter()
        .map(|r| json!({"id": r.id, "name": r.name}))
        .collect();
    body["catalog"] = catalog::in_token(&app.base_url, &app.settings.region);
    json!({"token": body})
}

/// The token in `X-Subject-Token`, if the caller may look at it: its own, or as administrator.
async fn subject_token(
    app: &AppState,
    context: &RequestContext,
    headers: &HeaderMap,
) -> Result<(String, Token), ApiError> {
    let secret = headers
        .get("x-subject-token")
        .and_then(|v| v.to_str().ok())
        .ok_or_else(|| bad("The request has no X-Subject-Token."))?
        .to_owned();
    let token = tokens::validate(app, &secret)
        .await
        .map_err(|e| match e.status {
            StatusCode::UNAUTHORIZED => ApiError::new(
                Service::Identity,
                StatusCode::NOT_FOUND,
                format!("Could not find the token in X-Subject-Token: {}", e.message),
            ),
            _ => e,
        })?;
    super::oneself_or_more(context, &token.user_id)?;
    Ok((secret, token))
}

/// `GET /v3/auth/tokens` (and HEAD)
pub async fn show(call: Call, headers: HeaderMap) -> Reply {
    let (secret, token) = subject_token(&call.app, &call.context, &headers).await?;
    let mut response = ok(view(&call.app, &token));
    subject(&mut response, &secret);
    Ok(response)
}

/// `DELETE /v3/auth/tokens`
pub async fn revoke(call: Call, headers: HeaderMap) -> Reply {
    let (_, token) = subject_token(&call.app, &call.context, &headers).await?;
    let hash = token.hash;
    tx!(call, |tx| [hash] {
        tx.execute("DELETE FROM tokens WHERE token_hash = $1", params![hash])
            .await?;
        Ok::<_, ApiError>(())
    })?;
    Ok(no_content())
}

/// `GET /v3/auth/catalog`
pub async fn catalog(State(app): State<AppState>, Extension(token): Extension<Token>) -> Reply {
    if token.scope == Scope::Unscoped {
        return Err(not_found(
            "a catalogue for an unscoped token",
            &token.audit_id,
        ));
    }
    Ok(ok(json!({
        "catalog": catalog::in_token(&app.base_url, &app.settings.region),
        "links": {"self": format!("{}/identity/v3/auth/catalog", app.base_url)},
    })))
}

/// `GET /v3/auth/projects`: where the caller has a role.
pub async fn projects(call: Call) -> Reply {
    let user = &call.context.user_id;
    PROJECT.list_of_user(&call, user, "auth/projects").await
}

/// `GET /v3/auth/domains`
pub async fn domains(call: Call) -> Reply {
    let user = &call.context.user_id;
    DOMAIN.list_of_user(&call, user, "auth/domains").await
}

/// `GET /v3/auth/system`
pub async fn system(call: Call) -> Reply {
    let user = call.context.user_id.clone();
    let any = read!(call, |tx| [user] {
        let roles = assignments::roles(tx, &user, &Scope::System).await?;
        Ok::<_, ApiError>(!roles.is_empty())
    })?;
    let system = if any {
        json!([{"all": true}])
    } else {
        json!([])
    };
    Ok(ok(json!({
        "system": system,
        "links": {"self": format!("{}/identity/v3/auth/system", call.app.base_url)},
    })))
}
