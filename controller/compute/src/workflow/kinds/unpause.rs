//! Unpause: vCPUs go on.

use super::super::domain::{About, Limits, Order};
use super::one_command::Orders;
use crate::states::Transition;
use berth_rpc_types::{TaskState, VmState};
use serde_json::Value;

pub(super) struct Unpause;

impl Orders for Unpause {
    const NAME: &'static str = "unpause";
    const ABOUT: About = About::new("compute_unpause_instance", LINE);

    fn order(_given: &Value, _limits: Limits) -> Order {
        Order::Unpause
    }
}

const LINE: &[Transition; 1] = &[Transition {
    action: "unpause",
    variant: "",
    from: &[VmState::Paused],
    tasks: &[TaskState::Unpausing],
    done: VmState::Active,
    failed: None,
    launched: true,
    preempts: false,
}];
