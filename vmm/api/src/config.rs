//! What a guest is made of, as Firecracker's JSON spells it: the bodies of the configuring
//! requests and the sections of `--config-file`. Unknown fields are refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;

/// The kernel command line of a boot source that gives none (Firecracker's).
pub const DEFAULT_BOOT_ARGS: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux \
                                     i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// `PUT /boot-source`: what the guest boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// The kernel: an ELF (PVH note or Linux 64-bit entry) or a bzImage, told apart by content.
    pub kernel_image_path: String,
    /// The initial ramdisk, if any.
    pub initrd_path: Option<String>,
    /// The kernel command line; [`DEFAULT_BOOT_ARGS`] if unset.
    pub boot_args: Option<String>,
}

/// What page size backs guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// 4 KiB pages; the host may still merge them (transparent huge pages by its own policy).
    #[default]
    None,
    /// 4 KiB pages with the advice to merge them into transparent huge pages.
    Transparent,
    /// 2 MiB pages from the host's reserved pool (hugetlbfs).
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

/// Firecracker's static CPU templates, deprecated there. Only `None` is honoured; the VMM
/// refuses the others, since a template that does nothing must not be accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuTemplate {
    /// Skylake-like on Intel.
    C3,
    /// Skylake-like with fewer features.
    T2,
    /// For snapshots between Skylake and Cascade Lake.
    T2S,
    /// Cascade Lake like T2.
    T2CL,
    /// For AMD Milan.
    T2A,
    /// For Neoverse V1.
    V1N1,
    /// No template.
    #[default]
    None,
}

/// `PUT /machine-config`: processors and memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Virtual processors.
    pub vcpu_count: u8,
    /// Memory in MiB.
    pub mem_size_mib: u64,
    /// Whether two vCPUs are the threads of one core.
    #[serde(default)]
    pub smt: bool,
    /// Deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<CpuTemplate>,
    /// Whether KVM keeps a log of the pages the guest dirties.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// What page size backs guest memory.
    #[serde(default)]
    pub huge_pages: HugePages,
}

impl Default for MachineConfig {
    fn default() -> Self {
        MachineConfig {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

/// `PATCH /machine-config`: the fields that are given replace the present ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfigUpdate {
    /// See [`MachineConfig::vcpu_count`].
    pub vcpu_count: Option<u8>,
    /// See [`MachineConfig::mem_size_mib`].
    pub mem_size_mib: Option<u64>,
    /// See [`MachineConfig::smt`].
    pub smt: Option<bool>,
    /// See [`MachineConfig::cpu_template`].
    pub cpu_template: Option<CpuTemplate>,
    /// See [`MachineConfig::track_dirty_pages`].
    pub track_dirty_pages: Option<bool>,
    /// See [`MachineConfig::huge_pages`].
    pub huge_pages: Option<HugePages>,
}

impl MachineConfigUpdate {
    /// True if the update names no field at all, which Firecracker refuses.
    pub fn is_empty(&self) -> bool {
        *self == MachineConfigUpdate::default()
    }

    /// `config` with this update's fields in place.
    pub fn apply(&self, config: &MachineConfig) -> MachineConfig {
        MachineConfig {
            vcpu_count: self.vcpu_count.unwrap_or(config.vcpu_count),
            mem_size_mib: self.mem_size_mib.unwrap_or(config.mem_size_mib),
            smt: self.smt.unwrap_or(config.smt),
            cpu_template: self.cpu_template.or(config.cpu_template),
            track_dirty_pages: self.track_dirty_pages.unwrap_or(config.track_dirty_pages),
            huge_pages: self.huge_pages.unwrap_or(config.huge_pages),
        }
    }
}

/// What a guest's FLUSH does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// FLUSH is answered and not done: fast, and a crash of the host loses data that the guest
    /// believes safe (Firecracker's default).
    #[default]
    Unsafe,
    /// FLUSH makes answered writes durable.
    Writeback,
}

/// Firecracker's block engines. Berth has one, which never blocks a queue on the disk; both
/// names are understood, and the VMM says which ones it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// io_uring.
    Async,
    /// pread and pwrite.
    #[default]
    Sync,
}

/// A token bucket of Firecracker's rate limiter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Tokens that the bucket holds.
    pub size: u64,
    /// Tokens that are there once, at the start, beyond `size`.
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket fills up.
    pub refill_time: u64,
}

/// Limits on bytes and on operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// A token is a byte.
    pub bandwidth: Option<TokenBucket>,
    /// A token is an operation.
    pub ops: Option<TokenBucket>,
}

/// `PUT /drives/{drive_id}`: a virtio block device on a raw file or block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// The id, which is in the path too: letters, digits, `_`.
    pub drive_id: String,
    /// With `is_root_device`: `root=PARTUUID=…` instead of `root=/dev/vda`.
    pub partuuid: Option<String>,
    /// The first disk, which `root=` on the command line points to.
    pub is_root_device: bool,
    /// What FLUSH does.
    #[serde(default)]
    pub cache_type: CacheType,
    /// Whether the guest may not write.
    pub is_read_only: Option<bool>,
    /// The file. `/dev/fd/N` names an inherited descriptor.
    pub path_on_host: Option<String>,
    /// Limits, refused until they are enforced.
    pub rate_limiter: Option<RateLimiter>,
    /// The engine.
    pub io_engine: Option<IoEngine>,
    /// A vhost-user socket, refused until there is such a device.
    pub socket: Option<String>,
    /// **Berth's**: an inherited descriptor instead of `path_on_host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// **Berth's**: what GET_ID answers, at most 20 bytes (`/dev/disk/by-id/virtio-…`); the
    /// drive's id if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// `PATCH /drives/{drive_id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveUpdate {
    /// The drive to change.
    pub drive_id: String,
    /// The new file.
    pub path_on_host: Option<String>,
    /// The new limits.
    pub rate_limiter: Option<RateLimiter>,
}

/// `PUT /network-interfaces/{iface_id}`: a virtio net device on a tap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// The id, which is in the path too.
    pub iface_id: String,
    /// The tap's name. With `fd`, a label.
    pub host_dev_name: String,
    /// The guest's address; without one the guest makes its own.
    pub guest_mac: Option<MacAddr>,
    /// The MTU that the guest is told.
    pub mtu: Option<u16>,
    /// Limits on what the guest receives, refused until they are enforced.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits on what the guest sends, refused until they are enforced.
    pub tx_rate_limiter: Option<RateLimiter>,
    /// **Berth's**: an inherited descriptor of the tap (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
}

/// `PATCH /network-interfaces/{iface_id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfaceUpdate {
    /// The interface to change.
    pub iface_id: String,
    /// The new limits on what the guest receives.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// The new limits on what the guest sends.
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /serial`: where the serial console's output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// The file; standard output if unset.
    pub serial_out_path: Option<PathBuf>,
    /// Limits, refused until they are enforced.
    pub rate_limiter: Option<TokenBucket>,
    /// **Berth's**: at least this many of the last bytes are kept in the file, and never more
    /// than twice as many. 1 MiB if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_bytes: Option<u64>,
}

/// Levels of the log. Firecracker's old spellings are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// Nothing at all.
    #[serde(alias = "OFF", alias = "off")]
    Off,
    /// Every step, for developers.
    #[serde(alias = "TRACE", alias = "trace")]
    Trace,
    /// What helps to find a fault.
    #[serde(alias = "DEBUG", alias = "debug")]
    Debug,
    /// What was asked for and done.
    #[serde(alias = "INFO", alias = "info")]
    Info,
    /// What is amiss and was coped with: a guest's mistakes, a disk's errors.
    #[serde(alias = "WARN", alias = "Warning", alias = "WARNING", alias = "warn")]
    Warn,
    /// What was not done.
    #[serde(alias = "ERROR", alias = "error")]
    Error,
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "off" => LogLevel::Off,
            "trace" => LogLevel::Trace,
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" | "warning" => LogLevel::Warn,
            "error" => LogLevel::Error,
            _ => {
                return Err(format!(
                    "`{name}` is no log level: Off, Trace, Debug, Info, Warning or Error"
                ));
            }
        })
    }
}

/// `PUT /logger`: where the VMM's log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// The file or named pipe.
    pub log_path: Option<PathBuf>,
    /// The least important level that is written.
    pub level: Option<LogLevel>,
    /// Whether a line shows its level.
    pub show_level: Option<bool>,
    /// Whether a line shows its file and line.
    pub show_log_origin: Option<bool>,
    /// Only lines of this module.
    pub module: Option<String>,
}

/// `PUT /metrics`: where metrics go, a JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// The file or named pipe.
    pub metrics_path: PathBuf,
    /// Whether each line carries the guest's id.
    #[serde(default)]
    pub emit_id: bool,
}

/// A whole guest: the contents of `--config-file`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmmConfig {
    /// What boots.
    pub boot_source: BootSource,
    /// Disks.
    #[serde(default)]
    pub drives: Vec<Drive>,
    /// Processors and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_config: Option<MachineConfig>,
    /// Network interfaces.
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterface>,
    /// The VMM's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger: Option<Logger>,
    /// The VMM's metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// **Berth's** in a file: the serial console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// Present in Firecracker's files; anything but null is refused until the device exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<serde_json::Value>,
    /// As `balloon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_config: Option<serde_json::Value>,
    /// As `balloon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmds_config: Option<serde_json::Value>,
    /// As `balloon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<serde_json::Value>,
    /// As `balloon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<serde_json::Value>,
    /// As `balloon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_hotplug: Option<serde_json::Value>,
    /// As `balloon`; an empty list is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pmem: Vec<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn firecrackers_example_file_is_understood() {
        let text = r#"{
          "boot-source": {"kernel_image_path": "vmlinux.bin",
            "boot_args": "console=ttyS0 reboot=k panic=1 pci=off", "initrd_path": null},
          "cpu-config": null,
          "drives": [{"drive_id": "rootfs", "partuuid": null, "is_root_device": true,
            "cache_type": "Unsafe", "is_read_only": false, "path_on_host": "bionic.rootfs.ext4",
            "io_engine": "Sync", "rate_limiter": null, "socket": null}],
          "machine-config": {"vcpu_count": 2, "mem_size_mib": 1024, "smt": false,
            "track_dirty_pages": false, "huge_pages": "None"},
          "balloon": null, "network-interfaces": [], "vsock": null, "logger": null,
          "metrics": null, "mmds-config": null, "entropy": null, "pmem": [], "memory-hotplug": null
        }"#;
        let config: VmmConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.machine_config.unwrap().mem_size_mib, 1024);
        assert_eq!(
            config.drives[0].path_on_host.as_deref(),
            Some("bionic.rootfs.ext4")
        );
        assert_eq!(config.vsock, None);
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<BootSource>(r#"{"kernel_image_path":"k","kernal":"x"}"#)
            .unwrap_err();
        assert!(
            error.to_string().starts_with("unknown field `kernal`"),
            "{error}"
        );
    }

    #[test]
    fn a_drive_reads_back_with_firecrackers_nulls_and_without_berths_fields() {
        let drive: Drive =
            serde_json::from_str(r#"{"drive_id":"a","is_root_device":false,"path_on_host":"/d"}"#)
                .unwrap();
        let value = serde_json::to_value(&drive).unwrap();
        assert_eq!(value["partuuid"], serde_json::Value::Null);
        assert_eq!(value["cache_type"], "Unsafe");
        assert!(value.get("fd").is_none());
        assert_eq!(value.as_object().unwrap().len(), 9);
    }

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let update: MachineConfigUpdate = serde_json::from_str(r#"{"mem_size_mib":256}"#).unwrap();
        let patched = update.apply(&MachineConfig {
            vcpu_count: 4,
            ..Default::default()
        });
        assert_eq!((patched.vcpu_count, patched.mem_size_mib), (4, 256));
        assert!(MachineConfigUpdate::default().is_empty() && !update.is_empty());
    }
}
