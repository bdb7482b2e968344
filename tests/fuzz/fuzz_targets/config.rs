//! A configuration file: to a machine, its command line and its ACPI tables. No file that it names
//! is opened.
#![no_main]

use std::sync::OnceLock;

use berth_vmm::acpi;
use berth_vmm::boot::cmdline;
use berth_vmm::boot::layout::CMDLINE_MAX;
use berth_vmm::machine::{CpuModel, Machine, SlotKind, Topology};
use berth_vmm::memory::{Backing, GuestMemory, create};
use berth_vmm::resources::Resources;
use berth_vmm_api::VmmConfig;
use libfuzzer_sys::fuzz_target;

static MEMORY: OnceLock<GuestMemory> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    let Ok(config) = serde_json::from_slice::<VmmConfig>(input) else {
        return;
    };
    let untyped = [
        &config.balloon,
        &config.cpu_config,
        &config.mmds_config,
        &config.vsock,
        &config.entropy,
        &config.memory_hotplug,
    ];
    if untyped.iter().any(|section| section.is_some()) || !config.pmem.is_empty() {
        return; // Refused; a number in them need not read back to its last digit.
    }
    let again = serde_json::to_vec(&config).expect("what was read can be written");
    assert_eq!(
        serde_json::from_slice::<VmmConfig>(&again).ok().as_ref(),
        Some(&config),
        "what was written reads back"
    );
    let root = config.drives.iter().find(|drive| drive.is_root_device);
    let args = config.boot_source.boot_args.as_deref().unwrap_or_default();
    if let Ok(line) = cmdline::build(args, root) {
        assert!(line.len() < CMDLINE_MAX && line.is_ascii() && !line.contains('\0'));
    }
    let mut resources = Resources::default();
    if let Some(serial) = config.serial {
        let _ = resources.set_serial(serial);
    }
    let Some(machine) = config.machine_config else {
        return;
    };
    let (vcpus, smt, mib) = (machine.vcpu_count, machine.smt, machine.mem_size_mib);
    if resources.set_machine(machine).is_err() {
        return;
    }
    let drives = config.drives.into_iter();
    let nets = config.network_interfaces.into_iter();
    let slots: Vec<_> = drives
        .map(|drive| (drive.drive_id, SlotKind::Block))
        .chain(nets.map(|net| (net.iface_id, SlotKind::Net)))
        .collect();
    let topology = Topology::one_socket(vcpus, smt);
    let bytes = mib.saturating_mul(1 << 20);
    if let Ok(machine) = Machine::plan(bytes, topology, CpuModel::default(), &slots) {
        let memory = MEMORY.get_or_init(|| {
            create(
                &berth_vmm::machine::address_map::ram(4 << 20),
                Backing::Anonymous,
            )
            .expect("4 MiB of memory")
        });
        acpi::write(memory, &machine).expect("any machine's tables have room");
    }
});
