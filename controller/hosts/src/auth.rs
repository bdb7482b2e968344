//! Which host calls: it proves its secret.

use axum::http::{HeaderMap, StatusCode};
use berth_controller_core::agent::{AgentError, bearer};
use berth_controller_core::store::StoreError;
use berth_controller_core::{AppState, params, secret};
use berth_rpc_types::HostId;

/// Who calls, if the secret is the host's. A secret of 256 random bits is compared by digest:
/// what the time of the comparison tells is of no use.
///
/// # Errors
/// [`AgentError`]
pub async fn authenticate(app: &AppState, headers: &HeaderMap) -> Result<HostId, AgentError> {
    let refused = || {
        let why = "unknown host or wrong secret; join again with a new token";
        AgentError::Refused(StatusCode::UNAUTHORIZED, why.into())
    };
    let id = headers.get("x-berth-host").and_then(|v| v.to_str().ok());
    let host_id: HostId = id.and_then(|v| v.parse().ok()).ok_or_else(refused)?;
    let hash = secret::digest(bearer(headers).ok_or_else(refused)?);
    let row = app
        .store
        .tx::<_, StoreError, _>(|tx| {
            let hash = hash.clone();
            Box::pin(async move {
                tx.query_opt::<(HostId,)>(
                    "SELECT id FROM hosts WHERE id = $1 AND secret_hash = $2",
                    params![host_id, hash],
                )
                .await
            })
        })
        .await?;
    row.map(|_| host_id).ok_or_else(refused)
}
