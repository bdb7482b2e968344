//! The cloud of this test, and what is asked of it and looked at again and again.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_tests::cloud::{Cloud, Plan};
use berth_tests::debian::{self, BOOT, Key};
use berth_tests::images::Images;
use berth_tests::net::TestNet;
use berth_tests::probe;
use berth_tests::process::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;

use berth_tests::rest::{Answer, Rest};

/// What no operation without a guest's boot in it exceeds, on a busy machine.
pub const SOON: Duration = Duration::from_secs(120);
/// Where an agent is told to die.
const KILL_FILE: &str = "/run/berth-kill";
/// Where agents and VMMs say which kill points they pass.
const SEEN_FILE: &str = "/run/berth-seen";
/// Where a host's service manager notes each end of its agent.
const DEATHS: &str = "/run/berth-deaths";
/// With this, it starts the agent no more.
const UNATTENDED: &str = "/run/berth-unattended";

/// A server, as its creation told.
#[derive(Clone, Debug)]
pub struct Server {
    pub id: String,
    pub name: String,
    /// The request that made it.
    pub request_id: String,
}

/// What there is on a host, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether the order to die stands: who dies takes it away.
    pub armed: bool,
    /// Ends of an agent that is attended to.
    pub deaths: usize,
    pub vmms: usize,
    pub directories: usize,
    pub taps: usize,
    pub dhcp_servers: usize,
    /// Parts of images.
    pub parts: usize,
    /// How often the VMM that was asked about has started its guest.
    pub starts: usize,
}

pub struct Rig {
    pub cloud: Cloud,
    pub rest: Rest,
    pub key: Key,
    pub dir: TempDir,
    /// Ids of kernel, ramdisk and root.
    pub images: [String; 3],
    pub network: String,
}

impl Rig {
    pub fn start(net: &TestNet) -> Result<Self> {
        let images = Images::get()?;
        let plan = Plan {
            controllers: 2,
            postgres: true,
            emulated_hosts: 2,
            simulated_hosts: 0,
        };
        let cloud = Cloud::start(net, plan)?;
        let dir = tempfile::tempdir()?;
        let key = Key::make(dir.path())?;
        let openstack = cloud.openstack()?;
        let images = debian::register(&openstack, &images)?;
        debian::furnish(&openstack, net, &key)?;
        let bases = (0..plan.controllers).map(|n| cloud.base_url(n).to_owned());
        let rest = Rest::log_in(bases.collect(), &cloud.ca(), cloud.admin_password())?;
        let flavor = json!({"name": "tiny", "vcpus": 1, "ram": 192, "disk": 1, "id": "tiny"});
        rest.done("POST", "/compute/v2.1/flavors", &json!({"flavor": flavor}))?;
        let networks = rest.done("GET", "/network/v2.0/networks", &Value::Null)?;
        let network = networks.body["networks"][0]["id"].as_str();
        let network = network.context("the network has an id")?.to_owned();
        Ok(Self {
            cloud,
            rest,
            key,
            dir,
            images,
            network,
        })
    }

    /// A small root image of bytes of its own, with Debian's kernel: its guest ends in the
    /// initial RAM disk, and nobody asks it anything.
    pub fn small_image(&self, name: &str) -> Result<String> {
        let file = self.dir.path().join(name);
        fs::write(&file, name.repeat(1 << 16))?;
        let about = json!({"name": name, "disk_format": "raw", "container_format": "bare",
            "kernel_id": self.images[0], "ramdisk_id": self.images[1],
            "os_command_line": "console=ttyS0 root=/dev/vda quiet panic=0"});
        self.rest.image(&about, &file)
    }

    /// The probe guest as a kernel: what it does is in the command line of the images on it.
    pub fn probe_kernel(&self) -> Result<String> {
        let file = probe::build(self.dir.path(), probe::Entry::Pvh)?;
        let about = json!({"name": "probe", "disk_format": "aki", "container_format": "aki"});
        self.rest.image(&about, &file)
    }

    /// A small root image of bytes of its own, whose guest is the probe.
    pub fn probe_image(&self, kernel: &str, name: &str, words: &str) -> Result<String> {
        let file = self.dir.path().join(name);
        fs::write(&file, name.repeat(1 << 12))?;
        let about = json!({"name": name, "disk_format": "raw", "container_format": "bare",
            "kernel_id": kernel, "os_command_line": words});
        self.rest.image(&about, &file)
    }

    /// Asks for a server with a Debian root, and more that `about` tells.
    pub fn create(&self, name: &str, about: &Value) -> Result<Server> {
        let flavors = self
            .rest
            .done("GET", "/compute/v2.1/flavors", &Value::Null)?;
        let flavors = flavors.body["flavors"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let flavor = flavors.iter().find(|f| f["name"] == debian::NAME);
        let flavor = flavor.context("the flavor is listed")?["id"].clone();
        let mut server = json!({"name": name, "imageRef": self.images[2], "flavorRef": flavor,
            "key_name": debian::NAME, "networks": [{"uuid": self.network}]});
        let mut body = json!({});
        for (field, value) in about.as_object().into_iter().flatten() {
            if field == "os:scheduler_hints" {
                body[field] = value.clone();
            } else {
                server[field] = value.clone();
            }
        }
        body["server"] = server;
        let answer = self.rest.done("POST", "/compute/v2.1/servers", &body)?;
        let id = answer.body["server"]["id"].as_str();
        Ok(Server {
            id: id.context("a server has an id")?.to_owned(),
            name: name.to_owned(),
            request_id: answer.request_id,
        })
    }

    /// The server as the API shows it.
    pub fn show(&self, server: &Server) -> Result<Value> {
        let path = format!("/compute/v2.1/servers/{}", server.id);
        Ok(self.rest.done("GET", &path, &Value::Null)?.body["server"].take())
    }

    /// An action on the server; the request's id.
    pub fn act(&self, server: &Server, action: &Value) -> Result<String> {
        let path = format!("/compute/v2.1/servers/{}/action", server.id);
        Ok(self.rest.done("POST", &path, action)?.request_id)
    }

    /// Waits until the server has that status and nothing is under way on it.
    pub fn wait(&self, server: &Server, wanted: &str) -> Result<Value> {
        let mut shown = Value::Null;
        let reached = wait_until(BOOT, || {
            shown = self.show(server)?;
            let idle = shown["OS-EXT-STS:task_state"].is_null();
            if idle && shown["status"] == "ERROR" && wanted != "ERROR" {
                bail!("{} is in ERROR: {}", server.name, shown["fault"]);
            }
            Ok((idle && shown["status"] == wanted).then_some(()))
        })?;
        ensure!(
            reached.is_some(),
            "{} does not become {wanted}: {shown:#}",
            server.name
        );
        Ok(shown)
    }

    /// Deletes the server and waits until it is gone.
    pub fn delete(&self, server: &Server) -> Result<String> {
        let path = format!("/compute/v2.1/servers/{}", server.id);
        let asked = self.rest.done("DELETE", &path, &Value::Null)?;
        self.wait_gone(server)?;
        Ok(asked.request_id)
    }

    pub fn wait_gone(&self, server: &Server) -> Result<()> {
        let path = format!("/compute/v2.1/servers/{}", server.id);
        let gone = || Ok((self.rest.ask("GET", &path, &Value::Null)?.status == 404).then_some(()));
        wait_until(SOON, gone)?.with_context(|| format!("{} is still there", server.name))
    }

    /// Waits until the server has a host; its number in the cloud.
    pub fn host_of(&self, server: &Server) -> Result<usize> {
        let placed = || {
            let shown = self.show(server)?;
            let host = shown["OS-EXT-SRV-ATTR:host"].as_str().unwrap_or_default();
            Ok(self.cloud.hosts.iter().position(|h| h.name() == host))
        };
        wait_until(SOON, placed)?.with_context(|| format!("{} is placed nowhere", server.name))
    }

    /// Its address on the demo network.
    pub fn address(&self, server: &Server) -> Result<String> {
        let shown = self.show(server)?;
        let address = shown["addresses"][debian::NAME][0]["addr"].as_str();
        let address = address.with_context(|| format!("no address: {}", shown["addresses"]))?;
        Ok(address.to_owned())
    }

    /// What the guest has said on its console.
    pub fn console(&self, server: &Server) -> Result<String> {
        let log = json!({"os-getConsoleOutput": {}});
        let path = format!("/compute/v2.1/servers/{}/action", server.id);
        let answer: Answer = self.rest.done("POST", &path, &log)?;
        Ok(answer.body["output"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// Waits until the console shows its first login prompt.
    pub fn login_prompt(&self, server: &Server) -> Result<String> {
        let prompt = format!("{} login:", server.name);
        let mut console = String::new();
        let seen = wait_until(BOOT, || {
            console = self.console(server)?;
            Ok(console.contains(&prompt).then_some(()))
        })?;
        ensure!(seen.is_some(), "no login prompt:\n{console}");
        Ok(console)
    }

    /// The process ids of a program on a host; zombies do not count.
    pub fn pids(&self, host: usize, program: &str) -> Result<Vec<u32>> {
        let script = format!("pgrep -x {program} -r R,S,D,T,t || true");
        let said = self.cloud.hosts[host].sh(&script)?;
        Ok(said
            .lines()
            .filter_map(|pid| pid.trim().parse().ok())
            .collect())
    }

    /// The one process of a program on a host.
    pub fn pid(&self, host: usize, program: &str) -> Result<u32> {
        let pids = self.pids(host, program)?;
        ensure!(pids.len() == 1, "{program} on host {host}: {pids:?}");
        Ok(pids[0])
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&self, host: usize, program: &str) -> Result<()> {
        let pid = self.pid(host, program)?;
        self.cloud.hosts[host].sh(&format!("kill -9 {pid}"))?;
        let gone = || Ok(self.pids(host, program)?.is_empty().then_some(()));
        wait_until(SOON, gone)?.with_context(|| format!("{program} does not die"))
    }

    /// Starts the agent; it, and the VMMs that it starts, die where [`Rig::arm`] says.
    pub fn start_agent(&self, host: usize) -> Result<()> {
        let environment = [
            ("BERTH_KILL_POINT_FILE", KILL_FILE),
            ("BERTH_KILL_POINTS_SEEN", SEEN_FILE),
        ];
        self.cloud.start_agent(host, &environment)?;
        Ok(())
    }

    /// From now on the host starts its agent again whenever it ends, as a service manager does.
    pub fn attend(&self, host: usize) -> Result<()> {
        let script = format!(
            "rm -f {UNATTENDED} {DEATHS}; while [ ! -e {UNATTENDED} ]; do \
             BERTH_AGENT_LOG_FORMAT=json BERTH_KILL_POINT_FILE={KILL_FILE} \
             BERTH_KILL_POINTS_SEEN={SEEN_FILE} \
             berth-agent --config /etc/berth/agent.toml; echo death >> {DEATHS}; done"
        );
        self.kill9(host, "berth-agent")?;
        let daemon = ["/bin/sh", "-c", &script];
        self.cloud.hosts[host].start_daemon("agent", &daemon)?;
        Ok(())
    }

    /// The agent that runs now is the last.
    pub fn unattend(&self, host: usize) -> Result<()> {
        self.cloud.hosts[host].put(UNATTENDED, b"")
    }

    /// What is on a host, of everything that servers have there.
    pub fn look(&self, host: usize, vmm: &str) -> Result<Look> {
        // Builtins as far as possible: a process takes long in an emulated machine.
        let script = format!(
            "cd /var/lib/berth/agent; [ -e {KILL_FILE} ] && echo armed; \
             [ -e {DEATHS} ] && while read -r line; do echo $line; done < {DEATHS}; \
             pgrep -l -x 'berth-vmm|dnsmasq' -r R,S,D,T,t | while read -r pid name; do echo $name; done; \
             for d in vmms/*/; do [ -e $d ] && echo directory; done; \
             for t in /sys/class/net/bt*; do [ -e $t ] && echo tap; done; \
             for p in images/*.partial images/*.new; do [ -e $p ] && echo part; done; \
             [ -n '{vmm}' ] && grep -ho 'the guest was started' vmms/{vmm}/vmm.log; true"
        );
        let said = self.cloud.hosts[host].sh(&script)?;
        let count = |what: &str| said.lines().filter(|line| *line == what).count();
        Ok(Look {
            armed: count("armed") > 0,
            deaths: count("death"),
            vmms: count("berth-vmm"),
            directories: count("directory"),
            taps: count("tap"),
            dhcp_servers: count("dnsmasq"),
            parts: count("part"),
            starts: count("the guest was started"),
        })
    }

    /// The kill points that a host's agent and VMMs have passed since the last call.
    pub fn seen(&self, host: usize) -> Result<Vec<String>> {
        let script = format!("cat {SEEN_FILE} 2>/dev/null; rm -f {SEEN_FILE}");
        let said = self.cloud.hosts[host].sh(&script)?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// Orders whoever comes to that kill point, on that host, to die there.
    pub fn arm(&self, host: usize, point: &str) -> Result<()> {
        self.cloud.hosts[host].put(KILL_FILE, point.as_bytes())
    }

    /// Nothing of any guest is left on a host: process, link, DHCP server, directory, mount.
    pub fn nothing_left(&self, host: usize) -> Result<()> {
        let script = "pgrep -a berth-vmm; pgrep -a dnsmasq; pgrep -a qemu-img; \
            ls /var/lib/berth/agent/vmms /var/lib/berth/agent/networks | grep -v '^/' | grep .; \
            ls /var/lib/berth/agent/images | grep -E 'partial|new$'; \
            ip -br link | grep -E '^(bt|bb)'; grep /var/lib/berth/agent /proc/mounts; true";
        let mut left = String::new();
        let clean = wait_until(SOON, || {
            left = self.cloud.hosts[host].sh(script)?;
            Ok(left.trim().is_empty().then_some(()))
        })?;
        ensure!(clean.is_some(), "left on host {host}:\n{left}");
        Ok(())
    }

    /// What the logs say of one request, a line each, with who says it before it.
    pub fn follow(&self, request_id: &str) -> Result<Vec<String>> {
        let mut told = lines_of(&self.controllers_said()?, request_id, "controller");
        for host in &self.cloud.hosts {
            let logs = "/var/log/agent.log /var/lib/berth/agent/vmms/*/vmm.log";
            let script = format!("grep -sH {request_id} {logs} || true");
            for line in host.sh(&script)?.lines() {
                let (file, line) = line.split_once(".log:").unwrap_or_default();
                let who = if file.ends_with("agent") {
                    "agent"
                } else {
                    "vmm"
                };
                told.push(format!("{} {who}: {line}", host.name()));
            }
        }
        Ok(told)
    }

    /// The logs of all controllers.
    pub fn controllers_said(&self) -> Result<String> {
        let logs = self.cloud.controllers.iter().map(|c| &c.log);
        logs.map(|log| fs::read_to_string(log).context("a controller's log"))
            .collect()
    }

    /// Asks the database.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let postgres = self.cloud.postgres.as_ref();
        let postgres = postgres.context("the cloud is on PostgreSQL")?;
        Ok(postgres.query("berth", sql)?.trim().to_owned())
    }
}

fn lines_of(log: &str, request_id: &str, who: &str) -> Vec<String> {
    let ours = log.lines().filter(|line| line.contains(request_id));
    ours.map(|line| format!("{who}: {line}")).collect()
}
