//! Services, endpoints and regions: the configuration's, to be read.

use super::{Reply, admin_only, collection, not_found, ok, self_link};
use crate::api::query::Params;
use crate::api::{AppState, RequestContext};
use crate::identity::catalog;
use axum::Extension;
use axum::extract::{Path, State};
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
pub async fn services(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    query: Params,
) -> Reply {
    admin_only(&context)?;
    let items = filtered(catalog::services(&app.base_url), &query, &["type", "name"]);
    Ok(collection(&app, "services", "services", items))
}

/// `GET /v3/services/{id}`
pub async fn service(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    admin_only(&context)?;
    let mut all = catalog::services(&app.base_url).into_iter();
    let found = all.find(|s| s["id"] == id.as_str());
    let service = found.ok_or_else(|| not_found("service", &id))?;
    Ok(ok(json!({"service": service})))
}

/// `GET /v3/endpoints`
pub async fn endpoints(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    query: Params,
) -> Reply {
    admin_only(&context)?;
    let all = catalog::endpoints(&app.base_url, &app.settings.region);
    let items = filtered(all, &query, &["service_id", "interface", "region_id"]);
    Ok(collection(&app, "endpoints", "endpoints", items))
}

/// `GET /v3/endpoints/{id}`
pub async fn endpoint(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    admin_only(&context)?;
    let mut all = catalog::endpoints(&app.base_url, &app.settings.region).into_iter();
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
