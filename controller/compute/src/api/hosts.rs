//! Hosts as administrators see them: [`super::services`] and [`super::hypervisors`] are two views
//! of one, and a zone is a property of some.
//!
//! What is used of a host is the sum of its claims.

use super::common::{Call, Reply, not_found, ok, read, unsupported};
use super::microversion::Microversion;
use crate::placement::{self, Claimed};
use axum::extract::Path;
use berth_controller_core::body::clip;
use berth_controller_core::listing::Condition;
use berth_controller_core::store::{Json, StoreError, Tx};
use berth_controller_core::{beat, row, time};
use berth_rpc_types::{Capacity, HostId};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

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
        pub used: Claimed,
        /// Id and name of each server on it, if they were asked for.
        pub servers: Option<Vec<(String, String)>>,
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

/// As many as there are.
pub(super) const ALL: usize = i32::MAX as usize;
/// Hosts of which claims are summed in one statement.
const SUMMED: usize = 500;

/// The hosts that meet a condition, by service id, each with what is used of it; at most so many.
pub(super) async fn hosts(
    tx: &mut Tx,
    call: &Call,
    which: &Condition,
    most: usize,
) -> Result<Vec<Host>, StoreError> {
    let (sql, values) = which.statement(
        &format!(
            "SELECT id, service_id, hostname, address, availability_zone, enabled, \
             disabled_reason, forced_down, capacity, {} FROM hosts",
            beat::SEEN
        ),
        &format!("ORDER BY service_id LIMIT {most}"),
    );
    let mut hosts: Vec<Host> = tx.query(&sql, &values).await?;
    for chunk in hosts.chunks_mut(SUMMED) {
        let these = Condition::among("host_id", chunk.iter().map(|host| host.id.into()));
        let mut claimed = placement::claimed(tx, &these).await?;
        for host in chunk {
            let control = &call.app.control;
            host.up = control.is_up(host.silent, host.forced_down);
            host.used = claimed.remove(&host.id).unwrap_or_default();
        }
    }
    Ok(hosts)
}

/// Every host.
pub(super) async fn every_host(tx: &mut Tx, call: &Call) -> Result<Vec<Host>, StoreError> {
    hosts(tx, call, &Condition::default(), ALL).await
}

/// `GET /os-availability-zone`: which zones there are, at the cost of how many, not of their hosts.
pub async fn zones(call: Call) -> Reply {
    let zones: Vec<(String, bool)> =
        read!(call, |tx| [call] { tx.query::<(String, bool)>(ZONES, &[]).await })?;
    let list: Vec<Value> = zones
        .iter()
        .map(|(zone, available)| zone_view(zone, *available, Value::Null))
        .collect();
    ok(json!({ "availabilityZoneInfo": list }))
}

/// Each zone, and whether it has a host that takes servers. From one to the next by index.
const ZONES: &str = "WITH RECURSIVE zones (zone) AS ( \
        SELECT MIN(availability_zone) FROM hosts \
        UNION ALL \
        SELECT (SELECT MIN(h.availability_zone) FROM hosts h WHERE h.availability_zone > z.zone) \
        FROM zones z WHERE z.zone IS NOT NULL \
    ) SELECT z.zone, CASE WHEN EXISTS (SELECT 1 FROM hosts h WHERE h.availability_zone = z.zone \
        AND h.enabled = 1) THEN 1 ELSE 0 END AS available \
    FROM zones z WHERE z.zone IS NOT NULL ORDER BY z.zone";

fn zone_view(zone: &str, available: bool, hosts: Value) -> Value {
    json!({"zoneName": zone, "zoneState": {"available": available}, "hosts": hosts})
}

/// `GET /os-availability-zone/detail`
pub async fn zones_detail(call: Call) -> Reply {
    let all = read!(call, |tx| [call] { every_host(tx, &call).await })?;
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
            let available = hosts.iter().any(|h| h.enabled);
            zone_view(zone, available, Value::Object(by_name))
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
