//! A shell script plays the VMM.
#![allow(clippy::unwrap_used)]

use super::super::process::{end, end_unrecorded};
use super::*;
use crate::driver::{Exit, Observed};
use std::fs;

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
    let Err(NotStarted::Failed(error)) = spawned else {
        panic!("{spawned:?}");
    };
    let error = error.to_string();
    assert!(error.contains("no such device"), "{error}");
    assert!(matches!(
        files.observe().unwrap(),
        Observed::Exited(Exit::Crash(_))
    ));
    end(&files, Duration::ZERO, "", &token).await.unwrap();
    assert_eq!(files.observe().unwrap(), Observed::Stopped);
}

#[tokio::test]
async fn a_vmm_that_is_killed_as_it_starts_is_told_from_one_that_fails() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("vmm");
    fs::write(&script, "#!/bin/sh\nkill -9 $$\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let files = Folder(folder.path().join("guest"));
    fs::create_dir(&files.0).unwrap();
    let token = CancellationToken::new();
    let spawned = spawn(&files, &script, VmmId::from_u128(1), None, "req-1", &token).await;
    assert!(matches!(spawned, Err(NotStarted::Killed(9))), "{spawned:?}");
    assert!(files.was_killed());
}

#[test]
fn a_vmm_gets_nothing_of_the_agents_environment() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("vmm");
    let files = Folder(folder.path().to_owned());
    let command = command(&files, &script, VmmId::from_u128(1), "").unwrap();
    let set: Vec<_> = command.get_envs().map(|(name, _)| name).collect();
    let allowed = |name: &&std::ffi::OsStr| {
        *name == "RUST_BACKTRACE" || VARIABLES.iter().any(|known| *known == *name)
    };
    assert!(set.iter().all(allowed), "{set:?}");
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
    while our_child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(30) {
        end_unrecorded(&ours).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(our_child.try_wait().unwrap().is_some());
    assert!(other_child.try_wait().unwrap().is_none());
    other_child.kill().unwrap();
    let _ = other_child.wait();
}
