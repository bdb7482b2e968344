//! Glance v2.
//!
//! An image is a row and a file; see [`crate`]. Bytes go up and down as streams, never
//! whole in memory.

mod data;
mod list;
mod members;
mod patch;
mod resources;
mod schemas;
#[cfg(test)]
mod tests;
mod view;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use berth_controller_core::{ApiError, AppState};
use serde_json::Value;
use uuid::Uuid;

pub(crate) use crate::refuse;

/// What a handler answers.
type Reply = Result<Response, ApiError>;

/// All routes of Glance v2, below `/image`.
pub fn router() -> Router<AppState> {
    let v2 = Router::new()
        .route("/images", get(list::list).post(resources::create))
        .route(
            "/images/{id}",
            get(resources::show)
                .patch(resources::update)
                .delete(resources::delete),
        )
        .route(
            "/images/{id}/file",
            // The handler counts for itself, up to the operator's limit.
            put(data::upload)
                .layer(DefaultBodyLimit::disable())
                .get(data::download),
        )
        .route(
            "/images/{id}/tags/{tag}",
            put(resources::add_tag).delete(resources::remove_tag),
        )
        .route("/images/{id}/actions/deactivate", post(data::deactivate))
        .route("/images/{id}/actions/reactivate", post(data::reactivate))
        .route(
            "/images/{id}/members",
            get(members::list).post(members::create),
        )
        .route(
            "/images/{id}/members/{member}",
            get(members::show)
                .put(members::update)
                .delete(members::delete),
        )
        .route("/schemas/{name}", get(schemas::show))
        .route("/info/import", get(schemas::import_info));
    Router::new()
        .route("/", get(schemas::versions))
        .route("/versions", get(schemas::versions))
        .nest("/v2", v2)
}

fn bad(message: impl Into<String>) -> ApiError {
    refuse(StatusCode::BAD_REQUEST, message)
}

fn forbidden(message: impl Into<String>) -> ApiError {
    refuse(StatusCode::FORBIDDEN, message)
}

fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

fn ok(body: Value) -> Response {
    axum::Json(body).into_response()
}

/// An id from a path: only a UUID is one, and only in its usual form, so that it may name a file.
fn parse_id(text: &str) -> Result<Uuid, ApiError> {
    match Uuid::parse_str(text) {
        Ok(id) if id.to_string() == text.to_ascii_lowercase() => Ok(id),
        _ => Err(crate::records::missing(text)),
    }
}
