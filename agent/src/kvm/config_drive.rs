//! The config drive: OpenStack's layout on an ISO 9660 file system labelled `config-2`, as
//! stock cloud-init and a shell script with jq read it.
//!
//! `openstack/latest/{meta_data.json,network_data.json,vendor_data.json}` and, if there is
//! any, `user_data`. What is in them is computed by pure functions from the spec alone.

use super::blocking;
use crate::driver::DriverError;
use crate::link::chain;
use base64::Engine as _;
use berth_rpc_types::spec::AddressSpec;
use berth_rpc_types::{PortSpec, VmmSpec};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FILE: &str = "config-drive.iso";

/// The drive's file in its VMM's directory.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Makes the drive anew from the spec.
///
/// # Errors
/// If the user data is not base64, or the host cannot write or has no ISO tool.
pub(super) async fn make(folder: &Path, spec: &VmmSpec) -> Result<(), DriverError> {
    let files = files(spec)?;
    let folder = folder.to_owned();
    blocking(move || write(&folder, &files))
        .await
        .map_err(|error| {
            let message = format!("the config drive cannot be made on this host: {error}");
            DriverError::host(message, chain(&error))
        })
}

fn write(folder: &Path, files: &[(&'static str, Vec<u8>)]) -> io::Result<()> {
    let tree = folder.join("config-drive");
    let new = folder.join("config-drive.new");
    match fs::remove_dir_all(&tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let latest = tree.join("openstack/latest");
    fs::create_dir_all(&latest)?;
    for (name, bytes) in files {
        fs::write(latest.join(name), bytes)?;
    }
    let mut said = Vec::new();
    for tool in [&["genisoimage"][..], &["xorriso", "-as", "mkisofs"][..]] {
        match iso(tool, &tree, &new) {
            Ok(()) => {
                File::open(&new)?.sync_all()?;
                fs::rename(&new, path(folder))?;
                return fs::remove_dir_all(&tree);
            }
            Err(error) => said.push(format!("{}: {error}", tool[0])),
        }
    }
    Err(io::Error::other(format!(
        "{}; install genisoimage or xorriso",
        said.join("; ")
    )))
}

/// Nova's own flags, so that names keep their case and length on any reader.
fn iso(tool: &[&str], tree: &Path, new: &Path) -> io::Result<()> {
    let output = Command::new(tool[0])
        .args(&tool[1..])
        .args(["-quiet", "-J", "-r", "-V", "config-2", "-o"])
        .arg(new)
        .arg(tree)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(
        said.trim().lines().last().unwrap_or("failed").to_owned(),
    ))
}

/// The files of `openstack/latest`.
fn files(spec: &VmmSpec) -> Result<Vec<(&'static str, Vec<u8>)>, DriverError> {
    let mut files = vec![
        ("meta_data.json", meta_data(spec).to_string().into_bytes()),
        (
            "network_data.json",
            network_data(&spec.ports).to_string().into_bytes(),
        ),
        ("vendor_data.json", b"{}".to_vec()),
    ];
    if let Some(text) = &spec.config_drive.user_data {
        let packed: String = text.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(packed)
            .map_err(|error| {
                DriverError::request("the user data is not base64", error.to_string())
            })?;
        files.push(("user_data", bytes));
    }
    Ok(files)
}

fn meta_data(spec: &VmmSpec) -> Value {
    let drive = &spec.config_drive;
    let by_name = drive
        .public_keys
        .iter()
        .map(|(name, key)| (name.clone(), json!(key)));
    let keys = drive
        .public_keys
        .iter()
        .map(|(name, key)| json!({ "name": name, "type": "ssh", "data": key }));
    json!({
        "uuid": spec.instance_id,
        "name": if drive.display_name.is_empty() { &spec.name } else { &drive.display_name },
        "hostname": hostname(&spec.name),
        "launch_index": drive.launch_index,
        "project_id": spec.project_id,
        "availability_zone": drive.availability_zone,
        "public_keys": by_name.collect::<serde_json::Map<_, _>>(),
        "keys": keys.collect::<Vec<_>>(),
        "meta": drive.metadata,
        "devices": [],
        "dedicated_cpus": [],
    })
}

/// A server's name as a hostname, by Nova's rules: what no hostname may hold goes.
fn hostname(name: &str) -> String {
    let kept = name.chars().filter_map(|c| match c {
        'a'..='z' | '0'..='9' | '-' | '.' => Some(c),
        'A'..='Z' => Some(c.to_ascii_lowercase()),
        ' ' | '_' => Some('-'),
        _ => None,
    });
    let text: String = kept.take(63).collect();
    let text = text.trim_matches(['-', '.']);
    if text.is_empty() {
        "server".into()
    } else {
        text.into()
    }
}

fn network_data(ports: &[PortSpec]) -> Value {
    let links = ports.iter().enumerate().map(|(index, port)| {
        json!({
            "id": format!("port{index}"),
            "vif_id": port.id,
            "type": "phy",
            "mtu": port.mtu,
            "ethernet_mac_address": port.mac,
        })
    });
    let networks = ports.iter().enumerate().flat_map(|(index, port)| {
        port.addresses
            .iter()
            .map(move |address| network(index, port, address))
    });
    let dns: BTreeSet<_> = ports
        .iter()
        .flat_map(|p| &p.addresses)
        .flat_map(|a| &a.dns)
        .collect();
    let services = dns
        .iter()
        .map(|address| json!({ "type": "dns", "address": address }));
    let mut networks: Vec<Value> = networks.collect();
    for (index, network) in networks.iter_mut().enumerate() {
        network["id"] = json!(format!("network{index}"));
    }
    json!({
        "links": links.collect::<Vec<_>>(),
        "networks": networks,
        "services": services.collect::<Vec<_>>(),
    })
}

fn network(link: usize, port: &PortSpec, spec: &AddressSpec) -> Value {
    let v6 = spec.address.is_ipv6();
    let link = format!("port{link}");
    if spec.dhcp {
        let kind = if v6 { "ipv6_dhcp" } else { "ipv4_dhcp" };
        return json!({ "type": kind, "link": link, "network_id": port.network_id });
    }
    let routes: Vec<Value> = spec
        .gateway
        .iter()
        .map(|gateway| {
            let any = if v6 { "::" } else { "0.0.0.0" };
            json!({ "network": any, "netmask": any, "gateway": gateway })
        })
        .collect();
    let services: Vec<Value> = spec
        .dns
        .iter()
        .map(|a| json!({ "type": "dns", "address": a }))
        .collect();
    json!({
        "type": if v6 { "ipv6" } else { "ipv4" },
        "link": link,
        "network_id": port.network_id,
        "ip_address": spec.address,
        "netmask": netmask(v6, spec.prefix),
        "routes": routes,
        "services": services,
    })
}

fn netmask(v6: bool, prefix: u8) -> String {
    let prefix = u32::from(prefix);
    if v6 {
        let bits = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
        std::net::Ipv6Addr::from(bits).to_string()
    } else {
        let bits = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
        std::net::Ipv4Addr::from(bits).to_string()
    }
}

#[cfg(test)]
#[path = "config_drive_tests.rs"]
mod tests;
