//! Emulated hosts: what tests are told of them is true.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use berth_tests::host::EmulatedHost;
use berth_tests::net::TestNet;
use berth_tests::skip;
use berth_tests::skip::missing_for_hosts;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_host_runs_commands_takes_and_gives_files_and_has_hardware_kvm() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let own = std::env::current_exe().unwrap();
    let host = EmulatedHost::builder("one")
        .file(&own, "/opt/deep/copy")
        .start()
        .unwrap();

    assert_eq!(host.run(&["true"], SOON).unwrap().code, 0);
    assert_eq!(host.run(&["false"], SOON).unwrap().code, 1);
    assert_eq!(
        host.run(&["sh", "-c", "kill -9 $$"], SOON).unwrap().code,
        128 + 9
    );
    let output = host
        .run(&["sh", "-c", "echo out; echo err >&2; exit 7"], SOON)
        .unwrap();
    assert_eq!(
        (output.code, output.text(), output.error_text()),
        (7, "out\n".into(), "err\n".into())
    );
    assert!(
        host.run(&["/no/such/program"], SOON)
            .unwrap_err()
            .chain()
            .any(|e| e.to_string().contains("No such file"))
    );
    assert_eq!(host.sh("hostname").unwrap(), "one\n");

    // Files: one that came with the disk, one put, and a big one through the channel both ways.
    let size = std::fs::metadata(&own).unwrap().len();
    assert_eq!(
        host.sh("stat -c %s /opt/deep/copy").unwrap(),
        format!("{size}\n")
    );
    let big: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    host.put("/root/new/big", &big).unwrap();
    assert!(
        host.get("/root/new/big").unwrap() == big,
        "the file came back changed"
    );
    assert!(host.get("/root/nothing").is_err());

    // A command that takes too long is ended, in the host too; others go on meanwhile.
    let began = Instant::now();
    assert!(
        host.run(&["sleep", "1000"], Duration::from_secs(1))
            .is_err()
    );
    assert!(began.elapsed() < SOON);
    assert_eq!(host.sh("sleep 0.3; pgrep -c sleep || true").unwrap(), "0\n");

    // A daemon outlives the command that started it.
    let pid = host
        .start_daemon("sleeper", &["sh", "-c", "echo begun; exec sleep 1000"])
        .unwrap();
    assert_eq!(
        host.sh(&format!(
            "sleep 0.2; cat /proc/{pid}/comm /var/log/sleeper.log"
        ))
        .unwrap(),
        "sleep\nbegun\n"
    );
    assert!(host.start_daemon("none", &["no-such-program"]).is_err());

    let processors = format!("{}\n", host.processors());
    assert_eq!(host.sh("nproc").unwrap(), processors);

    // KVM, and the devices that a compute host needs.
    assert_eq!(
        host.sh("stat -c %F /dev/kvm /dev/net/tun /dev/vhost-net | sort -u")
            .unwrap(),
        "character special file\n"
    );
    assert!(host.sh("cat /sys/module/kvm_*/parameters/npt /sys/module/kvm_*/parameters/ept 2>/dev/null || true").unwrap().contains(['Y', '1']));
}

#[test]
fn hosts_on_one_network_reach_each_other_and_the_test() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let net = TestNet::new().unwrap();
    let builders = ["one", "two"].map(|name| {
        EmulatedHost::builder(name)
            .memory_mib(1024)
            .net(&net)
            .unwrap()
    });
    let hosts = EmulatedHost::start_all(builders.into()).unwrap();
    let [one, two] = [0, 1].map(|index| IpAddr::from(hosts[index].ip().unwrap()));
    assert_ne!(one, two);
    let listener = TcpListener::bind((net.ip(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();

    hosts[0]
        .sh(&format!("ping -c 2 -i 0.2 -W 5 {two}"))
        .unwrap();
    hosts[1]
        .sh(&format!("ping -c 2 -i 0.2 -W 5 {one}"))
        .unwrap();
    hosts[0]
        .start_daemon(
            "connect",
            &[
                "curl",
                "-s",
                "-m",
                "20",
                &format!("http://{}:{port}/", net.ip()),
            ],
        )
        .unwrap();
    assert_eq!(
        listener.accept().unwrap().1.ip(),
        one,
        "a host reaches what the test listens on"
    );
    hosts[1]
        .start_daemon("serve", &["busybox", "nc", "-l", "-p", "4000"])
        .unwrap();
    hosts[1]
        .sh("until ss -ltn | grep -q :4000; do sleep 0.1; done")
        .unwrap();
    TcpStream::connect_timeout(&(two, 4000).into(), SOON)
        .expect("the test reaches what a host listens on");

    // The guests' network: both bridges are in it, and so is the test.
    hosts[0]
        .sh("ip addr add 10.88.0.51/24 dev br-provider")
        .unwrap();
    hosts[1]
        .sh("ip addr add 10.88.0.52/24 dev br-provider")
        .unwrap();
    hosts[0]
        .sh(&format!(
            "ping -c 1 -W 5 10.88.0.52 && ping -c 1 -W 5 {}",
            net.provider_ip()
        ))
        .unwrap();

    // Dropped, the thread is out of that network again.
    drop((hosts, net));
    assert!(TcpListener::bind((one, 0)).is_err());
    assert!(
        !std::fs::read_to_string("/proc/thread-self/net/dev")
            .unwrap()
            .contains("management")
    );
}

#[test]
fn a_power_cut_is_noticed_and_what_was_synced_survives_it() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let mut host = EmulatedHost::builder("cut")
        .memory_mib(1024)
        .start()
        .unwrap();
    let dir: PathBuf = host.dir().into();
    host.sh("echo kept > /var/lib/berth/state; echo kept > /etc/kept; sync; echo lost > /tmp/lost")
        .unwrap();

    host.power_cut().unwrap();
    let refused = host.sh("true").unwrap_err().to_string();
    assert!(refused.contains("has no power"), "{refused}");
    assert!(host.power_cut().is_err(), "the power can be cut only once");

    host.power_on().unwrap();
    assert_eq!(
        host.sh("cat /var/lib/berth/state /etc/kept").unwrap(),
        "kept\nkept\n"
    );
    assert!(host.get("/tmp/lost").is_err());
    assert!(host.power_on().is_err(), "it has power");

    // A host that dies under a command is told apart from a command that takes long.
    let died = host.run(&["busybox", "poweroff", "-f"], SOON).unwrap_err();
    assert!(format!("{died:#}").contains("the host died"), "{died:#}");

    drop(host);
    assert!(!dir.exists());
}

/// Without the VM that host-rc keeps, such a host stands still within some hundred of these.
#[test]
fn a_host_of_two_processors_outlives_vms_that_come_and_go() {
    vms_come_and_go(500);
}

#[test]
#[ignore = "many repetitions: make soak"]
fn soak_vms_that_come_and_go_on_a_host_of_two_processors() {
    vms_come_and_go(10_000);
}

fn vms_come_and_go(times: u32) {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let host = EmulatedHost::builder("two")
        .two_processors()
        .start()
        .unwrap();
    assert_eq!(host.sh("nproc").unwrap(), "2\n");
    let busy = "perl -e 'select undef, undef, undef, 0.0001 while 1' </dev/null >/dev/null 2>&1 &";
    host.sh(&format!("{busy} {busy} true")).unwrap();
    // KVM_CREATE_VM, 0xAE01; the VM goes when its file does.
    let toggle = "use POSIX; for (1..50) { open $kvm, '+<', '/dev/kvm' or die; \
        POSIX::close(ioctl($kvm, 0xae01, 0) or die \"KVM_CREATE_VM: $!\") } print 'whole'";
    for done in (0..times).step_by(50) {
        let told = host
            .run(&["perl", "-e", toggle], SOON * 6)
            .unwrap_or_else(|error| panic!("after {done} VMs: {error:#}"));
        assert_eq!(told.text(), "whole", "{}", told.error_text());
    }
}
