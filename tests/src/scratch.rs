//! Folders for what a test writes; removed with their value, or by the next test process if the
//! one that made them was killed.

use std::fs;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// What all folders' names begin with; the maker's process id and start time follow.
const PREFIX: &str = "berth-test-";

/// A new, empty folder in the system's temporary directory, for a `kind` of thing.
///
/// # Errors
/// If it cannot be made.
pub fn folder(kind: &str) -> Result<TempDir> {
    static SWEEP: Once = Once::new();
    SWEEP.call_once(|| sweep(&std::env::temp_dir()));
    let pid = std::process::id();
    let started = start_time(pid).context("/proc has no entry for this process")?;
    let prefix = format!("{PREFIX}{pid}-{started}-{kind}-");
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir()
        .context("cannot make a temporary folder")
}

/// Removes the folders of processes that are gone.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(owner);
        if owner.is_some_and(|(pid, started)| start_time(pid) != Some(started)) {
            // Somebody else's, or being swept by another process too: not this one's business.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process id and start time in a folder's name, after the prefix.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// When a process began, in clock ticks since boot (proc(5), stat, field 22): with it, a process
/// id that is used again is told apart.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold spaces and brackets: fields are counted after its last one.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_of_dead_processes_are_swept_and_others_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let me = std::process::id();
        let started = start_time(me).unwrap();
        let keep = [
            format!("{PREFIX}{me}-{started}-x-abc"),
            "berth-other".into(),
            format!("{PREFIX}odd"),
        ];
        // No process has the id 0, and no other process can have begun when this one did.
        let remove = [
            format!("{PREFIX}0-1-x-abc"),
            format!("{PREFIX}{me}-{}-x-abc", started + 1),
        ];
        for name in keep.iter().chain(&remove) {
            fs::create_dir_all(parent.path().join(name).join("deep")).unwrap();
        }
        sweep(parent.path());
        assert!(keep.iter().all(|name| parent.path().join(name).exists()));
        assert!(!remove.iter().any(|name| parent.path().join(name).exists()));
    }
}
