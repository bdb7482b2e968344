//! vCPUs: a thread each, from creation to the guest's end.
//!
//! ```text
//!              spawn                order: run             order: stop
//!   (thread) ---------> Standing -----------> Running -----------------> (ended)
//!                          ^                     |  \
//!                          +---------------------+   +--> ended by the guest, reported once
//!                               order: pause
//! ```
//!
//! Guarantees: [`Vcpus::pause`] returns when no vCPU is in the guest or in a device, with every
//! access that was under way completed; [`Vcpus`] dropped has no thread left. A vCPU that ends
//! by the guest's doing reports a [`GuestExit`] and stands still from then on.
//!
//! Orders and kicks: see [`kick`](super::kick) for why none is lost.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::cpuid;
use super::kick::{self, Attached, Kicker};
use super::registers::{self, Entry};
use super::vm::{KvmError, Vm, refused};
use crate::devices::bus::Bus;
use crate::devices::power::PowerEvent;
use crate::machine::Topology;

/// How a guest ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestExit {
    /// It powered itself off.
    Shutdown,
    /// It asked to be reset.
    Reset,
    /// Its processor triple-faulted.
    TripleFault,
    /// KVM could not go on with it.
    Crashed(String),
}

/// Why vCPUs cannot be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused.
    #[error("vCPU {index}: {source}")]
    Kvm {
        /// The vCPU.
        index: u16,
        /// What it refused.
        #[source]
        source: KvmError,
    },
    /// The host gives no thread or signal.
    #[error("vCPU {index}: {source}")]
    Host {
        /// The vCPU.
        index: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A vCPU did not leave the guest.
    #[error("{0} of the vCPUs did not stop within {secs} s", secs = PAUSE_LIMIT.as_secs())]
    Stuck(usize),
}

/// How long a pause waits for the last vCPU: a device's reset may wait for the host's disk.
const PAUSE_LIMIT: Duration = Duration::from_secs(30);

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const STOP: u8 = 2;

/// What all vCPUs of a guest share.
struct Control {
    /// The order, for the look before each KVM_RUN. Written under `state`'s lock.
    order: AtomicU8,
    state: Mutex<Standing>,
    changed: Condvar,
}

#[derive(Default)]
struct Standing {
    /// vCPUs that stand still.
    still: usize,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, order: u8) {
        let state = self.lock();
        self.order.store(order, Ordering::Release);
        drop(state);
        self.changed.notify_all();
    }

    /// Stands still until the order is to run (true) or to stop (false).
    fn stand(&self) -> bool {
        let mut state = self.lock();
        state.still += 1;
        self.changed.notify_all();
        let order = loop {
            match self.order.load(Ordering::Acquire) {
                PAUSE => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                order => break order,
            }
        };
        if order == RUN {
            state.still -= 1;
        }
        order == RUN
    }
}

/// What each vCPU's thread is given.
pub struct VcpuSetup {
    /// The VM.
    pub vm: Arc<Vm>,
    /// How the processors are grouped.
    pub topology: Topology,
    /// What CPUID answers, before the ids of one vCPU.
    pub cpuid: Arc<Vec<kvm_cpuid_entry2>>,
    /// Called once by a vCPU whose guest ended, from its thread.
    pub on_exit: Arc<dyn Fn(GuestExit) + Send + Sync>,
}

/// Threads that make their vCPUs while the kernel is still being loaded.
pub struct Preparing {
    control: Arc<Control>,
    threads: Vec<(SyncSender<Start>, JoinHandle<()>)>,
    made: Receiver<Result<Kicker, VcpuError>>,
}

/// What a vCPU waits for once it is made.
struct Start {
    bus: Arc<Bus>,
    /// For the first vCPU only; the others wait for its INIT and SIPI.
    entry: Option<Entry>,
}

/// All vCPUs of a guest.
pub struct Vcpus {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    kickers: Vec<Kicker>,
}

/// Starts a thread for each vCPU, which makes it.
///
/// # Errors
/// If a thread cannot be started.
pub fn prepare(setup: VcpuSetup) -> Result<Preparing, VcpuError> {
    kick::install().map_err(|source| VcpuError::Host { index: 0, source })?;
    let count = setup.topology.vcpus();
    let setup = Arc::new(setup);
    let control = Arc::new(Control {
        order: AtomicU8::new(PAUSE),
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    let (made_sender, made) = sync_channel(usize::from(count));
    let mut threads = Vec::with_capacity(usize::from(count));
    for index in 0..count {
        let (start, started) = sync_channel(1);
        let (setup, control) = (Arc::clone(&setup), Arc::clone(&control));
        let made_sender = made_sender.clone();
        let thread = std::thread::Builder::new()
            .name(format!("berth_vcpu {index}"))
            .spawn(move || vcpu_thread(index, &setup, &control, &made_sender, &started))
            .map_err(|source| VcpuError::Host { index, source })?;
        threads.push((start, thread));
    }
    Ok(Preparing {
        control,
        threads,
        made,
    })
}

impl Preparing {
    /// Waits until all vCPUs are made, and hands each what it needs to run. They stand still
    /// until [`Vcpus::resume`].
    ///
    /// # Errors
    /// If one of them could not be made; the others have ended then.
    pub fn finish(self, bus: &Arc<Bus>, entry: Entry) -> Result<Vcpus, VcpuError> {
        let mut kickers = Vec::with_capacity(self.threads.len());
        for index in 0..self.threads.len() {
            let lost = || VcpuError::Host {
                index: index as u16,
                source: std::io::Error::other("its thread ended before it was made"),
            };
            kickers.push(self.made.recv().map_err(|_| lost())??);
        }
        let mut threads = Vec::with_capacity(self.threads.len());
        for (index, (start, thread)) in self.threads.into_iter().enumerate() {
            let entry = (index == 0).then_some(entry);
            // A thread that has gone reports its end by itself.
            let _ = start.send(Start {
                bus: Arc::clone(bus),
                entry,
            });
            threads.push(thread);
        }
        Ok(Vcpus {
            control: self.control,
            threads,
            kickers,
        })
    }
}

impl Vcpus {
    /// Lets all vCPUs run.
    pub fn resume(&self) {
        self.control.give(RUN);
    }

    /// Stops all vCPUs.
    ///
    /// # Errors
    /// If one of them does not stop in time. The order stands: it stops when it can.
    pub fn pause(&self) -> Result<(), VcpuError> {
        self.stop_by(PAUSE, PAUSE_LIMIT)
    }

    fn stop_by(&self, order: u8, limit: Duration) -> Result<(), VcpuError> {
        self.control.give(order);
        let deadline = Instant::now() + limit;
        for kicker in &self.kickers {
            kicker.kick();
        }
        let mut state = self.control.lock();
        while state.still < self.threads.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(VcpuError::Stuck(self.threads.len() - state.still));
            }
            let waited = self.control.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        if let Err(error) = self.stop_by(STOP, PAUSE_LIMIT) {
            // Joining would wait for ever; the process is about to end and takes them along.
            tracing::error!(%error, "vCPU threads are left behind");
            return;
        }
        for thread in self.threads.drain(..) {
            // A panicked thread has said so.
            let _ = thread.join();
        }
    }
}

/// `berth_vcpu N`.
fn vcpu_thread(
    index: u16,
    setup: &VcpuSetup,
    control: &Control,
    made: &SyncSender<Result<Kicker, VcpuError>>,
    started: &Receiver<Start>,
) {
    let mut vcpu = match make(index, setup) {
        Ok(vcpu) => vcpu,
        Err(source) => {
            let _ = made.send(Err(VcpuError::Kvm { index, source }));
            return;
        }
    };
    let attached = Attached::new(&mut vcpu);
    if made.send(Ok(attached.kicker())).is_err() {
        return;
    }
    // The guest was given up before it started.
    let Ok(start) = started.recv() else { return };
    let entered = start
        .entry
        .map_or(Ok(()), |entry| registers::set_boot_state(&vcpu, entry));
    let exit = match entered {
        Ok(()) => {
            let tell_stopped = setup.vm.caps().has("kvmclock_ctrl");
            run(&mut vcpu, control, &start.bus, tell_stopped)
        }
        Err(error) => Some(GuestExit::Crashed(error.to_string())),
    };
    if let Some(exit) = exit {
        (setup.on_exit)(exit);
        stand_to_the_end(control);
    }
    drop(attached);
}

/// After the guest's end: stands still, whatever the order, until it is to stop.
fn stand_to_the_end(control: &Control) {
    let mut state = control.lock();
    state.still += 1;
    control.changed.notify_all();
    while control.order.load(Ordering::Acquire) != STOP {
        state = control
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

fn make(index: u16, setup: &VcpuSetup) -> Result<VcpuFd, KvmError> {
    let vcpu = setup.vm.create_vcpu(setup.topology.apic_id(index))?;
    let leaves = cpuid::for_vcpu(&setup.cpuid, setup.topology, index);
    let leaves = CpuId::from_entries(&leaves)
        .map_err(|_| refused("KVM_SET_CPUID2")(kvm_ioctls::Error::new(libc::E2BIG)))?;
    vcpu.set_cpuid2(&leaves)
        .map_err(refused("KVM_SET_CPUID2"))?;
    registers::set_boot_msrs(&vcpu)?;
    Ok(vcpu)
}

/// Runs the guest until it ends (Some) or the order is to stop (None). `tell_stopped` lets its clock
/// know of a pause.
fn run(vcpu: &mut VcpuFd, control: &Control, bus: &Bus, tell_stopped: bool) -> Option<GuestExit> {
    loop {
        // First clear, then look: a kick that comes after the look sets it again.
        vcpu.set_kvm_immediate_exit(0);
        if control.order.load(Ordering::Acquire) != RUN {
            if let Some(exit) = complete_access(vcpu, bus) {
                return Some(exit);
            }
            if !control.stand() {
                return None;
            }
            if tell_stopped {
                // Keeps the guest's watchdogs quiet about the time that it stood still. EINVAL: it
                // does not use kvmclock.
                let _ = vcpu.kvmclock_ctrl();
            }
            continue;
        }
        match vcpu.run() {
            Ok(exit) => match handle(exit, bus) {
                Handled::Go => {}
                Handled::InternalError => {
                    let suberror = kick::internal_error(vcpu);
                    return Some(GuestExit::Crashed(explain_internal_error(suberror)));
                }
                Handled::Ended(exit) => return Some(exit),
            },
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return Some(GuestExit::Crashed(format!("KVM_RUN: {error}"))),
        }
    }
}

/// Lets KVM take the answer of the access that the last exit was for, without running the guest:
/// only then are the registers those of an instruction's boundary. An instruction may need
/// several (a string of ports, a value across two pages): each is served as if the guest ran.
/// Some: the guest ended with one of them.
fn complete_access(vcpu: &mut VcpuFd, bus: &Bus) -> Option<GuestExit> {
    loop {
        vcpu.set_kvm_immediate_exit(1);
        let ended = match vcpu.run() {
            Ok(exit) => match handle(exit, bus) {
                Handled::Ended(exit) => Some(exit),
                Handled::Go | Handled::InternalError => None,
            },
            // EINTR, as asked for: nothing is left. Anything else comes again with the next run.
            Err(_) => {
                vcpu.set_kvm_immediate_exit(0);
                return None;
            }
        };
        if ended.is_some() {
            return ended;
        }
    }
}

enum Handled {
    Go,
    InternalError,
    Ended(GuestExit),
}

fn handle(exit: VcpuExit<'_>, bus: &Bus) -> Handled {
    match exit {
        VcpuExit::IoOut(port, data) => match bus.write_port(port, data) {
            None => Handled::Go,
            Some(PowerEvent::Shutdown) => Handled::Ended(GuestExit::Shutdown),
            Some(PowerEvent::Reset) => Handled::Ended(GuestExit::Reset),
        },
        VcpuExit::IoIn(port, data) => {
            bus.read_port(port, data);
            Handled::Go
        }
        VcpuExit::MmioWrite(address, data) => {
            bus.write_mmio(address, data);
            Handled::Go
        }
        VcpuExit::MmioRead(address, data) => {
            bus.read_mmio(address, data);
            Handled::Go
        }
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => Handled::Go,
        VcpuExit::Shutdown => Handled::Ended(GuestExit::TripleFault),
        VcpuExit::InternalError => Handled::InternalError,
        VcpuExit::FailEntry(reason, cpu) => Handled::Ended(GuestExit::Crashed(format!(
            "the host's processor {cpu} refused to enter the guest (reason {reason:#x})"
        ))),
        VcpuExit::SystemEvent(kind, _) => Handled::Ended(system_event(kind)),
        other => Handled::Ended(GuestExit::Crashed(format!("unexpected exit: {other:?}"))),
    }
}

fn system_event(kind: u32) -> GuestExit {
    match kind {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => GuestExit::Shutdown,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET => GuestExit::Reset,
        _ => GuestExit::Crashed(format!("KVM system event {kind}")),
    }
}

fn explain_internal_error(suberror: u32) -> String {
    match suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => {
            "KVM cannot emulate an instruction of the guest; on a KVM without hardware \
             virtualisation most kernels end so (`berth doctor` tells)"
                .to_owned()
        }
        other => format!("KVM internal error {other}"),
    }
}
