//! "No operation stays open at a dead end": from every state, what the product does by itself,
//! with hosts that come back and an operator who accepts a restored database, ends the operation.
//!
//! The check goes one way of many, the first that changes anything; a state from which another
//! one was seen to end is not gone through again.

use crate::action::Action;
use crate::world::World;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

/// More moves than any operation needs.
const MOVES: usize = 200;

/// States from which the operation is known to end.
#[derive(Debug, Default)]
pub struct Settled(Mutex<HashSet<u64>>);

impl Settled {
    /// Whether the operation ends from here.
    pub fn ends(&self, world: &World) -> bool {
        let mut way = Vec::new();
        let mut at = world.clone();
        let ends = loop {
            if at.database.operation.is_none() {
                break true;
            }
            let here = fingerprint(&at);
            if self.lock().contains(&here) {
                break true;
            }
            if way.len() >= MOVES || way.contains(&here) {
                break false;
            }
            way.push(here);
            match next(&at) {
                Some((_, then)) => at = then,
                None => break false,
            }
        };
        if ends {
            self.lock().extend(way);
        }
        ends
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// The way that is tried from here: how a world comes to begin with a server that is active.
pub fn way(world: &World) -> Vec<Action> {
    let mut at = world.clone();
    let mut way = Vec::new();
    while at.database.operation.is_some() && way.len() < MOVES {
        let Some((action, then)) = next(&at) else {
            break;
        };
        way.push(action);
        at = then;
    }
    way
}

fn next(world: &World) -> Option<(Action, World)> {
    let mut actions = Vec::new();
    for host in 0..2 {
        if !world.hosts[host].powered {
            actions.push(Action::PowerOn(host));
        }
    }
    if world.may_accept() {
        actions.push(Action::AcceptLineage);
    }
    world.work_to_do(&mut actions);
    actions.retain(|action| !matches!(action, Action::Grant(_)));
    actions
        .into_iter()
        .map(|action| (action, world.after(action)))
        .find(|(_, then)| then != world)
}
