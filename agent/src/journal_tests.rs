//! What the journal promises across torn writes, damage, failure and compaction.
#![allow(clippy::unwrap_used)]

use super::*;
use berth_rpc_types::VmmState;
use proptest::prelude::*;
use std::fs;

fn id(n: u128) -> VmmId {
    VmmId::from_u128(n)
}

async fn see(journal: &Arc<Journal>, n: u128, sequence: u64) {
    let change = |record: &mut VmmRecord| {
        record.sequence = sequence;
        record.see(VmmState::Running, None);
    };
    journal.update(id(n), change).await.unwrap();
}

#[tokio::test]
async fn what_was_written_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    see(&journal, 1, 5).await;
    see(&journal, 2, 6).await;
    journal.update_host(|host| host.epoch = 3).await.unwrap();
    journal.forget(id(2)).await.unwrap();
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.host().epoch, 3);
    assert_eq!(journal.vmm(id(1)).unwrap().sequence, 5);
    assert!(journal.vmm(id(2)).is_none());
}

#[tokio::test]
async fn updates_at_the_same_time_are_all_kept_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let add = |record: &mut VmmRecord| {
        record.sequence += 1;
        record.sequence
    };
    let updates = (0..200).map(|_| journal.update(id(1), add));
    let mut seen: Vec<u64> = futures::future::try_join_all(updates).await.unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.vmm(id(1)).unwrap().sequence, 200);
}

#[tokio::test]
async fn damage_before_the_last_line_is_an_error_that_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    for sequence in 1..=3 {
        see(&journal, 1, sequence).await;
    }
    drop(journal);
    let path = folder.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes[HEADER.len() + 30] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = Journal::open(folder.path()).err().unwrap();
    assert!(
        matches!(error, JournalError::Damaged { line: 2, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn two_damaged_lines_at_the_end_are_damage_and_no_torn_end() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    for sequence in 1..=3 {
        see(&journal, 1, sequence).await;
    }
    drop(journal);
    let path = folder.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
    // The second of three updates was promised, and so must not be cut off with the third.
    for end in &ends[2..] {
        bytes[end - 3] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
    let error = Journal::open(folder.path()).err().unwrap();
    assert!(
        matches!(error, JournalError::Damaged { line: 3, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_whole_line_of_a_newer_agent_is_refused_and_never_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    see(&journal, 1, 1).await;
    drop(journal);
    let path = folder.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let json = r#"[{"volume":{"id":1}}]"#;
    let crc = crc32fast::hash(json.as_bytes());
    bytes.extend(format!("{crc:08x} {json}\n").into_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = Journal::open(folder.path()).err().unwrap();
    assert!(
        matches!(error, JournalError::Newer { line: 3, .. }),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn another_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(FILE), "berth-agent-journal 9\nxx\n").unwrap();
    let error = Journal::open(folder.path()).err().unwrap();
    assert!(
        error.to_string().contains("berth-agent-journal 9"),
        "{error}"
    );
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_accepted_until_recovery() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    see(&journal, 1, 1).await;
    // A file that cannot be written to stands for a full or broken disk.
    let broken = File::open(folder.path().join(FILE)).unwrap();
    lock(&journal.disk).file = broken;
    let refused = journal.update(id(1), |record| record.sequence = 2).await;
    assert!(refused.is_err());
    assert!(journal.failed().is_some());
    assert!(
        journal
            .update(id(3), |record| record.sequence = 1)
            .await
            .is_err()
    );
    assert_eq!(journal.vmm(id(1)).unwrap().sequence, 1);
    journal.recover().await.unwrap();
    see(&journal, 1, 7).await;
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.vmm(id(1)).unwrap().sequence, 7);
    assert!(journal.vmm(id(3)).is_none());
}

#[tokio::test]
async fn a_large_file_with_little_in_it_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let filler = "x".repeat(600_000);
    for sequence in 1..=9 {
        let change = |record: &mut VmmRecord| {
            record.sequence = sequence;
            record.error = Some(filler.clone());
        };
        journal.update(id(1), change).await.unwrap();
    }
    see(&journal, 2, 1).await;
    drop(journal);
    let length = fs::metadata(folder.path().join(FILE)).unwrap().len();
    assert!(length < COMPACT_ABOVE, "{length}");
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.vmm(id(1)).unwrap().sequence, 9);
    assert_eq!(journal.vmm(id(2)).unwrap().sequence, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Cut anywhere, with or without rubbish after the cut: a prefix of the updates is found,
    /// and it holds all whose lines are whole.
    #[test]
    fn a_torn_end_costs_only_what_was_never_promised(
        count in 1u64..8, cut in 0usize..4000, rubbish in proptest::collection::vec(any::<u8>(), 0..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let journal = Journal::open(folder.path()).unwrap();
            for sequence in 1..=count {
                see(&journal, 1, sequence).await;
            }
        });
        let path = folder.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        let cut = HEADER.len() + cut % (bytes.len() - HEADER.len() + 1);
        bytes.truncate(cut);
        let whole = bytes[HEADER.len()..].iter().filter(|b| **b == b'\n').count() as u64;
        // A torn line: no line end in it, or it would be two damaged lines, which are no torn end.
        bytes.extend(rubbish.iter().map(|b| if *b == b'\n' { b'x' } else { *b }));
        fs::write(&path, &bytes).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let found = journal.vmm(id(1)).map_or(0, |r| r.sequence);
        prop_assert_eq!(found, whole);
        runtime.block_on(see(&journal, 1, 99));
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        prop_assert_eq!(journal.vmm(id(1)).unwrap().sequence, 99);
    }
}
