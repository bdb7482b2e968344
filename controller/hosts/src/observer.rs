//! Who is told what hosts see: those that own the guests, above.

use berth_controller_core::Env;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::spec::VmmSpec;
use berth_rpc_types::{HostId, InstanceId, Observation, VmmId};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// A VMM and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The VMM.
    pub vmm_id: VmmId,
    /// Its host.
    pub host_id: HostId,
}

/// Told what a host saw of a guest.
pub trait Observer: Send + Sync {
    /// Folds in what was seen of a VMM of this instance, in the report's transaction. It is newer
    /// than what was known, and the VMM is not closed. Whether it may be acknowledged: if not, it
    /// is told again (PROTOCOL.md, rule 10).
    fn observed<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        instance_id: InstanceId,
        seen: &'a Observation,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// A guest was found that no server has, and this is what it is to be: what it has is to be held for
    /// it. Told again, it is the same.
    fn found<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        vmm_id: VmmId,
        host_id: HostId,
        spec: &'a VmmSpec,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Such a guest is not there any more.
    fn gone<'a>(
        &'a self,
        tx: &'a mut Tx,
        vmm_id: VmmId,
        host_id: HostId,
        spec: &'a VmmSpec,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}
