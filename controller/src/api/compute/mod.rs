//! Nova.

use super::AppState;
use axum::Router;

/// All routes of Nova, below `/compute`.
pub fn router() -> Router<AppState> {
    Router::new()
}
