//! One client of the in-process broker: the [`Transport`] itself.
//!
//! A dropped or closed endpoint ends its consumers, and what they held comes again. A delayed
//! message is the one thing that lives in a task (`spawn`): it ends when it has been put down.

use super::Hub;
use super::broker::{Handed, Message, Question};
use crate::{
    Acker, Address, ConsumeOptions, Consumer, Delivery, ReadRequest, RpcError, Sender, Transport,
};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What a lost publish says it waited. It does not wait: simulations have better to do.
const IN_DOUBT_AFTER: Duration = Duration::from_secs(5);
/// Questions that may wait in a server's hands.
const SERVED_READS: usize = 64;

pub(super) struct Endpoint {
    hub: Arc<Hub>,
    client: u64,
    sender: Sender,
    closed: CancellationToken,
}

impl Endpoint {
    pub(super) fn open(hub: Arc<Hub>, sender: Sender) -> Arc<dyn Transport> {
        let closed = CancellationToken::new();
        let client = hub.broker().connect();
        Arc::new(Self {
            hub,
            client,
            sender,
            closed,
        })
    }

    fn end(&self) {
        self.closed.cancel();
        self.hub.broker().disconnect(self.client);
    }

    fn check_open(&self) -> Result<(), RpcError> {
        if self.closed.is_cancelled() {
            return Err(RpcError::Disconnected("this transport was closed".into()));
        }
        Ok(())
    }

    /// Puts a message down, now or later, perhaps past others.
    fn deliver(&self, address: Address, message: Message) {
        let hub = &self.hub;
        let faults = hub.faults();
        if hub.strikes(faults.delay) {
            let millis = u64::try_from(faults.delay_max.as_millis()).unwrap_or(u64::MAX);
            let delay = Duration::from_millis(hub.rng.below(millis.saturating_add(1)));
            let (hub, wait) = (Arc::clone(hub), hub.clock.sleep(delay));
            tokio::spawn(async move {
                wait.await;
                hub.broker().enqueue(address, message, 0);
            });
            return;
        }
        let overtaking = if hub.strikes(faults.reorder) {
            let waiting = hub.broker().waiting(address);
            let some = hub
                .rng
                .below(u64::try_from(waiting).unwrap_or(u64::MAX) + 1);
            usize::try_from(some).unwrap_or(waiting)
        } else {
            0
        };
        hub.broker().enqueue(address, message, overtaking);
    }

    fn publish_now(
        &self,
        address: Address,
        message_id: &str,
        payload: Bytes,
    ) -> Result<(), RpcError> {
        self.check_open()?;
        let hub = &self.hub;
        match address {
            Address::AgentReads(_) => {
                let what = format!("{address} takes questions (`read`), not messages");
                return Err(RpcError::Configuration(what));
            }
            Address::Agent(_) if !hub.broker().exists(address) => {
                return Err(RpcError::Unroutable(address));
            }
            _ => {}
        }
        let droppable = address == Address::Telemetry;
        let in_doubt = || {
            if droppable {
                Ok(())
            } else {
                Err(RpcError::InDoubt(IN_DOUBT_AFTER))
            }
        };
        let faults = hub.faults();
        if hub.strikes(faults.lose) {
            return in_doubt();
        }
        let message = Message {
            id: message_id.to_owned(),
            payload,
            sender: self.sender.clone(),
            redelivered: false,
            dead_letter_queue: None,
        };
        if hub.strikes(faults.repeat) {
            self.deliver(address, message.clone());
        }
        self.deliver(address, message);
        if hub.strikes(faults.doubt) {
            return in_doubt();
        }
        Ok(())
    }

    async fn read_now(
        &self,
        address: Address,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        self.check_open()?;
        let (answer, answered) = oneshot::channel();
        let hub = &self.hub;
        let lost = hub.strikes(hub.faults().lose);
        let question = Question { payload, answer };
        // A lost question keeps its asker waiting, which its open channel must do here.
        let _kept = if lost {
            Some(question)
        } else if hub.broker().ask(address, question) {
            None
        } else {
            return Err(RpcError::Unroutable(address));
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => {
                Err(RpcError::Disconnected("this transport was closed".into()))
            }
            // A server that is gone without an answer (`Err`): the asker cannot know, and waits.
            Ok(bytes) = answered => Ok(bytes),
            () = hub.clock.sleep(timeout) => Err(RpcError::ReadTimeout(timeout)),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.end();
    }
}

impl Transport for Endpoint {
    fn declare(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            self.check_open()?;
            self.hub.broker().declare(address);
            Ok(())
        })
    }

    fn restore(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            self.check_open()?;
            self.hub.broker().restore(address);
            Ok(())
        })
    }

    fn publish<'a>(
        &'a self,
        address: Address,
        message_id: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), RpcError>> {
        Box::pin(async move { self.publish_now(address, message_id, payload) })
    }

    fn consume(
        &self,
        address: Address,
        options: ConsumeOptions,
    ) -> BoxFuture<'_, Result<Box<dyn Consumer>, RpcError>> {
        Box::pin(async move {
            self.check_open()?;
            let (id, hands) = self
                .hub
                .broker()
                .subscribe(self.client, address, options.prefetch);
            let hub = Arc::clone(&self.hub);
            let closed = self.closed.clone();
            let consumer = InProcessConsumer {
                hub,
                closed,
                address,
                id,
                hands,
            };
            Ok(Box::new(consumer) as Box<dyn Consumer>)
        })
    }

    fn read(
        &self,
        address: Address,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcError>> {
        Box::pin(self.read_now(address, payload, timeout))
    }

    fn serve_reads(
        &self,
        address: Address,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<ReadRequest>, RpcError>> {
        Box::pin(async move {
            self.check_open()?;
            let (server, mut questions) = mpsc::channel::<Question>(SERVED_READS);
            let (requests, served) = mpsc::channel(1);
            self.hub.broker().serve(address, server);
            let closed = self.closed.clone();
            // Ends with its endpoint, or when the server's receiver is dropped.
            tokio::spawn(async move {
                loop {
                    let question = tokio::select! {
                        biased;
                        () = closed.cancelled() => return,
                        () = requests.closed() => return,
                        question = questions.recv() => question,
                    };
                    let Some(Question { payload, answer }) = question else {
                        return;
                    };
                    let reply = Box::new(move |bytes| {
                        // The asker may have gone; that is its right.
                        let _ = answer.send(bytes);
                        futures::future::ready(()).boxed()
                    });
                    if requests.send(ReadRequest { payload, reply }).await.is_err() {
                        return;
                    }
                }
            });
            Ok(served)
        })
    }

    fn is_connected(&self) -> bool {
        !self.closed.is_cancelled()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.end() })
    }
}

struct InProcessConsumer {
    hub: Arc<Hub>,
    closed: CancellationToken,
    address: Address,
    id: u64,
    hands: mpsc::UnboundedReceiver<Handed>,
}

impl Consumer for InProcessConsumer {
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async move {
            let handed = tokio::select! {
                biased;
                () = self.closed.cancelled() => None,
                handed = self.hands.recv() => handed,
            };
            let Handed { tag, message } = handed?;
            let hub = Arc::clone(&self.hub);
            let (address, id, closed) = (self.address, self.id, self.closed.clone());
            Some(Delivery {
                payload: message.payload,
                message_id: message.id,
                sender: message.sender,
                redelivered: message.redelivered,
                dead_letter_queue: message.dead_letter_queue,
                acker: Box::new(InProcessAcker {
                    hub,
                    closed,
                    address,
                    id,
                    tag,
                }),
            })
        })
    }
}

impl Drop for InProcessConsumer {
    fn drop(&mut self) {
        self.hub.broker().unsubscribe(self.address, self.id);
    }
}

struct InProcessAcker {
    hub: Arc<Hub>,
    closed: CancellationToken,
    address: Address,
    id: u64,
    tag: u64,
}

impl InProcessAcker {
    fn settle(&self) -> Result<Message, RpcError> {
        let gone = || RpcError::Disconnected("the delivery's connection is gone".into());
        if self.closed.is_cancelled() {
            return Err(gone());
        }
        if self.hub.strikes(self.hub.faults().lose_ack) {
            self.hub.broker().give_back(self.address, self.id, self.tag);
            return Err(gone());
        }
        let message = self.hub.broker().settle(self.address, self.id, self.tag);
        message.ok_or_else(gone)
    }
}

impl Acker for InProcessAcker {
    fn ack(&self) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move { self.settle().map(drop) })
    }

    fn reject(&self) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            let message = self.settle()?;
            self.hub.broker().bury(self.address, message);
            Ok(())
        })
    }
}
