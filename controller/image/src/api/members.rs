//! Members of shared images: sharing with single projects is not offered, so there are none.

use super::{Reply, ok, parse_id};
use crate::records;
use axum::Extension;
use axum::extract::{Path, State};
use berth_controller_core::{AppState, RequestContext};
use serde_json::json;

/// `GET /v2/images/{id}/members`
pub async fn list(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    let id = parse_id(&id)?.to_string();
    app.store
        .tx(|tx| {
            let (context, id) = (context.clone(), id.clone());
            Box::pin(async move { records::load(tx, &context.reach, &id).await })
        })
        .await?;
    Ok(ok(json!({"members": [], "schema": "/v2/schemas/members"})))
}
