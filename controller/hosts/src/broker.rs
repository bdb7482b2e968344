//! A host's way to the broker: its queues, which only controllers declare, and an account that
//! reaches them and nothing else.
//!
//! Who has been given an account is written down before it is handed out: from then on nothing is
//! believed to be that host's that does not carry its name (`operations::results`). An agent of an
//! earlier release knows no accounts, and says so at its start by not saying otherwise: it has
//! taken the place of one that did (`sync`). Each speaks for its own host only, since the call is
//! that host's.

use crate::Caller;
use axum::Json;
use axum::extract::State;
use berth_controller_core::agent::AgentError;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, params};
use berth_rpc::{Address, kill_point};
use berth_rpc_types::HostId;
use berth_rpc_types::link::{BrokerAccount, BrokerReply, BrokerRequest};

/// `POST /agent/v1/broker`
pub(super) async fn broker(
    State(app): State<AppState>,
    Caller(host_id): Caller,
    Json(request): Json<BrokerRequest>,
) -> Result<Json<BrokerReply>, AgentError> {
    queues(&app, host_id, request.silent).await;
    let Some(accounts) = &app.broker_accounts else {
        return Ok(Json(BrokerReply { account: None }));
    };
    let now = app.clock.now_millis();
    app.store
        .tx::<_, StoreError, _>(|tx| Box::pin(has_account(tx, host_id, now)))
        .await?;
    kill_point!("controller.account.committed");
    let account = accounts.token(host_id, now).map(|secret| BrokerAccount {
        user: host_id.to_string(),
        secret,
        lifetime_s: accounts.lifetime_s,
    });
    Ok(Json(BrokerReply { account }))
}

/// The host's queues are there. A broker that cannot be reached comes back, and the host asks again.
async fn queues(app: &AppState, host_id: HostId, silent: bool) {
    let both = [Address::Agent(host_id), Address::AgentReads(host_id)];
    if silent {
        // Giving up a queue takes as long as it takes.
        let transport = app.transport.clone();
        tokio::spawn(async move {
            for address in both {
                tracing::warn!(%address, "its agent says that it gives no answer; making it anew");
                if let Err(error) = transport.restore(address).await {
                    tracing::warn!(%error, %address, "not made anew");
                }
            }
        });
        return;
    }
    let declared = both.map(|address| app.transport.declare(address));
    for declared in futures::future::join_all(declared).await {
        if let Err(error) = declared {
            tracing::warn!(%error, %host_id, "a host's queue was not declared");
        }
    }
}

async fn has_account(tx: &mut Tx, host_id: HostId, now: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO host_accounts (host_id, since) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        params![host_id, now],
    )
    .await?;
    Ok(())
}

/// The agent there now knows no accounts.
pub(crate) async fn has_none(tx: &mut Tx, host_id: HostId) -> Result<(), StoreError> {
    let sql = "DELETE FROM host_accounts WHERE host_id = $1";
    tx.execute(sql, params![host_id]).await?;
    Ok(())
}
