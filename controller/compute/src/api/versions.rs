//! Discovery: which versions there are. Public, and outside of microversions.

use super::microversion::{MAX, MIN};
use axum::Json;
use axum::extract::State;
use berth_controller_core::AppState;
use serde_json::{Value, json};

fn version(base: &str, id: &str) -> Value {
    let current = id == "v2.1";
    json!({
        "id": id,
        "status": if current { "CURRENT" } else { "DEPRECATED" },
        "version": if current { format!("2.{MAX}") } else { String::new() },
        "min_version": if current { format!("2.{MIN}") } else { String::new() },
        "updated": if current { "2013-07-23T11:33:21Z" } else { "2011-01-21T11:33:21Z" },
        "links": [{
            "rel": "self",
            "href": format!("{base}/compute/{}/", if current { "v2.1" } else { "v2" }),
        }],
    })
}

fn one(base: &str, id: &str) -> Json<Value> {
    let mut version = version(base, id);
    version["media-types"] = json!([{
        "base": "application/json",
        "type": format!("application/vnd.openstack.compute+json;version={}", id.trim_start_matches('v')),
    }]);
    Json(json!({"version": version}))
}

/// `GET /compute/`
pub async fn all(State(app): State<AppState>) -> Json<Value> {
    let base = &app.base_url;
    Json(json!({"versions": [version(base, "v2.0"), version(base, "v2.1")]}))
}

/// `GET /compute/v2.1/`
pub async fn v2_1(State(app): State<AppState>) -> Json<Value> {
    one(&app.base_url, "v2.1")
}

/// `GET /compute/v2/`
pub async fn v2(State(app): State<AppState>) -> Json<Value> {
    one(&app.base_url, "v2.0")
}
