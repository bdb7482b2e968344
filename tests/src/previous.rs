//! The programs of an earlier commit, for tests in which they run beside today's.
//!
//! `tests/previous` names the commit before the last change of what passes between controllers and
//! agents, or of the database: agents and controllers one version apart work together
//! (PROTOCOL.md, "The envelope"). Whoever lands such a change writes the commit there that it was
//! made on.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, workspace};
use crate::process;

/// The first release, whose agents stay while its controllers are stopped.
pub const FIRST: &str = "1f47c87909371da4f01dd6d84d6929a6e3463036";

/// Room for a build of two programs on two busy cores.
const PATIENCE: Duration = Duration::from_secs(1800);
/// `scripts/previous`: this clone has no such commit.
const NO_COMMIT: i32 = 3;

/// Programs of one commit.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `berth-controller`
    pub controller: PathBuf,
    /// `berth-agent`
    pub agent: PathBuf,
    /// Whether its controller hands out hosts' accounts at the broker.
    pub hands_out_accounts: bool,
}

impl Programs {
    /// Today's, built like the tests.
    ///
    /// # Errors
    /// If they do not build.
    pub fn todays() -> Result<Self> {
        Ok(Self {
            controller: binaries::build("berth-controller", "berth-controller")?,
            agent: binaries::build("berth-agent", "berth-agent")?,
            hands_out_accounts: true,
        })
    }
}

/// The commit in `tests/previous`.
#[must_use]
pub fn pinned() -> &'static str {
    let lines = include_str!("../previous").lines();
    lines
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .unwrap_or(FIRST)
}

/// The programs of `commit`, built now if they are not there yet (some minutes). `Ok(Err(why))`:
/// this clone does not have it.
///
/// # Errors
/// If it does not build.
pub fn programs(commit: &str) -> Result<Result<Programs, String>> {
    let mut script = Command::new(workspace().join("scripts/previous"));
    script.arg(commit);
    let output = process::run_outside(script, PATIENCE)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NO_COMMIT) {
        return Ok(Err(said.trim().to_owned()));
    }
    if !output.status.success() {
        bail!("scripts/previous {commit}: {}: {said}", output.status);
    }
    let folder = String::from_utf8(output.stdout).context("a path")?;
    let folder = PathBuf::from(folder.trim());
    Ok(Ok(Programs {
        controller: folder.join("berth-controller"),
        agent: folder.join("berth-agent"),
        hands_out_accounts: false,
    }))
}
