//! What the host has, from /proc and the file system that guests' disks are on.

use berth_rpc_types::Capacity;
use std::fs;
use std::io;
use std::path::Path;

const GIB: u64 = 1 << 30;

/// Reads it now. Blocks for a moment.
pub(super) fn read(disks: &Path) -> io::Result<Capacity> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let disk = nix::sys::statvfs::statvfs(disks)?;
    let size = |blocks: u64| blocks.saturating_mul(disk.fragment_size()) / GIB;
    let first = |key: &str| value(&cpus, key).unwrap_or_default().to_owned();
    Ok(Capacity {
        vcpus: u32::try_from(count(&cpus, "processor")).unwrap_or(u32::MAX),
        memory_mib: memory_kib(&memory).unwrap_or_default() / 1024,
        disk_gib: size(disk.blocks()),
        disk_free_gib: size(disk.blocks_available()),
        driver: "kvm".into(),
        architecture: std::env::consts::ARCH.into(),
        cpu_model: first("model name"),
        cpu_vendor: first("vendor_id"),
        cpu_features: first("flags")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        hypervisor_version: hypervisor_version(),
        ..Capacity::default()
    })
}

/// Nova's number: major * 1000000 + minor * 1000 + patch.
fn hypervisor_version() -> u32 {
    let mut parts = env!("CARGO_PKG_VERSION")
        .split('.')
        .map(|part| part.parse().unwrap_or(0u32));
    let mut next = || parts.next().unwrap_or(0);
    next() * 1_000_000 + next() * 1_000 + next()
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn count(text: &str, key: &str) -> usize {
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.filter(|(name, _)| name.trim() == key).count()
}

fn memory_kib(text: &str) -> Option<u64> {
    value(text, "MemTotal")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        let cpus = "processor\t: 0\nvendor_id\t: AuthenticAMD\nprocessor\t: 1\nvendor_id\t: x\n";
        assert_eq!(count(cpus, "processor"), 2);
        assert_eq!(value(cpus, "vendor_id"), Some("AuthenticAMD"));
        assert_eq!(memory_kib("MemTotal:       4023456 kB\n"), Some(4_023_456));
        let here = read(Path::new("/")).unwrap();
        assert!(here.vcpus > 0 && here.memory_mib > 0 && here.disk_gib > 0);
    }
}
