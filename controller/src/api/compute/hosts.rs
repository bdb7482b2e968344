//! What administrators ask about hosts: services, hypervisors, zones, aggregates.
//!
//! A host is one `nova-compute` service and one hypervisor. What is used is the sum of its claims.

use super::common::{Call, Reply, bad, boolean, name, not_found, ok, tx, unsupported, uuid};
use super::microversion::Microversion;
use super::render::{Field, render};
use crate::api::body::{Fields, clip};
use crate::api::query::Params;
use crate::api::{ApiError, Service, time};
use crate::compute::listing;
use crate::params;
use crate::store::{Row, StoreError, Tx};
use axum::body::Bytes;
use axum::extract::Path;
use berth_rpc_types::{Capacity, HostId};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How long a silent host counts as up, in milliseconds.
pub fn down_after_millis(call: &Call) -> i64 {
    i64::from(call.app.control.service_down_time).saturating_mul(1000)
}

/// A host with what is used of it.
struct Host {
    id: HostId,
    service_id: i64,
    hostname: String,
    address: String,
    zone: String,
    enabled: bool,
    disabled_reason: Option<String>,
    forced_down: bool,
    last_seen_at: i64,
    capacity: Capacity,
    up: bool,
    /// Claims: vCPUs, MiB, GiB, and how many guests.
    used: (i64, i64, i64, i64),
    /// Id and name of each server on it, if they were asked for.
    servers: Option<Vec<(String, String)>>,
}

impl Host {
    fn from_row(call: &Call, row: &Row) -> Result<Self, StoreError> {
        let last_seen_at = row.int("last_seen_at")?;
        let forced_down = row.flag("forced_down")?;
        let silent = call.now().saturating_sub(last_seen_at) > down_after_millis(call);
        Ok(Self {
            id: row.parse("id")?,
            service_id: row.int("service_id")?,
            hostname: row.text("hostname")?,
            address: row.text("address")?,
            zone: row.text("availability_zone")?,
            enabled: row.flag("enabled")?,
            disabled_reason: row.opt_text("disabled_reason")?,
            forced_down,
            last_seen_at,
            capacity: row.json("capacity")?,
            up: !silent && !forced_down,
            used: (0, 0, 0, 0),
            servers: None,
        })
    }

    fn status(&self) -> &'static str {
        if self.enabled { "enabled" } else { "disabled" }
    }

    fn state(&self) -> &'static str {
        if self.up { "up" } else { "down" }
    }

    fn service_id(&self, version: Microversion) -> Value {
        if version.0 >= 53 {
            json!(self.id)
        } else {
            json!(self.service_id)
        }
    }
}

async fn hosts(tx: &mut Tx, call: &Call) -> Result<Vec<Host>, StoreError> {
    let rows = tx
        .query("SELECT * FROM hosts ORDER BY service_id", params![])
        .await?;
    let mut hosts = Vec::with_capacity(rows.len());
    for row in &rows {
        hosts.push(Host::from_row(call, row)?);
    }
    let claims = tx
        .query(
            "SELECT host_id, CAST(SUM(vcpus) AS BIGINT) AS vcpus, \
             CAST(SUM(memory_mib) AS BIGINT) AS memory_mib, \
             CAST(SUM(disk_gib) AS BIGINT) AS disk_gib, COUNT(*) AS guests \
             FROM claims GROUP BY host_id",
            params![],
        )
        .await?;
    for claim in claims {
        let id: HostId = claim.parse("host_id")?;
        if let Some(host) = hosts.iter_mut().find(|h| h.id == id) {
            host.used = (
                claim.int("vcpus")?,
                claim.int("memory_mib")?,
                claim.int("disk_gib")?,
                claim.int("guests")?,
            );
        }
    }
    Ok(hosts)
}

type F = Field<Host>;

const SERVICE: &[F] = &[
    F::always("id", |h, version| Some(h.service_id(version))),
    F::always("binary", |_, _| Some(json!("nova-compute"))),
    F::always("host", |h, _| Some(json!(h.hostname))),
    F::always("zone", |h, _| Some(json!(h.zone))),
    F::always("status", |h, _| Some(json!(h.status()))),
    F::always("state", |h, _| Some(json!(h.state()))),
    F::always("updated_at", |h, _| Some(json!(seen(h)))),
    F::always("disabled_reason", |h, _| Some(json!(h.disabled_reason))),
    F::always("forced_down", |h, _| Some(json!(h.forced_down))).since(11),
];

fn seen(host: &Host) -> String {
    time::micros(host.last_seen_at)
        .trim_end_matches('Z')
        .to_owned()
}

fn service(call: &Call, host: &Host) -> Value {
    render(SERVICE, host, call.version, true)
}

/// `GET /os-services`
pub async fn services(call: Call, params: Params) -> Reply {
    call.admin_only("os_compute_api:os-services:list")?;
    let mut all = tx!(call, |tx| [call] { hosts(tx, &call).await })?;
    if let Some(host) = params.get("host") {
        all.retain(|h| h.hostname == host);
    }
    if params.get("binary").is_some_and(|b| b != "nova-compute") {
        all.clear();
    }
    let list: Vec<Value> = all.iter().map(|h| service(&call, h)).collect();
    ok(json!({ "services": list }))
}

/// How an administrator changes a service.
#[derive(Clone, Debug, Default)]
struct Change {
    enabled: Option<bool>,
    reason: Option<String>,
    forced_down: Option<bool>,
}

/// Changes a host's row. A force-down says that the host may lose what it owns: its epoch
/// rises with it (PROTOCOL.md, rules 4 and 8), and who said so is in the log.
async fn change(tx: &mut Tx, call: &Call, host: HostId, change: &Change) -> Result<(), StoreError> {
    let now = call.now();
    if let Some(enabled) = change.enabled {
        tx.execute(
            "UPDATE hosts SET enabled = $1, disabled_reason = $2, updated_at = $3 WHERE id = $4",
            params![enabled, change.reason.clone(), now, host],
        )
        .await?;
    }
    if let Some(down) = change.forced_down {
        let changed = tx
            .execute(
                "UPDATE hosts SET forced_down = $1, epoch = epoch + $1, updated_at = $2 \
                 WHERE id = $3 AND forced_down <> $1",
                params![down, now, host],
            )
            .await?;
        if changed == 1 {
            tracing::warn!(
                request_id = %call.context.request_id,
                user_id = %call.context.user_id,
                host_id = %host,
                forced_down = down,
                "an administrator changed forced_down"
            );
        }
    }
    Ok(())
}

/// `PUT /os-services/{id or verb}`: by id since 2.53, by verb before.
pub async fn service_update(call: Call, Path(what): Path<String>, bytes: Bytes) -> Reply {
    call.admin_only("os_compute_api:os-services:update")?;
    if call.since(53) {
        service_by_id(call, what, bytes).await
    } else {
        service_by_verb(call, what, bytes).await
    }
}

async fn service_by_id(call: Call, id: String, bytes: Bytes) -> Reply {
    let id = uuid(&id)
        .map(HostId)
        .ok_or_else(|| bad(format!("Invalid uuid {}", clip(&id))))?;
    let body = crate::api::body::parse(Service::Compute, &bytes)?;
    let fields = Fields::of(Service::Compute, &body, "body")?;
    fields.only(&["status", "disabled_reason", "forced_down"])?;
    let enabled = match fields.text("status", 16)?.as_deref() {
        None => None,
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        Some(_) => return Err(fields.wrong("status", "is to be enabled or disabled")),
    };
    let asked = Change {
        enabled,
        reason: fields.text("disabled_reason", 255)?,
        forced_down: boolean(&fields, "forced_down")?,
    };
    if asked.reason.is_some() && asked.enabled != Some(false) {
        return Err(bad(
            "Specifying disabled_reason requires that status is disabled.",
        ));
    }
    if asked.enabled.is_none() && asked.forced_down.is_none() {
        return Err(bad(
            "No updates were requested. Fields 'status' or 'forced_down' should be specified.",
        ));
    }
    let shown = tx!(call, |tx| [call, asked] {
        change(tx, &call, id, &asked).await?;
        let all = hosts(tx, &call).await?;
        let host = all.into_iter().find(|h| h.id == id);
        host.map(|h| service(&call, &h))
            .ok_or_else(|| not_found(format!("Service {id} not found.")))
    })?;
    ok(json!({ "service": shown }))
}

async fn service_by_verb(call: Call, verb: String, bytes: Bytes) -> Reply {
    let body = crate::api::body::parse(Service::Compute, &bytes)?;
    let fields = Fields::of(Service::Compute, &body, "body")?;
    let hostname = name(&fields, "host")?;
    let binary = name(&fields, "binary")?;
    let (asked, known): (Change, &[&str]) = match verb.as_str() {
        "enable" => (
            Change {
                enabled: Some(true),
                ..Change::default()
            },
            &["host", "binary"],
        ),
        "disable" => (
            Change {
                enabled: Some(false),
                ..Change::default()
            },
            &["host", "binary"],
        ),
        "disable-log-reason" => (
            Change {
                enabled: Some(false),
                reason: Some(name(&fields, "disabled_reason")?),
                ..Change::default()
            },
            &["host", "binary", "disabled_reason"],
        ),
        "force-down" if call.since(11) => (
            Change {
                forced_down: Some(
                    boolean(&fields, "forced_down")?
                        .ok_or_else(|| fields.wrong("forced_down", "is missing"))?,
                ),
                ..Change::default()
            },
            &["host", "binary", "forced_down"],
        ),
        _ => return Err(not_found("Unknown action")),
    };
    fields.only(known)?;
    tx!(call, |tx| [call, asked, hostname, binary] {
        let row = tx
            .query_opt("SELECT id FROM hosts WHERE hostname = $1", params![&hostname])
            .await?
            .filter(|_| binary == "nova-compute")
            .ok_or_else(|| {
                not_found(format!("Host '{}' binary '{}' could not be found.", clip(&hostname), clip(&binary)))
            })?;
        change(tx, &call, row.parse("id")?, &asked).await?;
        Ok::<_, ApiError>(())
    })?;
    let mut shown = Map::new();
    shown.insert("host".into(), json!(hostname));
    shown.insert("binary".into(), json!(binary));
    if let Some(enabled) = asked.enabled {
        let status = if enabled { "enabled" } else { "disabled" };
        shown.insert("status".into(), json!(status));
    }
    if let Some(reason) = asked.reason {
        shown.insert("disabled_reason".into(), json!(reason));
    }
    if let Some(down) = asked.forced_down {
        shown.insert("forced_down".into(), json!(down));
    }
    ok(json!({ "service": shown }))
}

/// `DELETE /os-services/{id}`: a host is removed by its agent's leaving, not by this.
pub async fn service_delete(call: Call, Path(_): Path<String>) -> Reply {
    call.admin_only("os_compute_api:os-services:delete")?;
    Err(unsupported("Deleting a service"))
}

const HYPERVISOR_BASIC: &[&str] = &["id", "hypervisor_hostname", "state", "status", "servers"];

const HYPERVISOR: &[F] = &[
    F::always("id", |h, version| Some(h.service_id(version))),
    F::always("hypervisor_hostname", |h, _| Some(json!(h.hostname))),
    F::always("state", |h, _| Some(json!(h.state()))),
    F::always("status", |h, _| Some(json!(h.status()))),
    F::always("hypervisor_type", |h, _| {
        Some(json!(if h.capacity.driver == "kvm" {
            "Berth"
        } else {
            "simulated"
        }))
    }),
    F::always("hypervisor_version", |h, _| {
        Some(json!(h.capacity.hypervisor_version))
    }),
    F::always("host_ip", |h, _| Some(json!(h.address))),
    F::always("vcpus", |h, _| Some(json!(h.capacity.vcpus))),
    F::always("vcpus_used", |h, _| Some(json!(h.used.0))),
    F::always("memory_mb", |h, _| Some(json!(h.capacity.memory_mib))),
    F::always("memory_mb_used", |h, _| Some(json!(h.used.1))),
    F::always("free_ram_mb", |h, _| {
        Some(json!(left(h.capacity.memory_mib, h.used.1)))
    }),
    F::always("local_gb", |h, _| Some(json!(h.capacity.disk_gib))),
    F::always("local_gb_used", |h, _| Some(json!(h.used.2))),
    F::always("free_disk_gb", |h, _| {
        Some(json!(left(h.capacity.disk_gib, h.used.2)))
    }),
    F::always("disk_available_least", |h, _| {
        Some(json!(h.capacity.disk_free_gib))
    }),
    F::always("running_vms", |h, _| Some(json!(h.used.3))),
    F::always("current_workload", |h, _| {
        Some(json!(h.capacity.io_operations))
    }),
    F::always("cpu_info", |h, version| Some(cpu_info(h, version))),
    F::always("service", |h, version| {
        Some(json!({
            "id": h.service_id(version),
            "host": h.hostname,
            "disabled_reason": h.disabled_reason,
        }))
    }),
    F::always("servers", |h, _| {
        let list = h.servers.as_ref().filter(|list| !list.is_empty())?;
        let one = |(id, name): &(String, String)| json!({"uuid": id, "name": name});
        Some(list.iter().map(one).collect())
    })
    .since(53),
];

fn left(total: u64, used: i64) -> i64 {
    i64::try_from(total)
        .unwrap_or(i64::MAX)
        .saturating_sub(used)
}

/// A JSON text up to 2.27, an object since.
fn cpu_info(host: &Host, version: Microversion) -> Value {
    let info = json!({
        "arch": host.capacity.architecture,
        "model": host.capacity.cpu_model,
        "vendor": host.capacity.cpu_vendor,
        "features": host.capacity.cpu_features,
        "topology": {"cores": host.capacity.vcpus, "threads": 1, "sockets": 1},
    });
    if version.0 >= 28 {
        info
    } else {
        json!(info.to_string())
    }
}

fn hypervisor(call: &Call, host: &Host, detail: bool) -> Value {
    let mut value = render(HYPERVISOR, host, call.version, true);
    if !detail && let Value::Object(map) = &mut value {
        map.retain(|name, _| HYPERVISOR_BASIC.contains(&name.as_str()));
    }
    value
}

/// `GET /os-hypervisors`
pub async fn hypervisors(call: Call, params: Params) -> Reply {
    hypervisor_list(call, params, false).await
}

/// `GET /os-hypervisors/detail`
pub async fn hypervisors_detail(call: Call, params: Params) -> Reply {
    hypervisor_list(call, params, true).await
}

async fn hypervisor_list(call: Call, params: Params, detail: bool) -> Reply {
    call.admin_only("os_compute_api:os-hypervisors:list")?;
    let with_servers = call.since(53) && params.flag("with_servers") == Some(true);
    let mut all = tx!(call, |tx| [call] {
        let mut all = hosts(tx, &call).await?;
        if with_servers {
            add_servers(tx, &mut all).await?;
        }
        Ok::<_, StoreError>(all)
    })?;
    if call.since(53)
        && let Some(pattern) = params.get("hypervisor_hostname_pattern")
    {
        all.retain(|h| h.hostname.contains(pattern));
        if all.is_empty() {
            return Err(not_found(format!(
                "No hypervisor matching '{}' could be found.",
                clip(pattern)
            )));
        }
    }
    let mut next = None;
    if call.since(33) {
        let limit = params.limit(Service::Compute, listing::MAX_LIMIT)?;
        let limit = limit.unwrap_or(listing::MAX_LIMIT);
        let version = call.version;
        let marker = params.get("marker");
        let id = |h: &Host| {
            h.service_id(version)
                .to_string()
                .trim_matches('"')
                .to_owned()
        };
        (all, next) = listing::page(all, marker, limit, id).ok_or_else(|| {
            bad(format!(
                "marker [{}] not found",
                clip(marker.unwrap_or_default())
            ))
        })?;
    }
    let list: Vec<Value> = all.iter().map(|h| hypervisor(&call, h, detail)).collect();
    let mut body = json!({ "hypervisors": list });
    if let Some(next) = next {
        let path = if detail {
            "os-hypervisors/detail"
        } else {
            "os-hypervisors"
        };
        body["hypervisors_links"] = super::servers::next_link(&call, path, &params, &next);
    }
    ok(body)
}

async fn add_servers(tx: &mut Tx, hosts: &mut [Host]) -> Result<(), StoreError> {
    let rows = tx
        .query(
            "SELECT id, name, host_id FROM instances \
             WHERE host_id IS NOT NULL AND deleted_at IS NULL ORDER BY id",
            params![],
        )
        .await?;
    let mut by_host: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for row in rows {
        let server = (row.text("id")?, row.text("name")?);
        by_host
            .entry(row.text("host_id")?)
            .or_default()
            .push(server);
    }
    for host in hosts {
        host.servers = Some(by_host.remove(&host.id.to_string()).unwrap_or_default());
    }
    Ok(())
}

/// `GET /os-hypervisors/{id}`
pub async fn hypervisor_show(call: Call, Path(id): Path<String>, params: Params) -> Reply {
    call.admin_only("os_compute_api:os-hypervisors:show")?;
    let with_servers = call.since(53) && params.flag("with_servers") == Some(true);
    let all = tx!(call, |tx| [call] {
        let mut all = hosts(tx, &call).await?;
        if with_servers {
            add_servers(tx, &mut all).await?;
        }
        Ok::<_, StoreError>(all)
    })?;
    let version = call.version;
    let wanted = |h: &&Host| h.service_id(version).to_string().trim_matches('"') == id;
    match all.iter().find(wanted) {
        Some(host) => ok(json!({"hypervisor": hypervisor(&call, host, true)})),
        None => Err(not_found(format!(
            "Hypervisor with ID '{}' could not be found.",
            clip(&id)
        ))),
    }
}

/// `GET /os-hypervisors/statistics`: the sum of all enabled hosts.
pub async fn statistics(call: Call) -> Reply {
    call.admin_only("os_compute_api:os-hypervisors:statistics")?;
    let all = tx!(call, |tx| [call] { hosts(tx, &call).await })?;
    let enabled: Vec<&Host> = all.iter().filter(|h| h.enabled).collect();
    let mut sums = Map::new();
    for name in [
        "vcpus",
        "vcpus_used",
        "memory_mb",
        "memory_mb_used",
        "free_ram_mb",
        "local_gb",
        "local_gb_used",
        "free_disk_gb",
        "disk_available_least",
        "running_vms",
        "current_workload",
    ] {
        let field = HYPERVISOR.iter().find(|f| f.name == name);
        let sum: i64 = enabled
            .iter()
            .filter_map(|h| (field?.value)(h, call.version)?.as_i64())
            .fold(0, i64::saturating_add);
        sums.insert(name.to_owned(), json!(sum));
    }
    sums.insert("count".into(), json!(enabled.len()));
    ok(json!({ "hypervisor_statistics": sums }))
}

/// `GET /os-availability-zone`
pub async fn zones(call: Call) -> Reply {
    zone_list(call, false).await
}

/// `GET /os-availability-zone/detail`
pub async fn zones_detail(call: Call) -> Reply {
    call.admin_only("os_compute_api:os-availability-zone:detail")?;
    zone_list(call, true).await
}

async fn zone_list(call: Call, detail: bool) -> Reply {
    let all = tx!(call, |tx| [call] { hosts(tx, &call).await })?;
    let mut zones: BTreeMap<&str, Vec<&Host>> = BTreeMap::new();
    for host in &all {
        zones.entry(host.zone.as_str()).or_default().push(host);
    }
    let list: Vec<Value> = zones
        .iter()
        .map(|(zone, hosts)| {
            let mut by_name = Map::new();
            for host in hosts {
                let service = json!({
                    "available": host.up,
                    "active": host.enabled,
                    "updated_at": seen(host),
                });
                by_name.insert(host.hostname.clone(), json!({"nova-compute": service}));
            }
            json!({
                "zoneName": zone,
                "zoneState": {"available": hosts.iter().any(|h| h.enabled)},
                "hosts": if detail { Value::Object(by_name) } else { Value::Null },
            })
        })
        .collect();
    ok(json!({ "availabilityZoneInfo": list }))
}

/// `GET /os-aggregates`: there are none; a zone is a property of its hosts.
pub async fn aggregates(call: Call) -> Reply {
    call.admin_only("os_compute_api:os-aggregates:index")?;
    ok(json!({"aggregates": []}))
}

/// `GET /extensions`: the list has been empty of meaning since 2.1; clients read it all the same.
pub async fn extensions(_: Call) -> Reply {
    ok(json!({"extensions": []}))
}

/// `GET /extensions/{alias}`
pub async fn extension(_: Call, Path(alias): Path<String>) -> Reply {
    Err(not_found(format!(
        "Extension {} could not be found.",
        clip(&alias)
    )))
}
