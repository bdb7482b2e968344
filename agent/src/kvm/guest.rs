//! What a VMM is told: the guest as Firecracker's API spells it.
//!
//! Disks come in the spec's order, so that the root disk is `vda`; the config drive is last
//! and read-only. The requests carry the request id, which the VMM writes into its log.

use super::process::Folder;
use super::{config_drive, disks, network};
use crate::driver::DriverError;
use berth_rpc_types::{VmmId, VmmSpec};
use berth_vmm_api::{
    ActionType, BootSource, CacheType, Client, ClientError, Drive, MachineConfig, NetworkInterface,
    Serial,
};
use std::path::Path;

/// The command line where the spec has none.
const CMDLINE: &str = "root=/dev/vda rw console=ttyS0";

/// A guest's description, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Guest {
    machine: MachineConfig,
    boot: BootSource,
    drives: Vec<Drive>,
    interfaces: Vec<NetworkInterface>,
    serial: Serial,
}

/// Translates a spec.
///
/// # Errors
/// If it asks for what no VMM can be.
pub(super) fn describe(
    spec: &VmmSpec,
    vmm_id: VmmId,
    folder: &Folder,
    kernel: &Path,
    ramdisk: Option<&Path>,
    console_bytes: u64,
) -> Result<Guest, DriverError> {
    let vcpu_count = u8::try_from(spec.vcpus).map_err(|_| {
        let message = format!(
            "{} vCPUs are more than a guest can have; choose another flavor",
            spec.vcpus
        );
        DriverError::request(message, "vcpu_count")
    })?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut drives: Vec<Drive> = spec
        .disks
        .iter()
        .enumerate()
        .map(|(index, disk)| Drive {
            drive_id: format!("disk{index}"),
            // root= is in the command line; the VMM is not to add its own.
            is_root_device: false,
            cache_type: CacheType::Writeback,
            is_read_only: Some(disk.read_only),
            path_on_host: Some(text(&disks::path(&folder.0, disk))),
            serial: Some(disk.id.simple().to_string().chars().take(20).collect()),
            ..Drive::default()
        })
        .collect();
    drives.push(Drive {
        drive_id: "config".into(),
        is_read_only: Some(true),
        path_on_host: Some(text(&config_drive::path(&folder.0))),
        ..Drive::default()
    });
    let interfaces = spec.ports.iter().enumerate().map(|(index, port)| {
        let mac = port.mac.parse().map_err(|error| {
            DriverError::request(format!("port {}: {error}", port.id), "guest_mac")
        })?;
        Ok(NetworkInterface {
            iface_id: format!("port{index}"),
            host_dev_name: network::tap_name(vmm_id, port),
            guest_mac: Some(mac),
            mtu: Some(port.mtu),
            ..NetworkInterface::default()
        })
    });
    let cmdline = spec.boot.cmdline.trim();
    Ok(Guest {
        machine: MachineConfig {
            vcpu_count,
            mem_size_mib: spec.memory_mib,
            ..MachineConfig::default()
        },
        boot: BootSource {
            kernel_image_path: text(kernel),
            initrd_path: ramdisk.map(text),
            boot_args: Some(if cmdline.is_empty() { CMDLINE } else { cmdline }.to_owned()),
        },
        interfaces: interfaces.collect::<Result<_, DriverError>>()?,
        serial: Serial {
            serial_out_path: Some(folder.console()),
            rate_limiter: None,
            keep_bytes: Some(console_bytes),
        },
        drives,
    })
}

impl Guest {
    /// Tells the VMM all of it, and starts the guest. Blocks.
    ///
    /// # Errors
    /// The VMM's own words.
    pub fn start(&self, client: &Client) -> Result<(), ClientError> {
        client.put("/machine-config", &self.machine)?;
        client.put("/boot-source", &self.boot)?;
        client.put("/serial", &self.serial)?;
        for drive in &self.drives {
            client.put(&format!("/drives/{}", drive.drive_id), drive)?;
        }
        for interface in &self.interfaces {
            client.put(
                &format!("/network-interfaces/{}", interface.iface_id),
                interface,
            )?;
        }
        client.action(ActionType::InstanceStart)
    }
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
