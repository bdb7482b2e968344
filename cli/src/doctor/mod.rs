//! `berth doctor`: what this machine can and cannot do, and which knob to turn.
//!
//! Each check does the thing rather than look for its name: it runs a guest instruction,
//! makes a bridge in a network namespace of its own, starts the programs it needs.

mod cloud;
mod kvm;
mod network;
mod programs;

use serde::Serialize;
use std::process::ExitCode;

/// Arguments of `berth doctor`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
    /// Check that this broker lets us in, too: amqp://user:secret@host:5672/%2f
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Audit a cloud's database, instead of looking at this machine.
    #[arg(long)]
    audit: bool,
    /// The database to audit: sqlite:///path or postgres://… [default: that of `berth up`]
    #[arg(long, value_name = "URL", requires = "audit")]
    database: Option<String>,
    /// The audit may expect that no request is under way.
    #[arg(long, requires = "audit")]
    at_rest: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Works.
    Ok,
    /// Works less well, or something optional is missing.
    Warn,
    /// Guests cannot run here, or not with a network.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing is.
    pub remedy: String,
}

impl Finding {
    fn ok(check: &str, found: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn warn(check: &str, found: impl Into<String>, remedy: &str) -> Self {
        Self {
            check: check.into(),
            verdict: Verdict::Warn,
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    fn fail(check: &str, found: impl Into<String>, remedy: &str) -> Self {
        Self {
            check: check.into(),
            verdict: Verdict::Fail,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// Prints the report; fails if anything that guests need does.
pub fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let findings = if arguments.audit {
        let database = match &arguments.database {
            Some(url) => url.clone(),
            None => crate::up::default_database()?,
        };
        cloud::audit(&database, arguments.at_rest)?
    } else {
        machine(arguments)
    };
    let worst_is_fail = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fail);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let word = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            println!("{word}  {:<16} {}", finding.check, finding.found);
            if !finding.remedy.is_empty() {
                println!("      {:<16} -> {}", "", finding.remedy);
            }
        }
    }
    Ok(if worst_is_fail {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn machine(arguments: &Arguments) -> Vec<Finding> {
    let mut findings = kvm::check();
    findings.extend(network::check());
    findings.extend(programs::check());
    findings.extend(arguments.broker.as_deref().map(cloud::broker));
    findings
}

/// Whether guests run here at all: the first thing that the report says.
pub fn kvm_here() -> Finding {
    let first = kvm::check().into_iter().next();
    first.unwrap_or_else(|| Finding::fail("kvm", "nothing is known of it", ""))
}
