//! The OpenStack APIs: REST on one port, a prefix each.
//!
//! Handlers translate: they parse a request, run one transaction, and render rows for the
//! asked microversion. They never speak to an agent (reads of a console excepted) and never
//! wait for one.
//!
//! A request passes, from the outside in: [`layers::trace`] (request id, access log, error
//! bodies), [`layers::normalise`] (slashes), [`layers::authenticate`] (token to
//! [`RequestContext`]), then its handler.

pub mod body;
mod call;
mod compute;
mod context;
mod error;
mod identity;
mod image;
pub mod layers;
pub mod listing;
mod network;
mod placement;
pub mod query;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;

pub use context::{ApiSettings, AppState, RequestContext};
pub use error::{ApiError, Service};

use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;

/// Everything that the controller answers to users.
pub fn router(app: AppState) -> Router {
    let services = Router::new()
        .nest("/identity", identity::router())
        .nest("/image", image::router())
        .nest("/network", network::router())
        .nest("/compute", compute::router())
        .nest("/placement", placement::router())
        .layer(middleware::from_fn_with_state(
            app.clone(),
            layers::authenticate,
        ))
        .layer(DefaultBodyLimit::max(body::MAX_JSON_BYTES))
        .with_state(app.clone());
    // The outer router has no routes of its own, so that its layers run before routing.
    Router::new()
        .fallback_service(services)
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(layers::normalise))
        .layer(middleware::from_fn_with_state(app, layers::trace))
}
