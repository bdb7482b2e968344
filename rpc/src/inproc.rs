//! Messages within one process, with the broker's semantics and, if asked, a network's faults.
//!
//! An [`InProcess`] is the broker: durable queues by address, acknowledgements, redelivery,
//! one active consumer on an agent's queue, dead letters, unroutable publishes. Every
//! [`InProcess::transport`] is one client of it. `berth up` runs on it; tests and simulations
//! give it [`Faults`], drawn from the injected `Rng`, so that a seed repeats a run.
//!
//! What it keeps, it keeps in memory: a process that ends loses it. Rule 2 (the step row is
//! the memory) covers that, as it covers a broker that lost its disk.

mod broker;
mod endpoint;

use crate::clock::{Clock, Rng};
use crate::{Sender, Transport};
use berth_rpc_types::HostId;
use broker::Broker;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What may go wrong with a message, each as a chance in 1,000. All zero by default.
///
/// Telemetry and reads promise nothing: what would be in doubt there is silently lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A publish does not arrive, and its sender learns only that it is in doubt.
    pub lose: u16,
    /// A publish arrives, and its sender learns only that it is in doubt.
    pub doubt: u16,
    /// A publish arrives twice.
    pub repeat: u16,
    /// A message overtakes some that wait.
    pub reorder: u16,
    /// A message waits a while, up to `delay_max`, before it is there.
    pub delay: u16,
    /// The longest such wait.
    pub delay_max: Duration,
    /// An acknowledgement is lost with its connection: the message comes again.
    pub lose_ack: u16,
}

/// The broker inside one process. Clones are the same broker.
#[derive(Clone)]
pub struct InProcess {
    hub: Arc<Hub>,
}

/// What all endpoints share.
struct Hub {
    broker: Mutex<Broker>,
    faults: Mutex<Faults>,
    rng: Arc<dyn Rng>,
    clock: Arc<dyn Clock>,
}

impl InProcess {
    /// A broker without queues.
    pub fn new(faults: Faults, rng: Arc<dyn Rng>, clock: Arc<dyn Clock>) -> Self {
        Self {
            hub: Arc::new(Hub {
                broker: Mutex::new(Broker::default()),
                faults: Mutex::new(faults),
                rng,
                clock,
            }),
        }
    }

    /// A client that is no host. Closing or dropping one ends its own consumers only.
    pub fn transport(&self) -> Arc<dyn Transport> {
        let sender = Sender::Other("in-process".into());
        endpoint::Endpoint::open(Arc::clone(&self.hub), sender)
    }

    /// A host's client: what it publishes has its name. Its rights are not kept to what a host's
    /// account has: all are of one process.
    pub fn transport_of(&self, host: HostId) -> Arc<dyn Transport> {
        endpoint::Endpoint::open(Arc::clone(&self.hub), Sender::Host(host))
    }

    /// Changes what goes wrong from now on; a simulation's liveness phase sets it to none.
    pub fn set_faults(&self, faults: Faults) {
        *self
            .hub
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// What a broker's restart looks like from outside: everything unacknowledged comes again,
    /// and earlier deliveries can no longer be acknowledged. With `disk_lost`, all that waited
    /// is gone too; its queues are declared again, as the clients of a real broker do.
    pub fn restart(&self, disk_lost: bool) {
        self.hub.broker().restart(disk_lost);
    }
}

impl Hub {
    fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> Faults {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a fault with this chance in 1,000 strikes. Draws only where there is a chance.
    fn strikes(&self, chance: u16) -> bool {
        chance > 0 && self.rng.below(1000) < u64::from(chance)
    }
}
