//! Every kind, without I/O, in every order that things can happen in: each step twice, a failure
//! at each step, every event and every signal in every state, a crash between any two commits,
//! answers late, twice and out of order. What is true is asked after each
//! ([`super::world::World::check`]), and an end can be reached from everywhere.
//!
//! A crash is a step that is run again: what was decided before it either committed whole, or never
//! happened. A kind that is not in [`beginnings`] does not compile.

use super::super::domain::Event;
use super::super::kinds::Kind;
use super::world::{Choices, Over, World, ends};
use berth_controller_operations::{ONLY, Progress, Settled, Signal};
use berth_rpc_types::{HostId, OperationId, Outcome};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// More worlds than any kind has: one that never ends is found by it.
const WORLDS_MAX: usize = 200_000;

/// Where operations of a kind begin.
fn beginnings(kind: Kind) -> Vec<World> {
    match kind {
        Kind::Create => vec![
            World::begun(kind, &json!({}), 0),
            World::begun(kind, &json!({"forced_host": "node-1"}), 0),
        ],
        // A source or a target may be there besides the active one.
        Kind::Delete => (0..=2).map(|n| World::begun(kind, &json!({}), n)).collect(),
        Kind::Start | Kind::Stop | Kind::Reboot | Kind::Pause | Kind::Unpause => {
            (0..=1).map(|n| World::begun(kind, &json!({}), n)).collect()
        }
    }
}

/// Something that happens from outside.
#[derive(Clone, Debug)]
enum Happens {
    Event(Event),
    /// The command of that number in the outbox ends.
    Ends(usize, Settled),
    Signal(Signal),
    Fence(HostId),
}

impl Happens {
    /// What is counted as tried.
    fn name(&self) -> String {
        match self {
            Self::Event(Event::Late { .. }) => "late".into(),
            Self::Event(event) => format!("{event:?}"),
            Self::Ends(_, Settled::Outcome(outcome)) => match outcome {
                Outcome::Failed {
                    undone,
                    retry_elsewhere,
                    ..
                } => format!("failed {undone} {retry_elsewhere}"),
                other => other.name().to_owned(),
            },
            Self::Ends(_, Settled::Unroutable(_)) => "unroutable".into(),
            Self::Ends(_, Settled::DeadLetter(_)) => "dead letter".into(),
            Self::Signal(signal) => signal.as_str().into(),
            Self::Fence(_) => "fence".into(),
        }
    }
}

/// All that can happen in a world.
fn happenings(world: &World) -> Vec<Happens> {
    let mut all = vec![
        Happens::Event(Event::Run),
        // Nobody set it, and nobody asked for them.
        Happens::Event(Event::Timer("none".into())),
        Happens::Event(Event::Children(Progress::default())),
    ];
    let signals = [
        Signal::Abort,
        Signal::ForceComplete,
        Signal::Confirm,
        Signal::Revert,
        Signal::Delete {
            by: OperationId::from_u128(7),
        },
    ];
    all.extend(signals.map(Happens::Signal));
    for (index, sent) in world.outbox.iter().enumerate() {
        if !sent.ended {
            all.extend(
                ends(sent.order)
                    .into_iter()
                    .map(|s| Happens::Ends(index, s)),
            );
        }
        // Late, and of an attempt that is long over: it may say anything.
        all.extend(ends(sent.order).into_iter().map(|settled| {
            Happens::Event(Event::Late {
                step: sent.step.clone(),
                attempt: 0,
                command: ONLY.into(),
                settled,
            })
        }));
    }
    if world.fenced.is_empty() {
        let hosts: BTreeSet<HostId> = world.vmms.iter().map(|v| v.target.host_id).collect();
        all.extend(hosts.into_iter().map(Happens::Fence));
    }
    all
}

/// Every world that one thing leads to.
fn after(world: &World, happens: &Happens) -> Vec<World> {
    let mut all = Vec::new();
    let mut choices = Some(Choices::default());
    while let Some(mut script) = choices {
        let mut next = world.clone();
        match happens {
            Happens::Event(event) => next.fold(event, &mut script),
            Happens::Ends(index, settled) => {
                let event = next.ends(*index, settled.clone());
                next.fold(&event, &mut script);
            }
            Happens::Signal(signal) => signalled(world, &mut next, signal, &mut script),
            Happens::Fence(host) => {
                next.fenced.insert(*host);
                // Whoever waits for that host is woken.
                next.again = true;
            }
        }
        keep_awake(world, happens, &mut next);
        if let Happens::Event(event) = happens {
            check_event(world, event, &next);
        }
        next.check();
        all.push(next);
        choices = script.next();
    }
    all
}

/// A delete takes the place of all but a delete; nothing else is understood yet, and does nothing.
fn signalled(world: &World, next: &mut World, signal: &Signal, script: &mut Choices) {
    let taken = next.signal(signal, script);
    let is_delete = matches!(signal, Signal::Delete { .. });
    match taken {
        Ok(()) if world.kind != Kind::Delete => assert_eq!(next.over, Some(Over::GaveWay)),
        Ok(()) => {}
        Err(why) => {
            assert!(!is_delete && !why.is_empty(), "{signal:?} in {world:?}");
            assert_eq!(next.key(), world.key());
        }
    }
    let held = |world: &World| world.vmms.iter().filter(|vmm| vmm.claimed).count();
    assert_eq!(held(next), held(world), "a signal frees nothing");
}

fn check_event(world: &World, event: &Event, next: &World) {
    match event {
        // Run again at once, a step that waits does nothing new: the second of two controllers.
        Event::Run if !next.again && next.over.is_none() => {
            let mut twice = next.clone();
            twice.fold(&Event::Run, &mut Choices::default());
            assert_eq!(twice.key(), next.key(), "a step that is run twice");
        }
        Event::Late { .. } | Event::Timer(_) | Event::Children(_) => {
            let mut same = next.clone();
            same.again = world.again;
            assert_eq!(same.standing, world.standing, "{event:?}");
            assert_eq!(same.vmms, world.vmms, "{event:?}");
        }
        _ => {}
    }
}

/// What does not wake an operation does not put it to sleep: the driver's turn is still to come.
fn keep_awake(world: &World, happens: &Happens, next: &mut World) {
    let is_run = matches!(happens, Happens::Event(Event::Run));
    next.again |= world.again && !is_run && next.over.is_none();
}

struct Tried {
    worlds: usize,
    transactions: usize,
    /// (step, what happened).
    pairs: BTreeSet<(String, String)>,
}

fn explore(kind: Kind) -> Tried {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut todo: Vec<World> = Vec::new();
    let mut leads: Vec<Vec<usize>> = Vec::new();
    let mut over = Vec::new();
    let mut tried = Tried {
        worlds: 0,
        transactions: 0,
        pairs: BTreeSet::new(),
    };
    let number =
        |world: World, numbers: &mut HashMap<String, usize>, todo: &mut Vec<World>| -> usize {
            let key = world.key();
            if let Some(known) = numbers.get(&key) {
                return *known;
            }
            let new = numbers.len();
            numbers.insert(key, new);
            todo.push(world);
            new
        };
    for world in beginnings(kind) {
        world.check();
        number(world, &mut numbers, &mut todo);
    }
    let mut at = 0;
    while at < todo.len() {
        let world = todo[at].clone();
        at += 1;
        over.push(world.over.is_some());
        leads.push(vec![]);
        if world.over.is_some() {
            continue;
        }
        for happens in happenings(&world) {
            tried
                .pairs
                .insert((world.standing.step.clone(), happens.name()));
            for next in after(&world, &happens) {
                tried.transactions += 1;
                let next = number(next, &mut numbers, &mut todo);
                leads[at - 1].push(next);
            }
        }
        assert!(todo.len() < WORLDS_MAX, "{kind:?} never ends");
    }
    tried.worlds = todo.len();
    assert_an_end_is_reached_from_everywhere(&leads, &over, &todo);
    tried
}

fn assert_an_end_is_reached_from_everywhere(leads: &[Vec<usize>], over: &[bool], all: &[World]) {
    let mut back: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (from, to) in leads.iter().enumerate() {
        for to in to {
            back.entry(*to).or_default().push(from);
        }
    }
    let mut reaches = over.to_vec();
    let mut todo: Vec<usize> = (0..over.len()).filter(|&n| over[n]).collect();
    while let Some(n) = todo.pop() {
        for &from in back.get(&n).into_iter().flatten() {
            if !reaches[from] {
                reaches[from] = true;
                todo.push(from);
            }
        }
    }
    let dead_end = reaches.iter().position(|reaches| !reaches);
    assert!(
        dead_end.is_none(),
        "a dead end: {:?}",
        dead_end.map(|n| &all[n])
    );
}

#[test]
fn every_kind_in_every_order_frees_nothing_too_early_leaks_nothing_and_ends() {
    let mut pairs = 0;
    for &kind in Kind::ALL {
        let tried = explore(kind);
        for step in kind.machine().steps {
            let happened = tried.pairs.iter().any(|(at, _)| at == step.name);
            assert!(happened, "{kind:?} was never at {}", step.name);
        }
        println!(
            "{}: {} worlds, {} transactions, {} (state, event)",
            kind.as_str(),
            tried.worlds,
            tried.transactions,
            tried.pairs.len()
        );
        pairs += tried.pairs.len();
    }
    println!("{pairs} (kind, state, event)");
    assert!(pairs > 100, "{pairs}");
}
