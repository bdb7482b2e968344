//! Reboot: soft, through the guest's own shutdown; or hard, the process ended and run again.

use super::super::domain::{About, Limits, Order};
use super::one_command::Orders;
use crate::states::Transition;
use berth_rpc_types::{TaskState, VmState};
use serde_json::Value;

pub(super) struct Reboot;

impl Orders for Reboot {
    const NAME: &'static str = "reboot";
    const ABOUT: About = About {
        event: "compute_reboot_instance",
        lines: LINES,
        line: |given| usize::from(!is_soft(given)),
    };

    fn order(given: &Value, limits: Limits) -> Order {
        Order::Reboot {
            soft: is_soft(given),
            grace_s: limits.grace_s(given),
        }
    }
}

fn is_soft(given: &Value) -> bool {
    given["soft"] == Value::Bool(true)
}

const LINES: &[Transition] = &[
    Transition {
        action: "reboot",
        variant: "SOFT",
        from: &[VmState::Active],
        tasks: &[TaskState::Rebooting],
        done: VmState::Active,
        failed: Some(VmState::Error),
        launched: true,
        preempts: false,
    },
    Transition {
        action: "reboot",
        variant: "HARD",
        from: &[
            VmState::Active,
            VmState::Stopped,
            VmState::Paused,
            VmState::Error,
        ],
        tasks: &[TaskState::RebootingHard],
        done: VmState::Active,
        failed: Some(VmState::Error),
        launched: true,
        preempts: false,
    },
];
