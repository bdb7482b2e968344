//! What every transport promises; here, the words that the promises are told in.

mod deaths;
mod delivery;
mod reads;

pub use deaths::*;
pub use delivery::*;
pub use reads::*;

use crate::World;
use crate::checker::{self, until_confirmed};
use berth_rpc::{Address, ConsumeOptions, Consumer, Delivery, ReadRequest, RpcError, Transport};
use berth_rpc_types::HostId;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Room for a machine that is busy with everything else.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing must come for "nothing comes".
const QUIET: Duration = Duration::from_millis(400);

pub fn host(number: u128) -> HostId {
    HostId::from_u128(number)
}

const fn prefetch(prefetch: u16) -> ConsumeOptions {
    ConsumeOptions { prefetch }
}

async fn next(consumer: &mut dyn Consumer) -> Delivery {
    let delivery = timeout(PATIENCE, consumer.next()).await;
    delivery
        .expect("a delivery in time")
        .expect("an open transport")
}

async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(next(consumer).await);
    }
    deliveries
}

async fn assert_quiet(consumer: &mut dyn Consumer) {
    if let Ok(Some(delivery)) = timeout(QUIET, consumer.next()).await {
        panic!("{} came, where nothing should", delivery.message_id);
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries
        .iter()
        .map(|delivery| delivery.message_id.as_str())
        .collect()
}

async fn publish_all(transport: &dyn Transport, address: Address, ids: &[&str]) {
    for id in ids {
        until_confirmed(transport, address, id).await;
    }
}
