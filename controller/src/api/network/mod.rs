//! Neutron v2.0.

use super::AppState;
use axum::Router;

/// All routes of Neutron, below `/network`.
pub fn router() -> Router<AppState> {
    Router::new()
}
