//! Hints that a VMM may have changed. Bounded by the number of VMMs: a hint given twice before
//! it is taken is one hint.

use berth_rpc_types::VmmId;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Hints {
    of: Mutex<BTreeSet<VmmId>>,
    more: Notify,
}

impl Hints {
    pub fn give(&self, vmm_id: VmmId) {
        self.of
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(vmm_id);
        self.more.notify_one();
    }

    pub async fn take(&self) -> VmmId {
        loop {
            let first = self
                .of
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_first();
            match first {
                Some(vmm_id) => return vmm_id,
                None => self.more.notified().await,
            }
        }
    }
}
