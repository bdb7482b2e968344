//! Hosts as administrators see them: [`super::services`] and [`super::hypervisors`] are two views
//! of one, and a zone is a property of some.
//!
//! What is used of a host is the sum of its claims.

use super::common::{Call, Reply, not_found, ok, read, unsupported};
use super::microversion::Microversion;
use axum::extract::Path;
use berth_controller_core::body::clip;
use berth_controller_core::store::{Json, StoreError, Tx};
use berth_controller_core::{beat, params, row, time};
use berth_rpc_types::{Capacity, HostId};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

row! {
    /// A host with what is used of it.
    pub(super) struct Host {
        pub id: HostId,
        pub service_id: i64,
        pub hostname: String,
        pub address: String,
        pub availability_zone: String,
        pub enabled: bool,
        pub disabled_reason: Option<String>,
        pub forced_down: bool,
        pub silent: i64,
        pub seen_at: i64,
        pub capacity: Json<Capacity>,
    } beside {
        pub up: bool,
        pub used: Used,
        /// Id and name of each server on it, if they were asked for.
        pub servers: Option<Vec<(String, String)>>,
    }
}

row! {
    /// The claims on a host.
    #[derive(Default)]
    pub(super) struct Used {
        host_id: Option<HostId>,
        pub vcpus: i64,
        pub memory_mib: i64,
        pub disk_gib: i64,
        pub guests: i64,
    }
}

impl Host {
    pub fn status(&self) -> &'static str {
        if self.enabled { "enabled" } else { "disabled" }
    }

    pub fn state(&self) -> &'static str {
        if self.up { "up" } else { "down" }
    }

    /// When it was last heard, as Nova writes it.
    pub fn seen(&self) -> String {
        let seen = time::micros(self.seen_at);
        seen.trim_end_matches('Z').to_owned()
    }

    pub fn service_id(&self, version: Microversion) -> Value {
        if version.0 >= 53 {
            json!(self.id)
        } else {
            json!(self.service_id)
        }
    }
}

/// Every host, with what is used of it.
pub(super) async fn hosts(tx: &mut Tx, call: &Call) -> Result<Vec<Host>, StoreError> {
    let mut hosts: Vec<Host> = tx
        .query(
            &format!(
                "SELECT id, service_id, hostname, address, availability_zone, enabled, \
                 disabled_reason, forced_down, capacity, {} FROM hosts ORDER BY service_id",
                beat::SEEN
            ),
            params![],
        )
        .await?;
    for host in &mut hosts {
        let control = &call.app.control;
        host.up = control.is_up(host.silent, host.forced_down);
    }
    let claims: Vec<Used> = tx
        .query(
            "SELECT host_id, CAST(SUM(vcpus) AS BIGINT) AS vcpus, \
             CAST(SUM(memory_mib) AS BIGINT) AS memory_mib, \
             CAST(SUM(disk_gib) AS BIGINT) AS disk_gib, COUNT(*) AS guests \
             FROM claims GROUP BY host_id",
            params![],
        )
        .await?;
    let mut claims: HashMap<Option<HostId>, Used> = claims
        .into_iter()
        .map(|used| (used.host_id, used))
        .collect();
    for host in &mut hosts {
        host.used = claims.remove(&Some(host.id)).unwrap_or_default();
    }
    Ok(hosts)
}

/// `GET /os-availability-zone`
pub async fn zones(call: Call) -> Reply {
    zone_list(call, false).await
}

/// `GET /os-availability-zone/detail`
pub async fn zones_detail(call: Call) -> Reply {
    zone_list(call, true).await
}

async fn zone_list(call: Call, detail: bool) -> Reply {
    let all = read!(call, |tx| [call] { hosts(tx, &call).await })?;
    let mut zones: BTreeMap<&str, Vec<&Host>> = BTreeMap::new();
    for host in &all {
        zones
            .entry(host.availability_zone.as_str())
            .or_default()
            .push(host);
    }
    let list: Vec<Value> = zones
        .iter()
        .map(|(zone, hosts)| {
            let mut by_name = Map::new();
            for host in hosts {
                let service = json!({
                    "available": host.up,
                    "active": host.enabled,
                    "updated_at": host.seen(),
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
pub async fn aggregates() -> Reply {
    ok(json!({"aggregates": []}))
}

/// `POST /os-aggregates`
pub async fn no_aggregates(_: Call) -> Reply {
    Err(unsupported("An aggregate of hosts"))
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
