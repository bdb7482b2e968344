//! The in-process broker's state: queues and who holds which message. No tasks, no time.
//!
//! After every change the queue is pumped: a message goes to a consumer that has room, and is
//! that consumer's until it is acknowledged, rejected, or the consumer is gone. Messages that
//! come back stand in front, in their old order.

use crate::{Address, Sender};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::{mpsc, oneshot};

/// What the telemetry queue holds at most; the oldest goes first.
const TELEMETRY_MAX: usize = 10_000;
/// Questions that may wait for one agent.
const READS_MAX: usize = 1_000;

/// A message at rest.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) payload: Bytes,
    pub(super) sender: Sender,
    pub(super) redelivered: bool,
    pub(super) dead_letter_queue: Option<String>,
}

/// A message in a consumer's hands.
#[derive(Debug)]
pub(super) struct Handed {
    /// Rises with each delivery of this broker: an old one cannot acknowledge a new one.
    pub(super) tag: u64,
    pub(super) message: Message,
}

/// A question and the way back.
pub(super) struct Question {
    pub(super) payload: Bytes,
    pub(super) answer: oneshot::Sender<Bytes>,
}

struct Subscriber {
    id: u64,
    client: u64,
    prefetch: usize,
    unacked: BTreeMap<u64, Message>,
    /// Bounded by `prefetch`.
    hand: mpsc::UnboundedSender<Handed>,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Message>,
    subscribers: VecDeque<Subscriber>,
    questions: VecDeque<Question>,
    servers: VecDeque<mpsc::Sender<Question>>,
}

/// All queues.
#[derive(Default)]
pub(super) struct Broker {
    queues: BTreeMap<Address, Queue>,
    last_tag: u64,
    last_client: u64,
    last_subscriber: u64,
}

impl Broker {
    /// A number for a client, by which its consumers are known.
    pub(super) fn connect(&mut self) -> u64 {
        self.last_client += 1;
        self.last_client
    }

    /// The client is gone, and all its consumers with it.
    pub(super) fn disconnect(&mut self, client: u64) {
        let gone: Vec<(Address, u64)> = self
            .queues
            .iter()
            .flat_map(|(address, queue)| {
                let its = queue.subscribers.iter().filter(|s| s.client == client);
                its.map(|s| (*address, s.id))
            })
            .collect();
        for (address, id) in gone {
            self.unsubscribe(address, id);
        }
    }

    /// Empties a queue.
    pub(super) fn restore(&mut self, address: Address) {
        self.queues.entry(address).or_default().ready.clear();
    }

    pub(super) fn declare(&mut self, address: Address) {
        self.queues.entry(address).or_default();
    }

    pub(super) fn exists(&self, address: Address) -> bool {
        self.queues.contains_key(&address)
    }

    /// Puts a message into its queue, `overtaking` so many that wait there.
    pub(super) fn enqueue(&mut self, address: Address, message: Message, overtaking: usize) {
        let queue = self.queues.entry(address).or_default();
        let at = queue.ready.len().saturating_sub(overtaking);
        queue.ready.insert(at, message);
        if address == Address::Telemetry && queue.ready.len() > TELEMETRY_MAX {
            queue.ready.pop_front();
        }
        self.pump(address);
    }

    /// How many messages wait, for faults that reorder and for tests.
    pub(super) fn waiting(&self, address: Address) -> usize {
        self.queues.get(&address).map_or(0, |q| q.ready.len())
    }

    pub(super) fn subscribe(
        &mut self,
        client: u64,
        address: Address,
        prefetch: u16,
    ) -> (u64, mpsc::UnboundedReceiver<Handed>) {
        let (hand, hands) = mpsc::unbounded_channel();
        self.last_subscriber += 1;
        let id = self.last_subscriber;
        let subscriber = Subscriber {
            id,
            client,
            prefetch: usize::from(prefetch.max(1)),
            unacked: BTreeMap::new(),
            hand,
        };
        let queue = self.queues.entry(address).or_default();
        queue.subscribers.push_back(subscriber);
        self.pump(address);
        (id, hands)
    }

    /// The consumer is gone; what it held comes again.
    pub(super) fn unsubscribe(&mut self, address: Address, id: u64) {
        let Some(queue) = self.queues.get_mut(&address) else {
            return;
        };
        let Some(at) = queue.subscribers.iter().position(|s| s.id == id) else {
            return;
        };
        if let Some(gone) = queue.subscribers.remove(at) {
            requeue(&mut queue.ready, gone.unacked);
        }
        self.pump(address);
    }

    /// Takes a message out of a consumer's hands. `None`: it is no longer in them.
    pub(super) fn settle(&mut self, address: Address, id: u64, tag: u64) -> Option<Message> {
        let queue = self.queues.get_mut(&address)?;
        let holder = queue.subscribers.iter_mut().find(|s| s.id == id)?;
        let message = holder.unacked.remove(&tag)?;
        self.pump(address);
        Some(message)
    }

    /// Gives a message back, as if the connection had broken between its hand-over and its
    /// acknowledgement.
    pub(super) fn give_back(&mut self, address: Address, id: u64, tag: u64) {
        let Some(mut message) = self.settle(address, id, tag) else {
            return;
        };
        message.redelivered = true;
        if let Some(queue) = self.queues.get_mut(&address) {
            queue.ready.push_front(message);
        }
        self.pump(address);
    }

    /// A rejected message goes to the dead letters with its origin; a dead letter that is
    /// rejected is dropped, as a queue without a dead-letter exchange does.
    pub(super) fn bury(&mut self, address: Address, mut message: Message) {
        if address == Address::DeadLetters {
            return;
        }
        message.dead_letter_queue = Some(address.to_string());
        message.redelivered = false;
        self.enqueue(Address::DeadLetters, message, 0);
    }

    /// Asks; false if nobody ever served this address.
    pub(super) fn ask(&mut self, address: Address, question: Question) -> bool {
        let Some(queue) = self.queues.get_mut(&address) else {
            return false;
        };
        queue.questions.push_back(question);
        if queue.questions.len() > READS_MAX {
            queue.questions.pop_front();
        }
        self.pump_questions(address);
        true
    }

    /// Registers a server of questions and hands it those that wait.
    pub(super) fn serve(&mut self, address: Address, server: mpsc::Sender<Question>) {
        let queue = self.queues.entry(address).or_default();
        queue.servers.push_back(server);
        self.pump_questions(address);
    }

    pub(super) fn restart(&mut self, disk_lost: bool) {
        let addresses: Vec<Address> = self.queues.keys().copied().collect();
        for address in addresses {
            let Some(queue) = self.queues.get_mut(&address) else {
                continue;
            };
            for subscriber in queue.subscribers.iter_mut().rev() {
                requeue(&mut queue.ready, std::mem::take(&mut subscriber.unacked));
            }
            queue.questions.clear();
            // Telemetry is not persistent.
            if disk_lost || address == Address::Telemetry {
                queue.ready.clear();
            }
            self.pump(address);
        }
    }

    /// Hands out what waits. An agent's queue has one active consumer: the longest-standing;
    /// elsewhere those that have room take turns.
    fn pump(&mut self, address: Address) {
        let Some(queue) = self.queues.get_mut(&address) else {
            return;
        };
        let single = matches!(address, Address::Agent(_));
        while !queue.ready.is_empty() {
            let eligible = if single { 1 } else { queue.subscribers.len() };
            let free = queue.subscribers.iter().take(eligible);
            let Some(at) = { free }.position(|s| s.unacked.len() < s.prefetch) else {
                return;
            };
            let (Some(message), Some(subscriber)) =
                (queue.ready.pop_front(), queue.subscribers.get_mut(at))
            else {
                return;
            };
            self.last_tag += 1;
            let tag = self.last_tag;
            subscriber.unacked.insert(tag, message.clone());
            // A receiver that is gone unsubscribes by itself, which gives the message back.
            let _ = subscriber.hand.send(Handed { tag, message });
            if !single && let Some(served) = queue.subscribers.remove(at) {
                queue.subscribers.push_back(served);
            }
        }
    }

    fn pump_questions(&mut self, address: Address) {
        let Some(queue) = self.queues.get_mut(&address) else {
            return;
        };
        queue.questions.retain(|q| !q.answer.is_closed());
        while let Some(question) = queue.questions.pop_front() {
            let mut question = Some(question);
            while let (Some(q), Some(server)) = (question.take(), queue.servers.pop_front()) {
                match server.try_send(q) {
                    Ok(()) => queue.servers.push_back(server),
                    Err(mpsc::error::TrySendError::Closed(q)) => question = Some(q),
                    // Reads are at most once: an overrun server loses some.
                    Err(mpsc::error::TrySendError::Full(_)) => queue.servers.push_back(server),
                }
                if question.is_none() {
                    break;
                }
            }
            if let Some(unserved) = question {
                queue.questions.push_front(unserved);
                return;
            }
        }
    }
}

fn requeue(ready: &mut VecDeque<Message>, held: BTreeMap<u64, Message>) {
    for (_, mut message) in held.into_iter().rev() {
        message.redelivered = true;
        ready.push_front(message);
    }
}
