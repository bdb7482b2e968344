//! Questions, and the two ways back.
//!
//! A host with an account of its own writes to one exchange only: it answers to the asker's queue,
//! whose name the question's header `answers` tells, and the answer is known by its correlation id
//! and its sender. Others answer by RabbitMQ's direct reply-to, which needs no queue, but a right to
//! the default exchange and so to every queue. Either is at most once, with nothing on disk.
//!
//! A question has a channel of its own, since a direct reply comes to the channel that asked; so a
//! late answer finds nobody, and is dropped. Reads are rare: that costs a millisecond.

use super::link::Link;
use super::publish::{Publish, Publisher, Sent, To, confirmed, confirming_channel};
use super::{Shared, consume, topology};
use crate::{Address, ReadRequest, RpcError, Sender};
use berth_rpc_types::HostId;
use bytes::Bytes;
use futures::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::BasicConsumeOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, mpsc, oneshot};
use uuid::Uuid;

/// RabbitMQ's name for "the channel that asks".
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// The header that names the asker's queue.
const ANSWERS: &str = "answers";

/// What one client has asked and still waits for.
pub(super) struct Asker {
    /// Whose queue of answers; without it only direct replies come.
    id: Option<Uuid>,
    consumes: OnceCell<()>,
    waiting: Arc<Mutex<HashMap<Uuid, Waiting>>>,
}

struct Waiting {
    host: HostId,
    answer: oneshot::Sender<Bytes>,
}

/// Stops waiting when it is dropped.
struct Ticket<'a> {
    id: Uuid,
    asker: &'a Asker,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        lock(&self.asker.waiting).remove(&self.id);
    }
}

impl Asker {
    pub(super) fn new(id: Option<Uuid>) -> Self {
        Self {
            id,
            consumes: OnceCell::new(),
            waiting: Arc::default(),
        }
    }

    /// Asks and waits for the answer.
    pub(super) async fn ask(
        &self,
        shared: &Arc<Shared>,
        (publishing, consuming): (&Link, &Link),
        host: HostId,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let question = async {
            if let Some(id) = self.id {
                let open = || self.consume(shared, consuming, id);
                self.consumes.get_or_try_init(open).await?;
            }
            self.ask_once(shared, publishing, host, payload, timeout)
                .await
        };
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => {
                Err(RpcError::Disconnected("this transport was closed".into()))
            }
            answer = shared.within(timeout, question) => {
                answer.unwrap_or(Err(RpcError::ReadTimeout(timeout)))
            }
        }
    }

    /// Opens the queue of answers, and hands on what comes.
    async fn consume(&self, shared: &Arc<Shared>, link: &Link, id: Uuid) -> Result<(), RpcError> {
        let address = Address::Answers(id);
        let mut answers = consume::subscribe(shared, link.clone(), address, None).await?;
        let waiting = Arc::clone(&self.waiting);
        shared.tasks.spawn(async move {
            // Ends with the transport.
            while let Some(answer) = answers.recv().await {
                let properties = &answer.properties;
                let id = properties.correlation_id().as_ref();
                let Some(id) = id.and_then(|id| id.as_str().parse().ok()) else {
                    continue;
                };
                let sender = Sender::named(properties.user_id().as_ref().map(ShortString::as_str));
                let mut waiting = lock(&waiting);
                let is_its = |w: &Waiting| sender.speaks_for(w.host, false);
                if !waiting.get(&id).is_some_and(is_its) {
                    tracing::debug!(%id, ?sender, "an answer that nobody waits for, or not that host's");
                } else if let Some(waiting) = waiting.remove(&id) {
                    // The asker may have gone.
                    let _ = waiting.answer.send(answer.data.into());
                }
            }
        });
        Ok(())
    }

    async fn ask_once(
        &self,
        shared: &Shared,
        link: &Link,
        host: HostId,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let (channel, session) = confirming_channel(shared, link).await?;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consume =
            channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default());
        let mut direct = shared.answer(consume).await?;
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket {
            id: Uuid::from_u128(shared.rng.bits()),
            asker: self,
        };
        lock(&self.waiting).insert(ticket.id, Waiting { host, answer });
        let message = Publish {
            to: To::Queue(Address::AgentReads(host)),
            message_id: "",
            payload,
            persistent: false,
            mandatory: true,
        };
        // The broker drops the question when nobody waits for its answer any more.
        let mut properties = BasicProperties::default()
            .with_reply_to(REPLY_TO.into())
            .with_correlation_id(ticket.id.to_string().into())
            .with_expiration(timeout.as_millis().to_string().into());
        if let Some(id) = self.id {
            let queue = topology::queue_name(&shared.namespace, Address::Answers(id));
            let mut headers = FieldTable::default();
            headers.insert(
                ANSWERS.into(),
                AMQPValue::LongString(LongString::from(queue)),
            );
            properties = properties.with_headers(headers);
        }
        match confirmed(shared, &channel, &session, &message, properties).await? {
            Sent::Routed => {}
            Sent::Returned => return Err(RpcError::Unroutable(Address::AgentReads(host))),
        }
        tokio::select! {
            Ok(answer) = answered => Ok(answer),
            answer = direct.next() => match answer {
                Some(Ok(answer)) => Ok(answer.data.into()),
                Some(Err(error)) => Err(RpcError::Disconnected(error.to_string())),
                None => Err(RpcError::Disconnected(
                    "the channel of the question ended".into(),
                )),
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receives questions.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    link: Link,
    publisher: &Arc<Publisher>,
    address: Address,
) -> Result<mpsc::Receiver<ReadRequest>, RpcError> {
    let mut questions = consume::subscribe(shared, link, address, None).await?;
    let (requests, served) = mpsc::channel(1);
    let publisher = Arc::clone(publisher);
    let closed = shared.closed.clone();
    // Ends with the transport, or when the server's receiver is dropped.
    shared.tasks.spawn(async move {
        loop {
            let question = tokio::select! {
                biased;
                () = closed.cancelled() => return,
                () = requests.closed() => return,
                question = questions.recv() => question,
            };
            let Some(question) = question else { return };
            let Some(request) = request(&publisher, question) else {
                continue;
            };
            tokio::select! {
                biased;
                () = closed.cancelled() => return,
                sent = requests.send(request) => if sent.is_err() { return },
            }
        }
    });
    Ok(served)
}

fn request(publisher: &Arc<Publisher>, question: lapin::message::Delivery) -> Option<ReadRequest> {
    let properties = &question.properties;
    let direct = properties.reply_to().as_ref()?.to_string();
    let headers = properties.headers().as_ref();
    let answers = match headers.and_then(|table| table.inner().get(ANSWERS)) {
        Some(AMQPValue::LongString(queue)) => {
            Some(String::from_utf8_lossy(queue.as_bytes()).into_owned())
        }
        _ => None,
    };
    let correlation = properties.correlation_id().clone();
    let publisher = Arc::clone(publisher);
    let reply = move |answer: Bytes| -> futures::future::BoxFuture<'static, ()> {
        Box::pin(async move {
            let message = Publish {
                to: To::Asker {
                    direct: &direct,
                    answers: answers.as_deref(),
                },
                message_id: "",
                payload: &answer,
                persistent: false,
                // The asker may have gone; from 4.2 the broker does not tell anyway.
                mandatory: false,
            };
            let properties = match correlation {
                Some(id) => BasicProperties::default().with_correlation_id(id),
                None => BasicProperties::default(),
            };
            if let Err(error) = publisher.publish_with(&message, properties).await {
                tracing::debug!(%error, "an answer did not get back to its asker");
            }
        })
    };
    Some(ReadRequest {
        payload: question.data.into(),
        reply: Box::new(reply),
    })
}
