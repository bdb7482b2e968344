//! The cloud whose processes are killed, the client that works on it, and what is looked at
//! after each kill.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use berth_tests::cloud::{Cloud, Plan, Service};
use berth_tests::net::TestNet;
use reqwest::Method;
use serde_json::{Value, json};

use crate::rest::{Answer, Rest};

/// What nobody has answered after this never will be: a broker that was killed takes up to 45 s.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const POLL: Duration = Duration::from_millis(15);
/// What a process killed in the middle of a COMMIT sent may still come true for so long.
const IN_DOUBT: Duration = Duration::from_millis(200);

/// What a user asks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Create,
    Stop,
    Start,
    Reboot,
    Delete,
}

impl Op {
    /// A server's life, in order.
    pub const ALL: [Self; 5] = [
        Self::Create,
        Self::Stop,
        Self::Start,
        Self::Reboot,
        Self::Delete,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Reboot => "reboot",
            Self::Delete => "delete",
        }
    }

    /// The server's status after it; deleted ones have none.
    const fn wanted(self) -> Option<&'static str> {
        match self {
            Self::Create | Self::Start | Self::Reboot => Some("ACTIVE"),
            Self::Stop => Some("SHUTOFF"),
            Self::Delete => None,
        }
    }
}

/// A server of the test's.
#[derive(Clone, Debug)]
pub struct Server {
    pub name: String,
    pub id: String,
    /// The agent on whose host it is.
    pub host: usize,
    /// Its create names no host.
    pub anywhere: bool,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Reached,
    /// With the server's fault.
    Error(String),
}

/// All that can be seen of a server that nobody touches.
#[derive(Clone, Debug, PartialEq)]
struct Picture {
    shown: Value,
    guest: Value,
    observation: String,
}

pub struct Rig {
    pub cloud: Cloud,
    pub rest: Rest,
    /// When a process was last found dead, and how many were.
    pub last_death: Option<Instant>,
    pub deaths: usize,
    /// The log of the process that was last found dead.
    pub last_words: String,
    /// An agent that is left dead.
    pub away: Option<usize>,
    /// More environment of the agents.
    pub agent_env: Vec<(String, String)>,
    image: String,
    flavor: String,
    network: String,
    bystanders: Vec<(Server, Picture)>,
}

impl Rig {
    /// Two controllers on PostgreSQL, two simulated hosts, and on each a server that nobody
    /// touches.
    pub fn start(net: &TestNet) -> Self {
        let plan = Plan {
            controllers: 2,
            postgres: true,
            emulated_hosts: 0,
            simulated_hosts: 2,
        };
        let cloud = Cloud::start(net, plan).unwrap();
        let bases = (0..2).map(|n| cloud.base_url(n).to_owned()).collect();
        let ca = fs::read(cloud.ca()).unwrap();
        let rest = Rest::log_in(bases, &ca, cloud.admin_password()).unwrap();
        let mut rig = Self {
            cloud,
            rest,
            last_death: None,
            deaths: 0,
            last_words: String::new(),
            away: None,
            agent_env: vec![],
            image: String::new(),
            flavor: String::new(),
            network: String::new(),
            bystanders: vec![],
        };
        rig.furnish();
        rig.restart_all();
        for host in 0..2 {
            let mut server = rig.named(&format!("bystander-{host}"), host);
            rig.carry_out(Op::Create, &mut server);
            rig.bystanders.push((server, Picture::none()));
        }
        // Their last reports are folded in.
        sleep(Duration::from_secs(1));
        for at in 0..rig.bystanders.len() {
            let picture = rig.picture(&rig.bystanders[at].0.clone());
            assert_eq!(picture.shown["status"], "ACTIVE");
            rig.bystanders[at].1 = picture;
        }
        rig
    }

    fn furnish(&mut self) {
        let id = |made: Value, kind: &str| made[kind]["id"].as_str().unwrap().to_owned();
        let rest = &self.rest;
        let net = json!({"network": {"name": "net"}});
        let net = rest.make("/network/v2.0/networks", &net).unwrap();
        self.network = id(net, "network");
        let subnet = json!({"subnet": {"network_id": self.network, "ip_version": 4,
            "cidr": "10.0.0.0/16"}});
        rest.make("/network/v2.0/subnets", &subnet).unwrap();
        let image = |about: Value| {
            let made = rest.make("/image/v2/images", &about).unwrap();
            let id = made["id"].as_str().unwrap().to_owned();
            rest.upload(&id, b"bytes").unwrap();
            id
        };
        let kernel =
            image(json!({"name": "kernel", "disk_format": "aki", "container_format": "aki"}));
        self.image = image(json!({"name": "root", "disk_format": "raw",
            "container_format": "bare", "kernel_id": kernel}));
        let flavor = json!({"flavor": {"name": "small", "vcpus": 1, "ram": 128, "disk": 1}});
        self.flavor = id(
            rest.make("/compute/v2.1/flavors", &flavor).unwrap(),
            "flavor",
        );
    }

    /// A server that does not exist yet.
    pub fn named(&self, name: &str, host: usize) -> Server {
        Server {
            name: name.to_owned(),
            id: String::new(),
            host,
            anywhere: false,
        }
    }

    /// Whether a host is given new servers that name none.
    pub fn enable(&self, host: usize, enabled: bool) {
        let name = &self.cloud.agents[host].name;
        let enabled = u8::from(enabled);
        self.sql(&format!(
            "UPDATE hosts SET enabled = {enabled} WHERE hostname = '{name}'"
        ));
    }

    /// Where a controller (`None`: whichever comes first) or an agent is told to die.
    pub fn order_file(&self, agent: Option<usize>) -> PathBuf {
        let name = agent.map_or("controllers".to_owned(), |n| format!("agent-{n}"));
        self.cloud.dir().join(format!("kill-{name}"))
    }

    /// Kills everything and starts it with the environment of this test.
    pub fn restart_all(&mut self) {
        for service in self.services() {
            service.kill9().unwrap();
        }
        self.tend();
        self.deaths = 0;
    }

    pub fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        self.cloud
            .controllers
            .iter_mut()
            .chain(&mut self.cloud.agents)
    }

    /// Starts again what is dead, as an operator's service manager does.
    pub fn tend(&mut self) {
        for at in 0..4_usize {
            let agent = at.checked_sub(2);
            if agent.is_some() && agent == self.away {
                continue;
            }
            let order = self.order_file(agent);
            let order = order.to_str().unwrap().to_owned();
            let extra = self.agent_env.clone();
            let service = self.services().nth(at).unwrap();
            if service.is_alive() {
                continue;
            }
            // Killed, it says nothing; ended by itself, it says why.
            let log = service.log_tail();
            let at = log.rfind("\n  Error: ").unwrap_or(log.len());
            let why: String = log[at..].lines().take(6).collect();
            let last_words = format!("{} {why}", service.name);
            let mut environment = vec![
                ("BERTH_KILL_POINT_FILE", order.as_str()),
                ("BERTH_AGENT_LOG_FORMAT", "json"),
            ];
            environment.extend(extra.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            service.start(&environment).unwrap();
            self.last_words = last_words;
            self.deaths += 1;
            self.last_death = Some(Instant::now());
        }
    }

    /// Asks until some controller answers.
    pub fn get(&mut self, path: &str) -> Answer {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.rest.once(&Method::GET, path, &Value::Null);
            match answer {
                Ok(answer) if answer.status < 500 => return answer,
                other => assert!(
                    Instant::now() < end,
                    "GET {path}: {:?}",
                    other.map(|a| a.body)
                ),
            }
            self.tend();
            sleep(POLL);
        }
    }

    pub fn sql(&self, sql: &str) -> String {
        let postgres = self.cloud.postgres.as_ref().unwrap();
        postgres.query("berth", sql).unwrap().trim().to_owned()
    }

    /// The operations of this kind on the server, each with its end: `done`, `failed`, `running`.
    pub fn operations(&self, op: Op, server: &Server) -> Vec<String> {
        let (kind, id) = (op.name(), &server.id);
        let rows = self.sql(&format!(
            "SELECT state FROM operations WHERE instance_id = '{id}' AND kind = '{kind}'"
        ));
        rows.lines().map(str::to_owned).collect()
    }

    /// Asks for an operation as a user's script does: a request that was not answered is asked
    /// again, unless it turns out that it was accepted.
    pub fn ask(&mut self, op: Op, server: &mut Server) {
        let end = Instant::now() + PATIENCE;
        let before = if op == Op::Create {
            0
        } else {
            self.operations(op, server).len()
        };
        loop {
            let (method, path, body) = self.request(op, server);
            let answer = self.rest.once(&method, &path, &body);
            match answer {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    if op == Op::Create {
                        server.id = answer.body["server"]["id"].as_str().unwrap().to_owned();
                    }
                    return;
                }
                Ok(answer) if answer.status < 500 => {
                    panic!("{op:?} {server:?}: {} {}", answer.status, answer.body)
                }
                _ => {}
            }
            assert!(Instant::now() < end, "{op:?} {server:?}: nobody answers");
            sleep(IN_DOUBT);
            self.tend();
            if self.was_accepted(op, server, before) {
                return;
            }
        }
    }

    fn was_accepted(&mut self, op: Op, server: &mut Server, before: usize) -> bool {
        if op != Op::Create {
            return self.operations(op, server).len() > before;
        }
        let found = self.get(&format!("/compute/v2.1/servers?name=^{}$", server.name));
        let servers = found.body["servers"].as_array().unwrap();
        assert!(servers.len() < 2, "made twice: {servers:?}");
        match servers.first() {
            Some(found) => {
                server.id = found["id"].as_str().unwrap().to_owned();
                true
            }
            None => false,
        }
    }

    pub fn request(&self, op: Op, server: &Server) -> (Method, String, Value) {
        let servers = "/compute/v2.1/servers";
        let one = format!("{servers}/{}", server.id);
        let action = |body| (Method::POST, format!("{one}/action"), body);
        match op {
            Op::Create => {
                let zone = match server.anywhere {
                    true => "nova".to_owned(),
                    false => format!("nova:simulated-{}", server.host),
                };
                let body = json!({"server": {"name": server.name, "imageRef": self.image,
                    "flavorRef": self.flavor, "availability_zone": zone,
                    "networks": [{"uuid": self.network}]}});
                (Method::POST, servers.to_owned(), body)
            }
            Op::Stop => action(json!({"os-stop": null})),
            Op::Start => action(json!({"os-start": null})),
            Op::Reboot => action(json!({"reboot": {"type": "HARD"}})),
            Op::Delete => (Method::DELETE, one, Value::Null),
        }
    }

    /// Waits until an accepted operation has ended.
    pub fn settled(&mut self, op: Op, server: &Server) -> Ended {
        let end = Instant::now() + PATIENCE;
        let path = format!("/compute/v2.1/servers/{}", server.id);
        loop {
            self.tend();
            let answer = self.get(&path);
            let shown = &answer.body["server"];
            let idle = shown["OS-EXT-STS:task_state"].is_null();
            if answer.status == 404 && op == Op::Delete {
                return Ended::Reached;
            }
            if answer.status == 200 && idle && shown["status"] == "ERROR" {
                let fault = shown["fault"]["message"].as_str().unwrap_or_default();
                return Ended::Error(fault.to_owned());
            }
            if answer.status == 200 && idle && shown["status"].as_str() == op.wanted() {
                return Ended::Reached;
            }
            assert!(
                Instant::now() < end,
                "{op:?} {server:?} does not end: {} {shown:#}\n{}",
                answer.status,
                self.logs()
            );
            sleep(POLL);
        }
    }

    /// An operation with nobody being killed.
    pub fn carry_out(&mut self, op: Op, server: &mut Server) {
        self.ask(op, server);
        assert_eq!(
            self.settled(op, server),
            Ended::Reached,
            "{op:?} {server:?}"
        );
    }

    /// What is on a host, by VMM.
    pub fn guests(&self, host: usize) -> BTreeMap<String, Value> {
        let folder = self.cloud.agents[host].name.clone();
        let folder = self.cloud.dir().join(folder).join("simulated");
        let mut guests = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                // It may be going just now.
                if let Ok(bytes) = fs::read(&path) {
                    guests.insert(name, serde_json::from_slice(&bytes).unwrap());
                }
            }
        }
        guests
    }

    /// The one guest of a server, wherever it is; `None` if there is none.
    pub fn guest(&self, server: &Server) -> Option<Value> {
        let rows = self.sql(&format!(
            "SELECT id FROM vmms WHERE instance_id = '{}'",
            server.id
        ));
        let mut found: Vec<Value> = rows
            .lines()
            .flat_map(|vmm| (0..2).map(move |host| (host, vmm)))
            .filter_map(|(host, vmm)| self.guests(host).remove(vmm))
            .collect();
        assert!(found.len() < 2, "{server:?} has two guests: {found:#?}");
        found.pop()
    }

    fn picture(&mut self, server: &Server) -> Picture {
        let answer = self.get(&format!("/compute/v2.1/servers/{}", server.id));
        let shown = &answer.body["server"];
        let told = [
            "status",
            "updated",
            "OS-EXT-STS:task_state",
            "OS-EXT-STS:vm_state",
            "OS-EXT-STS:power_state",
            "OS-EXT-SRV-ATTR:host",
            "addresses",
            "fault",
        ];
        let told = told.map(|key| (key.to_owned(), shown[key].clone()));
        let observation = self.sql(&format!(
            "SELECT id, observation, sequence, state FROM vmms WHERE instance_id = '{}'",
            server.id
        ));
        Picture {
            shown: Value::Object(told.into_iter().collect()),
            guest: self.guest(server).unwrap_or_default(),
            observation,
        }
    }

    /// The servers that nobody touched are what they were, to the last report.
    pub fn bystanders_never_noticed(&mut self) {
        for (server, was) in self.bystanders.clone() {
            let is = self.picture(&server);
            assert_eq!(is, was, "{} noticed", server.name);
        }
    }

    /// The audit, with nothing under way. What follows an operation's end (an answer that comes
    /// again, a report) gets a moment.
    pub fn audit(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while let Err(error) = self.cloud.audit() {
            assert!(Instant::now() < end, "{error:#}\n{}", self.logs());
            sleep(Duration::from_millis(200));
        }
    }

    pub fn logs(&self) -> String {
        let services = self.cloud.controllers.iter().chain(&self.cloud.agents);
        services
            .map(|s| format!("--- {}\n{}\n", s.name, s.log_tail()))
            .collect()
    }
}

impl Picture {
    const fn none() -> Self {
        Self {
            shown: Value::Null,
            guest: Value::Null,
            observation: String::new(),
        }
    }
}
