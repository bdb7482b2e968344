//! The host's account at the broker, from the controller.

use crate::link::{HttpsLink, LinkError};
use berth_rpc::clock::Clock;
use berth_rpc::{Account, Accounts};
use berth_rpc_types::link::BrokerRequest;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// For how long an answer is used again: both connections of a start share one.
const SHARED_FOR: Duration = Duration::from_secs(2);

/// Asks the controller.
pub(crate) struct HostAccounts {
    link: HttpsLink,
    clock: Arc<dyn Clock>,
    /// When, and the answer.
    last: Mutex<Option<(Duration, Option<Account>)>>,
}

impl HostAccounts {
    pub(crate) fn new(link: HttpsLink, clock: Arc<dyn Clock>) -> Self {
        Self {
            link,
            clock,
            last: Mutex::default(),
        }
    }

    async fn ask(&self, silent: bool) -> Result<Option<Account>, String> {
        let reply = match self.link.broker(&BrokerRequest { silent }).await {
            Ok(reply) => reply,
            // A controller of the release before knows no accounts.
            Err(LinkError::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        Ok(reply.account.map(|account| Account {
            user: account.user,
            secret: account.secret,
            renew_after: Duration::from_secs(u64::from(account.lifetime_s)) / 2,
        }))
    }
}

impl Accounts for HostAccounts {
    fn account(&self) -> BoxFuture<'_, Result<Option<Account>, String>> {
        Box::pin(async move {
            let mut last = self.last.lock().await;
            let now = self.clock.monotonic();
            if let Some((asked_at, account)) = &*last
                && now.saturating_sub(*asked_at) < SHARED_FOR
            {
                return Ok(account.clone());
            }
            let account = self.ask(false).await?;
            *last = Some((now, account.clone()));
            Ok(account)
        })
    }

    fn restore(&self, silent: bool) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.ask(silent).await.map(drop) })
    }
}
