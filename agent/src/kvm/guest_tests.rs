//! What a VMM is told.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kvm::tests::{address, disk, port, spec};

fn described(spec: &VmmSpec) -> Result<Guest, DriverError> {
    let folder = Folder("/vmm".into());
    describe(
        spec,
        VmmId::from_u128(1),
        &folder,
        Path::new("/kernel"),
        None,
        4096,
    )
}

#[test]
fn the_root_disk_is_first_and_the_config_drive_last_and_read_only() {
    let mut spec = spec();
    spec.disks = vec![disk(1), disk(2)];
    spec.ports = vec![port(1, vec![address("10.0.0.5", true)])];
    let guest = described(&spec).unwrap();
    let paths: Vec<_> = guest
        .drives
        .iter()
        .map(|d| d.path_on_host.clone().unwrap())
        .collect();
    assert!(
        paths[0].contains(&spec.disks[0].id.to_string()),
        "{paths:?}"
    );
    assert!(paths[2].ends_with("config-drive.iso"), "{paths:?}");
    assert_eq!(guest.drives[2].is_read_only, Some(true));
    assert_eq!(guest.drives[0].cache_type, CacheType::Writeback);
    assert_eq!(guest.boot.boot_args.as_deref(), Some(CMDLINE));
    assert_eq!(
        guest.interfaces[0].host_dev_name,
        network::tap_name(VmmId::from_u128(1), &spec.ports[0])
    );
}

#[test]
fn what_no_vmm_can_be_is_refused_in_words() {
    let mut many = spec();
    many.vcpus = 300;
    assert!(
        described(&many)
            .unwrap_err()
            .to_string()
            .contains("300 vCPUs")
    );
    let mut bad = spec();
    bad.ports = vec![port(1, Vec::new())];
    bad.ports[0].mac = "zz".into();
    assert!(
        described(&bad)
            .unwrap_err()
            .to_string()
            .contains("invalid MAC")
    );
}
