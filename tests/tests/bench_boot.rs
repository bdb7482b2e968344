//! Boot times beside a peer, in one emulated host: stock Debian's ELF and an initial RAM disk, to
//! init, on virtio-mmio both. Needs the peer's program: `BERTH_FIRECRACKER=/path/to/firecracker`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::Duration;

use berth_tests::host::EmulatedHost;
use berth_tests::images::Images;
use berth_tests::skip::missing_for_hosts;
use berth_tests::{binaries, skip};
use serde_json::Value;

const MARKER: &str = "berth-bench: init runs";
/// What Berth's median may be at most, as a share of Firecracker's.
const RATIO: f64 = 1.03;

#[test]
#[ignore = "a benchmark: it wants a quiet machine, and the peer's program"]
fn debian_boots_to_init_as_fast_as_on_firecracker() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let Some(firecracker) = std::env::var_os("BERTH_FIRECRACKER").map(PathBuf::from) else {
        skip!("BERTH_FIRECRACKER does not name a firecracker");
    };
    let images = Images::get().unwrap();
    let here = tempfile::tempdir().unwrap();
    let script = format!("echo '{MARKER}'\nexec /bin/busybox sleep 1000\n");
    let initrd = images.initrd_with_init(here.path(), &script).unwrap();
    let host = EmulatedHost::builder("bench")
        .file(
            binaries::build("berth", "berth").unwrap(),
            "/usr/local/bin/berth",
        )
        .file(
            binaries::build("berth-vmm", "berth-vmm").unwrap(),
            "/usr/local/bin/berth-vmm",
        )
        .file(firecracker, "/usr/local/bin/firecracker")
        .file(images.vmlinux(), "/var/lib/berth/vmlinux")
        .file(initrd, "/var/lib/berth/initrd")
        .high_resolution_timers()
        .start()
        .unwrap();
    let runs = std::env::var("BERTH_RUNS").unwrap_or_else(|_| "11".into());
    let script = format!(
        "berth bench boot --json --runs {runs} --memory 256 --vs firecracker=/usr/local/bin/firecracker \
         --kernel /var/lib/berth/vmlinux --initrd /var/lib/berth/initrd --marker '{MARKER}' \
         --cmdline 'console=ttyS0 quiet reboot=k panic=1 rdinit=/berth-init'"
    );
    let report = host.sh_for(&script, Duration::from_secs(1800)).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    eprintln!(
        "{}",
        serde_json::to_string_pretty(&report["summary"]).unwrap()
    );
    let ratio = report["summary"][1]["ratio"].as_f64().unwrap();
    assert!(
        ratio <= RATIO,
        "Berth takes {ratio:.3} of Firecracker's time to init, above {RATIO}"
    );
}
