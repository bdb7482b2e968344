//! DHCP for a network's ports on this host: one dnsmasq a network, on the network's bridge.
//!
//! It answers only MACs it is told of, never claims to be the only server (the same address
//! serves on every host of the network, each for its own ports), resolves no names, and
//! outlives the agent: a guest whose lease runs out while no agent is there gets it renewed.
//! A new agent finds it by its pid file and its command line. Who is served is in a file of its
//! own, replaced whole and re-read on SIGHUP; anything else changed starts it anew.

use super::network::NetworkError;
use crate::state_dir::write_durably;
use berth_rpc::kill_point;
use berth_rpc_types::NetworkId;
use berth_rpc_types::link::HostNetwork;
use berth_vmm_api::MacAddr;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = "dnsmasq";
/// A lease, in seconds: long against an agent's restart, short against a port's change.
const LEASE_S: u32 = 3_600;

/// One network's server.
pub(super) struct DhcpServer<'a> {
    folder: PathBuf,
    network: &'a HostNetwork,
}

impl<'a> DhcpServer<'a> {
    pub fn new(folder: &Path, network: &'a HostNetwork) -> Self {
        Self {
            folder: folder.join(network.id.to_string()),
            network,
        }
    }

    pub fn make_folder(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)
    }

    /// Makes the server serve what the document says.
    pub async fn serve(&self, bridge: &str) -> Result<(), NetworkError> {
        let Some(configuration) = self.configuration(bridge)? else {
            return Ok(stop_at(&self.folder).await?);
        };
        let changed = replace(&self.folder.join("dnsmasq.conf"), &configuration)?;
        let hosts = self.hosts();
        let hosts_changed = replace(&self.folder.join("hosts"), &hosts)?;
        let leases = self.folder.join("leases");
        let kept = without_heirs(&fs::read_to_string(&leases).unwrap_or_default(), &hosts);
        match alive(&self.folder) {
            Some(server) if !changed && kept.is_none() => {
                if hosts_changed {
                    pidfd_send_signal(&server, Signal::HUP).map_err(io::Error::from)?;
                }
                Ok(())
            }
            _ => {
                stop_at(&self.folder).await?;
                // As it left them: it may have written since.
                let text = fs::read_to_string(&leases).unwrap_or_default();
                if let Some(kept) = without_heirs(&text, &hosts) {
                    write_durably(&leases, kept.as_bytes(), 0o644)?;
                }
                Ok(start(&self.folder)?)
            }
        }
    }

    /// dnsmasq's configuration; `None` if no subnet is served.
    fn configuration(&self, bridge: &str) -> Result<Option<String>, NetworkError> {
        let mut ranges = String::new();
        for (index, subnet) in self.network.subnets.iter().enumerate() {
            let net: ipnet::IpNet = subnet
                .cidr
                .parse()
                .map_err(|_| NetworkError::Cidr(subnet.cidr.clone()))?;
            // DHCPv6 is not served yet: such a port's address comes by the config drive.
            let (true, Some(IpAddr::V4(_)), ipnet::IpNet::V4(net)) =
                (subnet.dhcp, subnet.dhcp_address, net)
            else {
                continue;
            };
            let mut line = |text: std::fmt::Arguments<'_>| {
                // Writing to a String cannot fail.
                let _ = ranges.write_fmt(format_args!("{text}\n"));
            };
            let tag = format!("s{index}");
            line(format_args!(
                "dhcp-range=set:{tag},{},static,{},{LEASE_S}",
                net.network(),
                net.netmask()
            ));
            match subnet.gateway {
                Some(gateway) => line(format_args!(
                    "dhcp-option=tag:{tag},option:router,{gateway}"
                )),
                // An empty option keeps dnsmasq from offering itself.
                None => line(format_args!("dhcp-option=tag:{tag},option:router")),
            }
            let dns: Vec<String> = subnet
                .dns
                .iter()
                .filter(|a| a.is_ipv4())
                .map(ToString::to_string)
                .collect();
            match dns.is_empty() {
                true => line(format_args!("dhcp-option=tag:{tag},option:dns-server")),
                false => line(format_args!(
                    "dhcp-option=tag:{tag},option:dns-server,{}",
                    dns.join(",")
                )),
            }
        }
        if ranges.is_empty() {
            return Ok(None);
        }
        let folder = self.folder.display();
        let mtu = self.network.mtu;
        Ok(Some(format!(
            "# Written by berth-agent for network {id}; changes are lost.\n\
             interface={bridge}\nbind-interfaces\nexcept-interface=lo\nport=0\nno-resolv\nno-hosts\n\
             pid-file={folder}/pid\ndhcp-leasefile={folder}/leases\ndhcp-hostsfile={folder}/hosts\n\
             user=root\ngroup=root\ndhcp-ignore=tag:!known\nlog-dhcp\nno-ping\n\
             dhcp-option=option:mtu,{mtu}\n{ranges}",
            id = self.network.id,
        )))
    }

    /// MAC, address, name, one line a port.
    fn hosts(&self) -> String {
        let mut text = String::new();
        for port in &self.network.ports {
            // Anything else would be a syntax of its own, or another line.
            if port.mac.parse::<MacAddr>().is_err() {
                tracing::warn!(port = %port.id, "a port whose MAC is none is not served");
                continue;
            }
            let addresses = port.addresses.iter().filter(|address| address.is_ipv4());
            for address in addresses {
                let name = port.hostname.as_deref().filter(|name| is_label(name));
                let name = name.map(|name| format!(",{name}")).unwrap_or_default();
                let _ = writeln!(text, "{},{address}{name},{LEASE_S}", port.mac);
            }
        }
        text
    }
}

/// The leases without those whose address is another MAC's now: a lease outlives the port that it was
/// for, and dnsmasq would give the address to nobody else before its end. `None` if all may stay.
fn without_heirs(leases: &str, hosts: &str) -> Option<String> {
    let owners: HashMap<&str, &str> = hosts
        .lines()
        .filter_map(|line| {
            let (mac, rest) = line.split_once(',')?;
            Some((rest.split(',').next()?, mac))
        })
        .collect();
    // `expiry MAC address name client-id` (dnsmasq(8), --dhcp-leasefile).
    let may_stay = |line: &&str| {
        let mut words = line.split(' ').skip(1);
        let (mac, address) = (words.next(), words.next());
        let owner = address.and_then(|address| owners.get(address));
        owner.is_none_or(|owner| mac.is_some_and(|mac| mac.eq_ignore_ascii_case(owner)))
    };
    if leases.lines().all(|line| may_stay(&line)) {
        return None;
    }
    let mut kept = String::new();
    for line in leases.lines().filter(may_stay) {
        kept.push_str(line);
        kept.push('\n');
    }
    Some(kept)
}

/// What dnsmasq takes for a name; anything else would be a syntax of its own.
fn is_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
}

/// The networks that have a folder here.
pub(super) fn networks_in(folder: &Path) -> Vec<NetworkId> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Ends a network's server, if there is one.
pub(super) async fn stop(folder: &Path, network: NetworkId) -> io::Result<()> {
    stop_at(&folder.join(network.to_string())).await
}

/// Removes what the server has left.
pub(super) fn remove_folder(folder: &Path, network: NetworkId) -> io::Result<()> {
    match fs::remove_dir_all(folder.join(network.to_string())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the file had to be changed.
fn replace(path: &Path, text: &str) -> io::Result<bool> {
    if fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(false);
    }
    write_durably(path, text.as_bytes(), 0o644).map(|()| true)
}

/// The server's process, if it is alive and this folder's.
fn alive(folder: &Path) -> Option<OwnedFd> {
    let pid: i32 = fs::read_to_string(folder.join("pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = argument(folder);
    line.split(|b| *b == 0)
        .any(|word| word == ours.as_bytes())
        .then_some(pidfd)
}

fn argument(folder: &Path) -> String {
    format!("--conf-file={}", folder.join("dnsmasq.conf").display())
}

async fn stop_at(folder: &Path) -> io::Result<()> {
    for attempt in 0..100 {
        let Some(server) = alive(folder) else {
            return Ok(());
        };
        let signal = if attempt < 50 {
            Signal::TERM
        } else {
            Signal::KILL
        };
        let _ = pidfd_send_signal(&server, signal);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(io::Error::other("the old DHCP server does not end"))
}

/// It daemonises itself, once its sockets are open: success means that it serves.
fn start(folder: &Path) -> io::Result<()> {
    let output = Command::new(PROGRAM)
        .arg(argument(folder))
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .map_err(|error| {
            io::Error::other(format!(
                "{PROGRAM} cannot be run ({error}); install dnsmasq-base"
            ))
        })?;
    kill_point!("agent.dhcp.started");
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{PROGRAM} does not start: {}",
        said.trim()
    )))
}

#[cfg(test)]
#[path = "dhcp_tests.rs"]
mod tests;
