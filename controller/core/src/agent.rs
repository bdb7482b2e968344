//! What agents are told over HTTPS when they are refused, and the token that a call carries.

use crate::store::{AsStoreError, StoreError};
use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

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

impl AsStoreError for AgentError {
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

/// The bearer token of a call.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}
