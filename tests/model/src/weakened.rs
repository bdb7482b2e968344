//! Each rule taken away, with bounds within which that shows, and what then does not hold.
//!
//! Where one rule is the other's second belt, both are taken away: either alone holds.

use crate::bounds::Bounds;
use crate::rules::Weakness::{self, *};
use crate::scenarios::{RESTORE, RESTORE_FENCED};
use crate::storage::Kind;

/// Rules taken away.
#[derive(Debug)]
pub struct Weakened {
    /// Which.
    pub lacks: &'static [Weakness],
    /// What may happen.
    pub bounds: Bounds,
    /// What does not hold any more: a name in [`crate::properties::ALWAYS`].
    pub breaks: &'static str,
}

const CREATE: Bounds = Bounds::NOTHING;

const RUNS: Bounds = Bounds {
    begins_active: true,
    ..CREATE
};

const MOVES: Bounds = Bounds {
    migrations: 1,
    ..RUNS
};

const ARMED: Bounds = Bounds {
    armed: true,
    storage: Kind::RefusesOldWriters,
    grants: 2,
    ticks: 3,
    lost_locks: 1,
    ..RUNS
};

const MOVES_AND_A_VMM_DIES: Bounds = Bounds {
    vmm_crashes: 1,
    ..MOVES
};

const RESTORED: Bounds = RESTORE.bounds;

const FENCED_AND_RESTORED: Bounds = RESTORE_FENCED.bounds;

const ARMED_AND_RESTORED: Bounds = Bounds {
    restores: 1,
    grants: 3,
    ticks: 4,
    ..ARMED
};

const ONE_RUNS: &str = "one guest runs";
const ONE_WRITES: &str = "one writer is accepted";
const SOURCE: &str = "the source never runs after the target ran";
const CLAIMED: &str = "no claim is freed under a VMM";
const BURIED: &str = "nothing tombstoned is built";
const UNASKED: &str = "no agent ends a guest unasked";
const UNWANTED: &str = "no guest ends unwanted";
const UNACCEPTED: &str = "no database that was refused is obeyed unaccepted";
const RIGHT: &str = "the VMM of an active server has the right";
const REFUSED: &str = "no order is refused that is waited for";

/// Every one.
pub const ALL: &[Weakened] = &[
    weakened(&[SilenceFrees], CREATE, CLAIMED),
    weakened(
        &[UnknownIsUndone],
        Bounds {
            new_disks: 1,
            agent_crashes: [1, 0],
            ..CREATE
        },
        CLAIMED,
    ),
    weakened(
        &[SequenceNotKept],
        Bounds {
            holds: 1,
            aborts: 1,
            ..MOVES
        },
        RIGHT,
    ),
    weakened(
        &[TombstoneForgottenByClock],
        Bounds {
            deletes: 1,
            repeats: 1,
            ..CREATE
        },
        BURIED,
    ),
    weakened(
        &[WatermarkNotHeeded],
        Bounds {
            deletes: 1,
            repeats: 1,
            holds: 1,
            reports: 1,
            ..CREATE
        },
        BURIED,
    ),
    weakened(
        &[WatermarkAboveUnsettled],
        Bounds {
            reports: 1,
            ..CREATE
        },
        REFUSED,
    ),
    weakened(
        &[EpochNotRaised, WatermarkNotHeeded],
        Bounds {
            fences: 1,
            starts: 1,
            holds: 1,
            ..CREATE
        },
        CLAIMED,
    ),
    weakened(
        &[EpochNotAsked],
        Bounds {
            fences: 1,
            starts: 1,
            ..CREATE
        },
        CLAIMED,
    ),
    weakened(&[AbsenceIsAnOrder, CounterAlone], RESTORED, UNASKED),
    weakened(&[RefusalNotLatched, CounterAlone], RESTORED, UNACCEPTED),
    weakened(&[CounterAlone], RESTORED, CLAIMED),
    weakened(&[StartNotAsked], RESTORED, CLAIMED),
    weakened(&[AcceptRaisesNothing], RESTORED, REFUSED),
    weakened(&[StraysNotHeld], RESTORED, CLAIMED),
    weakened(
        &[AcceptEndsNothing],
        Bounds {
            reports: 1,
            ..RESTORED
        },
        BURIED,
    ),
    weakened(
        &[TakeNamesNobody],
        Bounds {
            starts: 1,
            lost_locks: 1,
            ..RESTORED
        },
        ONE_RUNS,
    ),
    weakened(
        &[TakeNamesVmms],
        Bounds {
            power_cuts: 1,
            ..FENCED_AND_RESTORED
        },
        ONE_RUNS,
    ),
    weakened(&[AcceptedIsOver], FENCED_AND_RESTORED, ONE_RUNS),
    weakened(&[OldOrdersCarriedOn], FENCED_AND_RESTORED, ONE_RUNS),
    weakened(&[BootNotTold], FENCED_AND_RESTORED, ONE_RUNS),
    weakened(&[EvidenceOfNow], FENCED_AND_RESTORED, CLAIMED),
    weakened(
        &[LeaseInAgent],
        Bounds {
            agent_crashes: [1, 0],
            ..ARMED
        },
        ONE_RUNS,
    ),
    weakened(&[LeaseFromArrival], ARMED, ONE_RUNS),
    weakened(&[NoMargin], ARMED, ONE_RUNS),
    weakened(
        &[GrantOfAnyGeneration],
        Bounds {
            migrations: 1,
            grants: 3,
            ..ARMED
        },
        ONE_RUNS,
    ),
    weakened(&[NoGrace], ARMED_AND_RESTORED, SOURCE),
    weakened(&[LeaseBegunInGrace], ARMED_AND_RESTORED, SOURCE),
    weakened(
        &[StorageNotAsked],
        Bounds {
            ticks: 6,
            ..ARMED_AND_RESTORED
        },
        SOURCE,
    ),
    weakened(&[SourceResumes], MOVES, SOURCE),
    weakened(&[SourceStartsAgain], MOVES_AND_A_VMM_DIES, SOURCE),
    weakened(&[SilenceIsRefusal], MOVES_AND_A_VMM_DIES, SOURCE),
    weakened(&[RefusalNotDurable], MOVES_AND_A_VMM_DIES, SOURCE),
    weakened(&[RunsBeforeNote], MOVES_AND_A_VMM_DIES, SOURCE),
    weakened(&[FenceIsRefusal], Bounds { fences: 1, ..MOVES }, SOURCE),
    weakened(
        &[UndoWithoutInquiry],
        Bounds { aborts: 1, ..MOVES },
        UNWANTED,
    ),
    weakened(
        &[AgentEndsIncoming],
        Bounds {
            agent_crashes: [0, 1],
            ..MOVES
        },
        UNASKED,
    ),
    weakened(
        &[TargetNeedsNoLease],
        Bounds {
            migrations: 1,
            grants: 1,
            ..ARMED
        },
        SOURCE,
    ),
    weakened(
        &[EvacuationOnSilence],
        Bounds {
            lost_locks: 1,
            ..RUNS
        },
        ONE_RUNS,
    ),
    weakened(
        &[LeaseOnPlainStorage],
        Bounds {
            storage: Kind::RefusesNobody,
            ..ARMED
        },
        ONE_WRITES,
    ),
];

const fn weakened(lacks: &'static [Weakness], bounds: Bounds, breaks: &'static str) -> Weakened {
    Weakened {
        lacks,
        bounds,
        breaks,
    }
}
