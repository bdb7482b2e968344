//! The configuration before start, request by request.
#![allow(clippy::unwrap_used)]

use super::*;

/// A file of this test alone, which goes with it.
struct Disk(tempfile::NamedTempFile);

impl Disk {
    fn new() -> Disk {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        Disk(file)
    }

    fn drive(&self, id: &str, root: bool) -> api::Drive {
        api::Drive {
            drive_id: id.to_owned(),
            is_root_device: root,
            path_on_host: Some(self.0.path().display().to_string()),
            ..Default::default()
        }
    }
}

fn ids(resources: &Resources) -> Vec<String> {
    resources
        .full_config()
        .drives
        .into_iter()
        .map(|drive| drive.drive_id)
        .collect()
}

#[test]
fn a_kernel_that_is_not_there_is_refused_in_firecrackers_words() {
    let mut resources = Resources::default();
    let config = api::BootSource {
        kernel_image_path: "foo.bar".into(),
        ..Default::default()
    };
    let error = resources.set_boot_source(config).unwrap_err().to_string();
    let stem = "The kernel file cannot be opened: No such file or directory (os error 2)";
    assert!(error.contains(stem), "{error}");
    assert_eq!(
        resources.full_config().boot_source,
        api::BootSource::default()
    );
}

#[test]
fn the_root_disk_is_the_first_and_the_only_one() {
    let disk = Disk::new();
    let mut resources = Resources::default();
    resources.put_drive(disk.drive("data", false)).unwrap();
    resources.put_drive(disk.drive("root", true)).unwrap();
    assert_eq!(ids(&resources), ["root", "data"]);
    let error = resources
        .put_drive(disk.drive("data", true))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("A root block device already exists!"),
        "{error}"
    );
    assert_eq!(ids(&resources), ["root", "data"]);
}

#[test]
fn a_drive_is_replaced_in_its_place_and_a_bad_replacement_changes_nothing() {
    let disk = Disk::new();
    let mut resources = Resources::default();
    for id in ["a", "b", "c"] {
        resources.put_drive(disk.drive(id, false)).unwrap();
    }
    let mut changed = disk.drive("b", false);
    changed.is_read_only = Some(true);
    resources.put_drive(changed).unwrap();
    assert_eq!(ids(&resources), ["a", "b", "c"]);
    let missing = api::Drive {
        path_on_host: Some("foo.bar".into()),
        ..disk.drive("b", false)
    };
    let error = resources.put_drive(missing).unwrap_err().to_string();
    let stem =
        "Error manipulating the backing file: No such file or directory (os error 2) foo.bar";
    assert!(error.contains(stem), "{error}");
    assert_eq!(resources.full_config().drives[1].is_read_only, Some(true));
}

#[test]
fn what_is_not_enforced_is_not_accepted() {
    let disk = Disk::new();
    let mut resources = Resources::default();
    let limited = api::Drive {
        rate_limiter: Some(Default::default()),
        ..disk.drive("a", false)
    };
    assert!(resources.put_drive(limited).is_err());
    let asynchronous = api::Drive {
        io_engine: Some(api::IoEngine::Async),
        ..disk.drive("a", false)
    };
    assert!(resources.put_drive(asynchronous).is_err());
    let template = api::MachineConfig {
        cpu_template: Some(api::CpuTemplate::T2),
        ..Default::default()
    };
    assert!(resources.set_machine(template).is_err());
    assert!(ids(&resources).is_empty());
}

#[test]
fn impossible_machines_are_refused_and_the_old_one_stays() {
    let mut resources = Resources::default();
    let machine = |vcpu_count, mem_size_mib, smt| api::MachineConfig {
        vcpu_count,
        mem_size_mib,
        smt,
        ..Default::default()
    };
    for bad in [
        machine(0, 128, false),
        machine(3, 128, true),
        machine(65, 128, false),
    ] {
        assert!(matches!(
            resources.set_machine(bad),
            Err(ResourceError::VcpuCount)
        ));
    }
    assert!(matches!(
        resources.set_machine(machine(1, 0, false)),
        Err(ResourceError::MemorySize)
    ));
    let odd = api::MachineConfig {
        huge_pages: api::HugePages::Hugetlbfs2M,
        ..machine(1, 3, false)
    };
    assert!(matches!(
        resources.set_machine(odd),
        Err(ResourceError::MemorySize)
    ));
    assert_eq!(resources.machine(), &api::MachineConfig::default());
}

#[test]
fn an_id_is_one_devices_only() {
    let disk = Disk::new();
    let mut resources = Resources::default();
    resources.put_drive(disk.drive("eth0", false)).unwrap();
    let net = api::NetworkInterface {
        iface_id: "eth0".into(),
        ..Default::default()
    };
    assert!(matches!(
        resources.put_net(net),
        Err(ResourceError::IdInUse { .. })
    ));
}

#[test]
fn a_directory_is_no_disk() {
    let mut resources = Resources::default();
    let config = api::Drive {
        drive_id: "a".into(),
        is_read_only: Some(true),
        path_on_host: Some("/proc".into()),
        ..Default::default()
    };
    let error = resources.put_drive(config).unwrap_err().to_string();
    assert!(
        error.contains("neither a regular file nor a block device"),
        "{error}"
    );
}

#[test]
fn a_plan_has_the_disks_first_and_the_whole_command_line() {
    let disk = Disk::new();
    let mut resources = Resources::default();
    assert!(resources.take_plan().unwrap().is_none());
    resources
        .set_boot_source(api::BootSource {
            kernel_image_path: disk.0.path().display().to_string(),
            boot_args: Some("console=ttyS0".into()),
            initrd_path: None,
        })
        .unwrap();
    resources.put_drive(disk.drive("root", true)).unwrap();
    let before = resources.full_config();
    let plan = resources.take_plan().unwrap().unwrap();
    assert_eq!(plan.cmdline, "console=ttyS0 pci=off root=/dev/vda rw");
    assert_eq!(plan.devices[0].slot(), ("root".to_owned(), SlotKind::Block));
    resources.put_back(plan);
    assert_eq!(resources.full_config(), before);
}

#[test]
fn an_id_that_no_thread_could_have_is_refused_also_from_a_file() {
    let disk = Disk::new();
    let long = "x".repeat(65);
    for id in ["", "a\0b", "a\nb", "\u{1b}[2J", &long] {
        let mut resources = Resources::default();
        let error = resources.put_drive(disk.drive(id, false)).unwrap_err();
        assert!(
            matches!(error, ResourceError::Id { kind: "drive", .. }),
            "{id:?}: {error}"
        );
        let net = api::NetworkInterface {
            iface_id: id.to_owned(),
            ..Default::default()
        };
        let error = resources.put_net(net).unwrap_err();
        assert!(matches!(error, ResourceError::Id { .. }), "{id:?}: {error}");
    }
    let mut resources = Resources::default();
    resources.put_drive(disk.drive("root-fs.0", true)).unwrap();
}

/// Firecracker opens what it is given, and waits for a pipe's other end for ever.
#[test]
fn a_named_pipe_is_no_disk_and_no_kernel_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = path.display().to_string();
    let mut resources = Resources::default();
    for read_only in [true, false] {
        let drive = api::Drive {
            drive_id: "d".into(),
            path_on_host: Some(path.clone()),
            is_read_only: Some(read_only),
            ..Default::default()
        };
        let error = resources.put_drive(drive).unwrap_err().to_string();
        assert!(error.contains("neither a regular file"), "{error}");
    }
    let source = api::BootSource {
        kernel_image_path: path,
        ..Default::default()
    };
    let error = resources.set_boot_source(source).unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
}
