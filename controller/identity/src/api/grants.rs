//! Grants: which user or group has which role on which project, domain, or the system; or on a domain or
//! a project for the projects in it to inherit (OS-INHERIT).

use super::domains::DOMAIN;
use super::groups::GROUP;
use super::projects::PROJECT;
use super::roles::ROLE;
use super::users::USER;
use super::{Reply, bad, beyond, no_content, not_found};
use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Path};
use axum::http::request::Parts;
use axum::routing::get;
use berth_controller_core::policy::Reach;
use berth_controller_core::store::{Tx, Value as Stored};
use berth_controller_core::{ApiError, AppState, Call, read, tx};
use std::collections::HashMap;

/// What a path names: a user or group, on what, and (but for lists) a role.
#[derive(Clone, Debug)]
struct Grant {
    kind: &'static str,
    target: String,
    actor_kind: &'static str,
    actor: String,
    role: String,
    inherited: bool,
}

impl FromRequestParts<AppState> for Grant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let names = Path::<HashMap<String, String>>::from_request_parts(parts, app).await;
        let Path(mut names) = names.map_err(|e| bad(format!("The path is malformed: {e}.")))?;
        let matched = parts.extensions.get::<MatchedPath>();
        let inherited = matched.is_some_and(|path| path.as_str().contains("/OS-INHERIT/"));
        let mut take = |name: &str| names.remove(name);
        let (kind, target) = match (take("project"), take("domain")) {
            (Some(project), _) => ("project", project),
            (None, Some(domain)) => ("domain", domain),
            (None, None) => ("system", "all".to_owned()),
        };
        let (actor_kind, actor) = match (take("user"), take("group")) {
            (None, Some(group)) => ("group", group),
            (user, _) => ("user", user.unwrap_or_default()),
        };
        Ok(Self {
            kind,
            target,
            actor_kind,
            actor,
            role: take("role").unwrap_or_default(),
            inherited,
        })
    }
}

impl Grant {
    /// The target, the actor and the role have to be there to be granted, and within the caller's
    /// reach. Who keeps a domain gives no role that reaches beyond it.
    async fn can_be_made(&self, tx: &mut Tx, reach: &Reach) -> Result<(), ApiError> {
        self.is_within(tx, reach).await?;
        match self.actor_kind {
            "group" => GROUP.within(tx, reach, &self.actor).await.map(drop)?,
            _ => USER.within(tx, reach, &self.actor).await.map(drop)?,
        }
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

    /// In which table it is, with what else is said of it there.
    fn table(&self) -> (&'static str, &'static str) {
        match (self.actor_kind, self.inherited) {
            ("user", false) => ("role_assignments", "user_id = $1"),
            ("user", true) => (
                "wider_assignments",
                "actor_kind = 'user' AND inherited = 1 AND actor_id = $1",
            ),
            (_, false) => (
                "wider_assignments",
                "actor_kind = 'group' AND inherited = 0 AND actor_id = $1",
            ),
            (_, true) => (
                "wider_assignments",
                "actor_kind = 'group' AND inherited = 1 AND actor_id = $1",
            ),
        }
    }

    /// For SQL: actor, kind and id of the target, role.
    fn key(&self) -> [Stored; 4] {
        let texts = [self.actor.as_str(), self.kind, &self.target, &self.role];
        texts.map(Stored::from)
    }

    fn missing(&self) -> ApiError {
        not_found("role assignment with role", &self.role)
    }
}

/// All grant routes, below `/v3`.
pub fn router() -> Router<AppState> {
    let mut router = Router::new();
    for target in ["/projects/{project}", "/domains/{domain}", "/system"] {
        for actor in ["users/{user}", "groups/{group}"] {
            let all = format!("{target}/{actor}/roles");
            let one = format!("{all}/{{role}}");
            router = router
                .route(&all, get(list))
                .route(&one, get(check).put(grant).delete(revoke));
            if target != "/system" {
                let inherited = format!("/OS-INHERIT{all}");
                let all = format!("{inherited}/inherited_to_projects");
                let one = format!("{inherited}/{{role}}/inherited_to_projects");
                router = router
                    .route(&all, get(list))
                    .route(&one, get(check).put(grant).delete(revoke));
            }
        }
    }
    router
}

async fn list(call: Call, on: Grant) -> Reply {
    let rows = read!(call, |tx| [call, on] {
        on.is_within(tx, &call.context.reach).await?;
        let (table, whose) = on.table();
        let sql = ROLE.select(&format!(
            "WHERE t.id IN (SELECT role_id FROM {table} WHERE {whose} \
             AND target_kind = $2 AND target_id = $3) ORDER BY t.name"
        ));
        Ok::<_, ApiError>(tx.query(&sql, &on.key()[..3]).await?)
    })?;
    ROLE.collection(&call.app, "roles", &rows)
}

async fn check(call: Call, grant: Grant) -> Reply {
    let found = read!(call, |tx| [call, grant] {
        grant.is_within(tx, &call.context.reach).await?;
        let (table, whose) = grant.table();
        let sql = format!(
            "SELECT role_id FROM {table} WHERE {whose} \
             AND target_kind = $2 AND target_id = $3 AND role_id = $4"
        );
        Ok::<_, ApiError>(tx.query_opt::<(String,)>(&sql, &grant.key()).await?)
    })?;
    found.map(|_| no_content()).ok_or_else(|| grant.missing())
}

async fn grant(call: Call, grant: Grant) -> Reply {
    tx!(call, |tx| [call, grant] {
        grant.can_be_made(tx, &call.context.reach).await?;
        let [actor, kind, target, role] = grant.key();
        let made = if grant.table().0 == "role_assignments" {
            let sql = "INSERT INTO role_assignments (user_id, target_kind, target_id, role_id) \
                       VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
            tx.execute(sql, &[actor, kind, target, role]).await?
        } else {
            let sql = "INSERT INTO wider_assignments (actor_id, target_kind, target_id, role_id, \
                       actor_kind, inherited) VALUES ($1, $2, $3, $4, $5, $6) \
                       ON CONFLICT DO NOTHING";
            let more = [grant.actor_kind.into(), grant.inherited.into()];
            let values: Vec<Stored> = [actor, kind, target, role].into_iter().chain(more).collect();
            tx.execute(sql, &values).await?
        };
        Ok::<_, ApiError>(made)
    })?;
    Ok(no_content())
}

async fn revoke(call: Call, grant: Grant) -> Reply {
    let gone = tx!(call, |tx| [call, grant] {
        if call.context.reach.domain().is_some() {
            grant.can_be_made(tx, &call.context.reach).await?;
        }
        let (table, whose) = grant.table();
        let sql = format!(
            "DELETE FROM {table} WHERE {whose} \
             AND target_kind = $2 AND target_id = $3 AND role_id = $4"
        );
        Ok::<_, ApiError>(tx.execute(&sql, &grant.key()).await?)
    })?;
    match gone {
        0 => Err(grant.missing()),
        _ => Ok(no_content()),
    }
}
