//! `kill -9` at every kill point of the agent (those of the KVM driver aside, which need KVM):
//! after the next start every command has ended, once, as it would have without the kill.
//!
//! The agent, its broker and its controller's double run in a child process, which is this
//! test program again; what outlives the kill is the state directory, the simulated machine's
//! folder, and the file of answers that stands for the controller's database.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod kit;

use berth_agent::SimulatedHost;
use berth_agent::journal::Journal;
use berth_agent::options::SimulatedOptions;
use berth_rpc::clock::{SeededRng, SystemClock};
use berth_rpc::kill_point::names_in;
use berth_rpc::{Address, ConsumeOptions, Faults, InProcess};
use berth_rpc_types::{
    Command, CommandResult, Envelope, MessageId, OperationId, Outcome, VmmId, VmmState,
};
use kit::{DoubleController, build, options, service, start, vmm};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const FOLDER: &str = "BERTH_SWEEP_FOLDER";

/// What the controller orders, one after the other.
fn orders() -> Vec<(VmmId, u64, Command)> {
    vec![
        (vmm(1), 1, build()),
        (vmm(1), 2, Command::Stop { grace_s: 0 }),
        (vmm(1), 3, start()),
        // No disks: fails and is undone.
        (vmm(2), 1, start()),
        (
            vmm(1),
            4,
            Command::Reboot {
                soft: false,
                grace_s: 0,
            },
        ),
        // Late: refused.
        (vmm(1), 2, Command::Pause),
        (vmm(3), 1, build()),
        (vmm(1), 5, Command::Delete),
    ]
}

fn as_expected(index: usize, outcome: &Outcome) -> bool {
    let done = |wanted| outcome.is_done_in(wanted);
    match index {
        0 | 2 | 4 | 6 => done(VmmState::Running),
        1 => done(VmmState::Stopped),
        3 => matches!(outcome, Outcome::Failed { undone: true, .. }),
        5 => matches!(outcome, Outcome::Superseded { by: 4 }),
        7 => done(VmmState::Deleted),
        _ => false,
    }
}

/// The answers that the controller has folded in, by message.
fn answers(folder: &Path) -> BTreeMap<MessageId, Vec<CommandResult>> {
    let text = std::fs::read_to_string(folder.join("answers")).unwrap_or_default();
    let mut answers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in text.lines() {
        let result: CommandResult = serde_json::from_str(line).unwrap();
        answers.entry(result.message_id).or_default().push(result);
    }
    answers
}

fn note(folder: &Path, result: &CommandResult) {
    let line = serde_json::to_string(result).unwrap() + "\n";
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("answers"));
    file.unwrap().write_all(line.as_bytes()).unwrap();
}

/// Journal compaction needs a large journal: one of its own.
async fn compaction(folder: &Path) {
    let folder = folder.join("large");
    std::fs::create_dir_all(&folder).unwrap();
    let journal = Journal::open(&folder).unwrap();
    let reached = journal.vmm(vmm(1)).map_or(0, |record| record.sequence);
    let filler = "x".repeat(700_000);
    for sequence in reached + 1..=8 {
        let change = |record: &mut berth_agent::record::VmmRecord| {
            assert_eq!(record.sequence + 1, sequence, "an update was lost");
            record.sequence = sequence;
            record.error = Some(filler.clone());
        };
        journal.update(vmm(1), change).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "runs as the sweep's child"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    compaction(folder).await;
    let clock = Arc::new(SystemClock::default());
    let machine = SimulatedHost::new(
        SimulatedOptions::default(),
        clock.clone(),
        Some(&folder.join("machine")),
    )
    .unwrap();
    let broker = InProcess::new(Faults::default(), Arc::new(SeededRng::new(1)), clock);
    let transport = broker.transport();
    let consume = transport.consume(Address::Results, ConsumeOptions { prefetch: 9 });
    let mut results = consume.await.unwrap();
    let controller = DoubleController::new();
    let accept = |controller: &DoubleController| {
        let mut double = controller.0.lock().unwrap();
        double.lineage = "db-2".into();
        double.follows = Some("db-1".into());
        double.refused = None;
    };
    let refused = folder.join("refused");
    if refused.exists() {
        accept(&controller);
    }
    // It is the same database at each start, and has counted on.
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    controller.0.lock().unwrap().counter = now.as_millis().try_into().unwrap();
    let options = options(folder);
    let (service, handle) = service(&options, &machine, broker.transport(), &controller);
    let host_id = handle.host_id();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(service.run(shutdown.clone()));
    let queue = Address::Agent(host_id);
    transport.declare(queue).await.unwrap();
    for (index, (vmm_id, sequence, command)) in orders().into_iter().enumerate() {
        let message_id = MessageId::from_u128(index as u128 + 1);
        if answers(folder).contains_key(&message_id) {
            continue;
        }
        if index == 7
            && let Some(guest) = machine.guest(vmm_id)
        {
            assert_eq!(guest.boots, 3, "built, started and rebooted once each");
        }
        let envelope = Envelope {
            message_id,
            operation_id: OperationId::from_u128(index as u128 + 1),
            step: "sweep".into(),
            attempt: 1,
            host_id,
            vmm_id,
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
            request_id: format!("req-{index}"),
            traceparent: None,
            body: command.body(),
        };
        let payload = serde_json::to_vec(&envelope).unwrap();
        transport
            .publish(queue, &message_id.to_string(), payload.into())
            .await
            .unwrap();
        while !answers(folder).contains_key(&message_id) {
            let next = tokio::time::timeout(kit::PATIENCE, results.next()).await;
            let delivery = next.expect("an answer in time").unwrap();
            note(folder, &serde_json::from_slice(&delivery.payload).unwrap());
            delivery.ack().await.unwrap();
        }
    }
    // And one is given away.
    controller.0.lock().unwrap().lost = vec![vmm(3)];
    let told = || {
        controller
            .0
            .lock()
            .unwrap()
            .seen
            .get(&vmm(3))
            .map(|o| o.state)
    };
    let begun = std::time::Instant::now();
    while told() != Some(VmmState::Deleted) {
        assert!(begun.elapsed() < kit::PATIENCE, "{:?}", told());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // And the database is refused, and accepted.
    if !refused.exists() {
        std::fs::write(&refused, "").unwrap();
        controller.0.lock().unwrap().refused = Some("older".into());
        while handle.not_consuming_because() != ["older"] {
            assert!(begun.elapsed() < kit::PATIENCE, "it is not refused");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        accept(&controller);
    }
    handle.consuming().await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

/// Runs the child; whether it was killed.
fn run(folder: &Path, kill_point: Option<&str>) -> bool {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored"])
        .env(FOLDER, folder)
        .env_remove("BERTH_KILL_POINT");
    if let Some(kill_point) = kill_point {
        command.env("BERTH_KILL_POINT", kill_point);
    }
    let output = command.output().unwrap();
    if output.status.signal() == Some(9) {
        return true;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{kill_point:?}: {said}");
    false
}

fn verify(folder: &Path, kill_point: &str) {
    let answers = answers(folder);
    for index in 0..orders().len() {
        let all = &answers[&MessageId::from_u128(index as u128 + 1)];
        assert!(
            all.windows(2).all(|pair| pair[0] == pair[1]),
            "{kill_point}: two answers: {all:?}"
        );
        let outcome = &all[0].outcome;
        assert!(
            as_expected(index, outcome),
            "{kill_point}: order {index}: {outcome:?}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.join("machine"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(
        left.is_empty(),
        "{kill_point}: left on the machine: {left:?}"
    );
}

#[test]
fn a_kill_at_any_point_costs_time_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let of_kvm = names_in(&source.join("kvm")).unwrap();
    let mut names = names_in(&source).unwrap();
    names.retain(|name| !of_kvm.contains(name));
    assert!(names.len() > 10, "{names:?}");
    // The first pass of each, and a later one where there is one.
    for name in &names {
        for nth in [1, 5] {
            let folder = tempfile::tempdir().unwrap();
            let kill_point = format!("{name}:{nth}");
            let killed = run(folder.path(), Some(&kill_point));
            assert!(killed || nth > 1, "{name} is never reached");
            if killed {
                assert!(!run(folder.path(), None));
                verify(folder.path(), &kill_point);
            }
        }
    }
}
