//! The kill points off an operation's ordinary path, each brought about in its own way.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use berth_rpc::Address;
use berth_rpc::clock::{SystemClock, SystemRng};
use berth_rpc_types::{Envelope, HostId, MessageId, OperationId, VmmId};
use serde_json::json;

use crate::rig::{Ended, Op, PATIENCE, Rig, Server};
use crate::sweep::{Before, Table, order};

/// The points that [`all`] hits; the sweep over operations need not try them.
pub const POINTS: &[&str] = &[
    "agent.journal.compacted",
    "agent.journal.renamed",
    "agent.lost.removed",
    "agent.refusal.latched",
    "agent.refusal.published",
    "agent.start.drawn",
    "agent.undo.journalled",
    "agent.undo.step",
    "controller.account.committed",
    "controller.certificate.committed",
    "controller.dead_letter.folded",
    "controller.join.committed",
    "controller.outbox.unroutable",
    "controller.result.passed_on",
    "controller.timeline.begun",
];

/// Each of them once.
pub fn all(rig: &mut Rig, table: &mut Table) {
    for point in ["agent.undo.journalled", "agent.undo.step"] {
        a_build_is_being_undone(rig, table, point);
    }
    a_command_of_another_epoch_is_refused(rig, table);
    a_message_is_no_command(rig, table);
    for point in ["agent.journal.compacted", "agent.journal.renamed"] {
        the_journal_is_compacted(rig, table, point);
    }
    for point in [
        "controller.join.committed",
        "controller.certificate.committed",
        "controller.account.committed",
    ] {
        a_host_joins(rig, table, point);
    }
    an_agent_starts(rig, table);
    a_controller_starts(rig, table);
    a_host_refuses_the_database(rig, table);
    a_guest_was_given_away(rig, table);
    a_host_has_no_queue(rig, table);
    an_answer_is_in_newer_words(rig, table);
}

/// Waits until the process that was ordered to die has done so, and runs again.
fn died(rig: &mut Rig, file: &Path, deaths: usize, point: &str) -> Instant {
    let end = Instant::now() + PATIENCE;
    while file.exists() || rig.deaths == deaths {
        assert!(
            Instant::now() < end,
            "{point} was not reached\n{}",
            rig.logs()
        );
        sleep(Duration::from_millis(10));
        rig.tend();
    }
    assert_eq!(rig.deaths, deaths + 1, "{point}");
    Instant::now()
}

fn finish(
    rig: &mut Rig,
    table: &mut Table,
    point: &str,
    during: &str,
    outcome: &str,
    from: Instant,
) {
    table.add(point, during, outcome, from.elapsed());
    rig.bystanders_never_noticed();
    rig.audit();
}

/// The host cannot make the disks, so what was made is taken back; the agent dies at that. The
/// build is then tried on the other host, and works.
fn a_build_is_being_undone(rig: &mut Rig, table: &mut Table, point: &str) {
    let (file, deaths) = (rig.order_file(Some(0)), rig.deaths);
    let order_to_fail = rig
        .cloud
        .dir()
        .join("simulated-0/simulated/fail-make_disks");
    fs::write(&order_to_fail, "no space is left for the disks").unwrap();
    order(&file, point);
    let mut server = Server {
        anywhere: true,
        ..rig.named("undone", 0)
    };
    let before = Before::look(rig, Op::Create, &server);
    rig.enable(1, false);
    rig.ask(Op::Create, &mut server);
    let placed = format!("SELECT 1 FROM vmms WHERE instance_id = '{}'", server.id);
    let end = Instant::now() + PATIENCE;
    while rig.sql(&placed) != "1" {
        assert!(Instant::now() < end, "{point}: not placed");
        sleep(Duration::from_millis(5));
    }
    rig.enable(1, true);
    let begun = died(rig, &file, deaths, point);
    assert!(!order_to_fail.exists(), "{point}: the step did not fail");
    assert_eq!(rig.settled(Op::Create, &server), Ended::Reached, "{point}");
    before.happened_once(rig, Op::Create, &server, point);
    let made = format!(
        "SELECT COUNT(*) FROM vmms WHERE instance_id = '{}'",
        server.id
    );
    assert_eq!(
        rig.sql(&made),
        "2",
        "{point}: one VMM undone, one made elsewhere"
    );
    finish(rig, table, point, "a failed build", "tried again", begun);
    rig.carry_out(Op::Delete, &mut server);
}

fn publish(rig: &Rig, address: Address, message_id: &MessageId, payload: Vec<u8>) {
    let url = rig.cloud.rabbit.url();
    rig.rest.runtime.block_on(async {
        let clock = Arc::new(SystemClock::default());
        let transport = berth_rpc::connect(
            &[url],
            berth_rpc::Client::named("a stranger"),
            clock,
            Arc::new(SystemRng),
        );
        let transport = transport.unwrap();
        let id = message_id.to_string();
        let sent = transport.publish(address, &id, payload.into());
        sent.await.unwrap();
        transport.close().await;
    });
}

fn host_id(rig: &Rig, agent: usize) -> HostId {
    let name = &rig.cloud.agents[agent].name;
    let id = rig.sql(&format!("SELECT id FROM hosts WHERE hostname = '{name}'"));
    id.parse().unwrap()
}

/// A command from before a fence: refused, with an answer that the controllers fold away.
fn a_command_of_another_epoch_is_refused(rig: &mut Rig, table: &mut Table) {
    let point = "agent.refusal.published";
    let (file, deaths) = (rig.order_file(Some(0)), rig.deaths);
    let host = host_id(rig, 0);
    let message_id = MessageId::from_u128(0x0e90_c401);
    let envelope = Envelope {
        message_id,
        operation_id: OperationId::from_u128(2),
        step: "build".into(),
        attempt: 1,
        host_id: host,
        vmm_id: VmmId::from_u128(0x0e90_c402),
        sequence: 1,
        host_epoch: 0,
        command: String::new(),
        subject: None,
        host_number: None,
        timeline: None,
        lineage: String::new(),
        begin_by: None,
        silence_limit: 60,
        method: "vmm.delete".into(),
        version: 1,
        request_id: "req-of-another-epoch".into(),
        traceparent: None,
        body: json!({}),
    };
    order(&file, point);
    publish(
        rig,
        Address::Agent(host),
        &message_id,
        serde_json::to_vec(&envelope).unwrap(),
    );
    let begun = died(rig, &file, deaths, point);
    // It was not acknowledged, so it comes again, and is refused again.
    wait_for_empty_queue(rig, Address::Agent(host));
    finish(rig, table, point, "a stale command", "refused", begun);
}

/// Until everything there is acknowledged or rejected.
fn wait_for_empty_queue(rig: &mut Rig, address: Address) {
    let queue = address.to_string();
    let end = Instant::now() + PATIENCE;
    loop {
        let rows = rig
            .cloud
            .rabbit
            .ctl(&["list_queues", "name", "messages"])
            .unwrap();
        let row = rows
            .lines()
            .find(|row| row.starts_with(&queue))
            .unwrap_or_default();
        if row.split_whitespace().last() == Some("0") {
            return;
        }
        assert!(Instant::now() < end, "{queue} is not emptied: {rows}");
        rig.tend();
    }
}

/// Bytes that are no command go to the dead letters, and a controller consumes those.
fn a_message_is_no_command(rig: &mut Rig, table: &mut Table) {
    let point = "controller.dead_letter.folded";
    let (file, deaths) = (rig.order_file(None), rig.deaths);
    let host = host_id(rig, 0);
    order(&file, point);
    publish(
        rig,
        Address::Agent(host),
        &MessageId::from_u128(0xdead),
        b"no command".to_vec(),
    );
    let begun = died(rig, &file, deaths, point);
    wait_for_empty_queue(rig, Address::Agent(host));
    finish(rig, table, point, "a malformed message", "consumed", begun);
}

/// A journal of some age: its last line said again until it is worth compacting.
fn the_journal_is_compacted(rig: &mut Rig, table: &mut Table, point: &str) {
    let file = rig.order_file(Some(0));
    let journal = rig.cloud.dir().join("simulated-0/journal");
    rig.cloud.agents[0].kill9().unwrap();
    let bytes = fs::read(&journal).unwrap();
    let last = bytes
        .trim_ascii_end()
        .rsplit(|b| *b == b'\n')
        .next()
        .unwrap();
    let mut grown = fs::OpenOptions::new().append(true).open(&journal).unwrap();
    let times = (17 << 20) / last.len();
    let line = [last, b"\n"].concat().repeat(times);
    grown.write_all(&line).unwrap();
    drop(grown);
    rig.tend();
    let deaths = rig.deaths;
    let mut server = rig.named("journalled", 0);
    order(&file, point);
    let begun = Instant::now();
    rig.carry_out(Op::Create, &mut server);
    died(rig, &file, deaths, point);
    rig.carry_out(Op::Delete, &mut server);
    let small = fs::metadata(&journal).unwrap().len();
    assert!(small < 4 << 20, "the journal still has {small} bytes");
    finish(rig, table, point, "create", "finished", begun);
}

/// It dies before it has told of its start, and tells of the same one then: its host's epoch stays.
fn an_agent_starts(rig: &mut Rig, table: &mut Table) {
    let point = "agent.start.drawn";
    let epoch = "SELECT epoch FROM hosts WHERE hostname = 'simulated-0'";
    let before = rig.sql(epoch);
    let file = rig.order_file(Some(0));
    order(&file, point);
    rig.cloud.agents[0].kill9().unwrap();
    rig.tend();
    let deaths = rig.deaths;
    let begun = died(rig, &file, deaths, point);
    let mut server = rig.named("started", 0);
    rig.carry_out(Op::Create, &mut server);
    rig.carry_out(Op::Delete, &mut server);
    assert_eq!((before.as_str(), rig.sql(epoch)), ("1", before.clone()));
    finish(
        rig,
        table,
        point,
        "an agent's start",
        "started again",
        begun,
    );
}

/// It dies when it has begun a timeline, and begins another one.
fn a_controller_starts(rig: &mut Rig, table: &mut Table) {
    let point = "controller.timeline.begun";
    let newest = "SELECT MAX(number) FROM timelines";
    let before: i64 = rig.sql(newest).parse().unwrap();
    let file = rig.order_file(None);
    order(&file, point);
    rig.cloud.controllers[0].kill9().unwrap();
    rig.tend();
    let deaths = rig.deaths;
    let begun = died(rig, &file, deaths, point);
    let mut server = rig.named("timed", 0);
    rig.carry_out(Op::Create, &mut server);
    rig.carry_out(Op::Delete, &mut server);
    assert!(rig.sql(newest).parse::<i64>().unwrap() >= before + 2);
    finish(
        rig,
        table,
        point,
        "a controller's start",
        "started again",
        begun,
    );
}

/// A host finds that the database is older than what it knows, and dies when it has written that down:
/// it refuses it still when it is back, and obeys when an operator has accepted it.
fn a_host_refuses_the_database(rig: &mut Rig, table: &mut Table) {
    let point = "agent.refusal.latched";
    let host = host_id(rig, 0);
    rig.cloud.agents[0].kill9().unwrap();
    rig.away = Some(0);
    // The next timeline begins, and notes less of the host than its agent knows.
    rig.cloud.controllers[0].kill9().unwrap();
    let newest = "SELECT MAX(number) FROM timelines";
    let before = rig.sql(newest);
    rig.tend();
    let end = Instant::now() + PATIENCE;
    while rig.sql(newest) == before {
        assert!(Instant::now() < end, "no timeline begins");
        sleep(Duration::from_millis(10));
    }
    rig.sql(&format!(
        "UPDATE host_timelines SET epoch = 0 WHERE host_id = '{host}'"
    ));
    let file = rig.order_file(Some(0));
    order(&file, point);
    rig.away = None;
    rig.tend();
    let deaths = rig.deaths;
    let begun = died(rig, &file, deaths, point);
    let told = format!("SELECT 1 FROM refusals WHERE host_id = '{host}' AND records IS NOT NULL");
    while rig.sql(&told) != "1" {
        assert!(Instant::now() < end, "it does not say what it has");
        sleep(Duration::from_millis(10));
    }
    // The other host has to have said that it obeys.
    let controller = &rig.cloud.controllers[0];
    let said = loop {
        let mut accept = std::process::Command::new(&controller.program);
        accept.arg("--config").arg(&controller.config);
        accept.args(["lineage", "accept"]);
        match berth_tests::process::check(accept, PATIENCE) {
            Ok(said) => break said,
            Err(error) => assert!(Instant::now() < end, "{error:#}"),
        }
        sleep(Duration::from_millis(100));
    };
    assert!(!said.contains("lost") && !said.contains("stray"), "{said}");
    let mut server = rig.named("accepted", 0);
    rig.carry_out(Op::Create, &mut server);
    rig.carry_out(Op::Delete, &mut server);
    finish(
        rig,
        table,
        point,
        "a restored database",
        "refused, accepted",
        begun,
    );
}

/// The answer to a join, or to what follows it, is lost with its controller: the host asks again.
fn a_host_joins(rig: &mut Rig, table: &mut Table, point: &str) {
    let file = rig.order_file(None);
    rig.cloud.agents[1].kill9().unwrap();
    fs::remove_file(rig.cloud.dir().join("simulated-1/join.json")).unwrap();
    order(&file, point);
    rig.tend();
    let deaths = rig.deaths;
    let begun = died(rig, &file, deaths, point);
    let mut server = rig.named("joined", 1);
    rig.carry_out(Op::Create, &mut server);
    rig.carry_out(Op::Delete, &mut server);
    finish(rig, table, point, "join", "finished", begun);
}

/// What a fence will do: the database gives a VMM away, and its host removes it.
fn a_guest_was_given_away(rig: &mut Rig, table: &mut Table) {
    let point = "agent.lost.removed";
    let (file, deaths) = (rig.order_file(Some(0)), rig.deaths);
    let mut server = rig.named("given-away", 0);
    rig.carry_out(Op::Create, &mut server);
    order(&file, point);
    rig.sql(&format!(
        "UPDATE vmms SET lost_at = 1 WHERE instance_id = '{}'",
        server.id
    ));
    let begun = died(rig, &file, deaths, point);
    let end = Instant::now() + PATIENCE;
    while rig.guest(&server).is_some() {
        assert!(Instant::now() < end, "{point}: the guest is still there");
        sleep(Duration::from_millis(20));
    }
    rig.carry_out(Op::Delete, &mut server);
    finish(
        rig,
        table,
        point,
        "removal of a lost guest",
        "removed",
        begun,
    );
}

/// A host is dead and its queue gone: the command never left, and the stop says so.
fn a_host_has_no_queue(rig: &mut Rig, table: &mut Table) {
    let point = "controller.outbox.unroutable";
    let mut server = rig.named("unreachable", 1);
    rig.carry_out(Op::Create, &mut server);
    let host = host_id(rig, 1);
    rig.cloud.agents[1].kill9().unwrap();
    let queue = Address::Agent(host).to_string();
    rig.cloud.rabbit.ctl(&["delete_queue", &queue]).unwrap();
    rig.away = Some(1);
    // A controller that has declared the queue would make it again; these have not.
    for controller in &mut rig.cloud.controllers {
        controller.kill9().unwrap();
    }
    rig.tend();
    // Until it counts as down.
    let end = Instant::now() + PATIENCE;
    let down = format!(
        "SELECT 1 FROM host_beats h, beats c WHERE h.host_id = '{host}' AND c.beat - h.beat > 15"
    );
    while rig.sql(&down) != "1" {
        assert!(Instant::now() < end, "{point}: the host is not down");
        sleep(Duration::from_millis(200));
    }
    let file = rig.order_file(None);
    order(&file, point);
    let (method, path, body) = rig.request(Op::Stop, &server);
    let accepted = rig.rest.once(&method, &path, &body).unwrap();
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let deaths = rig.deaths;
    let begun = died(rig, &file, deaths, point);
    let end = Instant::now() + PATIENCE;
    while rig.operations(Op::Stop, &server) != ["failed"] {
        assert!(
            Instant::now() < end,
            "{point}: the stop does not end\n{}",
            rig.logs()
        );
        sleep(Duration::from_millis(50));
    }
    let said = rig.sql(&format!(
        "SELECT error FROM operations WHERE instance_id = '{}' AND kind = 'stop'",
        server.id
    ));
    assert!(said.contains("start berth-agent there"), "{point}: {said}");
    table.add(point, "stop on a dead host", "clear error", begun.elapsed());
    // The agent comes back, and the host's queue with it.
    rig.away = None;
    rig.tend();
    while rig.sql(&down) == "1" {
        assert!(Instant::now() < end, "{point}: the host stays down");
        sleep(Duration::from_millis(50));
    }
    rig.carry_out(Op::Delete, &mut server);
    finish(rig, table, point, "delete after it", "finished", begun);
}

/// An answer that only a newer controller knows goes round, twice after the death, until the
/// operation that it is for is over.
fn an_answer_is_in_newer_words(rig: &mut Rig, table: &mut Table) {
    let point = "controller.result.passed_on";
    let (file, deaths) = (rig.order_file(None), rig.deaths);
    let mut server = rig.named("answered-in-newer-words", 1);
    rig.carry_out(Op::Create, &mut server);
    rig.cloud.agents[1].kill9().unwrap();
    rig.away = Some(1);
    rig.ask(Op::Stop, &mut server);
    let command = format!(
        "SELECT b.envelope FROM outbox b JOIN operations o ON o.id = b.operation_id \
         WHERE o.instance_id = '{}' AND o.kind = 'stop' AND b.result IS NULL",
        server.id
    );
    let end = Instant::now() + PATIENCE;
    let command: Envelope = loop {
        if let Ok(command) = serde_json::from_str(&rig.sql(&command)) {
            break command;
        }
        assert!(Instant::now() < end, "{point}: the stop has no command");
        sleep(Duration::from_millis(10));
    };
    let mut answer = serde_json::to_value(&command).unwrap();
    answer["outcome"] = json!({"outcome": "handed_over", "generation": 2});
    order(&file, point);
    let payload = serde_json::to_vec(&answer).unwrap();
    publish(rig, Address::Results, &command.message_id, payload);
    let begun = died(rig, &file, deaths, point);
    rig.away = None;
    rig.tend();
    assert_eq!(rig.settled(Op::Stop, &server), Ended::Reached, "{point}");
    wait_for_empty_queue(rig, Address::Results);
    rig.carry_out(Op::Delete, &mut server);
    finish(rig, table, point, "stop", "finished", begun);
}
