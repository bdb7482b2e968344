//! What a guest is going to be made of: the configuration before it starts, checked as it comes.
//!
//! Guarantees: what was accepted can be used. Files are opened, taps attached and sizes checked
//! when they are configured, so that the request that names a wrong one is the request that is
//! refused; and a refused request changes nothing. A field that has no effect yet is refused, never
//! silently stored.
//!
//! Refusals are in [`error`].

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use berth_virtio::{Block, BlockConfig, CacheMode, Net, NetConfig, Tap};
use berth_vmm_api as api;
use berth_vmm_api::config::DEFAULT_BOOT_ARGS;

use crate::boot::NamedFile;
use crate::boot::cmdline;
use crate::inherited;
use crate::machine::{SlotKind, Topology};
use crate::memory::{Backing, DirtyBitmap};

pub mod error;

use error::NO_RATE_LIMITS;
pub use error::ResourceError;

/// The most vCPUs of one guest.
pub const MAX_VCPUS: u8 = 64;

/// The longest id of a device, in bytes.
const MAX_ID: usize = 64;

/// More than have slots; the machine says exactly.
const MAX_DEVICES: usize = 64;

/// A drive that was accepted, and the device made of it.
struct DriveEntry {
    config: api::Drive,
    device: Block<DirtyBitmap>,
}

/// An interface that was accepted, and the device made of it.
struct NetEntry {
    config: api::NetworkInterface,
    device: Net<DirtyBitmap>,
}

/// What boots.
pub struct BootSource {
    /// As configured.
    pub config: api::BootSource,
    /// The kernel.
    pub kernel: NamedFile,
    /// The initrd.
    pub initrd: Option<NamedFile>,
}

/// The configuration so far.
#[derive(Default)]
pub struct Resources {
    boot: Option<BootSource>,
    machine: api::MachineConfig,
    drives: Vec<DriveEntry>,
    nets: Vec<NetEntry>,
    serial: Option<api::Serial>,
}

/// A device, ready to be put on a transport, and the configuration that it was made of.
pub enum Device {
    /// A disk.
    Block(Box<api::Drive>, Box<Block<DirtyBitmap>>),
    /// An interface.
    Net(Box<api::NetworkInterface>, Box<Net<DirtyBitmap>>),
}

impl Device {
    /// The slot that the device takes.
    pub fn slot(&self) -> (String, SlotKind) {
        match self {
            Device::Block(config, _) => (config.drive_id.clone(), SlotKind::Block),
            Device::Net(config, _) => (config.iface_id.clone(), SlotKind::Net),
        }
    }
}

/// Everything that a guest is made of.
pub struct GuestPlan {
    /// What boots.
    pub boot: BootSource,
    /// The whole command line.
    pub cmdline: String,
    /// Bytes of RAM.
    pub memory: u64,
    /// What backs it.
    pub backing: Backing,
    /// Whether KVM logs dirty pages.
    pub log_dirty: bool,
    /// How the vCPUs are grouped.
    pub topology: Topology,
    /// The devices, in the order of their slots. Taken out when they are put on the bus.
    pub devices: Vec<Device>,
    /// Where the console goes.
    pub serial: Option<api::Serial>,
}

impl Resources {
    /// Everything that a configuration file has.
    ///
    /// # Errors
    /// As the requests that it stands for.
    pub fn from_config(config: &api::VmmConfig) -> Result<Resources, ResourceError> {
        let absent = [
            ("balloon", &config.balloon),
            ("cpu-config", &config.cpu_config),
            ("mmds-config", &config.mmds_config),
            ("vsock", &config.vsock),
            ("entropy", &config.entropy),
            ("memory-hotplug", &config.memory_hotplug),
        ];
        for (field, value) in absent {
            if value.is_some() {
                return Err(ResourceError::Unsupported {
                    field,
                    hint: "this VMM has no such device yet; leave it out or set it to null",
                });
            }
        }
        if !config.pmem.is_empty() {
            return Err(ResourceError::Unsupported {
                field: "pmem",
                hint: "use a drive",
            });
        }
        let mut resources = Resources::default();
        if let Some(machine) = &config.machine_config {
            resources.set_machine(machine.clone())?;
        }
        resources.set_boot_source(config.boot_source.clone())?;
        for drive in &config.drives {
            resources.put_drive(drive.clone())?;
        }
        for net in &config.network_interfaces {
            resources.put_net(net.clone())?;
        }
        if let Some(serial) = &config.serial {
            resources.set_serial(serial.clone())?;
        }
        Ok(resources)
    }

    /// `PUT /boot-source`.
    ///
    /// # Errors
    /// If a file cannot be opened or no kernel could take the arguments.
    pub fn set_boot_source(&mut self, config: api::BootSource) -> Result<(), ResourceError> {
        cmdline::check(config.boot_args.as_deref().unwrap_or(DEFAULT_BOOT_ARGS))?;
        let path = config.kernel_image_path.clone();
        let kernel = NamedFile::open(Path::new(&path))
            .map_err(|source| ResourceError::Kernel { path, source })?;
        let initrd =
            match &config.initrd_path {
                Some(path) => Some(NamedFile::open(Path::new(path)).map_err(|source| {
                    ResourceError::Initrd {
                        path: path.clone(),
                        source,
                    }
                })?),
                None => None,
            };
        self.boot = Some(BootSource {
            config,
            kernel,
            initrd,
        });
        Ok(())
    }

    /// `GET /machine-config`.
    pub fn machine(&self) -> &api::MachineConfig {
        &self.machine
    }

    /// `PUT /machine-config`, and `PATCH` with what it makes of the present one.
    ///
    /// # Errors
    /// If no guest can be like that.
    pub fn set_machine(&mut self, config: api::MachineConfig) -> Result<(), ResourceError> {
        let vcpus = config.vcpu_count;
        let odd = config.smt && vcpus > 1 && vcpus % 2 == 1;
        if vcpus == 0 || vcpus > MAX_VCPUS || odd {
            return Err(ResourceError::VcpuCount);
        }
        let page_mib = match config.huge_pages {
            api::HugePages::None => 1,
            api::HugePages::Transparent | api::HugePages::Hugetlbfs2M => 2,
        };
        if config.mem_size_mib == 0 || !config.mem_size_mib.is_multiple_of(page_mib) {
            return Err(ResourceError::MemorySize);
        }
        if config
            .cpu_template
            .is_some_and(|template| template != api::CpuTemplate::None)
        {
            return Err(ResourceError::Unsupported {
                field: "cpu_template",
                hint: "static CPU templates are deprecated; use None",
            });
        }
        self.machine = config;
        Ok(())
    }

    /// `PUT /drives/{id}`: adds a drive, or replaces the one of that id.
    ///
    /// # Errors
    /// If the file cannot be a disk, or a field is not supported.
    pub fn put_drive(&mut self, config: api::Drive) -> Result<(), ResourceError> {
        self.check_id("drive", &config.drive_id)?;
        if config.rate_limiter.is_some() {
            return Err(NO_RATE_LIMITS);
        }
        if config.socket.is_some() {
            return Err(ResourceError::Unsupported {
                field: "socket",
                hint: "there is no vhost-user device yet; use path_on_host",
            });
        }
        if config.io_engine == Some(api::IoEngine::Async) {
            return Err(ResourceError::Unsupported {
                field: "io_engine Async",
                hint: "the present engine is Sync",
            });
        }
        let other_root = self
            .drives
            .iter()
            .any(|drive| drive.config.is_root_device && drive.config.drive_id != config.drive_id);
        if config.is_root_device && other_root {
            return Err(ResourceError::SecondRoot);
        }
        let device = open_drive(&config)?;
        let config = with_defaults(config);
        let entry = DriveEntry { config, device };
        let place = self
            .drives
            .iter()
            .position(|drive| drive.config.drive_id == entry.config.drive_id);
        if let Some(place) = place {
            self.drives.remove(place);
        }
        // `root=/dev/vda` is the first disk that the guest finds.
        let place = match place {
            _ if entry.config.is_root_device => 0,
            Some(place) => place,
            None => self.drives.len(),
        };
        self.drives.insert(place.min(self.drives.len()), entry);
        Ok(())
    }

    /// `PUT /network-interfaces/{id}`: adds an interface, or replaces the one of that id.
    ///
    /// # Errors
    /// If the tap cannot be had, the address is in use, or a field is not supported.
    pub fn put_net(&mut self, config: api::NetworkInterface) -> Result<(), ResourceError> {
        self.check_id("interface", &config.iface_id)?;
        if config.rx_rate_limiter.is_some() || config.tx_rate_limiter.is_some() {
            return Err(NO_RATE_LIMITS);
        }
        if let Some(mac) = config.guest_mac {
            let used = |net: &&NetEntry| {
                net.config.guest_mac == Some(mac) && net.config.iface_id != config.iface_id
            };
            if self.nets.iter().any(|net| used(&net)) {
                return Err(ResourceError::MacInUse(mac));
            }
        }
        let place = self
            .nets
            .iter()
            .position(|net| net.config.iface_id == config.iface_id);
        let Some(place) = place else {
            let device = open_net(&config)?;
            self.nets.push(NetEntry { config, device });
            return Ok(());
        };
        if self.nets[place].config.host_dev_name != config.host_dev_name || config.fd.is_some() {
            let device = open_net(&config)?;
            self.nets[place] = NetEntry { config, device };
            return Ok(());
        }
        // A tap can be attached once: the interface that is replaced lets it go first, and takes
        // it back if the new one is refused.
        let old = self.nets.remove(place).config;
        let (config, device, result) = match open_net(&config) {
            Ok(device) => (config, device, Ok(())),
            Err(error) => match open_net(&old) {
                Ok(device) => (old, device, Err(error)),
                Err(_) => return Err(error),
            },
        };
        self.nets.insert(place, NetEntry { config, device });
        result
    }

    /// `PUT /serial`.
    ///
    /// # Errors
    /// If a field is not supported.
    pub fn set_serial(&mut self, config: api::Serial) -> Result<(), ResourceError> {
        if config.rate_limiter.is_some() {
            return Err(NO_RATE_LIMITS);
        }
        self.serial = Some(config);
        Ok(())
    }

    fn check_id(&self, kind: &'static str, id: &str) -> Result<(), ResourceError> {
        // It names a thread and stands in log lines. (In a path of the API it is narrower still.)
        if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
            return Err(ResourceError::Id {
                kind,
                id: id.chars().take(MAX_ID).collect(),
            });
        }
        let drive = self.drives.iter().any(|drive| drive.config.drive_id == id);
        let net = self.nets.iter().any(|net| net.config.iface_id == id);
        let own = if kind == "drive" { drive } else { net };
        if (drive || net) && !own {
            return Err(ResourceError::IdInUse {
                kind,
                id: id.to_owned(),
            });
        }
        let count = self.drives.len() + self.nets.len();
        if !own && count >= MAX_DEVICES {
            return Err(ResourceError::TooMany(MAX_DEVICES));
        }
        Ok(())
    }

    /// `GET /vm/config`.
    pub fn full_config(&self) -> api::FullVmConfig {
        api::FullVmConfig {
            boot_source: self
                .boot
                .as_ref()
                .map(|boot| boot.config.clone())
                .unwrap_or_default(),
            machine_config: self.machine.clone(),
            drives: self
                .drives
                .iter()
                .map(|drive| drive.config.clone())
                .collect(),
            network_interfaces: self.nets.iter().map(|net| net.config.clone()).collect(),
            serial: self.serial.clone(),
            ..Default::default()
        }
    }

    /// Gives everything away to a guest. None: nothing to boot was configured.
    ///
    /// # Errors
    /// If the command line, with what the machine adds, is too long.
    pub fn take_plan(&mut self) -> Result<Option<GuestPlan>, ResourceError> {
        let Some(boot) = &self.boot else {
            return Ok(None);
        };
        let root = self
            .drives
            .iter()
            .map(|drive| &drive.config)
            .find(|c| c.is_root_device);
        let boot_args = boot
            .config
            .boot_args
            .as_deref()
            .unwrap_or(DEFAULT_BOOT_ARGS);
        let cmdline = cmdline::build(boot_args, root)?;
        let Some(boot) = self.boot.take() else {
            return Ok(None);
        };
        let drives = self
            .drives
            .drain(..)
            .map(|drive| Device::Block(Box::new(drive.config), Box::new(drive.device)));
        let nets = self
            .nets
            .drain(..)
            .map(|net| Device::Net(Box::new(net.config), Box::new(net.device)));
        Ok(Some(GuestPlan {
            boot,
            cmdline,
            memory: self.machine.mem_size_mib.saturating_mul(1 << 20),
            backing: self.machine.huge_pages.into(),
            log_dirty: self.machine.track_dirty_pages,
            topology: Topology::one_socket(self.machine.vcpu_count, self.machine.smt),
            devices: drives.chain(nets).collect(),
            serial: self.serial.clone(),
        }))
    }

    /// Takes back a plan that did not start, so that it can be corrected and started again.
    pub fn put_back(&mut self, plan: GuestPlan) {
        self.boot = Some(plan.boot);
        for device in plan.devices {
            match device {
                Device::Block(config, device) => {
                    self.drives.push(DriveEntry {
                        config: *config,
                        device: *device,
                    });
                }
                Device::Net(config, device) => {
                    self.nets.push(NetEntry {
                        config: *config,
                        device: *device,
                    });
                }
            }
        }
    }
}

/// What Firecracker answers for a field that was not given.
fn with_defaults(mut config: api::Drive) -> api::Drive {
    config.is_read_only = Some(config.is_read_only.unwrap_or(false));
    config.io_engine = Some(config.io_engine.unwrap_or_default());
    config
}

fn open_drive(config: &api::Drive) -> Result<Block<DirtyBitmap>, ResourceError> {
    let read_only = config.is_read_only.unwrap_or(false);
    let file = match (&config.path_on_host, config.fd) {
        // A named pipe that nobody writes to must not hold the VMM up; it is refused below.
        (Some(path), None) => File::options()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| ResourceError::DriveFile {
                path: path.clone(),
                source,
            })?,
        (None, Some(number)) => File::from(inherited::take(number)?),
        _ => {
            return Err(ResourceError::DriveBacking {
                id: config.drive_id.clone(),
            });
        }
    };
    let cache = match config.cache_type {
        api::CacheType::Unsafe => CacheMode::Unsafe,
        api::CacheType::Writeback => CacheMode::Writeback,
    };
    // GET_ID has room for 20 bytes; an id that is longer is cut, a serial that is longer refused.
    let serial = config.serial.clone().unwrap_or_else(|| {
        config
            .drive_id
            .chars()
            .filter(char::is_ascii)
            .take(20)
            .collect()
    });
    Ok(Block::new(BlockConfig {
        name: config.drive_id.clone(),
        file,
        read_only,
        cache,
        serial,
    })?)
}

fn open_net(config: &api::NetworkInterface) -> Result<Net<DirtyBitmap>, ResourceError> {
    let tap = match config.fd {
        Some(number) => Tap::from_fd(inherited::take(number)?),
        None => Tap::open(&config.host_dev_name),
    };
    let tap = tap.map_err(|source| ResourceError::Tap {
        id: config.iface_id.clone(),
        source,
    })?;
    Ok(Net::new(NetConfig {
        name: config.iface_id.clone(),
        tap,
        mac: config.guest_mac.map(|mac| mac.0),
        mtu: config.mtu,
    })?)
}

#[cfg(test)]
mod tests;
