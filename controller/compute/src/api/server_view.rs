//! A server as users see it: the table of its fields, and what it needs from other tables.

use super::common::{Call, links};
use super::microversion::Microversion;
use super::networking::{self, Address};
use super::render::{Field, render};
use crate::instances::Instance;
use berth_controller_core::listing::Condition;
use berth_controller_core::store::{StoreError, Tx, Value as Column};
use berth_controller_core::{ControlSettings, beat, row, time};
use berth_rpc_types::{HostId, InstanceId, Stored, VmState};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha224};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A host as a server shows it.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Its label.
    pub hostname: String,
    /// Its zone.
    pub zone: String,
    /// Forced down, disabled, silent: Nova's `host_status`.
    pub status: &'static str,
}

/// A server with what its view needs.
pub struct ServerView {
    /// The server.
    pub instance: Instance,
    host: Option<HostFacts>,
    addresses: Vec<Address>,
    security_groups: Vec<String>,
    base_url: Arc<str>,
}

type F = Field<ServerView>;

/// The fields of a server, with the microversions that have them.
pub const FIELDS: &[F] = &[
    F::always("id", |s, _| Some(json!(s.instance.id))),
    F::always("name", |s, _| Some(json!(s.instance.name))),
    F::always("status", |s, _| Some(json!(s.instance.status()))),
    F::always("tenant_id", |s, _| Some(json!(s.instance.project_id))),
    F::always("user_id", |s, _| Some(json!(s.instance.user_id))),
    F::always("metadata", |s, _| Some(json!(s.instance.body.metadata))),
    F::always("hostId", |s, _| Some(json!(host_id(&s.instance)))),
    F::always("image", |s, _| Some(image(s))),
    F::always("flavor", |s, version| Some(flavor(s, version))),
    F::always("created", |s, _| {
        Some(json!(time::seconds(s.instance.created_at)))
    }),
    F::always("updated", |s, _| {
        Some(json!(time::seconds(s.instance.updated_at)))
    }),
    F::always("addresses", |s, _| Some(addresses(&s.addresses, true))),
    F::always("accessIPv4", |s, _| {
        let ip = s.instance.body.access_ip_v4;
        Some(json!(ip.map(|a| a.to_string()).unwrap_or_default()))
    }),
    F::always("accessIPv6", |s, _| {
        let ip = s.instance.body.access_ip_v6;
        Some(json!(ip.map(|a| a.to_string()).unwrap_or_default()))
    }),
    F::always("links", |s, _| {
        Some(links(&s.base_url, &format!("servers/{}", s.instance.id)))
    }),
    F::always("OS-DCF:diskConfig", |s, _| {
        let manual = s.instance.body.manual_disk_config;
        Some(json!(if manual { "MANUAL" } else { "AUTO" }))
    }),
    F::always("progress", |s, _| progress(&s.instance).map(|p| json!(p))),
    F::always("fault", |s, _| fault(&s.instance, false)),
    F::always("OS-EXT-AZ:availability_zone", |s, _| {
        let host = s.host.as_ref().map(|h| h.zone.clone());
        Some(json!(host.unwrap_or_default()))
    }),
    F::always("config_drive", |s, _| {
        Some(json!(if s.instance.body.config_drive {
            "True"
        } else {
            ""
        }))
    }),
    F::always("key_name", |s, _| Some(json!(s.instance.key_name))),
    F::always("OS-SRV-USG:launched_at", |s, _| {
        Some(json!(s.instance.launched_at.map(usage_time)))
    }),
    F::always("OS-SRV-USG:terminated_at", |s, _| {
        Some(json!(s.instance.deleted_at.map(usage_time)))
    }),
    F::always("security_groups", |s, _| security_groups(s)),
    F::always("OS-EXT-STS:task_state", |s, _| {
        Some(json!(s.instance.task_state.as_ref().map(Stored::as_str)))
    }),
    F::always("OS-EXT-STS:vm_state", |s, _| {
        Some(json!(s.instance.vm_state.as_str()))
    }),
    F::always("OS-EXT-STS:power_state", |s, _| {
        Some(json!(s.instance.power_state))
    }),
    F::always("os-extended-volumes:volumes_attached", |_, _| {
        Some(json!([]))
    }),
    F::always("OS-EXT-SRV-ATTR:host", |s, _| Some(hostname(s))).admin(),
    F::always("OS-EXT-SRV-ATTR:hypervisor_hostname", |s, _| {
        Some(hostname(s))
    })
    .admin(),
    F::always("OS-EXT-SRV-ATTR:instance_name", |s, _| {
        Some(json!(format!("instance-{}", s.instance.id)))
    })
    .admin(),
    F::always("OS-EXT-SRV-ATTR:hostname", |s, _| {
        Some(json!(s.instance.hostname()))
    })
    .since(3)
    .until(89)
    .admin(),
    F::always("OS-EXT-SRV-ATTR:hostname", |s, _| {
        Some(json!(s.instance.hostname()))
    })
    .since(90),
    F::always("OS-EXT-SRV-ATTR:kernel_id", |_, _| Some(json!("")))
        .since(3)
        .admin(),
    F::always("OS-EXT-SRV-ATTR:ramdisk_id", |_, _| Some(json!("")))
        .since(3)
        .admin(),
    F::always("OS-EXT-SRV-ATTR:launch_index", |s, _| {
        Some(json!(s.instance.body.launch_index))
    })
    .since(3)
    .admin(),
    F::always("OS-EXT-SRV-ATTR:reservation_id", |s, _| {
        Some(json!(s.instance.body.reservation_id))
    })
    .since(3)
    .admin(),
    F::always("OS-EXT-SRV-ATTR:root_device_name", |_, _| {
        Some(json!("/dev/vda"))
    })
    .since(3)
    .admin(),
    F::always("OS-EXT-SRV-ATTR:user_data", |s, _| {
        Some(json!(s.instance.body.user_data))
    })
    .since(3)
    .admin(),
    F::always("locked", |s, _| Some(json!(s.instance.locked))).since(9),
    F::always("host_status", |s, _| {
        Some(json!(s.host.as_ref().map_or("", |h| h.status)))
    })
    .since(16)
    .admin(),
    F::always("description", |s, _| {
        Some(json!(s.instance.body.description))
    })
    .since(19),
    F::always("tags", |s, _| Some(json!(s.instance.body.tags))).since(26),
    // None is taken.
    F::always("trusted_image_certificates", |_, _| Some(Value::Null)).since(63),
    F::always("locked_reason", |s, _| {
        Some(json!(s.instance.body.locked_reason))
    })
    .since(73),
    F::always("pinned_availability_zone", |s, _| {
        Some(json!(s.instance.body.requested_zone))
    })
    .since(96),
];

/// What an update answers with: Nova gives fewer fields than for a show.
pub const UPDATE_FIELDS: &[&str] = &[
    "id",
    "name",
    "status",
    "tenant_id",
    "user_id",
    "metadata",
    "hostId",
    "image",
    "flavor",
    "created",
    "updated",
    "addresses",
    "accessIPv4",
    "accessIPv6",
    "links",
    "OS-DCF:diskConfig",
    "progress",
    "fault",
    "locked",
    "description",
    "tags",
    "trusted_image_certificates",
    "server_groups",
    "locked_reason",
];

/// `2026-01-02T03:04:05.678000`, as Nova writes these two: UTC without saying so.
fn usage_time(millis: i64) -> String {
    time::micros(millis).trim_end_matches('Z').to_owned()
}

/// Differs by host and by project, and does not tell which host it is.
pub fn host_id(instance: &Instance) -> String {
    let hidden = |host: HostId| hidden(&instance.project_id, host);
    instance.host_id.map(hidden).unwrap_or_default()
}

/// A host as a project knows it.
pub fn hidden(project_id: &str, host: HostId) -> String {
    hex::encode(Sha224::digest(format!("{project_id}{host}")))
}

fn hostname(view: &ServerView) -> Value {
    json!(view.host.as_ref().map(|h| h.hostname.clone()))
}

fn image(view: &ServerView) -> Value {
    match view.instance.image_id {
        None => json!(""),
        Some(id) => json!({
            "id": id,
            "links": [{"rel": "bookmark", "href": format!("{}/compute/images/{id}", view.base_url)}],
        }),
    }
}

fn flavor(view: &ServerView, version: Microversion) -> Value {
    let flavor = &view.instance.flavor;
    if version.0 >= 47 {
        return json!({
            "original_name": flavor.name,
            "vcpus": flavor.vcpus,
            "ram": flavor.ram,
            "disk": flavor.disk,
            "ephemeral": 0,
            "swap": 0,
            "extra_specs": flavor.extra_specs,
        });
    }
    json!({
        "id": flavor.id,
        "links": [{
            "rel": "bookmark",
            "href": format!("{}/compute/flavors/{}", view.base_url, flavor.id),
        }],
    })
}

fn progress(instance: &Instance) -> Option<u8> {
    match instance.status() {
        "ACTIVE" => Some(100),
        "BUILD" => Some(0),
        _ => None,
    }
}

/// Shown in ERROR and DELETED. Administrators see the details too.
fn fault(instance: &Instance, details: bool) -> Option<Value> {
    if !matches!(
        instance.vm_state,
        Stored::Known(VmState::Error | VmState::Deleted)
    ) {
        return None;
    }
    let fault = instance.fault.as_ref()?;
    let mut value = json!({
        "code": fault.code,
        "message": fault.message,
        "created": time::seconds(fault.created),
    });
    if details && !fault.details.is_empty() {
        value["details"] = json!(fault.details);
    }
    Some(value)
}

/// Left out, as Nova does, where a server has none.
fn security_groups(view: &ServerView) -> Option<Value> {
    if view.security_groups.is_empty() {
        return None;
    }
    let names: Vec<Value> = view
        .security_groups
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    Some(Value::Array(names))
}

/// Addresses by network name; `extended` adds type and MAC.
pub fn addresses(all: &[Address], extended: bool) -> Value {
    let mut map = Map::new();
    for address in all {
        let mut entry = json!({"version": address.version(), "addr": address.ip.to_string()});
        if extended {
            entry["OS-EXT-IPS:type"] = json!("fixed");
            entry["OS-EXT-IPS-MAC:mac_addr"] = json!(address.mac);
        }
        let list = map
            .entry(address.network.clone())
            .or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(entry);
        }
    }
    Value::Object(map)
}

row! {
    struct HostRow {
        id: HostId,
        hostname: String,
        availability_zone: String,
        enabled: bool,
        forced_down: bool,
        silent: i64,
    }
}

/// Hosts as servers show them: those of these servers.
async fn hosts(
    tx: &mut Tx,
    control: &ControlSettings,
    instances: &[Instance],
) -> Result<HashMap<HostId, HostFacts>, StoreError> {
    let ids: BTreeSet<HostId> = instances.iter().filter_map(|i| i.host_id).collect();
    let among = Condition::among("hosts.id", ids.into_iter().map(Column::from));
    let select = format!(
        "SELECT id, hostname, availability_zone, enabled, forced_down, {} FROM hosts",
        beat::SEEN
    );
    let (sql, values) = among.statement(&select, "");
    let rows: Vec<HostRow> = tx.query(&sql, &values).await?;
    let mut map = HashMap::new();
    for row in rows {
        let silent = !control.is_up(row.silent, false);
        let status = if row.forced_down {
            "DOWN"
        } else if silent {
            "UNKNOWN"
        } else if row.enabled {
            "UP"
        } else {
            "MAINTENANCE"
        };
        let facts = HostFacts {
            hostname: row.hostname,
            zone: row.availability_zone,
            status,
        };
        map.insert(row.id, facts);
    }
    Ok(map)
}

/// Gathers what the views of these servers need, in three queries however many there are.
///
/// # Errors
/// [`StoreError`]
pub async fn gather(
    tx: &mut Tx,
    call: &Call,
    instances: Vec<Instance>,
) -> Result<Vec<ServerView>, StoreError> {
    let ids: Vec<InstanceId> = instances.iter().map(|i| i.id).collect();
    let hosts = hosts(tx, &call.app.control, &instances).await?;
    let mut addresses = networking::addresses(tx, &ids).await?;
    let mut groups = networking::security_groups(tx, &ids).await?;
    let views = instances.into_iter().map(|instance| ServerView {
        host: instance.host_id.and_then(|id| hosts.get(&id).cloned()),
        addresses: addresses.remove(&instance.id).unwrap_or_default(),
        security_groups: groups.remove(&instance.id).unwrap_or_default(),
        base_url: call.app.base_url.clone(),
        instance,
    });
    Ok(views.collect())
}

/// A server in full.
pub fn detail(view: &ServerView, call: &Call) -> Value {
    let admin = call
        .context
        .may("os_compute_api:os-extended-server-attributes");
    let mut value = render(FIELDS, view, call.version, admin);
    if admin && let Some(fault) = fault(&view.instance, true) {
        value["fault"] = fault;
    }
    value
}

/// A server as it is shown alone: since 2.71 with its group, which no list has.
pub fn alone(view: &ServerView, call: &Call) -> Value {
    let mut value = detail(view, call);
    if call.since(71) {
        let group: Vec<&String> = view.instance.body.hints.group.iter().collect();
        value["server_groups"] = json!(group);
    }
    value
}

/// A server as an update answers: since 2.75 as it is shown.
pub fn updated(view: &ServerView, call: &Call) -> Value {
    let mut value = alone(view, call);
    if call.since(75) {
        return value;
    }
    if let Value::Object(map) = &mut value {
        map.retain(|name, _| UPDATE_FIELDS.contains(&name.as_str()));
    }
    value
}

/// A server in a list without detail.
pub fn basic(instance: &Instance, call: &Call) -> Value {
    json!({
        "id": instance.id,
        "name": instance.name,
        "links": call.links(&format!("servers/{}", instance.id)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::render::names;

    const BASE: &[&str] = &[
        "id",
        "name",
        "status",
        "tenant_id",
        "user_id",
        "metadata",
        "hostId",
        "image",
        "flavor",
        "created",
        "updated",
        "addresses",
        "accessIPv4",
        "accessIPv6",
        "links",
        "OS-DCF:diskConfig",
        "progress",
        "fault",
        "OS-EXT-AZ:availability_zone",
        "config_drive",
        "key_name",
        "OS-SRV-USG:launched_at",
        "OS-SRV-USG:terminated_at",
        "security_groups",
        "OS-EXT-STS:task_state",
        "OS-EXT-STS:vm_state",
        "OS-EXT-STS:power_state",
        "os-extended-volumes:volumes_attached",
    ];

    /// The outside oracle is Nova's own list of what each microversion added.
    #[test]
    fn each_microversion_shows_what_nova_shows_and_no_more() {
        for (version, added) in [
            (1, &[][..]),
            (8, &[]),
            (9, &["locked"]),
            (18, &["locked"]),
            (19, &["locked", "description"]),
            (25, &["locked", "description"]),
            (26, &["locked", "description", "tags"]),
            (62, &["locked", "description", "tags"]),
        ] {
            let expected: Vec<_> = BASE.iter().chain(added).copied().collect();
            assert_eq!(
                names(FIELDS, Microversion(version), false),
                expected,
                "2.{version}"
            );
        }
    }

    #[test]
    fn what_came_since_2_60_is_there_from_its_microversion_on() {
        for (field, since) in [
            ("trusted_image_certificates", 63),
            ("locked_reason", 73),
            ("OS-EXT-SRV-ATTR:hostname", 90),
            ("pinned_availability_zone", 96),
        ] {
            for (version, there) in [(since - 1, false), (since, true), (96, true)] {
                let shown = names(FIELDS, Microversion(version), false);
                assert_eq!(shown.contains(&field), there, "{field} in 2.{version}");
            }
        }
    }

    #[test]
    fn administrators_see_hosts_and_since_2_3_and_2_16_more() {
        let admin = |version| {
            let all = names(FIELDS, Microversion(version), true);
            let only: Vec<_> = all.into_iter().filter(|n| !BASE.contains(n)).collect();
            only
        };
        assert_eq!(
            admin(1),
            [
                "OS-EXT-SRV-ATTR:host",
                "OS-EXT-SRV-ATTR:hypervisor_hostname",
                "OS-EXT-SRV-ATTR:instance_name"
            ]
        );
        assert_eq!(admin(3).len(), 10);
        assert!(!admin(15).contains(&"host_status"));
        assert!(admin(16).contains(&"host_status"));
    }

    #[test]
    fn an_update_answers_with_known_fields_only() {
        for name in UPDATE_FIELDS {
            // The group is no field of every view.
            let known = *name == "server_groups" || FIELDS.iter().any(|f| f.name == *name);
            assert!(known, "{name}");
        }
    }
}
