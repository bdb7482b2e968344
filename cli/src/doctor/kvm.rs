//! Whether KVM is there, and of which kind. Proven by running it: a guest of two instructions
//! executes `cmpxchg16b` in ring 0, which hardware runs and an emulating KVM refuses.

use super::Finding;
use kvm_ioctls::{Cap, Kvm, VcpuExit};

/// Code page, then page tables: one 2 MiB page maps the guest's first 2 MiB on itself.
const MEMORY: usize = 0x10000;
const CODE: u64 = 0x1000;
const DATA: u64 = 0x2000;
const PML4: u64 = 0x4000;
const PDPT: u64 = 0x5000;
const PD: u64 = 0x6000;

/// `cmpxchg16b [rdi]; hlt`
const PROGRAM: [u8; 5] = [0x48, 0x0f, 0xc7, 0x0f, 0xf4];

/// What executes the guest's ring 0.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// The processor: any kernel runs.
    Hardware,
    /// KVM's instruction emulator: stock kernels die; ring 3 is native.
    Emulated,
}

/// What the report says of KVM.
pub fn check() -> Vec<Finding> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            let remedy = match error.errno() {
                libc::ENOENT => {
                    "load kvm_intel or kvm_amd, or enable virtualisation in the firmware (or nesting in the hypervisor)"
                }
                libc::EACCES => "add this user to the group `kvm`",
                _ => "see the kernel's log",
            };
            return vec![Finding::fail("kvm", format!("/dev/kvm: {error}"), remedy)];
        }
    };
    let mut findings = vec![match kind(&kvm) {
        Ok(Kind::Hardware) => Finding::ok(
            "kvm",
            "hardware virtualisation: ran cmpxchg16b in a guest's ring 0",
        ),
        Ok(Kind::Emulated) => Finding::warn(
            "kvm",
            "no hardware virtualisation: KVM emulates ring 0, and refused cmpxchg16b there",
            "stock kernels will not boot here; use a host with VMX or SVM, or an emulated host (tests/README.md)",
        ),
        Err(error) => Finding::fail(
            "kvm",
            format!("the probe guest could not run: {error}"),
            "see the kernel's log",
        ),
    }];
    let needed = [
        (Cap::Irqchip, "irqchip"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::Irqfd, "irqfd"),
        (Cap::SignalMsi, "signal_msi"),
        (Cap::UserMemory, "user_memory"),
        (Cap::ImmediateExit, "immediate_exit"),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| *name)
        .collect();
    findings.push(if missing.is_empty() {
        let names: Vec<&str> = needed.iter().map(|(_, name)| *name).collect();
        Finding::ok(
            "kvm features",
            format!("{}; up to {} vCPUs", names.join(", "), kvm.get_max_vcpus()),
        )
    } else {
        Finding::fail(
            "kvm features",
            format!("missing: {}", missing.join(", ")),
            "use a newer host kernel",
        )
    });
    let optional = [
        (Cap::AdjustClock, "adjust_clock (migration keeps time)"),
        (
            Cap::TscControl,
            "tsc_control (migration between unequal TSCs)",
        ),
        (Cap::DirtyLogRing, "dirty_log_ring (cheap pre-copy)"),
    ];
    let absent: Vec<&str> = optional
        .iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| *name)
        .collect();
    if !absent.is_empty() {
        findings.push(Finding::warn(
            "kvm optional",
            format!("absent: {}", absent.join(", ")),
            "only live migration wants them",
        ));
    }
    findings
}

/// Runs the probe.
///
/// # Errors
/// What KVM said, naming the call.
pub fn kind(kvm: &Kvm) -> Result<Kind, String> {
    let said = |call: &'static str| move |error: kvm_ioctls::Error| format!("{call}: {error}");
    let vm = kvm.create_vm().map_err(said("KVM_CREATE_VM"))?;
    let memory = Memory::new(&vm)?;
    memory.write(CODE, &PROGRAM);
    // Present, writable; the last level is a 2 MiB page (bit 7).
    memory.write(PML4, &(PDPT | 3).to_le_bytes());
    memory.write(PDPT, &(PD | 3).to_le_bytes());
    memory.write(PD, &0x83_u64.to_le_bytes());
    let mut vcpu = vm.create_vcpu(0).map_err(said("KVM_CREATE_VCPU"))?;
    if let Ok(cpuid) = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES) {
        vcpu.set_cpuid2(&cpuid).map_err(said("KVM_SET_CPUID2"))?;
    }
    let mut sregs = vcpu.get_sregs().map_err(said("KVM_GET_SREGS"))?;
    sregs.cr3 = PML4;
    sregs.cr4 |= 1 << 5; // PAE
    sregs.cr0 |= 0x8000_0001; // PG, PE
    sregs.efer |= 0x500; // LME, LMA
    let flat = kvm_bindings::kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0x8,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = flat;
    let data = kvm_bindings::kvm_segment {
        type_: 3,
        l: 0,
        db: 1,
        selector: 0x10,
        ..flat
    };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    vcpu.set_sregs(&sregs).map_err(said("KVM_SET_SREGS"))?;
    let regs = kvm_bindings::kvm_regs {
        rip: CODE,
        rdi: DATA,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(said("KVM_SET_REGS"))?;
    match vcpu.run() {
        Ok(VcpuExit::Hlt) => Ok(Kind::Hardware),
        Ok(VcpuExit::InternalError) => Ok(Kind::Emulated),
        Ok(exit) => Err(format!("the guest left with {exit:?}")),
        Err(error) => Err(format!("KVM_RUN: {error}")),
    }
}

/// The guest's memory, mapped here and registered with KVM.
struct Memory {
    address: std::ptr::NonNull<libc::c_void>,
}

#[expect(
    unsafe_code,
    reason = "maps the probe guest's memory and registers it with KVM"
)]
impl Memory {
    fn new(vm: &kvm_ioctls::VmFd) -> Result<Self, String> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let length = std::num::NonZeroUsize::new(MEMORY).ok_or("no memory")?;
        // SAFETY: a new anonymous mapping at an address the kernel chooses aliases nothing.
        let mapped = unsafe {
            mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        };
        let memory = Self {
            address: mapped.map_err(|error| format!("mmap: {error}"))?,
        };
        let region = kvm_bindings::kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.address.as_ptr() as u64,
        };
        // SAFETY: the region is the mapping above, MEMORY bytes long; `Memory` is declared after
        // the VM in `kind`, and the vCPU only runs while it lives.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|error| format!("KVM_SET_USER_MEMORY_REGION: {error}"))?;
        Ok(memory)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap_or(MEMORY);
        assert!(
            at.saturating_add(bytes.len()) <= MEMORY,
            "the probe writes inside its memory"
        );
        // SAFETY: the range was just checked to lie in the mapping, and the guest does not run.
        unsafe {
            self.address
                .as_ptr()
                .cast::<u8>()
                .add(at)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }
}

impl Drop for Memory {
    #[expect(unsafe_code, reason = "unmaps what `new` mapped")]
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping, which nothing uses any more:
        // the vCPU is dropped first, being declared after it.
        let _ = unsafe { nix::sys::mman::munmap(self.address, MEMORY) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_tells_which_kind_of_kvm_this_is() {
        let Ok(kvm) = Kvm::new() else {
            println!("SKIPPED: the_probe_tells_which_kind_of_kvm_this_is: no /dev/kvm");
            return;
        };
        let kind = kind(&kvm);
        assert!(kind.is_ok(), "{kind:?}");
    }
}
