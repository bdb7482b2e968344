//! Helper programs: run to their end, bounded in time and in what is kept of their words.

use crate::link::chain;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// A helper that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// The most that is kept of what a helper says, in bytes.
const WORDS: usize = 64 << 10;

/// Why a helper did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    /// It never came to it: what this host lacks.
    #[error("{0}")]
    NotRun(String),
    /// It ended otherwise than well.
    #[error("{name} ended with {status}: {said}")]
    Ended {
        /// Its name.
        name: String,
        /// How.
        status: ExitStatus,
        /// What it said of it.
        said: String,
    },
}

impl HelperError {
    /// Whether it failed for want of something that another host may have: room, memory, a disk that
    /// works. One that was killed was no more to blame than what it worked on.
    pub fn is_of_host(&self) -> bool {
        match self {
            Self::NotRun(_) => true,
            Self::Ended { status, said, .. } => {
                status.signal().is_some() || OF_HOSTS.iter().any(|words| said.contains(words))
            }
        }
    }
}

/// What strerror(3) says, in the C locale, of a host that lacks something.
const OF_HOSTS: [&str; 5] = [
    "No space left on device",
    "Disk quota exceeded",
    "Input/output error",
    "Cannot allocate memory",
    "Read-only file system",
];

/// Runs a helper to its end; its standard output, or what it said of its failure.
pub(super) async fn run(command: &mut Command) -> Result<String, HelperError> {
    let mut said = Vec::new();
    run_heard(command, |bytes| keep(&mut said, bytes)).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// As [`run`], for a helper that tells its progress: `hear` gets what it writes as it comes.
pub(super) async fn run_heard(
    command: &mut Command,
    hear: impl FnMut(&[u8]),
) -> Result<(), HelperError> {
    let not_run = HelperError::NotRun;
    let name = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    let mut child = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let why = chain(&error);
            not_run(format!("{name} cannot be run: {why}; is it installed?"))
        })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut complaint = Vec::new();
    let all = async {
        tokio::join!(
            follow(stdout, hear),
            follow(stderr, |bytes| keep(&mut complaint, bytes)),
            child.wait()
        )
        .2
    };
    let status = tokio::time::timeout(LIMIT, all)
        .await
        .map_err(|_| not_run(format!("{name} took longer than {LIMIT:?}")))?
        .map_err(|error| not_run(format!("{name} is lost: {}", chain(&error))))?;
    if status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let said: String = complaint.trim().chars().take(2000).collect();
    Err(HelperError::Ended { name, status, said })
}

async fn follow(pipe: Option<impl AsyncRead + Unpin>, mut hear: impl FnMut(&[u8])) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        hear(&buffer[..count]);
    }
}

fn keep(words: &mut Vec<u8>, bytes: &[u8]) {
    let room = WORDS.saturating_sub(words.len()).min(bytes.len());
    words.extend_from_slice(&bytes[..room]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn what_a_helper_says_is_kept_and_its_failure_told_in_its_words() {
        assert_eq!(run(&mut shell("echo yes")).await.unwrap(), "yes\n");
        let error = run(&mut shell("echo bad image >&2; exit 3"))
            .await
            .unwrap_err();
        assert!(!error.is_of_host());
        let error = error.to_string();
        assert!(
            error.contains("bad image") && error.contains('3'),
            "{error}"
        );
        let missing = run(&mut Command::new("no-such-helper")).await.unwrap_err();
        assert!(missing.is_of_host());
        let missing = missing.to_string();
        assert!(missing.contains("is it installed?"), "{missing}");
    }

    #[tokio::test]
    async fn a_full_disk_and_a_kill_are_the_hosts_fault() {
        // What the C library says itself, whatever language the agent was started in.
        let full = "LANG=de_DE.UTF-8 cat /proc/self/status > /dev/full";
        for script in [full, "kill -9 $$"] {
            let error = run(&mut shell(script)).await.unwrap_err();
            assert!(error.is_of_host(), "{error}");
        }
    }

    #[tokio::test]
    async fn a_helper_that_talks_without_end_costs_a_bounded_buffer() {
        let script = "head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2; exit 1";
        let error = run(&mut shell(script)).await.unwrap_err().to_string();
        assert!(error.len() < 4000, "{} bytes", error.len());
        let said = run(&mut shell("head -c 10000000 /dev/zero")).await.unwrap();
        assert_eq!(said.len(), WORDS);
    }
}
