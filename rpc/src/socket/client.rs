//! A client's side: a [`Transport`] that connects when it is used, and anew when its connection is gone.

use super::frame::{Asked, Frame, Head, codec, send};
use crate::clock::Clock;
use crate::{
    Acker, Address, ConsumeOptions, Consumer, Delivery, ReadRequest, RpcError, Sender, Transport,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

/// Pause before a consumer that lost its connection tries again.
const RETRY: Duration = Duration::from_millis(200);
/// Questions that may wait in a server's hands.
const SERVED_READS: usize = 64;

/// The transport. What it opened ends when it is dropped.
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    closed: CancellationToken,
    line: tokio::sync::Mutex<Option<Arc<Line>>>,
}

impl Client {
    pub(crate) fn open(path: PathBuf, clock: Arc<dyn Clock>) -> Arc<dyn Transport> {
        Arc::new(Self(Arc::new(Inner {
            path,
            clock,
            closed: CancellationToken::new(),
            line: tokio::sync::Mutex::default(),
        })))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.closed.cancel();
    }
}

/// One connection.
struct Line {
    out: mpsc::UnboundedSender<Frame>,
    gone: CancellationToken,
    numbers: AtomicU64,
    asked: Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, RpcError>>>>,
    consumers: Mutex<HashMap<u64, mpsc::UnboundedSender<Delivery>>>,
    servers: Mutex<HashMap<u64, mpsc::UnboundedSender<ReadRequest>>>,
}

fn held<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connection_gone() -> RpcError {
    RpcError::Disconnected("the connection to the broker's socket is gone".into())
}

impl Line {
    fn start(stream: UnixStream, gone: CancellationToken) -> Arc<Self> {
        let (read, write) = stream.into_split();
        let (out, outgoing) = mpsc::unbounded_channel();
        let line = Arc::new(Self {
            out,
            gone: gone.clone(),
            numbers: AtomicU64::new(0),
            asked: Mutex::default(),
            consumers: Mutex::default(),
            servers: Mutex::default(),
        });
        tokio::spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = send(write, outgoing) => gone.cancel(),
            }
        });
        tokio::spawn(receive(Arc::clone(&line), read));
        line
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    async fn ask(&self, number: u64, what: Asked, payload: Bytes) -> Result<Bytes, RpcError> {
        // What is written while it closes might still be read there: an acknowledgement that failed here.
        if self.gone.is_cancelled() {
            return Err(connection_gone());
        }
        let (answer, answered) = oneshot::channel();
        held(&self.asked).insert(number, answer);
        let frame = Frame {
            head: Head::Ask { number, what },
            payload,
        };
        if self.out.send(frame).is_err() {
            return Err(connection_gone());
        }
        tokio::select! {
            biased;
            answer = answered => answer.unwrap_or_else(|_| Err(connection_gone())),
            () = self.gone.cancelled() => Err(connection_gone()),
        }
    }

    /// Says that no more is wanted of what has this number.
    fn leave(&self, number: u64) {
        held(&self.consumers).remove(&number);
        held(&self.servers).remove(&number);
        // A connection that is gone has left already.
        let _ = self.out.send(Frame::bare(Head::Leave { number }));
    }

    fn received(self: &Arc<Self>, Frame { head, payload }: Frame) {
        match head {
            Head::Done { number, failure } => {
                let answer = held(&self.asked).remove(&number);
                if let Some(answer) = answer {
                    // Whoever asked may have gone.
                    let _ = answer.send(failure.map_or(Ok(payload), |f| Err(f.into())));
                }
            }
            Head::Delivery {
                number,
                tag,
                message_id,
                sender,
                redelivered,
                dead_letter_queue,
            } => {
                let delivery = Delivery {
                    payload,
                    message_id,
                    sender: Sender::named(sender.as_deref()),
                    redelivered,
                    dead_letter_queue,
                    acker: Box::new(SocketAcker {
                        line: Arc::clone(self),
                        consumer: number,
                        tag,
                    }),
                };
                if let Some(consumer) = held(&self.consumers).get(&number) {
                    // One that was dropped says so itself.
                    let _ = consumer.send(delivery);
                }
            }
            Head::Question { number, question } => {
                let line = Arc::clone(self);
                let reply = Box::new(move |payload| {
                    let head = Head::Answer { question };
                    // The asker may have gone; that is its right.
                    let _ = line.out.send(Frame { head, payload });
                    futures::future::ready(()).boxed()
                });
                if let Some(server) = held(&self.servers).get(&number) {
                    let _ = server.send(ReadRequest { payload, reply });
                }
            }
            Head::Ask { .. } | Head::Leave { .. } | Head::Answer { .. } => {
                tracing::warn!("the broker's socket is no broker's");
                self.gone.cancel();
            }
        }
    }
}

async fn receive(line: Arc<Line>, read: OwnedReadHalf) {
    let mut frames = FramedRead::new(read, codec());
    loop {
        let frame = tokio::select! {
            () = line.gone.cancelled() => break,
            frame = frames.next() => frame,
        };
        match frame.map(|bytes| bytes.and_then(|bytes| Frame::parse(bytes.freeze()))) {
            None => break,
            Some(Ok(frame)) => line.received(frame),
            Some(Err(error)) => {
                tracing::warn!(%error, "the broker's socket is not understood");
                break;
            }
        }
    }
    line.gone.cancel();
    held(&line.asked).clear();
    held(&line.consumers).clear();
    held(&line.servers).clear();
}

impl Inner {
    fn check_open(&self) -> Result<(), RpcError> {
        match self.closed.is_cancelled() {
            true => Err(RpcError::Disconnected("this transport was closed".into())),
            false => Ok(()),
        }
    }

    async fn line(&self) -> Result<Arc<Line>, RpcError> {
        self.check_open()?;
        let mut held = self.line.lock().await;
        if let Some(line) = held.as_ref().filter(|line| !line.gone.is_cancelled()) {
            return Ok(Arc::clone(line));
        }
        let connected = UnixStream::connect(&self.path).await;
        let stream = connected
            .map_err(|e| RpcError::Disconnected(format!("{}: {e}", self.path.display())))?;
        let line = Line::start(stream, self.closed.child_token());
        *held = Some(Arc::clone(&line));
        Ok(line)
    }

    async fn ask(&self, what: Asked, payload: Bytes) -> Result<Bytes, RpcError> {
        let line = self.line().await?;
        line.ask(line.number(), what, payload).await
    }

    /// Asks for what is handed on until the place is dropped.
    async fn open<T: Handed>(&self, what: &Asked) -> Result<Place<T>, RpcError> {
        let line = self.line().await?;
        let number = line.number();
        let (hand, hands) = mpsc::unbounded_channel();
        // Before it is asked for: the first may be there before the answer.
        held(T::hands(&line)).insert(number, hand);
        let place = Place {
            line,
            number,
            hands,
        };
        place.line.ask(number, what.clone(), Bytes::new()).await?;
        Ok(place)
    }

    /// Waits before another try: `false` if the transport was closed meanwhile.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = self.closed.cancelled() => false,
            () = self.clock.sleep(RETRY) => true,
        }
    }
}

/// What the broker hands on by itself, once it is asked for.
trait Handed: Sized {
    /// Who gets it on a connection, by the number of the asking.
    fn hands(line: &Line) -> &Mutex<HashMap<u64, mpsc::UnboundedSender<Self>>>;
}

impl Handed for Delivery {
    fn hands(line: &Line) -> &Mutex<HashMap<u64, mpsc::UnboundedSender<Self>>> {
        &line.consumers
    }
}

impl Handed for ReadRequest {
    fn hands(line: &Line) -> &Mutex<HashMap<u64, mpsc::UnboundedSender<Self>>> {
        &line.servers
    }
}

/// Where it is handed on, on one connection; given up when it is dropped.
struct Place<T> {
    line: Arc<Line>,
    number: u64,
    hands: mpsc::UnboundedReceiver<T>,
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        self.line.leave(self.number);
    }
}

/// The same over all connections.
struct Source<T> {
    inner: Arc<Inner>,
    what: Asked,
    place: Place<T>,
}

impl<T: Handed> Source<T> {
    async fn open(inner: &Arc<Inner>, what: Asked) -> Result<Self, RpcError> {
        let place = inner.open(&what).await?;
        Ok(Self {
            inner: Arc::clone(inner),
            what,
            place,
        })
    }

    /// `None` when the transport was closed.
    async fn next(&mut self) -> Option<T> {
        loop {
            let handed = tokio::select! {
                biased;
                () = self.inner.closed.cancelled() => return None,
                handed = self.place.hands.recv() => handed,
            };
            if handed.is_some() {
                return handed;
            }
            // The connection is gone.
            self.place = loop {
                if !self.inner.pause().await {
                    return None;
                }
                if let Ok(again) = self.inner.open(&self.what).await {
                    break again;
                }
            };
        }
    }
}

impl Transport for Client {
    fn declare(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        let asked = self.0.ask(Asked::Declare(address.into()), Bytes::new());
        Box::pin(async move { asked.await.map(drop) })
    }

    fn restore(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>> {
        let asked = self.0.ask(Asked::Restore(address.into()), Bytes::new());
        Box::pin(async move { asked.await.map(drop) })
    }

    fn publish<'a>(
        &'a self,
        address: Address,
        message_id: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), RpcError>> {
        let what = Asked::Publish {
            to: address.into(),
            message_id: message_id.to_owned(),
        };
        Box::pin(async move { self.0.ask(what, payload).await.map(drop) })
    }

    fn consume(
        &self,
        address: Address,
        options: ConsumeOptions,
    ) -> BoxFuture<'_, Result<Box<dyn Consumer>, RpcError>> {
        Box::pin(async move {
            let what = Asked::Consume {
                from: address.into(),
                prefetch: options.prefetch,
            };
            let source = Source::open(&self.0, what).await?;
            Ok(Box::new(SocketConsumer(source)) as Box<dyn Consumer>)
        })
    }

    fn read(
        &self,
        address: Address,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcError>> {
        Box::pin(self.0.ask(Asked::read(address, timeout), payload))
    }

    fn serve_reads(
        &self,
        address: Address,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<ReadRequest>, RpcError>> {
        Box::pin(async move {
            let (requests, served) = mpsc::channel(SERVED_READS);
            let questions = Source::open(&self.0, Asked::Serve(address.into())).await?;
            tokio::spawn(pass_on(questions, requests));
            Ok(served)
        })
    }

    fn is_connected(&self) -> bool {
        let line = self.0.line.try_lock();
        line.is_ok_and(|line| line.as_ref().is_some_and(|l| !l.gone.is_cancelled()))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.closed.cancel() })
    }
}

/// Hands questions on until the transport is closed, or nobody takes them.
async fn pass_on(mut questions: Source<ReadRequest>, to: mpsc::Sender<ReadRequest>) {
    loop {
        let question = tokio::select! {
            biased;
            () = to.closed() => return,
            question = questions.next() => question,
        };
        let Some(question) = question else { return };
        if to.send(question).await.is_err() {
            return;
        }
    }
}

struct SocketConsumer(Source<Delivery>);

impl Consumer for SocketConsumer {
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.0.next())
    }
}

struct SocketAcker {
    line: Arc<Line>,
    consumer: u64,
    tag: u64,
}

impl SocketAcker {
    async fn settle(&self, reject: bool) -> Result<(), RpcError> {
        let what = Asked::settle(self.consumer, self.tag, reject);
        let settled = self.line.ask(self.line.number(), what, Bytes::new());
        settled.await.map(drop)
    }
}

impl Acker for SocketAcker {
    fn ack(&self) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(self.settle(false))
    }

    fn reject(&self) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(self.settle(true))
    }
}
