//! The kinds of operation on instances: a file each, and a line in the list below.

mod create;
mod delete;
mod one_command;
mod pause;
mod reboot;
mod start;
mod stop;
mod unpause;

use super::InstanceKinds;
use crate::states::Transition;
use berth_controller_operations as operations;
use one_command::OneCommand;
use serde_json::Value;
use std::sync::LazyLock;

/// See [`operations::Apply::machines`].
pub(super) static MACHINES: LazyLock<Vec<&operations::Kind<InstanceKinds>>> =
    LazyLock::new(|| Kind::ALL.iter().map(|kind| kind.machine()).collect());

/// The list, as an enum and as what the engine drives: neither is without the other.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $machine:ty),+ $(,)?) => {
        /// A kind of operation on an instance.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $name),+ }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// What the engine drives.
            pub fn machine(self) -> &'static operations::Kind<InstanceKinds> {
                match self { $(Self::$name => {
                    static KIND: operations::Kind<InstanceKinds> =
                        operations::Kind::of::<$machine>();
                    &KIND
                })+ }
            }
        }
    };
}

kinds! {
    /// Place an instance, bind its ports, build its VMM. Given: `forced_host` (optional).
    Create = create::Create,
    /// Remove its VMMs, then all it holds.
    Delete = delete::Delete,
    /// Run a stopped one.
    Start = OneCommand<start::Start>,
    /// Power it off. Given: `grace_s` (optional).
    Stop = OneCommand<stop::Stop>,
    /// Given: `soft` (bool), `grace_s` (optional).
    Reboot = OneCommand<reboot::Reboot>,
    /// vCPUs stand still.
    Pause = OneCommand<pause::Pause>,
    /// vCPUs go on.
    Unpause = OneCommand<unpause::Unpause>,
}

impl Kind {
    /// The text in `operations.kind`.
    pub fn as_str(self) -> &'static str {
        self.machine().name
    }

    /// The kind with this text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.as_str() == text)
    }

    /// Its line in the table of states, by what the request said.
    pub fn line(self, given: &Value) -> &'static Transition {
        line(self.machine(), given)
    }
}

/// A kind's line in the table of states, by what the request said.
pub(super) fn line(kind: &operations::Kind<InstanceKinds>, given: &Value) -> &'static Transition {
    let lines = kind.about.lines;
    // A kind has a line, and names one of its own: a test says so.
    lines.get((kind.about.line)(given)).unwrap_or(&lines[0])
}
