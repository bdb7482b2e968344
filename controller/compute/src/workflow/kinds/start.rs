//! Start: run a stopped one, with all that it takes to make it whole again.

use super::super::domain::{About, Limits, Order};
use super::one_command::Orders;
use crate::states::Transition;
use berth_rpc_types::{TaskState, VmState};
use serde_json::Value;

pub(super) struct Start;

impl Orders for Start {
    const NAME: &'static str = "start";
    const ABOUT: About = About::new("compute_start_instance", LINE);

    fn order(_given: &Value, _limits: Limits) -> Order {
        Order::Start
    }
}

const LINE: &[Transition; 1] = &[Transition {
    action: "start",
    variant: "",
    from: &[VmState::Stopped],
    tasks: &[TaskState::PoweringOn],
    done: VmState::Active,
    failed: None,
    launched: true,
    preempts: false,
}];
