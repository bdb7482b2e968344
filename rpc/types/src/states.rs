//! States as the APIs name them. Transitions live with their owners: the instance's in
//! `controller`, the process's in `agent`.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The text used in the APIs and the database.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
            /// The value with this text, if there is one.
            pub fn parse(text: &str) -> Option<Self> { Self::ALL.iter().copied().find(|v| v.as_str() == text) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
        impl State for $name {
            fn as_str(self) -> &'static str { self.as_str() }
            fn parse(text: &str) -> Option<Self> { Self::parse(text) }
        }
    };
}

pub(crate) use states;

/// What all states here have in common.
pub trait State: Copy {
    /// The text used in the APIs and the database.
    fn as_str(self) -> &'static str;
    /// The value with this text, if this build knows it.
    fn parse(text: &str) -> Option<Self>;
}

/// A state that another build may have written: one that this build knows, or a text that only
/// newer ones do. Such a text is shown as it is, nothing is begun in it, and it is never
/// overwritten by what a guest did by itself (PROTOCOL.md, "The controller").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stored<T> {
    /// Of this build.
    Known(T),
    /// Of a newer one.
    Newer(String),
}

impl<T: State> Stored<T> {
    /// Of the text.
    pub fn of(text: &str) -> Self {
        T::parse(text).map_or_else(|| Self::Newer(text.to_owned()), Self::Known)
    }

    /// The text used in the APIs and the database.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(state) => state.as_str(),
            Self::Newer(text) => text,
        }
    }

    /// The state, if this build knows it.
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(state) => Some(*state),
            Self::Newer(_) => None,
        }
    }
}

impl<T: State + PartialEq> PartialEq<T> for Stored<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(state) if state == other)
    }
}

impl<T: State> Serialize for Stored<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: State> Deserialize<'de> for Stored<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::of(&text))
    }
}

impl<T> From<T> for Stored<T> {
    fn from(state: T) -> Self {
        Self::Known(state)
    }
}

states! {
    /// Nova's `OS-EXT-STS:vm_state`: stable, changed only when a task ended.
    VmState {
        /// Being made.
        Building = "building",
        /// Runs.
        Active = "active",
        /// Off, and wanted off.
        Stopped = "stopped",
        /// vCPUs stand still.
        Paused = "paused",
        /// Something failed; `fault` says what.
        Error = "error",
        /// Gone; the row is kept for `deleted=true` lists.
        Deleted = "deleted",
    }
}

states! {
    /// Nova's `OS-EXT-STS:task_state`; no task is `None`.
    TaskState {
        /// A host is being chosen.
        Scheduling = "scheduling",
        /// Ports are being bound.
        Networking = "networking",
        /// Disks are being made.
        BlockDeviceMapping = "block_device_mapping",
        /// The VMM process is being started.
        Spawning = "spawning",
        /// Being stopped.
        PoweringOff = "powering-off",
        /// Being started.
        PoweringOn = "powering-on",
        /// Soft reboot.
        Rebooting = "rebooting",
        /// Hard reboot.
        RebootingHard = "rebooting_hard",
        /// Being paused.
        Pausing = "pausing",
        /// Being unpaused.
        Unpausing = "unpausing",
        /// Being deleted.
        Deleting = "deleting",
    }
}

states! {
    /// What a VMM process is for its instance.
    VmmRole {
        /// The one that has the right to run the guest.
        Active = "active",
        /// Prepared by a migration to take over.
        Target = "target",
        /// Has handed over; waits to be removed.
        Source = "source",
    }
}

states! {
    /// What an agent knows of a VMM it was told to make.
    VmmState {
        /// Accepted and being made.
        Building = "building",
        /// The process runs and so do its vCPUs.
        Running = "running",
        /// The process runs, the vCPUs stand still.
        Paused = "paused",
        /// No process; disks and directory are kept.
        Stopped = "stopped",
        /// The process ended without being told to; see the last error.
        Crashed = "crashed",
        /// Removed, leaving only its tombstone.
        Deleted = "deleted",
        /// Found, but not in the journal: left alone and reported (PROTOCOL.md, rule 5).
        Quarantined = "quarantined",
    }
}

/// Nova's power states, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerState {
    /// 0: nothing known.
    NoState = 0,
    /// 1
    Running = 1,
    /// 3
    Paused = 3,
    /// 4
    Shutdown = 4,
    /// 6
    Crashed = 6,
}

impl From<VmmState> for PowerState {
    fn from(state: VmmState) -> Self {
        match state {
            VmmState::Running => Self::Running,
            VmmState::Paused => Self::Paused,
            VmmState::Stopped => Self::Shutdown,
            VmmState::Crashed => Self::Crashed,
            VmmState::Building | VmmState::Deleted | VmmState::Quarantined => Self::NoState,
        }
    }
}
