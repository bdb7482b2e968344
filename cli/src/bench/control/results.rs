//! What was measured beside what is to be reached, as a table or as JSON.

use super::super::report::quantile;
use super::load::{COMMIT, CREATE, KINDS, Latencies};
use serde::Serialize;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// Simulated hosts.
    pub hosts: u32,
    /// Servers at the beginning.
    pub servers: u32,
    /// Controllers side by side.
    pub controllers: u16,
    /// Seconds between two reports of a host.
    pub report_interval_s: u64,
    /// The machine's.
    pub cpus: usize,
}

/// What is no latency.
#[derive(Clone, Debug)]
pub struct Figures {
    /// A second, with nothing else to do.
    pub claims: f64,
    /// A second, until ACTIVE.
    pub creates: f64,
    /// MiB of the largest controller.
    pub memory: f64,
    /// Milliseconds of CPU of the controllers, by heartbeats.
    pub controller_ms: f64,
    /// Milliseconds of CPU of PostgreSQL, by heartbeats.
    pub database_ms: Option<f64>,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    what: String,
    unit: &'static str,
    value: f64,
    /// The median, of a latency whose 99th percentile the value is.
    median: Option<f64>,
    /// How many were measured, of a latency.
    samples: Option<usize>,
    /// How many were refused.
    refused: Option<usize>,
    /// What is to be reached.
    target: Option<f64>,
    reached: Option<bool>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    #[serde(flatten)]
    about: About,
    lines: Vec<Line>,
}

/// What is to be reached with so many hosts, on two cores.
struct Targets {
    get: f64,
    create_beyond_commit: f64,
    claims: f64,
    creates: f64,
    heartbeat: f64,
    memory: f64,
}

const OF_1_000: Targets = Targets {
    get: 15.0,
    create_beyond_commit: 20.0,
    claims: 500.0,
    creates: 120.0,
    heartbeat: 0.5,
    memory: 150.0,
};

const OF_10_000: Targets = Targets {
    get: 30.0,
    create_beyond_commit: 30.0,
    claims: 200.0,
    creates: 80.0,
    heartbeat: 0.5,
    memory: 500.0,
};

impl Results {
    /// Compares.
    pub fn new(about: About, latencies: &Latencies, figures: Figures) -> Self {
        // What is reached with more is reached with fewer.
        let targets = if about.hosts <= 1_000 {
            OF_1_000
        } else {
            OF_10_000
        };
        let of = |kind: &str, at: f64| {
            let all = latencies.get(kind);
            let all = all.map_or(&[][..], |taken| taken.milliseconds.as_slice());
            quantile(all, at)
        };
        let mut lines = vec![];
        for kind in KINDS {
            let target = match kind {
                COMMIT => None,
                CREATE => Some(of(COMMIT, 0.99) + targets.create_beyond_commit),
                _ => Some(targets.get),
            };
            let value = of(kind, 0.99);
            let is_answered = latencies.get(kind).is_some_and(|taken| taken.refused == 0);
            lines.push(Line {
                what: format!("{kind}: p99"),
                unit: "ms",
                value,
                median: Some(of(kind, 0.5)),
                samples: latencies.get(kind).map(|taken| taken.milliseconds.len()),
                refused: latencies.get(kind).map(|taken| taken.refused),
                target,
                reached: target.map(|target| value <= target && is_answered),
            });
        }
        let heartbeat = figures.controller_ms + figures.database_ms.unwrap_or(0.0);
        let least = |what: &str, unit, value: f64, target: f64| Line {
            what: what.into(),
            unit,
            value,
            median: None,
            samples: None,
            refused: None,
            target: Some(target),
            reached: Some(value >= target),
        };
        let most = |what: &str, unit, value: f64, target: f64| Line {
            reached: Some(value <= target),
            ..least(what, unit, value, target)
        };
        let shown = |what: &str, unit, value: f64| Line {
            target: None,
            reached: None,
            ..least(what, unit, value, 0.0)
        };
        lines.extend([
            least("claims alone", "/s", figures.claims, targets.claims),
            least("creates to ACTIVE", "/s", figures.creates, targets.creates),
            most("CPU a heartbeat", "ms", heartbeat, targets.heartbeat),
            shown("  of it the controllers", "ms", figures.controller_ms),
        ]);
        if let Some(ms) = figures.database_ms {
            lines.push(shown("  of it the database", "ms", ms));
        }
        lines.push(most(
            "memory of a controller",
            "MiB",
            figures.memory,
            targets.memory,
        ));
        Self { about, lines }
    }

    /// For a person.
    pub fn table(&self) -> String {
        let about = &self.about;
        let mut text = format!(
            "{} hosts, {} servers, {} controller(s), a report every {} s, {} CPUs for all of it\n\
             {:<28}  {:>10}  {:>10}  {:>10}\n",
            about.hosts,
            about.servers,
            about.controllers,
            about.report_interval_s,
            about.cpus,
            "",
            "measured",
            "median",
            "target"
        );
        for line in &self.lines {
            let shown = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.2}"));
            let mut reached = match line.reached {
                Some(false) => "  missed".to_owned(),
                Some(true) | None => String::new(),
            };
            if let Some(refused @ 1..) = line.refused {
                reached += &format!("; {refused} refused");
            }
            text += &format!(
                "{:<28}  {:>10.2}  {:>10}  {:>10}  {}{reached}\n",
                line.what,
                line.value,
                shown(line.median),
                shown(line.target),
                line.unit
            );
        }
        text
    }
}
