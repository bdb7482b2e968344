//! `/os-server-groups`, in the form of 2.1 to 2.63: a list of one policy.

use super::common::{
    Call, Reply, bad, forbidden, name, not_found, object, ok, status, tx, uuid, within,
};
use super::microversion::Microversion;
use super::render::{Field, render};
use crate::groups::{self, Group, POLICIES};
use crate::{listing, quotas};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::ApiError;
use berth_controller_core::body::clip;
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use serde_json::{Value, json};

type F = Field<Group>;

const FIELDS: &[F] = &[
    F::always("id", |g, _| Some(json!(g.id))),
    F::always("name", |g, _| Some(json!(g.name))),
    F::always("policies", |g, _| Some(json!([g.policy]))),
    F::always("members", |g, _| Some(json!(g.members))),
    F::always("metadata", |_, _| Some(json!({}))),
    F::always("project_id", |g, _| Some(json!(g.project_id))).since(13),
    F::always("user_id", |g, _| Some(json!(g.user_id))).since(13),
];

fn shown(call: &Call, group: &Group) -> Value {
    render(FIELDS, group, call.version, false)
}

async fn find(tx: &mut Tx, call: &Call, id: &str) -> Result<Group, ApiError> {
    let missing = || not_found(format!("Instance group {} could not be found.", clip(id)));
    uuid(id).ok_or_else(missing)?;
    let group = groups::get(tx, id).await?;
    group
        .filter(|g| call.context.may_see(&g.project_id))
        .ok_or_else(missing)
}

/// `GET /os-server-groups`
pub async fn index(call: Call, params: Params) -> Reply {
    let every = "os_compute_api:os-server-groups:index:all_projects";
    let all = params.get("all_projects").is_some() && call.context.may(every);
    let project = (!all).then(|| call.context.project_id.clone());
    let groups = tx!(call, |tx| [project] { groups::list(tx, project.as_deref()).await })?;
    let limit = params.limit(berth_controller_core::Service::Compute, listing::MAX_LIMIT)?;
    let offset = params.get("offset").map_or(Ok(0), |text| {
        text.parse::<usize>()
            .map_err(|_| bad("offset is to be a whole number, 0 or more."))
    })?;
    let page: Vec<Value> = groups
        .iter()
        .skip(offset)
        .take(limit.unwrap_or(listing::MAX_LIMIT))
        .map(|g| shown(&call, g))
        .collect();
    ok(json!({ "server_groups": page }))
}

/// `GET /os-server-groups/{id}`
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    let group = tx!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    ok(json!({"server_group": shown(&call, &group)}))
}

/// Policies that a microversion knows.
fn policies(version: Microversion) -> &'static [&'static str] {
    // The soft ones came with 2.15.
    if version.0 >= 15 {
        POLICIES
    } else {
        POLICIES.get(..2).unwrap_or(POLICIES)
    }
}

/// `POST /os-server-groups`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["server_group"])?;
    let fields = within(&body, "server_group")?;
    fields.only(&["name", "policies"])?;
    let name = name(&fields, "name")?;
    let list = fields.texts("policies")?.unwrap_or_default();
    let known = policies(call.version);
    let policy = match list.as_slice() {
        [policy] if known.contains(&policy.as_str()) => policy.clone(),
        _ => {
            let words = format!("is to be a list of one of {}", known.join(", "));
            return Err(fields.wrong("policies", &words));
        }
    };
    let group = Group {
        id: call.app.env().uuid().to_string(),
        project_id: call.context.project_id.clone(),
        user_id: call.context.user_id.clone(),
        name,
        policy,
        members: Vec::new(),
    };
    let now = call.now();
    tx!(call, |tx| [group] {
        let limits = quotas::limits(tx, &group.project_id).await?;
        let most = quotas::limit_of(&limits, "server_groups");
        let have = groups::list(tx, Some(&group.project_id)).await?.len();
        if most >= 0 && i64::try_from(have).unwrap_or(i64::MAX) >= most {
            return Err(forbidden(format!(
                "Quota exceeded, too many server groups: {have} of {most} are used."
            )));
        }
        groups::insert(tx, now, &group).await?;
        Ok::<_, ApiError>(())
    })?;
    ok(json!({"server_group": shown(&call, &group)}))
}

/// `DELETE /os-server-groups/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] {
        let group = find(tx, &call, &id).await?;
        groups::delete(tx, &group.id).await?;
        Ok::<_, ApiError>(())
    })?;
    status(StatusCode::NO_CONTENT)
}
