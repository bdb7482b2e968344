//! Grants: which user has which role on which project, domain, or the system.

use super::roles::ROLE;
use super::{Reply, admin_only, collection, no_content, not_found};
use crate::api::call::{Call, tx};
use crate::api::query::Params;
use crate::api::{ApiError, AppState, RequestContext};
use crate::params;
use crate::store::{Row, Tx};
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Extension, Router};
use serde_json::{Value, json};

/// On what a role is granted.
#[derive(Clone, Debug)]
struct Target {
    kind: &'static str,
    id: String,
}

impl Target {
    fn system() -> Self {
        Self {
            kind: "system",
            id: "all".into(),
        }
    }

    async fn must_exist(&self, tx: &mut Tx) -> Result<(), ApiError> {
        let sql = match self.kind {
            "project" => "SELECT id FROM projects WHERE id = $1",
            "domain" => "SELECT id FROM domains WHERE id = $1",
            _ => return Ok(()),
        };
        match tx.query_opt(sql, params![&self.id]).await? {
            Some(_) => Ok(()),
            None => Err(not_found(self.kind, &self.id)),
        }
    }
}

/// All grant routes, below `/v3`.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/projects/{target}/users/{user}/roles", get(list_project))
        .route(
            "/projects/{target}/users/{user}/roles/{role}",
            get(check_project).put(grant_project).delete(revoke_project),
        )
        .route("/domains/{target}/users/{user}/roles", get(list_domain))
        .route(
            "/domains/{target}/users/{user}/roles/{role}",
            get(check_domain).put(grant_domain).delete(revoke_domain),
        )
        .route("/system/users/{user}/roles", get(list_system))
        .route(
            "/system/users/{user}/roles/{role}",
            get(check_system).put(grant_system).delete(revoke_system),
        )
        .route("/role_assignments", get(assignments))
}

macro_rules! on_target {
    ($kind:literal: $list:ident, $check:ident, $grant:ident, $revoke:ident) => {
        async fn $list(
            State(app): State<AppState>,
            Extension(context): Extension<RequestContext>,
            Path((id, user)): Path<(String, String)>,
        ) -> Reply {
            list(&app, &context, &Target { kind: $kind, id }, &user).await
        }
        async fn $check(
            State(app): State<AppState>,
            Extension(context): Extension<RequestContext>,
            Path((id, user, role)): Path<(String, String, String)>,
        ) -> Reply {
            check(&app, &context, &Target { kind: $kind, id }, &user, &role).await
        }
        async fn $grant(
            State(app): State<AppState>,
            Extension(context): Extension<RequestContext>,
            Path((id, user, role)): Path<(String, String, String)>,
        ) -> Reply {
            grant(&app, &context, &Target { kind: $kind, id }, &user, &role).await
        }
        async fn $revoke(
            State(app): State<AppState>,
            Extension(context): Extension<RequestContext>,
            Path((id, user, role)): Path<(String, String, String)>,
        ) -> Reply {
            revoke(&app, &context, &Target { kind: $kind, id }, &user, &role).await
        }
    };
}
on_target!("project": list_project, check_project, grant_project, revoke_project);
on_target!("domain": list_domain, check_domain, grant_domain, revoke_domain);

async fn list_system(call: Call, Path(user): Path<String>) -> Reply {
    list(&call.app, &call.context, &Target::system(), &user).await
}

async fn check_system(call: Call, Path((user, role)): Path<(String, String)>) -> Reply {
    check(&call.app, &call.context, &Target::system(), &user, &role).await
}

async fn grant_system(call: Call, Path((user, role)): Path<(String, String)>) -> Reply {
    grant(&call.app, &call.context, &Target::system(), &user, &role).await
}

async fn revoke_system(call: Call, Path((user, role)): Path<(String, String)>) -> Reply {
    revoke(&call.app, &call.context, &Target::system(), &user, &role).await
}

async fn list(app: &AppState, context: &RequestContext, target: &Target, user: &str) -> Reply {
    admin_only(context)?;
    let rows = app
        .store
        .tx(|tx| {
            let (target, user) = (target.clone(), user.to_owned());
            Box::pin(async move {
                target.must_exist(tx).await?;
                let sql = "SELECT r.* FROM roles r JOIN role_assignments a ON a.role_id = r.id \
                           WHERE a.user_id = $1 AND a.target_kind = $2 AND a.target_id = $3 \
                           ORDER BY r.name";
                Ok::<_, ApiError>(tx.query(sql, params![user, target.kind, target.id]).await?)
            })
        })
        .await?;
    ROLE.collection(app, "roles", &rows)
}

async fn check(
    app: &AppState,
    context: &RequestContext,
    target: &Target,
    user: &str,
    role: &str,
) -> Reply {
    admin_only(context)?;
    let found = app
        .store
        .tx(|tx| {
            let (target, user, role) = (target.clone(), user.to_owned(), role.to_owned());
            Box::pin(async move {
                let sql = "SELECT role_id FROM role_assignments WHERE user_id = $1 \
                           AND target_kind = $2 AND target_id = $3 AND role_id = $4";
                let params = params![user, target.kind, target.id, role];
                Ok::<_, ApiError>(tx.query_opt(sql, params).await?)
            })
        })
        .await?;
    match found {
        Some(_) => Ok(no_content()),
        None => Err(not_found("role assignment with role", role)),
    }
}

async fn grant(
    app: &AppState,
    context: &RequestContext,
    target: &Target,
    user: &str,
    role: &str,
) -> Reply {
    admin_only(context)?;
    app.store
        .tx(|tx| {
            let (target, user, role) = (target.clone(), user.to_owned(), role.to_owned());
            Box::pin(async move {
                target.must_exist(tx).await?;
                for (what, table, id) in [("user", "users", &user), ("role", "roles", &role)] {
                    let sql = format!("SELECT id FROM {table} WHERE id = $1");
                    if tx.query_opt(&sql, params![id]).await?.is_none() {
                        return Err(not_found(what, id));
                    }
                }
                tx.execute(
                    "INSERT INTO role_assignments (user_id, target_kind, target_id, role_id) \
                     VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                    params![user, target.kind, target.id, role],
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(no_content())
}

async fn revoke(
    app: &AppState,
    context: &RequestContext,
    target: &Target,
    user: &str,
    role: &str,
) -> Reply {
    admin_only(context)?;
    let gone = app
        .store
        .tx(|tx| {
            let (target, user, role) = (target.clone(), user.to_owned(), role.to_owned());
            Box::pin(async move {
                let sql = "DELETE FROM role_assignments WHERE user_id = $1 \
                           AND target_kind = $2 AND target_id = $3 AND role_id = $4";
                let params = params![user, target.kind, target.id, role];
                Ok::<_, ApiError>(tx.execute(sql, params).await?)
            })
        })
        .await?;
    match gone {
        0 => Err(not_found("role assignment with role", role)),
        _ => Ok(no_content()),
    }
}

/// `GET /v3/role_assignments`, with its usual filters.
async fn assignments(call: Call, query: Params) -> Reply {
    let own = query.get("user.id") == Some(&call.context.user_id);
    if !own {
        admin_only(&call.context)?;
    }
    let text = |name: &str| query.get(name).map(str::to_owned);
    let (user, role) = (text("user.id"), text("role.id"));
    let (kind, target) = if let Some(id) = text("scope.project.id") {
        (Some("project"), Some(id))
    } else if let Some(id) = text("scope.domain.id") {
        (Some("domain"), Some(id))
    } else if query.get("scope.system").is_some() {
        (Some("system"), Some("all".to_owned()))
    } else {
        (None, None)
    };
    let rows = tx!(call, |tx| [user, role, target] {
        let sql = "SELECT a.user_id, a.target_kind, a.target_id, a.role_id, \
                   u.name AS user_name, r.name AS role_name, u.domain_id AS user_domain, \
                   COALESCE(p.name, d.name, '') AS target_name, \
                   COALESCE(p.domain_id, '') AS target_domain \
                   FROM role_assignments a JOIN users u ON u.id = a.user_id \
                   JOIN roles r ON r.id = a.role_id \
                   LEFT JOIN projects p ON p.id = a.target_id AND a.target_kind = 'project' \
                   LEFT JOIN domains d ON d.id = a.target_id AND a.target_kind = 'domain' \
                   WHERE (CAST($1 AS TEXT) IS NULL OR a.user_id = $1) \
                   AND (CAST($2 AS TEXT) IS NULL OR a.role_id = $2) \
                   AND (CAST($3 AS TEXT) IS NULL OR a.target_kind = $3) \
                   AND (CAST($4 AS TEXT) IS NULL OR a.target_id = $4) \
                   ORDER BY a.user_id, a.target_kind, a.target_id, r.name";
        Ok::<_, ApiError>(tx.query(sql, params![user, role, kind, target]).await?)
    })?;
    let names = query.flag("include_names") == Some(true);
    let items: Vec<Value> = rows
        .iter()
        .map(|r| assignment(&call.app, r, names))
        .collect::<Result<_, _>>()?;
    Ok(collection(
        &call.app,
        "role_assignments",
        "role_assignments",
        items,
    ))
}

fn assignment(app: &AppState, row: &Row, names: bool) -> Result<Value, ApiError> {
    let (user, role) = (row.text("user_id")?, row.text("role_id")?);
    let (kind, target) = (row.text("target_kind")?, row.text("target_id")?);
    let mut item = json!({"user": {"id": user}, "role": {"id": role}});
    let path = match kind.as_str() {
        "system" => {
            item["scope"] = json!({"system": {"all": true}});
            "system".to_owned()
        }
        _ => {
            item["scope"] = json!({kind.clone(): {"id": target}});
            format!("{kind}s/{target}")
        }
    };
    if names {
        item["user"]["name"] = json!(row.text("user_name")?);
        item["user"]["domain"] = json!({"id": row.text("user_domain")?});
        item["role"]["name"] = json!(row.text("role_name")?);
        if kind != "system" {
            item["scope"][&kind]["name"] = json!(row.text("target_name")?);
        }
        if kind == "project" {
            item["scope"]["project"]["domain"] = json!({"id": row.text("target_domain")?});
        }
    }
    let link = format!(
        "{}/identity/v3/{path}/users/{user}/roles/{role}",
        app.base_url
    );
    item["links"] = json!({"assignment": link});
    Ok(item)
}
