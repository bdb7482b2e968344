//! A kill at one point during one operation, and what must be true afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::{Ended, Op, Rig, Server};

/// What comes after an operation's end (an answer confirmed, the next report) gets so long.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// What a kill came to.
pub struct Kill {
    pub point: String,
    pub during: String,
    pub seconds: f64,
}

/// All kills of a test; each is told as it happens.
#[derive(Default)]
pub struct Table(Vec<Kill>);

impl Table {
    pub fn add(&mut self, point: &str, during: &str, outcome: &str, recovery: Duration) {
        let seconds = recovery.as_secs_f64();
        say(&format!(
            "kill at {point:<34} during {during:<22} {outcome:<12} {seconds:6.2} s"
        ));
        self.0.push(Kill {
            point: point.to_owned(),
            during: during.to_owned(),
            seconds,
        });
    }

    pub fn hit(&self, point: &str) -> bool {
        self.0.iter().any(|kill| kill.point == point)
    }

    /// A line a point: what it was hit during, and the longest recovery.
    pub fn close(&self) {
        let mut points: BTreeMap<&str, Vec<&Kill>> = BTreeMap::new();
        for kill in &self.0 {
            points.entry(&kill.point).or_default().push(kill);
        }
        say(&format!("\n{:<34} {:>7}  during", "point", "longest"));
        for (point, kills) in points {
            let longest = kills.iter().map(|kill| kill.seconds).fold(0.0, f64::max);
            let during: Vec<&str> = kills.iter().map(|kill| kill.during.as_str()).collect();
            say(&format!(
                "{point:<34} {longest:5.2} s  {}",
                during.join(", ")
            ));
        }
        say(&format!("{} kills\n", self.0.len()));
    }
}

/// Past the capture of tests' output: a sweep takes minutes, and is watched.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Tells a process to die at `point`, all of the order or none of it.
pub fn order(file: &Path, point: &str) {
    let new = file.with_extension("new");
    fs::write(&new, point).unwrap();
    fs::rename(new, file).unwrap();
}

/// One operation, with a process ordered to die at `point`. `agent`: the server's own agent dies;
/// else whichever controller comes there first. `pass`: the how manieth time it comes there.
/// Whether it died.
pub fn kill(
    rig: &mut Rig,
    table: &mut Table,
    point: &str,
    pass: u32,
    agent: bool,
    op: Op,
    server: &mut Server,
) -> bool {
    let file = rig.order_file(agent.then_some(server.host));
    let before = Before::look(rig, op, server);
    let deaths = rig.deaths;
    rig.last_death = None;
    order(&file, &format!("{point}:{pass}"));
    rig.ask(op, server);
    let ended = rig.settled(op, server);
    let end = Instant::now();
    while file.exists() && end.elapsed() < AFTERWARDS {
        sleep(Duration::from_millis(5));
    }
    // If it is gone, a process took it as it died.
    let died = fs::remove_file(&file).is_err();
    let until = Instant::now() + Duration::from_secs(5);
    while died && rig.deaths == deaths {
        assert!(
            Instant::now() < until,
            "{point} was reached, but nothing died"
        );
        sleep(Duration::from_millis(5));
        rig.tend();
    }
    let context = format!("{point} during {}", op.name());
    assert_eq!(rig.deaths, deaths + usize::from(died), "{context}");
    assert_eq!(ended, Ended::Reached, "{context}\n{}", rig.logs());
    before.happened_once(rig, op, server, &context);
    if died {
        let recovery = rig
            .last_death
            .map_or(Duration::ZERO, |at| end.saturating_duration_since(at));
        let during = match pass {
            1 => op.name().to_owned(),
            pass => format!("{}, pass {pass}", op.name()),
        };
        table.add(point, &during, "finished", recovery);
        rig.bystanders_never_noticed();
    }
    died
}

/// What there was before an operation.
pub struct Before {
    guest: Option<Value>,
    operations: usize,
}

impl Before {
    pub fn look(rig: &Rig, op: Op, server: &Server) -> Self {
        if op == Op::Create {
            return Self {
                guest: None,
                operations: 0,
            };
        }
        Self {
            guest: rig.guest(server),
            operations: rig.operations(op, server).len(),
        }
    }

    /// One operation was made and is done, and each of its effects was had once.
    pub fn happened_once(&self, rig: &Rig, op: Op, server: &Server, context: &str) {
        let operations = rig.operations(op, server);
        assert_eq!(
            operations.len(),
            self.operations + 1,
            "{context}: accepted once"
        );
        assert!(
            operations.iter().all(|end| end == "done"),
            "{context}: {operations:?}"
        );
        let guest = rig.guest(server);
        if op == Op::Delete {
            assert_eq!(guest, None, "{context}: something is left of it");
            return;
        }
        let guest = guest.unwrap_or_else(|| panic!("{context}: there is no guest"));
        let zero = Value::Null;
        let old = self.guest.as_ref().unwrap_or(&zero);
        let count = |guest: &Value, step: &str| guest["effects"][step].as_u64().unwrap_or(0);
        let more = |step: &str| count(&guest, step) - count(old, step);
        let boots = guest["boots"].as_u64().unwrap_or(0) - old["boots"].as_u64().unwrap_or(0);
        let process = guest["process"].as_str().unwrap_or_default();
        let expected = match op {
            Op::Create => {
                let effects = guest["effects"].as_object().unwrap();
                assert!(
                    effects.values().all(|times| *times == 1),
                    "{context}: {effects:?}"
                );
                ("Running", 1, 0)
            }
            Op::Start => ("Running", 1, 0),
            Op::Reboot => ("Running", 1, 1),
            Op::Stop => ("None", 0, 1),
            Op::Delete => return,
        };
        assert_eq!(
            (process, boots, more("end_process")),
            expected,
            "{context}: {guest:#}"
        );
    }
}
