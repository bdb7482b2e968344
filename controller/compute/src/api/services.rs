//! Compute services: each host is one, `nova-compute`; administrators disable it, force it down
//! ([`berth_controller_hosts::fences`]), and remove one that has nothing ([`removal`]).

use super::common::{
    Call, Reply, bad, boolean, conflict, name, not_found, ok, read, status, tx, uuid,
};
use super::hosts::{ALL, Host, hosts};
use super::render::{Field, render};
use crate::{InstanceKinds, Instances};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, Service, params};
use berth_controller_hosts::fences;
use berth_controller_hosts::removal::{self, RemovalError};
use berth_rpc_types::HostId;
use serde_json::{Map, Value, json};

type F = Field<Host>;

const SERVICE: &[F] = &[
    F::always("id", |h, version| Some(h.service_id(version))),
    F::always("binary", |_, _| Some(json!("nova-compute"))),
    F::always("host", |h, _| Some(json!(h.hostname))),
    F::always("zone", |h, _| Some(json!(h.availability_zone))),
    F::always("status", |h, _| Some(json!(h.status()))),
    F::always("state", |h, _| Some(json!(h.state()))),
    F::always("updated_at", |h, _| Some(json!(h.seen()))),
    F::always("disabled_reason", |h, _| Some(json!(h.disabled_reason))),
    F::always("forced_down", |h, _| Some(json!(h.forced_down))).since(11),
];

fn service(call: &Call, host: &Host) -> Value {
    render(SERVICE, host, call.version, true)
}

/// `GET /os-services`
pub async fn services(call: Call, params: Params) -> Reply {
    let mut which = match params.get("host") {
        Some(host) => Condition::new("hostname = ?", [host.into()]),
        None => Condition::default(),
    };
    if params.get("binary").is_some_and(|b| b != "nova-compute") {
        which.and(Condition::never());
    }
    let all = read!(call, |tx| [call, which] { hosts(tx, &call, &which, ALL).await })?;
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

/// Changes a host's row. After the commit, the driver is to be poked: a force-down may end what
/// waits for the host.
async fn change(tx: &mut Tx, call: &Call, host: HostId, change: &Change) -> Result<(), StoreError> {
    let now = call.now();
    if let Some(enabled) = change.enabled {
        tx.execute(
            "UPDATE hosts SET enabled = $1, disabled_reason = $2, updated_at = $3 WHERE id = $4",
            params![enabled, change.reason.clone(), now, host],
        )
        .await?;
    }
    match change.forced_down {
        Some(true) => fences::force_down(tx, now, &InstanceKinds, &call.context, host).await?,
        Some(false) => fences::lift(tx, now, &call.context, host).await?,
        None => false,
    };
    Ok(())
}

/// `PUT /os-services/{id or verb}`: by id since 2.53, by verb before.
pub async fn service_update(call: Call, Path(what): Path<String>, bytes: Bytes) -> Reply {
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
    let body = berth_controller_core::body::parse(Service::Compute, &bytes)?;
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
        let this = Condition::new("id = ?", [id.into()]);
        let host = hosts(tx, &call, &this, 1).await?.pop();
        host.map(|h| service(&call, &h))
            .ok_or_else(|| not_found(format!("Service {id} not found.")))
    })?;
    call.app.wake.notify_one();
    ok(json!({ "service": shown }))
}

async fn service_by_verb(call: Call, verb: String, bytes: Bytes) -> Reply {
    let body = berth_controller_core::body::parse(Service::Compute, &bytes)?;
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
        let (host_id,) = tx
            .query_opt("SELECT id FROM hosts WHERE hostname = $1", params![&hostname])
            .await?
            .filter(|_| binary == "nova-compute")
            .ok_or_else(|| {
                not_found(format!("Host '{}' binary '{}' could not be found.", clip(&hostname), clip(&binary)))
            })?;
        change(tx, &call, host_id, &asked).await?;
        Ok::<_, ApiError>(())
    })?;
    call.app.wake.notify_one();
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

/// `DELETE /os-services/{id}`: the host is removed, if it has nothing; its hostname is free then.
pub async fn service_delete(call: Call, Path(id): Path<String>) -> Reply {
    let by_number = match call.since(53) {
        true => None,
        false => Some(
            id.parse::<i64>()
                .map_err(|_| bad("Service id is a number before 2.53."))?,
        ),
    };
    let by_id = uuid(&id).map(HostId);
    if by_number.is_none() && by_id.is_none() {
        return Err(bad(format!("Invalid uuid {}", clip(&id))));
    }
    tx!(call, |tx| [call, id] {
        let unknown = not_found(format!("Service {} not found.", clip(&id)));
        let found = match by_number {
            Some(number) => {
                let sql = "SELECT id FROM hosts WHERE service_id = $1";
                tx.query_opt::<(HostId,)>(sql, params![number]).await?.map(|(id,)| id)
            }
            None => by_id,
        };
        let Some(host) = found else {
            return Err(unknown);
        };
        match removal::remove(tx, call.now(), &Instances, host).await {
            Ok(()) => Ok(()),
            Err(RemovalError::Unknown(_)) => Err(unknown),
            Err(RemovalError::Store(error)) => Err(error.into()),
            Err(why @ RemovalError::InUse(_)) => Err(conflict(format!(
                "Unable to delete compute service that is hosting instances: {why}. Migrate or delete the \
                 instances first."
            ))),
            Err(why @ RemovalError::HasStrays(_)) => Err(conflict(format!(
                "Unable to delete compute service: {why}. Look at them (berth doctor --audit), or make sure \
                 that the host is off and force it down first."
            ))),
        }
    })?;
    status(StatusCode::NO_CONTENT)
}
