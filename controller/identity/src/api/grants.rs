//! Grants: which user has which role on which project, domain, or the system.

use super::domains::DOMAIN;
use super::projects::PROJECT;
use super::roles::ROLE;
use super::users::USER;
use super::{Reply, bad, beyond, collection, no_content, not_found};
use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::get;
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::{Tx, Value as Stored};
use berth_controller_core::{ApiError, AppState, Call, params, row, tx};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What a path names: a user, on what, and (but for lists) a role.
#[derive(Clone, Debug)]
struct Grant {
    kind: &'static str,
    target: String,
    user: String,
    role: String,
}

impl FromRequestParts<AppState> for Grant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let names = Path::<HashMap<String, String>>::from_request_parts(parts, app).await;
        let Path(mut names) = names.map_err(|e| bad(format!("The path is malformed: {e}.")))?;
        let mut take = |name: &str| names.remove(name);
        let (kind, target) = match (take("project"), take("domain")) {
            (Some(project), _) => ("project", project),
            (None, Some(domain)) => ("domain", domain),
            (None, None) => ("system", "all".to_owned()),
        };
        Ok(Self {
            kind,
            target,
            user: take("user").unwrap_or_default(),
            role: take("role").unwrap_or_default(),
        })
    }
}

impl Grant {
    /// The target, the user and the role have to be there to be granted, and within the caller's
    /// reach. Who keeps a domain gives no role that reaches beyond it.
    async fn can_be_made(&self, tx: &mut Tx, reach: &Reach) -> Result<(), ApiError> {
        self.is_within(tx, reach).await?;
        USER.within(tx, reach, &self.user).await?;
        let role = ROLE.load(tx, &self.role).await?;
        if reach.domain().is_some() && !["reader", "member", "manager"].contains(&role.name()) {
            return Err(beyond());
        }
        Ok(())
    }

    /// The target is there, and within the caller's reach.
    async fn is_within(&self, tx: &mut Tx, reach: &Reach) -> Result<(), ApiError> {
        match self.kind {
            "project" => PROJECT.within(tx, reach, &self.target).await.map(drop),
            "domain" => DOMAIN.within(tx, reach, &self.target).await.map(drop),
            _ => Ok(()),
        }
    }

    /// For SQL: user, kind and id of the target, role.
    fn key(&self) -> [Stored; 4] {
        let texts = [self.user.as_str(), self.kind, &self.target, &self.role];
        texts.map(Stored::from)
    }

    fn missing(&self) -> ApiError {
        not_found("role assignment with role", &self.role)
    }
}

/// All grant routes, below `/v3`.
pub fn router() -> Router<AppState> {
    let mut router = Router::new().route("/role_assignments", get(assignments));
    for target in ["/projects/{project}", "/domains/{domain}", "/system"] {
        let all = format!("{target}/users/{{user}}/roles");
        let one = format!("{all}/{{role}}");
        router = router
            .route(&all, get(list))
            .route(&one, get(check).put(grant).delete(revoke));
    }
    router
}

async fn list(call: Call, on: Grant) -> Reply {
    let rows = tx!(call, |tx| [call, on] {
        on.is_within(tx, &call.context.reach).await?;
        let sql = "SELECT r.* FROM roles r JOIN role_assignments a ON a.role_id = r.id \
                   WHERE a.user_id = $1 AND a.target_kind = $2 AND a.target_id = $3 \
                   ORDER BY r.name";
        Ok::<_, ApiError>(tx.query(sql, &on.key()[..3]).await?)
    })?;
    ROLE.collection(&call.app, "roles", &rows)
}

async fn check(call: Call, grant: Grant) -> Reply {
    let found = tx!(call, |tx| [call, grant] {
        grant.is_within(tx, &call.context.reach).await?;
        let sql = "SELECT role_id FROM role_assignments WHERE user_id = $1 \
                   AND target_kind = $2 AND target_id = $3 AND role_id = $4";
        Ok::<_, ApiError>(tx.query_opt::<(String,)>(sql, &grant.key()).await?)
    })?;
    found.map(|_| no_content()).ok_or_else(|| grant.missing())
}

async fn grant(call: Call, grant: Grant) -> Reply {
    tx!(call, |tx| [call, grant] {
        grant.can_be_made(tx, &call.context.reach).await?;
        let sql = "INSERT INTO role_assignments (user_id, target_kind, target_id, role_id) \
                   VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        Ok::<_, ApiError>(tx.execute(sql, &grant.key()).await?)
    })?;
    Ok(no_content())
}

async fn revoke(call: Call, grant: Grant) -> Reply {
    let gone = tx!(call, |tx| [call, grant] {
        if call.context.reach.domain().is_some() {
            grant.can_be_made(tx, &call.context.reach).await?;
        }
        let sql = "DELETE FROM role_assignments WHERE user_id = $1 \
                   AND target_kind = $2 AND target_id = $3 AND role_id = $4";
        Ok::<_, ApiError>(tx.execute(sql, &grant.key()).await?)
    })?;
    match gone {
        0 => Err(grant.missing()),
        _ => Ok(no_content()),
    }
}

/// `GET /v3/role_assignments`, with its usual filters.
async fn assignments(call: Call, query: Params) -> Reply {
    super::oneself_or_more(&call.context, query.get("user.id").unwrap_or_default())?;
    let domain = call.context.reach.domain().map(str::to_owned);
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
    let rows: Vec<Assignment> = tx!(call, |tx| [user, role, target, domain] {
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
                   AND (CAST($5 AS TEXT) IS NULL OR p.domain_id = $5 OR d.id = $5) \
                   ORDER BY a.user_id, a.target_kind, a.target_id, r.name";
        Ok::<_, ApiError>(tx.query(sql, params![user, role, kind, target, domain]).await?)
    })?;
    let names = query.flag("include_names") == Some(true);
    let items = rows.iter().map(|row| row.view(&call.app, names));
    let items = items.collect();
    Ok(collection(
        &call.app,
        "role_assignments",
        "role_assignments",
        items,
    ))
}

row! {
    struct Assignment {
        user_id: String,
        target_kind: String,
        target_id: String,
        role_id: String,
        user_name: String,
        role_name: String,
        user_domain: String,
        target_name: String,
        target_domain: String,
    }
}

impl Assignment {
    fn view(&self, app: &AppState, names: bool) -> Value {
        let (user, role) = (&self.user_id, &self.role_id);
        let (kind, target) = (self.target_kind.as_str(), &self.target_id);
        let mut item = json!({"user": {"id": user}, "role": {"id": role}});
        let path = match kind {
            "system" => {
                item["scope"] = json!({"system": {"all": true}});
                "system".to_owned()
            }
            _ => {
                item["scope"] = json!({kind: {"id": target}});
                format!("{kind}s/{target}")
            }
        };
        if names {
            item["user"]["name"] = json!(self.user_name);
            item["user"]["domain"] = json!({"id": self.user_domain});
            item["role"]["name"] = json!(self.role_name);
            if kind != "system" {
                item["scope"][kind]["name"] = json!(self.target_name);
            }
            if kind == "project" {
                item["scope"]["project"]["domain"] = json!({"id": self.target_domain});
            }
        }
        let link = format!(
            "{}/identity/v3/{path}/users/{user}/roles/{role}",
            app.base_url
        );
        item["links"] = json!({"assignment": link});
        item
    }
}
