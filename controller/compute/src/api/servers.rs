//! `/servers`: list, show, update, delete. Creation is in `create`, actions in `server_actions`.

use super::common::{
    Call, Reply, bad, conflict, description, error, forbidden, not_found, object, ok, opt_name,
    status, tx, uuid, within,
};
use super::{networking, server_view};
use crate::instances::{self, Instance};
use crate::listing::{self, Filter};
use crate::workflow::{self, Begin, Kind};
use crate::{actions, states};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, params};
use berth_rpc::kill_point;
use berth_rpc_types::{InstanceId, TaskState};
use serde_json::{Value, json};

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
    let servers = tx!(call, |tx| [call, query] {
        let mut filter = query.filter;
        if let Some(host) = &query.host {
            let rows: Vec<(String,)> = tx
                .query("SELECT id FROM hosts WHERE hostname = $1", params![host])
                .await?;
            filter.host_ids = Some(rows.into_iter().map(|(id,)| id).collect());
        }
        let mut found = if query.nothing { Vec::new() } else { listing::list(tx, &filter).await? };
        if query.ip.is_some() || query.ip6.is_some() {
            let ids: Vec<_> = found.iter().map(|i| i.id).collect();
            let addresses = networking::addresses(tx, &ids).await?;
            found.retain(|i| {
                let has = |want: &Option<regex::Regex>, version| {
                    want.as_ref().is_none_or(|want| {
                        addresses.get(&i.id).is_some_and(|all| {
                            all.iter().any(|a| a.version() == version && want.is_match(&a.ip.to_string()))
                        })
                    })
                };
                has(&query.ip, 4) && has(&query.ip6, 6)
            });
        }
        listing::sort(&mut found, &query.sort);
        let marker = query.marker.as_deref();
        let page = listing::page(found, marker, query.limit, |i| i.id.to_string());
        let (page, next) = page.ok_or_else(|| {
            bad(format!("marker [{}] not found", clip(marker.unwrap_or_default())))
        })?;
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
    let mut query = url_form(params.0.iter().filter(|(name, _)| name != "marker"));
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(&format!("marker={marker}"));
    json!([{"rel": "next", "href": call.href(&format!("{path}?{query}"))}])
}

fn url_form<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        for (part, end) in [(name, "="), (value, "")] {
            for byte in part.bytes() {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
            out.push_str(end);
        }
    }
    out
}

/// A list's query, checked.
#[derive(Clone, Debug)]
struct Query {
    filter: Filter,
    /// A filter that nothing can match: an unknown status.
    nothing: bool,
    host: Option<String>,
    ip: Option<regex::Regex>,
    ip6: Option<regex::Regex>,
    sort: Vec<(String, bool)>,
    marker: Option<String>,
    limit: usize,
    params: Params,
}

impl Query {
    fn parse(call: &Call, params: &Params) -> Result<Self, ApiError> {
        let admin = call.context.may("os_compute_api:servers:allow_all_filters");
        let pattern = |name: &str| {
            let text = params.get(name);
            text.map(|t| listing::user_regex(t).map_err(|why| bad(format!("{name} {why}."))))
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
            ..Filter::default()
        };
        if all_tenants {
            filter.project = None;
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
            filter.changes_since = Some(parse_time(since).ok_or_else(|| {
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
        let mut nothing = false;
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
                None => nothing = filter.states.is_empty(),
            }
        }
        if call.since(26) {
            let tags = |name| params.get(name).map(listing::tag_list).unwrap_or_default();
            filter.tags = tags("tags");
            filter.tags_any = tags("tags-any");
            filter.not_tags = tags("not-tags");
            filter.not_tags_any = tags("not-tags-any");
        }
        let mut sort = Vec::new();
        let directions = params.all("sort_dir");
        for (i, key) in params.all("sort_key").into_iter().enumerate() {
            if !listing::SORT_KEYS.contains(&key) {
                return Err(bad(format!(
                    "Invalid input for query parameters sort_key. Value: {}. {} are understood.",
                    clip(key),
                    listing::SORT_KEYS.join(", ")
                )));
            }
            let ascending = match directions.get(i).copied() {
                None | Some("desc") => false,
                Some("asc") => true,
                Some(_) => return Err(bad("Unknown sort direction, must be 'desc' or 'asc'")),
            };
            sort.push((key.to_owned(), ascending));
        }
        let limit = params.limit(berth_controller_core::Service::Compute, listing::MAX_LIMIT)?;
        Ok(Self {
            filter,
            nothing,
            host: owned("host").filter(|_| admin),
            ip: pattern("ip")?,
            ip6: pattern("ip6")?,
            sort,
            marker: owned("marker"),
            limit: limit.unwrap_or(listing::MAX_LIMIT),
            params: params.clone(),
        })
    }
}

/// ISO 8601 with or without a zone (then UTC), to Unix milliseconds.
pub fn parse_time(text: &str) -> Option<i64> {
    use chrono::{DateTime, NaiveDateTime};
    // A `+` of a query string may have become a space.
    let text = text.trim().replace(' ', "+");
    if let Ok(time) = DateTime::parse_from_rfc3339(&text) {
        return Some(time.timestamp_millis());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d+%H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(&text, format) {
            return Some(time.and_utc().timestamp_millis());
        }
    }
    let day = chrono::NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis())
}

/// `GET /servers/{id}`
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    let body = tx!(call, |tx| [call, id] {
        let instance = find(tx, &call, &id).await?;
        let views = server_view::gather(tx, &call, vec![instance]).await?;
        let server = views.first().map(|v| server_view::detail(v, &call));
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

/// `PUT /servers/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["server"])?;
    let fields = within(&body, "server")?;
    let mut known = vec!["name", "OS-DCF:diskConfig", "accessIPv4", "accessIPv6"];
    if call.since(19) {
        known.push("description");
    }
    fields.only(&known)?;
    let name = opt_name(&fields, "name")?;
    let ip_v4 = access_ip(&fields, "accessIPv4")?;
    let ip_v6 = access_ip(&fields, "accessIPv6")?;
    let manual = disk_config(&fields)?;
    let words = if call.since(19) {
        description(&fields, 255)?
    } else {
        None
    };
    let body = tx!(call, |tx| [call, id, name, words] {
        let mut instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        if let Some(name) = name {
            instance.name = name;
        }
        if let Some(words) = words {
            instance.body.description = words;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_nova_takes_them() {
        for (text, millis) in [
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01T00:00:01.5", Some(1500)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01T01:00:00 01:00", Some(0)),
            ("1970-01-01", Some(0)),
            ("1970-01-01 00:00:01", Some(1000)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), millis, "{text}");
        }
    }

    #[test]
    fn a_next_link_carries_its_query_encoded() {
        let pairs = [("name".to_owned(), "a b&c".to_owned())];
        assert_eq!(url_form(pairs.iter()), "name=a%20b%26c");
    }
}
