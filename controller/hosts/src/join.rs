//! Joining: a token for an id and a secret.
//!
//! A token from [`create_token`] is good for one host; that host may use it again until it
//! expires, since the answer to its first use may have been lost. The configuration's
//! `join_token` is good for any number. A host that joins again gets a new secret, and keeps its
//! epoch: its disk is the same one.

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
    let secret = env.secret();
    let preset = app.control.join_token.clone();
    app.store
        .tx(|tx| {
            let (env, secret) = (env.clone(), secret.clone());
            let (request, preset) = (request.clone(), preset.clone());
            Box::pin(async move {
                use_token(tx, &env, preset.as_deref(), &request).await?;
                enrol(tx, &env, &request, &secret).await
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

async fn use_token(
    tx: &mut Tx,
    env: &Env,
    preset: Option<&str>,
    request: &JoinRequest,
) -> Result<(), AgentError> {
    let hash = digest(&request.token);
    if preset.is_some_and(|preset| digest(preset) == hash) {
        return Ok(());
    }
    let used = tx
        .execute(
            "UPDATE join_tokens SET used_by = $1 WHERE token_hash = $2 AND expires_at > $3 \
             AND (used_by IS NULL OR used_by = $1)",
            params![request.host_id, hash, env.now()],
        )
        .await?;
    if used == 1 {
        return Ok(());
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
             host's state directory"
        );
        return Err(AgentError::Refused(StatusCode::CONFLICT, why));
    }
    let known = tx
        .execute(
            "UPDATE hosts SET secret_hash = $1, hostname = $2, updated_at = $3 WHERE id = $4",
            params![&hash, hostname, now, *host_id],
        )
        .await?;
    if known == 1 {
        return Ok(());
    }
    let capacity = serde_json::to_value(Capacity::default()).unwrap_or_default();
    // It counts as down, and has nothing, until its first report. Two that join at once may
    // draw the same service id: the unique index makes one of them try again.
    tx.execute(
        "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, epoch, availability_zone, \
         enabled, forced_down, last_seen_at, agent_version, capacity, generation, network_revision, \
         created_at, updated_at) SELECT $1, COALESCE(MAX(service_id), 0) + 1, $2, '', $3, 1, 'nova', \
         1, 0, 0, '', $4, 1, 1, $5, $5 FROM hosts",
        params![*host_id, hostname, &hash, capacity, now],
    )
    .await?;
    Ok(())
}

/// Makes a token that one host can join with, good for `lifetime_s` seconds. Only its digest is kept.
///
/// # Errors
/// [`StoreError`]
pub async fn create_token(store: &Store, env: &Env, lifetime_s: u32) -> Result<String, StoreError> {
    let token = env.secret();
    let hash = digest(&token);
    let expires = env.now() + i64::from(lifetime_s) * 1000;
    store
        .tx::<_, StoreError, _>(|tx| {
            let hash = hash.clone();
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO join_tokens (token_hash, expires_at) VALUES ($1, $2)",
                    params![hash, expires],
                )
                .await
            })
        })
        .await?;
    Ok(token)
}
