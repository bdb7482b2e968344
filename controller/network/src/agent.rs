//! A host's network document, for its agent.

use crate::host_document;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use berth_controller_core::AppState;
use berth_controller_core::agent::AgentError;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_hosts::authenticate;
use berth_rpc_types::link::NetworkDocument;

/// The document, under `/agent/v1`.
pub fn router(app: AppState) -> Router {
    Router::new()
        .route("/agent/v1/networks", get(networks))
        .with_state(app)
}

async fn networks(
    State(app): State<AppState>,
    headers: HeaderMap,
) -> Result<Json<NetworkDocument>, AgentError> {
    let host_id = authenticate(&app, &headers).await?;
    let document = app
        .store
        .tx::<_, StoreError, _>(|tx: &mut Tx| Box::pin(host_document(tx, host_id)))
        .await?;
    Ok(Json(document))
}
