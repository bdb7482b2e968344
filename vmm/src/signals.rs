//! Signals that end the VMM in order, and those that do not concern it.
//!
//! Guarantees: SIGTERM and SIGINT end the VMM as its own power-off does, with everything flushed;
//! SIGHUP does nothing, since a guest outlives the terminal and the agent that started it. The
//! signals are blocked in every thread and taken by `berth_signal` alone, so that no system call
//! elsewhere is interrupted by them.

use std::sync::mpsc::SyncSender;

use nix::sys::signal::{SigSet, Signal};

use crate::driver::Message;

fn ours() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
}

/// Blocks the signals in this thread and those that it starts. To be called before any is started.
///
/// # Errors
/// If the system refuses.
pub fn block() -> std::io::Result<()> {
    Ok(ours().thread_block()?)
}

/// Starts the thread that takes the signals.
///
/// # Errors
/// If the thread cannot be started.
pub fn start(driver: SyncSender<Message>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("berth_signal".to_owned())
        .stack_size(64 << 10)
        .spawn(move || {
            while let Ok(signal) = ours().wait() {
                if signal == Signal::SIGHUP {
                    tracing::debug!("SIGHUP is ignored: a guest outlives who started it");
                } else if driver.send(Message::Signal(signal as i32)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}
