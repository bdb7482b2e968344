//! Which action is allowed in which state, what it is called while it runs, and what it leaves.
//!
//! The table is the kinds' own lines ([`crate::workflow::Kind`]), and the only place: the API refuses
//! by it, the workflows write what it says, and `docs/states.md` is rendered from it (a test
//! compares them). States are Nova's:
//! `vm_state` is stable and changes only when a task ends, `task_state` is what is being done
//! now, `power_state` is what the agent saw last.

use crate::workflow::Kind;
use berth_rpc_types::{Stored, TaskState, VmState};
use std::fmt::Write as _;

/// One line of the table: an action that can be done to an instance. A kind of operation has one,
/// or one for each of its variants; it stands in the kind's file.
#[derive(Debug)]
pub struct Transition {
    /// Nova's name of the action, as `os-instance-actions` shows it.
    pub action: &'static str,
    /// Tells the lines of one action apart; else empty.
    pub variant: &'static str,
    /// The `vm_state`s it is allowed in. All others are refused with 409.
    pub from: &'static [VmState],
    /// The `task_state`s while it runs, in order. The first is set in the request's own transaction.
    pub tasks: &'static [TaskState],
    /// `vm_state` after success; `task_state` is then none.
    pub done: VmState,
    /// `vm_state` after failure; `None`: as it was, with the reason in `fault`.
    pub failed: Option<VmState>,
    /// Whether the instance must have run once (`launched_at` set).
    pub launched: bool,
    /// Whether it may pre-empt a task that is under way.
    pub preempts: bool,
}

use TaskState as T;
use VmState as V;

/// The table: every line of every kind, in order.
pub fn transitions() -> impl Iterator<Item = &'static Transition> {
    Kind::ALL.iter().flat_map(|kind| kind.machine().about.lines)
}

/// Why an action is refused; rendered as Nova words it by [`Refusal::message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not from this `vm_state`.
    VmState(Stored<VmState>),
    /// Not while this is being done.
    TaskState(Stored<TaskState>),
    /// It has never run.
    NotLaunched,
}

impl Refusal {
    /// Nova's words for a 409; `verb` is the name of the API action (`stop`, `os-start`).
    pub fn message(self, verb: &str, instance: &impl std::fmt::Display) -> String {
        match self {
            Self::VmState(state) => {
                format!(
                    "Cannot '{verb}' instance {instance} while it is in vm_state {}",
                    state.as_str()
                )
            }
            Self::TaskState(state) => {
                format!(
                    "Cannot '{verb}' instance {instance} while it is in task_state {}",
                    state.as_str()
                )
            }
            Self::NotLaunched => {
                format!("Instance {instance} is in an invalid state for '{verb}'")
            }
        }
    }
}

/// Whether an action may begin now. Nothing may in a state that only a newer controller knows.
///
/// # Errors
/// [`Refusal`], checked in Nova's order: launched, vm state, task state.
pub fn check(
    row: &Transition,
    vm_state: &Stored<VmState>,
    task_state: Option<&Stored<TaskState>>,
    launched: bool,
) -> Result<(), Refusal> {
    if !vm_state
        .known()
        .is_some_and(|state| row.from.contains(&state))
    {
        return Err(Refusal::VmState(vm_state.clone()));
    }
    match task_state {
        Some(task) if !row.preempts || task.known().is_none() => {
            return Err(Refusal::TaskState(task.clone()));
        }
        _ => {}
    }
    if row.launched && !launched {
        return Err(Refusal::NotLaunched);
    }
    Ok(())
}

/// Nova's `status`, from the two states.
pub const fn status(vm_state: VmState, task_state: Option<TaskState>) -> &'static str {
    match (vm_state, task_state) {
        (V::Active, Some(T::Rebooting)) => "REBOOT",
        (V::Active, Some(T::RebootingHard)) => "HARD_REBOOT",
        (V::Active, _) => "ACTIVE",
        (V::Building, _) => "BUILD",
        (V::Stopped, _) => "SHUTOFF",
        (V::Paused, _) => "PAUSED",
        (V::Error, _) => "ERROR",
        (V::Deleted, _) => "DELETED",
    }
}

/// The `vm_state` that a `status` filter means, and the `task_state` it asks for
/// (`None`: any other than those with a status of their own). `None` for an unknown status.
pub fn parse_status(text: &str) -> Option<(VmState, Option<TaskState>)> {
    Some(match text.to_ascii_uppercase().as_str() {
        "ACTIVE" => (V::Active, None),
        "REBOOT" => (V::Active, Some(T::Rebooting)),
        "HARD_REBOOT" => (V::Active, Some(T::RebootingHard)),
        "BUILD" => (V::Building, None),
        "SHUTOFF" => (V::Stopped, None),
        "PAUSED" => (V::Paused, None),
        "ERROR" => (V::Error, None),
        "DELETED" => (V::Deleted, None),
        _ => return None,
    })
}

/// `docs/states.md`.
pub fn render() -> String {
    let join = |names: Vec<&str>| names.join(", ");
    let mut out = String::from(
        "# States and transitions of a server\n\n\
         Made from the kinds of operation (`controller/compute/src/workflow/kinds`); a test compares the two. States are Nova's.\n\n\
         | action | allowed in vm_state | task_state while it runs | vm_state after | after failure | during another task |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in transitions() {
        let name = match row.variant {
            "" => row.action.to_owned(),
            variant => format!("{} ({variant})", row.action),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} |",
            join(row.from.iter().map(|s| s.as_str()).collect()),
            join(row.tasks.iter().map(|s| s.as_str()).collect()),
            row.done,
            row.failed.map_or("unchanged", VmState::as_str),
            if row.preempts { "pre-empts it" } else { "409" },
        );
    }
    out.push_str(
        "\nAn action that is not allowed is answered with 409 and the state that forbids it. All but\n\
         create and delete also need a server that has run once.\n\n\
         | vm_state | status |\n| --- | --- |\n",
    );
    for state in VmState::ALL {
        let _ = writeln!(out, "| {state} | {} |", status(*state, None));
    }
    out.push_str(
        "\nAn active server shows REBOOT while it is rebooting and HARD_REBOOT while it is rebooting_hard.\n",
    );
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(kind: Kind) -> &'static Transition {
        &kind.machine().about.lines[0]
    }

    #[test]
    fn every_kind_has_lines_of_one_action_and_names_one_of_them() {
        for kind in Kind::ALL {
            let about = kind.machine().about;
            assert!(!about.lines.is_empty(), "{kind:?}");
            for given in [
                serde_json::json!({}),
                serde_json::json!({"soft": true}),
                serde_json::Value::Null,
            ] {
                assert!((about.line)(&given) < about.lines.len(), "{kind:?}");
            }
            for line in about.lines {
                assert_eq!(line.action, about.lines[0].action);
                assert!(!line.tasks.is_empty() && !line.from.is_empty());
            }
        }
        let mut names: Vec<_> = transitions().map(|l| (l.action, l.variant)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), transitions().count());
    }

    #[test]
    fn the_documentation_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        if written != render() && std::env::var_os("BERTH_BLESS").is_some() {
            std::fs::write(path, render()).unwrap();
            return;
        }
        assert_eq!(
            written,
            render(),
            "run the test with BERTH_BLESS=1 to write docs/states.md"
        );
    }

    #[test]
    fn a_refusal_is_worded_as_nova_words_it() {
        let refusal = check(line(Kind::Stop), &V::Stopped.into(), None, true).unwrap_err();
        assert_eq!(
            refusal.message("stop", &"i-1"),
            "Cannot 'stop' instance i-1 while it is in vm_state stopped"
        );
        let task = T::PoweringOff.into();
        let busy = check(line(Kind::Pause), &V::Active.into(), Some(&task), true).unwrap_err();
        assert_eq!(
            busy.message("pause", &"i-1"),
            "Cannot 'pause' instance i-1 while it is in task_state powering-off"
        );
        assert_eq!(
            check(line(Kind::Stop), &V::Error.into(), None, false).unwrap_err(),
            Refusal::NotLaunched
        );
    }

    #[test]
    fn nothing_begins_in_a_state_that_only_a_newer_controller_knows() {
        for action in transitions() {
            let resized = Stored::of("resized");
            let refusal = check(action, &resized, None, true).unwrap_err();
            assert!(refusal.message("x", &"i").ends_with("in vm_state resized"));
            let task = Stored::of("migrating");
            let from = action.from[0].into();
            let refusal = check(action, &from, Some(&task), true).unwrap_err();
            assert!(
                refusal
                    .message("x", &"i")
                    .ends_with("in task_state migrating")
            );
        }
    }

    #[test]
    fn only_delete_pre_empts_a_task() {
        for action in transitions() {
            for state in action.from {
                let busy = check(action, &(*state).into(), Some(&T::Spawning.into()), true);
                assert_eq!(
                    busy.is_ok(),
                    action.action == "delete",
                    "{action:?} in {state}"
                );
            }
        }
    }

    #[test]
    fn a_status_filter_finds_what_shows_that_status() {
        for vm_state in VmState::ALL {
            for task in [None, Some(T::Rebooting), Some(T::RebootingHard)] {
                let (vm, _) = parse_status(status(*vm_state, task)).unwrap();
                assert_eq!(vm, *vm_state);
            }
        }
        assert_eq!(parse_status("FLYING"), None);
    }
}
