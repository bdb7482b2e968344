//! Joining: a token for an id and a secret.
//!
//! A token from [`create_token`] is good for one host; that host may use it again until it
//! expires, since the answer to its first use may have been lost. The configuration's
//! `join_token` is good for any number. A host that joins again keeps its epoch: its disk is the
//! same one.
//!
//! Whoever has a token can name any host's id. So a host that has joined joins again with its own
//! secret, or with a token that was its own before: one that it used, or that was made for it.

use crate::{certificate, timelines};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use berth_controller_core::agent::AgentError;
use berth_controller_core::secret::digest;
use berth_controller_core::store::{Store, StoreError, Tx};
use berth_controller_core::{AppState, Env, params};
use berth_rpc::{Address, kill_point};
use berth_rpc_types::link::{JoinReply, JoinRequest};
use berth_rpc_types::{Capacity, HostId};

/// How long a hostname may be (RFC 1035, 2.3.4).
const HOSTNAME_MAX: usize = 253;

/// `POST /agent/v1/join`
pub(super) async fn join(
    State(app): State<AppState>,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinReply>, AgentError> {
    let named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let name = &request.hostname;
    if name.is_empty() || name.len() > HOSTNAME_MAX || !name.chars().all(named) {
        let why = format!(
            "hostname {:?} is none (RFC 1035)",
            berth_controller_core::body::clip(name)
        );
        return Err(AgentError::Refused(StatusCode::BAD_REQUEST, why));
    }
    let env = app.env();
    let is_secret = |s: &String| s.len() == 64 && s.chars().all(|c| c.is_ascii_hexdigit());
    let secret = match request.secret.clone() {
        None => env.secret(),
        Some(secret) if is_secret(&secret) => secret,
        Some(_) => {
            let why = "secret is no 256 bits in hexadecimal".to_owned();
            return Err(AgentError::Refused(StatusCode::BAD_REQUEST, why));
        }
    };
    let preset = app.control.join_token.clone();
    app.store
        .tx(|tx| {
            let (env, secret) = (env.clone(), secret.clone());
            let (request, preset) = (request.clone(), preset.clone());
            Box::pin(async move {
                let token = use_token(tx, &env, preset.as_deref(), &request).await?;
                enrol(tx, &env, &request, &secret, token).await
            })
        })
        .await?;
    kill_point!("controller.join.committed");
    // The agent declares its queue too; whoever comes first. A broker that is down comes back.
    drop(app.transport.declare(Address::Agent(request.host_id)).await);
    tracing::info!(host_id = %request.host_id, hostname = request.hostname, "host joined");
    Ok(Json(JoinReply {
        secret,
        broker_url: app.control.agent_broker_url.clone(),
    }))
}

/// Whose a token was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// Anybody's, or nobody's yet.
    Open,
    /// This very host's.
    Own,
}

async fn use_token(
    tx: &mut Tx,
    env: &Env,
    preset: Option<&str>,
    request: &JoinRequest,
) -> Result<Token, AgentError> {
    let hash = digest(&request.token);
    if preset.is_some_and(|preset| digest(preset) == hash) {
        return Ok(Token::Open);
    }
    let sql = "SELECT used_by FROM join_tokens WHERE token_hash = $1";
    let before: Option<(Option<HostId>,)> = tx.query_opt(sql, params![&hash]).await?;
    let used = tx
        .execute(
            "UPDATE join_tokens SET used_by = $1 WHERE token_hash = $2 AND expires_at > $3 \
             AND (used_by IS NULL OR used_by = $1)",
            params![request.host_id, hash, env.now()],
        )
        .await?;
    if used == 1 {
        return Ok(match before {
            Some((Some(_),)) => Token::Own,
            _ => Token::Open,
        });
    }
    let why = "the token is unknown, expired, or was used by another host; make one with \
               `berth-controller token create`";
    Err(AgentError::Refused(StatusCode::UNAUTHORIZED, why.into()))
}

async fn enrol(
    tx: &mut Tx,
    env: &Env,
    request: &JoinRequest,
    secret: &str,
    token: Token,
) -> Result<(), AgentError> {
    let now = env.now();
    let hash = digest(secret);
    let JoinRequest {
        host_id, hostname, ..
    } = request;
    if let Some((other,)) = tx
        .query_opt::<(HostId,)>(
            "SELECT id FROM hosts WHERE hostname = $1 AND id <> $2",
            params![hostname, *host_id],
        )
        .await?
    {
        let why = format!(
            "hostname {hostname} is host {other}'s; give this one another hostname, or keep that \
             host's state directory, or remove that host (openstack compute service delete)"
        );
        return Err(AgentError::Refused(StatusCode::CONFLICT, why));
    }
    let sql = "SELECT secret_hash FROM hosts WHERE id = $1";
    if let Some((kept,)) = tx.query_opt::<(String,)>(sql, params![*host_id]).await? {
        if kept != hash && token != Token::Own {
            let why = format!(
                "host {host_id} has joined before, with another secret; let it join again with a \
                 token of its own (berth-controller token create --host {hostname})"
            );
            return Err(AgentError::Refused(StatusCode::CONFLICT, why));
        }
        if kept != hash {
            certificate::forget_key(tx, *host_id).await?;
        }
        tx.execute(
            "UPDATE hosts SET secret_hash = $1, hostname = $2, updated_at = $3 WHERE id = $4",
            params![&hash, hostname, now, *host_id],
        )
        .await?;
        return Ok(());
    }
    let capacity = serde_json::to_value(Capacity::default()).unwrap_or_default();
    // It counts as down, and has nothing, until its first report. Two that join at once may
    // draw the same service id: the unique index makes one of them try again. One that was removed
    // has been in an epoch.
    tx.execute(
        "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, epoch, availability_zone, \
         enabled, forced_down, last_seen_at, agent_version, capacity, generation, network_revision, \
         created_at, updated_at) SELECT $1, COALESCE(MAX(service_id), 0) + 1, $2, '', $3, \
         COALESCE((SELECT epoch + 1 FROM retired_hosts WHERE host_id = $1), 1), 'nova', \
         1, 0, 0, '', $4, 1, 1, $5, $5 FROM \
         (SELECT service_id FROM hosts UNION ALL SELECT service_id FROM retired_hosts) AS drawn",
        params![*host_id, hostname, &hash, capacity, now],
    )
    .await?;
    timelines::note_new_host(tx, *host_id).await?;
    Ok(())
}

/// Makes a token that one host can join with, good for `lifetime_s` seconds. Only its digest is kept.
/// With a hostname it is that host's, for it to join again; `None` if there is no such host.
///
/// # Errors
/// [`StoreError`]
pub async fn create_token(
    store: &Store,
    env: &Env,
    lifetime_s: u32,
    hostname: Option<&str>,
) -> Result<Option<String>, StoreError> {
    let token = env.secret();
    let hash = digest(&token);
    let expires = env.now() + i64::from(lifetime_s) * 1000;
    let hostname = hostname.map(str::to_owned);
    let made = store
        .tx::<_, StoreError, _>(|tx| {
            let (hash, hostname) = (hash.clone(), hostname.clone());
            Box::pin(async move {
                let host = match hostname {
                    None => None,
                    Some(name) => {
                        let sql = "SELECT id FROM hosts WHERE hostname = $1";
                        match tx.query_opt::<(HostId,)>(sql, params![name]).await? {
                            None => return Ok(false),
                            Some((id,)) => Some(id),
                        }
                    }
                };
                tx.execute(
                    "INSERT INTO join_tokens (token_hash, expires_at, used_by) VALUES ($1, $2, $3)",
                    params![hash, expires, host.map(|id| id.to_string())],
                )
                .await?;
                Ok(true)
            })
        })
        .await?;
    Ok(made.then_some(token))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_controller_identity::testing;

    const HOST: HostId = HostId::from_u128(1);

    fn secret(digit: char) -> Option<String> {
        Some(digit.to_string().repeat(64))
    }

    async fn asks(
        app: &AppState,
        token: &str,
        id: HostId,
        name: &str,
        secret: Option<String>,
    ) -> u16 {
        let request = JoinRequest {
            token: token.into(),
            host_id: id,
            hostname: name.into(),
            secret: secret.clone(),
        };
        match join(State(app.clone()), Json(request)).await {
            Ok(Json(reply)) => {
                assert!(secret.is_none_or(|own| own == reply.secret));
                200
            }
            Err(AgentError::Refused(status, _)) => status.as_u16(),
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn token(app: &AppState, host: Option<&str>) -> Option<String> {
        create_token(&app.store, &app.env(), 60, host)
            .await
            .unwrap()
    }

    async fn app() -> AppState {
        let mut app = (*testing::app().await).clone();
        app.control = std::sync::Arc::new(berth_controller_core::ControlSettings {
            join_token: Some("preset".into()),
            ..Default::default()
        });
        app
    }

    #[tokio::test]
    async fn nobody_joins_in_the_place_of_a_host_that_has_joined() {
        let app = app().await;
        let own = token(&app, None).await.unwrap();
        assert_eq!(asks(&app, &own, HOST, "a", secret('1')).await, 200);
        // Tokens that another host may have: a new one, the configuration's.
        let fresh = token(&app, None).await.unwrap();
        for given in [&*fresh, "preset"] {
            for own in [secret('2'), None] {
                assert_eq!(asks(&app, given, HOST, "a", own).await, 409);
            }
        }
        // The refusal cost the token nothing.
        let other = HostId::from_u128(2);
        assert_eq!(asks(&app, &fresh, other, "b", secret('2')).await, 200);
    }

    #[tokio::test]
    async fn a_host_joins_again_with_its_secret_or_a_token_of_its_own() {
        let app = app().await;
        assert_eq!(asks(&app, "preset", HOST, "a", secret('1')).await, 200);
        // The answer was lost.
        assert_eq!(asks(&app, "preset", HOST, "a", secret('1')).await, 200);
        let made_for_it = token(&app, Some("a")).await.unwrap();
        let key = |sql: &'static str| {
            app.store.tx::<_, StoreError, _>(move |tx| {
                Box::pin(async move { tx.execute(sql, params![HOST]).await })
            })
        };
        let kept = "INSERT INTO host_keys (host_id, key_digest, since) VALUES ($1, 'k', 0)";
        key(kept).await.unwrap();
        assert_eq!(asks(&app, &made_for_it, HOST, "a", secret('2')).await, 200);
        // With its key: whoever has this token now has lost the other's state directory.
        let forgotten = "DELETE FROM host_keys WHERE host_id = $1";
        assert_eq!(key(forgotten).await.unwrap(), 0);
        // And for nobody else.
        let other = HostId::from_u128(2);
        assert_eq!(asks(&app, &made_for_it, other, "b", secret('3')).await, 401);
        assert_eq!(token(&app, Some("c")).await, None);
    }

    #[tokio::test]
    async fn a_host_of_the_release_before_is_given_a_secret_and_asks_again_with_its_token() {
        let app = app().await;
        let own = token(&app, None).await.unwrap();
        assert_eq!(asks(&app, &own, HOST, "a", None).await, 200);
        assert_eq!(asks(&app, &own, HOST, "a", None).await, 200);
        assert_eq!(asks(&app, "preset", HOST, "a", None).await, 409);
    }

    #[tokio::test]
    async fn the_name_of_a_host_that_was_removed_is_free_and_its_epoch_is_not_forgotten() {
        let app = app().await;
        let row = async |id: HostId| {
            let sql = "SELECT epoch, service_id FROM hosts WHERE id = $1";
            let read = app.store.tx::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.query_opt::<(u64, i64)>(sql, params![id]).await })
            });
            read.await.unwrap()
        };
        let other = HostId::from_u128(2);
        assert_eq!(asks(&app, "preset", HOST, "a", secret('1')).await, 200);
        assert_eq!(asks(&app, "preset", other, "a", secret('2')).await, 409);
        let nobody = crate::tests::noting(true);
        let removed = app.store.tx::<_, crate::removal::RemovalError, _>(|tx| {
            let nobody = nobody.clone();
            Box::pin(async move { crate::removal::remove(tx, 1, &*nobody, HOST).await })
        });
        removed.await.unwrap();
        assert_eq!(asks(&app, "preset", other, "a", secret('2')).await, 200);
        assert_eq!(row(other).await, Some((1, 2)));
        // It comes back: as another one, in a higher epoch, and with no claim to its secret.
        assert_eq!(asks(&app, "preset", HOST, "b", secret('3')).await, 200);
        assert_eq!(row(HOST).await, Some((2, 3)));
    }

    #[tokio::test]
    async fn a_secret_is_256_bits() {
        let app = app().await;
        for weak in ["", "1", "no hexadecimal digits"] {
            assert_eq!(
                asks(&app, "preset", HOST, "a", Some(weak.into())).await,
                400
            );
        }
    }
}
