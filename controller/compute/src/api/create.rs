//! `POST /servers`: checked whole, then accepted whole.
//!
//! One transaction holds everything that makes a server accepted: quota, rows, ports with their
//! addresses, the action and the operation. If it does not commit, nothing has happened.
//! [`super::create_request`] has checked its form before.

use super::common::{Call, Reply, answer, bad, error, forbidden, tx};
use super::create_request::{Request, parse};
use super::{imaging, networking};
use crate::flavors::{self, FlavorSnapshot};
use crate::instances::{self, Body, NewInstance};
use crate::quotas::{self, Counted, Usage};
use crate::workflow::{self, Begin, Kind};
use crate::{actions, boot_sources, groups, keypairs};
use axum::body::Bytes;
use axum::http::StatusCode;
use berth_controller_core::body::clip;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, additions, params, read};
use berth_rpc::kill_point;
use berth_rpc_types::InstanceId;
use serde_json::json;

/// How many times a project is counted for one request at the most.
const COUNTS: u32 = 30;

/// `POST /servers`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let request = parse(&call, &bytes)?;
    if call.context.project_id.is_empty() {
        return Err(forbidden(
            "A server belongs to a project: the token is to be scoped to one.",
        ));
    }
    let turn = call.app.turns.of(&call.context.project_id).await;
    let made = add(&call, &request).await?;
    drop(turn);
    kill_point!("controller.request.committed");
    call.app.wake.notify_one();
    let body = if request.return_reservation_id {
        json!({"reservation_id": made.reservation_id})
    } else {
        let groups = request
            .security_groups
            .unwrap_or_else(|| vec!["default".to_owned()]);
        let groups: Vec<_> = groups.iter().map(|g| json!({ "name": g })).collect();
        let manual = request.body.manual_disk_config;
        json!({"server": {
            "id": made.first,
            "links": call.links(&format!("servers/{}", made.first)),
            "OS-DCF:diskConfig": if manual { "MANUAL" } else { "AUTO" },
            "security_groups": groups,
        }})
    };
    let mut response = answer(StatusCode::ACCEPTED, body);
    if let Ok(location) = call.href(&format!("servers/{}", made.first)).parse() {
        let headers = response.headers_mut();
        headers.insert(axum::http::header::LOCATION, location);
    }
    Ok(response)
}

/// Accepts it, and counts what its project has until nothing was added between the count and that.
async fn add(call: &Call, request: &Request) -> Result<Made, ApiError> {
    // Each time that it is counted again, another request added: another controller's, as those of this one
    // take turns.
    for _ in 0..COUNTS {
        let counted = read!(call, |tx| [call] {
            Counted::now(tx, &call.context.project_id).await
        })?;
        let made = tx!(call, |tx| [call, request, counted] {
            let project = &call.context.project_id;
            if !additions::raise_from(tx, project, counted.additions).await? {
                return Ok(None);
            }
            let made = accept(tx, &call, request, counted).await?;
            kill_point!("controller.request.uncommitted");
            Ok::<_, ApiError>(Some(made))
        })?;
        if let Some(made) = made {
            return Ok(made);
        }
    }
    Err(StoreError::Contended(COUNTS).into())
}

/// What was accepted.
struct Made {
    first: InstanceId,
    reservation_id: String,
}

/// Looks up what the request names, and writes everything.
async fn accept(
    tx: &mut Tx,
    call: &Call,
    mut request: Request,
    mut counted: Counted,
) -> Result<Made, ApiError> {
    let env = call.app.env();
    let now = env.now();
    let project = call.context.project_id.clone();
    let flavor = flavors::get(tx, &request.flavor_ref, call.context.reach.project())
        .await?
        .ok_or_else(|| {
            bad(format!(
                "Flavor {} could not be found.",
                clip(&request.flavor_ref)
            ))
        })?;
    let sources = imaging::check(tx, call, request.image_id, &flavor).await?;
    if let Some(key_name) = &request.key_name {
        let key = keypairs::get(tx, &call.context.user_id, key_name).await?;
        let key = key.ok_or_else(|| {
            bad(format!(
                "Invalid key_name provided: there is no key {}.",
                clip(key_name)
            ))
        })?;
        request.body.public_key = Some(key.public_key);
    }
    check_zone(tx, &request.body).await?;
    let limits = quotas::limits(tx, &project).await?;
    let most = quotas::limit_of(&limits, "metadata_items");
    let items = i64::try_from(request.body.metadata.len()).unwrap_or(i64::MAX);
    if most >= 0 && items > most {
        return Err(forbidden(format!(
            "Quota exceeded for metadata_items: Requested {items}, but limit is {most}"
        )));
    }
    let count = affordable(counted.usage, &limits, &request, &flavor)?;
    if let Some(group) = request.body.hints.group.clone() {
        check_group(tx, call, &group, count, &limits).await?;
    }
    let snapshot = FlavorSnapshot::from(&flavor);
    request.body.reservation_id = format!("r-{:08x}", env.rng.below(1 << 32));
    request.body.security_groups = request.security_groups.clone().unwrap_or_default();
    let reservation_id = request.body.reservation_id.clone();
    let params = match &request.body.requested_host {
        Some(host) => json!({"forced_host": host}),
        None => json!({}),
    };
    let mut first = None;
    for index in 0..count {
        let mut body = request.body.clone();
        body.launch_index = u32::try_from(index).unwrap_or(u32::MAX);
        if let Some(hostname) = &request.body.hostname {
            body.hostname = Some(numbered(hostname, index, request.max_count));
        }
        let new = NewInstance {
            id: env.instance_id(),
            project_id: project.clone(),
            user_id: call.context.user_id.clone(),
            name: numbered(&request.name, index, request.max_count),
            flavor: snapshot.clone(),
            image_id: request.image_id,
            key_name: request.key_name.clone(),
            body,
        };
        instances::insert(tx, now, &new).await?;
        instances::insert_root_disk(tx, now, env.uuid(), &new).await?;
        boot_sources::keep(tx, new.id, &sources).await?;
        if let Some(group) = &new.body.hints.group {
            groups::join(tx, group, new.id).await?;
        }
        let groups = request.security_groups.as_deref();
        let ports = &mut counted.ports;
        networking::attach(tx, call, new.id, &request.networks, groups, ports).await?;
        let origin = call.context.origin();
        let begin = Begin {
            kind: Kind::Create,
            instance_id: new.id,
            origin: &origin,
            params: &params,
        };
        let operation = workflow::begin(tx, &env, begin).await?;
        actions::start(tx, now, new.id, &origin, "create", Some(operation)).await?;
        first.get_or_insert(new.id);
    }
    let first = first.ok_or_else(|| bad("min_count is to be 1 or more"))?;
    Ok(Made {
        first,
        reservation_id,
    })
}

/// Servers of one request are told apart by a number, as in Nova: `web-1`, `web-2`.
fn numbered(name: &str, index: i64, max_count: i64) -> String {
    if max_count <= 1 {
        return name.to_owned();
    }
    let suffix = format!("-{}", index + 1);
    let room = 255_usize.saturating_sub(suffix.len());
    let stem: String = name.chars().take(room).collect();
    stem + &suffix
}

/// How many servers the quota allows, between the least and the most asked for.
fn affordable(
    used: Usage,
    limits: &[(&'static str, i64)],
    request: &Request,
    flavor: &flavors::Flavor,
) -> Result<i64, ApiError> {
    let held = quotas::compute_limits(limits);
    let over = |count: i64| {
        let asked = Usage {
            instances: count,
            cores: flavor.vcpus.saturating_mul(count),
            ram: flavor.ram.saturating_mul(count),
        };
        quotas::over_quota(held, used, asked)
    };
    let fits = (request.min_count..=request.max_count)
        .rev()
        .find(|count| over(*count).is_none());
    fits.ok_or_else(|| forbidden(over(request.min_count).unwrap_or_default()))
}

async fn check_zone(tx: &mut Tx, body: &Body) -> Result<(), ApiError> {
    if let Some(zone) = &body.requested_zone {
        let row: Option<(String,)> = tx
            .query_opt(
                "SELECT id FROM hosts WHERE availability_zone = $1",
                params![zone],
            )
            .await?;
        if row.is_none() {
            return Err(bad(format!(
                "The requested availability zone is not available: no host is in {}.",
                clip(zone)
            )));
        }
    }
    if let Some(host) = &body.requested_host {
        let row: Option<(String,)> = tx
            .query_opt("SELECT id FROM hosts WHERE hostname = $1", params![host])
            .await?;
        if row.is_none() {
            return Err(bad(format!(
                "Compute host {} could not be found.",
                clip(host)
            )));
        }
    }
    Ok(())
}

async fn check_group(
    tx: &mut Tx,
    call: &Call,
    id: &str,
    count: i64,
    limits: &[(&'static str, i64)],
) -> Result<(), ApiError> {
    let group = groups::get(tx, id).await?;
    let group = group
        .filter(|g| call.context.may_see(&g.project_id))
        .ok_or_else(|| bad(format!("Instance group {id} could not be found.")))?;
    let most = quotas::limit_of(limits, "server_group_members");
    let members = i64::try_from(group.members.len()).unwrap_or(i64::MAX);
    if most >= 0 && members.saturating_add(count) > most {
        return Err(error(
            StatusCode::FORBIDDEN,
            format!("Quota exceeded, too many servers in group: it has {members} of {most}"),
        ));
    }
    Ok(())
}
