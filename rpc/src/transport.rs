//! The seam between what Berth says and how it travels.

use crate::Sender;
use berth_rpc_types::HostId;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

/// A queue, by what it is for. The names are stable: none is ever random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `agent.<host id>`: commands. Durable quorum queue, single active consumer, dead letters kept.
    Agent(HostId),
    /// `agent.<host id>.reads`: questions for direct reply.
    AgentReads(HostId),
    /// `controller.results`: durable quorum queue that any controller consumes.
    Results,
    /// `controller.telemetry`: bounded, drops its oldest.
    Telemetry,
    /// `controller.answers.<its id>`: answers to what one controller asked. Bounded.
    Answers(Uuid),
    /// `dead-letters`: what no consumer would have; consumed by a controller (rule 9).
    DeadLetters,
}

impl fmt::Display for Address {
    /// The queue's name, the same on every transport.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(host) => write!(f, "agent.{host}"),
            Self::AgentReads(host) => write!(f, "agent.{host}.reads"),
            Self::Results => f.write_str("controller.results"),
            Self::Telemetry => f.write_str("controller.telemetry"),
            Self::Answers(controller) => write!(f, "controller.answers.{controller}"),
            Self::DeadLetters => f.write_str("dead-letters"),
        }
    }
}

/// Why a message did not travel.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No queue of that name: the host has never joined, or its queue was deleted.
    #[error("no queue {0}: nothing consumes it and nothing declared it")]
    Unroutable(Address),
    /// Nothing known: the same message must be sent again with the same id.
    #[error("no answer from the broker within {0:?}; the message may or may not have arrived")]
    InDoubt(Duration),
    /// The broker cannot be reached now; the transport reconnects by itself.
    #[error("the broker cannot be reached: {0}")]
    Disconnected(String),
    /// No answer to a read in time.
    #[error("no answer to the read within {0:?}")]
    ReadTimeout(Duration),
    /// The URL is not understood or the broker refuses us.
    #[error("{0}")]
    Configuration(String),
}

/// How a consumer consumes.
#[derive(Clone, Copy, Debug)]
pub struct ConsumeOptions {
    /// Deliveries that may be unacknowledged at once.
    pub prefetch: u16,
}

/// One message held by its receiver until it is acknowledged.
pub struct Delivery {
    /// The bytes as published.
    pub payload: Bytes,
    /// The publisher's message id.
    pub message_id: String,
    /// Who published it, by the broker's word. A dead letter keeps its publisher.
    pub sender: Sender,
    /// Whether it was delivered before (a hint).
    pub redelivered: bool,
    /// For dead letters: the queue it came from.
    pub dead_letter_queue: Option<String>,
    /// How to acknowledge; made by the transport.
    pub acker: Box<dyn Acker>,
}

/// Acknowledges one delivery. An error means that the connection is gone: the message comes again.
pub trait Acker: Send + Sync {
    /// It is journalled, or folded in: forget it.
    fn ack(&self) -> BoxFuture<'_, Result<(), RpcError>>;
    /// It cannot be understood at all: to the dead letters.
    fn reject(&self) -> BoxFuture<'_, Result<(), RpcError>>;
}

impl Delivery {
    /// See [`Acker::ack`].
    ///
    /// # Errors
    /// [`RpcError::Disconnected`]: it will be delivered again.
    pub async fn ack(&self) -> Result<(), RpcError> {
        self.acker.ack().await
    }

    /// See [`Acker::reject`].
    ///
    /// # Errors
    /// [`RpcError::Disconnected`]: it will be delivered again.
    pub async fn reject(&self) -> Result<(), RpcError> {
        self.acker.reject().await
    }
}

/// A stream of deliveries that survives reconnections; it ends only with its transport.
pub trait Consumer: Send {
    /// The next delivery; `None` when the transport was closed.
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>>;
}

/// A question that waits for its answer.
pub struct ReadRequest {
    /// The question's bytes.
    pub payload: Bytes,
    /// Sends the answer; dropped silently if the asker has gone.
    pub reply: Box<dyn FnOnce(Bytes) -> BoxFuture<'static, ()> + Send>,
}

/// Carries messages. Cheap to clone behind an `Arc`; every method may be called at any time.
pub trait Transport: Send + Sync {
    /// Declares the queue behind an address, idempotently, so that publishing to it can be routed.
    /// Does nothing where this client has a host's account: the controllers declare.
    fn declare(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>>;

    /// Declares the queue anew, without what it holds: its consumer says that it gives no answer.
    fn restore(&self, address: Address) -> BoxFuture<'_, Result<(), RpcError>>;

    /// Publishes persistent, mandatory and confirmed (telemetry: neither persistent nor
    /// mandatory). On [`RpcError::InDoubt`] or [`RpcError::Disconnected`] send again with the same id.
    fn publish<'a>(
        &'a self,
        address: Address,
        message_id: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), RpcError>>;

    /// Consumes an address; declares it first, as [`Transport::declare`] does.
    fn consume(
        &self,
        address: Address,
        options: ConsumeOptions,
    ) -> BoxFuture<'_, Result<Box<dyn Consumer>, RpcError>>;

    /// Asks a host, and waits at most `timeout` for its answer: another's is not taken.
    fn read(
        &self,
        address: Address,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcError>>;

    /// Receives questions; `None` from the receiver when the transport was closed.
    fn serve_reads(
        &self,
        address: Address,
    ) -> BoxFuture<'_, Result<tokio::sync::mpsc::Receiver<ReadRequest>, RpcError>>;

    /// Whether there is a connection now (for health reports only).
    fn is_connected(&self) -> bool;

    /// Ends consumers and connections.
    fn close(&self) -> BoxFuture<'_, ()>;
}
