//! Publishing, confirmed: what returned `Routed` is on the broker's disks.

use super::link::Link;
use super::{ANSWER_WITHIN, Shared, refusal};
use crate::RpcError;
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
    pub(super) queue: &'a str,
    pub(super) message_id: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) persistent: bool,
    /// Whether a message without a queue comes back, rather than being dropped.
    pub(super) mandatory: bool,
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
    idle: Mutex<Vec<Channel>>,
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
        let closed = || RpcError::Disconnected("this transport was closed".into());
        let message_id = ShortString::try_new(message.message_id)
            .map_err(|error| RpcError::Configuration(format!("a message id: {error}")))?;
        let _slot = self.slots.acquire().await.map_err(|_| closed())?;
        let channel = match self.idle() {
            Some(channel) => channel,
            None => confirming_channel(&self.shared, &self.link).await?,
        };
        let properties = BasicProperties::default()
            .with_message_id(message_id)
            .with_delivery_mode(if message.persistent { 2 } else { 1 });
        let sent = confirmed(&self.shared, &channel, message, properties).await;
        // A channel on which something went wrong is dropped, which closes it: a late confirm
        // must not be taken for the next message's.
        if sent.is_ok() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(channel);
        }
        sent
    }

    fn idle(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|channel| channel.status().connected());
        idle.pop()
    }
}

/// A channel that confirms.
pub(super) async fn confirming_channel(shared: &Shared, link: &Link) -> Result<Channel, RpcError> {
    let connection = link.connection(shared).await?;
    let channel = shared.answer(connection.create_channel()).await?;
    shared
        .answer(channel.confirm_select(ConfirmSelectOptions::default()))
        .await?;
    Ok(channel)
}

/// Publishes on a confirming channel that nobody else uses now.
pub(super) async fn confirmed(
    shared: &Shared,
    channel: &Channel,
    message: &Publish<'_>,
    properties: BasicProperties,
) -> Result<Sent, RpcError> {
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        immediate: false,
    };
    let publish = async {
        let queue = message.queue.into();
        let sent = channel.basic_publish("".into(), queue, options, message.payload, properties);
        sent.await?.await
    };
    match shared.within(ANSWER_WITHIN, publish).await {
        Some(Ok(Confirmation::Ack(None))) => Ok(Sent::Routed),
        Some(Ok(Confirmation::Ack(Some(_)))) => Ok(Sent::Returned),
        Some(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) => {
            let queue = message.queue;
            Err(RpcError::Disconnected(format!(
                "the broker did not take a message for {queue}: it is full (see its policies) or failing"
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
