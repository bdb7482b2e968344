//! Starts a VMM: a process in a session of its own, recorded before anything is asked of it.
//!
//! A VMM that fails says why, in its status file or log; one that a signal ends from outside does
//! not, and is told apart ([`NotStarted::Killed`]): another may do better.

use super::blocking;
use super::process::{DEATH_LIMIT, Folder, ProcessFile, boot_id, start_time};
use crate::driver::DriverError;
use crate::state_dir::write_durably;
use berth_rpc::kill_point;
use berth_rpc::kill_point::VARIABLES;
use berth_rpc_types::{MessageId, VmmId};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long a new VMM may take to open its socket.
const SOCKET_LIMIT: Duration = Duration::from_secs(20);

/// Why a VMM has no guest in it.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// This signal ended it, from outside and without a word: another may do better.
    Killed(i32),
    /// It or the host says why.
    Failed(DriverError),
}

impl From<DriverError> for NotStarted {
    fn from(error: DriverError) -> Self {
        Self::Failed(error)
    }
}

/// The signal that has ended a VMM of ours.
pub(super) fn killed_by(vmm: &mut Child) -> Option<i32> {
    let status = vmm.try_wait().ok().flatten()?;
    status.signal()
}

/// As [`killed_by`], of one that is ending: its last thread may take a while.
pub(super) async fn killed_soon(vmm: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < DEATH_LIMIT {
        if let Ok(Some(status)) = vmm.try_wait() {
            return status.signal();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// Starts a VMM for the directory, with no guest in it yet, and waits for its socket. Whatever was
/// there before has ended.
pub(super) async fn spawn(
    folder: &Folder,
    vmm_binary: &Path,
    vmm_id: VmmId,
    started_for: Option<MessageId>,
    request_id: &str,
    cancelled: &CancellationToken,
) -> Result<Child, NotStarted> {
    let broken = |what: &str, error: &dyn std::error::Error| {
        let message = format!("the VMM cannot be started on this host: {what}: {error}");
        DriverError::host(message, folder.0.display().to_string())
    };
    let mut child = command(folder, vmm_binary, vmm_id, request_id)
        .map_err(|e| broken("its log", &e))?
        .spawn()
        .map_err(|e| broken(&vmm_binary.display().to_string(), &e))?;
    kill_point!("agent.vmm.spawned");
    let file = ProcessFile {
        pid: child.id(),
        start_time: start_time(child.id()).unwrap_or_default(),
        boot_id: boot_id().map_err(|e| broken("boot_id", &e))?,
        started_for,
    };
    let bytes = serde_json::to_vec(&file).map_err(|e| broken("process.json", &e))?;
    write_durably(&folder.process(), &bytes, 0o600).map_err(|e| broken("process.json", &e))?;
    kill_point!("agent.vmm.recorded");
    let begun = Instant::now();
    loop {
        if cancelled.is_cancelled() {
            return Err(DriverError::Cancelled.into());
        }
        let client = folder.client("").with_timeout(Duration::from_millis(500));
        let answers = blocking(move || Ok(client.info().is_ok())).await;
        if answers.unwrap_or(false) {
            return Ok(child);
        }
        let ended = file.alive().map_err(|e| broken("pidfd", &e))?.is_none();
        if ended && let Some(signal) = killed_soon(&mut child).await {
            return Err(NotStarted::Killed(signal));
        }
        if ended || begun.elapsed() > SOCKET_LIMIT {
            let said = folder.last_error().unwrap_or_else(|| folder.log_end());
            let what = if ended {
                "it ended at once"
            } else {
                "its socket did not open"
            };
            let message = format!("the VMM cannot be started on this host: {what}: {said}");
            return Err(DriverError::host(message, said).into());
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// What a VMM gets of the agent's environment, where it is set: how much it says of a panic, and
/// where a test kills it. Of the rest it gets nothing: the agent's join token or broker's password
/// may be there, and a guest that breaks out of its VMM is not to find them.
fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    let names = VARIABLES.into_iter().chain(["RUST_BACKTRACE"]);
    names.filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// In a session of its own: no terminal's or agent's end reaches it.
#[expect(
    unsafe_code,
    reason = "a session of its own is set between fork and exec"
)]
fn command(
    folder: &Folder,
    vmm_binary: &Path,
    vmm_id: VmmId,
    request_id: &str,
) -> io::Result<Command> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.log())?;
    let mut command = Command::new(vmm_binary);
    command
        .arg("--api-sock")
        .arg(folder.socket())
        .arg("--id")
        .arg(vmm_id.to_string())
        .arg("--status-file")
        .arg(folder.status())
        .current_dir(&folder.0)
        .env_clear()
        .envs(environment())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if !request_id.is_empty() {
        command.arg("--request-id").arg(request_id);
    }
    // SAFETY: setsid is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    Ok(command)
}

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;
