//! What became of messages while the broker died, counted as RabbitMQ's Jepsen suite counts.

use crate::World;
use crate::properties::{PATIENCE, host};
use berth_rpc::{Address, ConsumeOptions, RpcError, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A pass has `lost` and `unexpected` 0, and `ok` at least `acknowledged`.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "some are for the reader of a report only")]
pub struct Counts {
    /// Messages that a publisher tried to send, each until it was confirmed.
    pub attempted: usize,
    /// Those whose publish returned `Ok`.
    pub acknowledged: usize,
    /// Acknowledged and received.
    pub ok: usize,
    /// Acknowledged and never received.
    pub lost: usize,
    /// Received more than once.
    pub duplicated: usize,
    /// Received and never attempted.
    pub unexpected: usize,
    /// The longest time without a confirmed publish.
    pub longest_gap: Duration,
}

/// Publishes at least `least` messages one after the other, and until `disturbance` is over, as a
/// step row would: in doubt, the same id again. A consumer acknowledges what it has noted.
pub async fn run(world: &dyn World, least: usize, disturbance: impl Future<Output = ()>) -> Counts {
    let address = Address::Agent(host(90));
    let receiver = world.client();
    let options = ConsumeOptions { prefetch: 16 };
    let mut consumer = receiver.consume(address, options).await.unwrap();
    let received = tokio::spawn(async move {
        let mut received: BTreeMap<String, usize> = BTreeMap::new();
        while let Some(delivery) = consumer.next().await {
            if delivery.message_id == "end" {
                let _ = delivery.ack().await;
                break;
            }
            *received.entry(delivery.message_id.clone()).or_default() += 1;
            // A failed acknowledgement is a duplicate to come.
            let _ = delivery.ack().await;
        }
        received
    });
    let calm = Arc::new(AtomicBool::new(false));
    let sender = world.client();
    let publisher = tokio::spawn(publish(
        Arc::clone(&sender),
        address,
        least,
        Arc::clone(&calm),
    ));
    disturbance.await;
    calm.store(true, Ordering::Relaxed);
    let (attempted, acknowledged, longest_gap) = tokio::time::timeout(PATIENCE, publisher)
        .await
        .unwrap()
        .unwrap();
    // Delayed messages are down by then; the last closes the list.
    tokio::time::sleep(Duration::from_millis(100)).await;
    until_confirmed(&*sender, address, "end").await;
    let received = tokio::time::timeout(PATIENCE, received)
        .await
        .unwrap()
        .unwrap();
    sender.close().await;
    receiver.close().await;
    let was_received = |id: &&String| received.contains_key(*id);
    let ok = acknowledged.iter().filter(was_received).count();
    Counts {
        attempted: attempted.len(),
        acknowledged: acknowledged.len(),
        ok,
        lost: acknowledged.len() - ok,
        duplicated: received.values().filter(|times| **times > 1).count(),
        unexpected: received
            .keys()
            .filter(|id| !attempted.contains(*id))
            .count(),
        longest_gap,
    }
}

async fn publish(
    sender: Arc<dyn Transport>,
    address: Address,
    least: usize,
    calm: Arc<AtomicBool>,
) -> (BTreeSet<String>, BTreeSet<String>, Duration) {
    let (mut attempted, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
    let mut longest_gap = Duration::ZERO;
    while attempted.len() < least || !calm.load(Ordering::Relaxed) {
        let id = format!("{:08}", attempted.len());
        attempted.insert(id.clone());
        let begun = Instant::now();
        until_confirmed(&*sender, address, &id).await;
        longest_gap = longest_gap.max(begun.elapsed());
        acknowledged.insert(id);
    }
    (attempted, acknowledged, longest_gap)
}

/// Publishes the same message until it is confirmed.
pub async fn until_confirmed(sender: &dyn Transport, address: Address, id: &str) {
    loop {
        match sender.publish(address, id, id.to_owned().into()).await {
            Ok(()) => return,
            Err(RpcError::InDoubt(_) | RpcError::Disconnected(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{address}: {error}"),
        }
    }
}
