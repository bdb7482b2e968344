//! Ports over HTTP.

use super::{
    Reply, STYLE, answer_list, bad, created, forbidden, no_content, not_offered, ok, one_or_many,
    only, project_of,
};
use crate::networks;
use crate::ports::{self, Port, WantedAddress};
use crate::tags::{self, Kind};
use crate::{addresses, bindings, quotas, security_groups};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::{self, Fields, clip};
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use berth_controller_core::{
    ApiError, AppState, Call, Env, RequestContext, Service, additions, read, time, tx,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

const SETTABLE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "mac_address",
    "device_id",
    "device_owner",
    "fixed_ips",
    "security_groups",
    "port_security_enabled",
    "allowed_address_pairs",
    "extra_dhcp_opts",
    "binding:host_id",
    "binding:vnic_type",
    "binding:profile",
];

const AT_CREATE: &[&str] = &["network_id", "project_id", "tenant_id"];

fn view(context: &RequestContext, port: &Port) -> Value {
    let fixed_ips: Vec<Value> = port
        .fixed_ips
        .iter()
        .map(|(subnet, address)| json!({"subnet_id": subnet, "ip_address": address}))
        .collect();
    let mut body = json!({
        "id": port.id,
        "name": port.name,
        "description": port.description,
        "network_id": port.network_id,
        "tenant_id": port.project_id,
        "project_id": port.project_id,
        "admin_state_up": port.admin_state_up,
        "status": port.status,
        "mac_address": port.mac,
        "device_id": port.device_id,
        "device_owner": port.device_owner,
        "fixed_ips": fixed_ips,
        "security_groups": port.groups,
        "port_security_enabled": false,
        "binding:vnic_type": "normal",
        "tags": port.tags,
        "revision_number": port.revision,
        "created_at": time::seconds(port.created_at),
        "updated_at": time::seconds(port.updated_at),
    });
    if context.may("network:get_port:binding:host_id") {
        body["binding:host_id"] = json!(port.host_id.as_deref().unwrap_or_default());
        body["binding:vif_type"] = json!(if port.host_id.is_some() {
            "bridge"
        } else {
            "unbound"
        });
        body["binding:vif_details"] = json!({});
        body["binding:profile"] = json!({});
    }
    body
}

/// Refuses what hosts would not do, and what only compute does.
fn check_offered(context: &RequestContext, fields: &Fields<'_>) -> Result<(), ApiError> {
    if fields.flag("port_security_enabled")? == Some(true) {
        return Err(not_offered("port_security_enabled", "true"));
    }
    for name in ["allowed_address_pairs", "extra_dhcp_opts"] {
        if fields.list(name)?.is_some_and(|l| !l.is_empty()) {
            return Err(not_offered(name, "a non-empty list"));
        }
    }
    if let Some(kind) = fields.text("binding:vnic_type", 32)?
        && kind != "normal"
    {
        return Err(not_offered("binding:vnic_type", &kind));
    }
    if fields
        .object("binding:profile")?
        .is_some_and(|p| p.iter().next().is_some())
    {
        return Err(not_offered("binding:profile", "a non-empty object"));
    }
    if let Some(host) = fields.text("binding:host_id", 255)?
        && !host.is_empty()
    {
        context.require("network:create_port:binding:host_id")?;
        return Err(not_offered("binding:host_id", &host));
    }
    Ok(())
}

/// A MAC as it is stored: lower case, unicast.
fn mac(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let Some(text) = fields.text("mac_address", 17)? else {
        return Ok(None);
    };
    let parts: Vec<&str> = text.split(':').collect();
    let octets: Option<Vec<u8>> = parts
        .iter()
        .map(|p| u8::from_str_radix(p, 16).ok().filter(|_| p.len() == 2))
        .collect();
    match octets {
        Some(octets)
            if octets.len() == 6 && octets[0] & 1 == 0 && octets.iter().any(|o| *o != 0) =>
        {
            Ok(Some(text.to_ascii_lowercase()))
        }
        _ => Err(fields.wrong(
            "mac_address",
            &format!("is no unicast MAC address: {}", clip(&text)),
        )),
    }
}

fn fixed_ips(fields: &Fields<'_>) -> Result<Option<Vec<WantedAddress>>, ApiError> {
    let Some(list) = fields.list("fixed_ips")? else {
        return Ok(None);
    };
    if list.len() > 5 {
        return Err(bad("Exceeded maximum amount of fixed ips per port: 5."));
    }
    let mut wanted = Vec::new();
    for value in list {
        let one = Fields::of(Service::Network, value, "fixed_ips")?;
        one.only(&["subnet_id", "ip_address"])?;
        let address = match one.text("ip_address", 64)? {
            Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
                one.wrong("ip_address", &format!("is no IP address: {}", clip(&text)))
            })?),
            None => None,
        };
        wanted.push(WantedAddress {
            subnet_id: one.text("subnet_id", 64)?,
            address,
        });
    }
    Ok(Some(wanted))
}

/// What a POST says of one port.
#[derive(Clone, Debug)]
struct NewPort {
    port: Port,
    /// `None`: the project's default group.
    groups: Option<Vec<String>>,
    wanted: Option<Vec<WantedAddress>>,
    mac_given: bool,
}

fn parse(
    app: &AppState,
    context: &RequestContext,
    fields: &Fields<'_>,
) -> Result<NewPort, ApiError> {
    fields.only(&[SETTABLE, AT_CREATE].concat())?;
    check_offered(context, fields)?;
    let now = app.clock.now_millis();
    let given = mac(fields)?;
    let port = Port {
        id: networks::new_id(&*app.rng),
        network_id: fields
            .text("network_id", 64)?
            .ok_or_else(|| fields.wrong("network_id", "is missing"))?,
        project_id: project_of(context, fields)?,
        name: fields.text("name", 255)?.unwrap_or_default(),
        description: fields.text("description", 255)?.unwrap_or_default(),
        admin_state_up: fields.flag("admin_state_up")?.unwrap_or(true),
        mac: given.clone().unwrap_or_else(|| ports::new_mac(&*app.rng)),
        device_id: fields.text("device_id", 255)?.unwrap_or_default(),
        device_owner: fields.text("device_owner", 255)?.unwrap_or_default(),
        status: "DOWN".into(),
        made_by_compute: false,
        instance_id: None,
        device_index: 0,
        vmm_id: None,
        host_id: None,
        revision: 1,
        created_at: now,
        updated_at: now,
        fixed_ips: Vec::new(),
        groups: Vec::new(),
        tags: Vec::new(),
    };
    Ok(NewPort {
        port,
        groups: fields.texts("security_groups")?,
        wanted: fixed_ips(fields)?,
        mac_given: given.is_some(),
    })
}

/// The groups of a port: those given, each the project's own, or its default one.
async fn resolve_groups(
    tx: &mut Tx,
    env: &Env,
    project: &str,
    given: Option<Vec<String>>,
) -> Result<Vec<String>, ApiError> {
    let Some(given) = given else {
        return Ok(vec![
            security_groups::ensure_default(tx, env, project).await?,
        ]);
    };
    for id in &given {
        let found = security_groups::find(tx, id).await?;
        if found.is_none_or(|g| g.project_id != project) {
            return Err(security_groups::missing(id));
        }
    }
    Ok(given)
}

/// `POST /v2.0/ports`, one or several.
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let (all, bulk) = one_or_many(&body, "port", "ports")?;
    let new: Vec<NewPort> = all
        .iter()
        .map(|f| parse(&call.app, &call.context, f))
        .collect::<Result<_, _>>()?;
    let env = call.app.env();
    let _turn = call.app.turns.of(&call.context.project_id).await;
    let stored = tx!(call, |tx| [new, call, env] {
        let mut stored = Vec::new();
        for one in new {
            stored.push(insert(tx, &call.context, &env, one).await?);
        }
        Ok::<_, ApiError>(stored)
    })?;
    let views = stored.iter().map(|p| view(&call.context, p)).collect();
    Ok(created("port", "ports", bulk, views))
}

async fn insert(
    tx: &mut Tx,
    context: &RequestContext,
    env: &Env,
    new: NewPort,
) -> Result<Port, ApiError> {
    let mut port = new.port;
    let network = networks::load(tx, &context.reach, &port.network_id).await?;
    if !network.usable_by(&context.reach) {
        return Err(forbidden(format!(
            "Network {} is another project's and not shared: no ports may be made on it.",
            network.id
        )));
    }
    if new.mac_given && !context.may_see(&network.project_id) {
        return Err(forbidden(
            "Only a network's owner may choose the mac_address of a port on it.",
        ));
    }
    port.groups = resolve_groups(tx, env, &port.project_id, new.groups).await?;
    additions::raise(tx, &port.project_id).await?;
    quotas::one_more(tx, &port.project_id, quotas::PORT).await?;
    ports::insert(tx, &network, &port, new.wanted.as_deref()).await
}

/// `GET /v2.0/ports`
pub async fn list(call: Call, query: Params) -> Reply {
    let hidden: &[&str] = match call.context.may("network:get_port:binding:host_id") {
        true => &[],
        false => &["binding:host_id"],
    };
    let asked = STYLE.asked(&ports::TABLE, &query, hidden, |name, wanted| match name {
        "fixed_ips" => Some(with_fixed_ips(wanted)),
        "security_groups" => {
            let named = Condition::among("group_id", wanted.iter().map(|id| (*id).into()));
            Some(Ok(
                named.within("p.id", "SELECT port_id FROM port_security_groups")
            ))
        }
        _ => tags::filter(Kind::Ports, "p.id", name, wanted).map(Ok),
    })?;
    let (page, found) = read!(call, |tx| [call, asked] {
        let project = call.context.reach.project();
        let visible = Condition::owned("p.project_id", project);
        let page = STYLE.page(tx, &ports::TABLE, &visible, project, &asked).await?;
        let found = ports::of_page(tx, &page).await?;
        Ok::<_, ApiError>((page, found))
    })?;
    let views = found.iter().map(|p| view(&call.context, p)).collect();
    answer_list(&call.app, "ports", "ports", &page, views, &query)
}

/// `fixed_ips=ip_address=10.0.0.5&fixed_ips=subnet_id=…`: one of each key's values, and every key.
fn with_fixed_ips(wanted: &[&str]) -> Result<Condition, ApiError> {
    let mut all = Condition::default();
    let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for text in wanted {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        by_key.entry(key).or_default().push(value);
    }
    for (key, values) in by_key {
        all.and(match key {
            "ip_address" => ports::with_address(&values),
            "subnet_id" => Condition::among("subnet_id", values.iter().map(|id| (*id).into()))
                .within("p.id", "SELECT holder FROM address_allocations"),
            other => {
                return Err(bad(format!(
                    "Invalid input for operation: fixed_ips is filtered by ip_address=… and \
                     subnet_id=…, not by {}.",
                    clip(other)
                )));
            }
        });
    }
    Ok(all)
}

/// `GET /v2.0/ports/{id}`
pub async fn show(call: Call, Path(id): Path<String>, query: Params) -> Reply {
    let port = read!(call, |tx| [call, id] {
        let mut port = ports::load(tx, &call.context.reach, &id).await?;
        tags::fill(tx, std::slice::from_mut(&mut port)).await?;
        Ok::<_, ApiError>(port)
    })?;
    Ok(ok(
        json!({"port": only(view(&call.context, &port), &query)}),
    ))
}

/// What a PUT says.
#[derive(Clone, Debug)]
struct Change {
    name: Option<String>,
    description: Option<String>,
    up: Option<bool>,
    mac: Option<String>,
    device_id: Option<String>,
    device_owner: Option<String>,
    groups: Option<Vec<String>>,
    wanted: Option<Vec<WantedAddress>>,
}

impl Change {
    /// Whether it changes what a running server's NIC is made of.
    fn touches_the_nic(&self) -> bool {
        self.up == Some(false)
            || self.mac.is_some()
            || self.device_id.is_some()
            || self.device_owner.is_some()
            || self.wanted.is_some()
    }
}

/// `PUT /v2.0/ports/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let fields = Fields::within(Service::Network, &body, "port")?;
    fields.only(SETTABLE)?;
    check_offered(&call.context, &fields)?;
    let change = Change {
        name: fields.text("name", 255)?,
        description: fields.text("description", 255)?,
        up: fields.flag("admin_state_up")?,
        mac: mac(&fields)?,
        device_id: fields.text("device_id", 255)?,
        device_owner: fields.text("device_owner", 255)?,
        groups: fields.texts("security_groups")?,
        wanted: fixed_ips(&fields)?,
    };
    let env = call.app.env();
    let port = tx!(call, |tx| [call, id, change, env] {
        let mut port = apply(tx, &call.context, &env, &id, change).await?;
        tags::fill(tx, std::slice::from_mut(&mut port)).await?;
        Ok::<_, ApiError>(port)
    })?;
    Ok(ok(json!({"port": view(&call.context, &port)})))
}

async fn apply(
    tx: &mut Tx,
    context: &RequestContext,
    env: &Env,
    id: &str,
    change: Change,
) -> Result<Port, ApiError> {
    let mut port = ports::load(tx, &context.reach, id).await?;
    if port.instance_id.is_some() && change.touches_the_nic() {
        return Err(ApiError::new(
            Service::Network,
            StatusCode::CONFLICT,
            format!(
                "Port {id} is in use by server {}: its MAC, addresses, device and admin state \
                 cannot be changed while it is.",
                port.device_id
            ),
        )
        .kind("PortInUse"));
    }
    let network = networks::load(tx, &context.reach, &port.network_id).await?;
    if change.mac.is_some() && !context.may_see(&network.project_id) {
        return Err(forbidden(
            "Only a network's owner may choose the mac_address of a port on it.",
        ));
    }
    // A name, for one, is no matter of the host that the port is bound on.
    let is_told = change.mac.is_some() || change.wanted.is_some();
    port.name = change.name.unwrap_or(port.name);
    port.description = change.description.unwrap_or(port.description);
    port.admin_state_up = change.up.unwrap_or(port.admin_state_up);
    port.mac = change.mac.unwrap_or(port.mac);
    port.device_id = change.device_id.unwrap_or(port.device_id);
    port.device_owner = change.device_owner.unwrap_or(port.device_owner);
    port.updated_at = env.now();
    if let Some(groups) = change.groups {
        port.groups = resolve_groups(tx, env, &port.project_id, Some(groups)).await?;
    }
    ports::update(tx, &port).await?;
    if let Some(wanted) = change.wanted {
        addresses::give_back(tx, id).await?;
        ports::give_addresses(tx, &network, id, Some(&wanted)).await?;
    }
    if is_told {
        bindings::hosts_changed(tx, "id", id).await?;
    }
    ports::load(tx, &context.reach, id).await
}

/// `DELETE /v2.0/ports/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] {
        let port = ports::load(tx, &call.context.reach, &id).await?;
        if port.instance_id.is_some() {
            return Err(ApiError::new(
                Service::Network,
                StatusCode::CONFLICT,
                format!(
                    "Port {id} is in use by server {}: a NIC cannot be taken out of a \
                     server yet; delete the server first.",
                    port.device_id
                ),
            )
            .kind("PortInUse"));
        }
        ports::delete(tx, &id).await?;
        Ok::<_, ApiError>(())
    })?;
    Ok(no_content())
}
