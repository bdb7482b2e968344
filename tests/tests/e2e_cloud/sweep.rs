//! `kill -9` at each kill point of the VMM, and of the agent's KVM driver, during each operation
//! that passes it, on a guest of a few KiB that obeys its power button.
//!
//! Which operation passes which points is found by letting each happen once, unharmed. A point in
//! the source that nothing hits fails the test. After each kill: one operation, which is done or
//! says why not; the guest was started once (twice where the VMM died as it began to run, since
//! the agent then starts another); what the API shows is what is on the host, and nothing else is.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use berth_rpc::kill_point::names_in;
use berth_tests::binaries::workspace;
use berth_tests::debian::ping;
use berth_tests::process::wait_until;
use serde_json::{Value, json};

use crate::Cast;
use crate::death;
use crate::rig::{Look, Rig, SOON, Server};
use crate::traces;

const DHCP: &str = "agent.dhcp.started";

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Create,
    Pause,
    Unpause,
    Stop,
    Start,
    Reboot,
    SoftReboot,
    Delete,
}

impl Op {
    /// A life that has all of them.
    const ALL: [Self; 8] = [
        Self::Create,
        Self::Pause,
        Self::Unpause,
        Self::Stop,
        Self::Start,
        Self::Reboot,
        Self::SoftReboot,
        Self::Delete,
    ];

    /// The server's status before and after it; none: there is no server.
    const fn states(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Create => (None, Some("ACTIVE")),
            Self::Pause => (Some("ACTIVE"), Some("PAUSED")),
            Self::Unpause => (Some("PAUSED"), Some("ACTIVE")),
            Self::Stop => (Some("ACTIVE"), Some("SHUTOFF")),
            Self::Start => (Some("SHUTOFF"), Some("ACTIVE")),
            Self::Reboot | Self::SoftReboot => (Some("ACTIVE"), Some("ACTIVE")),
            Self::Delete => (Some("ACTIVE"), None),
        }
    }

    const fn starts_the_guest(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Start | Self::Reboot | Self::SoftReboot
        )
    }

    fn action(self) -> Value {
        match self {
            Self::Pause => json!({"pause": null}),
            Self::Unpause => json!({"unpause": null}),
            Self::Stop => json!({"os-stop": null}),
            Self::Start => json!({"os-start": null}),
            Self::SoftReboot => json!({"reboot": {"type": "SOFT"}}),
            _ => json!({"reboot": {"type": "HARD"}}),
        }
    }
}

/// A server that is swept over.
struct Target {
    server: Server,
    /// The VMM that it has had from its build; empty: the build failed.
    vmm: String,
    /// Its status, when it was last looked at.
    status: String,
    /// A start that fails leaves it without taps until the next one.
    wired: bool,
    /// How often its VMM had started its guest.
    starts: usize,
}

impl Target {
    fn of(server: Server) -> Self {
        Self {
            server,
            vmm: String::new(),
            status: String::new(),
            wired: true,
            starts: 0,
        }
    }
}

struct Sweep<'a> {
    rig: &'a Rig,
    host: usize,
    /// The probe, as a kernel.
    kernel: String,
    /// The root image of servers whose build is to find it in the cache.
    image: String,
    /// Servers so far.
    made: u32,
    /// The points of this sweep that some kill has hit.
    hit: BTreeSet<String>,
    /// The agent's deaths so far.
    deaths: usize,
    kills: u32,
}

/// All of it, on the target's host.
pub fn all(rig: &Rig, cast: &Cast) -> Result<()> {
    let kernel = rig.probe_kernel()?;
    let image = rig.probe_image(&kernel, "obedient", "mode=boot end=button")?;
    let mut sweep = Sweep {
        rig,
        host: cast.home,
        kernel,
        image,
        made: 0,
        hit: BTreeSet::new(),
        deaths: 0,
        kills: 0,
    };
    rig.attend(cast.home)?;
    let mut points = sweep.paths()?;
    while points.values().any(|points| !points.is_empty()) {
        sweep.life(&mut points)?;
    }
    sweep.a_reset_during_a_reboot()?;
    sweep.a_reset_of_its_own()?;
    rig.unattend(cast.home)?;
    println!("         {} kills", sweep.kills);
    let mut missed = ours()?;
    missed.retain(|point| !sweep.hit.contains(point));
    ensure!(
        missed.is_empty(),
        "kill points that nothing has hit: {missed:?}"
    );
    ping(&cast.address, SOON)
}

/// The kill points that need guests.
fn ours() -> Result<BTreeSet<String>> {
    let mut names = names_in(&workspace().join("vmm"))?;
    names.extend(names_in(&workspace().join("agent/src/kvm"))?);
    Ok(names.into_iter().collect())
}

fn is_of_the_agent(point: &str) -> bool {
    point.starts_with("agent.")
}

impl Sweep<'_> {
    /// Which of our points each operation passes, by what an unharmed life tells.
    fn paths(&mut self) -> Result<HashMap<Op, VecDeque<String>>> {
        let ours = ours()?;
        let mut paths: HashMap<Op, VecDeque<String>> = HashMap::new();
        let mut target = None;
        for op in Op::ALL {
            self.rig.seen(self.host)?;
            self.plain(op, &mut target, true)?;
            let mut passed = VecDeque::new();
            for point in self.rig.seen(self.host)? {
                if ours.contains(&point) && !passed.contains(&point) {
                    passed.push_back(point);
                }
            }
            paths.insert(op, passed);
        }
        // What these share with the others is swept there.
        for op in [Op::SoftReboot, Op::Pause, Op::Unpause] {
            let own = |point: &String| !paths[&Op::Reboot].contains(point);
            let own = paths[&op].iter().filter(|p| own(p)).cloned().collect();
            paths.insert(op, own);
        }
        // A network's DHCP server runs already; where it does not, the next build starts it.
        let of_build = paths.entry(Op::Create).or_default();
        if !of_build.contains(&DHCP.to_owned()) {
            of_build.push_back(DHCP.to_owned());
        }
        for op in Op::ALL {
            println!(
                "         {op:?}: {}",
                Vec::from(paths[&op].clone()).join(" ")
            );
        }
        Ok(paths)
    }

    /// One server's life: a kill during each operation that has points left.
    fn life(&mut self, points: &mut HashMap<Op, VecDeque<String>>) -> Result<()> {
        let mut target = None;
        for op in Op::ALL {
            let point = points.get_mut(&op).and_then(VecDeque::pop_front);
            match point {
                Some(point) => {
                    self.bring(op, &mut target)?;
                    self.kill(op, &mut target, &point)
                        .with_context(|| format!("{point} during {op:?}"))?;
                }
                None if matches!(op, Op::Create | Op::Delete) => {
                    self.plain(op, &mut target, false)?;
                }
                None => {}
            }
        }
        self.rig.cloud.audit()
    }

    /// Brings the server into the state that an operation starts from.
    fn bring(&mut self, op: Op, target: &mut Option<Target>) -> Result<()> {
        let (Some(wanted), Some(found)) = (op.states().0, target.as_ref()) else {
            return Ok(());
        };
        match (found.status.as_str(), wanted) {
            (is, wanted) if is == wanted => Ok(()),
            // Whatever is left of a build that failed is deleted, and another takes its place.
            ("ERROR", _) if op == Op::Delete => Ok(()),
            ("ERROR", _) => {
                self.plain(Op::Delete, target, false)?;
                self.plain(Op::Create, target, false)?;
                self.bring(op, target)
            }
            ("SHUTOFF", _) => {
                self.plain(Op::Start, target, false)?;
                self.bring(op, target)
            }
            ("PAUSED", _) => {
                self.plain(Op::Unpause, target, false)?;
                self.bring(op, target)
            }
            ("ACTIVE", "PAUSED") => self.plain(Op::Pause, target, false),
            ("ACTIVE", "SHUTOFF") => self.plain(Op::Stop, target, false),
            (is, wanted) => bail!("no way from {is} to {wanted}"),
        }
    }

    /// An operation that nobody disturbs. `fresh`: a build with an image that no host has.
    fn plain(&mut self, op: Op, target: &mut Option<Target>, fresh: bool) -> Result<()> {
        let request = self.ask(op, target, fresh)?;
        let ended = self.ended(&request).with_context(|| format!("{op:?}"))?;
        ensure!(ended.is_none(), "{op:?}: {ended:?}");
        self.follow(op, target, true)?;
        self.as_told(target).map(drop)
    }

    fn kill(&mut self, op: Op, target: &mut Option<Target>, point: &str) -> Result<()> {
        let before = target.as_ref().map_or(0, |target| target.starts);
        if point.starts_with("agent.image.") {
            // Before the order: uploads take a while.
            self.fresh_image()?;
        }
        let begun = Instant::now();
        self.rig.arm(self.host, point)?;
        if point == DHCP {
            self.rig.cloud.hosts[self.host].sh("pkill -9 dnsmasq; true")?;
        }
        let request = self.ask(op, target, false)?;
        self.dies(point)?;
        let error = self.ended(&request)?;
        if let Some(error) = &error {
            ensure!(error.contains("VMM"), "it does not name its cause: {error}");
        }
        self.follow(op, target, error.is_none())?;
        if op == Op::Create && point == "agent.vmm.recorded" {
            let server = &target.as_ref().context("a server")?.server;
            traces::a_build_through_kills(self.rig, server, 1)?;
        }
        let more = self.as_told(target)?.starts.saturating_sub(before);
        let least = usize::from(op.starts_the_guest() && error.is_none());
        // Where its VMM dies, the guest may have begun to run in two.
        let most = match (op.starts_the_guest(), is_of_the_agent(point)) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        ensure!(
            target.as_ref().is_none_or(|target| target.vmm.is_empty())
                || (least..=most).contains(&more),
            "the guest was started {more} times"
        );
        self.tell(point, &format!("{op:?}"), begun, error.as_deref());
        Ok(())
    }

    fn fresh_image(&mut self) -> Result<()> {
        let name = format!("obedient-{}", self.made);
        self.image = self
            .rig
            .probe_image(&self.kernel, &name, "mode=boot end=button")?;
        Ok(())
    }

    /// Asks for it; the request's id.
    fn ask(&mut self, op: Op, target: &mut Option<Target>, fresh: bool) -> Result<String> {
        match (op, target.as_ref()) {
            (Op::Create, _) => {
                if fresh {
                    self.fresh_image()?;
                }
                let server = self.create(&self.image.clone())?;
                let request = server.request_id.clone();
                *target = Some(Target::of(server));
                Ok(request)
            }
            (Op::Delete, Some(found)) => {
                let path = format!("/compute/v2.1/servers/{}", found.server.id);
                Ok(self
                    .rig
                    .rest
                    .done("DELETE", &path, &Value::Null)?
                    .request_id)
            }
            (_, Some(found)) => self.rig.act(&found.server, &op.action()),
            (_, None) => bail!("{op:?} of nothing"),
        }
    }

    fn create(&mut self, image: &str) -> Result<Server> {
        self.made += 1;
        let zone = format!("nova:{}", self.rig.cloud.hosts[self.host].name());
        let about = json!({"imageRef": image, "flavorRef": "tiny", "availability_zone": zone});
        self.rig.create(&format!("swept-{}", self.made), &about)
    }

    /// Waits until the operation of a request has ended, as its only one; its error if it failed.
    fn ended(&self, request: &str) -> Result<Option<String>> {
        let rows = format!(
            "SELECT state, replace(COALESCE(error, ''), chr(10), ' ') FROM operations \
             WHERE request_id = '{request}'"
        );
        let mut said = String::new();
        let over = || {
            said = self.rig.sql(&rows)?;
            let (state, error) = said.split_once('|').unwrap_or_default();
            let error = (state == "failed").then(|| error.to_owned());
            Ok(matches!(state, "done" | "failed").then_some(error))
        };
        let ended = wait_until(SOON, over)?;
        ensure!(said.lines().count() == 1, "not one operation: {said:?}");
        ended.with_context(|| format!("it does not end: {said}"))
    }

    /// Keeps track of what the server is after an operation.
    fn follow(&self, op: Op, target: &mut Option<Target>, done: bool) -> Result<()> {
        if op == Op::Delete {
            let found = target.take().context("a server")?;
            return self.rig.wait_gone(&found.server);
        }
        let found = target.as_mut().context("a server")?;
        found.wired = done || (found.wired && op != Op::Start);
        if found.vmm.is_empty() {
            let id = &found.server.id;
            found.vmm = self.rig.sql(&format!(
                "SELECT id FROM vmms WHERE instance_id = '{id}' AND deleted_at IS NULL"
            ))?;
        }
        Ok(())
    }

    /// Waits until whoever came to the point has died there.
    fn dies(&mut self, point: &str) -> Result<()> {
        self.deaths += usize::from(is_of_the_agent(point));
        let dead = || {
            let is = self.rig.look(self.host, "")?;
            Ok((!is.armed && is.deaths == self.deaths).then_some(()))
        };
        wait_until(SOON, dead)?.context("it is not reached, or another died")
    }

    /// Waits until what the API shows is what is on the host, beside the cast's guest.
    fn as_told(&self, target: &mut Option<Target>) -> Result<Look> {
        let (mut shown, mut is, mut wanted) = (Value::Null, Look::default(), Look::default());
        let agree = wait_until(SOON, || {
            wanted = Look {
                deaths: self.deaths,
                vmms: 1,
                directories: 1,
                taps: 1,
                dhcp_servers: 1,
                ..Look::default()
            };
            let mut vmm = String::new();
            if let Some(target) = target.as_mut() {
                shown = self.rig.show(&target.server)?;
                target.status = shown["status"].as_str().unwrap_or_default().to_owned();
                wanted.vmms += usize::from(matches!(target.status.as_str(), "ACTIVE" | "PAUSED"));
                // A build that failed is undone.
                if !target.vmm.is_empty() {
                    wanted.directories += 1;
                    wanted.taps += usize::from(target.wired);
                }
                vmm.clone_from(&target.vmm);
            }
            is = self.rig.look(self.host, &vmm)?;
            wanted.starts = is.starts;
            let agree = is == wanted && shown["OS-EXT-STS:task_state"].is_null();
            Ok(agree.then_some(()))
        })?;
        ensure!(agree.is_some(), "{is:?}, not {wanted:?}, with {shown:#}");
        if let Some(target) = target {
            target.starts = is.starts;
        }
        Ok(is)
    }

    /// A guest answers a soft reboot by a reset of its own, and its VMM dies when it sees that:
    /// the reboot goes on.
    fn a_reset_during_a_reboot(&mut self) -> Result<()> {
        let mut target = self.of_its_own_will("mode=boot end=button-reset")?;
        self.as_told(&mut target)?;
        self.kill(Op::SoftReboot, &mut target, "vmm.guest.exited")?;
        self.plain(Op::Delete, &mut target, false)
    }

    /// A guest resets itself all the time, with no operation under way. Its agent dies while it
    /// starts the guest again: the next one does. Its VMM dies: it has crashed.
    fn a_reset_of_its_own(&mut self) -> Result<()> {
        let during = "a guest's own reset";
        let mut target = self.of_its_own_will("mode=boot end=reset")?;
        let found = target.as_ref().context("a server")?;
        let (server, vmm) = (found.server.clone(), found.vmm.clone());
        for point in [
            "agent.vmm.spawned",
            "agent.vmm.recorded",
            "agent.vmm.started",
        ] {
            let begun = Instant::now();
            self.rig.arm(self.host, point)?;
            self.dies(point)?;
            let before = self.rig.look(self.host, &vmm)?.starts;
            // One may have been under way.
            let goes_on = || {
                let starts = self.rig.look(self.host, &vmm)?.starts;
                Ok((starts > before + 1).then_some(()))
            };
            wait_until(SOON, goes_on)?
                .with_context(|| format!("{point}: the guest is not started again"))?;
            self.rig.wait(&server, "ACTIVE")?;
            self.tell(point, during, begun, None);
        }
        let (point, begun) = ("vmm.guest.exited", Instant::now());
        self.rig.arm(self.host, point)?;
        self.dies(point)?;
        death::crashed(self.rig, &server, "its VMM was killed")?;
        self.as_told(&mut target)?;
        self.tell(point, during, begun, None);
        self.plain(Op::Delete, &mut target, false)?;
        self.rig.cloud.audit()
    }

    /// A server whose guest resets itself.
    fn of_its_own_will(&mut self, words: &str) -> Result<Option<Target>> {
        let name = format!("resetting-{}", self.made);
        let image = self.rig.probe_image(&self.kernel, &name, words)?;
        let server = self.create(&image)?;
        self.rig.wait(&server, "ACTIVE")?;
        let mut target = Some(Target::of(server));
        self.follow(Op::Create, &mut target, true)?;
        Ok(target)
    }

    fn tell(&mut self, point: &str, during: &str, begun: Instant, error: Option<&str>) {
        let told = error.unwrap_or("done");
        let seconds = begun.elapsed().as_secs_f32();
        println!("         {seconds:5.1} s  {point:<28} during {during}: {told}");
        self.hit.insert(point.to_owned());
        self.kills += 1;
    }
}
