//! Networks over HTTP.

use super::{
    Reply, STYLE, answer_list, bad, created, forbidden, no_content, not_offered, ok, one_or_many,
    only, project_of,
};
use crate::networks::{self, Network};
use crate::tags::{self, Kind};
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::{ApiError, AppState, Call, RequestContext, Service, read, time, tx};
use serde_json::{Value, json};

/// Fields that lists may be filtered and sorted by.
/// What only those are shown who may see how a network is made.
const PROVIDER: &[&str] = &[
    "provider:network_type",
    "provider:physical_network",
    "provider:segmentation_id",
];

const SETTABLE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "shared",
    "mtu",
    "port_security_enabled",
    "router:external",
];

const AT_CREATE: &[&str] = &[
    "project_id",
    "tenant_id",
    "provider:network_type",
    "provider:physical_network",
    "provider:segmentation_id",
    "availability_zone_hints",
];

/// The smallest and the largest MTU: IPv4's least, and what a 16-bit field holds.
const MTU: (i64, i64) = (68, 65_535);

fn view(context: &RequestContext, network: &Network, subnets: &[String]) -> Value {
    let mut body = json!({
        "id": network.id,
        "name": network.name,
        "description": network.description,
        "tenant_id": network.project_id,
        "project_id": network.project_id,
        "admin_state_up": network.admin_state_up,
        "status": "ACTIVE",
        "shared": network.shared,
        "router:external": network.external,
        "mtu": network.mtu,
        "subnets": subnets,
        "port_security_enabled": false,
        "availability_zones": [],
        "availability_zone_hints": [],
        "tags": network.tags,
        "revision_number": network.revision,
        "created_at": time::seconds(network.created_at),
        "updated_at": time::seconds(network.updated_at),
    });
    if context.may("network:get_network:provider") {
        body["provider:network_type"] = json!(network.network_type);
        body["provider:physical_network"] = json!(network.physical_network);
        body["provider:segmentation_id"] = Value::Null;
    }
    body
}

/// Refuses what is only an administrator's, or not enforced.
fn check_policy(context: &RequestContext, fields: &Fields<'_>) -> Result<(), ApiError> {
    let provider = "network:create_network:provider";
    for (name, action) in [
        ("shared", "network:create_network:shared"),
        ("router:external", "network:create_network:router:external"),
        ("provider:network_type", provider),
        ("provider:physical_network", provider),
        ("provider:segmentation_id", provider),
    ] {
        if !matches!(fields.get(name), None | Some(Value::Bool(false))) {
            context.require(action)?;
        }
    }
    if fields.flag("port_security_enabled")? == Some(true) {
        return Err(not_offered("port_security_enabled", "true"));
    }
    if fields
        .list("availability_zone_hints")?
        .is_some_and(|h| !h.is_empty())
    {
        return Err(not_offered("availability_zone_hints", "a non-empty list"));
    }
    Ok(())
}

/// What a network is wired to: a physical network (`flat`), or a bridge on each host (`local`).
fn provider(fields: &Fields<'_>, default: &str) -> Result<(String, Option<String>), ApiError> {
    let kind = fields.text("provider:network_type", 32)?;
    let physical = fields.text("provider:physical_network", 64)?;
    if let Some(id) = fields.get("provider:segmentation_id") {
        return Err(not_offered("provider:segmentation_id", &id.to_string()));
    }
    match (kind.as_deref(), physical) {
        (None | Some("local"), None) => Ok(("local".into(), None)),
        (None | Some("flat"), Some(physical)) if !physical.trim().is_empty() => {
            Ok(("flat".into(), Some(physical)))
        }
        (Some("flat"), None) if !default.is_empty() => Ok(("flat".into(), Some(default.into()))),
        (Some("flat"), _) => Err(bad(
            "Invalid input for operation: provider:physical_network required for flat network.",
        )),
        (Some("local"), Some(_)) => Err(bad(
            "Invalid input for operation: provider:physical_network specified for local network.",
        )),
        (Some(other), _) => Err(not_offered("provider:network_type", other)),
        (None, Some(_)) => Err(bad("provider:physical_network is empty.")),
    }
}

fn parse(
    app: &AppState,
    context: &RequestContext,
    fields: &Fields<'_>,
) -> Result<Network, ApiError> {
    fields.only(&[SETTABLE, AT_CREATE].concat())?;
    check_policy(context, fields)?;
    let (network_type, physical_network) =
        provider(fields, &app.settings.default_physical_network)?;
    let now = app.clock.now_millis();
    Ok(Network {
        id: crate::networks::new_id(&*app.rng),
        project_id: project_of(context, fields)?,
        name: fields.text("name", 255)?.unwrap_or_default(),
        description: fields.text("description", 255)?.unwrap_or_default(),
        admin_state_up: fields.flag("admin_state_up")?.unwrap_or(true),
        shared: fields.flag("shared")?.unwrap_or(false),
        external: fields.flag("router:external")?.unwrap_or(false),
        network_type,
        physical_network,
        mtu: fields.int("mtu", MTU.0, MTU.1)?.unwrap_or(1500),
        revision: 1,
        created_at: now,
        updated_at: now,
        tags: Vec::new(),
    })
}

/// `POST /v2.0/networks`, one or several.
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let (all, bulk) = one_or_many(&body, "network", "networks")?;
    let new: Vec<Network> = all
        .iter()
        .map(|f| parse(&call.app, &call.context, f))
        .collect::<Result<_, _>>()?;
    tx!(call, |tx| [new] {
        for network in &new {
            networks::insert(tx, network).await?;
        }
        Ok::<_, ApiError>(())
    })?;
    let views = new.iter().map(|n| view(&call.context, n, &[])).collect();
    Ok(created("network", "networks", bulk, views))
}

/// `GET /v2.0/networks`
pub async fn list(call: Call, query: Params) -> Reply {
    let hidden = match call.context.may("network:get_network:provider") {
        true => &[],
        false => PROVIDER,
    };
    let asked = STYLE.asked(
        &networks::TABLE,
        &query,
        hidden,
        |name, wanted| match name {
            "subnets" => {
                let named = Condition::among("id", wanted.iter().map(|id| (*id).into()));
                Some(Ok(named.within("n.id", "SELECT network_id FROM subnets")))
            }
            // Networks name none.
            "availability_zones" => Some(Ok(Condition::never())),
            _ => tags::filter(Kind::Networks, "n.id", name, wanted).map(Ok),
        },
    )?;
    let (page, found) = read!(call, |tx| [call, asked] {
        let project = call.context.reach.project();
        let visible = networks::visible(project);
        let page = STYLE.page(tx, &networks::TABLE, &visible, project, &asked).await?;
        let found = networks::of_page(tx, &page).await?;
        Ok::<_, ApiError>((page, found))
    })?;
    let views = found
        .iter()
        .map(|(n, subnets)| view(&call.context, n, subnets));
    answer_list(
        &call.app,
        "networks",
        "networks",
        &page,
        views.collect(),
        &query,
    )
}

/// `GET /v2.0/networks/{id}`
pub async fn show(call: Call, Path(id): Path<String>, query: Params) -> Reply {
    let (network, subnets) = read!(call, |tx| [call, id] {
        let mut network = networks::load(tx, &call.context.reach, &id).await?;
        tags::fill(tx, std::slice::from_mut(&mut network)).await?;
        let subnets = networks::subnet_ids(tx, &id).await?;
        Ok::<_, ApiError>((network, subnets))
    })?;
    let body = only(view(&call.context, &network, &subnets), &query);
    Ok(ok(json!({"network": body})))
}

/// Refuses callers who may see a network but not change it.
fn must_own(context: &RequestContext, network: &Network) -> Result<(), ApiError> {
    if context.may_see(&network.project_id) {
        return Ok(());
    }
    Err(forbidden(format!(
        "Network {} is another project's: only its owner may change it.",
        network.id
    )))
}

/// `PUT /v2.0/networks/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let fields = Fields::within(Service::Network, &body, "network")?;
    fields.only(SETTABLE)?;
    check_policy(&call.context, &fields)?;
    let name = fields.text("name", 255)?;
    let description = fields.text("description", 255)?;
    let up = fields.flag("admin_state_up")?;
    let shared = fields.flag("shared")?;
    let external = fields.flag("router:external")?;
    let mtu = fields.int("mtu", MTU.0, MTU.1)?;
    let now = call.now();
    let (network, subnets) = tx!(call, |tx| [call, id, name, description] {
        let mut network = networks::load(tx, &call.context.reach, &id).await?;
        must_own(&call.context, &network)?;
        if up == Some(false) && network.admin_state_up {
            networks::must_hold_no_server(tx, &id).await?;
        }
        network.name = name.unwrap_or(network.name);
        network.description = description.unwrap_or(network.description);
        network.admin_state_up = up.unwrap_or(network.admin_state_up);
        if shared == Some(false) && network.shared {
            networks::must_hold_no_foreign_port(tx, &network).await?;
        }
        network.shared = shared.unwrap_or(network.shared);
        network.external = external.unwrap_or(network.external);
        let mtu_changed = mtu.is_some_and(|m| m != network.mtu);
        network.mtu = mtu.unwrap_or(network.mtu);
        network.updated_at = now;
        networks::update(tx, &network).await?;
        network.revision += 1;
        tags::fill(tx, std::slice::from_mut(&mut network)).await?;
        if mtu_changed {
            crate::bindings::changed(tx, &id).await?;
        }
        let subnets = networks::subnet_ids(tx, &id).await?;
        Ok::<_, ApiError>((network, subnets))
    })?;
    Ok(ok(
        json!({"network": view(&call.context, &network, &subnets)}),
    ))
}

/// `DELETE /v2.0/networks/{id}`, with its subnets.
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] {
        let network = networks::load(tx, &call.context.reach, &id).await?;
        must_own(&call.context, &network)?;
        networks::delete(tx, &id).await
    })?;
    Ok(no_content())
}
