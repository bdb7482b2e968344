//! A host's certificate, for the key that it made.
//!
//! The first key that a host shows with its secret is its own from then on: the secret alone proves
//! nothing any more, and is of no use to who has read it somewhere. A host that has lost its key joins
//! again, with a token of its own ([`crate::join`]).

use crate::auth::by_secret;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use berth_controller_core::agent::AgentError;
use berth_controller_core::host_ca::{LIFETIME, PeerKey, Request};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, params};
use berth_rpc::kill_point;
use berth_rpc_types::HostId;
use berth_rpc_types::link::{CertificateReply, CertificateRequest};

/// `POST /agent/v1/certificate`
pub(super) async fn certificate(
    State(app): State<AppState>,
    headers: HeaderMap,
    Json(request): Json<CertificateRequest>,
) -> Result<Json<CertificateReply>, AgentError> {
    let refused = |status, why: String| AgentError::Refused(status, why);
    let (host_id, _) = by_secret(&app, &headers).await?;
    let Some(ca) = &app.host_ca else {
        return Ok(Json(CertificateReply::default()));
    };
    let request = Request::parse(&request.csr)
        .map_err(|error| refused(StatusCode::BAD_REQUEST, error.to_string()))?;
    let (key, now) = (request.key(), app.clock.now_millis());
    let is_its = app
        .store
        .tx::<_, StoreError, _>(|tx| {
            let key = key.clone();
            Box::pin(async move { is_or_becomes_its(tx, host_id, &key, now).await })
        })
        .await?;
    kill_point!("controller.certificate.committed");
    if !is_its {
        let why = format!(
            "host {host_id} has another key; let it join again with a token of its own \
             (berth-controller token create --host NAME)"
        );
        return Err(refused(StatusCode::CONFLICT, why));
    }
    let certificate = ca
        .sign(host_id, &request, now)
        .map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(CertificateReply {
        certificate: Some(certificate),
        lifetime_s: LIFETIME.as_secs(),
    }))
}

/// Whether the key is the host's; it is, if there was none.
async fn is_or_becomes_its(
    tx: &mut Tx,
    host_id: HostId,
    key: &PeerKey,
    now: i64,
) -> Result<bool, StoreError> {
    tx.execute(
        "INSERT INTO host_keys (host_id, key_digest, since) VALUES ($1, $2, $3) \
         ON CONFLICT DO NOTHING",
        params![host_id, &key.0, now],
    )
    .await?;
    let sql = "SELECT key_digest FROM host_keys WHERE host_id = $1";
    let row = tx.query_opt::<(String,)>(sql, params![host_id]).await?;
    Ok(row.is_some_and(|(kept,)| kept == key.0))
}

/// The host has joined anew: its next key is its own.
pub(crate) async fn forget_key(tx: &mut Tx, host_id: HostId) -> Result<(), StoreError> {
    let sql = "DELETE FROM host_keys WHERE host_id = $1";
    tx.execute(sql, params![host_id]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Caller;
    use axum::extract::FromRequestParts as _;
    use axum::http::Request as Http;
    use berth_controller_core::HostCa;
    use berth_controller_identity::testing;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
    use std::sync::Arc;

    const HOST: HostId = HostId::from_u128(1);

    async fn app() -> AppState {
        let mut app = (*testing::app().await).clone();
        let ca = HostCa::new(KeyPair::generate().unwrap()).unwrap();
        app.host_ca = Some(Arc::new(ca));
        joined(&app, 's').await;
        app
    }

    fn secret(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    /// The host is there, with this secret.
    async fn joined(app: &AppState, digit: char) {
        let hash = berth_controller_core::secret::digest(&secret(digit));
        app.store
            .tx::<_, StoreError, _>(|tx| {
                let hash = hash.clone();
                Box::pin(async move {
                    tx.execute(
                        "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, epoch, \
                         availability_zone, enabled, forced_down, last_seen_at, agent_version, \
                         capacity, generation, network_revision, created_at, updated_at) \
                         VALUES ($1, 1, 'h', '', $2, 1, 'nova', 1, 0, 0, '', '{}', 1, 1, 0, 0)",
                        params![HOST, hash],
                    )
                    .await
                })
            })
            .await
            .unwrap();
    }

    fn headers(digit: char) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-berth-host", HOST.to_string().parse().unwrap());
        let bearer = format!("Bearer {}", secret(digit));
        headers.insert("authorization", bearer.parse().unwrap());
        headers
    }

    async fn asks(app: &AppState, digit: char, key: &KeyPair) -> Result<CertificateReply, u16> {
        let params = CertificateParams::new(Vec::new()).unwrap();
        let csr = params.serialize_request(key).unwrap().pem().unwrap();
        let request = Json(CertificateRequest { csr });
        match certificate(State(app.clone()), headers(digit), request).await {
            Ok(Json(reply)) => Ok(reply),
            Err(AgentError::Refused(status, _)) => Err(status.as_u16()),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Whether a call with the secret is taken, over a connection that proved this key.
    async fn is_let_in(app: &AppState, key: Option<&KeyPair>) -> bool {
        let mut request = Http::new(());
        *request.headers_mut() = headers('s');
        if let Some(key) = key {
            let shown = PeerKey::of(&key.subject_public_key_info());
            request.extensions_mut().insert(shown);
        }
        let (mut parts, ()) = request.into_parts();
        match Caller::from_request_parts(&mut parts, app).await {
            Ok(Caller(host)) => host == HOST,
            Err(AgentError::Refused(StatusCode::UNAUTHORIZED, _)) => false,
            Err(other) => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_first_key_is_the_hosts_and_must_be_proved_from_then_on() {
        let app = app().await;
        let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        // An agent of the release before has no key.
        assert!(is_let_in(&app, None).await);
        assert_eq!(asks(&app, 'x', &own).await.unwrap_err(), 401);
        let reply = asks(&app, 's', &own).await.unwrap();
        assert!(reply.certificate.unwrap().contains("BEGIN CERTIFICATE"));
        assert!(is_let_in(&app, Some(&own)).await);
        assert!(!is_let_in(&app, None).await);
        assert!(!is_let_in(&app, Some(&other)).await);
        // The next certificate is for the same key; nobody else's secret-bearer gets one.
        assert!(asks(&app, 's', &own).await.is_ok());
        assert_eq!(asks(&app, 's', &other).await.unwrap_err(), 409);
        assert!(is_let_in(&app, Some(&own)).await);
    }

    #[tokio::test]
    async fn a_host_that_joins_anew_has_another_key() {
        let app = app().await;
        let (lost, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        assert!(asks(&app, 's', &lost).await.is_ok());
        let forgotten = app
            .store
            .tx::<_, StoreError, _>(|tx| Box::pin(forget_key(tx, HOST)));
        forgotten.await.unwrap();
        assert!(asks(&app, 's', &new).await.is_ok());
        assert!(is_let_in(&app, Some(&new)).await);
        assert!(!is_let_in(&app, Some(&lost)).await);
    }

    #[tokio::test]
    async fn where_hosts_have_no_certificates_their_secret_is_enough() {
        let mut app = app().await;
        let own = KeyPair::generate().unwrap();
        assert!(asks(&app, 's', &own).await.is_ok());
        app.host_ca = None;
        assert!(is_let_in(&app, None).await);
        assert!(asks(&app, 's', &own).await.unwrap().certificate.is_none());
    }
}
