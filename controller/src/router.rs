//! Everything on the one port: the OpenStack APIs, a prefix each; the agents' HTTPS; health, metrics.
//!
//! Handlers translate: they parse a request, run one transaction, and render rows for the
//! asked microversion. They never speak to an agent (reads of a console excepted) and never
//! wait for one.

use crate::compute::Instances;
use crate::core::AppState;
use crate::core::store::StoreError;
use crate::hosts::Agents;
use crate::{compute, hosts, identity, image, metrics, network};
use axum::extract::{Request, State};
use axum::http::StatusCode;
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

async fn metrics_page(State(app): State<AppState>) -> Response {
    match metrics::render(&app).await {
        Ok(page) => ([("content-type", "text/plain; version=0.0.4")], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be read");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}
