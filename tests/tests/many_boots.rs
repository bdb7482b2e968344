//! Guests of two processors, one after the other on one emulated host: each boots Debian's stock
//! kernel to its init and powers off. What this finds is a host or a guest that stands still now
//! and then (`src/host/qemu.rs`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use berth_tests::host::{Builder, EmulatedHost};
use berth_tests::images::Images;
use berth_tests::skip::missing_for_hosts;
use berth_tests::{binaries, skip};
use serde_json::json;

/// A boot takes 3 s on a quiet machine. One that stands still never ends.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn thirty_guests_of_two_processors_boot_one_after_the_other() {
    boots(30, |host| host);
}

#[test]
#[ignore = "many repetitions: make soak"]
fn soak_three_hundred_guests_of_two_processors() {
    boots(300, |host| host);
}

/// The guest's processors run at the same time there.
#[test]
#[ignore = "many repetitions: make soak"]
fn soak_three_hundred_guests_of_two_processors_on_a_host_of_two() {
    boots(300, Builder::two_processors);
}

#[test]
#[ignore = "many repetitions: make soak"]
fn soak_guests_of_two_processors_with_high_resolution_timers() {
    boots(100, Builder::high_resolution_timers);
}

fn boots(times: u32, on: impl FnOnce(Builder) -> Builder) {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let images = Images::get().unwrap();
    let here = tempfile::tempdir().unwrap();
    let script = "echo \"init on $(busybox nproc)\"\nbusybox poweroff -f\n";
    let initrd = images.initrd_with_init(here.path(), script).unwrap();
    let vmm = binaries::build("berth-vmm", "berth-vmm").unwrap();
    let host = on(EmulatedHost::builder("many"))
        .file(vmm, "/usr/local/bin/berth-vmm")
        .file(images.vmlinux(), "/var/lib/berth/vmlinux")
        .file(initrd, "/var/lib/berth/initrd")
        .start()
        .unwrap();
    let config = json!({
        "boot-source": {
            "kernel_image_path": "/var/lib/berth/vmlinux",
            "initrd_path": "/var/lib/berth/initrd",
            "boot_args": "console=ttyS0 quiet reboot=k panic=1 rdinit=/berth-init",
        },
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 256 },
    });
    host.put("/root/guest.json", config.to_string().as_bytes())
        .unwrap();

    for boot in 1..=times {
        let argv = ["berth-vmm", "--no-api", "--config-file", "/root/guest.json"];
        let ended = host
            .run(&argv, PATIENCE)
            .unwrap_or_else(|error| panic!("boot {boot} of {times}: {error:#}"));
        let console = ended.text();
        assert!(
            ended.success() && console.contains("init on 2"),
            "boot {boot} of {times} ended with {}: {console}{}",
            ended.code,
            ended.error_text()
        );
    }
}
