//! The queues: names and arguments.
//!
//! Arguments of a queue cannot be changed once it exists: a declaration with others is refused.
//! So arguments say what a queue *is*, and a limit that an operator may want to set is left to a
//! policy (`rabbitmqctl set_policy`), where an argument and a policy of the same meaning combine
//! to the lower (PROTOCOL.md, rule 9). What is fixed here, and why:
//!
//! - `x-delivery-limit`: practically none. RabbitMQ 3.10 has no limit, but 4.0 made it 20, and
//!   would dead-letter a good message whose agent was killed 20 times. Poison is counted in the
//!   agent's journal. A limit of -1 is understood by 4.0 only, so it is a number never reached.
//! - `x-dead-letter-strategy: at-least-once`: a reject must not lose its message; it demands
//!   `x-overflow: reject-publish`, which a length limit set by policy then means: the publisher
//!   is told, instead of the oldest command being dropped.
//! - The bounded queues (telemetry, reads) are bounded from birth: nobody may forget the policy.
//! - No transient queue and none with a random name: 4.3 refuses the one, and the other leaks
//!   Erlang atoms.

use super::Shared;
use crate::{Address, RpcError};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};

/// Deliveries of one message before the broker gives up: never.
const NO_DELIVERY_LIMIT: i32 = 1_000_000_000;
/// Telemetry messages kept.
const TELEMETRY_MAX: i32 = 10_000;
/// Questions that may wait for one agent.
const READS_MAX: i32 = 1_000;
/// Milliseconds after which no asker waits for an answer any more.
const READS_TTL_MS: i32 = 60_000;
/// Milliseconds after which a reads queue that nobody serves is removed: then a question to that
/// host fails at once instead of by its timeout.
const READS_EXPIRE_MS: i32 = 3_600_000;

/// The queue's name in this namespace.
pub(super) fn queue_name(namespace: &str, address: Address) -> String {
    if namespace.is_empty() {
        address.to_string()
    } else {
        format!("{namespace}.{address}")
    }
}

/// The name without its namespace, as [`crate::Delivery::dead_letter_queue`] tells it.
pub(super) fn plain_name(namespace: &str, queue: &str) -> String {
    let stripped = queue
        .strip_prefix(namespace)
        .and_then(|rest| rest.strip_prefix('.'));
    match stripped {
        Some(plain) if !namespace.is_empty() => plain.to_owned(),
        _ => queue.to_owned(),
    }
}

/// Declares the queue; a no-op if it is there. A refusal closes the channel.
pub(super) async fn declare(
    shared: &Shared,
    channel: &lapin::Channel,
    address: Address,
) -> Result<(), RpcError> {
    let name = queue_name(&shared.namespace, address);
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = arguments(&shared.namespace, address);
    shared
        .answer(channel.queue_declare(name.into(), options, arguments))
        .await?;
    Ok(())
}

fn arguments(namespace: &str, address: Address) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let mut arguments = FieldTable::default();
    let mut set = |key: &str, value| {
        arguments.insert(key.into(), value);
    };
    match address {
        Address::Agent(_) | Address::Results | Address::DeadLetters => {
            set("x-queue-type", text("quorum"));
            set("x-delivery-limit", AMQPValue::LongInt(NO_DELIVERY_LIMIT));
            if address != Address::DeadLetters {
                let dead_letters = queue_name(namespace, Address::DeadLetters);
                set("x-dead-letter-exchange", text(""));
                set("x-dead-letter-routing-key", text(&dead_letters));
                set("x-dead-letter-strategy", text("at-least-once"));
                set("x-overflow", text("reject-publish"));
            }
            if matches!(address, Address::Agent(_)) {
                // A second agent with the same id waits, instead of taking every other command.
                set("x-single-active-consumer", AMQPValue::Boolean(true));
            }
        }
        Address::Telemetry => {
            set("x-queue-type", text("classic"));
            set("x-max-length", AMQPValue::LongInt(TELEMETRY_MAX));
            set("x-overflow", text("drop-head"));
        }
        Address::AgentReads(_) => {
            set("x-queue-type", text("classic"));
            set("x-max-length", AMQPValue::LongInt(READS_MAX));
            set("x-message-ttl", AMQPValue::LongInt(READS_TTL_MS));
            set("x-expires", AMQPValue::LongInt(READS_EXPIRE_MS));
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_put_before_a_name_and_taken_off_again() {
        for namespace in ["", "cloud1"] {
            let name = queue_name(namespace, Address::Results);
            assert_eq!(plain_name(namespace, &name), "controller.results");
        }
        assert_eq!(
            queue_name("cloud1", Address::Results),
            "cloud1.controller.results"
        );
        assert_eq!(plain_name("cloud1", "other.results"), "other.results");
    }
}
