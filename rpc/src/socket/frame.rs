//! What goes over the socket: a head in JSON behind its length, and the payload as it is; the whole behind a length.

use crate::{Address, RpcError, Sender};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::SinkExt as _;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_util::codec::{FramedWrite, LengthDelimitedCodec};

/// The longest that is taken, in bytes: a command with all that a guest may be given is far below.
const LONGEST: usize = 64 << 20;

/// One message of either side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    pub(super) head: Head,
    pub(super) payload: Bytes,
}

/// What it says. Numbers are the client's own, each used once for a connection; the broker's are tags and
/// questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Head {
    /// To the broker; a `Done` of the same number follows.
    Ask { number: u64, what: Asked },
    /// To the broker: no more of that is wanted, the number of a `Consume` or `Serve`.
    Leave { number: u64 },
    /// To the broker: what a `Question` asked, as payload.
    Answer { question: u64 },
    /// To the client; of a `Read` with the answer as payload.
    Done {
        number: u64,
        failure: Option<Failure>,
    },
    /// To the client, for the `Consume` of that number.
    Delivery {
        number: u64,
        tag: u64,
        message_id: String,
        sender: Option<String>,
        redelivered: bool,
        dead_letter_queue: Option<String>,
    },
    /// To the client, for the `Serve` of that number.
    Question { number: u64, question: u64 },
}

/// What a client asks for: the methods of a [`crate::Transport`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Asked {
    Declare(Queue),
    Restore(Queue),
    Publish {
        to: Queue,
        message_id: String,
    },
    Consume {
        from: Queue,
        prefetch: u16,
    },
    Settle {
        consumer: u64,
        tag: u64,
        reject: bool,
    },
    Read {
        of: Queue,
        timeout_ms: u64,
    },
    Serve(Queue),
}

/// An address by its queue's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Queue(String);

impl From<Address> for Queue {
    fn from(address: Address) -> Self {
        Self(address.to_string())
    }
}

impl Queue {
    pub(super) fn address(&self) -> Result<Address, RpcError> {
        let unknown = || RpcError::Configuration(format!("{:?} is no queue's name", self.0));
        let agent = |host: &str| host.parse().map_err(|_| unknown());
        Ok(match self.0.as_str() {
            "controller.results" => Address::Results,
            "controller.telemetry" => Address::Telemetry,
            "dead-letters" => Address::DeadLetters,
            name => match name.split('.').collect::<Vec<_>>()[..] {
                ["agent", host] => Address::Agent(agent(host)?),
                ["agent", host, "reads"] => Address::AgentReads(agent(host)?),
                ["controller", "answers", id] => {
                    Address::Answers(id.parse().map_err(|_| unknown())?)
                }
                _ => return Err(unknown()),
            },
        })
    }
}

/// An [`RpcError`] on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Failure {
    Unroutable(Queue),
    InDoubt { after_ms: u64 },
    Disconnected(String),
    ReadTimeout { after_ms: u64 },
    Configuration(String),
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Unroutable(address) => Self::Unroutable(address.into()),
            RpcError::InDoubt(after) => Self::InDoubt {
                after_ms: millis(after),
            },
            RpcError::Disconnected(why) => Self::Disconnected(why),
            RpcError::ReadTimeout(after) => Self::ReadTimeout {
                after_ms: millis(after),
            },
            RpcError::Configuration(why) => Self::Configuration(why),
        }
    }
}

impl From<Failure> for RpcError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unroutable(queue) => match queue.address() {
                Ok(address) => Self::Unroutable(address),
                Err(error) => error,
            },
            Failure::InDoubt { after_ms } => Self::InDoubt(Duration::from_millis(after_ms)),
            Failure::Disconnected(why) => Self::Disconnected(why),
            Failure::ReadTimeout { after_ms } => Self::ReadTimeout(Duration::from_millis(after_ms)),
            Failure::Configuration(why) => Self::Configuration(why),
        }
    }
}

/// A sender's name.
pub(super) fn name_of(sender: &Sender) -> Option<String> {
    match sender {
        Sender::Host(host) => Some(host.to_string()),
        Sender::Other(name) => Some(name.clone()),
        Sender::Unnamed => None,
    }
}

impl Asked {
    pub(super) const fn settle(consumer: u64, tag: u64, reject: bool) -> Self {
        Self::Settle {
            consumer,
            tag,
            reject,
        }
    }

    pub(super) fn read(of: Address, timeout: Duration) -> Self {
        Self::Read {
            of: of.into(),
            timeout_ms: millis(timeout),
        }
    }
}

impl Frame {
    pub(super) const fn bare(head: Head) -> Self {
        Self {
            head,
            payload: Bytes::new(),
        }
    }

    pub(super) fn bytes(&self) -> io::Result<Bytes> {
        let head = serde_json::to_vec(&self.head)?;
        let length = u32::try_from(head.len()).map_err(io::Error::other)?;
        let mut bytes = BytesMut::with_capacity(4 + head.len() + self.payload.len());
        bytes.put_u32(length);
        bytes.put_slice(&head);
        bytes.put_slice(&self.payload);
        Ok(bytes.freeze())
    }

    pub(super) fn parse(mut bytes: Bytes) -> io::Result<Self> {
        let short = || io::Error::new(io::ErrorKind::InvalidData, "a frame shorter than its head");
        if bytes.remaining() < 4 {
            return Err(short());
        }
        let length = usize::try_from(bytes.get_u32()).map_err(io::Error::other)?;
        if bytes.remaining() < length {
            return Err(short());
        }
        let head = serde_json::from_slice(&bytes.split_to(length))?;
        Ok(Self {
            head,
            payload: bytes,
        })
    }
}

/// How frames follow each other.
pub(super) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(LONGEST)
        .new_codec()
}

/// Writes frames until there are no more, or nobody reads them.
pub(super) async fn send(write: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<Frame>) {
    let mut to: FramedWrite<_, LengthDelimitedCodec> = FramedWrite::new(write, codec());
    while let Some(frame) = frames.recv().await {
        let sent = async {
            to.feed(frame.bytes()?).await?;
            // Those that wait already go with it.
            while let Ok(frame) = frames.try_recv() {
                to.feed(frame.bytes()?).await?;
            }
            futures::SinkExt::<Bytes>::flush(&mut to).await
        };
        if let Err(error) = sent.await {
            tracing::debug!(%error, "the socket's other end is gone");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_rpc_types::HostId;
    use uuid::Uuid;

    #[test]
    fn every_queues_name_leads_back_to_its_address() {
        let host = HostId::from_u128(7);
        for address in [
            Address::Agent(host),
            Address::AgentReads(host),
            Address::Results,
            Address::Telemetry,
            Address::Answers(Uuid::from_u128(3)),
            Address::DeadLetters,
        ] {
            assert_eq!(Queue::from(address).address().unwrap(), address);
        }
        for name in [
            "",
            "agent.",
            "agent.7",
            "controller.answers.x",
            "agent.reads",
        ] {
            assert!(Queue(name.into()).address().is_err(), "{name}");
        }
    }

    #[test]
    fn a_frame_comes_back_as_it_went_and_a_cut_one_is_refused() {
        let frame = Frame {
            head: Head::Ask {
                number: 3,
                what: Asked::Publish {
                    to: Address::Results.into(),
                    message_id: "m".into(),
                },
            },
            payload: Bytes::from_static(b"\0payload"),
        };
        let bytes = frame.bytes().unwrap();
        assert_eq!(Frame::parse(bytes.clone()).unwrap(), frame);
        let head = bytes.len() - frame.payload.len();
        for cut in 0..head {
            assert!(Frame::parse(bytes.slice(..cut)).is_err(), "{cut}");
        }
    }

    #[test]
    fn errors_travel() {
        let second = Duration::from_secs(1);
        for error in [
            RpcError::Unroutable(Address::Results),
            RpcError::InDoubt(second),
            RpcError::Disconnected("gone".into()),
            RpcError::ReadTimeout(second),
            RpcError::Configuration("wrong".into()),
        ] {
            let told = error.to_string();
            assert_eq!(RpcError::from(Failure::from(error)).to_string(), told);
        }
    }
}
