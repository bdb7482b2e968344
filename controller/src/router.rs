//! Everything on the one port: the OpenStack APIs, a prefix each; the agents' HTTPS; health, metrics.
//!
//! Handlers translate: they parse a request, run one transaction, and render rows for the
//! asked microversion. They never speak to an agent (reads of a console excepted) and never
//! wait for one.

use crate::compute::Instances;
use crate::core::AppState;
use crate::core::agent::bearer;
use crate::core::store::StoreError;
use crate::hosts::Agents;
use crate::{compute, hosts, identity, image, metrics, network};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::Arc;

/// Everything on the one port.
pub fn router(app: AppState) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics_page))
        .with_state(app.clone())
        .merge(agents(app.clone()))
        .fallback_service(identity::authenticate::guard(app.clone(), services()))
        .layer(middleware::from_fn_with_state(app, count))
}

/// Everything that the controller answers to users, but identity.
fn services() -> Router<AppState> {
    Router::new()
        .nest("/image", image::api::router())
        .nest("/network", network::api::router())
        .nest("/compute", compute::api::router())
        .nest("/placement", compute::api::placement::router())
}

/// Everything that it answers to agents.
fn agents(app: AppState) -> Router {
    let observer = Arc::new(Instances);
    let agents = Agents {
        app: app.clone(),
        observer,
    };
    hosts::router(agents)
        .merge(network::agent::router(app.clone()))
        .merge(image::agent_router(app))
}

async fn count(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let service = path.split('/').next().unwrap_or("").to_owned();
    let response = next.run(request).await;
    app.metrics.request(&service, response.status().as_u16());
    response
}

/// 200 while the database answers. The broker may be away for a while: that is said, not judged.
async fn health(State(app): State<AppState>) -> Response {
    let asked = app
        .store
        .tx::<_, StoreError, _>(|tx| Box::pin(tx.query::<(i64,)>("SELECT 1 AS one", &[])))
        .await;
    let broker = app.transport.is_connected();
    match asked {
        Ok(_) => Json(serde_json::json!({ "database": "ok", "broker_connected": broker }))
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "the database does not answer");
            let body = serde_json::json!({ "database": "failed", "broker_connected": broker });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics_page(State(app): State<AppState>, headers: HeaderMap) -> Response {
    let wanted = &app.settings.metrics_token;
    if wanted.is_empty() {
        let why = "Metrics are shown to nobody: set metrics_token in the configuration.\n";
        return (StatusCode::NOT_FOUND, why).into_response();
    }
    // By their digests: how long it takes to compare them tells nothing of the token.
    let digest = crate::core::secret::digest;
    if bearer(&headers).is_none_or(|given| digest(given) != digest(wanted)) {
        let why = "Metrics are shown to who has metrics_token, as a bearer token.\n";
        return (StatusCode::UNAUTHORIZED, why).into_response();
    }
    match metrics::render(&app).await {
        Ok(page) => ([("content-type", "text/plain; version=0.0.4")], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be read");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::core::ApiSettings;
    use axum::body::Body;
    use berth_controller_identity::testing;
    use tower::ServiceExt as _;

    async fn read(app: &AppState, token: Option<&str>) -> (u16, String) {
        let mut request = Request::builder().uri("/metrics");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router(app.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        (status, String::from_utf8(bytes.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn metrics_are_shown_to_who_has_their_token_and_to_nobody_without_one() {
        let mut app = (*testing::app().await).clone();
        let (status, said) = read(&app, Some("")).await;
        assert_eq!(status, 404);
        assert!(said.contains("metrics_token"), "{said}");
        app.settings = Arc::new(ApiSettings {
            metrics_token: "m".into(),
            ..ApiSettings::default()
        });
        for token in [None, Some(""), Some("n"), Some("mm")] {
            assert_eq!(read(&app, token).await.0, 401, "{token:?}");
        }
        let (status, page) = read(&app, Some("m")).await;
        assert_eq!(status, 200);
        assert!(page.contains("berth_hosts 0"), "{page}");
    }
}
