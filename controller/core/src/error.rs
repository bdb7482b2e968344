//! Errors as the real services give them: a status code, a kind, and words for the user.
//!
//! What the user sees and what caused it are kept apart: the cause is logged with the
//! request id, never sent.

use crate::store::{AsStoreError, StoreError};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Whose error body to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `{"error": {code, message, title}}`
    Identity,
    /// `{"itemNotFound": {code, message}}` and its like
    Compute,
    /// Glance: a plain HTML-less text body in `{"message", "code", "title"}`
    Image,
    /// `{"NeutronError": {type, message, detail}}`
    Network,
}

/// A refusal.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {message}")]
pub struct ApiError {
    /// Whose body to give.
    pub service: Service,
    /// HTTP status.
    pub status: StatusCode,
    /// Neutron's exception name (`NetworkInUse`); others ignore it.
    pub kind: &'static str,
    /// Words for the user: what, why, which knob.
    pub message: String,
    /// The cause, for the log.
    #[source]
    pub cause: Option<StoreError>,
}

impl ApiError {
    /// An error of a service.
    pub fn new(service: Service, status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            service,
            status,
            kind: "",
            message: message.into(),
            cause: None,
        }
    }

    /// Names Neutron's exception.
    #[must_use]
    pub fn kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// The error body's top key in Nova's and Cinder's form.
    fn compute_key(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "badRequest",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "itemNotFound",
            405 => "badMethod",
            409 => "conflictingRequest",
            413 => "overLimit",
            429 => "overLimit",
            501 => "notImplemented",
            503 => "serviceUnavailable",
            _ => "computeFault",
        }
    }
}

/// A store error that no handler has dealt with is the service's own: 500, or 503 if trying
/// again may help. The service is put right by the router's layer.
impl From<StoreError> for ApiError {
    fn from(cause: StoreError) -> Self {
        let (status, message) = match &cause {
            StoreError::Contended(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The database is busy; try again.",
            ),
            _ => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "The database failed; the log has the cause under this request id.",
            ),
        };
        Self {
            service: Service::Compute,
            status,
            kind: "",
            message: message.into(),
            cause: Some(cause),
        }
    }
}

impl AsStoreError for ApiError {
    fn as_store_error(&self) -> Option<&StoreError> {
        self.cause.as_ref()
    }
}

impl ApiError {
    /// The error body in this service's form.
    pub(crate) fn body(&self) -> serde_json::Value {
        let code = self.status.as_u16();
        let title = self.status.canonical_reason().unwrap_or("Error");
        match self.service {
            Service::Identity => {
                json!({"error": {"code": code, "message": self.message, "title": title}})
            }
            Service::Compute => {
                json!({self.compute_key(): {"code": code, "message": self.message}})
            }
            Service::Image => {
                json!({"message": self.message, "code": format!("{code} {title}"), "title": title})
            }
            Service::Network => json!({"NeutronError": {
                "type": if self.kind.is_empty() { title } else { self.kind },
                "message": self.message,
                "detail": "",
            }}),
        }
    }
}

/// What the router's layer needs to say an error again in the words of the service asked.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) service: Service,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(%cause, status = self.status.as_u16(), "request failed");
        }
        let mut response = (self.status, axum::Json(self.body())).into_response();
        response.extensions_mut().insert(Refusal {
            service: self.service,
            kind: self.kind,
            message: self.message,
        });
        response
    }
}
