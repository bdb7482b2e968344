//! Services, endpoints and regions: the configuration's, to be read.

use super::{Reply, collection, not_found, ok, self_link};
use crate::catalog;
use axum::extract::{Path, State};
use berth_controller_core::query::Params;
use berth_controller_core::{AppState, Call};
use serde_json::{Value, json};

fn filtered(items: Vec<Value>, query: &Params, fields: &[&str]) -> Vec<Value> {
    let fits = |item: &Value| {
        fields
            .iter()
            .all(|field| query.get(field).is_none_or(|want| item[field] == want))
    };
    items.into_iter().filter(fits).collect()
}

/// `GET /v3/services`
pub async fn services(call: Call, query: Params) -> Reply {
    let items = filtered(
        catalog::services(&call.app.base_url),
        &query,
        &["type", "name"],
    );
    Ok(collection(&call.app, "services", "services", items))
}

/// `GET /v3/services/{id}`
pub async fn service(call: Call, Path(id): Path<String>) -> Reply {
    let mut all = catalog::services(&call.app.base_url).into_iter();
    let found = all.find(|s| s["id"] == id.as_str());
    let service = found.ok_or_else(|| not_found("service", &id))?;
    Ok(ok(json!({"service": service})))
}

/// `GET /v3/endpoints`
pub async fn endpoints(call: Call, query: Params) -> Reply {
    let all = catalog::endpoints(&call.app.base_url, &call.app.settings.region);
    let items = filtered(all, &query, &["service_id", "interface", "region_id"]);
    Ok(collection(&call.app, "endpoints", "endpoints", items))
}

/// `GET /v3/endpoints/{id}`
pub async fn endpoint(call: Call, Path(id): Path<String>) -> Reply {
    let mut all = catalog::endpoints(&call.app.base_url, &call.app.settings.region).into_iter();
    let found = all.find(|e| e["id"] == id.as_str());
    let endpoint = found.ok_or_else(|| not_found("endpoint", &id))?;
    Ok(ok(json!({"endpoint": endpoint})))
}

fn the_region(app: &AppState) -> Value {
    let id = &app.settings.region;
    json!({
        "id": id, "description": "", "parent_region_id": null,
        "links": self_link(app, "regions", id),
    })
}

/// `GET /v3/regions`
pub async fn regions(State(app): State<AppState>) -> Reply {
    Ok(collection(
        &app,
        "regions",
        "regions",
        vec![the_region(&app)],
    ))
}

/// `GET /v3/regions/{id}`
pub async fn region(State(app): State<AppState>, Path(id): Path<String>) -> Reply {
    if id != app.settings.region {
        return Err(not_found("region", &id));
    }
    Ok(ok(json!({"region": the_region(&app)})))
}
