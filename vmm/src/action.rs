//! `Action`: the only entrance to the VMM, and the table of which action is allowed in which
//! state.
//!
//! | action                                   | not started | running | paused |
//! | ---------------------------------------- | ----------- | ------- | ------ |
//! | configure (boot source, machine, drives, interfaces, serial, logger, metrics) | yes | no | no |
//! | start                                    | yes         | no      | no     |
//! | pause                                    | no          | yes     | yes, nothing happens |
//! | resume                                   | no          | yes, nothing happens | yes |
//! | press the power button                   | no          | yes     | no     |
//! | update a drive or interface              | no          | yes     | yes    |
//! | reset                                    | no          | yes     | yes    |
//! | stop, flush metrics, get anything        | yes         | yes     | yes    |
//!
//! A refused action changes nothing. An action that fails leaves the state as it was, but for a
//! start: what was configured is used up then, and the VMM ends.

use berth_vmm_api as api;
use berth_vmm_api::VmState;

/// What a VMM can be asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `PUT /boot-source`.
    ConfigureBootSource(api::BootSource),
    /// `PUT /machine-config`.
    ConfigureMachine(api::MachineConfig),
    /// `PATCH /machine-config`.
    UpdateMachine(api::MachineConfigUpdate),
    /// `PUT /drives/{id}`.
    InsertDrive(api::Drive),
    /// `PATCH /drives/{id}`.
    UpdateDrive(api::DriveUpdate),
    /// `PUT /network-interfaces/{id}`.
    InsertInterface(api::NetworkInterface),
    /// `PATCH /network-interfaces/{id}`.
    UpdateInterface(api::NetworkInterfaceUpdate),
    /// `PUT /serial`.
    ConfigureSerial(api::Serial),
    /// `PUT /logger`.
    ConfigureLogger(api::Logger),
    /// `PUT /metrics`.
    ConfigureMetrics(api::Metrics),
    /// `PUT /actions` FlushMetrics.
    FlushMetrics,
    /// `GET /`.
    GetInfo,
    /// `GET /version`.
    GetVersion,
    /// `GET /machine-config`.
    GetMachine,
    /// `GET /vm/config`.
    GetFullConfig,
    /// `PUT /actions` InstanceStart.
    Start,
    /// `PATCH /vm` Paused.
    Pause,
    /// `PATCH /vm` Resumed.
    Resume,
    /// `PUT /actions` PowerButton and SendCtrlAltDel.
    PressPowerButton,
    /// `PUT /actions` Reset.
    Reset,
    /// `PUT /actions` Stop.
    Stop,
}

/// What an action gives back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is done.
    Empty,
    /// Who and in which state.
    Info(api::InstanceInfo),
    /// The version.
    Version(api::VersionInfo),
    /// Processors and memory.
    Machine(api::MachineConfig),
    /// Everything.
    FullConfig(Box<api::FullVmConfig>),
}

/// The state does not allow the action. The texts are Firecracker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// There is no running guest yet.
    #[error("The requested operation is not supported before starting the microVM.")]
    BeforeStart,
    /// There is a guest already.
    #[error("The requested operation is not supported after starting the microVM.")]
    AfterStart,
    /// The guest stands still.
    #[error(
        "The requested operation is not supported while the microVM is paused; resume it first."
    )]
    WhilePaused,
}

impl Action {
    /// Whether it says what the guest is to be.
    pub const fn configures(&self) -> bool {
        use Action::*;
        matches!(
            self,
            ConfigureBootSource(_)
                | ConfigureMachine(_)
                | UpdateMachine(_)
                | InsertDrive(_)
                | InsertInterface(_)
                | ConfigureSerial(_)
                | ConfigureLogger(_)
                | ConfigureMetrics(_)
        )
    }

    /// The table: whether the action is allowed in `state`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn allowed_in(&self, state: VmState) -> Result<(), NotAllowed> {
        use Action::*;
        use VmState::{NotStarted, Paused, Running};
        match (self, state) {
            (GetInfo | GetVersion | GetMachine | GetFullConfig | FlushMetrics | Stop, _) => Ok(()),
            (
                ConfigureBootSource(_)
                | ConfigureMachine(_)
                | UpdateMachine(_)
                | InsertDrive(_)
                | InsertInterface(_)
                | ConfigureSerial(_)
                | ConfigureLogger(_)
                | ConfigureMetrics(_)
                | Start,
                state,
            ) => match state {
                NotStarted => Ok(()),
                Running | Paused => Err(NotAllowed::AfterStart),
            },
            (
                Pause | Resume | Reset | PressPowerButton | UpdateDrive(_) | UpdateInterface(_),
                NotStarted,
            ) => Err(NotAllowed::BeforeStart),
            (PressPowerButton, Paused) => Err(NotAllowed::WhilePaused),
            (Pause | Resume | Reset | UpdateDrive(_) | UpdateInterface(_), Running | Paused)
            | (PressPowerButton, Running) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_ends_with_the_start() {
        let actions = [
            Action::ConfigureMachine(api::MachineConfig::default()),
            Action::ConfigureBootSource(api::BootSource::default()),
            Action::InsertDrive(api::Drive::default()),
            Action::Start,
        ];
        for action in actions {
            assert_eq!(action.allowed_in(VmState::NotStarted), Ok(()));
            for state in [VmState::Running, VmState::Paused] {
                assert_eq!(
                    action.allowed_in(state),
                    Err(NotAllowed::AfterStart),
                    "{action:?}"
                );
            }
        }
    }

    #[test]
    fn a_guests_life_begins_with_the_start() {
        for action in [
            Action::Pause,
            Action::Resume,
            Action::Reset,
            Action::PressPowerButton,
        ] {
            let refused = Err(NotAllowed::BeforeStart);
            assert_eq!(
                action.allowed_in(VmState::NotStarted),
                refused,
                "{action:?}"
            );
            assert_eq!(action.allowed_in(VmState::Running), Ok(()), "{action:?}");
        }
    }

    #[test]
    fn a_button_pressed_on_a_paused_guest_would_be_lost_on_its_user() {
        let refused = Err(NotAllowed::WhilePaused);
        assert_eq!(
            Action::PressPowerButton.allowed_in(VmState::Paused),
            refused
        );
    }

    #[test]
    fn a_vmm_can_always_be_asked_and_stopped() {
        for state in [VmState::NotStarted, VmState::Running, VmState::Paused] {
            for action in [Action::GetInfo, Action::GetFullConfig, Action::Stop] {
                assert_eq!(action.allowed_in(state), Ok(()));
            }
        }
    }
}
