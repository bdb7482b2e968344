//! What a guest did by itself, and what becomes of its instance (Nova's `_sync_power_states`).

use berth_rpc_types::{VmState, VmmState};

/// The `vm_state` of an instance with no task, once its VMM is seen in a state. A guest that
/// powered off or crashed is stopped, as in Nova, which calls its stop; what crashed keeps power
/// state 6 and its last error in the fault, so that it can be told from what was asked for.
pub fn vm_state_after(vm_state: VmState, seen: Option<VmmState>) -> VmState {
    match (vm_state, seen) {
        (VmState::Active | VmState::Paused, Some(VmmState::Stopped | VmmState::Crashed)) => {
            VmState::Stopped
        }
        // Nobody ordered that.
        (VmState::Active | VmState::Paused | VmState::Stopped, Some(VmmState::Deleted)) => {
            VmState::Error
        }
        (other, _) => other,
    }
}

/// Whether a guest runs that should not: it is stopped again, as Nova does.
pub const fn must_stop(vm_state: VmState, seen: VmmState) -> bool {
    matches!(
        (vm_state, seen),
        (VmState::Stopped, VmmState::Running | VmmState::Paused)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_powered_itself_off_is_stopped() {
        for seen in [VmmState::Stopped, VmmState::Crashed] {
            for was in [VmState::Active, VmState::Paused] {
                assert_eq!(vm_state_after(was, Some(seen)), VmState::Stopped);
            }
            assert_eq!(vm_state_after(VmState::Error, Some(seen)), VmState::Error);
        }
        let same = vm_state_after(VmState::Active, Some(VmmState::Running));
        assert_eq!(same, VmState::Active);
    }

    #[test]
    fn what_runs_though_it_was_stopped_is_stopped_again() {
        assert!(must_stop(VmState::Stopped, VmmState::Running));
        assert!(!must_stop(VmState::Active, VmmState::Running));
        assert!(!must_stop(VmState::Stopped, VmmState::Crashed));
    }
}
