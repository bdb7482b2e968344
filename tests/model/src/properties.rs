//! What is always so, and what happens sometimes.

use crate::database::Instance;
use crate::host::{Host, Note, Process};
use crate::model::{Protocol, VMMS};
use crate::words::{Answer, HostNo, Order, Reply, VmmNo};
use crate::workflow::Step;
use crate::world::{Violation, World};

/// A statement about one instant.
pub type Condition = fn(&Protocol, &World) -> bool;

/// What is always so.
pub const ALWAYS: &[(&str, Condition)] = &[
    ("one guest runs", |_, world| running(world).count() <= 1),
    ("one writer is accepted", |_, world| one_writer(world)),
    ("the source never runs after the target ran", |_, world| {
        world.violation != Some(Violation::OldMemoryRan) && generations_rise(world)
    }),
    ("no claim is freed under a VMM", |_, world| {
        (0..2).all(|host| is_claimed(world, host))
    }),
    ("nothing tombstoned is built", |_, world| {
        vmms(world).all(|(_, no, lives)| !lives || world.buried & no.bit() == 0)
    }),
    ("no agent ends a guest unasked", |_, world| {
        world.violation != Some(Violation::EndedUnasked)
    }),
    ("no guest ends unwanted", |_, world| {
        world.violation != Some(Violation::EndedUnwanted)
    }),
    (
        "no database that was refused is obeyed unaccepted",
        |_, world| world.violation != Some(Violation::ObeyedUnaccepted),
    ),
    ("the VMM of an active server has the right", |_, world| {
        active_has_the_right(world)
    }),
    ("no order is refused that is waited for", |_, world| {
        nothing_refused(world)
    }),
    ("no operation tries for ever", |_, world| {
        world.database.rows.len() < VMMS
    }),
    ("no operation stays open at a dead end", |model, world| {
        model.settled.ends(world)
    }),
];

/// What happens sometimes: the outcomes that PROTOCOL.md lists.
pub const SOMETIMES: &[(&str, Condition)] = &[
    ("a server is active", |_, w| is(w, Instance::Active)),
    ("a server is deleted", |_, w| is(w, Instance::Deleted)),
    ("no host would do", |_, w| is(w, Instance::Down)),
    ("a build that was undone is active elsewhere", |_, w| {
        is(w, Instance::Active) && w.database.active == VmmNo(2) && w.database.operation.is_none()
    }),
    ("a command is superseded", |_, w| {
        replied(w, Reply::Superseded)
    }),
    ("a command is of an old epoch", |_, w| {
        replied(w, Reply::StaleEpoch)
    }),
    ("a command is below the watermark", |_, w| {
        replied(w, Reply::BelowWatermark)
    }),
    ("a command of another lineage is refused", |_, w| {
        replied(w, Reply::Refused)
    }),
    ("a tombstone is forgotten", |_, w| {
        w.buried != 0 && w.hosts.iter().all(|host| host.journal.records.is_empty())
    }),
    ("a guest that nobody knows is quarantined", |_, w| {
        let quarantined = berth_rpc_types::VmmState::Quarantined;
        let has_one = |host: &Host| {
            host.journal
                .records
                .values()
                .any(|r| r.state == quarantined)
        };
        w.hosts.iter().any(has_one)
    }),
    ("a guest runs on the target", |_, w| {
        step_is(w, Step::DropSource) && running(w).count() == 1
    }),
    ("a guest was migrated", |_, w| {
        w.bounds.migrations == 0 && idle_on(w, Note::Took)
    }),
    ("the target refused the right", |_, w| {
        vmm_with(w, |_, note| note == Note::Refused)
    }),
    ("the source goes on after a refusal", |_, w| {
        step_is(w, Step::DropTarget) && running(w).any(|(_, no)| no == VmmNo(1)) && w.ran > 2
    }),
    ("the source asks the storage after a fence", |_, w| {
        step_is(w, Step::Resume { unless_taken: true })
    }),
    ("the target took the right, and its VMM died", |_, w| {
        vmm_with(w, |process, note| {
            process == Process::Dead && note == Note::Took
        })
    }),
    ("a guest starts from its disk on another host", |_, w| {
        w.database.active != VmmNo::NOBODY
            && w.database.rows.len() >= 2
            && is(w, Instance::Active)
            && w.database.hosts[0].epoch > 0
    }),
    ("a host removes what it lost", |_, w| {
        w.database.rows.values().any(|row| row.lost)
    }),
    ("a guest pauses at its lease's soft end", |_, w| {
        w.now > 0 && vmm_with(w, |process, _| process == Process::Paused)
    }),
    ("a guest was given away at its lease's end", |_, w| {
        w.bounds.armed && w.database.rows.values().any(|row| row.lost && row.claim)
    }),
    ("a database is refused", |_, w| {
        w.hosts.iter().any(|h| h.journal.refuses)
    }),
    ("a lineage is accepted", |_, w| w.database.lineage > 0),
    ("a stray is held", |_, w| {
        w.database.rows.values().any(|row| row.stray && row.claim)
    }),
];

fn is(world: &World, instance: Instance) -> bool {
    world.database.instance == instance && world.database.operation.is_none()
}

fn replied(world: &World, reply: Reply) -> bool {
    world.results.iter().any(|answer| answer.reply == reply)
}

fn step_is(world: &World, step: Step) -> bool {
    world
        .database
        .operation
        .as_ref()
        .is_some_and(|o| o.step == step)
}

fn vmm_with(world: &World, fits: fn(Process, Note) -> bool) -> bool {
    let has_one = |host: &Host| host.vmms.values().any(|vmm| fits(vmm.process, vmm.note));
    world.hosts.iter().any(has_one)
}

fn idle_on(world: &World, note: Note) -> bool {
    let active = world.database.active;
    let fits = |host: &Host| host.vmms.get(&active).is_some_and(|vmm| vmm.note == note);
    is(world, Instance::Active) && world.hosts.iter().any(fits)
}

fn running(world: &World) -> impl Iterator<Item = (HostNo, VmmNo)> {
    let hosts = world.hosts.iter().enumerate();
    hosts.flat_map(|(no, host)| host.running().map(move |(vmm, _)| (no, vmm)))
}

fn vmms(world: &World) -> impl Iterator<Item = (HostNo, VmmNo, bool)> {
    let hosts = world.hosts.iter().enumerate();
    hosts.flat_map(|(no, host)| host.vmms.iter().map(move |(vmm, v)| (no, *vmm, v.lives())))
}

/// At most one that runs can write, and nothing that a kernel has yet to write would be accepted
/// after another host's writer has begun.
fn one_writer(world: &World) -> bool {
    let storage = &world.storage;
    let writers = world
        .hosts
        .iter()
        .flat_map(Host::running)
        .filter(|(_, vmm)| storage.accepts(vmm.right))
        .count();
    let late = |(no, host): (HostNo, &Host)| {
        let pending = host
            .late
            .is_some_and(|right| right.number < storage.right.number && storage.accepts(right));
        let elsewhere = world.hosts[1 - no].running().next().is_some();
        pending && elsewhere
    };
    writers <= 1 && !world.hosts.iter().enumerate().any(late)
}

fn generations_rise(world: &World) -> bool {
    let runs_old = |host: &Host| host.running().any(|(_, vmm)| vmm.right.number < world.ran);
    !world.hosts.iter().any(runs_old)
}

/// Where the host and the database have to do with one another.
fn is_claimed(world: &World, host: HostNo) -> bool {
    let (database, here) = (&world.database, &world.hosts[host]);
    let obeys = !here.journal.refuses
        && here.journal.lineage == database.lineage
        && here.journal.branch.0 == database.branch;
    let claimed = |no: &VmmNo| database.rows.get(no).is_some_and(|row| row.claim);
    !obeys
        || here
            .vmms
            .iter()
            .all(|(no, vmm)| !vmm.lives() || claimed(no))
}

fn active_has_the_right(world: &World) -> bool {
    let database = &world.database;
    if !is(world, Instance::Active) || database.branch != 0 {
        return true;
    }
    let without = |host: &Host| {
        host.vmms.get(&database.active).is_some_and(|vmm| {
            matches!(vmm.process, Process::Incoming | Process::HandedOver)
                || matches!(vmm.note, Note::HandedOver | Note::Refused)
        })
    };
    !world.hosts.iter().any(without)
}

fn nothing_refused(world: &World) -> bool {
    let Some(message) = world.waited_for() else {
        return true;
    };
    let refused = |reply| {
        matches!(reply, Reply::Superseded | Reply::BelowWatermark)
            || message.order == Order::Delete && matches!(reply, Reply::Failed { .. })
    };
    let folded = |answer: &&Answer| {
        answer.to == message.name && message.name.branch == world.database.branch
    };
    let mut answers = world.results.iter().filter(folded);
    !answers.any(|answer| refused(answer.reply))
}
