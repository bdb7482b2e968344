//! The bounds within which the model is looked through, each with the outcomes that it has to show.

use crate::bounds::Bounds;
use crate::storage::Kind;

/// One set of bounds.
#[derive(Debug)]
pub struct Scenario {
    /// What it is about.
    pub name: &'static str,
    /// What may happen.
    pub bounds: Bounds,
    /// What then happens sometimes: names in [`crate::properties::SOMETIMES`].
    pub outcomes: &'static [&'static str],
}

/// Commands: created, deleted, built elsewhere, with messages held, lost and repeated.
pub const ORDERS: Scenario = Scenario {
    name: "orders",
    bounds: Bounds {
        deletes: 1,
        failed_builds: 1,
        holds: 1,
        drops: 1,
        repeats: 1,
        reports: 1,
        agent_crashes: [1, 0],
        ..Bounds::NOTHING
    },
    outcomes: &[
        "a server is active",
        "a server is deleted",
        "a build that was undone is active elsewhere",
        "a command is superseded",
        "a command is below the watermark",
        "a tombstone is forgotten",
    ],
};

/// Hosts that lose power, are fenced and return.
pub const HOSTS: Scenario = Scenario {
    name: "hosts",
    bounds: Bounds {
        deletes: 1,
        starts: 1,
        power_cuts: 1,
        fences: 1,
        agent_crashes: [1, 0],
        ..Bounds::NOTHING
    },
    outcomes: &[
        "no host would do",
        "a server is active",
        "a server is deleted",
        "a command is of an old epoch",
        "a guest starts from its disk on another host",
        "a host removes what it lost",
    ],
};

/// A new disk for an agent.
pub const NEW_DISK: Scenario = Scenario {
    name: "new disk",
    bounds: Bounds {
        deletes: 1,
        starts: 1,
        new_disks: 1,
        holds: 1,
        agent_crashes: [1, 0],
        ..Bounds::NOTHING
    },
    outcomes: &["a guest that nobody knows is quarantined"],
};

/// A migration: a VMM dies, the "go" is lost, a user gives it up.
pub const MIGRATION: Scenario = Scenario {
    name: "migration",
    bounds: Bounds {
        begins_active: true,
        migrations: 1,
        aborts: 1,
        drops: 1,
        vmm_crashes: 1,
        ..Bounds::NOTHING
    },
    outcomes: &[
        "a guest runs on the target",
        "a guest was migrated",
        "the target refused the right",
        "the source goes on after a refusal",
        "the target took the right, and its VMM died",
    ],
};

/// A migration whose hosts are fenced.
pub const MIGRATION_FENCED: Scenario = Scenario {
    name: "migration, fenced",
    bounds: Bounds {
        begins_active: true,
        migrations: 1,
        fences: 1,
        ..Bounds::NOTHING
    },
    outcomes: &["the source asks the storage after a fence"],
};

/// A migration whose agents are killed.
pub const MIGRATION_AGENTS: Scenario = Scenario {
    name: "migration, agents killed",
    bounds: Bounds {
        begins_active: true,
        migrations: 1,
        repeats: 1,
        agent_crashes: [1, 1],
        ..Bounds::NOTHING
    },
    outcomes: &["a guest was migrated"],
};

/// A migration of a guest that carries leases.
pub const MIGRATION_ARMED: Scenario = Scenario {
    name: "migration, armed",
    bounds: Bounds {
        begins_active: true,
        armed: true,
        storage: Kind::RefusesOldWriters,
        migrations: 1,
        grants: 2,
        ticks: 2,
        ..Bounds::NOTHING
    },
    outcomes: &["a guest was migrated"],
};

/// Leases on storage that refuses old writers.
pub const LEASES: Scenario = Scenario {
    name: "leases",
    bounds: Bounds {
        begins_active: true,
        armed: true,
        storage: Kind::RefusesOldWriters,
        agent_crashes: [1, 0],
        lost_locks: 1,
        grants: 2,
        ticks: 4,
        ..Bounds::NOTHING
    },
    outcomes: &[
        "a guest pauses at its lease's soft end",
        "a guest was given away at its lease's end",
    ],
};

/// A database restored from its backup.
pub const RESTORE: Scenario = Scenario {
    name: "restore",
    bounds: Bounds {
        deletes: 1,
        failed_builds: 1,
        restores: 1,
        ..Bounds::NOTHING
    },
    outcomes: &[
        "a database is refused",
        "a lineage is accepted",
        "a stray is held",
        "a command of another lineage is refused",
    ],
};

/// The same, of which the backup does not know that a host was fenced.
pub const RESTORE_FENCED: Scenario = Scenario {
    name: "restore, fenced",
    bounds: Bounds {
        fences: 1,
        lost_locks: 1,
        restores: 1,
        ..Bounds::NOTHING
    },
    outcomes: &["a database is refused", "a lineage is accepted"],
};

/// The same, while a guest moves.
pub const RESTORE_MIGRATION: Scenario = Scenario {
    name: "restore, migration",
    bounds: Bounds {
        begins_active: true,
        migrations: 1,
        restores: 1,
        ..Bounds::NOTHING
    },
    outcomes: &["a stray is held"],
};

/// The same, of a guest that carries leases.
pub const RESTORE_ARMED: Scenario = Scenario {
    name: "restore, armed",
    bounds: Bounds {
        begins_active: true,
        armed: true,
        storage: Kind::RefusesOldWriters,
        restores: 1,
        lost_locks: 1,
        grants: 3,
        ticks: 4,
        ..Bounds::NOTHING
    },
    outcomes: &["a guest was given away at its lease's end"],
};

/// More messages lost, repeated and held, and both agents killed.
pub const MORE_ORDERS: Scenario = Scenario {
    name: "more orders",
    bounds: Bounds {
        repeats: 2,
        starts: 1,
        agent_crashes: [1, 1],
        ..ORDERS.bounds
    },
    outcomes: ORDERS.outcomes,
};

/// Hosts fenced under a server that is deleted, started and rebuilt, while messages are held.
pub const MORE_HOSTS: Scenario = Scenario {
    name: "more hosts",
    bounds: Bounds {
        holds: 1,
        agent_crashes: [0, 0],
        ..HOSTS.bounds
    },
    outcomes: HOSTS.outcomes,
};

/// A migration with everything that its hosts may suffer.
pub const MORE_MIGRATION: Scenario = Scenario {
    name: "more migration",
    bounds: Bounds {
        deletes: 1,
        repeats: 1,
        ..MIGRATION.bounds
    },
    outcomes: MIGRATION.outcomes,
};

/// A migration whose hosts are fenced, and locks end by themselves.
pub const MORE_FENCES: Scenario = Scenario {
    name: "more fences",
    bounds: Bounds {
        holds: 1,
        lost_locks: 1,
        ..MIGRATION_FENCED.bounds
    },
    outcomes: MIGRATION_FENCED.outcomes,
};

/// Leases of a guest whose host is fenced.
pub const MORE_LEASES: Scenario = Scenario {
    name: "more leases",
    bounds: Bounds {
        fences: 1,
        grants: 3,
        ticks: 6,
        ..LEASES.bounds
    },
    outcomes: LEASES.outcomes,
};

/// A restored database, with messages that are held and repeated across the restore.
pub const MORE_RESTORE: Scenario = Scenario {
    name: "more restore",
    bounds: Bounds {
        holds: 1,
        repeats: 1,
        reports: 1,
        ..RESTORE.bounds
    },
    outcomes: RESTORE.outcomes,
};

/// Every one.
pub const ALL: &[&Scenario] = &[
    &ORDERS,
    &HOSTS,
    &NEW_DISK,
    &MIGRATION,
    &MIGRATION_FENCED,
    &MIGRATION_AGENTS,
    &MIGRATION_ARMED,
    &LEASES,
    &RESTORE,
    &RESTORE_FENCED,
    &RESTORE_MIGRATION,
    &RESTORE_ARMED,
    &MORE_ORDERS,
    &MORE_HOSTS,
    &MORE_MIGRATION,
    &MORE_FENCES,
    &MORE_LEASES,
    &MORE_RESTORE,
];
