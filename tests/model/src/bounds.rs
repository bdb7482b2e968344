//! What may happen in one run of the model: what users ask for, and what goes wrong, each so often.

use crate::storage::Kind;

/// How often each thing may still happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Whether the guest is armed for automatic evacuation, and carries leases.
    pub armed: bool,
    /// What its disk is on.
    pub storage: Kind,
    /// Whether it begins with a server that is active, or with one that was just asked for.
    pub begins_active: bool,
    /// Reports of an agent that has nothing to learn but a new watermark.
    pub reports: u8,
    /// Deletes that users ask for.
    pub deletes: u8,
    /// Migrations.
    pub migrations: u8,
    /// Migrations given up.
    pub aborts: u8,
    /// Starts, or recoveries of a guest that lost its host.
    pub starts: u8,
    /// Builds that fail on their host.
    pub failed_builds: u8,
    /// Agents killed, for each host.
    pub agent_crashes: [u8; 2],
    /// VMMs that die.
    pub vmm_crashes: u8,
    /// Hosts that lose power.
    pub power_cuts: u8,
    /// Hosts fenced.
    pub fences: u8,
    /// Messages, answers or "go"s that are lost.
    pub drops: u8,
    /// Messages and answers that arrive twice.
    pub repeats: u8,
    /// Messages that a controller reads, and publishes later.
    pub holds: u8,
    /// Locks that end by themselves.
    pub lost_locks: u8,
    /// Agents whose disk is new.
    pub new_disks: u8,
    /// Databases restored from a backup.
    pub restores: u8,
    /// Leases granted.
    pub grants: u8,
    /// Ticks of the clock: a lease is two long.
    pub ticks: u8,
}

impl Bounds {
    /// A server is created, and nothing goes wrong.
    pub const NOTHING: Self = Self {
        armed: false,
        storage: Kind::RefusesNobody,
        begins_active: false,
        reports: 0,
        deletes: 0,
        migrations: 0,
        aborts: 0,
        starts: 0,
        failed_builds: 0,
        agent_crashes: [0, 0],
        vmm_crashes: 0,
        power_cuts: 0,
        fences: 0,
        drops: 0,
        repeats: 0,
        holds: 0,
        lost_locks: 0,
        new_disks: 0,
        restores: 0,
        grants: 0,
        ticks: 0,
    };
}
