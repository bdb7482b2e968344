//! A VMM's record, rule by rule.
#![allow(clippy::unwrap_used)]

use super::*;
use berth_rpc_types::{HostId, OperationId, Outcome};

fn envelope(message: u128, sequence: u64, attempt: u32, command: &Command) -> Envelope {
    Envelope {
        message_id: MessageId::from_u128(message),
        operation_id: OperationId::from_u128(1),
        step: "s".into(),
        attempt,
        host_id: HostId::from_u128(1),
        vmm_id: VmmId::from_u128(1),
        sequence,
        host_epoch: 1,
        command: String::new(),
        subject: None,
        host_number: None,
        timeline: None,
        lineage: String::new(),
        begin_by: None,
        silence_limit: 60,
        method: command.method().into(),
        version: 1,
        request_id: "req-1".into(),
        traceparent: None,
        body: command.body(),
    }
}

fn result(envelope: &Envelope, outcome: Outcome) -> CommandResult {
    CommandResult {
        message_id: envelope.message_id,
        operation_id: envelope.operation_id,
        step: envelope.step.clone(),
        attempt: envelope.attempt,
        host_id: envelope.host_id,
        host_epoch: 1,
        vmm_id: envelope.vmm_id,
        sequence: envelope.sequence,
        request_id: envelope.request_id.clone(),
        outcome,
    }
}

fn done(state: VmmState) -> Outcome {
    Outcome::done(state, 1)
}

#[test]
fn the_highest_sequence_has_the_say() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    let stop = Command::Stop { grace_s: 1 };
    assert_eq!(
        record.accept(&envelope(1, 5, 1, &stop), &stop),
        Verdict::Accepted
    );
    assert_eq!(
        record.accept(&envelope(2, 4, 1, &stop), &stop),
        Verdict::Superseded(5)
    );
    assert_eq!(
        record.accept(&envelope(1, 5, 1, &stop), &stop),
        Verdict::InProgress
    );
    assert_eq!(
        record.accept(&envelope(3, 5, 1, &stop), &stop),
        Verdict::Superseded(5)
    );
    assert_eq!(
        record.accept(&envelope(4, 5, 2, &stop), &stop),
        Verdict::Accepted
    );
    assert_eq!(
        record.accept(&envelope(5, 6, 1, &stop), &stop),
        Verdict::Accepted
    );
    assert_eq!(
        record.next_open().unwrap().envelope.message_id,
        MessageId::from_u128(1)
    );
}

#[test]
fn a_repeated_message_gets_its_own_answer_again() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    let first = envelope(1, 1, 1, &Command::Pause);
    record.accept(&first, &Command::Pause);
    let answer = result(&first, done(VmmState::Paused));
    record.conclude(first.message_id, answer.clone());
    record.confirm(first.message_id);
    assert_eq!(
        record.accept(&first, &Command::Pause),
        Verdict::Answered(Box::new(answer))
    );
}

#[test]
fn a_delete_pre_empts_what_is_lower_and_leaves_a_tombstone() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    record.accept(&envelope(1, 1, 1, &Command::Pause), &Command::Pause);
    let delete = envelope(2, 2, 1, &Command::Delete);
    assert_eq!(record.preempted_by(1), None);
    record.accept(&delete, &Command::Delete);
    assert_eq!(record.preempted_by(1), Some(2));
    assert_eq!(record.preempted_by(2), None);
    record.conclude(delete.message_id, result(&delete, done(VmmState::Deleted)));
    assert!(record.tombstone && record.spec.is_none());
    let later = envelope(3, 3, 1, &Command::Unpause);
    assert_eq!(
        record.accept(&later, &Command::Unpause),
        Verdict::Tombstoned
    );
    let again = envelope(4, 3, 1, &Command::Delete);
    assert_eq!(record.accept(&again, &Command::Delete), Verdict::Accepted);
}

#[test]
fn after_a_delete_was_accepted_nothing_else_is() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    assert!(!record.is_deleted());
    let delete = envelope(1, 1, 1, &Command::Delete);
    record.accept(&delete, &Command::Delete);
    // It is still at it: there is no tombstone yet.
    assert!(record.is_deleted() && !record.tombstone);
    let later = envelope(2, 2, 1, &Command::Unpause);
    assert_eq!(
        record.accept(&later, &Command::Unpause),
        Verdict::Tombstoned
    );
    let again = envelope(3, 3, 1, &Command::Delete);
    assert_eq!(record.accept(&again, &Command::Delete), Verdict::Accepted);
}

#[test]
fn only_a_delete_touches_what_is_quarantined() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    record.see(VmmState::Quarantined, None);
    let stop = Command::Stop { grace_s: 0 };
    assert_eq!(
        record.accept(&envelope(1, 1, 1, &stop), &stop),
        Verdict::Quarantined
    );
    let delete = envelope(2, 1, 1, &Command::Delete);
    assert_eq!(record.accept(&delete, &Command::Delete), Verdict::Accepted);
}

#[test]
fn an_observation_is_told_until_it_is_acknowledged() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    assert!(record.unacknowledged().is_none());
    record.see(VmmState::Running, None);
    record.see(VmmState::Running, None);
    assert_eq!(record.unacknowledged().unwrap().observation, 1);
    record.acknowledged = 1;
    assert!(record.unacknowledged().is_none());
    record.see(VmmState::Crashed, Some("why".into()));
    assert_eq!(
        record.unacknowledged().unwrap().error.as_deref(),
        Some("why")
    );
}

#[test]
fn answers_are_kept_until_confirmed_and_a_few_after() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    for n in 1..=10u64 {
        let e = envelope(n.into(), n, 1, &Command::Pause);
        record.accept(&e, &Command::Pause);
        record.conclude(e.message_id, result(&e, done(VmmState::Paused)));
    }
    assert_eq!(record.unconfirmed().count(), 10);
    for n in 1..=10u128 {
        record.confirm(MessageId::from_u128(n));
    }
    assert_eq!(record.entries.len(), ANSWERED_KEPT);
    assert_eq!(record.entries[0].envelope.sequence, 7);
}

#[test]
fn a_flood_of_commands_is_refused_and_a_delete_still_gets_through() {
    let mut record = VmmRecord::new(VmmId::from_u128(1));
    let stop = Command::Stop { grace_s: 1 };
    let room = u64::try_from(ENTRIES_KEPT).unwrap();
    for n in 1..=room {
        let verdict = record.accept(&envelope(n.into(), n, 1, &stop), &stop);
        assert_eq!(verdict, Verdict::Accepted, "{n}");
    }
    let more = envelope(1_000, 1_000, 1, &stop);
    assert_eq!(record.accept(&more, &stop), Verdict::Full);
    assert_eq!(record.sequence, room, "what is refused changes nothing");
    let delete = Command::Delete;
    for n in room + 1..=2 * room {
        let verdict = record.accept(&envelope(n.into(), n, 1, &delete), &delete);
        assert_eq!(verdict, Verdict::Accepted, "{n}");
    }
    let last = envelope(2_000, 2_000, 1, &delete);
    assert_eq!(record.accept(&last, &delete), Verdict::Full);

    // An answer that the broker has makes room.
    for n in 1..=room {
        let answered = result(&envelope(n.into(), n, 1, &stop), done(VmmState::Stopped));
        record.conclude(answered.message_id, answered.clone());
        record.confirm(answered.message_id);
    }
    assert_eq!(record.accept(&last, &delete), Verdict::Accepted);
}

#[test]
fn a_tombstone_is_behind_the_watermark_that_covers_all_its_commands() {
    let numbered = |message, sequence, number, command: &Command| Envelope {
        host_number: number,
        ..envelope(message, sequence, 1, command)
    };
    let delete = Command::Delete;
    let stop = Command::Stop { grace_s: 1 };
    let gone = |numbers: [Option<u64>; 2]| {
        let mut record = VmmRecord::new(VmmId::from_u128(1));
        let first = numbered(1, 1, numbers[0], &stop);
        let last = numbered(2, 2, numbers[1], &delete);
        for (envelope, command, state) in [
            (&first, &stop, VmmState::Stopped),
            (&last, &delete, VmmState::Deleted),
        ] {
            assert_eq!(record.accept(envelope, command), Verdict::Accepted);
            assert!(!record.is_behind(u64::MAX));
            record.conclude(envelope.message_id, result(envelope, done(state)));
        }
        record
    };
    for numbers in [[Some(3), Some(7)], [Some(7), Some(3)]] {
        let record = gone(numbers);
        assert!(!record.is_behind(6) && record.is_behind(7), "{numbers:?}");
    }
    // A command that no watermark covers may always come once more.
    for numbers in [[None, Some(7)], [Some(7), None]] {
        assert!(!gone(numbers).is_behind(u64::MAX), "{numbers:?}");
    }
    // Of a journal that knew no numbers.
    let mut old = serde_json::to_value(gone([Some(1), Some(2)])).unwrap();
    old.as_object_mut().unwrap().remove("host_number");
    let old: VmmRecord = serde_json::from_value(old).unwrap();
    assert!(!old.is_behind(u64::MAX));
    // One that was given away: whatever was ordered for it has a number up to the last.
    let mut lost = VmmRecord::new(VmmId::from_u128(1));
    lost.bury_lost(9);
    assert!(!lost.is_behind(8) && lost.is_behind(9));
}
