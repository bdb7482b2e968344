//! Questions, by RabbitMQ's direct reply-to: no reply queue, at most once, nothing on disk.
//!
//! A question has a channel of its own, since the reply comes to the channel that asked; so a
//! late answer finds nobody, and is dropped by the broker. Reads are rare: that costs a
//! millisecond.

use super::link::Link;
use super::publish::{Publish, Publisher, Sent, confirmed, confirming_channel};
use super::{Shared, consume, topology};
use crate::{Address, ReadRequest, RpcError};
use bytes::Bytes;
use futures::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// RabbitMQ's name for "the channel that asks".
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Asks and waits for the answer.
pub(super) async fn ask(
    shared: &Shared,
    link: &Link,
    address: Address,
    payload: &[u8],
    timeout: Duration,
) -> Result<Bytes, RpcError> {
    let question = ask_once(shared, link, address, payload, timeout);
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

async fn ask_once(
    shared: &Shared,
    link: &Link,
    address: Address,
    payload: &[u8],
    timeout: Duration,
) -> Result<Bytes, RpcError> {
    let channel = confirming_channel(shared, link).await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consume = channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default());
    let mut answers = shared.answer(consume).await?;
    let queue = topology::queue_name(&shared.namespace, address);
    let message = Publish {
        queue: &queue,
        message_id: "",
        payload,
        persistent: false,
        mandatory: true,
    };
    // The broker drops the question when nobody waits for its answer any more.
    let properties = BasicProperties::default()
        .with_reply_to(REPLY_TO.into())
        .with_expiration(timeout.as_millis().to_string().into());
    match confirmed(shared, &channel, &message, properties).await? {
        Sent::Routed => {}
        Sent::Returned => return Err(RpcError::Unroutable(address)),
    }
    match answers.next().await {
        Some(Ok(answer)) => Ok(answer.data.into()),
        Some(Err(error)) => Err(RpcError::Disconnected(error.to_string())),
        None => Err(RpcError::Disconnected(
            "the channel of the question ended".into(),
        )),
    }
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
    let reply_to = question.properties.reply_to().as_ref()?.to_string();
    let publisher = Arc::clone(publisher);
    let reply = move |answer: Bytes| -> futures::future::BoxFuture<'static, ()> {
        Box::pin(async move {
            let message = Publish {
                queue: &reply_to,
                message_id: "",
                payload: &answer,
                persistent: false,
                // The asker may have gone; from 4.2 the broker does not tell anyway.
                mandatory: false,
            };
            if let Err(error) = publisher.publish(&message).await {
                tracing::debug!(%error, "an answer did not get back to its asker");
            }
        })
    };
    Some(ReadRequest {
        payload: question.data.into(),
        reply: Box::new(reply),
    })
}
