//! The model, as stateright takes it.

use crate::action::Action;
use crate::bounds::Bounds;
use crate::properties::{ALWAYS, SOMETIMES};
use crate::rules::Rules;
use crate::settle::Settled;
use crate::world::World;
use stateright::{Model, Property};

/// More VMMs than any bounds ask for.
pub const VMMS: usize = 8;

/// The protocol within bounds, by all rules or without one.
#[derive(Debug)]
pub struct Protocol {
    /// What may happen.
    pub bounds: Bounds,
    /// The rules in force.
    pub rules: Rules,
    /// The outcomes that these bounds allow: names in [`SOMETIMES`].
    pub outcomes: &'static [&'static str],
    /// What is known of operations that end.
    pub settled: Settled,
    /// Whether only what changes something is offered. stateright replays a random walk by the
    /// indices of its actions, and loses its place where one had no next state. Where every order is
    /// walked, each action would be carried out twice for it.
    pub offers_changes: bool,
}

impl Protocol {
    /// By all rules, or without one.
    pub fn new(bounds: Bounds, rules: Rules) -> Self {
        Self {
            bounds,
            rules,
            outcomes: &[],
            settled: Settled::default(),
            offers_changes: false,
        }
    }

    /// The same, for walks at random.
    pub fn at_random(self) -> Self {
        Self {
            offers_changes: true,
            ..self
        }
    }

    /// The same, which has to show these outcomes.
    pub fn showing(self, outcomes: &'static [&'static str]) -> Self {
        Self { outcomes, ..self }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds.clone(), self.rules)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_none() {
            world.work_to_do(actions);
            world.events(actions);
        }
        if self.offers_changes {
            actions.retain(|action| world.after(*action) != *world);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let next = world.after(action);
        (next != *world).then_some(next)
    }

    /// By all rules there are never so many VMMs. Without rule 8 there is no end of them.
    fn within_boundary(&self, world: &World) -> bool {
        world.database.rows.len() <= VMMS
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = ALWAYS
            .iter()
            .map(|(name, condition)| Property::always(name, *condition));
        let sometimes = SOMETIMES
            .iter()
            .filter(|(name, _)| self.outcomes.contains(name))
            .map(|(name, condition)| Property::sometimes(name, *condition));
        always.chain(sometimes).collect()
    }
}
