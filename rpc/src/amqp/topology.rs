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
//! - Dead letters go by the default exchange, with a routing key that is fixed here: only controllers
//!   declare queues, so no host needs a right to that exchange, which would open every queue.
//! - Hosts write to one exchange, `results`, to which the controllers' queues are bound by their
//!   names: whatever they put there comes to a controller, with its sender's name.
//! - No transient queue and none with a random name: 4.3 refuses the one, and the other leaks
//!   Erlang atoms.

use super::Shared;
use crate::{Address, RpcError};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};

/// Deliveries of one message before the broker gives up: never.
const NO_DELIVERY_LIMIT: i32 = 1_000_000_000;
/// Telemetry messages kept.
const TELEMETRY_MAX: i32 = 10_000;
/// Questions that may wait for one agent, and answers for one controller.
const READS_MAX: i32 = 1_000;
/// Milliseconds after which no asker waits for an answer any more.
const READS_TTL_MS: i32 = 60_000;
/// Milliseconds after which a queue of questions or answers that nobody serves is removed: then a
/// question to that host fails at once instead of by its timeout.
const READS_EXPIRE_MS: i32 = 3_600_000;

/// The exchange that hosts write to, in this namespace.
pub(crate) fn results_exchange(namespace: &str) -> String {
    in_namespace(namespace, "results")
}

/// The queue's name in this namespace.
pub(crate) fn queue_name(namespace: &str, address: Address) -> String {
    in_namespace(namespace, &address.to_string())
}

fn in_namespace(namespace: &str, name: &str) -> String {
    match namespace {
        "" => name.to_owned(),
        _ => format!("{namespace}.{name}"),
    }
}

/// Whether hosts write to it, by the exchange.
pub(super) const fn is_for_hosts(address: Address) -> bool {
    matches!(
        address,
        Address::Results | Address::Telemetry | Address::Answers(_)
    )
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

/// Declares the queue, and what hosts reach it by; a no-op if it is there. A refusal closes the
/// channel.
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
        .answer(channel.queue_declare(name.as_str().into(), options, arguments))
        .await?;
    if is_for_hosts(address) {
        let exchange = results_exchange(&shared.namespace);
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let none = FieldTable::default;
        let declared = channel.exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Direct,
            options,
            none(),
        );
        shared.answer(declared).await?;
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(
            name.as_str().into(),
            exchange.into(),
            name.as_str().into(),
            options,
            none(),
        );
        shared.answer(bound).await?;
    }
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
        Address::AgentReads(_) | Address::Answers(_) => {
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
