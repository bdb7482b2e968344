//! How a VMM tells its end to who started it: by exit code, and in more words by the file that
//! `--status-file` names.
//!
//! The file is replaced as a whole (written beside and renamed) at each change of phase, so that
//! a reader sees one state or the next. After `kill -9` it still says the last phase before:
//! a dead process whose file does not say [`Phase::Exited`] was killed.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The longest status file that is read, in bytes: a VMM's words are shortened long before.
const MAX_STATUS: u64 = 256 << 10;

/// The VMM's exit codes: Firecracker's where it has the case, and 3 and 4 beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest powered itself off, or the VMM was told to stop.
    Ok = 0,
    /// The VMM failed; the status file and standard error say how.
    GenericError = 1,
    /// A bug in the VMM.
    Unexpected = 2,
    /// **Berth's**: the guest asked for a reset (reboot, triple fault), or the API did. Start the
    /// same guest again.
    GuestReset = 3,
    /// **Berth's**: KVM could not go on with the guest (an internal or entry error).
    GuestCrashed = 4,
    /// A system call that the sandbox forbids.
    BadSyscall = 148,
    /// SIGBUS, as when a file under a mapping was truncated.
    Sigbus = 149,
    /// SIGSEGV.
    Sigsegv = 150,
    /// SIGXFSZ.
    Sigxfsz = 151,
    /// The configuration is wrong: file, kernel, disk, tap.
    BadConfiguration = 152,
    /// The command line is wrong.
    ArgParsing = 153,
    /// SIGXCPU.
    Sigxcpu = 154,
    /// SIGPIPE.
    Sigpipe = 155,
    /// SIGHUP.
    Sighup = 156,
    /// SIGILL.
    Sigill = 157,
}

impl ExitCode {
    /// The code whose number a process ended with, if it is one of the VMM's.
    pub fn from_code(code: i32) -> Option<ExitCode> {
        use ExitCode::*;
        [
            Ok,
            GenericError,
            Unexpected,
            GuestReset,
            GuestCrashed,
            BadSyscall,
            Sigbus,
            Sigsegv,
            Sigxfsz,
            BadConfiguration,
            ArgParsing,
            Sigxcpu,
            Sigpipe,
            Sighup,
            Sigill,
        ]
        .into_iter()
        .find(|known| *known as i32 == code)
    }
}

/// How far a VMM's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The process is up; its guest is not started.
    NotStarted,
    /// The vCPUs run.
    Running,
    /// The vCPUs stand still.
    Paused,
    /// The process has ended, or is about to.
    Exited,
}

/// Why a VMM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest entered ACPI S5.
    GuestShutdown,
    /// The guest wrote the reset register.
    GuestReset,
    /// The guest's processor triple-faulted; Linux reboots so with `reboot=t`.
    TripleFault,
    /// KVM could not go on with the guest.
    GuestCrashed,
    /// The API's `Reset`.
    ApiReset,
    /// The API's `Stop`.
    ApiStop,
    /// SIGTERM or SIGINT.
    Signal,
    /// The VMM failed.
    Error,
}

/// The contents of the status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmStatus {
    /// `--id`.
    pub id: String,
    /// The VMM's process id.
    pub pid: u32,
    /// The VMM's version.
    pub version: String,
    /// How far it has come.
    pub phase: Phase,
    /// With [`Phase::Exited`]: the exit code.
    pub exit_code: Option<u8>,
    /// With [`Phase::Exited`]: why.
    pub reason: Option<ExitReason>,
    /// The last error, with its causes.
    pub error: Option<String>,
    /// The request that the VMM was last working for.
    pub request_id: Option<String>,
}

impl VmmStatus {
    /// Reads a status file; of a longer one than any VMM writes, only the beginning.
    ///
    /// # Errors
    /// If it cannot be read, or does not hold a status.
    pub fn read(path: &Path) -> std::io::Result<VmmStatus> {
        let mut text = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(MAX_STATUS).read_to_end(&mut text)?;
        serde_json::from_slice(&text)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_found_by_its_number_and_no_other_is() {
        for code in [0, 1, 2, 3, 4, 148, 152, 153, 157] {
            assert_eq!(ExitCode::from_code(code).map(|c| c as i32), Some(code));
        }
        assert_eq!(ExitCode::from_code(5), None);
        assert_eq!(ExitCode::from_code(-1), None);
    }
}
