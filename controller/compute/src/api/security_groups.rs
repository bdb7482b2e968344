//! `/os-security-groups` and `/os-security-group-rules`: Nova's own view of Neutron's groups, up
//! to 2.35; and the groups of a server, in every microversion.

use super::common::{
    Call, Reply, bad, conflict, name, not_found, object, ok, read, status, tx, uuid, within,
};
use super::networking;
use super::servers::find;
use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use berth_controller_core::body::clip;
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, AppState, params};
use berth_controller_network::security_groups::{self as domain, Group, Rule};
use serde_json::{Value, json};

/// The last microversion that has these.
const LAST: u16 = 35;

/// The routes of this module.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/os-security-groups", get(index).post(create))
        .route(
            "/os-security-groups/{id}",
            get(show).put(update).delete(remove),
        )
        .route("/os-security-group-rules", post(rule_create))
        .route("/os-security-group-rules/{id}", delete(rule_delete))
        .route("/servers/{id}/os-security-groups", get(of_server))
}

/// A rule in Nova's form; `all` names remote groups. Nova knows ingress only.
fn rule_view(rule: &Rule, all: &[Group]) -> Value {
    let group = rule.remote_group_id.as_ref().and_then(|id| {
        let group = all.iter().find(|g| g.id == *id)?;
        Some(json!({"name": group.name, "tenant_id": group.project_id}))
    });
    let cidr = match (&rule.remote_ip_prefix, &rule.remote_group_id) {
        (Some(prefix), _) => json!({ "cidr": prefix }),
        (None, Some(_)) => json!({}),
        (None, None) if rule.ethertype == "IPv6" => json!({"cidr": "::/0"}),
        (None, None) => json!({"cidr": "0.0.0.0/0"}),
    };
    // Nova's -1 is any, where a protocol is named.
    let any = rule.protocol.as_ref().map(|_| -1);
    json!({
        "id": rule.id,
        "parent_group_id": rule.group_id,
        "ip_protocol": rule.protocol,
        "from_port": rule.port_min.or(any),
        "to_port": rule.port_max.or(any),
        "group": group.unwrap_or_else(|| json!({})),
        "ip_range": cidr,
    })
}

fn view(group: &Group, all: &[Group]) -> Value {
    let ingress = group.rules.iter().filter(|r| r.direction == "ingress");
    json!({
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "tenant_id": group.project_id,
        "rules": ingress.map(|r| rule_view(r, all)).collect::<Vec<_>>(),
    })
}

/// Whether the caller may delete a project's default group.
fn may_default(call: &Call) -> bool {
    call.context.may("network:delete_security_group:default")
}

/// All groups of the caller's project, its default one among them.
async fn all(tx: &mut Tx, call: &Call) -> Result<Vec<Group>, ApiError> {
    let project = &call.context.project_id;
    domain::ensure_default(tx, &call.app.env(), project).await?;
    Ok(domain::list(tx, Some(project)).await?)
}

async fn load(tx: &mut Tx, call: &Call, id: &str) -> Result<Group, ApiError> {
    if uuid(id).is_none() {
        return Err(bad(format!("Security group id is not uuid: {}", clip(id))));
    }
    let group = domain::find(tx, id).await?;
    group
        .filter(|g| call.context.may_see(&g.project_id))
        .ok_or_else(|| not_found(format!("Security group {id} not found.")))
}

async fn index(call: Call, params: Params) -> Reply {
    call.only_in(1, LAST)?;
    let every = call.context.reach == Reach::Cloud && params.flag("all_tenants") == Some(true);
    let groups = tx!(call, |tx| [call] {
        if every {
            Ok::<_, ApiError>(domain::list(tx, None).await?)
        } else {
            all(tx, &call).await
        }
    })?;
    let list: Vec<Value> = groups.iter().map(|g| view(g, &groups)).collect();
    ok(json!({ "security_groups": list }))
}

async fn show(call: Call, Path(id): Path<String>) -> Reply {
    call.only_in(1, LAST)?;
    let body = tx!(call, |tx| [call, id] {
        let group = load(tx, &call, &id).await?;
        let all = domain::list(tx, Some(&group.project_id)).await?;
        Ok::<Value, ApiError>(json!({"security_group": view(&group, &all)}))
    })?;
    ok(body)
}

/// Name and description of a body.
fn words(bytes: &Bytes) -> Result<(String, String), ApiError> {
    let body = object(bytes, &["security_group"])?;
    let fields = within(&body, "security_group")?;
    fields.only(&["name", "description"])?;
    let description = fields.text("description", 255)?;
    let description = description.ok_or_else(|| fields.wrong("description", "is missing"))?;
    Ok((name(&fields, "name")?, description))
}

async fn create(call: Call, bytes: Bytes) -> Reply {
    call.only_in(1, LAST)?;
    let (name, description) = words(&bytes)?;
    let body = tx!(call, |tx| [call, name, description] {
        let project = &call.context.project_id;
        let env = call.app.env();
        let group = domain::create(tx, &env, project, &name, &description, false).await?;
        let all = domain::list(tx, Some(project)).await?;
        Ok::<Value, ApiError>(json!({"security_group": view(&group, &all)}))
    })?;
    ok(body)
}

async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    call.only_in(1, LAST)?;
    let (name, description) = words(&bytes)?;
    let body = tx!(call, |tx| [call, id, name, description] {
        let group = load(tx, &call, &id).await?;
        if group.is_default {
            return Err(bad(format!("Unable to update system group '{}'", group.name)));
        }
        if name == "default" {
            return Err(conflict("Default security group already exists."));
        }
        tx.execute(
            "UPDATE security_groups SET name = $1, description = $2, revision = revision + 1, \
             updated_at = $3 WHERE id = $4",
            params![name, description, call.now(), &group.id],
        )
        .await?;
        let group = load(tx, &call, &id).await?;
        let all = domain::list(tx, Some(&group.project_id)).await?;
        Ok::<Value, ApiError>(json!({"security_group": view(&group, &all)}))
    })?;
    ok(body)
}

async fn remove(call: Call, Path(id): Path<String>) -> Reply {
    call.only_in(1, LAST)?;
    tx!(call, |tx| [call, id] {
        let group = load(tx, &call, &id).await?;
        // Nova has 400 where Neutron has 409.
        domain::delete(tx, &group, may_default(&call)).await.map_err(|mut error| {
            if error.status == StatusCode::CONFLICT {
                error.status = StatusCode::BAD_REQUEST;
            }
            error
        })
    })?;
    status(StatusCode::ACCEPTED)
}

async fn rule_create(call: Call, bytes: Bytes) -> Reply {
    call.only_in(1, LAST)?;
    let body = object(&bytes, &["security_group_rule"])?;
    let fields = within(&body, "security_group_rule")?;
    fields.only(&[
        "parent_group_id",
        "ip_protocol",
        "from_port",
        "to_port",
        "cidr",
        "group_id",
    ])?;
    let parent = name(&fields, "parent_group_id")?;
    let remote = fields.text("group_id", 255)?;
    let protocol = fields.text("ip_protocol", 32)?;
    let port = |name: &str| -> Result<Option<i64>, ApiError> {
        Ok(fields.int(name, -1, 65_535)?.filter(|n| *n >= 0))
    };
    let (from, to) = (port("from_port")?, port("to_port")?);
    let cidr = match fields.text("cidr", 64)? {
        Some(cidr) => Some(cidr),
        None if remote.is_none() => Some("0.0.0.0/0".to_owned()),
        None => None,
    };
    let (Some(protocol), true) = (protocol, fields.has("from_port") == fields.has("to_port"))
    else {
        return Err(bad("Not enough parameters to build a valid rule."));
    };
    let ethertype = if cidr.as_deref().is_some_and(|c| c.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    };
    let shown = tx!(call, |tx| [call, parent, remote, protocol, cidr] {
        let group = load(tx, &call, &parent).await?;
        if let Some(remote) = &remote {
            load(tx, &call, remote).await?;
        }
        let rule = Rule {
            id: call.app.env().uuid().to_string(),
            group_id: group.id,
            project_id: group.project_id.clone(),
            description: String::new(),
            direction: "ingress".into(),
            ethertype: ethertype.into(),
            protocol: Some(protocol.to_ascii_lowercase()),
            port_min: from,
            port_max: to,
            remote_group_id: remote,
            remote_ip_prefix: cidr,
            created_at: call.now(),
        };
        domain::insert_rule(tx, &rule).await?;
        let all = domain::list(tx, Some(&group.project_id)).await?;
        Ok::<Value, ApiError>(rule_view(&rule, &all))
    })?;
    ok(json!({ "security_group_rule": shown }))
}

async fn rule_delete(call: Call, Path(id): Path<String>) -> Reply {
    call.only_in(1, LAST)?;
    if uuid(&id).is_none() {
        return Err(bad(format!(
            "Security group rule id is not uuid: {}",
            clip(&id)
        )));
    }
    tx!(call, |tx| [call, id] {
        let row: Option<(String,)> = tx
            .query_opt("SELECT project_id FROM security_group_rules WHERE id = $1", params![&id])
            .await?;
        if !row.is_some_and(|(project,)| call.context.may_see(&project)) {
            return Err(not_found(format!("Security group rule {id} not found.")));
        }
        domain::delete_rule(tx, &id).await?;
        Ok::<_, ApiError>(())
    })?;
    status(StatusCode::ACCEPTED)
}

async fn of_server(call: Call, Path(id): Path<String>) -> Reply {
    let list = read!(call, |tx| [call, id] {
        let instance = find(tx, &call, &id).await?;
        let groups = networking::groups_of(tx, instance.id).await?;
        let all = domain::list(tx, Some(&instance.project_id)).await?;
        Ok::<Vec<Value>, ApiError>(groups.iter().map(|g| view(g, &all)).collect())
    })?;
    ok(json!({ "security_groups": list }))
}
