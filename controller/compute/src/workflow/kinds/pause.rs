//! Pause: vCPUs stand still.

use super::super::domain::{About, Limits, Order};
use super::one_command::Orders;
use crate::states::Transition;
use berth_rpc_types::{TaskState, VmState};
use serde_json::Value;

pub(super) struct Pause;

impl Orders for Pause {
    const NAME: &'static str = "pause";
    const ABOUT: About = About::new("compute_pause_instance", LINE);

    fn order(_given: &Value, _limits: Limits) -> Order {
        Order::Pause
    }
}

const LINE: &[Transition; 1] = &[Transition {
    action: "pause",
    variant: "",
    from: &[VmState::Active],
    tasks: &[TaskState::Pausing],
    done: VmState::Paused,
    failed: None,
    launched: true,
    preempts: false,
}];
