//! Files that are no kernel or no disk: `berth-vmm` ends with the code for a wrong
//! configuration, and names the file on standard error and in its status file.

use berth_tests::probe::{self, Entry};
use berth_tests::{binaries, process, scratch, skip};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// `ExitCode::BadConfiguration` of the VMM's API.
const BAD_CONFIGURATION: Option<i32> = Some(152);
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a guest that cannot be; what it said must name `culprit`.
fn refused(dir: &Path, kernel: &Path, disk: Option<&Path>, culprit: &Path) {
    let drives: Vec<Value> = disk
        .iter()
        .map(|disk| json!({"drive_id": "root", "path_on_host": disk, "is_root_device": true}))
        .collect();
    let config = json!({
        "boot-source": { "kernel_image_path": kernel, "boot_args": "mode=boot" },
        "drives": drives,
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
    });
    let (file, status) = (dir.join("config.json"), dir.join("status.json"));
    fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(binaries::build("berth-vmm", "berth-vmm").unwrap());
    command.args(["--no-api", "--config-file"]).arg(&file);
    command.arg("--status-file").arg(&status);
    let output = process::run(command, PATIENCE).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), BAD_CONFIGURATION, "{said}");
    let culprit = culprit.to_str().unwrap();
    assert!(said.contains(culprit), "{said}");
    let status = fs::read_to_string(status).unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["exit_code"], 152, "{status}");
    assert!(
        status["error"].as_str().unwrap().contains(culprit),
        "{status}"
    );
}

#[test]
fn a_corrupt_kernel_is_named() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    let dir = scratch::folder("bad-kernel").unwrap();
    let dir = dir.path();
    let good = fs::read(probe::build(dir, Entry::Pvh).unwrap()).unwrap();
    let mut wild = good.clone();
    // e_phoff, where the ELF header says its program headers are: far outside the file.
    wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    for (name, bytes) in [
        ("empty", &[][..]),
        ("text", b"this is no kernel".as_slice()),
        ("cut", &good[..100]),
        ("wild", &wild),
    ] {
        let kernel = dir.join(name);
        fs::write(&kernel, bytes).unwrap();
        refused(dir, &kernel, None, &kernel);
    }
    let missing = dir.join("missing-kernel");
    refused(dir, &missing, None, &missing);
}

#[test]
fn a_missing_disk_is_named() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    let dir = scratch::folder("bad-disk").unwrap();
    let dir = dir.path();
    let kernel = probe::build(dir, Entry::Pvh).unwrap();
    let missing = dir.join("missing-disk");
    refused(dir, &kernel, Some(&missing), &missing);
    // A folder is no disk either.
    refused(dir, &kernel, Some(dir), dir);
}
