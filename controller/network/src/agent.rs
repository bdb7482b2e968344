//! A host's network document, for its agent.

use crate::host_document;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use berth_controller_core::AppState;
use berth_controller_core::agent::AgentError;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_hosts::Caller;
use berth_rpc_types::link::NetworkDocument;

/// The document, under `/agent/v1`.
pub fn router(app: AppState) -> Router {
    Router::new()
        .route("/agent/v1/networks", get(networks))
        .with_state(app)
}

async fn networks(
    State(app): State<AppState>,
    Caller(host_id): Caller,
) -> Result<Json<NetworkDocument>, AgentError> {
    let document = app
        .store
        .tx::<_, StoreError, _>(|tx: &mut Tx| Box::pin(host_document(tx, host_id)))
        .await?;
    Ok(Json(document))
}
