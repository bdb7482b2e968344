//! `/os-server-groups`: up to 2.63 with a list of one policy, since 2.64 with one, and its rules.

use super::common::{
    Call, Reply, bad, forbidden, name, not_found, object, ok, read, status, tx, unsupported, uuid,
    within,
};
use super::microversion::Microversion;
use super::render::{Field, render};
use crate::groups::{self, Group, POLICIES};
use crate::{listing, quotas};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::ApiError;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use serde_json::{Value, json};

type F = Field<Group>;

const FIELDS: &[F] = &[
    F::always("id", |g, _| Some(json!(g.id))),
    F::always("name", |g, _| Some(json!(g.name))),
    F::always("policies", |g, _| Some(json!([g.policy]))).until(63),
    F::always("policy", |g, _| Some(json!(g.policy))).since(64),
    F::always("rules", |g, _| Some(rules(g))).since(64),
    F::always("members", |g, _| Some(json!(g.members))),
    F::always("metadata", |_, _| Some(json!({}))).until(63),
    F::always("project_id", |g, _| Some(json!(g.project_id))).since(13),
    F::always("user_id", |g, _| Some(json!(g.user_id))).since(13),
];

/// Anti-affinity is one server a host; the others have no rule.
fn rules(group: &Group) -> Value {
    match group.policy.as_str() {
        "anti-affinity" => json!({"max_server_per_host": 1}),
        _ => json!({}),
    }
}

/// The policy that a body names.
fn policy(call: &Call, fields: &Fields<'_>) -> Result<String, ApiError> {
    let known = policies(call.version);
    if !call.since(64) {
        fields.only(&["name", "policies"])?;
        let list = fields.texts("policies")?.unwrap_or_default();
        return match list.as_slice() {
            [policy] if known.contains(&policy.as_str()) => Ok(policy.clone()),
            _ => {
                let words = format!("is to be a list of one of {}", known.join(", "));
                Err(fields.wrong("policies", &words))
            }
        };
    }
    fields.only(&["name", "policy", "rules"])?;
    let policy = fields.text("policy", 64)?.unwrap_or_default();
    if !known.contains(&policy.as_str()) {
        let words = format!("is to be one of {}", known.join(", "));
        return Err(fields.wrong("policy", &words));
    }
    if let Some(rules) = fields.object("rules")? {
        rules.only(&["max_server_per_host"])?;
        let most = rules.int("max_server_per_host", 1, i64::from(u32::MAX))?;
        if most.is_some() && policy != "anti-affinity" {
            return Err(rules.wrong("max_server_per_host", "is a rule of anti-affinity"));
        }
        if most.is_some_and(|most| most > 1) {
            return Err(unsupported(
                "server_group.rules.max_server_per_host above 1",
            ));
        }
    }
    Ok(policy)
}

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
    let groups = read!(call, |tx| [project] { groups::list(tx, project.as_deref()).await })?;
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
    let group = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
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
    let policy = policy(&call, &fields)?;
    let name = name(&fields, "name")?;
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
