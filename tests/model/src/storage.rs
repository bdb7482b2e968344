//! The guest's disk on storage that both hosts reach.
//!
//! It keeps the writer generation and whose it is, and a lock. Taking it is one step. A lock ends
//! with its process, with its host's power, and, once within the bounds, by itself: a server that
//! restarts, or a client that was cut off for longer than its own lease.

use crate::rules::{Rules, Weakness};
use crate::words::{Right, VmmNo};

/// What the storage does with a writer whose generation is not the last one taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Plain files and NFS: it writes.
    RefusesNobody,
    /// Ceph with a blocklist: it is refused.
    RefusesOldWriters,
}

/// See the module's words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Storage {
    /// What it does with old writers.
    pub kind: Kind,
    /// The last right taken.
    pub right: Right,
    /// By whom.
    pub writer: VmmNo,
    /// Who holds the lock.
    pub lock: Option<VmmNo>,
}

impl Storage {
    /// A disk that nobody has written.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            right: Right::default(),
            writer: VmmNo::NOBODY,
            lock: None,
        }
    }

    /// Takes lock and generation for a VMM, which names the rights that it may follow. Taking again
    /// what one has is no change.
    pub fn take(&mut self, vmm: VmmNo, right: Right, follows: u64, rules: Rules) -> bool {
        let locked = self.lock.is_some_and(|holder| holder != vmm);
        let own = self.writer == vmm;
        let last = name_of(self.writer, self.right, rules);
        let named = own || self.writer == VmmNo::NOBODY || follows & last != 0;
        let rises = right.number > self.right.number || own && right == self.right;
        let takes = !locked && rises && (named || rules.lack(Weakness::TakeNamesNobody));
        if takes {
            self.right = right;
            self.writer = vmm;
            self.lock = Some(vmm);
        }
        takes
    }

    /// The lock of a VMM that ended, or let its disks go.
    pub fn release(&mut self, vmm: VmmNo) {
        if self.lock == Some(vmm) {
            self.lock = None;
        }
    }

    /// Whether a write by this right would be accepted now.
    pub fn accepts(&self, right: Right) -> bool {
        match self.kind {
            Kind::RefusesNobody => true,
            Kind::RefusesOldWriters => right == self.right,
        }
    }
}

/// What a writer is called when the next one says whom it follows: by the right that it had, since
/// a VMM that is over may be alive again, by another right, in a database that was restored.
pub fn name_of(vmm: VmmNo, right: Right, rules: Rules) -> u64 {
    match rules.lack(Weakness::TakeNamesVmms) {
        true => vmm.bit(),
        false => right.bit(),
    }
}
