//! One `berth-vmm` process a guest, which outlives the agent.
//!
//! `process.json` in the VMM's directory says which process it is: pid, start time and boot of
//! the host together name a process for ever. It is written before the guest is started and
//! removed when the process was ended by order; a directory without it is a stopped guest. An
//! agent that comes after finds the same process by it, takes a pidfd, and waits on that; it
//! acts on no pid that it has not verified through the pidfd.

use super::blocking;
use crate::console::read_end;
use crate::driver::{DriverError, Exit, Observed};
use crate::hints::Hints;
use crate::state_dir::write_durably;
use berth_rpc::kill_point;
use berth_rpc_types::{MessageId, VmmId};
use berth_vmm_api::{Client, ExitCode, ExitReason, Phase, VmState, VmmStatus};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How long a VMM that was told to stop may take before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a VMM whose socket is closed may take to be seen dead.
pub(super) const DEATH_LIMIT: Duration = Duration::from_secs(3);
/// How much of a VMM's log is quoted in an error, in bytes from its end.
const LOG_QUOTE: u64 = 2000;

/// A VMM's directory, by its files.
#[derive(Clone, Debug)]
pub(super) struct Folder(pub PathBuf);

impl Folder {
    pub fn socket(&self) -> PathBuf {
        self.0.join("vmm.sock")
    }
    pub fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }
    pub fn log(&self) -> PathBuf {
        self.0.join("vmm.log")
    }
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }
    pub fn process(&self) -> PathBuf {
        self.0.join("process.json")
    }
    pub fn client(&self, request_id: &str) -> Client {
        Client::new(self.socket()).with_request_id(request_id)
    }
}

/// Which process it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessFile {
    pub pid: u32,
    /// Clock ticks from the host's boot to the process's start (/proc/pid/stat, field 22).
    pub start_time: u64,
    /// /proc/sys/kernel/random/boot_id
    pub boot_id: String,
    /// The command that it was started for.
    pub started_for: Option<MessageId>,
}

/// A process that is alive, held by its pidfd.
pub(super) struct Alive {
    pidfd: OwnedFd,
}

/// What `process.json` leads to.
pub(super) enum Found {
    /// No file: stopped, or never started.
    None,
    /// The process is alive.
    Alive(Alive, ProcessFile),
    /// It has ended without an order.
    Ended(ProcessFile),
}

impl Folder {
    /// Which process there is.
    pub fn find(&self) -> io::Result<Found> {
        let bytes = match fs::read(self.process()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
            Err(error) => return Err(error),
        };
        let file: ProcessFile = serde_json::from_slice(&bytes)?;
        Ok(match file.alive()? {
            Some(alive) => Found::Alive(alive, file),
            None => Found::Ended(file),
        })
    }

    /// Notes that the process was ended by order.
    pub fn forget_process(&self) -> io::Result<()> {
        for path in [self.process(), self.socket()] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        crate::journal::sync_folder(&self.0)
    }

    /// What is there of the VMM. Blocks on its socket for a moment.
    pub fn observe(&self) -> io::Result<Observed> {
        if !self.0.exists() {
            return Ok(Observed::Absent);
        }
        Ok(match self.find()? {
            Found::None => Observed::Stopped,
            Found::Ended(file) => Observed::Exited(self.exit(&file)),
            Found::Alive(_, file) => {
                match self.client("").with_timeout(Duration::from_secs(5)).info() {
                    Ok(info) => match info.state {
                        VmState::Running => Observed::Running,
                        VmState::Paused => Observed::Paused,
                        // The agent ended between spawning it and starting the guest. If that was no
                        // command's, which will go on, the guest still waits for its reset.
                        VmState::NotStarted if file.started_for.is_none() => {
                            Observed::Exited(Exit::Reset)
                        }
                        VmState::NotStarted => Observed::Stopped,
                    },
                    Err(error) => match self.find()? {
                        Found::Ended(file) => Observed::Exited(self.exit(&file)),
                        _ => {
                            // It lives; its word will come.
                            tracing::warn!(folder = %self.0.display(), %error, "VMM does not answer");
                            Observed::Running
                        }
                    },
                }
            }
        })
    }

    /// Whether there was a process, and it ended without a word of its own and without an order.
    pub fn was_killed(&self) -> bool {
        let Ok(Found::Ended(file)) = self.find() else {
            return false;
        };
        !host_restarted(&file) && self.last_word(&file).is_none()
    }

    /// Why a process that nobody ended has ended.
    fn exit(&self, file: &ProcessFile) -> Exit {
        if host_restarted(file) {
            return Exit::Crash("the host was restarted".into());
        }
        self.last_word(file).map_or_else(
            || Exit::Crash("its VMM was killed".into()),
            |status| exit_of(&status),
        )
    }

    /// What that process said of its own end; a process that was killed said nothing.
    fn last_word(&self, file: &ProcessFile) -> Option<VmmStatus> {
        let status = self.status_of(file)?;
        (status.phase == Phase::Exited).then_some(status)
    }

    /// The end of the VMM's own log.
    pub fn log_end(&self) -> String {
        read_end(&self.log(), LOG_QUOTE).map_or_else(
            |error| format!("its log cannot be read: {error}"),
            |bytes| String::from_utf8_lossy(&bytes).trim().to_owned(),
        )
    }

    /// The last error of the VMM that there is or was, in its own words.
    pub fn last_error(&self) -> Option<String> {
        let (Found::Alive(_, file) | Found::Ended(file)) = self.find().ok()? else {
            return None;
        };
        self.status_of(&file)?.error
    }

    /// What that process has left in its status file; its predecessors' words do not count.
    fn status_of(&self, file: &ProcessFile) -> Option<VmmStatus> {
        let status = VmmStatus::read(&self.status()).ok()?;
        (status.pid == file.pid).then_some(status)
    }
}

fn exit_of(status: &VmmStatus) -> Exit {
    let crash = || {
        Exit::Crash(
            status
                .error
                .clone()
                .unwrap_or_else(|| "it left no error".into()),
        )
    };
    match status.reason {
        Some(ExitReason::GuestShutdown | ExitReason::ApiStop | ExitReason::Signal) => {
            Exit::PowerOff
        }
        Some(ExitReason::GuestReset | ExitReason::TripleFault | ExitReason::ApiReset) => {
            Exit::Reset
        }
        Some(ExitReason::GuestCrashed | ExitReason::Error) => crash(),
        None => match status
            .exit_code
            .map(i32::from)
            .and_then(ExitCode::from_code)
        {
            Some(ExitCode::Ok) => Exit::PowerOff,
            Some(ExitCode::GuestReset) => Exit::Reset,
            _ => crash(),
        },
    }
}

impl ProcessFile {
    pub fn alive(&self) -> io::Result<Option<Alive>> {
        if boot_id()? != self.boot_id {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The pidfd holds whoever has the pid now; the start time says whether that is ours.
        Ok(match start_time(self.pid) {
            Some(started) if started == self.start_time => Some(Alive { pidfd }),
            _ => None,
        })
    }
}

impl Alive {
    /// Waits until the process has ended, and collects it if it is our child.
    #[expect(
        unsafe_code,
        reason = "tokio asks for the promise that the descriptor stays open"
    )]
    pub async fn ended(&self) -> io::Result<()> {
        // SAFETY: the pidfd is open, and borrowed from self for as long as the AsyncFd lives.
        let fd =
            unsafe { AsyncFd::register_with_interest(self.pidfd.as_fd(), Interest::READABLE) }?;
        drop(fd.readable().await?);
        // Not our child after a restart of the agent: init collects it.
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        Ok(())
    }

    fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// /proc/pid/stat, field 22, unless the process has ended (a zombie has).
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// Whether the host was restarted since that process was.
fn host_restarted(file: &ProcessFile) -> bool {
    boot_id().is_ok_and(|now| now != file.boot_id)
}

pub(super) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn previous_boots(folder: &Folder) -> u64 {
    fs::read(folder.0.join("boots"))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Notes one more start of the guest.
pub(super) fn count_boot(folder: &Folder) -> io::Result<u64> {
    let boots = previous_boots(folder) + 1;
    write_durably(
        &folder.0.join("boots"),
        format!("{boots}\n").as_bytes(),
        0o644,
    )?;
    Ok(boots)
}

/// Ends the process if there is one, and any that was not recorded. Returns when it is gone and
/// that is noted.
pub(super) async fn end(
    folder: &Folder,
    grace: Duration,
    request_id: &str,
    cancelled: &CancellationToken,
) -> Result<(), DriverError> {
    end_process(folder, grace, request_id, cancelled).await?;
    folder
        .forget_process()
        .map_err(|error| not_ended(folder, error))?;
    kill_point!("agent.vmm.forgotten");
    Ok(())
}

fn not_ended(folder: &Folder, error: io::Error) -> DriverError {
    let message = format!("the guest's process cannot be ended: {error}");
    DriverError::host(message, folder.0.display().to_string())
}

/// By the guest's power button within `grace`, then by the VMM's own stop, then by SIGKILL.
/// Which process it was stays known: a guest that waits for its reset still does.
pub(super) async fn end_process(
    folder: &Folder,
    grace: Duration,
    request_id: &str,
    cancelled: &CancellationToken,
) -> Result<(), DriverError> {
    let broken = |error| not_ended(folder, error);
    if let Found::Alive(alive, _) = folder.find().map_err(broken)? {
        let gone = ask_and_wait(folder, &alive, grace, request_id, cancelled).await?;
        if !gone {
            tracing::info!(
                grace_s = grace.as_secs(),
                "the guest did not power off in time"
            );
            let client = folder
                .client(request_id)
                .with_timeout(Duration::from_secs(2));
            let _ = blocking(move || {
                client
                    .action(berth_vmm_api::ActionType::Stop)
                    .map_err(io::Error::other)
            })
            .await;
            if tokio::time::timeout(STOP_LIMIT, alive.ended())
                .await
                .is_err()
            {
                alive.kill().map_err(broken)?;
                match tokio::time::timeout(KILL_LIMIT, alive.ended()).await {
                    Ok(ended) => ended.map_err(broken)?,
                    Err(_) => return Err(broken(io::Error::other("it does not die of SIGKILL"))),
                }
            }
        }
        kill_point!("agent.vmm.ended");
    }
    end_unrecorded(folder).map_err(broken)
}

/// Kills VMMs for this directory that are not the recorded one: the agent died between
/// spawning and recording. No guest was started in them.
pub(super) fn end_unrecorded(folder: &Folder) -> io::Result<()> {
    let socket = folder.socket();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let is_ours = || {
            fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
                let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
                words.windows(2).any(|pair| {
                    pair[0] == b"--api-sock" && pair[1] == socket.as_os_str().as_encoded_bytes()
                })
            })
        };
        if is_ours()
            && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::NONBLOCK)
            && is_ours()
        {
            tracing::warn!(pid = pid.as_raw_nonzero(), "an unrecorded VMM is ended");
            Alive { pidfd }.kill()?;
        }
    }
    Ok(())
}

/// Whether it was gone within `grace`.
async fn ask_and_wait(
    folder: &Folder,
    alive: &Alive,
    grace: Duration,
    request_id: &str,
    cancelled: &CancellationToken,
) -> Result<bool, DriverError> {
    if grace.is_zero() {
        return Ok(false);
    }
    let client = folder
        .client(request_id)
        .with_timeout(Duration::from_secs(2));
    let pressed = blocking(move || {
        // A paused guest sees no button.
        let _ = client.set_state(berth_vmm_api::VmStateUpdate::Resumed);
        client
            .action(berth_vmm_api::ActionType::PowerButton)
            .map_err(io::Error::other)
    });
    if let Err(error) = pressed.await {
        tracing::warn!(%error, "power button not pressed");
        return Ok(false);
    }
    tokio::select! {
        ended = tokio::time::timeout(grace, alive.ended()) => Ok(ended.is_ok()),
        () = cancelled.cancelled() => Err(DriverError::Cancelled),
    }
}

/// Gives a hint when the process ends.
pub(super) fn watch(vmm_id: VmmId, alive: Alive, hints: Arc<Hints>) {
    tokio::spawn(async move {
        if let Err(error) = alive.ended().await {
            tracing::warn!(%vmm_id, %error, "the end of a VMM cannot be watched");
        }
        hints.give(vmm_id);
    });
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
