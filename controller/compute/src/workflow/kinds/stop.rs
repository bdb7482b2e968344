//! Stop: ask the guest to power off; end it after its grace.

use super::super::domain::{About, Limits, Order};
use super::one_command::Orders;
use crate::states::Transition;
use berth_rpc_types::{TaskState, VmState};
use serde_json::Value;

pub(super) struct Stop;

impl Orders for Stop {
    const NAME: &'static str = "stop";
    const ABOUT: About = About::new("compute_stop_instance", LINE);

    fn order(given: &Value, limits: Limits) -> Order {
        Order::Stop {
            grace_s: limits.grace_s(given),
        }
    }
}

const LINE: &[Transition; 1] = &[Transition {
    action: "stop",
    variant: "",
    from: &[VmState::Active, VmState::Error],
    tasks: &[TaskState::PoweringOff],
    done: VmState::Stopped,
    failed: None,
    launched: true,
    preempts: false,
}];
