//! Which process is whose, and why it ended.
#![allow(clippy::unwrap_used)]

use super::*;
use std::process::Command;

fn status(reason: Option<ExitReason>, code: u8) -> VmmStatus {
    VmmStatus {
        id: "x".into(),
        pid: 1,
        version: "0".into(),
        phase: Phase::Exited,
        exit_code: Some(code),
        reason,
        error: Some("boom".into()),
        request_id: None,
    }
}

#[test]
fn an_end_is_read_from_reason_or_code() {
    assert_eq!(
        exit_of(&status(Some(ExitReason::GuestShutdown), 0)),
        Exit::PowerOff
    );
    assert_eq!(
        exit_of(&status(Some(ExitReason::TripleFault), 3)),
        Exit::Reset
    );
    assert_eq!(
        exit_of(&status(Some(ExitReason::Error), 1)),
        Exit::Crash("boom".into())
    );
    assert_eq!(exit_of(&status(None, 3)), Exit::Reset);
    assert_eq!(exit_of(&status(None, 148)), Exit::Crash("boom".into()));
}

fn recorded(pid: u32, started: u64) -> ProcessFile {
    ProcessFile {
        pid,
        start_time: started,
        boot_id: boot_id().unwrap(),
        started_for: None,
    }
}

#[tokio::test]
async fn a_process_is_known_by_pid_and_start_and_its_end_is_seen() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let started = start_time(child.id()).unwrap();
    let alive = recorded(child.id(), started).alive().unwrap().unwrap();
    assert!(
        recorded(child.id(), started + 1).alive().unwrap().is_none(),
        "another's pid"
    );
    let mut other_boot = recorded(child.id(), started);
    other_boot.boot_id = "another".into();
    assert!(other_boot.alive().unwrap().is_none());
    alive.kill().unwrap();
    tokio::time::timeout(KILL_LIMIT, alive.ended())
        .await
        .unwrap()
        .unwrap();
    assert!(recorded(child.id(), started).alive().unwrap().is_none());
    let _ = child.wait();
}
