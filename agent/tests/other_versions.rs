//! What an agent does with what another version of it left in the journal.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod kit;

use berth_rpc_types::{Command, Envelope, Outcome, VmmState};
use kit::{Rig, build, vmm};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;

/// A command of which this version knows nothing, as the other version's journal has it.
fn unknown(rig: &mut Rig, sequence: u64) -> Envelope {
    let mut envelope = rig.envelope(vmm(1), sequence, &Command::Pause);
    envelope.method = "vmm.shelve".into();
    envelope
}

/// The VMM's record, as the journal's file has it.
fn record(rig: &Rig) -> Value {
    let text = fs::read_to_string(rig.folder.path().join("agent/journal")).unwrap();
    let lines = text.split_inclusive('\n').skip(1);
    let batches = lines.filter_map(|line| serde_json::from_str::<Vec<Value>>(&line[9..]).ok());
    let records = batches.flatten().filter(|record| record["vmm"].is_object());
    records.last().unwrap()
}

/// Builds the guest and stops the agent when it has nothing left to write.
async fn built_and_stopped(rig: &mut Rig) {
    rig.order(vmm(1), 1, &build()).await;
    rig.until(|| {
        let vmm = &record(rig)["vmm"];
        let confirmed = &vmm["entries"][0]["phase"]["done"]["confirmed"];
        (*confirmed == json!(true) && vmm["acknowledged"] == vmm["observation"]).then_some(())
    })
    .await;
    rig.stop_agent().await;
}

/// Adds the command to the VMM's record in the journal of the stopped agent.
fn journalled(rig: &Rig, envelope: &Envelope, phase: &Value, attempts: u32) {
    let mut record = record(rig);
    record["vmm"]["sequence"] = json!(envelope.sequence);
    let entry = json!({ "envelope": envelope, "phase": phase, "attempts": attempts });
    record["vmm"]["entries"].as_array_mut().unwrap().push(entry);
    let json = serde_json::to_string(&[record]).unwrap();
    let path = rig.folder.path().join("agent/journal");
    let mut file = fs::File::options().append(true).open(path).unwrap();
    writeln!(file, "{:08x} {json}", crc32fast::hash(json.as_bytes())).unwrap();
}

#[tokio::test]
async fn what_another_version_began_is_neither_answered_nor_undone() {
    for phase in [json!({"running": "offload"}), json!("accepted")] {
        let mut rig = Rig::new().await;
        built_and_stopped(&mut rig).await;
        let begun = unknown(&mut rig, 2);
        journalled(&rig, &begun, &phase, 1);
        rig.start_agent();
        rig.ready().await;
        rig.unanswered(&[&begun]).await;

        // Asked again, it is known and nothing new; what comes after it waits for it.
        rig.send(&begun).await;
        let after = rig.envelope(vmm(1), 3, &Command::Pause);
        rig.send(&after).await;
        rig.unanswered(&[&begun, &after]).await;
        assert_eq!(rig.machine.guest(vmm(1)).unwrap().boots, 1);

        // A delete has the say over both, as over any work.
        let delete = rig.envelope(vmm(1), 4, &Command::Delete);
        rig.send(&delete).await;
        let superseded = Outcome::Superseded { by: 4 };
        assert_eq!(rig.answer_to(&begun).await, superseded);
        assert_eq!(rig.answer_to(&after).await, superseded);
        let gone = rig.answer_to(&delete).await;
        assert!(gone.is_done_in(VmmState::Deleted), "{gone:?}");
        assert!(rig.machine.guests().is_empty());
    }
}

#[tokio::test]
async fn what_another_version_accepted_and_never_began_leaves_nothing() {
    let mut rig = Rig::new().await;
    built_and_stopped(&mut rig).await;
    let accepted = unknown(&mut rig, 2);
    journalled(&rig, &accepted, &json!("accepted"), 0);
    rig.start_agent();
    rig.ready().await;
    let outcome = rig.answer_to(&accepted).await;
    let said = matches!(&outcome, Outcome::Failed { undone: true, message, .. } if message.contains("vmm.shelve"));
    assert!(said, "{outcome:?}");
    // The guest is none the worse.
    let outcome = rig.order(vmm(1), 3, &Command::Pause).await;
    let paused = outcome.is_done_in(VmmState::Paused);
    assert!(paused, "{outcome:?}");
}

#[tokio::test]
async fn a_method_that_is_not_known_was_never_begun_unless_the_journal_says_so() {
    let mut rig = Rig::new().await;
    rig.order(vmm(1), 1, &build()).await;
    let new = unknown(&mut rig, 2);
    rig.send(&new).await;
    let outcome = rig.answer_to(&new).await;
    assert_eq!(outcome, Outcome::Unsupported { min: 1, max: 1 });
}
