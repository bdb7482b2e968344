//! What this Neutron is: versions, extensions, agents, availability zones.

use super::{Reply, answer_list, ok};
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use berth_controller_core::query::Params;
use berth_controller_core::{ApiError, AppState, RequestContext, row, time};
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
        last_seen_at: i64,
        created_at: i64,
    }
}

/// `GET /v2.0/agents`: each host's agent wires its networks.
pub async fn agents(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    query: Params,
) -> Reply {
    let mut items = Vec::new();
    // As in Neutron, others see an empty list.
    if context.may("network:get_agent") {
        let hosts = app
            .store
            .tx::<_, ApiError, _>(|tx| {
                Box::pin(async move {
                    let sql = "SELECT id, hostname, availability_zone, enabled, forced_down, \
                               last_seen_at, created_at FROM hosts ORDER BY hostname";
                    Ok(tx.query::<Host>(sql, &[]).await?)
                })
            })
            .await?;
        let now = app.clock.now_millis();
        for host in hosts {
            let seen = host.last_seen_at;
            items.push(json!({
                "id": host.id,
                "agent_type": "Linux bridge agent",
                "binary": "berth-agent",
                "topic": "N/A",
                "host": host.hostname,
                "availability_zone": host.availability_zone,
                "admin_state_up": host.enabled,
                "alive": app.control.is_up(seen, host.forced_down, now),
                "heartbeat_timestamp": time::seconds(seen),
                "created_at": time::seconds(host.created_at),
                "started_at": time::seconds(host.created_at),
                "configurations": {},
                "description": null,
            }));
        }
    }
    let fields = [
        "id",
        "agent_type",
        "binary",
        "topic",
        "host",
        "availability_zone",
        "admin_state_up",
        "alive",
    ];
    answer_list(&app, "agents", "agents", &fields, items, &query)
}

/// `GET /v2.0/availability_zones`
pub async fn zones(State(app): State<AppState>, query: Params) -> Reply {
    let zones = app
        .store
        .tx::<_, ApiError, _>(|tx| {
            Box::pin(async move {
                let sql = "SELECT availability_zone, MAX(enabled) AS enabled FROM hosts \
                           GROUP BY availability_zone ORDER BY availability_zone";
                Ok(tx.query::<(String, bool)>(sql, &[]).await?)
            })
        })
        .await?;
    let mut items = Vec::new();
    for (zone, enabled) in zones {
        let state = if enabled { "available" } else { "unavailable" };
        items.push(json!({
            "name": zone, "resource": "network", "state": state,
        }));
    }
    let fields = ["name", "resource", "state"];
    answer_list(
        &app,
        "availability_zones",
        "availability_zones",
        &fields,
        items,
        &query,
    )
}
