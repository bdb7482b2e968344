//! The state driver against a guest that is only a state: single cases, then any sequence.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// What the pretended guest was told, and whether it obeys.
#[derive(Default)]
struct Told {
    calls: Vec<&'static str>,
    fail: bool,
    on_exit: Option<Arc<dyn Fn(GuestExit) + Send + Sync>>,
}

type Shared = Arc<Mutex<Told>>;

struct Pretended(Shared);

impl Pretended {
    fn told(&self, call: &'static str) -> Result<(), GuestError> {
        let mut told = self.0.lock().unwrap();
        if told.fail {
            let source = std::io::Error::other("pretended");
            return Err(GuestError::Host {
                id: call.to_owned(),
                source,
            });
        }
        told.calls.push(call);
        Ok(())
    }
}

impl Life for Pretended {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.told("pause")
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.told("resume")
    }

    fn press_power_button(&self) -> Result<(), GuestError> {
        self.told("button")
    }
}

impl Launcher for Shared {
    type Guest = Pretended;

    fn launch(
        &mut self,
        plan: &mut GuestPlan,
        on_exit: Arc<dyn Fn(GuestExit) + Send + Sync>,
    ) -> Result<Pretended, GuestError> {
        let guest = Pretended(Arc::clone(self));
        guest.told("launch")?;
        plan.devices.clear();
        self.lock().unwrap().on_exit = Some(on_exit);
        Ok(guest)
    }
}

fn driver() -> (StateDriver<Shared>, Shared) {
    let told = Shared::default();
    let status = StatusFile::new(None, "vm1", None);
    (
        StateDriver::new("vm1", Arc::clone(&told), Resources::default(), status),
        told,
    )
}

fn boot_source() -> Action {
    // The launcher of these tests does not load it: any file will do.
    let path = std::env::current_exe().unwrap();
    Action::ConfigureBootSource(api::BootSource {
        kernel_image_path: path.display().to_string(),
        ..Default::default()
    })
}

#[test]
fn a_start_without_a_kernel_is_refused_in_firecrackers_words() {
    let (mut driver, _) = driver();
    let error = driver.act(Action::Start).unwrap_err().to_string();
    assert_eq!(
        error,
        "Start microvm error: Cannot start microvm without kernel configuration."
    );
}

#[test]
fn a_start_that_failed_can_be_corrected_and_tried_again() {
    let (mut driver, told) = driver();
    driver.act(boot_source()).unwrap();
    told.lock().unwrap().fail = true;
    assert!(matches!(
        driver.act(Action::Start),
        Err(ActionError::Start(_))
    ));
    assert_eq!(driver.state, VmState::NotStarted);
    told.lock().unwrap().fail = false;
    driver.act(Action::Start).unwrap();
    assert_eq!(driver.state, VmState::Running);
}

#[test]
fn the_configuration_can_be_read_after_the_start_as_before_it() {
    let (mut driver, _) = driver();
    driver.act(boot_source()).unwrap();
    let before = driver.act(Action::GetFullConfig).unwrap();
    driver.act(Action::Start).unwrap();
    assert_eq!(driver.act(Action::GetFullConfig).unwrap(), before);
}

#[test]
fn pausing_twice_pauses_once() {
    let (mut driver, told) = driver();
    driver.act(boot_source()).unwrap();
    for action in [
        Action::Start,
        Action::Pause,
        Action::Pause,
        Action::Resume,
        Action::Resume,
    ] {
        driver.act(action).unwrap();
    }
    assert_eq!(told.lock().unwrap().calls, ["launch", "pause", "resume"]);
}

#[test]
fn a_pause_that_fails_leaves_the_guest_running() {
    let (mut driver, told) = driver();
    driver.act(boot_source()).unwrap();
    driver.act(Action::Start).unwrap();
    told.lock().unwrap().fail = true;
    assert!(matches!(
        driver.act(Action::Pause),
        Err(ActionError::Guest(_))
    ));
    assert_eq!(driver.state, VmState::Running);
}

#[test]
fn each_end_of_a_guest_has_its_exit_code() {
    let cases = [
        (GuestExit::Shutdown, ExitCode::Ok, ExitReason::GuestShutdown),
        (
            GuestExit::Reset,
            ExitCode::GuestReset,
            ExitReason::GuestReset,
        ),
        (
            GuestExit::TripleFault,
            ExitCode::GuestReset,
            ExitReason::TripleFault,
        ),
        (
            GuestExit::Crashed("x".into()),
            ExitCode::GuestCrashed,
            ExitReason::GuestCrashed,
        ),
    ];
    for (exit, code, reason) in cases {
        let (mut driver, told) = driver();
        driver.act(boot_source()).unwrap();
        driver.act(Action::Start).unwrap();
        let on_exit = told.lock().unwrap().on_exit.clone().unwrap();
        on_exit(exit);
        let outcome = driver.run();
        assert_eq!((outcome.code, outcome.reason), (code, reason));
    }
}

#[test]
fn whoever_stops_the_vmm_is_answered_before_it_ends() {
    let (mut driver, _) = driver();
    let (reply, answer) = sync_channel(1);
    let request = Request {
        action: Action::Stop,
        request_id: None,
        reply,
    };
    driver
        .sender()
        .send(Message::Request(Box::new(request)))
        .unwrap();
    let outcome = driver.run();
    assert_eq!(
        (outcome.code, outcome.reason),
        (ExitCode::Ok, ExitReason::ApiStop)
    );
    assert_eq!(answer.recv().unwrap().unwrap(), Answer::Empty);
}

#[test]
fn a_reset_of_a_guest_that_was_not_started_does_not_end_the_vmm() {
    let (mut driver, _) = driver();
    let (reply, answer) = sync_channel(1);
    let request = Request {
        action: Action::Reset,
        request_id: None,
        reply,
    };
    assert!(driver.take(Message::Request(Box::new(request))).is_none());
    let error = answer.recv().unwrap().unwrap_err();
    assert!(matches!(
        error,
        ActionError::NotAllowed(NotAllowed::BeforeStart)
    ));
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(boot_source()),
        Just(Action::ConfigureMachine(api::MachineConfig::default())),
        Just(Action::UpdateMachine(api::MachineConfigUpdate::default())),
        Just(Action::UpdateDrive(api::DriveUpdate::default())),
        Just(Action::Start),
        Just(Action::Pause),
        Just(Action::Resume),
        Just(Action::PressPowerButton),
        Just(Action::Reset),
        Just(Action::GetInfo),
        Just(Action::FlushMetrics),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_actions_leaves_the_table(
        steps in proptest::collection::vec((any_action(), any::<bool>()), 1..40)
    ) {
        let (mut driver, told) = driver();
        for (action, fail) in steps {
            told.lock().unwrap().fail = fail;
            let before = driver.state;
            let allowed = action.allowed_in(before);
            let result = driver.act(action.clone());
            match (&allowed, &result) {
                (Err(refusal), Err(ActionError::NotAllowed(told))) => prop_assert_eq!(refusal, told),
                (Err(_), other) => prop_assert!(false, "{action:?} in {before}: {other:?}"),
                (Ok(()), Err(ActionError::NotAllowed(_))) => prop_assert!(false, "{action:?}"),
                _ => {}
            }
            let expected = match (&action, result.is_ok()) {
                (Action::Start | Action::Resume, true) => VmState::Running,
                (Action::Pause, true) => VmState::Paused,
                _ => before,
            };
            prop_assert_eq!(driver.state, expected);
            prop_assert_eq!(driver.guest.is_some(), driver.state != VmState::NotStarted);
        }
        // What the guest was told alternates: it was never paused twice without a resume.
        let calls = told.lock().unwrap().calls.clone();
        let turns: Vec<_> = calls.into_iter().filter(|c| matches!(*c, "pause" | "resume")).collect();
        for pair in turns.windows(2) {
            prop_assert_ne!(pair[0], pair[1]);
        }
        prop_assert!(turns.first().is_none_or(|first| *first == "pause"));
    }
}
