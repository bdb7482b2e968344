//! Messages over RabbitMQ, 3.10 and newer, by AMQP 0-9-1.
//!
//! What a publish that returned `Ok` means here: a quorum of the broker's nodes has it on disk.
//!
//! ```text
//!            publish link                     consume link
//!   supervisor task: connect, watch,     supervisor task: the same
//!     back off with jitter, again
//!   channels in a pool, one publish      one task and one channel a consumer: declare,
//!     in flight on each; reads take        qos, consume, hand on; when the channel ends,
//!     a channel of their own               again on the next connection
//! ```
//!
//! - Two connections, since a broker that holds back publishers stops reading from their socket,
//!   and acknowledgements must get through then.
//! - The reconnection is ours, not lapin's: it knows one URL, and an awaited confirm hangs across
//!   its recovery. Every wait on lapin here has an end of its own.
//! - One publish in flight on a channel: lapin gives a returned (unroutable) message to
//!   whichever confirm it completes next, which need not be that message's.
//! - A broker that comes back empty: consumers declare their queues when they consume again; a
//!   publish to a queue that this transport had declared, and that is gone, declares it again.
//!
//! Every task is tracked, and ends when the transport is closed or dropped.

mod brokers;
mod consume;
mod link;
mod publish;
mod read;
mod topology;

use crate::clock::{Clock, Rng};
use crate::{
    Accounts, Address, Client, ConsumeOptions, Consumer, ReadRequest, RpcError, Transport,
};
use brokers::Brokers;
use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use link::Link;
use publish::{Publish, Publisher, Sent, To};
use read::Asker;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use topology::{queue_name, results_exchange};

/// How long the broker has to answer anything. Quorum queues elect a leader within that.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the transport's parts share.
struct Shared {
    namespace: String,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    accounts: Option<Arc<dyn Accounts>>,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Shared {
    /// The future's output, or `None` after `limit`.
    async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        match select(pin!(future), self.clock.sleep(limit)).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }

    /// A broker's answer, within [`ANSWER_WITHIN`].
    async fn answer<T>(
        &self,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, RpcError> {
        match self.within(ANSWER_WITHIN, asked).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(refusal(&error)),
            None => {
                let silence = format!("no answer within {ANSWER_WITHIN:?}");
                Err(RpcError::Disconnected(silence))
            }
        }
    }

    fn check_open(&self) -> Result<(), RpcError> {
        if self.closed.is_cancelled() {
            return Err(RpcError::Disconnected("this transport was closed".into()));
        }
        Ok(())
    }
}

/// An error of lapin's, as one of ours: a refusal that trying again will not change, or not.
fn refusal(error: &lapin::Error) -> RpcError {
    use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
    if let lapin::ErrorKind::ProtocolError(said) = error.kind()
        && let AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED | AMQPSoftError::PRECONDITIONFAILED) =
            said.kind()
    {
        return RpcError::Configuration(format!("the broker refuses: {}", said.get_message()));
    }
    RpcError::Disconnected(error.to_string())
}

/// The virtual host and the namespace that URLs name.
pub(crate) fn vhost_and_namespace(urls: &[String]) -> Result<(String, String), RpcError> {
    let brokers = Brokers::parse(&crate::connect::listed(urls))?;
    let vhost = brokers.list.first().map(|b| b.uri.vhost.clone());
    Ok((vhost.unwrap_or_default(), brokers.namespace))
}

/// The transport.
pub(crate) struct Amqp {
    shared: Arc<Shared>,
    publisher: Arc<Publisher>,
    consuming: Link,
    asker: Asker,
    /// Queues that were declared or consumed through here: to be declared again if missing.
    declared: Mutex<HashSet<Address>>,
}

impl Amqp {
    /// Starts connecting to the brokers that `urls` name.
    pub(crate) fn open(
        urls: &[&str],
        client: Client,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Result<Arc<dyn Transport>, RpcError> {
        let brokers = Arc::new(Brokers::parse(urls)?);
        let shared = Arc::new(Shared {
            namespace: brokers.namespace.clone(),
            clock,
            rng,
            accounts: client.accounts,
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let name = client.name;
        let publishing = Link::open(&shared, &brokers, format!("{name} publish"));
        let consuming = Link::open(&shared, &brokers, format!("{name} consume"));
        Ok(Arc::new(Self {
            publisher: Arc::new(Publisher::new(Arc::clone(&shared), publishing)),
            consuming,
            asker: Asker::new(client.asks_as),
            shared,
            declared: Mutex::default(),
        }))
    }

    fn remember(&self, address: Address) {
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.insert(address);
    }

    fn remembers(&self, address: Address) -> bool {
        // Agents know the controllers' queues without having declared them.
        matches!(address, Address::Results | Address::DeadLetters)
            || self
                .declared
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&address)
    }

    async fn declare_now(&self, address: Address) -> Result<(), RpcError> {
        let session = self.publisher.link.session(&self.shared).await?;
        if session.is_host {
            return Ok(());
        }
        let channel = self
            .shared
            .answer(session.connection.create_channel())
            .await?;
        topology::declare(&self.shared, &channel, address).await?;
        // A channel that is dropped closes itself.
        Ok(())
    }

    async fn publish_now(
        &self,
        address: Address,
        message_id: &str,
        payload: Bytes,
    ) -> Result<(), RpcError> {
        self.shared.check_open()?;
        if matches!(address, Address::AgentReads(_)) {
            let what = format!("{address} takes questions (`read`), not messages");
            return Err(RpcError::Configuration(what));
        }
        let droppable = address == Address::Telemetry;
        let message = Publish {
            to: To::Queue(address),
            message_id,
            payload: &payload,
            persistent: !droppable,
            mandatory: !droppable,
        };
        if self.publisher.publish(&message).await? == Sent::Routed {
            return Ok(());
        }
        if !self.remembers(address) {
            return Err(RpcError::Unroutable(address));
        }
        tracing::warn!(%address, "the queue is gone; declaring it again");
        self.declare_now(address).await?;
        match self.publisher.publish(&message).await? {
            Sent::Routed => Ok(()),
            Sent::Returned => Err(RpcError::Unroutable(address)),
        }
    }
}

impl Drop for Amqp {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl Transport for Amqp {
    fn declare(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            self.shared.check_open()?;
            self.declare_now(address).await?;
            self.remember(address);
            Ok(())
        })
    }

    fn restore(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            self.shared.check_open()?;
            let session = self.publisher.link.session(&self.shared).await?;
            if session.is_host {
                return Ok(());
            }
            consume::delete(&self.shared, &session, address).await;
            self.declare_now(address).await
        })
    }

    fn publish<'a>(
        &'a self,
        address: Address,
        message_id: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), RpcError>> {
        Box::pin(self.publish_now(address, message_id, payload))
    }

    fn consume(
        &self,
        address: Address,
        options: ConsumeOptions,
    ) -> BoxFuture<'_, Result<Box<dyn Consumer>, RpcError>> {
        Box::pin(async move {
            self.shared.check_open()?;
            self.remember(address);
            let link = self.consuming.clone();
            consume::consume(&self.shared, link, address, options.prefetch).await
        })
    }

    fn read(
        &self,
        address: Address,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcError>> {
        Box::pin(async move {
            self.shared.check_open()?;
            let Address::AgentReads(host) = address else {
                let what = format!("{address} takes messages, not questions");
                return Err(RpcError::Configuration(what));
            };
            let links = (&self.publisher.link, &self.consuming);
            self.asker
                .ask(&self.shared, links, host, &payload, timeout)
                .await
        })
    }

    fn serve_reads(
        &self,
        address: Address,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<ReadRequest>, RpcError>> {
        Box::pin(async move {
            self.shared.check_open()?;
            self.remember(address);
            let link = self.consuming.clone();
            read::serve(&self.shared, link, &self.publisher, address).await
        })
    }

    fn is_connected(&self) -> bool {
        self.publisher.link.is_connected() && self.consuming.is_connected()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.shared.closed.cancel();
            self.shared.tasks.close();
            if self
                .shared
                .within(ANSWER_WITHIN, self.shared.tasks.wait())
                .await
                .is_none()
            {
                tracing::warn!("connections to the broker did not close within {ANSWER_WITHIN:?}");
            }
        })
    }
}
