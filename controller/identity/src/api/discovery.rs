//! What a client asks before it has a token: which versions there are.

use super::ok;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_controller_core::AppState;
use serde_json::{Value, json};

fn v3(app: &AppState) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{}/identity/v3/", app.base_url)}],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json",
        }],
    })
}

/// `GET /identity`: 300, as there might be several.
pub async fn versions(State(app): State<AppState>) -> Response {
    let body = json!({"versions": {"values": [v3(&app)]}});
    (StatusCode::MULTIPLE_CHOICES, Json(body)).into_response()
}

/// `GET /identity/v3`
pub async fn version(State(app): State<AppState>) -> Response {
    ok(json!({"version": v3(&app)}))
}
