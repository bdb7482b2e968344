//! The broker's side: each connection is one client of it.

use super::frame::{Asked, Failure, Frame, Head, codec, name_of, send};
use crate::{Acker, ConsumeOptions, InProcess, ReadRequest, RpcError, Transport};
use bytes::Bytes;
use futures::StreamExt as _;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Lets clients in at a socket, which only its owner may open, until `stop` is cancelled. Returns once it can
/// be connected to.
///
/// # Errors
/// If the socket cannot be made; one that is there already is somebody's.
pub fn serve(path: &Path, broker: InProcess, stop: CancellationToken) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = clients.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(client(stream, broker.transport()));
                    }
                    Err(error) => tracing::warn!(%error, "a client was not let in"),
                },
            }
        }
    });
    Ok(())
}

type Replies =
    HashMap<u64, Box<dyn FnOnce(Bytes) -> futures::future::BoxFuture<'static, ()> + Send>>;

/// What one client has in hand.
struct Desk {
    transport: Arc<dyn Transport>,
    out: mpsc::UnboundedSender<Frame>,
    /// Deliveries that it has not settled, by consumer and tag.
    unsettled: Mutex<HashMap<(u64, u64), Box<dyn Acker>>>,
    /// Questions that it has not answered.
    unanswered: Mutex<Replies>,
    numbers: AtomicU64,
}

/// Serves one client until it goes or says what is not understood.
async fn client(stream: UnixStream, transport: Arc<dyn Transport>) {
    let (read, write) = stream.into_split();
    let (out, outgoing) = mpsc::unbounded_channel();
    let _writing = AbortOnDropHandle::new(tokio::spawn(send(write, outgoing)));
    let desk = Arc::new(Desk {
        transport: Arc::clone(&transport),
        out,
        unsettled: Mutex::default(),
        unanswered: Mutex::default(),
        numbers: AtomicU64::new(0),
    });
    // What goes on by itself, by its `Consume` or `Serve`: it ends with the client.
    let mut going = HashMap::new();
    let mut reads = JoinSet::new();
    let mut frames = FramedRead::new(read, codec());
    loop {
        let frame = tokio::select! {
            Some(_) = reads.join_next() => continue,
            frame = frames.next() => frame,
        };
        let frame = match frame.map(|bytes| bytes.and_then(|bytes| Frame::parse(bytes.freeze()))) {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                tracing::warn!(%error, "a client that is not understood");
                break;
            }
        };
        match frame.head {
            Head::Ask { number, what } => {
                // In their order, but for what waits for somebody else.
                if let Asked::Read { of, timeout_ms } = what {
                    let desk = Arc::clone(&desk);
                    reads.spawn(async move {
                        let timeout = Duration::from_millis(timeout_ms);
                        let answer = match of.address() {
                            Ok(of) => desk.transport.read(of, frame.payload, timeout).await,
                            Err(error) => Err(error),
                        };
                        desk.done(number, answer);
                    });
                    continue;
                }
                let done = desk.ask(number, what, frame.payload, &mut going).await;
                desk.done(number, done.map(|()| Bytes::new()));
            }
            Head::Leave { number } => {
                going.remove(&number);
                held(&desk.unsettled).retain(|(consumer, _), _| *consumer != number);
            }
            Head::Answer { question } => {
                let reply = held(&desk.unanswered).remove(&question);
                if let Some(reply) = reply {
                    reply(frame.payload).await;
                }
            }
            Head::Done { .. } | Head::Delivery { .. } | Head::Question { .. } => {
                tracing::warn!("a client that speaks as the broker");
                break;
            }
        }
    }
    transport.close().await;
}

impl Desk {
    fn send(&self, frame: Frame) {
        // A client that is gone has no use for it.
        let _ = self.out.send(frame);
    }

    fn done(&self, number: u64, result: Result<Bytes, RpcError>) {
        let (failure, payload) = match result {
            Ok(payload) => (None, payload),
            Err(error) => (Some(Failure::from(error)), Bytes::new()),
        };
        self.send(Frame {
            head: Head::Done { number, failure },
            payload,
        });
    }

    async fn ask(
        self: &Arc<Self>,
        number: u64,
        what: Asked,
        payload: Bytes,
        going: &mut HashMap<u64, AbortOnDropHandle<()>>,
    ) -> Result<(), RpcError> {
        let transport = &self.transport;
        match what {
            Asked::Declare(queue) => transport.declare(queue.address()?).await,
            Asked::Restore(queue) => transport.restore(queue.address()?).await,
            Asked::Publish { to, message_id } => {
                transport.publish(to.address()?, &message_id, payload).await
            }
            Asked::Consume { from, prefetch } => {
                let options = ConsumeOptions { prefetch };
                let mut consumer = transport.consume(from.address()?, options).await?;
                let desk = Arc::clone(self);
                let task = async move {
                    while let Some(delivery) = consumer.next().await {
                        let tag = desk.numbers.fetch_add(1, Ordering::Relaxed);
                        held(&desk.unsettled).insert((number, tag), delivery.acker);
                        desk.send(Frame {
                            head: Head::Delivery {
                                number,
                                tag,
                                message_id: delivery.message_id,
                                sender: name_of(&delivery.sender),
                                redelivered: delivery.redelivered,
                                dead_letter_queue: delivery.dead_letter_queue,
                            },
                            payload: delivery.payload,
                        });
                    }
                };
                going.insert(number, AbortOnDropHandle::new(tokio::spawn(task)));
                Ok(())
            }
            Asked::Settle {
                consumer,
                tag,
                reject,
            } => {
                let acker = held(&self.unsettled).remove(&(consumer, tag));
                let gone = || RpcError::Disconnected("the delivery's consumer is gone".into());
                let acker = acker.ok_or_else(gone)?;
                match reject {
                    true => acker.reject().await,
                    false => acker.ack().await,
                }
            }
            Asked::Serve(queue) => {
                let mut questions = transport.serve_reads(queue.address()?).await?;
                let desk = Arc::clone(self);
                let task = async move {
                    while let Some(ReadRequest { payload, reply }) = questions.recv().await {
                        let question = desk.numbers.fetch_add(1, Ordering::Relaxed);
                        held(&desk.unanswered).insert(question, reply);
                        desk.send(Frame {
                            head: Head::Question { number, question },
                            payload,
                        });
                    }
                };
                going.insert(number, AbortOnDropHandle::new(tokio::spawn(task)));
                Ok(())
            }
            // The caller's, since it waits for a host.
            Asked::Read { .. } => Ok(()),
        }
    }
}

fn held<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
