//! Hypervisors: each host is one, with its capacity and what is used of it.

use super::common::{Call, Reply, bad, not_found, ok, read, unsupported, uuid};
use super::hosts::{ALL, Host, every_host, hosts};
use super::microversion::Microversion;
use super::render::{Field, render};
use crate::listing;
use axum::extract::Path;
use berth_controller_core::body::clip;
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, Service};
use berth_rpc_types::HostId;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type F = Field<Host>;

const HYPERVISOR_BASIC: &[&str] = &["id", "hypervisor_hostname", "state", "status", "servers"];

const HYPERVISOR: &[F] = &[
    F::always("id", |h, version| Some(h.service_id(version))),
    F::always("hypervisor_hostname", |h, _| Some(json!(h.hostname))),
    F::always("state", |h, _| Some(json!(h.state()))),
    F::always("status", |h, _| Some(json!(h.status()))),
    F::always("hypervisor_type", |h, _| {
        Some(json!(if h.capacity.0.driver == "kvm" {
            "Berth"
        } else {
            "simulated"
        }))
    }),
    F::always("hypervisor_version", |h, _| {
        Some(json!(h.capacity.0.hypervisor_version))
    }),
    F::always("host_ip", |h, _| Some(json!(h.address))),
    F::always("vcpus", |h, _| Some(json!(h.capacity.0.vcpus))).until(87),
    F::always("vcpus_used", |h, _| Some(json!(h.used.vcpus))).until(87),
    F::always("memory_mb", |h, _| Some(json!(h.capacity.0.memory_mib))).until(87),
    F::always("memory_mb_used", |h, _| Some(json!(h.used.memory_mib))).until(87),
    F::always("free_ram_mb", |h, _| {
        Some(json!(left(h.capacity.0.memory_mib, h.used.memory_mib)))
    })
    .until(87),
    F::always("local_gb", |h, _| Some(json!(h.capacity.0.disk_gib))).until(87),
    F::always("local_gb_used", |h, _| Some(json!(h.used.disk_gib))).until(87),
    F::always("free_disk_gb", |h, _| {
        Some(json!(left(h.capacity.0.disk_gib, h.used.disk_gib)))
    })
    .until(87),
    F::always("disk_available_least", |h, _| {
        Some(json!(h.capacity.0.disk_free_gib))
    })
    .until(87),
    F::always("running_vms", |h, _| Some(json!(h.used.guests))).until(87),
    F::always("current_workload", |h, _| {
        Some(json!(h.capacity.0.io_operations))
    })
    .until(87),
    F::always("cpu_info", |h, version| Some(cpu_info(h, version))).until(87),
    // What a host does not report.
    F::always("uptime", |_, _| Some(Value::Null)).since(88),
    F::always("service", |h, version| {
        Some(json!({
            "id": h.service_id(version),
            "host": h.hostname,
            "disabled_reason": h.disabled_reason,
        }))
    }),
    F::always("servers", |h, version| {
        // Since 2.75 also of a host that has none.
        let list = h.servers.as_ref();
        let list = list.filter(|list| !list.is_empty() || version.0 >= 75)?;
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
        "arch": host.capacity.0.architecture,
        "model": host.capacity.0.cpu_model,
        "vendor": host.capacity.0.cpu_vendor,
        "features": host.capacity.0.cpu_features,
        "topology": {"cores": host.capacity.0.vcpus, "threads": 1, "sockets": 1},
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
    let with_servers = call.since(53) && params.flag("with_servers") == Some(true);
    let pattern = params
        .get("hypervisor_hostname_pattern")
        .filter(|_| call.since(53));
    let (marker, limit) = match call.since(33) {
        true => (
            params.get("marker").map(str::to_owned),
            params
                .limit(Service::Compute, listing::MAX_LIMIT)?
                .unwrap_or(listing::MAX_LIMIT),
        ),
        false => (None, ALL),
    };
    let which = match pattern {
        Some(pattern) => named_like(pattern),
        None => Condition::default(),
    };
    let all = read!(call, |tx| [call, which, marker] {
        let mut which = which;
        if let Some(marker) = &marker {
            let after = match with_id(&call, marker) {
                Some(this) => hosts(tx, &call, &this, 1).await?.pop(),
                None => None,
            };
            let after = after.ok_or_else(|| bad(format!("marker [{}] not found", clip(marker))))?;
            which.and(Condition::new("service_id > ?", [after.service_id.into()]));
        }
        let mut all = hosts(tx, &call, &which, limit).await?;
        if with_servers {
            add_servers(tx, &mut all).await?;
        }
        Ok::<_, ApiError>(all)
    })?;
    if let Some(pattern) = pattern
        && all.is_empty()
        && marker.is_none()
    {
        return Err(not_found(format!(
            "No hypervisor matching '{}' could be found.",
            clip(pattern)
        )));
    }
    let next = all.last().filter(|_| call.since(33) && all.len() == limit);
    let next = next.map(|host| shown_id(&call, host));
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

/// Hosts that have this in their name, in whatever case.
fn named_like(pattern: &str) -> Condition {
    let mut escaped = String::from("%");
    for c in pattern.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '!') {
            escaped.push('!');
        }
        escaped.push(c);
    }
    escaped.push('%');
    Condition::new("LOWER(hostname) LIKE ? ESCAPE '!'", [escaped.into()])
}

/// A host's id as callers of this version know it.
fn shown_id(call: &Call, host: &Host) -> String {
    let id = host.service_id(call.version).to_string();
    id.trim_matches('"').to_owned()
}

/// The host with such an id; `None` if none can have it.
fn with_id(call: &Call, id: &str) -> Option<Condition> {
    if call.since(53) {
        let id = uuid(id).map(HostId)?;
        return Some(Condition::new("id = ?", [id.into()]));
    }
    let number: i64 = id.parse().ok()?;
    Some(Condition::new("service_id = ?", [number.into()]))
}

/// Hosts whose servers are looked for in one statement.
const LOOKED_FOR: usize = 500;

async fn add_servers(tx: &mut Tx, hosts: &mut [Host]) -> Result<(), StoreError> {
    for chunk in hosts.chunks_mut(LOOKED_FOR) {
        let mut these = Condition::among("host_id", chunk.iter().map(|host| host.id.into()));
        these.and(Condition::new("deleted_at IS NULL", []));
        let (sql, values) =
            these.statement("SELECT id, name, host_id FROM instances", "ORDER BY id");
        let rows: Vec<(String, String, String)> = tx.query(&sql, &values).await?;
        let mut by_host: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (id, name, host_id) in rows {
            by_host.entry(host_id).or_default().push((id, name));
        }
        for host in chunk {
            host.servers = Some(by_host.remove(&host.id.to_string()).unwrap_or_default());
        }
    }
    Ok(())
}

/// The one with this id.
async fn find(call: &Call, id: &str, with_servers: bool) -> Result<Host, ApiError> {
    let missing = || {
        not_found(format!(
            "Hypervisor with ID '{}' could not be found.",
            clip(id)
        ))
    };
    let this = with_id(call, id).ok_or_else(missing)?;
    let mut found = read!(call, |tx| [call, this] {
        let mut found = hosts(tx, &call, &this, 1).await?;
        if with_servers {
            add_servers(tx, &mut found).await?;
        }
        Ok::<_, StoreError>(found)
    })?;
    found.pop().ok_or_else(missing)
}

/// `GET /os-hypervisors/{id}`
pub async fn hypervisor_show(call: Call, Path(id): Path<String>, params: Params) -> Reply {
    let with_servers = call.since(53) && params.flag("with_servers") == Some(true);
    let host = find(&call, &id, with_servers).await?;
    ok(json!({"hypervisor": hypervisor(&call, &host, true)}))
}

/// `GET /os-hypervisors/{id}/uptime`, to 2.87: hosts do not say for how long they have been up, which is
/// what Nova answers for a hypervisor that cannot.
pub async fn uptime(call: Call, Path(id): Path<String>) -> Reply {
    call.only_in(1, 87)?;
    find(&call, &id, false).await?;
    Err(unsupported("The uptime of a host"))
}

/// `GET /os-hypervisors/statistics`: the sum of all enabled hosts.
pub async fn statistics(call: Call) -> Reply {
    call.only_in(1, 87)?;
    let all = read!(call, |tx| [call] { every_host(tx, &call).await })?;
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
