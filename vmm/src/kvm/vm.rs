//! One VM: its creation, memory slots, interrupt lines and doorbells.
//!
//! Guarantees: whatever KVM refuses comes back as an error that names the ioctl and its argument;
//! the file descriptors close with the value, and with them everything that KVM holds.

#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes a raw address")]

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::eventfd::EventFd;

use super::caps::{Caps, MissingCap};
use crate::machine::Region;
use crate::memory::GuestMemory;

/// What KVM refused.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` cannot be opened.
    #[error(
        "cannot open /dev/kvm: {0}; is the processor's virtualisation on, the kvm module loaded, \
         and this user allowed to use it?"
    )]
    Open(#[source] kvm_ioctls::Error),
    /// See [`MissingCap`].
    #[error(transparent)]
    MissingCap(#[from] MissingCap),
    /// An ioctl failed.
    #[error("KVM refused {what}: {source}")]
    Ioctl {
        /// The ioctl and its argument.
        what: String,
        /// The error number.
        source: kvm_ioctls::Error,
    },
}

/// Names an ioctl in the error that it returned.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    let what = what.into();
    |source| KvmError::Ioctl { what, source }
}

/// A VM with its interrupt controllers.
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
    caps: Caps,
}

impl Vm {
    /// Opens KVM and makes an empty VM.
    ///
    /// # Errors
    /// If there is no KVM, it lacks something, or it refuses.
    pub fn create() -> Result<Vm, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        let fd = create_vm(&kvm)?;
        let caps = Caps::read(&kvm)?;
        Ok(Vm { kvm, fd, caps })
    }

    /// Makes the in-kernel PIC, I/O APIC and local APICs, and names the pages that KVM on Intel
    /// needs. After the memory slots and before the first vCPU: the controllers' registration
    /// starts an RCU grace period, and a memory slot that comes after it waits for its end (5 ms,
    /// where it takes 0.15 before).
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn create_irqchip(&self, kvm_tss: Region) -> Result<(), KvmError> {
        // The page before the TSS is the identity map; both are used by Intel's real mode only.
        let identity_map = kvm_tss.start;
        self.fd
            .set_identity_map_address(identity_map)
            .map_err(refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let tss = usize::try_from(kvm_tss.start + 0x1000).unwrap_or(0xFFFB_D000);
        self.fd
            .set_tss_address(tss)
            .map_err(refused("KVM_SET_TSS_ADDR"))?;
        self.fd
            .create_irq_chip()
            .map_err(refused("KVM_CREATE_IRQCHIP"))
    }

    /// What this host can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// KVM's supported CPUID set.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Gives guest memory to the VM, a slot a region. The memory must live as long as the VM.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn map_memory(&self, memory: &GuestMemory, log_dirty: bool) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(memory.iter()) {
            let host = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(|_| refused("KVM_SET_USER_MEMORY_REGION")(kvm_ioctls::Error::new(14)))?;
            let entry = kvm_userspace_memory_region {
                slot,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host as u64,
                flags: if log_dirty {
                    KVM_MEM_LOG_DIRTY_PAGES
                } else {
                    0
                },
            };
            // SAFETY: the region is a live mapping of `memory_size` bytes that belongs to guest
            // memory alone; the guest's machine keeps that memory until its vCPUs have ended.
            unsafe { self.fd.set_user_memory_region(entry) }.map_err(refused(format!(
                "KVM_SET_USER_MEMORY_REGION of {} MiB at {:#x}",
                region.len() >> 20,
                region.start_addr().0
            )))?;
        }
        Ok(())
    }

    /// Makes a vCPU whose APIC id is `apic_id`.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn create_vcpu(&self, apic_id: u32) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(u64::from(apic_id))
            .map_err(refused(format!("KVM_CREATE_VCPU with APIC id {apic_id}")))
    }

    /// Raises an edge on `gsi` whenever `eventfd` is written.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn connect_irq(&self, eventfd: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd
            .register_irqfd(eventfd, gsi)
            .map_err(refused(format!("KVM_IRQFD for GSI {gsi}")))
    }

    /// Signals `eventfd` whenever the guest writes the 32-bit `value` to `address`, without an
    /// exit to user space.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn connect_doorbell(
        &self,
        eventfd: &EventFd,
        address: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(eventfd, &IoEventAddress::Mmio(address), value)
            .map_err(refused(format!("KVM_IOEVENTFD at {address:#x}")))
    }

    /// As [`connect_doorbell`](Self::connect_doorbell), for every value.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn connect_doorbell_any(&self, eventfd: &EventFd, address: u64) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(eventfd, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(refused(format!("KVM_IOEVENTFD at {address:#x}")))
    }
}

/// KVM_CREATE_VM, again if a signal interrupted it: the kernel gives up half way then.
fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    const ATTEMPTS: u32 = 5;
    let mut attempt = 1;
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR && attempt < ATTEMPTS => attempt += 1,
            result => return result.map_err(refused("KVM_CREATE_VM")),
        }
    }
}
