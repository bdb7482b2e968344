//! One supervised connection: there is one, or there will be.
//!
//! The supervisor tries the brokers in random order; after a round of failures it waits for a
//! random part of a limit that doubles, so that thousands of agents whose broker restarted do
//! not come back as one. A lost connection counts as a failed round. A host's account is asked for
//! before each round, and renewed before it expires.

use super::brokers::{Broker, Brokers};
use super::{ANSWER_WITHIN, Shared};
use crate::clock::Rng;
use crate::{Account, RpcError};
use futures::StreamExt as _;
use lapin::uri::AMQPUserInfo;
use lapin::{Connection, ConnectionProperties};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// TCP, TLS and the AMQP handshake together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The first round's longest wait.
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
/// Every round's longest wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(15);
/// How often a connection's state is looked at, should its end not have been told.
const WATCH: Duration = Duration::from_secs(2);

/// Pause before the next token is asked for again, if there was none.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone)]
enum State {
    /// Why there is none, as last heard.
    Down(String),
    Up(Arc<Session>),
}

/// A connection, and as whom.
pub(super) struct Session {
    pub(super) connection: Connection,
    /// The name that the broker compares a message's `user-id` with, where it is known.
    pub(super) user: Option<String>,
    /// Whether it is a host's account, which declares nothing and has one exchange.
    pub(super) is_host: bool,
}

/// A handle; clones are of the same connection.
#[derive(Clone)]
pub(super) struct Link {
    state: watch::Receiver<State>,
}

impl Link {
    /// Starts the supervisor, which ends when `shared` is closed.
    pub(super) fn open(shared: &Arc<Shared>, brokers: &Arc<Brokers>, name: String) -> Self {
        let (told, state) = watch::channel(State::Down("not connected yet".into()));
        let supervisor = Supervisor {
            shared: Arc::clone(shared),
            brokers: Arc::clone(brokers),
            name,
            told,
        };
        shared.tasks.spawn(supervisor.run());
        Self { state }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(session) if session.connection.status().connected())
    }

    /// The connection, waited for [`ANSWER_WITHIN`] at most.
    pub(super) async fn session(&self, shared: &Shared) -> Result<Arc<Session>, RpcError> {
        match shared.within(ANSWER_WITHIN, self.wait(shared)).await {
            Some(session) => session,
            None => Err(RpcError::Disconnected(match &*self.state.borrow() {
                State::Down(why) => why.clone(),
                State::Up(_) => "the connection has just been lost".into(),
            })),
        }
    }

    /// The connection, waited for as long as it takes; an error only when closed.
    pub(super) async fn wait(&self, shared: &Shared) -> Result<Arc<Session>, RpcError> {
        let mut state = self.state.clone();
        let usable = |state: &State| matches!(state, State::Up(session) if session.connection.status().connected());
        let up = tokio::select! {
            biased;
            () = shared.closed.cancelled() => None,
            up = state.wait_for(usable) => up.ok().map(|state| state.clone()),
        };
        match up {
            Some(State::Up(session)) => Ok(session),
            _ => Err(RpcError::Disconnected("this transport was closed".into())),
        }
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    brokers: Arc<Brokers>,
    name: String,
    told: watch::Sender<State>,
}

impl Supervisor {
    async fn run(self) {
        let closed = self.shared.closed.clone();
        let mut back_off = BackOff::default();
        loop {
            let connected = tokio::select! {
                biased;
                () = closed.cancelled() => return,
                connected = self.connect() => connected,
            };
            if let Some((session, renew_after, label)) = connected {
                back_off = BackOff::default();
                tracing::info!(connection = self.name, broker = label, "connected");
                let session = Arc::new(session);
                let connection = &session.connection;
                self.told.send_replace(State::Up(Arc::clone(&session)));
                let why = tokio::select! {
                    biased;
                    () = closed.cancelled() => {
                        self.told.send_replace(State::Down("this transport was closed".into()));
                        // Consumers first close their channels; a broker that does not answer
                        // is left behind.
                        let bye = connection.close(200, "OK".into());
                        self.shared.within(ANSWER_WITHIN, bye).await;
                        return;
                    }
                    why = self.watch(connection) => why,
                    why = self.renew(connection, renew_after) => why,
                };
                tracing::warn!(
                    connection = self.name,
                    broker = label,
                    why,
                    "connection lost"
                );
                self.told.send_replace(State::Down(why));
            }
            let wait = back_off.next(&*self.shared.rng);
            tokio::select! {
                biased;
                () = closed.cancelled() => return,
                () = self.shared.clock.sleep(wait) => {}
            }
        }
    }

    /// One round over all brokers: a session, when its account is to be renewed, and where.
    async fn connect(&self) -> Option<(Session, Option<Duration>, String)> {
        let account = match self.account().await {
            Ok(account) => account,
            Err(error) => {
                tracing::warn!(connection = self.name, error, "no account for the broker");
                self.told.send_replace(State::Down(error));
                return None;
            }
        };
        let renew_after = account.as_ref().map(|account| account.renew_after);
        for broker in shuffled(&self.brokers.list, &*self.shared.rng) {
            let error = match self
                .shared
                .within(CONNECT_WITHIN, self.connect_to(broker, account.as_ref()))
                .await
            {
                Some(Ok(connection)) => {
                    let session = Session {
                        connection,
                        user: match &account {
                            Some(account) => Some(account.user.clone()),
                            None => broker.user(),
                        },
                        is_host: account.is_some(),
                    };
                    return Some((session, renew_after, broker.label.clone()));
                }
                Some(Err(error)) => error.to_string(),
                None => format!("no connection within {CONNECT_WITHIN:?}"),
            };
            let label = &broker.label;
            tracing::warn!(
                connection = self.name,
                broker = label,
                error,
                "cannot connect"
            );
            self.told
                .send_replace(State::Down(format!("{label}: {error}")));
        }
        None
    }

    /// The account to log in with, if there is one.
    async fn account(&self) -> Result<Option<Account>, String> {
        match &self.shared.accounts {
            Some(accounts) => accounts.account().await,
            None => Ok(None),
        }
    }

    async fn connect_to(
        &self,
        broker: &Broker,
        account: Option<&Account>,
    ) -> lapin::Result<Connection> {
        let mut uri = broker.uri.clone();
        if let Some(account) = account {
            uri.authority.userinfo = AMQPUserInfo {
                username: account.user.clone(),
                password: account.secret.clone(),
            };
        }
        let name = self.name.as_str().into();
        let properties = ConnectionProperties::default().with_connection_name(name);
        let runtime = lapin::runtime::default_runtime()?;
        Connection::connect_uri_with_config(uri, properties, broker.tls(), runtime).await
    }

    /// Keeps the connection's account from expiring; returns why that cannot go on.
    async fn renew(&self, connection: &Connection, first: Option<Duration>) -> String {
        let Some(mut wait) = first else {
            return std::future::pending().await;
        };
        loop {
            self.shared.clock.sleep(wait).await;
            let account = match self.account().await {
                Ok(Some(account)) => account,
                Ok(None) => return "the controllers hand out no account any more".into(),
                Err(error) => {
                    tracing::warn!(connection = self.name, error, "account not renewed yet");
                    wait = RENEW_AGAIN;
                    continue;
                }
            };
            let secret = account.secret.as_str().into();
            let renewed = connection.update_secret(secret, "renewed".into());
            match self.shared.within(ANSWER_WITHIN, renewed).await {
                Some(Ok(())) => wait = account.renew_after,
                Some(Err(error)) => return format!("account not renewed: {error}"),
                None => return format!("account not renewed within {ANSWER_WITHIN:?}"),
            }
        }
    }

    /// Waits for the connection's end and says why.
    async fn watch(&self, connection: &Connection) -> String {
        // Only one listener, here: lapin gives each event to one of several.
        let mut events = Box::pin(connection.events_listener());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.shared.clock.sleep(WATCH) => {
                    if connection.status().connected() {
                        continue;
                    }
                    return "the connection ended".into();
                }
            };
            match event {
                Some(lapin::Event::Error(error)) => return error.to_string(),
                Some(lapin::Event::ConnectionBlocked(why)) => {
                    tracing::warn!(
                        connection = self.name,
                        why,
                        "the broker holds publishers back"
                    );
                }
                Some(lapin::Event::ConnectionUnblocked) => {
                    tracing::info!(connection = self.name, "the broker lets publishers go on");
                }
                Some(_) => {}
                None => return "the connection ended".into(),
            }
        }
    }
}

fn shuffled<'a, T>(list: &'a [T], rng: &dyn Rng) -> Vec<&'a T> {
    let mut left: Vec<&T> = list.iter().collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let count = u64::try_from(left.len()).unwrap_or(u64::MAX);
        let at = usize::try_from(rng.below(count)).unwrap_or(0);
        order.push(left.swap_remove(at));
    }
    order
}

/// Waits that grow: each a random part of a limit that doubles.
pub(super) struct BackOff {
    limit: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            limit: BACK_OFF_MIN,
        }
    }
}

impl BackOff {
    pub(super) fn next(&mut self, rng: &dyn Rng) -> Duration {
        let limit = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        self.limit = (self.limit * 2).min(BACK_OFF_MAX);
        // At least a tenth: "at once" would be no back-off.
        Duration::from_millis(limit / 10 + rng.below(limit - limit / 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRng;

    #[test]
    fn waits_grow_to_a_limit_and_differ_between_clients() {
        let (one, other) = (SeededRng::new(1), SeededRng::new(2));
        let waits = |rng: &SeededRng| -> Vec<Duration> {
            let mut back_off = BackOff::default();
            (0..12).map(|_| back_off.next(rng)).collect()
        };
        let (first, second) = (waits(&one), waits(&other));
        assert_ne!(first, second);
        assert!(
            first
                .iter()
                .all(|wait| *wait >= BACK_OFF_MIN / 10 && *wait <= BACK_OFF_MAX)
        );
        assert!(first[0] <= BACK_OFF_MIN);
        let late = first[6..].iter().max().copied();
        assert!(late > Some(BACK_OFF_MAX / 3), "{late:?}");
    }

    #[test]
    fn brokers_are_tried_each_once_in_an_order_that_is_drawn() {
        let list: Vec<u32> = (0..6).collect();
        let order = |seed| -> Vec<u32> {
            shuffled(&list, &SeededRng::new(seed))
                .into_iter()
                .copied()
                .collect()
        };
        assert_ne!(order(1), order(2));
        let mut sorted = order(1);
        sorted.sort_unstable();
        assert_eq!(sorted, list);
    }
}
