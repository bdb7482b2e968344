//! Time, chance and the shared settings, for whatever runs inside a transaction.

use crate::{ControlSettings, KnownHosts};
use berth_rpc::clock::{Clock, Rng};
use berth_rpc_types::{InstanceId, MessageId, OperationId, PortId, VmmId};
use std::sync::Arc;

/// The injected clock and randomness, and the settings. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// What every controller of this cloud agrees on.
    pub control: Arc<ControlSettings>,
    /// The hosts that placement chooses from.
    pub hosts: Arc<KnownHosts>,
}

macro_rules! draws {
    ($($(#[$doc:meta])* $name:ident -> $id:ident),+ $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> $id { $id::from_u128(self.rng.bits()) }
    )+};
}

impl Env {
    /// Unix milliseconds.
    pub fn now(&self) -> i64 {
        self.clock.now_millis()
    }

    /// A random UUID.
    pub fn uuid(&self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.rng.bits().to_be_bytes()).into_uuid()
    }

    /// A secret of 256 bits, in hexadecimal.
    pub fn secret(&self) -> String {
        crate::secret::new(&*self.rng)
    }

    draws! {
        /// A new instance's id.
        instance_id -> InstanceId,
        /// A new operation's id.
        operation_id -> OperationId,
        /// A new VMM's id.
        vmm_id -> VmmId,
        /// A new message's id.
        message_id -> MessageId,
        /// A new port's id.
        port_id -> PortId,
    }
}
