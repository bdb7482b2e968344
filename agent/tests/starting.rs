//! The start order, epochs, losses, strangers and lineages.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod kit;

use berth_agent::{Exit, simulated::Guest};
use berth_rpc_types::link::{HostNumbers, Recorded, Timeline};
use berth_rpc_types::{Command, Envelope, MessageId, Outcome, VmmId, VmmState};
use kit::{Rig, build, start, vmm};
use std::time::Duration;
use uuid::Uuid;

#[tokio::test]
async fn guests_outlive_the_agent_and_are_all_reported_at_its_start() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.order(vmm(2), 1, &build()).await;
    rig.stop_agent().await;
    rig.machine
        .guest_ends(vmm(2), Exit::Crash("while nobody looked".into()));
    rig.start_agent();
    rig.ready().await;
    let double = rig.controller.0.lock().unwrap();
    let first = double.syncs.iter().rfind(|sync| sync.starting).unwrap();
    let states: Vec<_> = first
        .observations
        .iter()
        .map(|o| (o.vmm_id, o.state))
        .collect();
    assert!(states.contains(&(vmm(1), VmmState::Running)), "{states:?}");
    assert!(states.contains(&(vmm(2), VmmState::Crashed)), "{states:?}");
    assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 1);
}

#[tokio::test]
async fn what_is_lost_goes_before_anything_is_consumed_and_open_work_on_it_ends() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.stop_agent().await;
    // It also asked for a reset meanwhile: it must not be started again.
    rig.machine.guest_ends(vmm(1), Exit::Reset);
    let stale = rig.envelope(
        vmm(1),
        2,
        &Command::Reboot {
            soft: false,
            grace_s: 0,
        },
    );
    rig.send(&stale).await;
    {
        let mut double = rig.controller.0.lock().unwrap();
        double.epoch = 2;
        double.lost = vec![vmm(1)];
    }
    rig.start_agent();
    assert_eq!(
        rig.answer_to(&stale).await,
        Outcome::StaleEpoch { current: 2 }
    );
    assert!(rig.machine.guests().is_empty());
    rig.told(vmm(1), |o| o.state == VmmState::Deleted).await;
}

#[tokio::test]
async fn a_delete_of_what_was_lost_is_answered() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.controller.0.lock().unwrap().lost = vec![vmm(1)];
    rig.until(|| rig.machine.guest(vmm(1)).is_none().then_some(()))
        .await;
    rig.told(vmm(1), |o| o.state == VmmState::Deleted).await;
    let outcome = rig.order(vmm(1), 2, &Command::Delete).await;
    assert!(outcome.is_done_in(VmmState::Deleted), "{outcome:?}");
    let refused = rig.order(vmm(1), 3, &build()).await;
    assert!(matches!(refused, Outcome::Failed { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_stranger_is_left_alone_reported_and_only_deleted_by_order() {
    let mut rig = Rig::new().await;
    rig.stop_agent().await;
    rig.machine.put_stranger(vmm(9));
    rig.start_agent();
    rig.ready().await;
    rig.told(vmm(9), |o| o.state == VmmState::Quarantined).await;
    let outcome = rig.order(vmm(9), 1, &Command::Stop { grace_s: 0 }).await;
    // It runs, and what it holds is not free.
    assert!(
        matches!(outcome, Outcome::Failed { undone: false, .. }),
        "{outcome:?}"
    );
    assert!(rig.machine.guest(vmm(9)).is_some());
    let outcome = rig.order(vmm(9), 2, &Command::Delete).await;
    assert!(outcome.is_done_in(VmmState::Deleted), "{outcome:?}");
    assert!(rig.machine.guest(vmm(9)).is_none());
}

#[tokio::test]
async fn an_older_database_is_refused_whatever_time_and_restarts_do_until_an_operator_says_so() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    // The agent has seen a high counter; each report adds one.
    rig.controller.0.lock().unwrap().counter = 1000;
    rig.until(|| (rig.controller.0.lock().unwrap().counter > 1001).then_some(()))
        .await;
    rig.controller.0.lock().unwrap().counter = 0;
    let refuses = |rig: &Rig| {
        let why = rig.agent.as_ref().unwrap().handle.not_consuming_because();
        let why = why.join(" ");
        (why.contains("older") && why.contains("berth-controller lineage accept")).then_some(())
    };
    rig.until(|| refuses(&rig)).await;
    // It says what it has.
    let told = |rig: &Rig| {
        let double = rig.controller.0.lock().unwrap();
        double.syncs.last().and_then(|sync| sync.refusal.clone())
    };
    let refusal = rig.until(|| told(&rig)).await;
    let has = Recorded {
        vmm_id: vmm(1),
        sequence: 1,
        state: VmmState::Running,
        deleted: false,
        is_described: true,
    };
    assert_eq!(refusal.records, [has]);
    // The other one has caught up, and more than that.
    {
        let mut double = rig.controller.0.lock().unwrap();
        (double.counter, double.epoch) = (5000, 50);
        double.lost = vec![vmm(1)];
    }
    let syncs = |rig: &Rig| rig.controller.0.lock().unwrap().syncs.len();
    for _ in 0..2 {
        let before = syncs(&rig);
        rig.until(|| (syncs(&rig) > before + 2).then_some(())).await;
        assert!(refuses(&rig).is_some());
        rig.stop_agent().await;
        rig.start_agent();
    }
    rig.until(|| refuses(&rig)).await;
    assert!(
        rig.machine.guest(vmm(1)).is_some(),
        "what it says is lost is not removed"
    );
    {
        let mut double = rig.controller.0.lock().unwrap();
        double.lineage = "db-2".into();
        double.follows = Some("db-1".into());
        double.lost.clear();
    }
    rig.ready().await;
    rig.until(|| told(&rig).is_none().then_some(())).await;
    let stopped = rig.order(vmm(1), 2, &Command::Stop { grace_s: 0 }).await;
    assert!(stopped.is_done_in(VmmState::Stopped), "{stopped:?}");
}

#[tokio::test]
async fn a_command_of_a_timeline_that_no_report_told_of_waits_for_one_and_may_be_refused() {
    let mut rig = Rig::new().await;
    let timeline = |id: u128, above| Timeline {
        id: Uuid::from_u128(id),
        above,
    };
    let tell = |rig: &Rig, timelines: &[Timeline]| {
        rig.controller.0.lock().unwrap().timelines = timelines.to_vec();
    };
    let of = |envelope: Envelope, id: u128| Envelope {
        timeline: Some(Uuid::from_u128(id)),
        ..envelope
    };
    // A controller started: its command comes before any report has told of it.
    let first = of(rig.envelope(vmm(1), 1, &build()), 1);
    let above = first.host_number.unwrap() - 1;
    tell(&rig, &[timeline(1, above)]);
    rig.send(&first).await;
    let built = rig.answer_to(&first).await;
    assert!(built.is_done_in(VmmState::Running), "{built:?}");
    // Another one started, and reports told of it; and a copy comes of what a lost database drew with
    // the same number.
    let number = first.host_number.unwrap() + 1;
    tell(&rig, &[timeline(1, above), timeline(2, number - 1)]);
    let obeyed = |rig: &Rig| {
        let double = rig.controller.0.lock().unwrap();
        double
            .syncs
            .last()
            .is_some_and(|sync| sync.timeline == Some(Uuid::from_u128(2)))
    };
    rig.until(|| obeyed(&rig).then_some(())).await;
    let copy = of(rig.envelope(vmm(1), 2, &Command::Delete), 1);
    assert_eq!(copy.host_number, Some(number));
    rig.send(&copy).await;
    let refused = rig.answer_to(&copy).await;
    assert_eq!(refused, Outcome::StaleEpoch { current: 1 });
    let stop = of(rig.envelope(vmm(1), 2, &Command::Stop { grace_s: 0 }), 2);
    rig.send(&stop).await;
    let stopped = rig.answer_to(&stop).await;
    assert!(stopped.is_done_in(VmmState::Stopped), "{stopped:?}");
}

#[tokio::test]
async fn a_controller_that_is_away_costs_time_only() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    rig.stop_agent().await;
    rig.controller.0.lock().unwrap().unreachable = true;
    rig.start_agent();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let handle = rig.agent.as_ref().unwrap().handle.clone();
    assert_eq!(handle.not_consuming_because(), ["the agent is starting"]);
    rig.controller.0.lock().unwrap().unreachable = false;
    rig.ready().await;
    assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 1);
}

/// What a starting agent tells of.
async fn told_at_a_start(rig: &mut Rig) -> Vec<VmmId> {
    rig.stop_agent().await;
    rig.start_agent();
    rig.ready().await;
    let double = rig.controller.0.lock().unwrap();
    let last = double.syncs.iter().rfind(|sync| sync.starting).unwrap();
    last.observations.iter().map(|o| o.vmm_id).collect()
}

#[tokio::test]
async fn a_tombstone_goes_with_the_watermark_and_what_comes_late_is_never_built() {
    let mut rig = Rig::new().await;
    let numbers = |rig: &Rig, last, watermark| {
        let numbers = HostNumbers { last, watermark };
        rig.controller.0.lock().unwrap().numbers = Some(numbers);
    };
    // A controller that stands still holds the build; the delete was ordered after it.
    let held = rig.envelope(vmm(1), 1, &build());
    let first = held.host_number.unwrap();
    let deleted = rig.order(vmm(1), 2, &Command::Delete).await;
    assert!(deleted.is_done_in(VmmState::Deleted), "{deleted:?}");
    // However long that takes: the build has not ended.
    numbers(&rig, first + 1, first - 1);
    assert_eq!(told_at_a_start(&mut rig).await, [vmm(1)]);
    rig.send(&held).await;
    let late = rig.answer_to(&held).await;
    assert!(matches!(late, Outcome::Superseded { by: 2 }), "{late:?}");
    // Its end is folded in. A report tells the watermark; then the tombstone is gone.
    numbers(&rig, first + 1, first + 1);
    told_at_a_start(&mut rig).await;
    assert_eq!(told_at_a_start(&mut rig).await, []);
    // The broker gives out a copy all the same.
    let mut copy = held.clone();
    copy.message_id = MessageId::from_u128(0xc0b1);
    rig.send(&copy).await;
    let late = rig.answer_to(&copy).await;
    assert!(
        matches!(late, Outcome::StaleEpoch { current: 1 }),
        "{late:?}"
    );
    assert!(rig.machine.guest(vmm(1)).is_none());
    // A watermark never falls, and what is above it is carried out.
    numbers(&rig, first + 2, first);
    told_at_a_start(&mut rig).await;
    rig.send(&copy).await;
    let late = rig.answer_to(&copy).await;
    assert!(matches!(late, Outcome::StaleEpoch { .. }), "{late:?}");
    let built = rig.order(vmm(2), 1, &build()).await;
    assert!(built.is_done_in(VmmState::Running), "{built:?}");
}

#[tokio::test]
async fn attempts_are_counted_where_the_work_is() {
    let mut rig = Rig::new().await;
    rig.machine.hold("make_disks");
    let envelope = rig.envelope(vmm(1), 1, &build());
    rig.send(&envelope).await;
    let began = |rig: &Rig| {
        rig.machine
            .guest(vmm(1))
            .is_some_and(|g| g.made.contains("fetch_images"))
    };
    rig.until(|| began(&rig).then_some(())).await;
    for _ in 0..3 {
        // Ready comes after the open entries were taken up again.
        rig.ready().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.stop_agent().await;
        rig.start_agent();
    }
    let outcome = rig.answer().await.outcome;
    let Outcome::Failed {
        message,
        undone: true,
        ..
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert!(message.contains("3 attempts"), "{message}");
    assert!(rig.machine.guests().is_empty());
}

/// A build that stands still at its disks.
async fn held_build(rig: &mut Rig) -> Envelope {
    rig.machine.hold("make_disks");
    let build = rig.envelope(vmm(1), 1, &build());
    rig.send(&build).await;
    let stands = |guest: Guest| guest.made.contains("fetch_images");
    rig.until(|| rig.machine.guest(vmm(1)).filter(|g| stands(g.clone())))
        .await;
    build
}

#[tokio::test]
async fn what_was_accepted_in_an_older_epoch_is_not_carried_out_and_can_be_ordered_anew() {
    let mut rig = Rig::new().await;
    let old = held_build(&mut rig).await;
    let behind = rig.envelope(vmm(1), 2, &start());
    let stop = rig.envelope(vmm(1), 3, &Command::Stop { grace_s: 0 });
    rig.send(&behind).await;
    rig.send(&stop).await;
    rig.controller.0.lock().unwrap().epoch = 2;
    let stale = Outcome::StaleEpoch { current: 2 };
    assert_eq!(rig.answer_to(&old).await, stale);
    assert_eq!(rig.answer_to(&behind).await, stale);
    // It lets nothing run.
    let stopped = rig.answer_to(&stop).await;
    assert!(stopped.is_done_in(VmmState::Stopped), "{stopped:?}");
    rig.machine.release("make_disks");
    let built = rig.order(vmm(1), 4, &build()).await;
    assert!(built.is_done_in(VmmState::Running), "{built:?}");
    let guest = rig.machine.guest(vmm(1)).unwrap();
    assert_eq!((guest.boots, guest.effects["fetch_images"]), (1, 1));
}

#[tokio::test]
async fn a_host_that_was_off_says_so_and_carries_nothing_out_that_was_ordered_before() {
    let mut rig = Rig::new().await;
    let old = held_build(&mut rig).await;
    rig.stop_agent().await;
    rig.machine.power_cycle();
    rig.controller.0.lock().unwrap().epoch = 2;
    rig.machine.release("make_disks");
    rig.start_agent();
    let stale = Outcome::StaleEpoch { current: 2 };
    assert_eq!(rig.answer_to(&old).await, stale);
    assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 0);
    let double = rig.controller.0.lock().unwrap();
    let starts: Vec<_> = double.syncs.iter().filter(|sync| sync.starting).collect();
    let told = |n: usize| starts[n].start.clone().unwrap();
    let (before, after) = (told(0), told(starts.len() - 1));
    assert_ne!(before.boot_id, after.boot_id);
    assert_ne!(before.id, after.id);
    assert_eq!(after.previous, Some(before.id));
}

#[tokio::test]
async fn a_start_that_no_controller_has_noted_is_told_again_after_a_restart() {
    let mut rig = Rig::new().await;
    let told = |rig: &Rig| {
        let double = rig.controller.0.lock().unwrap();
        double
            .syncs
            .last()
            .and_then(|sync| sync.start.clone())
            .unwrap()
    };
    let first = told(&rig);
    rig.stop_agent().await;
    // The reports come; the answers do not.
    rig.controller.0.lock().unwrap().mute = true;
    let syncs = |rig: &Rig| rig.controller.0.lock().unwrap().syncs.len();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let before = syncs(&rig);
        rig.start_agent();
        rig.until(|| (syncs(&rig) > before).then_some(())).await;
        seen.push(told(&rig));
        rig.stop_agent().await;
    }
    assert_ne!(seen[0].id, first.id);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].previous, Some(first.id));
}
