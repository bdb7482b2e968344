//! The status file: how who started the VMM learns what became of it.
//!
//! Guarantees: the file is whole at every instant (written beside and renamed). That it cannot be
//! written is logged and changes nothing: a guest is not ended for a full disk.

use std::io::Write;
use std::path::PathBuf;

use berth_kill_point::kill_point;
use berth_vmm_api::{Phase, VmmStatus};

use crate::driver::Outcome;

/// The longest error that is told, in characters.
const MAX_ERROR: usize = 4096;

/// The file, or nothing if none was asked for.
pub struct StatusFile {
    path: Option<PathBuf>,
    status: VmmStatus,
}

impl StatusFile {
    /// A status of a VMM called `id`, kept at `path`. It is written with the first change.
    pub fn new(path: Option<PathBuf>, id: &str, request_id: Option<&str>) -> StatusFile {
        let status = VmmStatus {
            id: id.to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: Phase::NotStarted,
            exit_code: None,
            reason: None,
            error: None,
            request_id: request_id.map(str::to_owned),
        };
        StatusFile { path, status }
    }

    /// The VMM has come so far.
    pub fn set_phase(&mut self, phase: Phase) {
        self.status.phase = phase;
        self.write();
    }

    /// The last error that somebody was told.
    pub fn set_error(&mut self, error: &str) {
        // A client may have chosen most of its words.
        self.status.error = Some(error.chars().take(MAX_ERROR).collect());
        self.write();
    }

    /// The request that the VMM works for; written with the next change.
    pub fn set_request_id(&mut self, id: &str) {
        self.status.request_id = Some(id.to_owned());
    }

    /// The VMM is about to end.
    pub fn set_outcome(&mut self, outcome: &Outcome) {
        self.status.phase = Phase::Exited;
        self.status.exit_code = Some(outcome.code as u8);
        self.status.reason = Some(outcome.reason);
        if outcome.error.is_some() {
            self.status.error.clone_from(&outcome.error);
        }
        self.write();
    }

    fn write(&self) {
        let Some(path) = &self.path else { return };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let written = serde_json::to_vec(&self.status)
            .map_err(std::io::Error::from)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                std::fs::File::create(&beside)?.write_all(&bytes)?;
                kill_point!("vmm.status.written");
                std::fs::rename(&beside, path)?;
                kill_point!("vmm.status.renamed");
                Ok(())
            });
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "cannot write the status file");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use berth_vmm_api::{ExitCode, ExitReason};

    use super::*;

    #[test]
    fn the_file_tells_the_phase_the_last_error_and_the_end() {
        let path = std::env::temp_dir().join(format!("berth-status-{}", std::process::id()));
        let mut file = StatusFile::new(Some(path.clone()), "vm1", Some("req-1"));
        file.set_phase(Phase::Running);
        assert_eq!(VmmStatus::read(&path).unwrap().phase, Phase::Running);
        file.set_error("no");
        let outcome = Outcome {
            code: ExitCode::GuestReset,
            reason: ExitReason::GuestReset,
            error: None,
        };
        file.set_outcome(&outcome);
        let status = VmmStatus::read(&path).unwrap();
        assert_eq!((status.phase, status.exit_code), (Phase::Exited, Some(3)));
        assert_eq!(
            (status.error.as_deref(), status.request_id.as_deref()),
            (Some("no"), Some("req-1"))
        );
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_error_that_a_client_made_long_is_cut_and_the_file_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status");
        let mut file = StatusFile::new(Some(path.clone()), "vm1", None);
        file.set_error(&"\u{1b}".repeat(1 << 20));
        let error = VmmStatus::read(&path).unwrap().error.unwrap();
        assert_eq!(error.chars().count(), MAX_ERROR);
        // Something else than a VMM wrote it, and goes on and on.
        std::fs::write(&path, vec![b' '; 10 << 20]).unwrap();
        assert!(VmmStatus::read(&path).is_err());
    }
}
