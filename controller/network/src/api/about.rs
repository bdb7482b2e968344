//! What this Neutron is: versions, extensions, agents, availability zones.

use super::{Reply, STYLE, answer_list, ok};
use axum::extract::{Path, State};
use axum::response::Response;
use berth_controller_core::listing::{Condition, Direction, Field, Is, Table};
use berth_controller_core::query::Params;
use berth_controller_core::{ApiError, AppState, Call, beat, read, row, time};
use serde_json::{Value, json};

/// What is enforced, and nothing else: alias, name, what it says.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    (
        "agent",
        "agent",
        "The agent management extension: hosts are listed as agents.",
    ),
    (
        "availability_zone",
        "Availability Zone",
        "The availability zones that hosts are in.",
    ),
    (
        "binding",
        "Port Binding",
        "Shows administrators the host that a port is bound on.",
    ),
    (
        "external-net",
        "Neutron external network",
        "Networks that every project sees.",
    ),
    ("net-mtu", "Network MTU", "Shows the MTU of a network."),
    (
        "net-mtu-writable",
        "Network MTU (writable)",
        "The MTU of a network may be set.",
    ),
    (
        "pagination",
        "Pagination support",
        "limit and marker on lists.",
    ),
    (
        "port-security",
        "Port Security",
        "Says that ports are not filtered; asking for it is refused.",
    ),
    (
        "project-id",
        "project_id field enabled",
        "project_id beside tenant_id.",
    ),
    (
        "provider",
        "Provider Network",
        "network_type and physical_network, for administrators.",
    ),
    ("quotas", "Quota management support", "Quotas of a project."),
    (
        "quota_details",
        "Quota details management support",
        "What a project uses of its quotas.",
    ),
    (
        "security-group",
        "security-group",
        "Security groups, stored and shown; see port-security.",
    ),
    (
        "shared-networks",
        "Shared networks",
        "Networks that every project may use.",
    ),
    (
        "sorting",
        "Sorting support",
        "sort_key and sort_dir on lists.",
    ),
    (
        "standard-attr-description",
        "standard-attr-description",
        "A description of each resource.",
    ),
    (
        "standard-attr-revisions",
        "Resource revision numbers",
        "revision_number of each resource.",
    ),
    (
        "standard-attr-tag",
        "Tag support for resources with standard attribute",
        "Tags of networks, subnets, ports and security groups.",
    ),
    (
        "standard-attr-timestamp",
        "Resource timestamps",
        "created_at and updated_at of each resource.",
    ),
];

fn view((alias, name, description): &(&str, &str, &str)) -> Value {
    json!({
        "alias": alias, "name": name, "description": description,
        "updated": "2026-11-01T00:00:00-00:00", "links": [],
    })
}

/// `GET /v2.0/extensions`
pub async fn extensions() -> Response {
    ok(json!({"extensions": EXTENSIONS.iter().map(view).collect::<Vec<_>>()}))
}

/// `GET /v2.0/extensions/{alias}`
pub async fn extension(Path(alias): Path<String>) -> Reply {
    let found = EXTENSIONS.iter().find(|(a, ..)| *a == alias);
    let found = found.ok_or_else(|| crate::networks::missing(&alias).kind("ExtensionNotFound"))?;
    Ok(ok(json!({"extension": view(found)})))
}

/// `GET /network`
pub async fn versions(State(app): State<AppState>) -> Response {
    ok(json!({"versions": [{
        "id": "v2.0", "status": "CURRENT",
        "links": [{"rel": "self", "href": format!("{}/network/v2.0/", app.base_url)}],
    }]}))
}

/// `GET /network/v2.0`: the resources there are.
pub async fn version(State(app): State<AppState>) -> Response {
    let resources: Vec<Value> = [
        ("network", "networks"),
        ("subnet", "subnets"),
        ("port", "ports"),
        ("security_group", "security-groups"),
        ("security_group_rule", "security-group-rules"),
        ("quota", "quotas"),
        ("agent", "agents"),
        ("availability_zone", "availability_zones"),
        ("extension", "extensions"),
    ]
    .iter()
    .map(|(name, collection)| {
        json!({
            "name": name, "collection": collection.replace('-', "_"),
            "links": [{
                "rel": "self",
                "href": format!("{}/network/v2.0/{collection}", app.base_url),
            }],
        })
    })
    .collect();
    ok(json!({"resources": resources}))
}

row! {
    struct Host {
        id: String,
        hostname: String,
        availability_zone: String,
        enabled: bool,
        forced_down: bool,
        seen_at: i64,
        silent: i64,
        created_at: i64,
    }
}

/// Hosts as they are listed.
const AGENTS: Table = Table {
    kind: "agent",
    from: "hosts",
    id: "hosts.id",
    owner: "''",
    fields: &[
        Field::new("id", "hosts.id", Is::Text),
        Field::new("agent_type", "CAST('Linux bridge agent' AS TEXT)", Is::Text),
        Field::new("binary", "CAST('berth-agent' AS TEXT)", Is::Text),
        Field::new("topic", "CAST('N/A' AS TEXT)", Is::Text),
        Field::new("host", "hosts.hostname", Is::Text),
        Field::new("availability_zone", "hosts.availability_zone", Is::Text),
        Field::new("admin_state_up", "hosts.enabled", Is::Flag),
    ],
    order: &[("host", Direction::Ascending), ("id", Direction::Ascending)],
};

/// `GET /v2.0/agents`: each host's agent wires its networks.
pub async fn agents(call: Call, query: Params) -> Reply {
    let control = call.app.control.clone();
    let asked = STYLE.asked(&AGENTS, &query, &[], |name, wanted| match name {
        "alive" => {
            let up = beat::is_up(&control);
            let is = |wanted: &&str| matches!(wanted.to_ascii_lowercase().as_str(), "true" | "1");
            let each = wanted.iter().map(|text| match is(text) {
                true => up.clone(),
                false => up.clone().negated(),
            });
            Some(Ok(Condition::any(each)))
        }
        _ => None,
    })?;
    // As in Neutron, others see an empty list.
    let visible = match call.context.may("network:get_agent") {
        true => Condition::default(),
        false => Condition::never(),
    };
    let (page, hosts) = read!(call, |tx| [asked, visible] {
        let page = STYLE.page(tx, &AGENTS, &visible, None, &asked).await?;
        let (sql, values) = page.among("hosts.id").statement(
            &format!(
                "SELECT hosts.id, hostname, availability_zone, enabled, forced_down, created_at, \
                 {} FROM hosts",
                beat::SEEN
            ),
            "",
        );
        let hosts = tx.query::<Host>(&sql, &values).await?;
        let hosts = page.in_order(hosts, |host| host.id.clone());
        Ok::<_, ApiError>((page, hosts))
    })?;
    let view = |host: &Host| {
        json!({
            "id": host.id,
            "agent_type": "Linux bridge agent",
            "binary": "berth-agent",
            "topic": "N/A",
            "host": host.hostname,
            "availability_zone": host.availability_zone,
            "admin_state_up": host.enabled,
            "alive": control.is_up(host.silent, host.forced_down),
            "heartbeat_timestamp": time::seconds(host.seen_at),
            "created_at": time::seconds(host.created_at),
            "started_at": time::seconds(host.created_at),
            "configurations": {},
            "description": null,
        })
    };
    let views = hosts.iter().map(view).collect();
    answer_list(&call.app, "agents", "agents", &page, views, &query)
}

/// Zones as they are listed.
const ZONES: Table = Table {
    kind: "availability zone",
    from: "(SELECT availability_zone AS name, CASE WHEN MAX(enabled) = 1 THEN 'available' \
           ELSE 'unavailable' END AS state FROM hosts GROUP BY availability_zone) z",
    id: "z.name",
    owner: "''",
    fields: &[
        Field::new("name", "z.name", Is::Text),
        Field::new("resource", "CAST('network' AS TEXT)", Is::Text),
        Field::new("state", "z.state", Is::Text),
    ],
    order: &[("name", Direction::Ascending)],
};

/// `GET /v2.0/availability_zones`
pub async fn zones(call: Call, query: Params) -> Reply {
    let asked = STYLE.asked(&ZONES, &query, &[], |_, _| None)?;
    let (page, zones) = read!(call, |tx| [asked] {
        let page = STYLE.page(tx, &ZONES, &Condition::default(), None, &asked).await?;
        let select = format!("SELECT z.name, z.state FROM {}", ZONES.from);
        let (sql, values) = page.among("z.name").statement(&select, "");
        let zones = tx.query::<(String, String)>(&sql, &values).await?;
        let zones = page.in_order(zones, |(name, _)| name.clone());
        Ok::<_, ApiError>((page, zones))
    })?;
    let view = |(name, state): &(String, String)| json!({"name": name, "resource": "network", "state": state});
    let views = zones.iter().map(view).collect();
    let key = "availability_zones";
    answer_list(&call.app, key, key, &page, views, &query)
}
