//! What hangs below a server: addresses, metadata, tags, interfaces, security groups, actions.

use super::common::{
    Call, Reply, answer, bad, forbidden, metadata, not_found, object, ok, read, status, tag, tags,
    tx, unsupported, uuid, within,
};
use super::microversion::Microversion;
use super::render::{Field, render};
use super::servers::{check_lock, find, save};
use super::{networking, server_view};
use crate::actions::{self, ActionRow, Event};
use crate::instances::{self, Instance};
use crate::{listing, quotas};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use berth_controller_core::body::clip;
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::store::{Tx, Value as Column};
use berth_controller_core::{ApiError, time};
use berth_rpc_types::HostId;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// `GET /servers/{id}/ips`
pub async fn ips(call: Call, Path(id): Path<String>) -> Reply {
    let all = addresses(&call, id).await?;
    ok(json!({ "addresses": all }))
}

/// `GET /servers/{id}/ips/{network}`
pub async fn ips_of(call: Call, Path((id, network)): Path<(String, String)>) -> Reply {
    let all = addresses(&call, id).await?;
    match all.get(&network) {
        Some(list) => ok(json!({ network: list })),
        None => Err(not_found(format!(
            "Instance is not a member of network {}.",
            clip(&network)
        ))),
    }
}

async fn addresses(call: &Call, id: String) -> Result<Value, ApiError> {
    read!(call, |tx| [call, id] {
        let instance = find(tx, &call, &id).await?;
        let mut all = networking::addresses(tx, &[instance.id]).await?;
        let all = all.remove(&instance.id).unwrap_or_default();
        Ok::<Value, ApiError>(server_view::addresses(&all, false))
    })
}

/// `GET /servers/{id}/metadata`
pub async fn metadata_index(call: Call, Path(id): Path<String>) -> Reply {
    let instance = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    ok(json!({"metadata": instance.body.metadata}))
}

/// How a request changes metadata.
#[derive(Clone)]
enum Change {
    Replace(BTreeMap<String, String>),
    Merge(BTreeMap<String, String>),
    Remove(String),
}

async fn change(
    call: &Call,
    id: String,
    change: Change,
) -> Result<BTreeMap<String, String>, ApiError> {
    tx!(call, |tx| [call, id, change] {
        let mut instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        let map = &mut instance.body.metadata;
        match change {
            Change::Replace(new) => *map = new,
            Change::Merge(new) => map.extend(new),
            Change::Remove(key) => {
                if map.remove(&key).is_none() {
                    return Err(not_found("Metadata item was not found"));
                }
            }
        }
        let items = i64::try_from(map.len()).unwrap_or(i64::MAX);
        let limits = quotas::limits(tx, &instance.project_id).await?;
        let most = quotas::limit_of(&limits, "metadata_items");
        if most >= 0 && items > most {
            return Err(forbidden(format!(
                "Maximum number of metadata items exceeds {most}"
            )));
        }
        save(tx, &call, &instance).await?;
        Ok::<_, ApiError>(instance.body.metadata)
    })
}

fn metadata_of(bytes: &Bytes) -> Result<BTreeMap<String, String>, ApiError> {
    let body = object(bytes, &["metadata"])?;
    metadata(&within(&body, "metadata")?)
}

/// `PUT /servers/{id}/metadata`
pub async fn metadata_replace(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let map = change(&call, id, Change::Replace(metadata_of(&bytes)?)).await?;
    ok(json!({ "metadata": map }))
}

/// `POST /servers/{id}/metadata`
pub async fn metadata_merge(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let map = change(&call, id, Change::Merge(metadata_of(&bytes)?)).await?;
    ok(json!({ "metadata": map }))
}

/// `GET /servers/{id}/metadata/{key}`
pub async fn metadata_show(call: Call, Path((id, key)): Path<(String, String)>) -> Reply {
    let instance = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    match instance.body.metadata.get(&key) {
        Some(value) => ok(json!({"meta": {key: value}})),
        None => Err(not_found("Metadata item was not found")),
    }
}

/// `PUT /servers/{id}/metadata/{key}`
pub async fn metadata_set(
    call: Call,
    Path((id, key)): Path<(String, String)>,
    bytes: Bytes,
) -> Reply {
    let body = object(&bytes, &["meta"])?;
    let map = metadata(&within(&body, "meta")?)?;
    if map.len() != 1 {
        return Err(bad("Request body contains too many items"));
    }
    if !map.contains_key(&key) {
        return Err(bad("Request body and URI mismatch"));
    }
    change(&call, id, Change::Merge(map.clone())).await?;
    ok(json!({ "meta": map }))
}

/// `DELETE /servers/{id}/metadata/{key}`
pub async fn metadata_delete(call: Call, Path((id, key)): Path<(String, String)>) -> Reply {
    change(&call, id, Change::Remove(key)).await?;
    status(StatusCode::NO_CONTENT)
}

/// `GET /servers/{id}/tags`
pub async fn tags_index(call: Call, Path(id): Path<String>) -> Reply {
    call.only_in(26, u16::MAX)?;
    let instance = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    ok(json!({"tags": instance.body.tags}))
}

/// `PUT /servers/{id}/tags`
pub async fn tags_replace(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    call.only_in(26, u16::MAX)?;
    let body = object(&bytes, &["tags"])?;
    let fields = berth_controller_core::body::Fields::of(
        berth_controller_core::Service::Compute,
        &body,
        "body",
    )?;
    let new = tags(&fields, "tags")?.ok_or_else(|| fields.wrong("tags", "is missing"))?;
    let shown = new.clone();
    tx!(call, |tx| [call, id, new] {
        let mut instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        instance.body.tags = new;
        save(tx, &call, &instance).await
    })?;
    ok(json!({ "tags": shown }))
}

/// `DELETE /servers/{id}/tags`
pub async fn tags_clear(call: Call, Path(id): Path<String>) -> Reply {
    call.only_in(26, u16::MAX)?;
    tx!(call, |tx| [call, id] {
        let mut instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        instance.body.tags.clear();
        save(tx, &call, &instance).await
    })?;
    status(StatusCode::NO_CONTENT)
}

/// `GET /servers/{id}/tags/{tag}`
pub async fn tag_show(call: Call, Path((id, name)): Path<(String, String)>) -> Reply {
    call.only_in(26, u16::MAX)?;
    let instance = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    if instance.body.tags.contains(&name) {
        return status(StatusCode::NO_CONTENT);
    }
    Err(no_tag(&instance.id.to_string(), &name))
}

fn no_tag(id: &str, name: &str) -> ApiError {
    not_found(format!("Server {id} has no tag '{}'", clip(name)))
}

/// `PUT /servers/{id}/tags/{tag}`: 201 if it is new, 204 if it was there.
pub async fn tag_add(call: Call, Path((id, name)): Path<(String, String)>) -> Reply {
    call.only_in(26, u16::MAX)?;
    let name = tag(&name)?;
    let added = tx!(call, |tx| [call, id, name] {
        let mut instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        if !instance.body.tags.insert(name) {
            return Ok(false);
        }
        if instance.body.tags.len() > super::common::MAX_TAGS {
            return Err(bad(format!(
                "The number of tags exceeded the per-server limit {}",
                super::common::MAX_TAGS
            )));
        }
        save(tx, &call, &instance).await?;
        Ok::<bool, ApiError>(true)
    })?;
    if !added {
        return status(StatusCode::NO_CONTENT);
    }
    let mut response = answer(StatusCode::CREATED, Value::Null);
    *response.body_mut() = axum::body::Body::empty();
    response.headers_mut().remove(header::CONTENT_TYPE);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    if let Ok(location) = call.href(&format!("servers/{id}/tags/{name}")).parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `DELETE /servers/{id}/tags/{tag}`
pub async fn tag_remove(call: Call, Path((id, name)): Path<(String, String)>) -> Reply {
    call.only_in(26, u16::MAX)?;
    tx!(call, |tx| [call, id, name] {
        let mut instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        if !instance.body.tags.remove(&name) {
            return Err(no_tag(&id, &name));
        }
        save(tx, &call, &instance).await
    })?;
    status(StatusCode::NO_CONTENT)
}

/// Since 2.70 with a tag, which no interface has.
fn tagged(call: &Call, mut interface: Value) -> Value {
    if call.since(70) {
        interface["tag"] = Value::Null;
    }
    interface
}

/// `GET /servers/{id}/os-interface`
pub async fn interfaces(call: Call, Path(id): Path<String>) -> Reply {
    let list = read!(call, |tx| [call, id] {
        let instance = find(tx, &call, &id).await?;
        Ok::<_, ApiError>(networking::interfaces(tx, instance.id).await?)
    })?;
    let list: Vec<Value> = list.into_iter().map(|one| tagged(&call, one)).collect();
    ok(json!({ "interfaceAttachments": list }))
}

/// `GET /servers/{id}/os-interface/{port}`
pub async fn interface(call: Call, Path((id, port)): Path<(String, String)>) -> Reply {
    let list = read!(call, |tx| [call, id] {
        let instance = find(tx, &call, &id).await?;
        Ok::<_, ApiError>(networking::interfaces(tx, instance.id).await?)
    })?;
    match list.into_iter().find(|i| i["port_id"] == json!(port)) {
        Some(one) => ok(json!({ "interfaceAttachment": tagged(&call, one) })),
        None => Err(not_found(format!(
            "No such port {} on instance {id}.",
            clip(&port)
        ))),
    }
}

/// `GET /servers/{id}/os-volume_attachments`: no server has one yet.
pub async fn volumes(call: Call, Path(id): Path<String>) -> Reply {
    read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    ok(json!({"volumeAttachments": []}))
}

struct ActionView {
    row: ActionRow,
    admin: bool,
    /// Ids of the hosts that the events name.
    hosts: HashMap<String, HostId>,
}

type F = Field<ActionView>;

const ACTION: &[F] = &[
    F::always("action", |a, _| Some(json!(a.row.action))),
    F::always("instance_uuid", |a, _| Some(json!(a.row.instance_id))),
    F::always("request_id", |a, _| Some(json!(a.row.request_id))),
    F::always("user_id", |a, _| Some(json!(a.row.user_id))),
    F::always("project_id", |a, _| Some(json!(a.row.project_id))),
    F::always("start_time", |a, _| {
        Some(json!(action_time(a.row.started_at)))
    }),
    F::always("message", |a, _| Some(json!(a.row.message))),
    F::always("updated_at", |a, _| {
        Some(json!(action_time(a.row.updated_at)))
    })
    .since(58),
];

/// Shown to administrators always, to others since 2.51.
fn events(view: &ActionView, version: Microversion) -> Option<Value> {
    if !view.admin && version.0 < 51 {
        return None;
    }
    let all = view.row.events.iter();
    Some(all.map(|e| event(view, e, version)).collect())
}

fn event(view: &ActionView, event: &Event, version: Microversion) -> Value {
    let mut value = json!({
        "event": event.event,
        "start_time": action_time(event.start_time),
        "finish_time": event.finish_time.map(action_time),
        "result": event.result,
    });
    // Nova's traceback is for administrators: here, what the agent said went wrong.
    if view.admin {
        value["traceback"] = json!(event.details);
    }
    if version.0 >= 62 {
        let host = event.host.as_deref();
        let id = host.and_then(|host| view.hosts.get(host));
        let id = id.map(|id| server_view::hidden(&view.row.project_id, *id));
        value["hostId"] = json!(id.unwrap_or_default());
        if view.admin {
            value["host"] = json!(host);
        }
    }
    if version.0 >= 84 {
        let details = event.details.as_deref().filter(|_| view.admin);
        value["details"] = json!(details);
    }
    value
}

fn action_time(millis: i64) -> String {
    time::micros(millis).trim_end_matches('Z').to_owned()
}

/// A server whose actions are shown: since 2.21 one that was deleted, too.
async fn acted_on(tx: &mut Tx, call: &Call, id: &str) -> Result<Instance, ApiError> {
    if let (true, Some(uuid)) = (call.since(21), uuid(id)) {
        let which = Condition::new("id = ?", [uuid.into()]);
        let found = instances::which(tx, &which).await?.into_iter().next();
        if let Some(found) = found.filter(|i| call.context.may_see(&i.project_id)) {
            return Ok(found);
        }
    }
    find(tx, call, id).await
}

/// `GET /servers/{id}/os-instance-actions`
pub async fn actions_index(call: Call, Path(id): Path<String>, params: Params) -> Reply {
    let rows = read!(call, |tx| [call, id] {
        let instance = acted_on(tx, &call, &id).await?;
        Ok::<_, ApiError>(actions::list(tx, instance.id).await?)
    })?;
    let mut body = json!({});
    let (rows, next) = if call.since(58) {
        let since = params.get("changes-since").map(|text| {
            time::parse(text)
                .ok_or_else(|| bad(format!("changes-since is no time: {}", clip(text))))
        });
        let since = since.transpose()?;
        let before = params.get("changes-before").filter(|_| call.since(66));
        let before = before.map(|text| {
            time::parse(text)
                .ok_or_else(|| bad(format!("changes-before is no time: {}", clip(text))))
        });
        let before = before.transpose()?;
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|r| since.is_none_or(|s| r.updated_at >= s))
            .filter(|r| before.is_none_or(|b| r.updated_at <= b))
            .collect();
        let limit = params.limit(berth_controller_core::Service::Compute, listing::MAX_LIMIT)?;
        let limit = limit.unwrap_or(listing::MAX_LIMIT);
        let page = listing::page(rows, params.get("marker"), limit, |r| r.request_id.clone());
        page.ok_or_else(|| bad("marker not found"))?
    } else {
        (rows, None)
    };
    let shown: Vec<Value> = rows
        .into_iter()
        .map(|row| {
            let view = ActionView {
                admin: call
                    .context
                    .may("os_compute_api:os-instance-actions:events:details"),
                row,
                hosts: HashMap::new(),
            };
            render(ACTION, &view, call.version, view.admin)
        })
        .collect();
    body["instanceActions"] = json!(shown);
    if let Some(next) = next {
        let path = format!("servers/{id}/os-instance-actions");
        body["links"] = super::servers::next_link(&call, &path, &params, &next);
    }
    ok(body)
}

/// `GET /servers/{id}/os-instance-actions/{request}`
pub async fn action_show(call: Call, Path((id, request)): Path<(String, String)>) -> Reply {
    let (row, hosts) = read!(call, |tx| [call, id, request] {
        let instance = acted_on(tx, &call, &id).await?;
        let row = actions::get(tx, instance.id, &request).await?;
        let named: BTreeSet<String> =
            row.iter().flat_map(|row| &row.events).filter_map(|e| e.host.clone()).collect();
        let among = Condition::among("hostname", named.iter().map(Column::from));
        let (sql, values) = among.statement("SELECT hostname, id FROM hosts", "");
        let hosts: Vec<(String, HostId)> = tx.query(&sql, &values).await?;
        Ok::<_, ApiError>((row, hosts.into_iter().collect::<HashMap<_, _>>()))
    })?;
    let Some(row) = row else {
        return Err(not_found(format!(
            "Action for request {} on instance {id} not found",
            clip(&request)
        )));
    };
    let view = ActionView {
        admin: call
            .context
            .may("os_compute_api:os-instance-actions:events:details"),
        row,
        hosts,
    };
    let mut value = render(ACTION, &view, call.version, view.admin);
    if let Some(events) = events(&view, call.version) {
        value["events"] = events;
    }
    ok(json!({ "instanceAction": value }))
}

/// What cannot be done to a server yet, and says so by its name, for a server that is there.
async fn not_yet(call: &Call, id: &str, what: &str) -> Reply {
    let id = id.to_owned();
    read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    Err(unsupported(what))
}

/// `POST /servers/{id}/os-interface`
pub async fn no_interface(call: Call, Path(id): Path<String>) -> Reply {
    not_yet(&call, &id, "Attaching a port or network to a server").await
}

/// `DELETE /servers/{id}/os-interface/{port}`
pub async fn keeps_interface(call: Call, Path((id, _)): Path<(String, String)>) -> Reply {
    not_yet(&call, &id, "Detaching a port from a server").await
}

/// `POST /servers/{id}/os-volume_attachments`
pub async fn no_volume(call: Call, Path(id): Path<String>) -> Reply {
    not_yet(&call, &id, "Attaching a volume to a server").await
}
