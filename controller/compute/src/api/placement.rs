//! Placement: its discovery root, for clients that look there; no resource is served yet, and
//! the catalogue does not list it.

use axum::routing::get;
use axum::{Json, Router};
use berth_controller_core::AppState;
use serde_json::{Value, json};

/// All routes of Placement, below `/placement`.
pub fn router() -> Router<AppState> {
    Router::new().route("/", get(versions))
}

/// `GET /placement`
async fn versions() -> Json<Value> {
    Json(json!({"versions": [{
        "id": "v1.0",
        "status": "CURRENT",
        "min_version": "1.0",
        "max_version": "1.0",
        // As Placement says it: relative to itself.
        "links": [{"rel": "self", "href": ""}],
    }]}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::testing::{Client, app};

    #[tokio::test]
    async fn anybody_may_ask_for_the_versions_and_there_is_nothing_else() {
        let app = app().await;
        let anybody = Client::anonymous(&app);
        for path in ["/placement", "/placement/"] {
            let answer = anybody.get(path).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json()["versions"][0]["id"], "v1.0");
        }
        let admin = Client::admin(&app).await;
        let answer = admin.get("/placement/resource_providers").await;
        assert_eq!(answer.status, 404);
    }
}
