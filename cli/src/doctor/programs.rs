//! Whether the programs that an agent calls are there.

use super::Finding;
use crate::tools;

/// What the report says of programs.
pub fn check() -> Vec<Finding> {
    let mut findings = vec![match tools::find("berth-vmm") {
        Ok(path) => Finding::ok("berth-vmm", path.display().to_string()),
        Err(error) => Finding::fail(
            "berth-vmm",
            error.to_string(),
            "cargo build --release -p berth-vmm",
        ),
    }];
    for (program, package, why) in [
        ("dnsmasq", "dnsmasq-base", "addresses by DHCP"),
        ("qemu-img", "qemu-utils", "qcow2 images"),
        ("genisoimage", "genisoimage", "config drives"),
        ("ip", "iproute2", "the checks of this report"),
    ] {
        findings.push(match tools::find(program) {
            Ok(path) => Finding::ok(program, path.display().to_string()),
            Err(_) => Finding::warn(
                program,
                format!("not found; needed for {why}"),
                &format!("apt-get install {package}"),
            ),
        });
    }
    findings
}
