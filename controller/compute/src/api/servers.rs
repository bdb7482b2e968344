//! `/servers`: list, show, update, delete. Creation is in `create`, actions in `server_actions`.

use super::common::{
    Call, Reply, bad, conflict, description, error, forbidden, not_found, object, ok, opt_name,
    read, status, tx, uuid, within,
};
use super::server_view;
use crate::instances::{self, Instance};
use crate::listing::{self, Filter, Pattern, TABLE};
use crate::workflow::{self, Begin, Kind};
use crate::{actions, states};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::listing::{Direction, Style, again};
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, Service, params, time};
use berth_rpc::kill_point;
use berth_rpc_types::{InstanceId, TaskState};
use serde_json::{Value, json};

/// How Nova speaks of lists: what is sorted by comes in falling order.
const STYLE: Style = Style {
    service: Service::Compute,
    direction: Direction::Descending,
    default_limit: None,
    max_limit: listing::MAX_LIMIT,
};

/// A server that the caller may see.
///
/// # Errors
/// 404 in Nova's words, for another project's too.
pub async fn find(tx: &mut Tx, call: &Call, id: &str) -> Result<Instance, ApiError> {
    let missing = || not_found(format!("Instance {} could not be found.", clip(id)));
    let uuid = uuid(id).ok_or_else(missing)?;
    let found = instances::load(tx, InstanceId(uuid)).await?;
    found
        .filter(|i| call.context.may_see(&i.project_id))
        .ok_or_else(missing)
}

/// A locked server is left alone by all but administrators.
///
/// # Errors
/// 409
pub fn check_lock(call: &Call, instance: &Instance) -> Result<(), ApiError> {
    let overrides = "os_compute_api:os-lock-server:unlock:unlock_override";
    if instance.locked && !call.context.may(overrides) {
        return Err(conflict(format!("Instance {} is locked", instance.id)));
    }
    Ok(())
}

/// Writes a change back, or tells that another request was faster.
///
/// # Errors
/// 409
pub async fn save(tx: &mut Tx, call: &Call, instance: &Instance) -> Result<(), ApiError> {
    if instances::save(tx, call.now(), instance).await? {
        return Ok(());
    }
    Err(conflict(format!(
        "Instance {} was changed by another request at the same time; try again.",
        instance.id
    )))
}

/// `GET /servers`
pub async fn index(call: Call, params: Params) -> Reply {
    list(call, params, false).await
}

/// `GET /servers/detail`
pub async fn detail(call: Call, params: Params) -> Reply {
    list(call, params, true).await
}

async fn list(call: Call, params: Params, detail: bool) -> Reply {
    let query = Query::parse(&call, &params)?;
    let servers = read!(call, |tx| [call, query] {
        let mut filter = query.filter;
        if let Some(host) = &query.host {
            let rows: Vec<(String,)> = tx
                .query("SELECT id FROM hosts WHERE hostname = $1", params![host])
                .await?;
            filter.host_ids = Some(rows.into_iter().map(|(id,)| id).collect());
        }
        let marker = query.marker.as_deref();
        let page = listing::list(tx, &filter, &query.sort, marker, query.limit).await?;
        let next = page.last().filter(|_| page.len() == query.limit).map(|i| i.id.to_string());
        let mut body = json!({});
        body["servers"] = if detail {
            let views = server_view::gather(tx, &call, page).await?;
            views.iter().map(|v| server_view::detail(v, &call)).collect()
        } else {
            page.iter().map(|i| server_view::basic(i, &call)).collect()
        };
        if let Some(next) = next.filter(|_| query.limit > 0) {
            let path = if detail { "servers/detail" } else { "servers" };
            body["servers_links"] = next_link(&call, path, &query.params, &next);
        }
        Ok::<Value, ApiError>(body)
    })?;
    ok(servers)
}

/// The link to the next page: the same query, with another marker.
pub fn next_link(call: &Call, path: &str, params: &Params, marker: &str) -> Value {
    let query = again(params, &[("marker", Some(marker))]);
    json!([{"rel": "next", "href": call.href(&format!("{path}?{query}"))}])
}

/// What a query may say since 2.75; before, what is not understood is ignored.
const QUERY: &[&str] = &[
    "access_ip_v4",
    "access_ip_v6",
    "all_projects",
    "all_tenants",
    "auto_disk_config",
    "availability_zone",
    "changes-before",
    "changes-since",
    "config_drive",
    "created_at",
    "deleted",
    "description",
    "display_description",
    "display_name",
    "flavor",
    "host",
    "hostname",
    "image",
    "image_ref",
    "ip",
    "ip6",
    "kernel_id",
    "key_name",
    "launch_index",
    "launched_at",
    "limit",
    "locked",
    "locked_by",
    "marker",
    "name",
    "node",
    "not-tags",
    "not-tags-any",
    "power_state",
    "progress",
    "project_id",
    "ramdisk_id",
    "reservation_id",
    "root_device_name",
    "sort_dir",
    "sort_key",
    "status",
    "tags",
    "tags-any",
    "task_state",
    "tenant_id",
    "terminated_at",
    "user_id",
    "uuid",
    "vm_state",
];

/// A list's query, checked.
#[derive(Clone, Debug)]
struct Query {
    filter: Filter,
    host: Option<String>,
    sort: Vec<(String, Direction)>,
    marker: Option<String>,
    limit: usize,
    params: Params,
}

impl Query {
    fn parse(call: &Call, params: &Params) -> Result<Self, ApiError> {
        let unknown = |(name, _): &&(String, String)| !QUERY.contains(&name.as_str());
        if call.since(75)
            && let Some((name, _)) = params.0.iter().find(unknown)
        {
            return Err(bad(format!(
                "Invalid input for query parameters {}. Additional properties are not allowed.",
                clip(name)
            )));
        }
        let admin = call.context.may("os_compute_api:servers:allow_all_filters");
        let pattern = |name: &str| {
            let text = params.get(name);
            text.map(|t| Pattern::parse(t).map_err(|why| bad(format!("{name} {why}."))))
                .transpose()
        };
        let owned = |name: &str| params.get(name).map(str::to_owned);
        let all_tenants = match params.get("all_tenants").or(params.get("all_projects")) {
            None => false,
            Some("" | "1" | "true" | "True" | "TRUE" | "on" | "yes") => true,
            Some("0" | "false" | "False" | "FALSE" | "off" | "no") => false,
            Some(_) => return Err(bad("all_tenants is to be a boolean.")),
        };
        if all_tenants {
            let every = "os_compute_api:servers:index:get_all_tenants";
            call.context.require(every)?;
        }
        let mut filter = Filter {
            project: Some(call.context.project_id.clone()),
            deleted: Some(false),
            name: pattern("name")?.or(pattern("display_name")?),
            image: owned("image").or(owned("image_ref")),
            flavor: owned("flavor"),
            id: owned("uuid"),
            key_name: pattern("key_name")?,
            zone: pattern("availability_zone")?,
            description: pattern("description")?,
            ip: pattern("ip")?,
            ip6: pattern("ip6")?,
            ..Filter::default()
        };
        if all_tenants {
            filter.project = None;
        }
        if let Some(before) = params.get("changes-before").filter(|_| call.since(66)) {
            let before = time::parse(before).ok_or_else(|| {
                bad(format!(
                    "Invalid input for query parameters changes-before. Value: {}. It is to be a date and time as in ISO 8601.",
                    clip(before)
                ))
            })?;
            filter.changes_before = Some(before);
            if params.get("deleted").is_none() {
                filter.deleted = None;
            }
        }
        if call.since(73) {
            filter.locked = params.flag("locked");
        }
        if call.since(83) {
            filter.user = owned("user_id");
            filter.vm_state = owned("vm_state");
        }
        if admin {
            if let Some(project) = params.get("project_id").or(params.get("tenant_id"))
                && all_tenants
            {
                filter.project = Some(project.to_owned());
            }
            filter.user = owned("user_id");
            filter.vm_state = owned("vm_state");
            if params.flag("deleted") == Some(true) {
                filter.deleted = Some(true);
            }
        }
        if let Some(since) = params.get("changes-since") {
            filter.changes_since = Some(time::parse(since).ok_or_else(|| {
                bad(format!(
                    "Invalid input for query parameters changes-since. Value: {}. It is to be a date and time as in ISO 8601.",
                    clip(since)
                ))
            })?);
            // A client that keeps a copy has to learn of deletions too.
            if params.get("deleted").is_none() {
                filter.deleted = None;
            }
        }
        let mut unknown = false;
        for status in params.all("status") {
            match states::parse_status(status) {
                Some((state, _)) if state == berth_rpc_types::VmState::Deleted => {
                    if !admin {
                        return Err(forbidden("Only administrators may list deleted instances"));
                    }
                    filter.deleted = Some(true);
                    filter.states.push((state, None));
                }
                Some(state) => filter.states.push(state),
                None => unknown = true,
            }
        }
        if call.since(26) {
            let tags = |name| params.get(name).map(listing::tag_list).unwrap_or_default();
            filter.tags = tags("tags");
            filter.tags_any = tags("tags-any");
            filter.not_tags = tags("not-tags");
            filter.not_tags_any = tags("not-tags-any");
        }
        filter.nothing = unknown && filter.states.is_empty();
        let mut sort = Vec::new();
        for (key, direction) in STYLE.keys(params)? {
            if TABLE.field(key).is_none() {
                let known: Vec<&str> = TABLE.fields.iter().map(|field| field.name).collect();
                return Err(bad(format!(
                    "Invalid input for query parameters sort_key. Value: {}. {} are understood.",
                    clip(key),
                    known.join(", ")
                )));
            }
            sort.push((key.to_owned(), direction));
        }
        let limit = params.limit(berth_controller_core::Service::Compute, listing::MAX_LIMIT)?;
        Ok(Self {
            filter,
            host: owned("host").filter(|_| admin),
            sort,
            marker: owned("marker"),
            limit: limit.unwrap_or(listing::MAX_LIMIT),
            params: params.clone(),
        })
    }
}

/// `GET /servers/{id}`
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    let body = read!(call, |tx| [call, id] {
        let instance = find(tx, &call, &id).await?;
        let views = server_view::gather(tx, &call, vec![instance]).await?;
        let server = views.first().map(|v| server_view::alone(v, &call));
        Ok::<Value, ApiError>(json!({ "server": server }))
    })?;
    ok(body)
}

/// Addresses that a server shows and does not use.
///
/// # Errors
/// 400 that names the field.
pub fn access_ip<T: std::str::FromStr>(
    fields: &Fields<'_>,
    name: &str,
) -> Result<Option<Option<T>>, ApiError> {
    match fields.text(name, 64)? {
        None => Ok(None),
        // Nova's way to take it back.
        Some(text) if text.is_empty() => Ok(Some(None)),
        Some(text) => match text.parse() {
            Ok(address) => Ok(Some(Some(address))),
            Err(_) => Err(fields.wrong(name, "is no such address")),
        },
    }
}

/// `OS-DCF:diskConfig`: whether it is MANUAL.
///
/// # Errors
/// 400 that names the field.
pub fn disk_config(fields: &Fields<'_>) -> Result<Option<bool>, ApiError> {
    match fields.text("OS-DCF:diskConfig", 16)?.as_deref() {
        None => Ok(None),
        Some("AUTO") => Ok(Some(false)),
        Some("MANUAL") => Ok(Some(true)),
        Some(_) => Err(fields.wrong("OS-DCF:diskConfig", "is to be AUTO or MANUAL")),
    }
}

/// `hostname`: since 2.90 a label, since 2.94 a domain name (RFC 1123, 2.1).
///
/// # Errors
/// 400
pub fn hostname(call: &Call, fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let Some(text) = fields.text("hostname", 255)? else {
        return Ok(None);
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_one = match call.since(94) {
        true => text.split('.').all(is_label),
        false => is_label(&text),
    };
    match is_one {
        true => Ok(Some(text)),
        false => Err(fields.wrong(
            "hostname",
            "is no hostname: labels of letters, digits and inner hyphens; since 2.94 joined by dots",
        )),
    }
}

/// `PUT /servers/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["server"])?;
    let fields = within(&body, "server")?;
    let mut known = vec!["name", "OS-DCF:diskConfig", "accessIPv4", "accessIPv6"];
    if call.since(19) {
        known.push("description");
    }
    if call.since(90) {
        known.push("hostname");
    }
    fields.only(&known)?;
    let hostname = hostname(&call, &fields)?;
    let name = opt_name(&fields, "name")?;
    let ip_v4 = access_ip(&fields, "accessIPv4")?;
    let ip_v6 = access_ip(&fields, "accessIPv6")?;
    let manual = disk_config(&fields)?;
    let words = if call.since(19) {
        description(&fields, 255)?
    } else {
        None
    };
    let body = tx!(call, |tx| [call, id, name, words, hostname] {
        let mut instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        if let Some(name) = name {
            instance.name = name;
        }
        if let Some(words) = words {
            instance.body.description = words;
        }
        if hostname.is_some() {
            instance.body.hostname = hostname;
        }
        if let Some(ip) = ip_v4 {
            instance.body.access_ip_v4 = ip;
        }
        if let Some(ip) = ip_v6 {
            instance.body.access_ip_v6 = ip;
        }
        if let Some(manual) = manual {
            instance.body.manual_disk_config = manual;
        }
        save(tx, &call, &instance).await?;
        let instance = find(tx, &call, &id).await?;
        let views = server_view::gather(tx, &call, vec![instance]).await?;
        let server = views.first().map(|v| server_view::updated(v, &call));
        Ok::<Value, ApiError>(json!({ "server": server }))
    })?;
    ok(body)
}

/// `DELETE /servers/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    act(&call, &id, Kind::Delete, "delete", json!({})).await?;
    status(StatusCode::NO_CONTENT)
}

/// Begins an operation on a server, if the table of states allows it: states, operation and
/// action row in one transaction, then a poke. `verb` is how Nova names it in a refusal.
///
/// # Errors
/// 404 for no such server, 409 for its lock or state.
pub async fn act(
    call: &Call,
    id: &str,
    kind: Kind,
    verb: &str,
    params: Value,
) -> Result<(), ApiError> {
    let id = id.to_owned();
    let verb = verb.to_owned();
    tx!(call, |tx| [call, id, verb, params] {
        let instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        let line = kind.line(&params);
        // The same thing is already being done: accepted, and nothing to add.
        let task = instance.task_state.as_ref();
        if kind == Kind::Delete && task.is_some_and(|task| *task == TaskState::Deleting) {
            return Ok(());
        }
        states::check(
            line,
            &instance.vm_state,
            task,
            instance.launched_at.is_some(),
        )
        .map_err(|refusal| conflict(refusal.message(&verb, &instance.id)))?;
        let origin = call.context.origin();
        let begin = Begin {
            kind,
            instance_id: instance.id,
            origin: &origin,
            params: &params,
        };
        let operation = workflow::begin(tx, &call.app.env(), begin).await?;
        let name = line.action;
        actions::start(tx, call.now(), instance.id, &origin, name, Some(operation)).await?;
        kill_point!("controller.request.uncommitted");
        Ok::<(), ApiError>(())
    })?;
    kill_point!("controller.request.committed");
    call.app.wake.notify_one();
    Ok(())
}

/// 503: the other side does not answer now.
pub fn unavailable(message: impl Into<String>) -> ApiError {
    error(StatusCode::SERVICE_UNAVAILABLE, message)
}
