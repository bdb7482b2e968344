//! The machine that an emulated host is: QEMU's command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Builder, EmulatedHost, Wiring};

/// What keeps an emulated host going whose timer interrupt was lost.
///
/// QEMU's TCG loses the notification of an interrupt now and then. A kernel with one-shot timers
/// arms the next one in the handler of the last: it stands still until something else interrupts
/// it. A periodic tick comes again. The host's timers, and so its KVM's, have the tick's grain
/// then, 4 ms; see [`super::serial`] for where that is too coarse.
const PERIODIC_TICK: &str = " nohz=off highres=off";

impl EmulatedHost {
    /// The host's processors, disks, networks and channel.
    pub(super) fn qemu(&self) -> Command {
        let Builder {
            name,
            memory_mib,
            processors,
            high_resolution_timers,
            wiring,
            ..
        } = &self.spec;
        let dir = self.dir.path();
        let mut append =
            "console=ttyS0 quiet reboot=t panic=-1 mitigations=off net.ifnames=0".to_owned();
        append += &format!(" berth.name={name}");
        if !high_resolution_timers {
            append += PERIODIC_TICK;
        }
        if *processors > 1 {
            // host-rc brings up the others, and says why.
            append += " maxcpus=1";
        }
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-M",
            "q35",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        if has_hardware_kvm() {
            qemu.args(["-accel", "kvm", "-cpu", "host"]);
        } else {
            let accelerator = "tcg,thread=multi,tb-size=512";
            qemu.args(["-accel", accelerator, "-cpu", "EPYC,+svm,+npt"]);
        }
        qemu.args(["-smp", &processors.to_string()]);
        qemu.args(["-m", &memory_mib.to_string()]);
        qemu.args([
            "-chardev",
            &if *high_resolution_timers {
                format!(
                    "socket,id=console,server=on,wait=off,path={},logappend=on,logfile={}",
                    self.serial_path().display(),
                    self.console_path().display()
                )
            } else {
                format!(
                    "file,id=console,append=on,path={}",
                    self.console_path().display()
                )
            },
        ]);
        qemu.args(["-serial", "chardev:console"]);
        qemu.arg("-kernel")
            .arg(self.images.vmlinux())
            .arg("-initrd")
            .arg(self.images.host_initrd());
        disk(&mut qemu, "root", &self.images.host_root(), "readonly=on");
        // A kill of QEMU loses nothing that it has written: flushes to this machine's own disk
        // would only cost time.
        disk(
            &mut qemu,
            "data",
            &dir.join("disk"),
            "cache=unsafe,discard=unmap",
        );
        qemu.args([
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtserialport,chardev=channel,name=berth",
        ]);
        qemu.args([
            "-chardev",
            &format!(
                "socket,id=channel,server=on,wait=off,path={}",
                dir.join("channel").display()
            ),
        ]);
        qemu.args([
            "-object",
            "rng-random,id=rng,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng",
        ]);
        match wiring {
            None => {
                qemu.args(["-netdev", "user,id=net0"]);
                nic(&mut qemu, "net0", None);
                append += " berth.ip=10.0.2.15/24 berth.gw=10.0.2.2";
            }
            Some(Wiring { ip, gateway, taps }) => {
                for (index, tap) in taps.iter().enumerate() {
                    let id = format!("net{index}");
                    qemu.args([
                        "-netdev",
                        &format!("tap,id={id},ifname={tap},script=no,downscript=no"),
                    ]);
                    let octets = ip.octets();
                    nic(
                        &mut qemu,
                        &id,
                        Some(format!(
                            "52:54:00:{:02x}:{:02x}:0{index}",
                            octets[2], octets[3]
                        )),
                    );
                }
                append += &format!(" berth.ip={ip}/24 berth.gw={gateway}");
            }
        }
        qemu.args(["-append", &append]);
        qemu
    }
}

/// How many processors a host has unless told: one, where they are emulated.
///
/// The kernel patches its own code while it runs. Where another emulated processor translates that
/// code at the same instant, its translation may keep the breakpoint of the patching, which it then
/// takes for ever; the periodic tick is no cure for that. KVM's patching is what made hosts of two
/// stand still: within 50 and 200 VMs made and closed in a loop, and within none of 3000 with the
/// VM that host-rc keeps. What else patches (a packet socket's time stamps, netfilter's hooks) is
/// rare, and yet one processor is the safer choice where two are not what a test is about.
pub(super) fn processors() -> u32 {
    if has_hardware_kvm() { 2 } else { 1 }
}

fn disk(qemu: &mut Command, id: &str, path: &Path, options: &str) {
    qemu.args([
        "-drive",
        &format!(
            "id={id},if=none,format=raw,file={},{options}",
            path.display()
        ),
    ]);
    qemu.args(["-device", &format!("virtio-blk-pci,drive={id}")]);
}

/// A NIC without a boot ROM, which would cost a second at each start.
fn nic(qemu: &mut Command, netdev: &str, mac: Option<String>) {
    let mac = mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
    qemu.args([
        "-device",
        &format!("virtio-net-pci,netdev={netdev},romfile={mac}"),
    ]);
}

/// Whether QEMU can run a host with KVM inside on this machine's own KVM.
fn has_hardware_kvm() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualises = flags
        .split_whitespace()
        .any(|word| word == "svm" || word == "vmx");
    let nested = ["kvm_amd", "kvm_intel"].iter().any(|module| {
        let path = format!("/sys/module/{module}/parameters/nested");
        matches!(
            fs::read_to_string(path).as_deref().map(str::trim),
            Ok("1" | "Y")
        )
    });
    virtualises
        && nested
        && fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}
