//! Glance v2.

use super::AppState;
use axum::Router;

/// All routes of Glance v2, below `/image`.
pub fn router() -> Router<AppState> {
    Router::new()
}
