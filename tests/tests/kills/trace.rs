//! One request id, followed from REST through the logs of controllers and agents.

use std::fs;
use std::path::Path;

use berth_tests::net::TestNet;
use berth_tests::skip;
use serde_json::Value;

use crate::rig::{Ended, Op, Rig, Server};
use crate::sweep::{order, say};

/// The steps of a simulated build.
const STEPS: [&str; 6] = [
    "make_directory",
    "fetch_images",
    "make_disks",
    "make_config_drive",
    "wire_ports",
    "start_process",
];

/// A log's lines that carry the request id, as `message` and all fields.
fn lines(log: &Path, request_id: &str) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let lines = text.lines().filter(|line| line.contains(request_id));
    let parsed = lines.map(|line| serde_json::from_str(line).unwrap());
    parsed.filter(|line| carries(line, request_id)).collect()
}

/// As a field of its own or of a span, not somewhere in a text.
fn carries(line: &Value, request_id: &str) -> bool {
    let spans = line["spans"].as_array();
    let mut all = spans.into_iter().flatten().chain([line, &line["span"]]);
    all.any(|fields| fields["request_id"] == request_id)
}

fn with<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    let said = |line: &&Value| line["message"] == message;
    lines.iter().filter(said).collect()
}

/// Asks for a server: its request id, once it is there.
fn build(rig: &mut Rig, server: &mut Server) -> String {
    let (method, path, body) = rig.request(Op::Create, server);
    let answer = rig.rest.once(&method, &path, &body).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    server.id = answer.body["server"]["id"].as_str().unwrap().to_owned();
    assert_eq!(rig.settled(Op::Create, server), Ended::Reached);
    assert!(
        answer.request_id.starts_with("req-"),
        "{}",
        answer.request_id
    );
    answer.request_id
}

/// What both controllers say of a request.
fn of_controllers(rig: &Rig, request_id: &str) -> Vec<Value> {
    let logs = rig.cloud.controllers.iter().map(|c| &c.log);
    logs.flat_map(|log| lines(log, request_id)).collect()
}

fn tell(request_id: &str, lines: &[Value]) {
    say(&format!("{request_id}:"));
    for line in lines {
        say(&format!(
            "  {} {}: {}{}",
            line["timestamp"].as_str().unwrap_or_default(),
            line["target"].as_str().unwrap_or_default(),
            line["message"].as_str().unwrap_or_default(),
            line["step"]
                .as_str()
                .map(|step| format!(" {step}"))
                .unwrap_or_default(),
        ));
    }
}

#[test]
fn one_request_id_is_followed_through_a_build_and_through_an_agents_death() {
    if let Some(why) = skip::missing_for_hosts() {
        skip!("{why}");
    }
    let net = TestNet::new().unwrap();
    let mut rig = Rig::start(&net);
    let agent_log = rig.cloud.agents[0].log.clone();

    let mut server = rig.named("works", 0);
    let request_id = build(&mut rig, &mut server);
    let control = of_controllers(&rig, &request_id);
    let agent = lines(&agent_log, &request_id);
    tell(&request_id, &[control.as_slice(), &agent].concat());
    assert_eq!(with(&control, "answered").len(), 1, "REST says it once");
    assert_eq!(with(&control, "command sent").len(), 1);
    assert_eq!(with(&control, "result").len(), 1);
    assert_eq!(with(&agent, "accepted").len(), 1);
    let steps: Vec<_> = with(&agent, "step done")
        .iter()
        .map(|l| l["step"].clone())
        .collect();
    assert_eq!(steps, STEPS);
    assert_eq!(with(&agent, "done").len(), 1);
    let other = rig.cloud.agents[1].log.clone();
    assert!(
        lines(&other, &request_id).is_empty(),
        "the other host knows nothing of it"
    );

    // The agent dies when the disks are made, and goes on in its next life under the same id.
    let mut server = rig.named("agent-killed", 0);
    let file = rig.order_file(Some(0));
    order(&file, "agent.step.done:3");
    let deaths = rig.deaths;
    let request_id = build(&mut rig, &mut server);
    assert_eq!(rig.deaths, deaths + 1);
    let agent = lines(&agent_log, &request_id);
    let control = of_controllers(&rig, &request_id);
    tell(&request_id, &[control.as_slice(), &agent].concat());
    let log = fs::read_to_string(&agent_log).unwrap();
    let start = log.rfind("the agent starts").unwrap();
    let (before, after) = log.split_at(start);
    assert!(before.contains(&request_id) && after.contains(&request_id));
    assert_eq!(with(&agent, "done").len(), 1);
    assert_eq!(with(&control, "result").len(), 1);
}
