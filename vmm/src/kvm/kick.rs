//! The signal that brings a vCPU out of the guest.
//!
//! Guarantees: after [`Kicker::kick`], the vCPU's thread returns from the KVM_RUN it is in, or
//! from the next one it enters, at once. There is no moment in which a kick is lost: the handler
//! runs on the vCPU's own thread and sets `immediate_exit`, which KVM looks at before it enters
//! the guest; a signal that comes while the guest runs ends KVM_RUN by itself.
//!
//! The order on the vCPU's side is: clear `immediate_exit`, then look for orders, then KVM_RUN.
//! On the other side: give the order, then kick.

#![expect(
    unsafe_code,
    reason = "signal handlers, pthread_kill and the shared kvm_run page"
)]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::OnceLock;

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, pthread_t, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// The `immediate_exit` byte of this thread's vCPU, or null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn kick_signal() -> c_int {
    SIGRTMIN()
}

extern "C" fn on_kick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    IMMEDIATE_EXIT.with(|cell| {
        let byte = cell.get();
        if !byte.is_null() {
            // SAFETY: the pointer is set only while this thread's `Attached` lives, and with it
            // the kvm_run page; one byte is written, which KVM and this thread alone read.
            unsafe { ptr::write_volatile(byte, 1) };
        }
    });
}

/// Installs the handler for the whole process, once.
///
/// # Errors
/// If the system refuses the handler.
pub fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            register_signal_handler(kick_signal(), on_kick).map_err(|error| error.errno())
        })
        .map_err(io::Error::from_raw_os_error)
}

/// Ties this thread to its vCPU until it is dropped.
pub struct Attached {
    kicker: Kicker,
}

impl Attached {
    /// Lets kicks of this thread end KVM_RUN of `vcpu`. The vCPU must outlive the value, on
    /// this thread.
    pub fn new(vcpu: &mut VcpuFd) -> Attached {
        let byte = ptr::from_mut(&mut vcpu.get_kvm_run().immediate_exit);
        IMMEDIATE_EXIT.with(|cell| cell.set(byte));
        // SAFETY: pthread_self has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        Attached {
            kicker: Kicker(thread),
        }
    }

    /// A handle by which other threads kick this one.
    pub fn kicker(&self) -> Kicker {
        self.kicker
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
    }
}

/// Why KVM gave up on the guest: the suberror of KVM_EXIT_INTERNAL_ERROR (`linux/kvm.h`). To be
/// asked right after such an exit.
pub fn internal_error(vcpu: &mut VcpuFd) -> u32 {
    let run = vcpu.get_kvm_run();
    // SAFETY: every member of the union is plain data of the same page, so that reading one is
    // sound whatever the last exit was; after KVM_EXIT_INTERNAL_ERROR it is the right one.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}

/// Names a vCPU's thread. To be used only while that thread has not been joined.
#[derive(Clone, Copy, Debug)]
pub struct Kicker(pthread_t);

impl Kicker {
    /// Brings the thread's vCPU out of the guest.
    pub fn kick(self) {
        // SAFETY: the thread has not been joined (the owner of its JoinHandle is the one who
        // kicks), so the id is valid; the signal's handler is installed before vCPUs start.
        let result = unsafe { libc::pthread_kill(self.0, kick_signal()) };
        // ESRCH: the thread has ended by itself, which is what a kick wants.
        if result != 0 && result != libc::ESRCH {
            tracing::error!(error = result, "cannot signal a vCPU thread");
        }
    }
}
