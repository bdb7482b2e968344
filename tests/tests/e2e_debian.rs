//! A stock Debian guest, end to end, without a control plane: `berth-vmm` in an emulated host
//! boots Debian's own kernel and userland from disk, and the guest is reached from outside.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use berth_tests::debian::{BOOT, Key, ping};
use berth_tests::host::{Builder, EmulatedHost};
use berth_tests::images::Images;
use berth_tests::logs::brief;
use berth_tests::net::TestNet;
use berth_tests::process::{check, wait_until};
use berth_tests::skip::missing_for_hosts;
use berth_tests::{binaries, skip};
use serde_json::json;

const GUEST_IP: &str = "10.88.0.50";
const GUEST_MAC: &str = "52:54:00:aa:00:01";

#[test]
fn stock_debian_boots_to_its_login_prompt_and_is_reached_by_ssh() {
    boots_and_is_reached(|host| host);
}

/// The guest's two processors run at the same time here.
#[test]
#[ignore = "many repetitions: make soak"]
fn soak_stock_debian_on_a_host_of_two_processors() {
    boots_and_is_reached(Builder::two_processors);
}

fn boots_and_is_reached(on: impl FnOnce(Builder) -> Builder) {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let images = Images::get().unwrap();
    let here = tempfile::tempdir().unwrap();
    let key = Key::make(here.path()).unwrap();
    let drive = config_drive(here.path(), &key);
    let net = TestNet::new().unwrap();
    let host = on(EmulatedHost::builder("compute"))
        .file(
            binaries::build("berth-vmm", "berth-vmm").unwrap(),
            "/usr/local/bin/berth-vmm",
        )
        .file(images.vmlinux(), "/var/lib/berth/vmlinux")
        .file(images.guest_initrd(), "/var/lib/berth/initrd")
        .file(images.guest_root(), "/var/lib/berth/root")
        .file(drive, "/var/lib/berth/config-drive")
        .net(&net)
        .unwrap()
        .start()
        .unwrap();
    // A disk larger than the image: the guest grows into it.
    host.sh("truncate -s 1G /var/lib/berth/root").unwrap();
    host.sh("ip tuntap add dev tap0 mode tap && ip link set tap0 master br-provider up")
        .unwrap();
    let config = json!({
        "boot-source": {
            "kernel_image_path": "/var/lib/berth/vmlinux",
            "initrd_path": "/var/lib/berth/initrd",
            "boot_args": images.guest_cmdline().unwrap(),
        },
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 512 },
        "drives": [
            { "drive_id": "root", "path_on_host": "/var/lib/berth/root", "is_root_device": true, "is_read_only": false },
            { "drive_id": "config", "path_on_host": "/var/lib/berth/config-drive", "is_root_device": false, "is_read_only": true },
        ],
        "network-interfaces": [{ "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": GUEST_MAC }],
    });
    host.put("/root/guest.json", config.to_string().as_bytes())
        .unwrap();

    if let Err(error) = story(&host, &key, &images) {
        // The host itself may be gone: that is told, too.
        let console = host.get("/var/log/guest.log");
        let console = console.map(|log| String::from_utf8_lossy(&log).into_owned());
        let console = console.unwrap_or_else(|gone| format!("{gone:#}"));
        eprintln!("the console:\n{}", brief(&console, 60));
        panic!("{error:#}");
    }
}

fn story(host: &EmulatedHost, key: &Key, images: &Images) -> Result<()> {
    let began = Instant::now();
    let run = "berth-vmm --no-api --config-file /root/guest.json; echo $? > /root/exit-code";
    host.start_daemon("guest", &["sh", "-c", run])?;
    let prompt = wait_until(BOOT, || {
        let console = host.get("/var/log/guest.log")?;
        ensure!(host.get("/root/exit-code").is_err(), "berth-vmm ended");
        let console = String::from_utf8_lossy(&console);
        Ok(console.contains("guest-one login:").then_some(()))
    });
    prompt?.with_context(|| format!("no login prompt after {BOOT:?}"))?;
    println!("login prompt after {:.1} s", began.elapsed().as_secs_f32());

    // What the config drive asked for is there: address, name, key; so is the machine's size.
    ping(GUEST_IP, BOOT)?;
    let ssh = |script: &str| key.ssh(GUEST_IP, script);
    let is = |what: &str, wanted: &str| {
        let said = ssh(what)?;
        ensure!(said == wanted, "{what}: {said:?} and not {wanted:?}");
        Ok(())
    };
    // sshd comes up when it does, which need not be before the login prompt.
    let said = key.ssh_when_up(GUEST_IP, "hostname; nproc")?;
    ensure!(said == "guest-one\n2\n", "hostname and nproc: {said:?}");
    is("uname -r", &format!("{}\n", images.kernel_version()?))?;
    is("cat /sys/class/net/eth0/address", &format!("{GUEST_MAC}\n"))?;
    let size = ssh("df -B1 --output=size / | tail -1")?;
    ensure!(
        size.trim().parse::<u64>()? > 900 << 20,
        "the root did not grow into its disk: {size} bytes"
    );
    let user_data = wait_until(BOOT, || Ok(ssh("cat /root/user-data-ran").ok()))?;
    ensure!(user_data.as_deref() == Some("once\n"), "{user_data:?}");

    // The disk works under load, and the guest ends its machine in order.
    ssh(
        "dd if=/dev/urandom of=/root/file bs=1M count=16 conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; \
         sha256sum /root/file > /root/sum; echo 3 > /proc/sys/vm/drop_caches; sha256sum -c --quiet /root/sum",
    )?;
    key.order(GUEST_IP, "systemctl poweroff");
    let ended = wait_until(BOOT, || {
        let code = host.get("/root/exit-code").ok();
        Ok(code.filter(|code| !code.is_empty()))
    })?;
    let code = ended.context("the guest does not power off")?;
    ensure!(
        code == b"0\n",
        "exit code {}",
        String::from_utf8_lossy(&code)
    );
    Ok(())
}

/// Makes a config drive with that key, in OpenStack's layout; gives the drive's image.
fn config_drive(dir: &Path, key: &Key) -> PathBuf {
    let public = fs::read_to_string(key.public()).unwrap();
    let latest = dir.join("drive/openstack/latest");
    fs::create_dir_all(&latest).unwrap();
    let meta = json!({
        "uuid": "83679162-1378-4288-a2d4-70e13ec132aa",
        "name": "guest-one",
        "hostname": "guest-one.novalocal",
        "public_keys": { "mine": public },
    });
    let network = json!({
        "links": [{ "id": "tap0", "type": "phy", "ethernet_mac_address": GUEST_MAC, "mtu": 1500 }],
        "networks": [{ "id": "network0", "type": "ipv4", "link": "tap0", "ip_address": GUEST_IP,
            "netmask": "255.255.255.0", "routes": [] }],
        "services": [],
    });
    fs::write(latest.join("meta_data.json"), meta.to_string()).unwrap();
    fs::write(latest.join("network_data.json"), network.to_string()).unwrap();
    fs::write(
        latest.join("user_data"),
        "#!/bin/sh\necho once >> /root/user-data-ran\n",
    )
    .unwrap();
    let image = dir.join("config-drive");
    let folder = dir.join("drive");
    let arguments = [
        "-as", "mkisofs", "-quiet", "-V", "config-2", "-J", "-R", "-o",
    ];
    let mut xorriso = Command::new("xorriso");
    xorriso.args(arguments).arg(&image).arg(folder);
    check(xorriso, BOOT).unwrap();
    image
}
