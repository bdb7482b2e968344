//! Each rule taken away breaks what must always be so: none is there for nothing.

use berth_model::model::Protocol;
use berth_model::rules::{Rules, Weakness};
use berth_model::weakened::{self, Weakened};
use stateright::{Checker as _, HasDiscoveries, Model as _};
use std::collections::BTreeSet;

/// How many events lead to what breaks.
fn counterexample(weakened: &Weakened) -> Option<usize> {
    let model = Protocol::new(weakened.bounds.clone(), Rules(weakened.lacks));
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([weakened.breaks])))
        .spawn_dfs()
        .join();
    let path = checker.discovery(weakened.breaks)?;
    Some(path.into_actions().len())
}

#[test]
fn without_any_one_of_the_rules_something_breaks() {
    let mut unbroken = Vec::new();
    for weakened in weakened::ALL {
        match counterexample(weakened) {
            Some(events) => println!(
                "without {:?}, after {events} events: {}",
                weakened.lacks, weakened.breaks
            ),
            None => unbroken.push(weakened),
        }
    }
    assert!(unbroken.is_empty(), "nothing breaks: {unbroken:#?}");
}

#[test]
fn every_rule_is_tried() {
    for weakness in Weakness::ALL {
        let tried = |weakened: &Weakened| weakened.lacks.contains(weakness);
        assert!(weakened::ALL.iter().any(tried), "{weakness:?}");
    }
}
