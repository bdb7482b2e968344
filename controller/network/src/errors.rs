//! Neutron's refusals.

use axum::http::StatusCode;
use berth_controller_core::body::clip;
use berth_controller_core::{ApiError, Service};

pub fn refuse(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Network, status, message).kind(kind)
}

pub fn invalid(message: impl Into<String>) -> ApiError {
    refuse(StatusCode::BAD_REQUEST, "InvalidInput", message)
}

pub fn conflict(kind: &'static str, message: impl Into<String>) -> ApiError {
    refuse(StatusCode::CONFLICT, kind, message)
}

pub fn not_found(kind: &'static str, what: &str, id: &str) -> ApiError {
    refuse(
        StatusCode::NOT_FOUND,
        kind,
        format!("{what} {} could not be found.", clip(id)),
    )
}
