//! Whether taps, bridges and packet filters can be made, tried in a network namespace that
//! lives only as long as the check.

use super::Finding;
use std::process::Command;

/// What the report says of networking.
pub fn check() -> Vec<Finding> {
    let mut findings = vec![match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        Ok(_) => Finding::ok("tun", "/dev/net/tun opens"),
        Err(error) => Finding::fail(
            "tun",
            format!("/dev/net/tun: {error}"),
            "load the module `tun`, or give this user access",
        ),
    }];
    for (check, arguments, remedy) in [
        (
            "bridge",
            &["ip", "link", "add", "berth0", "type", "bridge"][..],
            "load the module `bridge`; be root",
        ),
        (
            "vxlan",
            &[
                "ip", "link", "add", "berth0", "type", "vxlan", "id", "1", "dstport", "4789",
            ],
            "load the module `vxlan` (only VXLAN networks need it)",
        ),
        (
            "nftables",
            &["nft", "list", "ruleset"],
            "install nftables and load `nf_tables` (only security groups need it)",
        ),
    ] {
        let tried = Command::new("unshare")
            .arg("--net")
            .args(arguments)
            .output();
        findings.push(match tried {
            Ok(output) if output.status.success() => {
                Finding::ok(check, format!("`{}` works", arguments.join(" ")))
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let found = said
                    .lines()
                    .next()
                    .unwrap_or("failed without a word")
                    .to_owned();
                if check == "bridge" {
                    Finding::fail(check, found, remedy)
                } else {
                    Finding::warn(check, found, remedy)
                }
            }
            Err(error) => Finding::fail(check, format!("unshare: {error}"), "install util-linux"),
        });
    }
    findings
}
