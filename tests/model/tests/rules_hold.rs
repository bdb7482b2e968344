//! By all rules, what must always be so is so in every state within the bounds, and every outcome
//! that the documentation lists is seen.

use berth_model::action::Action;
use berth_model::bounds::Bounds;
use berth_model::model::Protocol;
use berth_model::properties::{ALWAYS, SOMETIMES};
use berth_model::rules::Rules;
use berth_model::scenarios::{self, Scenario};
use berth_model::storage::Kind;
use berth_model::world::World;
use stateright::{Checker, Chooser, HasDiscoveries, Model as _, UniformChooser};
use std::time::Duration;

/// Walks every order of events, and wants every outcome.
fn walk(scenario: &Scenario) {
    let model = Protocol::new(scenario.bounds.clone(), Rules::default()).showing(scenario.outcomes);
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{}: {} states, {} moves at most",
        scenario.name,
        checker.unique_state_count(),
        checker.max_depth()
    );
    nothing_broken(&checker);
    for outcome in scenario.outcomes {
        assert!(
            checker.discovery(outcome).is_some(),
            "never seen: {outcome}"
        );
    }
}

fn nothing_broken(checker: &impl Checker<Protocol>) {
    for (name, _) in ALWAYS {
        if let Some(path) = checker.discovery(name) {
            for action in path.into_actions() {
                eprintln!("{action:?}");
            }
            panic!("does not hold: {name}");
        }
    }
}

macro_rules! walks {
    ($($(#[$attribute:meta])? $name:ident: $scenario:ident;)*) => {
        $(
            #[test]
            $(#[$attribute])?
            fn $name() {
                walk(&scenarios::$scenario);
            }
        )*

        #[test]
        fn every_scenario_is_walked_and_every_outcome_is_wanted() {
            let walked = [$(scenarios::$scenario.name),*];
            for scenario in scenarios::ALL {
                assert!(walked.contains(&scenario.name), "{}", scenario.name);
            }
            for (outcome, _) in SOMETIMES {
                let is_wanted = scenarios::ALL.iter().any(|s| s.outcomes.contains(outcome));
                assert!(is_wanted, "{outcome}");
            }
        }
    };
}

walks! {
    orders: ORDERS;
    hosts: HOSTS;
    a_new_disk: NEW_DISK;
    a_migration: MIGRATION;
    a_migration_whose_hosts_are_fenced: MIGRATION_FENCED;
    a_migration_whose_agents_are_killed: MIGRATION_AGENTS;
    a_migration_with_leases: MIGRATION_ARMED;
    leases: LEASES;
    a_restored_database: RESTORE;
    a_restored_database_that_knows_of_no_fence: RESTORE_FENCED;
    a_restored_database_while_a_guest_moves: RESTORE_MIGRATION;
    a_restored_database_with_leases: RESTORE_ARMED;
    #[ignore = "soak: minutes"] more_orders: MORE_ORDERS;
    #[ignore = "soak: minutes"] more_of_hosts: MORE_HOSTS;
    #[ignore = "soak: minutes"] more_of_a_migration: MORE_MIGRATION;
    #[ignore = "soak: minutes"] more_of_a_migration_whose_hosts_are_fenced: MORE_FENCES;
    #[ignore = "soak: minutes"] more_leases: MORE_LEASES;
    #[ignore = "soak: minutes"] more_of_a_restored_database: MORE_RESTORE;
}

/// All that may go wrong, in one run. That is more than can be looked through: it is walked at
/// random. There is no new disk beside a restored database: what both have forgotten nobody knows.
const EVERYTHING: Bounds = Bounds {
    reports: 2,
    deletes: 1,
    migrations: 1,
    aborts: 1,
    starts: 1,
    failed_builds: 1,
    agent_crashes: [1, 1],
    vmm_crashes: 1,
    power_cuts: 1,
    fences: 1,
    drops: 1,
    repeats: 2,
    holds: 1,
    lost_locks: 1,
    restores: 1,
    ..Bounds::NOTHING
};

/// At random, but what the product does by itself more often than what happens to it: misfortune
/// would be spent before anything is under way.
#[derive(Clone)]
struct MostlyWork;

type Draws = <UniformChooser as Chooser<Protocol>>::State;

impl Chooser<Protocol> for MostlyWork {
    type State = Draws;

    fn new_state(&self, seed: u64) -> Draws {
        Chooser::<Protocol>::new_state(&UniformChooser, seed)
    }

    fn choose_initial_state(&self, state: &mut Draws, initial: &[World]) -> usize {
        Chooser::<Protocol>::choose_initial_state(&UniformChooser, state, initial)
    }

    fn choose_action(&self, state: &mut Draws, world: &World, actions: &[Action]) -> usize {
        let mut draw =
            || Chooser::<Protocol>::choose_action(&UniformChooser, state, world, actions);
        let mut work = Vec::new();
        world.work_to_do(&mut work);
        let mut chosen = draw();
        for _ in 0..3 {
            if actions
                .get(chosen)
                .is_some_and(|action| work.contains(action))
            {
                break;
            }
            chosen = draw();
        }
        chosen
    }
}

fn wander(bounds: Bounds, seed: u64, states: usize, patience: Option<Duration>) {
    let builder = Protocol::new(bounds, Rules::default())
        .at_random()
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(states);
    let builder = match patience {
        Some(patience) => builder.timeout(patience),
        None => builder,
    };
    let checker = builder.spawn_simulation(seed, MostlyWork).join();
    println!("seed {seed}: {} states", checker.state_count());
    nothing_broken(&checker);
    assert!(checker.state_count() > 0);
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

const ARMED: Bounds = Bounds {
    armed: true,
    storage: Kind::RefusesOldWriters,
    grants: 5,
    ticks: 7,
    ..EVERYTHING
};

/// A few walks, the same each time.
const FEW: usize = 500_000;

#[test]
fn everything_at_once() {
    wander(EVERYTHING, 1, FEW, None);
}

#[test]
fn everything_at_once_with_leases() {
    wander(ARMED, 1, FEW, None);
}

#[test]
#[ignore = "soak: five minutes"]
fn everything_at_once_many_times() {
    wander(
        EVERYTHING,
        seed(),
        usize::MAX,
        Some(Duration::from_secs(300)),
    );
}

#[test]
#[ignore = "soak: five minutes"]
fn everything_at_once_with_leases_many_times() {
    wander(ARMED, seed(), usize::MAX, Some(Duration::from_secs(300)));
}
