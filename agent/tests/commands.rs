//! What the agent promises about commands, on a simulated machine.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod kit;

use berth_agent::{DriverError, Exit, simulated::Process};
use berth_rpc::{Address, ConsumeOptions, Faults};
use berth_rpc_types::{Command, Outcome, Telemetry, VmmState};
use kit::{Rig, build, start, vmm};
use std::time::Duration;

fn state(outcome: &Outcome) -> VmmState {
    match outcome {
        Outcome::Done { answer, .. } => answer.seen().unwrap().state,
        other => panic!("not done: {other:?}"),
    }
}

#[tokio::test]
async fn a_guest_lives_its_life() {
    let mut rig = Rig::new().await;
    let life = [
        (build(), VmmState::Running),
        (Command::Pause, VmmState::Paused),
        (Command::Unpause, VmmState::Running),
        (
            Command::Reboot {
                soft: true,
                grace_s: 1,
            },
            VmmState::Running,
        ),
        (Command::Stop { grace_s: 1 }, VmmState::Stopped),
        (start(), VmmState::Running),
        (Command::Delete, VmmState::Deleted),
    ];
    for (sequence, (command, expected)) in (1..).zip(life) {
        let outcome = rig.order(vmm(1), sequence, &command).await;
        assert_eq!(state(&outcome), expected, "{command:?}");
    }
    assert!(rig.machine.guests().is_empty());
    rig.told(vmm(1), |o| o.state == VmmState::Deleted).await;
}

#[tokio::test]
async fn every_command_sent_twice_happens_once_and_is_answered_alike() {
    let mut rig = Rig::new().await;
    let commands = [
        build(),
        Command::Reboot {
            soft: false,
            grace_s: 0,
        },
        Command::Pause,
        Command::Unpause,
        Command::Stop { grace_s: 0 },
        start(),
    ];
    for (sequence, command) in (1..).zip(&commands) {
        let envelope = rig.envelope(vmm(1), sequence, command);
        rig.send(&envelope).await;
        let first = rig.answer().await;
        let before = rig.machine.guest(vmm(1)).unwrap();
        rig.send(&envelope).await;
        let second = rig.answer().await;
        assert_eq!(first, second, "{command:?}");
        assert_eq!(
            rig.machine.guest(vmm(1)).unwrap(),
            before,
            "{command:?} had its effect twice"
        );
    }
    assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 3);
    let delete = rig.envelope(vmm(1), 9, &Command::Delete);
    rig.send(&delete).await;
    let first = rig.answer().await;
    rig.send(&delete).await;
    assert_eq!(rig.answer().await, first);
}

#[tokio::test]
async fn a_repeat_of_what_is_under_way_is_not_a_second_one() {
    let mut rig = Rig::new().await;
    rig.machine.hold("make_disks");
    let envelope = rig.envelope(vmm(1), 1, &build());
    rig.send(&envelope).await;
    rig.send(&envelope).await;
    rig.silence().await;
    rig.machine.release("make_disks");
    assert_eq!(rig.answer().await.message_id, envelope.message_id);
    rig.silence().await;
    assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 1);
}

#[tokio::test]
async fn a_lower_sequence_is_superseded() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 5, &build()).await;
    let outcome = rig.order(vmm(1), 4, &Command::Stop { grace_s: 0 }).await;
    assert_eq!(outcome, Outcome::Superseded { by: 5 });
    assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 1);
}

#[tokio::test]
async fn a_delete_pre_empts_a_build() {
    let mut rig = Rig::new().await;
    rig.machine.hold("fetch_images");
    let make = rig.envelope(vmm(1), 1, &build());
    rig.send(&make).await;
    rig.until(|| rig.machine.guest(vmm(1))).await;
    let outcome = {
        let delete = rig.envelope(vmm(1), 2, &Command::Delete);
        rig.send(&delete).await;
        let answers = [rig.answer().await, rig.answer().await];
        let of = |id| {
            answers
                .iter()
                .find(|a| a.message_id == id)
                .unwrap()
                .outcome
                .clone()
        };
        assert_eq!(of(make.message_id), Outcome::Superseded { by: 2 });
        of(delete.message_id)
    };
    assert_eq!(state(&outcome), VmmState::Deleted);
    assert!(rig.machine.guests().is_empty());
}

#[tokio::test]
async fn nothing_is_built_after_its_tombstone() {
    let mut rig = Rig::new().await;
    // The delete overtook the build: it leaves a tombstone for a VMM never seen.
    let outcome = rig.order(vmm(1), 2, &Command::Delete).await;
    assert_eq!(state(&outcome), VmmState::Deleted);
    assert_eq!(
        rig.order(vmm(1), 1, &build()).await,
        Outcome::Superseded { by: 2 }
    );
    let later = rig.order(vmm(1), 3, &build()).await;
    assert!(
        matches!(later, Outcome::Failed { undone: true, .. }),
        "{later:?}"
    );
    assert!(rig.machine.guests().is_empty());
}

#[tokio::test]
async fn nothing_is_built_while_it_is_being_deleted_and_nothing_is_freed() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.machine.hold("remove_all");
    let delete = rig.envelope(vmm(1), 2, &Command::Delete);
    rig.send(&delete).await;
    let is_ended = || {
        let guest = rig.machine.guest(vmm(1));
        guest.filter(|guest| guest.process == Process::None)
    };
    rig.until(is_ended).await;
    let later = rig.order(vmm(1), 3, &build()).await;
    // The guest is still there: the answer says so, and its claim is kept.
    assert!(
        matches!(later, Outcome::Failed { undone: false, .. }),
        "{later:?}"
    );
    rig.machine.release("remove_all");
    assert_eq!(state(&rig.answer().await.outcome), VmmState::Deleted);
}

#[tokio::test]
async fn another_epoch_is_refused_with_the_hosts_own() {
    let mut rig = Rig::new().await;
    let mut old = rig.envelope(vmm(1), 1, &build());
    old.host_epoch = 0;
    rig.send(&old).await;
    assert_eq!(
        rig.answer().await.outcome,
        Outcome::StaleEpoch { current: 1 }
    );
    assert!(rig.machine.guests().is_empty());
    // A newer one is first asked for.
    rig.controller.0.lock().unwrap().epoch = 2;
    let outcome = rig.order(vmm(1), 1, &build()).await;
    assert_eq!(state(&outcome), VmmState::Running);
}

#[tokio::test]
async fn an_unknown_method_or_version_is_answered_with_the_range() {
    let mut rig = Rig::new().await;
    let mut envelope = rig.envelope(vmm(1), 1, &build());
    envelope.method = "vmm.fly".into();
    rig.send(&envelope).await;
    assert_eq!(
        rig.answer().await.outcome,
        Outcome::Unsupported { min: 1, max: 1 }
    );
    let mut envelope = rig.envelope(vmm(1), 1, &build());
    envelope.version = 2;
    rig.send(&envelope).await;
    assert_eq!(
        rig.answer().await.outcome,
        Outcome::Unsupported { min: 1, max: 1 }
    );
    let mut envelope = rig.envelope(vmm(1), 1, &build());
    envelope.body = serde_json::json!({"vcpus": "many"});
    rig.send(&envelope).await;
    let outcome = rig.answer().await.outcome;
    assert!(
        matches!(&outcome, Outcome::Failed { message, undone: true, .. } if message.contains("vmm.build")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn what_is_no_envelope_goes_to_the_dead_letters_and_the_agent_goes_on() {
    use berth_rpc::{Address, ConsumeOptions};
    let mut rig = Rig::new().await;
    let transport = rig.broker.transport();
    let dead = transport.consume(Address::DeadLetters, ConsumeOptions { prefetch: 9 });
    let mut dead = dead.await.unwrap();
    rig.send_bytes("junk", b"{\"message_id\": 7".to_vec()).await;
    let letter = tokio::time::timeout(kit::PATIENCE, dead.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(letter.message_id, "junk");
    assert_eq!(
        state(&rig.order(vmm(1), 1, &build()).await),
        VmmState::Running
    );
}

#[tokio::test]
async fn a_build_that_fails_is_undone_whole_whatever_step_it_was() {
    let steps = [
        "make_directory",
        "fetch_images",
        "make_disks",
        "make_config_drive",
        "wire_ports",
        "start_process",
    ];
    for step in steps {
        let mut rig = Rig::new().await;
        let error = DriverError::host(format!("no {step} today"), "test");
        rig.machine.fail_next(step, error);
        let outcome = rig.order(vmm(1), 1, &build()).await;
        let Outcome::Failed {
            message,
            undone,
            retry_elsewhere,
            seen: Some(seen),
            ..
        } = outcome
        else {
            panic!("{step}: {outcome:?}");
        };
        assert_eq!(message, format!("no {step} today"));
        assert!(
            undone && retry_elsewhere && seen.state == VmmState::Deleted,
            "{step}"
        );
        assert!(rig.machine.guests().is_empty(), "{step} left something");
    }
}

#[tokio::test]
async fn a_start_that_fails_keeps_the_disks() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.order(vmm(1), 2, &Command::Stop { grace_s: 0 }).await;
    rig.machine
        .fail_next("start_process", DriverError::host("no", "test"));
    let outcome = rig.order(vmm(1), 3, &start()).await;
    let seen = outcome.seen().map(|seen| seen.state);
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert_eq!(seen, Some(VmmState::Stopped));
    assert!(
        rig.machine
            .guest(vmm(1))
            .unwrap()
            .made
            .contains("make_disks")
    );
    assert_eq!(
        state(&rig.order(vmm(1), 4, &start()).await),
        VmmState::Running
    );
}

#[tokio::test]
async fn commands_survive_an_agent_that_ends_in_the_middle() {
    let mut rig = Rig::new().await;
    for step in ["fetch_images", "start_process"] {
        rig.machine.hold(step);
        let id = vmm(step.len() as u128);
        let envelope = rig.envelope(id, 1, &build());
        rig.send(&envelope).await;
        rig.until(|| rig.machine.guest(id)).await;
        rig.stop_agent().await;
        rig.machine.release(step);
        rig.start_agent();
        let answer = rig.answer().await;
        assert_eq!(answer.message_id, envelope.message_id);
        assert_eq!(state(&answer.outcome), VmmState::Running);
        assert_eq!(rig.machine.guest(id).unwrap().boots, 1);
        rig.ready().await;
    }
}

#[tokio::test]
async fn vmms_do_not_wait_for_one_another() {
    let mut rig = Rig::new().await;
    rig.machine.hold("make_disks");
    let held = rig.envelope(vmm(1), 1, &build());
    rig.send(&held).await;
    rig.until(|| rig.machine.guest(vmm(1))).await;
    let outcome = rig.order(vmm(2), 1, &Command::Delete).await;
    assert_eq!(state(&outcome), VmmState::Deleted);
    rig.machine.release("make_disks");
    assert_eq!(rig.answer().await.message_id, held.message_id);
}

#[tokio::test]
async fn messages_lost_repeated_and_out_of_order_still_come_to_one_end() {
    let faults = Faults {
        lose: 200,
        doubt: 200,
        repeat: 300,
        reorder: 300,
        delay: 200,
        delay_max: Duration::from_millis(20),
        lose_ack: 200,
    };
    let mut rig = Rig::with_faults(faults).await;
    let count = 30;
    let mut open = std::collections::BTreeSet::new();
    for n in 1..=count {
        let envelope = rig.envelope(vmm(n), 1, &build());
        rig.send(&envelope).await;
        open.insert(envelope.message_id);
    }
    while !open.is_empty() {
        let answer = rig.answer().await;
        assert_eq!(state(&answer.outcome), VmmState::Running);
        open.remove(&answer.message_id);
    }
    let guests = rig.machine.guests();
    assert_eq!(guests.len(), usize::try_from(count).unwrap());
    assert!(guests.values().all(|guest| guest.boots == 1));
}

#[tokio::test]
async fn what_a_guest_does_by_itself_is_told_until_acknowledged() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.controller.0.lock().unwrap().acknowledges = false;
    rig.machine.guest_ends(vmm(1), Exit::PowerOff);
    let seen = rig.told(vmm(1), |o| o.state == VmmState::Stopped).await;
    rig.until(|| {
        let double = rig.controller.0.lock().unwrap();
        (double.told[&(vmm(1), seen.observation)] >= 2).then_some(())
    })
    .await;
    rig.controller.0.lock().unwrap().acknowledges = true;
    assert_eq!(
        state(&rig.order(vmm(1), 2, &start()).await),
        VmmState::Running
    );
    rig.machine
        .guest_ends(vmm(1), Exit::Crash("triple fault".into()));
    let seen = rig.told(vmm(1), |o| o.state == VmmState::Crashed).await;
    assert_eq!(seen.error.as_deref(), Some("triple fault"));
}

#[tokio::test]
async fn a_guest_that_resets_is_started_again() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.machine.guest_ends(vmm(1), Exit::Reset);
    rig.until(|| (rig.machine.guest(vmm(1))?.boots == 2).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.stop_agent().await;
    rig.start_agent();
    rig.ready().await;
    assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 2);
}

#[tokio::test]
async fn a_step_that_takes_long_tells_how_far_it_is_with_its_signs_of_life() {
    let mut rig = Rig::new().await;
    let telemetry = rig.broker.transport();
    let options = ConsumeOptions { prefetch: 100 };
    let mut news = telemetry
        .consume(Address::Telemetry, options)
        .await
        .unwrap();
    rig.machine.hold("fetch_images");
    let envelope = rig.envelope(vmm(1), 1, &build());
    rig.send(&envelope).await;
    let told = async {
        loop {
            let delivery = news.next().await.unwrap();
            let _ = delivery.ack().await;
            let Ok(Telemetry::Progress {
                operation_id,
                doing,
                percent: Some(percent),
                bytes: Some(bytes),
                ..
            }) = serde_json::from_slice(&delivery.payload)
            else {
                continue;
            };
            assert_eq!(operation_id, envelope.operation_id);
            return (doing, percent, bytes.done, bytes.total);
        }
    };
    // Signs of life come every 5 s.
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    assert_eq!(
        told.unwrap(),
        ("fetch_images".to_owned(), 50, 1 << 20, 2 << 20)
    );
    rig.machine.release("fetch_images");
    assert_eq!(state(&rig.answer_to(&envelope).await), VmmState::Running);
}
