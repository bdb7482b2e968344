//! A guest: from a plan to running vCPUs, and through its life.
//!
//! Guarantees: [`Guest::start`] either gives a running guest or leaves nothing behind; a paused
//! guest has its vCPUs at rest first and its devices drained after, so that guest memory does not
//! change; dropping a guest ends its threads.
//!
//! Order of the start, since it is what a boot takes: the VM exists before anything is loaded, so
//! that vCPUs are made by their own threads while this one reads the kernel.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use berth_kill_point::kill_point;
use berth_virtio::{DeviceError, GuestMem, IrqLine, MmioTransport, VirtioDevice};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::acpi::{self, AcpiError};
use crate::boot::{self, BootError, BootFiles};
use crate::devices::bus::{Bus, Transport};
use crate::devices::console::{self, Console, RingFile, SerialDevice, Sink};
use crate::devices::power::EventDevice;
use crate::kvm::vcpu::{self, GuestExit, VcpuError, VcpuSetup, Vcpus};
use crate::kvm::{KvmError, Vm, cpuid};
use crate::machine::address_map::{self, ACPI};
use crate::machine::{CpuModel, Machine, MachineError, Region, Slot};
use crate::memory::{self, DirtyBitmap, MemoryError};
use crate::resources::{Device, GuestPlan};

/// KVM's pages for Intel's real mode, which must be set before the machine is planned; it is
/// the same in every version of the map so far.
const KVM_TSS: Region = Region::new(0xFFFB_C000, 0x4000);

/// Why a guest did not start, pause or resume.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// See [`KvmError`].
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// See [`MachineError`].
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// See [`MemoryError`].
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// See [`BootError`].
    #[error("{}", with_causes(.0))]
    Boot(#[from] BootError),
    /// See [`AcpiError`].
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// See [`VcpuError`].
    #[error("{}", with_causes(.0))]
    Vcpu(#[from] VcpuError),
    /// The console cannot be written.
    #[error("serial console {path}: {source}")]
    Console {
        /// Where it was to go.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host gives no eventfd or thread.
    #[error("device {id}: {source}")]
    Host {
        /// The device.
        id: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A device did not follow.
    #[error("device {id}: {source}")]
    Device {
        /// The device.
        id: String,
        /// What it said.
        source: DeviceError,
    },
}

/// An error with all its causes, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = source.source();
    }
    text
}

/// What a guest needs to know of its VMM.
pub struct Surroundings {
    /// Told of the guest's end, from a vCPU's thread.
    pub on_exit: Arc<dyn Fn(GuestExit) + Send + Sync>,
    /// When the VMM started, if the guest's boot is to be timed.
    pub boot_timer: Option<Instant>,
}

/// A guest that was started.
pub struct Guest {
    // Dropped in this order: vCPUs stop before their devices, devices before memory and VM.
    vcpus: Vcpus,
    bus: Arc<Bus>,
    serial: Arc<Mutex<SerialDevice>>,
    console: Console,
    machine: Arc<Machine>,
    _memory: GuestMem<DirtyBitmap>,
    _vm: Arc<Vm>,
}

impl Guest {
    /// Builds the machine, loads the guest and lets it run. The devices are taken out of the plan
    /// last, so that a plan whose kernel or memory is wrong can be corrected.
    ///
    /// # Errors
    /// If the host refuses anything, or a file is not what it should be.
    pub fn start(plan: &mut GuestPlan, surroundings: Surroundings) -> Result<Guest, GuestError> {
        let slots: Vec<_> = plan.devices.iter().map(Device::slot).collect();
        let vm = Arc::new(Vm::create()?);
        let memory = memory::create(&address_map::ram(plan.memory), plan.backing)?;
        vm.map_memory(&memory, plan.log_dirty)?;
        vm.create_irqchip(KVM_TSS)?;
        let supported = vm.supported_cpuid()?;
        let deadline = vm.caps().has("tsc_deadline_timer");
        let model = cpuid::model(supported.as_slice(), plan.topology, deadline);
        let cpuid = Arc::new(model.clone());
        let machine = Arc::new(Machine::plan(
            plan.memory,
            plan.topology,
            CpuModel { cpuid: model },
            &slots,
        )?);
        let preparing = vcpu::prepare(VcpuSetup {
            vm: Arc::clone(&vm),
            topology: machine.topology,
            cpuid,
            on_exit: surroundings.on_exit,
        })?;
        let files = BootFiles {
            kernel: &plan.boot.kernel,
            initrd: plan.boot.initrd.as_ref(),
            cmdline: &plan.cmdline,
            rsdp: ACPI.start,
        };
        let entry = boot::load(&memory, &machine.map, &files)?;
        acpi::write(&memory, &machine)?;

        let memory = GuestMem::new(memory);
        let console = start_console(plan.serial.as_ref())?;
        let serial_irq = irq(&vm, machine.irqs.serial, "serial")?;
        let serial = Arc::new(Mutex::new(SerialDevice::new(serial_irq, &console)));
        let events = Arc::new(EventDevice::new(irq(&vm, machine.irqs.ged, "ged")?));
        let virtio = machine
            .slots
            .iter()
            .zip(plan.devices.drain(..))
            .map(|(slot, device)| connect(&vm, slot, device, &memory))
            .collect::<Result<Vec<_>, _>>()?;
        let bus = Arc::new(Bus::new(
            Arc::clone(&machine),
            Arc::clone(&serial),
            events,
            virtio,
            surroundings.boot_timer,
        ));
        let vcpus = preparing.finish(&bus, entry)?;
        kill_point!("vmm.guest.loaded");
        vcpus.resume();
        Ok(Guest {
            vcpus,
            bus,
            serial,
            console,
            machine,
            _memory: memory,
            _vm: vm,
        })
    }

    /// The machine that the guest sees.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The serial port, for input.
    pub fn serial(&self) -> Arc<Mutex<SerialDevice>> {
        Arc::clone(&self.serial)
    }

    /// Stops the vCPUs, then drains the devices.
    ///
    /// # Errors
    /// If a vCPU or a device does not stop. What stopped is let go again.
    pub fn pause(&mut self) -> Result<(), GuestError> {
        if let Err(error) = self.vcpus.pause() {
            self.vcpus.resume();
            return Err(error.into());
        }
        for (index, mut transport) in self.bus.virtio().enumerate() {
            if let Err(source) = transport.pause() {
                drop(transport);
                let id = self.slot_id(index);
                self.resume_devices(index)?;
                self.vcpus.resume();
                return Err(GuestError::Device { id, source });
            }
        }
        Ok(())
    }

    /// Lets devices and vCPUs go on.
    ///
    /// # Errors
    /// If a device cannot go on; the vCPUs stand still then.
    pub fn resume(&mut self) -> Result<(), GuestError> {
        self.resume_devices(usize::MAX)?;
        self.vcpus.resume();
        Ok(())
    }

    fn resume_devices(&self, count: usize) -> Result<(), GuestError> {
        for (index, mut transport) in self.bus.virtio().enumerate().take(count) {
            transport.resume().map_err(|source| GuestError::Device {
                id: self.slot_id(index),
                source,
            })?;
        }
        Ok(())
    }

    fn slot_id(&self, index: usize) -> String {
        self.machine
            .slots
            .get(index)
            .map(|slot| slot.id.clone())
            .unwrap_or_default()
    }

    /// Presses the ACPI power button.
    ///
    /// # Errors
    /// If the interrupt cannot be raised.
    pub fn press_power_button(&self) -> Result<(), GuestError> {
        let host = |source| GuestError::Host {
            id: "power button".to_owned(),
            source,
        };
        self.bus.events().press_power_button().map_err(host)
    }

    /// Waits until what the guest printed is written, for a bounded time.
    pub fn drain_console(&self) {
        self.console.drain();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Devices finish what they took, so that a write the guest was told of is in the file.
        if self.vcpus.pause().is_ok() {
            for mut transport in self.bus.virtio() {
                transport.reset();
            }
        }
    }
}

fn start_console(config: Option<&berth_vmm_api::Serial>) -> Result<Console, GuestError> {
    let path = config.and_then(|config| config.serial_out_path.as_deref());
    let name = path.map_or("standard output".to_owned(), |path| {
        path.display().to_string()
    });
    let failed = |source| GuestError::Console {
        path: name.clone(),
        source,
    };
    let sink = match path {
        Some(path) => {
            let keep = config
                .and_then(|config| config.keep_bytes)
                .unwrap_or(console::KEEP);
            Sink::Ring(RingFile::open(path, keep).map_err(failed)?)
        }
        None => {
            let stdout = std::io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map_err(failed)?;
            Sink::Stream(File::from(stdout))
        }
    };
    Console::start(sink).map_err(failed)
}

fn eventfd(id: &str) -> Result<EventFd, GuestError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| GuestError::Host {
        id: id.to_owned(),
        source,
    })
}

/// An eventfd that raises `gsi`.
fn irq(vm: &Vm, gsi: u32, id: &str) -> Result<EventFd, GuestError> {
    let line = eventfd(id)?;
    vm.connect_irq(&line, gsi)?;
    Ok(line)
}

/// Puts a device behind registers, with its interrupt and doorbells.
fn connect(
    vm: &Vm,
    slot: &Slot,
    device: Device,
    memory: &GuestMem<DirtyBitmap>,
) -> Result<Transport, GuestError> {
    let line: Arc<dyn IrqLine> = Arc::new(irq(vm, slot.gsi, &slot.id)?);
    let device: Box<dyn VirtioDevice<DirtyBitmap>> = match device {
        Device::Block(_, block) => block,
        Device::Net(_, net) => net,
    };
    let host = |source| GuestError::Host {
        id: slot.id.clone(),
        source,
    };
    let transport = MmioTransport::new(device, memory.clone(), line).map_err(host)?;
    let doorbell = slot.registers.start + berth_virtio::transport::mmio::QUEUE_NOTIFY;
    for queue in 0..transport.queue_count() {
        if let Some(eventfd) = transport.notify_eventfd(queue) {
            vm.connect_doorbell(eventfd, doorbell, u32::from(queue))?;
        }
    }
    Ok(transport)
}
