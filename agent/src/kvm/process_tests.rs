//! Which process is whose, and why it ended. A shell script plays the VMM.
#![allow(clippy::unwrap_used)]

use super::*;

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

#[tokio::test]
async fn a_vmm_that_ends_at_once_is_an_error_in_its_own_words() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("vmm");
    fs::write(&script, "#!/bin/sh\necho no such device >&2\nexit 1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let files = Folder(folder.path().join("guest"));
    fs::create_dir(&files.0).unwrap();
    let token = CancellationToken::new();
    let spawned = spawn(&files, &script, VmmId::from_u128(1), None, "req-1", &token).await;
    let error = spawned.unwrap_err().to_string();
    assert!(error.contains("no such device"), "{error}");
    assert!(matches!(
        files.observe().unwrap(),
        Observed::Exited(Exit::Crash(_))
    ));
    end(&files, Duration::ZERO, "", &token).await.unwrap();
    assert_eq!(files.observe().unwrap(), Observed::Stopped);
}

#[tokio::test]
async fn an_unrecorded_vmm_of_the_directory_is_ended_and_others_are_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("vmm");
    fs::write(&script, "#!/bin/sh\nsleep 60\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let start = |name: &str| {
        let files = Folder(folder.path().join(name));
        fs::create_dir(&files.0).unwrap();
        let child = command(&files, &script, VmmId::from_u128(1), "")
            .unwrap()
            .spawn()
            .unwrap();
        (files, child)
    };
    let (ours, mut our_child) = start("ours");
    let (_, mut other_child) = start("other");
    // Until both have gone through exec.
    let begun = Instant::now();
    while our_child.try_wait().unwrap().is_none() && begun.elapsed() < KILL_LIMIT {
        end_unrecorded(&ours).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(our_child.try_wait().unwrap().is_some());
    assert!(other_child.try_wait().unwrap().is_none());
    other_child.kill().unwrap();
    let _ = other_child.wait();
}
