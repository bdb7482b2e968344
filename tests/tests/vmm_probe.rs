//! The VMM with a real guest on this machine's `/dev/kvm`: boot, disks, network, a guest's mistake.
//!
//! The guest is the probe of `tests/probe`, which runs on hardware KVM and on emulated KVM alike.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use berth_tests::host::EmulatedHost;
use berth_tests::net::TestNet;
use berth_tests::probe::{self, Config, Entry};
use berth_tests::skip::missing_for_hosts;
use berth_tests::{binaries, process, scratch, skip};
use tempfile::TempDir;

/// Much more than any of these guests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// `ExitCode::GuestReset` of the VMM's API.
const GUEST_RESET: Option<i32> = Some(3);
const POWERED_OFF: Option<i32> = Some(0);
const SECTOR: usize = 512;

/// FNV-1a, 64 bits: how the probe tells what it read.
fn fnv1a(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// A disk of `sectors` sectors in which no two are alike.
fn disk(dir: &TempDir, name: &str, sectors: usize) -> PathBuf {
    let path = dir.path().join(name);
    let bytes: Vec<u8> = (0..sectors * SECTOR)
        .map(|i| (i % 241) as u8 ^ (i / SECTOR) as u8)
        .collect();
    fs::write(&path, bytes).unwrap();
    path
}

fn sectors(path: &Path, first: usize, count: usize) -> Vec<u8> {
    fs::read(path).unwrap()[first * SECTOR..(first + count) * SECTOR].to_vec()
}

#[test]
fn a_guest_boots_by_either_protocol_and_its_reset_ends_the_vmm_with_its_own_code() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    for (entry, says) in [(Entry::Pvh, "pvh"), (Entry::Linux, "linux")] {
        let guest = Config::new("mode=boot").entry(entry).start().unwrap();
        let end = guest.finish(PATIENCE).unwrap();
        assert_eq!(end.line("Berth probe: ").unwrap(), says);
        assert_eq!(end.status.code(), GUEST_RESET);
    }
}

#[test]
fn a_guest_finds_acpi_resets_by_it_and_powers_off_by_it() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    for (end, code) in [("acpi-reset", GUEST_RESET), ("poweroff", POWERED_OFF)] {
        let guest = Config::new(&format!("mode=none end={end}"))
            .start()
            .unwrap();
        assert_eq!(guest.finish(PATIENCE).unwrap().status.code(), code, "{end}");
    }
}

#[test]
fn a_disk_gives_the_hosts_bytes_and_keeps_the_guests() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    for irq in [0, 1] {
        let dir = scratch::folder("disk").unwrap();
        let image = disk(&dir, "image", 64);
        let before = fs::read(&image).unwrap();
        let guest = Config::new(&format!("mode=blk irq={irq} sectors=40 at=50 seed={irq}"))
            .drive("scratch", &image, false)
            .start()
            .unwrap();
        let end = guest.finish(PATIENCE).unwrap();
        end.line("probe: blk done").unwrap();
        assert_eq!(end.line("probe: capacity ").unwrap(), "64");
        assert_eq!(
            end.line("probe: hash ").unwrap(),
            fnv1a(&before[..40 * SECTOR])
        );
        let written = sectors(&image, 50, 8);
        assert_eq!(end.line("probe: written hash ").unwrap(), fnv1a(&written));
        assert_ne!(
            written,
            before[50 * SECTOR..58 * SECTOR],
            "nothing was written"
        );
        assert_eq!(sectors(&image, 0, 50), before[..50 * SECTOR]);
        assert_eq!(sectors(&image, 58, 6), before[58 * SECTOR..]);
        if irq == 1 {
            // One for each request: id, read, write, flush, read back, and three refusals.
            assert_eq!(end.line("probe: interrupts ").unwrap(), "8");
        }
    }
}

#[test]
fn a_read_only_disk_stays_as_it_was() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    let dir = scratch::folder("disk").unwrap();
    let image = disk(&dir, "image", 64);
    let before = fs::read(&image).unwrap();
    let guest = Config::new("mode=blk")
        .drive("fixed", &image, true)
        .start()
        .unwrap();
    let end = guest.finish(PATIENCE).unwrap();
    assert_eq!(
        end.line("probe: wrote ").unwrap(),
        "1",
        "VIRTIO_BLK_S_IOERR"
    );
    assert_eq!(fs::read(&image).unwrap(), before);
}

#[test]
fn a_drivers_mistake_stops_its_disk_until_reset_and_the_other_goes_on() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    let dir = scratch::folder("disk").unwrap();
    let guest = Config::new("mode=mistake end=poweroff")
        .drive("first", &disk(&dir, "first", 8), false)
        .drive("second", &disk(&dir, "second", 8), false)
        .start()
        .unwrap();
    let end = guest.finish(PATIENCE).unwrap();
    assert_eq!(
        end.line("probe: needs reset, interrupt status ").unwrap(),
        "2",
        "a configuration interrupt tells the driver"
    );
    end.line("probe: the other disk goes on").unwrap();
    end.line("probe: mistake done").unwrap();
    assert_eq!(end.status.code(), POWERED_OFF);
}

#[test]
fn a_loaded_disk_answers_every_request() {
    if let Some(why) = probe::missing() {
        skip!("{why}");
    }
    let dir = scratch::folder("disk").unwrap();
    for load in [
        "n=300 qd=1 bs=512",
        "n=2000 qd=64 bs=4096",
        "n=500 qd=16 bs=65536 rw=write",
    ] {
        let guest = Config::new(&format!("mode=blkbench span=524288 {load}"))
            .drive("scratch", &disk(&dir, "image", 1024), false)
            .start()
            .unwrap();
        guest
            .finish(PATIENCE)
            .unwrap()
            .line("probe: end, ")
            .unwrap();
    }
}

#[test]
fn packets_of_all_sizes_come_back_through_a_tap_checksummed_or_not() {
    if let Some(why) = probe::missing().or_else(missing_for_hosts) {
        skip!("{why}");
    }
    let _net = TestNet::new().unwrap();
    ip("tuntap add dev probe0 mode tap vnet_hdr");
    ip("link set probe0 mtu 9000 up");
    ip("addr add 192.0.2.1/24 dev probe0");
    for words in ["irq=0 csum=0", "irq=0 csum=1", "irq=1 csum=1"] {
        // Beyond 1500 bytes a frame takes several of the probe's 2 KiB buffers; the last one is
        // sent in fragments, each of which is a frame, and all of which come back.
        let sizes = [1, 18, 600, 1472, 1473, 4000, 8972, 20000];
        let frames = sizes.len() + 2;
        let mut guest = Config::new(&format!("mode=net {words} n={frames}"))
            .nic("probe0", "02:00:00:00:00:01")
            .start()
            .unwrap();
        assert_eq!(guest.line("probe: mac ", PATIENCE).unwrap(), "020000000001");
        guest.line("probe: net ready", PATIENCE).unwrap();

        let socket = UdpSocket::bind("192.0.2.1:4000").unwrap();
        socket.connect("192.0.2.2:7").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for size in sizes {
            let sent: Vec<u8> = (0..size).map(|i| (i * 7 + size) as u8).collect();
            socket.send(&sent).unwrap();
            let mut back = vec![0; 65536];
            let len = socket.recv(&mut back).unwrap();
            assert!(
                back[..len] == sent,
                "{size} bytes came back as {len}, {words}"
            );
        }
        let end = guest.finish(PATIENCE).unwrap();
        end.line("probe: net done").unwrap();
        if words.contains("irq=1") {
            end.line("probe: interrupts came").unwrap();
        }
        let open: u64 = end
            .console
            .split("checksums open ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(
            open > 0,
            words.contains("csum=1"),
            "{words}: {open} open checksums"
        );
    }
}

/// What runs above on this machine's KVM, of whatever kind, also runs on hardware KVM.
#[test]
fn the_same_guest_runs_on_hardware_kvm_in_an_emulated_host() {
    if let Some(why) = missing_for_hosts() {
        skip!("{why}");
    }
    let dir = scratch::folder("probe").unwrap();
    let kernel = probe::build(dir.path(), Entry::Pvh).unwrap();
    let vmm = binaries::build("berth-vmm", "berth-vmm").unwrap();
    let image = disk(&dir, "image", 64);
    let before = fs::read(&image).unwrap();
    let host = EmulatedHost::builder("probe")
        .memory_mib(1024)
        .file(&vmm, "/usr/local/bin/berth-vmm")
        .file(&kernel, "/opt/probe.elf")
        .file(&image, "/opt/first")
        .file(&image, "/opt/second")
        .start()
        .unwrap();
    let run = |words: &str| {
        let config = Config::new(words)
            .drive("first", Path::new("/opt/first"), false)
            .drive("second", Path::new("/opt/second"), false)
            .json(Path::new("/opt/probe.elf"));
        let config = config.to_string();
        host.put("/opt/config.json", config.as_bytes()).unwrap();
        let command = ["berth-vmm", "--no-api", "--config-file", "/opt/config.json"];
        let output = host.run(&command, PATIENCE).unwrap();
        assert_eq!(output.code, 0, "{}{}", output.text(), output.error_text());
        output.text()
    };
    let console = run("mode=blk irq=1 sectors=40 at=50 end=poweroff");
    assert!(
        console.contains(&format!("hash {}", fnv1a(&before[..40 * SECTOR]))),
        "{console}"
    );
    let after = host.get("/opt/first").unwrap();
    let written = fnv1a(&after[50 * SECTOR..58 * SECTOR]);
    assert!(
        console.contains(&format!("written hash {written}")),
        "{console}"
    );
    let console = run("mode=mistake end=poweroff");
    assert!(console.contains("probe: mistake done"), "{console}");
}

fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    process::check(command, PATIENCE).unwrap();
}
