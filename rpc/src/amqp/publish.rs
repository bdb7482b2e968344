//! Publishing, confirmed: what returned `Routed` is on the broker's disks.

use super::link::{Link, Session};
use super::{ANSWER_WITHIN, Shared, refusal, topology};
use crate::{Address, RpcError};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Publishes in flight at once, and so channels. Confirms are batched by the broker: that many
/// bring most of its throughput.
const IN_FLIGHT: usize = 64;

/// Where and how to publish.
pub(super) struct Publish<'a> {
    pub(super) to: To<'a>,
    pub(super) message_id: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) persistent: bool,
    /// Whether a message without a queue comes back, rather than being dropped.
    pub(super) mandatory: bool,
}

/// Where a message goes.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    /// A queue of ours.
    Queue(Address),
    /// Whoever asked: its channel by direct reply-to, which takes a right to every queue; or, from a
    /// host with an account of its own, its queue of answers, if it named one.
    Asker {
        direct: &'a str,
        answers: Option<&'a str>,
    },
}

impl To<'_> {
    /// The exchange and the routing key, by a session's rights.
    fn route(self, shared: &Shared, session: &Session) -> Result<(String, String), RpcError> {
        let exchange = || topology::results_exchange(&shared.namespace);
        match (self, session.is_host) {
            (Self::Queue(address), false) => {
                let queue = topology::queue_name(&shared.namespace, address);
                Ok((String::new(), queue))
            }
            (Self::Queue(address), true) if topology::is_for_hosts(address) => {
                let key = topology::queue_name(&shared.namespace, address);
                Ok((exchange(), key))
            }
            (Self::Queue(address), true) => Err(RpcError::Configuration(format!(
                "a host's account does not reach {address}"
            ))),
            (Self::Asker { direct, .. }, false) => Ok((String::new(), direct.to_owned())),
            (Self::Asker { answers, .. }, true) => match answers {
                Some(answers) => Ok((exchange(), answers.to_owned())),
                None => Err(RpcError::Configuration(
                    "the asker named no queue that a host's account reaches".into(),
                )),
            },
        }
    }
}

/// What the broker said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Routed,
    /// There is no such queue.
    Returned,
}

pub(super) struct Publisher {
    shared: Arc<Shared>,
    pub(super) link: Link,
    slots: Semaphore,
    idle: Mutex<Vec<(Channel, Arc<Session>)>>,
}

impl Publisher {
    pub(super) fn new(shared: Arc<Shared>, link: Link) -> Self {
        let slots = Semaphore::new(IN_FLIGHT);
        Self {
            shared,
            link,
            slots,
            idle: Mutex::default(),
        }
    }

    /// Publishes and waits for the confirm.
    pub(super) async fn publish(&self, message: &Publish<'_>) -> Result<Sent, RpcError> {
        self.publish_with(message, BasicProperties::default()).await
    }

    /// As [`Publisher::publish`], with more properties than all messages have.
    pub(super) async fn publish_with(
        &self,
        message: &Publish<'_>,
        properties: BasicProperties,
    ) -> Result<Sent, RpcError> {
        let closed = || RpcError::Disconnected("this transport was closed".into());
        let message_id = ShortString::try_new(message.message_id)
            .map_err(|error| RpcError::Configuration(format!("a message id: {error}")))?;
        let _slot = self.slots.acquire().await.map_err(|_| closed())?;
        let (channel, session) = match self.idle() {
            Some(idle) => idle,
            None => confirming_channel(&self.shared, &self.link).await?,
        };
        let properties = properties
            .with_message_id(message_id)
            .with_delivery_mode(if message.persistent { 2 } else { 1 });
        let sent = confirmed(&self.shared, &channel, &session, message, properties).await;
        // A channel on which something went wrong is dropped, which closes it: a late confirm
        // must not be taken for the next message's.
        if sent.is_ok() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((channel, session));
        }
        sent
    }

    fn idle(&self) -> Option<(Channel, Arc<Session>)> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(channel, _)| channel.status().connected());
        idle.pop()
    }
}

/// A channel that confirms.
pub(super) async fn confirming_channel(
    shared: &Shared,
    link: &Link,
) -> Result<(Channel, Arc<Session>), RpcError> {
    let session = link.session(shared).await?;
    let channel = shared.answer(session.connection.create_channel()).await?;
    shared
        .answer(channel.confirm_select(ConfirmSelectOptions::default()))
        .await?;
    Ok((channel, session))
}

/// Publishes on a confirming channel that nobody else uses now.
pub(super) async fn confirmed(
    shared: &Shared,
    channel: &Channel,
    session: &Session,
    message: &Publish<'_>,
    properties: BasicProperties,
) -> Result<Sent, RpcError> {
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        immediate: false,
    };
    let (exchange, key) = message.to.route(shared, session)?;
    let properties = match &session.user {
        // The broker refuses another's name.
        Some(user) => properties.with_user_id(user.as_str().into()),
        None => properties,
    };
    let publish = async {
        let (exchange, key) = (exchange.into(), key.as_str().into());
        let sent = channel.basic_publish(exchange, key, options, message.payload, properties);
        sent.await?.await
    };
    match shared.within(ANSWER_WITHIN, publish).await {
        Some(Ok(Confirmation::Ack(None))) => Ok(Sent::Routed),
        Some(Ok(Confirmation::Ack(Some(_)))) => Ok(Sent::Returned),
        Some(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) => {
            Err(RpcError::Disconnected(format!(
                "the broker did not take a message for {key}: it is full (see its policies) or failing"
            )))
        }
        // It may have been written before the connection broke.
        Some(Err(error)) => match refusal(&error) {
            refused @ RpcError::Configuration(_) => Err(refused),
            _ => Err(RpcError::InDoubt(ANSWER_WITHIN)),
        },
        None => Err(RpcError::InDoubt(ANSWER_WITHIN)),
    }
}
