//! A device's thread: one named thread that waits for its eventfds and files, and runs its job.
//!
//! Guarantees: the thread ends within one pass of the job after [`Worker::stop`] was called, and
//! gives the job back, so that pausing, resuming and resetting a device are "stop" and "start",
//! and a stopped device has no thread. A job that reports a fault is never run again; its thread
//! sleeps until it is stopped.
//!
//! Owner: the device. What may block: host I/O within a pass.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::queue::QueueFault;

/// A set of event sources, one bit each. Bits 0 to 30 are the job's.
pub type Sources = u32;

/// The stop eventfd's place in epoll's user data.
const STOP: u64 = u64::MAX;

/// What a worker runs.
pub trait Job: Send + 'static {
    /// What to wait for: a bit (one only) and a file descriptor that stays open while the job
    /// lives. Waiting is edge-triggered: a source is reported once for each new readiness.
    fn sources(&self) -> Vec<(Sources, RawFd)>;

    /// Does the work of the sources that are `ready`, up to a bounded amount, and returns those
    /// that are to be run again at once. Called with all sources after start, so that nothing that
    /// happened before is missed.
    ///
    /// # Errors
    /// A driver's mistake: the job is not run again.
    fn run(&mut self, ready: Sources, control: &Control) -> Result<Sources, QueueFault>;

    /// The job failed by `fault`: tell the driver.
    fn failed(&mut self, fault: &QueueFault);
}

/// A running job's view of its worker.
pub struct Control {
    stop: AtomicBool,
    wake: EventFd,
    epoll: Epoll,
}

impl Control {
    /// True if the job should return soon.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Stops or begins waiting for a source. A source that is ready when it is watched again is
    /// reported again.
    ///
    /// # Errors
    /// As epoll_ctl.
    pub fn watch(&self, source: Sources, fd: RawFd, on: bool) -> io::Result<()> {
        let events = if on {
            EventSet::IN | EventSet::EDGE_TRIGGERED
        } else {
            EventSet::empty()
        };
        self.epoll.ctl(
            ControlOperation::Modify,
            fd,
            EpollEvent::new(events, u64::from(source)),
        )
    }
}

/// A thread that runs a [`Job`].
pub struct Worker<J> {
    thread: JoinHandle<J>,
    control: Arc<Control>,
}

impl<J: Job> Worker<J> {
    /// Starts a thread called `name` (the kernel keeps 15 bytes of it).
    ///
    /// # Errors
    /// If the host has no thread or file descriptor left; the job comes back.
    pub fn start(name: &str, job: J) -> Result<Self, (J, io::Error)> {
        let control = match Control::new(&job) {
            Ok(control) => Arc::new(control),
            Err(error) => return Err((job, error)),
        };
        let (hand_over, take) = sync_channel::<J>(1);
        let theirs = Arc::clone(&control);
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // The sender hands the job over right below, or is gone together with this thread.
                #[expect(
                    clippy::expect_used,
                    reason = "the only sender sends before it is dropped"
                )]
                let job = take.recv().expect("a job");
                run(job, &theirs)
            });
        match spawned {
            Ok(thread) => match hand_over.send(job) {
                Ok(()) => Ok(Self { thread, control }),
                Err(lost) => Err((lost.0, io::ErrorKind::BrokenPipe.into())),
            },
            Err(error) => Err((job, error)),
        }
    }

    /// Ends the thread after its current pass and takes the job back; None if it panicked, which
    /// is a bug that was logged by the panic itself.
    pub fn stop(self) -> Option<J> {
        self.end()
    }
}

impl<J> Worker<J> {
    pub(crate) fn end(self) -> Option<J> {
        self.control.stop.store(true, Ordering::Relaxed);
        if let Err(error) = self.control.wake.write(1) {
            tracing::error!(%error, "cannot wake a device's thread to stop it");
        }
        self.thread.join().ok()
    }
}

impl Control {
    fn new<J: Job>(job: &J) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let on = EventSet::IN;
        epoll.ctl(
            ControlOperation::Add,
            wake.as_raw_fd(),
            EpollEvent::new(on, STOP),
        )?;
        for (source, fd) in job.sources() {
            let event = EpollEvent::new(on | EventSet::EDGE_TRIGGERED, u64::from(source));
            epoll.ctl(ControlOperation::Add, fd, event)?;
        }
        Ok(Self {
            stop: AtomicBool::new(false),
            wake,
            epoll,
        })
    }

    /// The sources that became ready; waits for one if `block`.
    fn wait(&self, block: bool) -> Sources {
        let mut events = [EpollEvent::default(); 8];
        let timeout = if block { -1 } else { 0 };
        let count = match self.epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                tracing::error!(%error, "a device's thread cannot wait: it looks every 10 ms");
                std::thread::sleep(Duration::from_millis(10));
                0
            }
        };
        let ready = events.iter().take(count);
        ready.fold(0, |all, event| {
            all | Sources::try_from(event.data()).unwrap_or(0)
        })
    }
}

fn run<J: Job>(mut job: J, control: &Control) -> J {
    let mut ready = job
        .sources()
        .iter()
        .fold(0, |all, (source, _)| all | source);
    while !control.stopping() {
        match job.run(ready, control) {
            Ok(again) => ready = again | control.wait(again == 0),
            Err(fault) => {
                job.failed(&fault);
                while !control.stopping() {
                    control.wait(true);
                }
            }
        }
    }
    job
}

/// A worker's passes without its thread: until the job has nothing to do, fails, or has had
/// `passes` of them. Returns how often they allocated.
#[cfg(any(test, feature = "testkit"))]
#[expect(
    clippy::expect_used,
    reason = "without eventfds there is nothing to test"
)]
pub(crate) fn run_here<J: Job>(job: &mut J, passes: usize) -> u64 {
    let control = Control::new(job).expect("an epoll descriptor and an eventfd");
    let mut ready = job
        .sources()
        .iter()
        .fold(0, |all, (source, _)| all | source);
    let before = crate::testkit::allocations();
    for _ in 0..passes {
        match job.run(ready, &control) {
            Ok(again) => ready = again | control.wait(false),
            Err(fault) => {
                job.failed(&fault);
                break;
            }
        }
        if ready == 0 {
            break;
        }
    }
    crate::testkit::allocations().saturating_sub(before)
}
