//! Starts, watermarks, timelines and refusals.
#![allow(clippy::unwrap_used)]

use super::*;
use berth_rpc_types::{Command, HostId, MessageId, OperationId, VmmId};

fn timeline(id: u128, above: u64) -> Timeline {
    Timeline {
        id: Uuid::from_u128(id),
        above,
    }
}

fn reply(timelines: &[Timeline]) -> SyncReply {
    SyncReply {
        epoch: 1,
        lost: vec![],
        acknowledged: vec![],
        lineage: "l".into(),
        lineage_counter: 5,
        network_revision: 1,
        forget: vec![],
        numbers: Some(HostNumbers {
            last: 5,
            watermark: 4,
        }),
        timelines: timelines.to_vec(),
        tell: vec![],
        follows: None,
        refused: None,
        report_every_s: 0,
    }
}

fn command(number: Option<u64>, timeline: Option<u128>, epoch: u64) -> Envelope {
    Envelope {
        message_id: MessageId::from_u128(1),
        operation_id: OperationId::from_u128(1),
        step: "build".into(),
        attempt: 1,
        command: String::new(),
        host_id: HostId::from_u128(1),
        vmm_id: VmmId::from_u128(1),
        subject: None,
        sequence: 1,
        host_epoch: epoch,
        host_number: number,
        timeline: timeline.map(Uuid::from_u128),
        lineage: String::new(),
        begin_by: None,
        silence_limit: 1,
        method: Command::Delete.method().into(),
        version: 1,
        request_id: "req-1".into(),
        traceparent: None,
        body: serde_json::json!({}),
    }
}

#[test]
fn a_watermark_never_falls() {
    let host = HostRecord::default().learn(&reply(&[])).unwrap();
    let lower = SyncReply {
        numbers: Some(HostNumbers {
            last: 3,
            watermark: 2,
        }),
        ..reply(&[])
    };
    let host = host.learn(&lower).unwrap();
    assert_eq!((host.last_number, host.watermark), (5, 4));
    assert!(host.is_behind(Some(4)) && !host.is_behind(Some(5)) && !host.is_behind(None));
}

#[test]
fn a_number_belongs_to_one_timeline() {
    let of_two = [timeline(1, 2), timeline(2, 6)];
    let host = HostRecord::default().learn(&reply(&of_two)).unwrap();
    for (number, id, was_drawn) in [
        (3, 1, true),
        (6, 1, true),
        (7, 2, true),
        // Drawn in a future that was lost: above what the second one began with, by the first.
        (7, 1, false),
        (6, 2, false),
        // Drawn by whom no report told of; and below what is known.
        (7, 3, false),
        (2, 1, false),
    ] {
        let drawn = command(Some(number), Some(id), 1);
        assert_eq!(host.was_drawn(&drawn), was_drawn, "{number} of {id}");
        assert_eq!(host.is_of_now(&drawn), was_drawn);
        // It asks before it refuses.
        assert_eq!(host.may_learn_of(&drawn), !was_drawn);
    }
    // Of releases that tell less, on either side.
    assert!(
        host.was_drawn(&command(Some(7), None, 1)) && host.was_drawn(&command(None, Some(3), 1))
    );
    assert!(HostRecord::default().was_drawn(&command(Some(7), Some(3), 1)));
    // Epochs are asked for when they are newer.
    let (newer, older) = (command(Some(7), Some(2), 2), command(Some(7), Some(2), 0));
    assert!(host.may_learn_of(&newer) && !host.may_learn_of(&older));
    assert!(!host.is_of_now(&newer) && !host.is_of_now(&older));
}

#[test]
fn a_refusal_stays_until_an_operator_puts_a_lineage_in_the_place_of_the_one_that_is_obeyed() {
    let obeyed = HostRecord::default()
        .learn(&reply(&[timeline(1, 0)]))
        .unwrap();
    let restored = reply(&[timeline(2, 0)]);
    let refusing = SyncReply {
        refused: Some("older".into()),
        ..restored.clone()
    };
    let refused = obeyed.learn(&refusing).unwrap_err();
    assert_eq!(refused.timeline, Some(Uuid::from_u128(2)));
    let latched = HostRecord {
        refused: Some(refused.clone()),
        ..obeyed.clone()
    };
    // What is said later of the same one counts for nothing.
    let caught_up = SyncReply {
        lineage_counter: 99,
        epoch: 99,
        ..restored
    };
    assert_eq!(latched.learn(&caught_up), Err(refused.clone()));
    // Its controllers started again, and still say so: the first refusal is the one that is kept.
    let again = SyncReply {
        timelines: vec![timeline(3, 0)],
        ..refusing
    };
    assert_eq!(
        latched.learn(&again).unwrap_err().timeline,
        refused.timeline
    );
    // The database that was obeyed is there again.
    let back = latched.learn(&reply(&[timeline(1, 0)])).unwrap();
    assert_eq!(back.refused, None);
    // Another lineage: in the place of which one?
    let other = |follows: Option<&str>| SyncReply {
        lineage: "m".into(),
        epoch: 9,
        follows: follows.map(Into::into),
        ..reply(&[timeline(4, 7)])
    };
    assert!(latched.learn(&other(None)).is_err());
    assert!(latched.learn(&other(Some("n"))).is_err());
    let followed = latched.learn(&other(Some("l"))).unwrap();
    assert_eq!((followed.refused, followed.epoch), (None, 9));
    assert_eq!(followed.lineage.as_deref(), Some("m"));
    // What was drawn before is not of this database.
    assert!(
        !followed
            .timelines
            .iter()
            .any(|t| t.id == Uuid::from_u128(1))
    );
}

#[test]
fn a_database_that_tells_less_than_is_known_is_refused_whatever_it_says() {
    let obeyed = HostRecord::default().learn(&reply(&[])).unwrap();
    for (epoch, counter, refused) in [(1, 5, false), (2, 5, false), (0, 6, true), (1, 4, true)] {
        let told = SyncReply {
            epoch,
            lineage_counter: counter,
            ..reply(&[])
        };
        assert_eq!(obeyed.learn(&told).is_err(), refused, "{epoch} {counter}");
    }
}

#[test]
fn a_start_is_told_until_it_is_noted() {
    let [first, second] = [1, 2].map(Uuid::from_u128);
    let mut host = HostRecord::default();
    assert_eq!(host.told("b"), None);
    host.begin(first);
    let told = host.told("b").unwrap();
    assert_eq!((told.id, told.previous, &*told.boot_id), (first, None, "b"));
    // It starts again before it knows that the first was noted.
    host.begin(second);
    assert_eq!(host.told("b").unwrap(), told);
    let mut host = host.learn(&reply(&[])).unwrap();
    assert_eq!(host.told("b").unwrap().previous, Some(first));
    assert_eq!(host.told("b").unwrap().id, first);
    host.begin(second);
    let told = host.told("b").unwrap();
    assert_eq!((told.id, told.previous), (second, Some(first)));
}
