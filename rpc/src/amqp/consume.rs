//! Consumers that outlive connections.
//!
//! A task a consumer subscribes, hands on, and subscribes again when its channel ends. A
//! consumer that is dropped ends its task, which closes the channel: what was unacknowledged
//! comes again, to whoever consumes next.
//!
//! A quorum queue can be beyond help: RabbitMQ registers a new queue's Raft member lazily, and
//! one that was declared within some seconds before a `kill -9` comes back without its data and
//! without a leader, for good (met on 3.10; rabbitmq-server issues 10070 and 15725). A queue that
//! gives no answer for [`LEADERLESS_AFTER`], while its broker does, is deleted and declared
//! again. What it held is sent again, since no truth lives in a queue (PROTOCOL.md, rule 2).
//!
//! A host's account may neither declare nor delete: it has the controllers do both.

use super::link::{BackOff, Link, Session};
use super::{ANSWER_WITHIN, Shared, refusal, topology};
use crate::{Acker, Address, ConsumeOptions, Consumer, Delivery, RpcError, Sender};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Silence of a queue, on a connection that works, after which it is given up. Elections and
/// recoveries take seconds.
const LEADERLESS_AFTER: Duration = Duration::from_secs(30);
/// A leaderless queue's deletion first waits in vain for its leader, then is forced.
const DELETED_WITHIN: Duration = Duration::from_secs(30);

/// Consumes; returns when the first subscription has succeeded, or at once when the broker
/// refuses it, or after [`ANSWER_WITHIN`] when there is no broker now: it will be consumed.
pub(super) async fn consume(
    shared: &Arc<Shared>,
    link: Link,
    address: Address,
    prefetch: u16,
) -> Result<Box<dyn Consumer>, RpcError> {
    let prefetch = ConsumeOptions {
        prefetch: prefetch.max(1),
    };
    let deliveries = subscribe(shared, link, address, Some(prefetch)).await?;
    let shared = Arc::clone(shared);
    Ok(Box::new(AmqpConsumer { shared, deliveries }))
}

/// As [`consume`]; without options, deliveries need no acknowledgement and are at most once.
pub(super) async fn subscribe(
    shared: &Arc<Shared>,
    link: Link,
    address: Address,
    options: Option<ConsumeOptions>,
) -> Result<mpsc::Receiver<lapin::message::Delivery>, RpcError> {
    let capacity = options.map_or(64, |options| usize::from(options.prefetch.max(1)));
    let (hand, deliveries) = mpsc::channel(capacity);
    let (first, subscribed) = oneshot::channel();
    let task = Task {
        shared: Arc::clone(shared),
        link,
        address,
        options,
        hand,
    };
    shared.tasks.spawn(task.run(first));
    match shared.within(ANSWER_WITHIN, subscribed).await {
        Some(Ok(Err(refused))) => Err(refused),
        _ => Ok(deliveries),
    }
}

struct Task {
    shared: Arc<Shared>,
    link: Link,
    address: Address,
    options: Option<ConsumeOptions>,
    hand: mpsc::Sender<lapin::message::Delivery>,
}

impl Task {
    async fn run(self, first: oneshot::Sender<Result<(), RpcError>>) {
        let mut first = Some(first);
        let mut back_off = BackOff::default();
        let mut silent_since = None;
        loop {
            // The wait for a connection is not the queue's silence.
            let session = tokio::select! {
                biased;
                () = self.ended() => return,
                session = self.link.wait(&self.shared) => session,
            };
            let Ok(session) = session else { return };
            let begun = self.shared.clock.monotonic();
            let subscribed = tokio::select! {
                biased;
                () = self.ended() => return,
                subscribed = self.subscribe(&session) => subscribed,
            };
            match subscribed {
                Ok((channel, consumer)) => {
                    back_off = BackOff::default();
                    silent_since = None;
                    // Nobody waits for it any more: the consumer is used already, or dropped.
                    let _ = first.take().map(|first| first.send(Ok(())));
                    if !self.hand_on(consumer).await {
                        let bye = channel.close(200, "OK".into());
                        self.shared.within(ANSWER_WITHIN, bye).await;
                        return;
                    }
                }
                // A host's account may have expired, and comes back.
                Err(refused @ RpcError::Configuration(_))
                    if first.is_some() && !session.is_host =>
                {
                    let _ = first.take().map(|first| first.send(Err(refused)));
                    return;
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "cannot consume; trying again");
                    if session.connection.status().connected() {
                        let since = *silent_since.get_or_insert(begun);
                        if self.shared.clock.monotonic().saturating_sub(since) > LEADERLESS_AFTER {
                            self.give_up_queue(&session).await;
                            silent_since = None;
                        } else if session.is_host {
                            // It may be gone: the controllers make it again.
                            self.have_restored(false).await;
                        }
                    } else {
                        silent_since = None;
                    }
                }
            }
            let wait = back_off.next(&*self.shared.rng);
            tokio::select! {
                biased;
                () = self.ended() => return,
                () = self.shared.clock.sleep(wait) => {}
            }
        }
    }

    /// The transport is closed, or the consumer dropped.
    async fn ended(&self) {
        tokio::select! {
            () = self.shared.closed.cancelled() => {}
            () = self.hand.closed() => {}
        }
    }

    /// Deletes a queue that has no leader; the next subscription declares it again.
    async fn give_up_queue(&self, session: &Session) {
        let queue = topology::queue_name(&self.shared.namespace, self.address);
        tracing::error!(
            queue,
            "no answer from the queue for {LEADERLESS_AFTER:?}: it has no leader; deleting it"
        );
        if session.is_host {
            return self.have_restored(true).await;
        }
        delete(&self.shared, session, self.address).await;
    }

    /// Has the controllers make this host's queues again.
    async fn have_restored(&self, silent: bool) {
        if let Some(accounts) = &self.shared.accounts
            && let Err(error) = accounts.restore(silent).await
        {
            tracing::warn!(address = %self.address, error, "the queue is not made again yet");
        }
    }

    async fn subscribe(
        &self,
        session: &Session,
    ) -> Result<(lapin::Channel, lapin::Consumer), RpcError> {
        let shared = &self.shared;
        let channel = shared.answer(session.connection.create_channel()).await?;
        if !session.is_host {
            topology::declare(shared, &channel, self.address).await?;
        }
        if let Some(ConsumeOptions { prefetch }) = self.options {
            shared
                .answer(channel.basic_qos(prefetch, BasicQosOptions::default()))
                .await?;
        }
        let queue = topology::queue_name(&shared.namespace, self.address);
        let options = BasicConsumeOptions {
            no_ack: self.options.is_none(),
            ..BasicConsumeOptions::default()
        };
        let consume =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = shared.answer(consume).await?;
        Ok((channel, consumer))
    }

    /// Hands deliveries on until the channel ends (true) or the task should (false).
    async fn hand_on(&self, mut consumer: lapin::Consumer) -> bool {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.ended() => return false,
                delivery = consumer.next() => delivery,
            };
            match delivery {
                Some(Ok(delivery)) => tokio::select! {
                    biased;
                    () = self.ended() => return false,
                    _ = self.hand.send(delivery) => {}
                },
                Some(Err(error)) => {
                    tracing::warn!(address = %self.address, %error, "consumer interrupted");
                    return true;
                }
                None => {
                    tracing::warn!(address = %self.address, "the broker cancelled the consumer");
                    return true;
                }
            }
        }
    }
}

/// Deletes a queue, with what it holds.
pub(super) async fn delete(shared: &Shared, session: &Session, address: Address) {
    let queue = topology::queue_name(&shared.namespace, address);
    let delete = async {
        let channel = session.connection.create_channel().await?;
        let options = QueueDeleteOptions::default();
        channel.queue_delete(queue.as_str().into(), options).await
    };
    match shared.within(DELETED_WITHIN, delete).await {
        Some(Ok(lost)) => tracing::warn!(queue, lost, "leaderless queue deleted"),
        Some(Err(error)) => tracing::error!(queue, %error, "cannot delete the queue"),
        None => tracing::error!(queue, "not deleted within {DELETED_WITHIN:?}"),
    }
}

struct AmqpConsumer {
    shared: Arc<Shared>,
    deliveries: mpsc::Receiver<lapin::message::Delivery>,
}

impl Consumer for AmqpConsumer {
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async move {
            loop {
                let delivery = tokio::select! {
                    biased;
                    () = self.shared.closed.cancelled() => None,
                    delivery = self.deliveries.recv() => delivery,
                }?;
                // One that waited here while its channel ended comes again on the next.
                if delivery.acker.usable() {
                    return Some(self.received(delivery));
                }
            }
        })
    }
}

impl AmqpConsumer {
    fn received(&self, delivery: lapin::message::Delivery) -> Delivery {
        let properties = &delivery.properties;
        let message_id = properties.message_id().as_ref();
        let headers = properties.headers().as_ref();
        // The latest death, which stands first, is the broker's word. `x-first-death-queue` is not:
        // it stays as the publisher set it.
        let deaths = headers.and_then(|table| table.inner().get("x-death"));
        let latest = match deaths {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().first(),
            _ => None,
        };
        let queue = match latest {
            Some(AMQPValue::FieldTable(death)) => death.inner().get("queue"),
            _ => None,
        };
        let dead_letter_queue = match queue {
            Some(AMQPValue::LongString(queue)) => {
                let queue = String::from_utf8_lossy(queue.as_bytes());
                Some(topology::plain_name(&self.shared.namespace, &queue))
            }
            _ => None,
        };
        Delivery {
            message_id: message_id
                .map(|id| id.as_str().to_owned())
                .unwrap_or_default(),
            sender: Sender::named(properties.user_id().as_ref().map(ShortString::as_str)),
            redelivered: delivery.redelivered,
            dead_letter_queue,
            payload: delivery.data.into(),
            acker: Box::new(AmqpAcker {
                shared: Arc::clone(&self.shared),
                acker: delivery.acker,
            }),
        }
    }
}

struct AmqpAcker {
    shared: Arc<Shared>,
    acker: lapin::Acker,
}

impl AmqpAcker {
    async fn settled(
        &self,
        settling: impl Future<Output = lapin::Result<bool>>,
    ) -> Result<(), RpcError> {
        let gone = |why: String| RpcError::Disconnected(why);
        match self.shared.within(ANSWER_WITHIN, settling).await {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(gone("the delivery's channel is gone".into())),
            Some(Err(error)) => Err(refusal(&error)),
            None => Err(gone(format!("not acknowledged within {ANSWER_WITHIN:?}"))),
        }
    }
}

impl Acker for AmqpAcker {
    fn ack(&self) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(self.settled(self.acker.ack(BasicAckOptions::default())))
    }

    fn reject(&self) -> BoxFuture<'_, Result<(), RpcError>> {
        // Without requeueing: that is what sends it to the dead letters.
        let options = BasicRejectOptions { requeue: false };
        Box::pin(self.settled(self.acker.reject(options)))
    }
}
