//! The agents' HTTPS: joining, the heartbeat, the network document, image bytes.
//!
//! Not the broker's path (PROTOCOL.md, rule 6): a host is heard even while the broker is down.
//! Every call but join and images proves the host's secret; an image's bytes prove the token in
//! its order.
//!
//! - [`join`]: a token for an id and a secret.
//! - [`sync`]: epoch, lost guests, what was seen, and what is acknowledged.

pub mod join;
pub mod sync;

use crate::api::AppState;
use crate::params;
use crate::store::{StoreError, Tx};
use crate::{image, network};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_rpc_types::HostId;
use berth_rpc_types::link::NetworkDocument;
use sha2::{Digest as _, Sha256};

/// The largest report that is read: a host's guests, a few hundred bytes each.
const BODY_MAX: usize = 8 << 20;

/// The routes under `/agent/v1`.
pub fn router(app: AppState) -> Router {
    Router::new()
        .route("/agent/v1/join", post(join::join))
        .route("/agent/v1/sync", post(sync::sync))
        .route("/agent/v1/networks", get(networks))
        .route("/agent/v1/images/{id}", get(images))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
}

/// A refusal in words; agents log it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// With this status.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// The database; logged here, and tried again there.
    #[error("the database failed; try again")]
    Store(#[from] StoreError),
}

impl crate::store::AsStoreError for AgentError {
    fn as_store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Refused(..) => None,
        }
    }
}

impl IntoResponse for AgentError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Refused(status, message) => {
                tracing::warn!(status = status.as_u16(), why = message, "agent refused");
                *status
            }
            Self::Store(error) => {
                tracing::error!(%error, "agent not answered");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        (
            status,
            Json(serde_json::json!({ "message": self.to_string() })),
        )
            .into_response()
    }
}

/// Lower-case hex SHA-256: what is kept of a secret.
pub fn digest(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}

/// Who calls, if the secret is the host's. A secret of 256 random bits is compared by digest:
/// what the time of the comparison tells is of no use.
async fn authenticate(app: &AppState, headers: &HeaderMap) -> Result<HostId, AgentError> {
    let refused = || {
        let why = "unknown host or wrong secret; join again with a new token";
        AgentError::Refused(StatusCode::UNAUTHORIZED, why.into())
    };
    let id = headers.get("x-berth-host").and_then(|v| v.to_str().ok());
    let host_id: HostId = id.and_then(|v| v.parse().ok()).ok_or_else(refused)?;
    let hash = digest(bearer(headers).ok_or_else(refused)?);
    let row = app
        .store
        .tx::<_, StoreError, _>(|tx| {
            let hash = hash.clone();
            Box::pin(async move {
                tx.query_opt(
                    "SELECT id FROM hosts WHERE id = $1 AND secret_hash = $2",
                    params![host_id, hash],
                )
                .await
            })
        })
        .await?;
    row.map(|_| host_id).ok_or_else(refused)
}

async fn networks(
    State(app): State<AppState>,
    headers: HeaderMap,
) -> Result<Json<NetworkDocument>, AgentError> {
    let host_id = authenticate(&app, &headers).await?;
    let document = app
        .store
        .tx::<_, StoreError, _>(|tx: &mut Tx| Box::pin(network::host_document(tx, host_id)))
        .await?;
    Ok(Json(document))
}

async fn images(
    State(app): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let (Ok(id), Some(token)) = (id.parse(), bearer(&headers)) else {
        let why = "an image's id and its bearer token are needed".to_owned();
        return AgentError::Refused(StatusCode::UNAUTHORIZED, why).into_response();
    };
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    image::serve_to_agent(&app, id, token, range).await
}
