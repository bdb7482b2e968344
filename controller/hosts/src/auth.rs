//! Which host calls: it proves its secret, and its key.
//!
//! The key is proved by the connection's TLS handshake ([`PeerKey`]), once the host has a certificate
//! (`certificate`). An agent of an earlier release has none, and its secret is all that it proves.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use berth_controller_core::agent::{AgentError, bearer};
use berth_controller_core::host_ca::PeerKey;
use berth_controller_core::{AppState, params, secret};
use berth_rpc_types::HostId;

/// The host that calls. Handlers take it as an argument; they are not reached by anybody else.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub HostId);

impl<S> FromRequestParts<S> for Caller
where
    AppState: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = AgentError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AgentError> {
        let app = AppState::from_ref(state);
        let (host_id, key) = by_secret(&app, &parts.headers).await?;
        let shown = parts.extensions.get::<PeerKey>();
        if let (Some(key), Some(_)) = (&key, &app.host_ca)
            && shown != Some(key)
        {
            let why = match shown {
                None => "this host has a certificate, and did not show it",
                Some(_) => "the certificate is not for this host's key",
            };
            return Err(AgentError::Refused(StatusCode::UNAUTHORIZED, why.into()));
        }
        Ok(Self(host_id))
    }
}

/// Whose secret the call has, and that host's key if it has one. A secret of 256 random bits is
/// compared by digest: what the time of the comparison tells is of no use.
///
/// # Errors
/// [`AgentError`]
pub(crate) async fn by_secret(
    app: &AppState,
    headers: &HeaderMap,
) -> Result<(HostId, Option<PeerKey>), AgentError> {
    let refused = || {
        let why = "unknown host or wrong secret; join again with a new token";
        AgentError::Refused(StatusCode::UNAUTHORIZED, why.into())
    };
    let id = headers.get("x-berth-host").and_then(|v| v.to_str().ok());
    let host_id: HostId = id.and_then(|v| v.parse().ok()).ok_or_else(refused)?;
    let hash = secret::digest(bearer(headers).ok_or_else(refused)?);
    let row = app
        .store
        .query_opt::<(HostId, Option<String>)>(
            "SELECT h.id, k.key_digest FROM hosts h LEFT JOIN host_keys k \
             ON k.host_id = h.id WHERE h.id = $1 AND h.secret_hash = $2",
            params![host_id, hash],
        )
        .await?;
    let (id, key) = row.ok_or_else(refused)?;
    Ok((id, key.map(PeerKey)))
}
