//! Groups, and who is in them.

use super::resource::{Extra, InDomain, Resource, description, extra, with_extra};
use super::users::{self, USER};
use super::{Reply, bad, beyond, no_content, not_found, oneself_or_more, self_link};
use crate::assignments;
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::query::Params;
use berth_controller_core::store::Json;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, AppState, Call, Service, params, read, row, tx};
use serde_json::{Value, json};

row! {
    pub(super) struct Group {
        id: String,
        domain_id: String,
        name: String,
        description: String,
        extra: Option<Json<Extra>>,
    }
}

/// With a group go its roles, and who is in it.
pub(super) static GROUP: Resource<Group> = Resource {
    one: "group",
    all: "groups",
    domain: Some(InDomain {
        column: "domain_id",
        of: |group| &group.domain_id,
    }),
    unique: " in that domain",
    view,
    may_go: |_| Ok(()),
    goes_with_it: &[
        "DELETE FROM group_members WHERE group_id = $1",
        "DELETE FROM wider_assignments WHERE actor_kind = 'group' AND actor_id = $1",
    ],
};

fn view(app: &AppState, group: &Group) -> Value {
    let view = json!({
        "links": self_link(app, "groups", &group.id),
        "id": group.id,
        "name": group.name,
        "domain_id": group.domain_id,
        "description": group.description,
    });
    with_extra(view, group.extra.as_ref())
}

/// `GET /v3/groups`
pub async fn list(call: Call, query: Params) -> Reply {
    GROUP.list(&call, &query, &["name", "domain_id"]).await
}

/// `POST /v3/groups`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "group")?;
    let more = extra(&fields, &["name", "description", "domain_id"])?;
    let domain = fields.text("domain_id", 64)?;
    let columns = vec![
        ("id", crate::new_id(&*call.app.rng).into()),
        ("domain_id", super::domain_or_own(&call, domain).into()),
        ("name", fields.name("name")?.into()),
        (
            "description",
            description(&fields)?.unwrap_or_default().into(),
        ),
        ("created_at", call.now().into()),
        more,
    ];
    GROUP.create(&call, columns).await
}

/// `GET /v3/groups/{id}`
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    GROUP.show(&call, &id).await
}

/// `PATCH /v3/groups/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::within(Service::Identity, &body, "group")?;
    let known = ["name", "description", "domain_id", "id"];
    let columns = vec![
        ("name", fields.opt_name("name")?.into()),
        ("description", description(&fields)?.into()),
        extra(&fields, &known)?,
    ];
    let domain = fields.text("domain_id", 64)?;
    let before = read!(call, |tx| [call, id] {
        GROUP.within(tx, &call.context.reach, &id).await
    })?;
    if domain.is_some_and(|domain| domain != before.domain_id) {
        return Err(bad("group.domain_id cannot be changed."));
    }
    GROUP.update(&call, &id, columns, |_, _| Ok(())).await
}

/// `DELETE /v3/groups/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] { within(tx, &call, &id).await })?;
    GROUP.delete(&call, &id).await
}

/// A group whose members the caller may change. One with rights beyond the domain is beyond it: who puts
/// somebody in gives these rights.
async fn within(tx: &mut Tx, call: &Call, id: &str) -> Result<Group, ApiError> {
    let group = GROUP.within(tx, &call.context.reach, id).await?;
    if call.context.reach.domain().is_some() && assignments::is_beyond_a_domain(tx, id).await? {
        return Err(beyond());
    }
    Ok(group)
}

/// `GET /v3/groups/{group}/users`
pub async fn users(call: Call, Path(id): Path<String>) -> Reply {
    let rows = read!(call, |tx| [call, id] {
        GROUP.within(tx, &call.context.reach, &id).await?;
        let sql = USER.select(
            "JOIN group_members m ON m.user_id = t.id WHERE m.group_id = $1 ORDER BY t.name, t.id",
        );
        Ok::<_, ApiError>(tx.query(&sql, params![id]).await?)
    })?;
    USER.collection(&call.app, &format!("groups/{id}/users"), &rows)
}

/// `GET /v3/users/{id}/groups`: oneself, or as administrator.
pub async fn of_user(call: Call, Path(id): Path<String>) -> Reply {
    oneself_or_more(&call.context, &id)?;
    let rows = read!(call, |tx| [call, id] {
        USER.within(tx, &call.context.reach, &id).await?;
        let sql = GROUP.select(
            "JOIN group_members m ON m.group_id = t.id WHERE m.user_id = $1 ORDER BY t.name, t.id",
        );
        Ok::<_, ApiError>(tx.query(&sql, params![id]).await?)
    })?;
    GROUP.collection(&call.app, &format!("users/{id}/groups"), &rows)
}

/// `GET /v3/groups/{group}/users/{user}`
pub async fn check(call: Call, Path((group, user)): Path<(String, String)>) -> Reply {
    oneself_or_more(&call.context, &user)?;
    let found: Option<(String,)> = read!(call, |tx| [call, group, user] {
        GROUP.within(tx, &call.context.reach, &group).await?;
        let sql = "SELECT user_id FROM group_members WHERE group_id = $1 AND user_id = $2";
        Ok::<_, ApiError>(tx.query_opt(sql, params![group, user]).await?)
    })?;
    found
        .map(|_| no_content())
        .ok_or_else(|| is_no_member(&user))
}

fn is_no_member(user: &str) -> ApiError {
    not_found("user in that group", user)
}

/// `PUT /v3/groups/{group}/users/{user}`
pub async fn add(call: Call, Path((group, user)): Path<(String, String)>) -> Reply {
    tx!(call, |tx| [call, group, user] {
        within(tx, &call, &group).await?;
        users::within(tx, &call, &user).await?;
        let sql = "INSERT INTO group_members (group_id, user_id) VALUES ($1, $2) \
                   ON CONFLICT DO NOTHING";
        Ok::<_, ApiError>(tx.execute(sql, params![group, user]).await?)
    })?;
    Ok(no_content())
}

/// `DELETE /v3/groups/{group}/users/{user}`
pub async fn remove(call: Call, Path((group, user)): Path<(String, String)>) -> Reply {
    let gone = tx!(call, |tx| [call, group, user] {
        within(tx, &call, &group).await?;
        let sql = "DELETE FROM group_members WHERE group_id = $1 AND user_id = $2";
        Ok::<_, ApiError>(tx.execute(sql, params![group, user]).await?)
    })?;
    match gone {
        0 => Err(is_no_member(&user)),
        _ => Ok(no_content()),
    }
}
