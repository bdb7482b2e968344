//! The terminal, while a guest's console is on it.
//!
//! Guarantees: raw mode ends with the value, and with a panic; where standard input is no
//! terminal, nothing is touched.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// What the terminal was before, for the panic hook and for the end.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode on standard input.
pub struct RawMode(());

impl RawMode {
    /// Enters raw mode. None: standard input is no terminal.
    pub fn enter() -> Option<RawMode> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
        Some(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &before);
    }
}
