//! Subnets over HTTP.

use super::{
    Reply, STYLE, answer_list, bad, created, forbidden, no_content, not_offered, ok, one_or_many,
    only,
};
use crate::networks;
use crate::subnets::{self, Subnet};
use crate::tags::{self, Kind};
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields, clip};
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, AppState, Call, RequestContext, Service, read, time, tx};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

const SETTABLE: &[&str] = &[
    "name",
    "description",
    "gateway_ip",
    "enable_dhcp",
    "dns_nameservers",
    "allocation_pools",
    "host_routes",
    "service_types",
];

const AT_CREATE: &[&str] = &[
    "network_id",
    "cidr",
    "ip_version",
    "project_id",
    "tenant_id",
    "ipv6_ra_mode",
    "ipv6_address_mode",
    "subnetpool_id",
    "prefixlen",
    "segment_id",
    "use_default_subnetpool",
];

fn view(subnet: &Subnet) -> Value {
    let pools: Vec<Value> = subnet
        .pools
        .iter()
        .map(|(start, end)| json!({"start": start, "end": end}))
        .collect();
    json!({
        "id": subnet.id,
        "name": subnet.name,
        "description": subnet.description,
        "network_id": subnet.network_id,
        "tenant_id": subnet.project_id,
        "project_id": subnet.project_id,
        "ip_version": if subnet.cidr.addr().is_ipv4() { 4 } else { 6 },
        "cidr": subnet.cidr.to_string(),
        "gateway_ip": subnet.gateway,
        "enable_dhcp": subnet.dhcp,
        "dns_nameservers": subnet.dns,
        "allocation_pools": pools,
        "host_routes": [],
        "service_types": [],
        "subnetpool_id": null,
        "ipv6_ra_mode": null,
        "ipv6_address_mode": null,
        "tags": subnet.tags,
        "revision_number": subnet.revision,
        "created_at": time::seconds(subnet.created_at),
        "updated_at": time::seconds(subnet.updated_at),
    })
}

/// Refuses what hosts would not do.
fn check_offered(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in [
        "ipv6_ra_mode",
        "ipv6_address_mode",
        "subnetpool_id",
        "prefixlen",
        "segment_id",
    ] {
        if let Some(value) = fields.get(name) {
            return Err(not_offered(name, &value.to_string()));
        }
    }
    for name in ["host_routes", "service_types"] {
        if fields.list(name)?.is_some_and(|l| !l.is_empty()) {
            return Err(not_offered(name, "a non-empty list"));
        }
    }
    if fields.flag("use_default_subnetpool")? == Some(true) {
        return Err(not_offered("use_default_subnetpool", "true"));
    }
    Ok(())
}

fn address(fields: &Fields<'_>, name: &str) -> Result<Option<IpAddr>, ApiError> {
    let Some(text) = fields.text(name, 64)? else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| fields.wrong(name, &format!("is no IP address: {}", clip(&text))))
}

fn resolvers(fields: &Fields<'_>) -> Result<Option<Vec<IpAddr>>, ApiError> {
    let Some(texts) = fields.texts("dns_nameservers")? else {
        return Ok(None);
    };
    if texts.len() > 5 {
        return Err(fields.wrong("dns_nameservers", "has more than 5 entries"));
    }
    texts
        .iter()
        .map(|t| {
            t.parse().map_err(|_| {
                fields.wrong(
                    "dns_nameservers",
                    &format!("has no IP address: {}", clip(t)),
                )
            })
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Some)
}

fn pools(fields: &Fields<'_>) -> Result<Option<Vec<(IpAddr, IpAddr)>>, ApiError> {
    let Some(list) = fields.list("allocation_pools")? else {
        return Ok(None);
    };
    let mut pools = Vec::new();
    for value in list {
        let pool = Fields::of(Service::Network, value, "allocation_pools")?;
        pool.only(&["start", "end"])?;
        match (address(&pool, "start")?, address(&pool, "end")?) {
            (Some(start), Some(end)) => pools.push((start, end)),
            _ => return Err(pool.wrong("start", "and end are both needed")),
        }
    }
    pools.sort_unstable();
    Ok(Some(pools))
}

/// `gateway_ip`: left out (the first address), null (none), or one.
fn gateway(fields: &Fields<'_>, cidr: IpNet) -> Result<Option<IpAddr>, ApiError> {
    if fields.has("gateway_ip") {
        return address(fields, "gateway_ip");
    }
    Ok(crate::addresses::at(cidr, crate::addresses::first(cidr)))
}

fn parse(app: &AppState, fields: &Fields<'_>) -> Result<Subnet, ApiError> {
    fields.only(&[SETTABLE, AT_CREATE].concat())?;
    check_offered(fields)?;
    let network_id = fields
        .text("network_id", 64)?
        .ok_or_else(|| fields.wrong("network_id", "is missing"))?;
    let text = fields
        .text("cidr", 64)?
        .ok_or_else(|| fields.wrong("cidr", "is missing"))?;
    let given: IpNet = text
        .parse()
        .map_err(|_| fields.wrong("cidr", &format!("is no CIDR: {}", clip(&text))))?;
    let cidr = given.trunc();
    let version = if cidr.addr().is_ipv4() { 4 } else { 6 };
    if fields
        .int("ip_version", 4, 6)?
        .is_some_and(|v| v != version)
    {
        return Err(bad(format!(
            "Invalid input for operation: cidr {cidr} is not of the ip_version given."
        )));
    }
    let gateway = gateway(fields, cidr)?;
    // None is what Neutron's clients say for "as usual".
    let asked = pools(fields)?.filter(|pools| !pools.is_empty());
    let pools = asked.unwrap_or_else(|| Subnet::default_pools(cidr, gateway));
    let now = app.clock.now_millis();
    let subnet = Subnet {
        id: networks::new_id(&*app.rng),
        network_id,
        project_id: String::new(), // the network's, once that is loaded
        name: fields.text("name", 255)?.unwrap_or_default(),
        description: fields.text("description", 255)?.unwrap_or_default(),
        cidr,
        gateway,
        dhcp: fields.flag("enable_dhcp")?.unwrap_or(true),
        dns: resolvers(fields)?.unwrap_or_default(),
        pools,
        revision: 1,
        created_at: now,
        updated_at: now,
        tags: Vec::new(),
    };
    subnet.check()?;
    if subnet.pools.is_empty() {
        return Err(bad(format!(
            "Invalid input for operation: subnet {cidr} has no address for a port beside its gateway: \
             make it larger, or give it no gateway (gateway_ip null)."
        )));
    }
    Ok(subnet)
}

/// `POST /v2.0/subnets`, one or several.
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let (all, bulk) = one_or_many(&body, "subnet", "subnets")?;
    let mut new = Vec::new();
    for fields in &all {
        let project = super::project_of(&call.context, fields)?;
        new.push(Subnet {
            project_id: project,
            ..parse(&call.app, fields)?
        });
    }
    let stored = tx!(call, |tx| [new, call] {
        let mut stored = Vec::new();
        for mut subnet in new {
            let network = networks::load(tx, &call.context.reach, &subnet.network_id).await?;
            if !call.context.may_see(&network.project_id) {
                return Err(forbidden("Only a network's owner may make subnets on it."));
            }
            if call.context.reach != Reach::Cloud {
                subnet.project_id.clone_from(&network.project_id);
            }
            subnets::insert(tx, &subnet).await?;
            crate::bindings::changed(tx, &subnet.network_id).await?;
            stored.push(subnet);
        }
        Ok::<_, ApiError>(stored)
    })?;
    let views = stored.iter().map(view).collect();
    Ok(created("subnet", "subnets", bulk, views))
}

/// `GET /v2.0/subnets`: those of networks that the caller may see; of external networks that
/// are not shared, only its own.
pub async fn list(call: Call, query: Params) -> Reply {
    let asked = STYLE.asked(&subnets::TABLE, &query, &[], |name, wanted| {
        tags::filter(Kind::Subnets, "s.id", name, wanted).map(Ok)
    })?;
    let (page, found) = read!(call, |tx| [call, asked] {
        let project = call.context.reach.project();
        let visible = subnets::visible(project);
        let page = STYLE.page(tx, &subnets::TABLE, &visible, project, &asked).await?;
        let found = subnets::of_page(tx, &page).await?;
        Ok::<_, ApiError>((page, found))
    })?;
    let views = found.iter().map(view).collect();
    answer_list(&call.app, "subnets", "subnets", &page, views, &query)
}

/// One, if the caller may see it.
pub(super) async fn load(
    tx: &mut Tx,
    context: &RequestContext,
    id: &str,
) -> Result<Subnet, ApiError> {
    let Some(subnet) = subnets::find(tx, id).await? else {
        return Err(subnets::missing(id));
    };
    if context.may_see(&subnet.project_id) {
        return Ok(subnet);
    }
    match networks::load(tx, &context.reach, &subnet.network_id).await {
        Ok(network) if network.usable_by(&context.reach) => Ok(subnet),
        Err(error) if error.cause.is_some() => Err(error),
        _ => Err(subnets::missing(id)),
    }
}

async fn load_own(tx: &mut Tx, context: &RequestContext, id: &str) -> Result<Subnet, ApiError> {
    let subnet = load(tx, context, id).await?;
    if context.may_see(&subnet.project_id) {
        return Ok(subnet);
    }
    Err(forbidden(format!(
        "Subnet {id} is another project's: only its owner may change it."
    )))
}

/// `GET /v2.0/subnets/{id}`
pub async fn show(call: Call, Path(id): Path<String>, query: Params) -> Reply {
    let subnet = read!(call, |tx| [call, id] {
        let mut subnet = load(tx, &call.context, &id).await?;
        tags::fill(tx, std::slice::from_mut(&mut subnet)).await?;
        Ok::<_, ApiError>(subnet)
    })?;
    Ok(ok(json!({"subnet": only(view(&subnet), &query)})))
}

/// What a PUT says.
#[derive(Clone, Debug)]
struct Change {
    name: Option<String>,
    description: Option<String>,
    /// The outer level: whether it is there.
    gateway: Option<Option<IpAddr>>,
    dhcp: Option<bool>,
    dns: Option<Vec<IpAddr>>,
    pools: Option<Vec<(IpAddr, IpAddr)>>,
}

/// `PUT /v2.0/subnets/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let fields = Fields::within(Service::Network, &body, "subnet")?;
    fields.only(SETTABLE)?;
    check_offered(&fields)?;
    let change = Change {
        name: fields.text("name", 255)?,
        description: fields.text("description", 255)?,
        gateway: match fields.has("gateway_ip") {
            true => Some(address(&fields, "gateway_ip")?),
            false => None,
        },
        dhcp: fields.flag("enable_dhcp")?,
        dns: resolvers(&fields)?,
        pools: pools(&fields)?,
    };
    let now = call.now();
    let subnet = tx!(call, |tx| [call, id, change] {
        let before = load_own(tx, &call.context, &id).await?;
        let mut after = before.clone();
        after.name = change.name.unwrap_or(after.name);
        after.description = change.description.unwrap_or(after.description);
        after.gateway = change.gateway.unwrap_or(after.gateway);
        after.dhcp = change.dhcp.unwrap_or(after.dhcp);
        after.dns = change.dns.unwrap_or(after.dns);
        after.pools = change.pools.unwrap_or(after.pools);
        after.updated_at = now;
        subnets::update(tx, &before, &after).await?;
        after.revision += 1;
        tags::fill(tx, std::slice::from_mut(&mut after)).await?;
        Ok::<_, ApiError>(after)
    })?;
    Ok(ok(json!({"subnet": view(&subnet)})))
}

/// `DELETE /v2.0/subnets/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] {
        let subnet = load_own(tx, &call.context, &id).await?;
        subnets::delete(tx, &id).await?;
        crate::bindings::changed(tx, &subnet.network_id).await?;
        Ok::<_, ApiError>(())
    })?;
    Ok(no_content())
}
