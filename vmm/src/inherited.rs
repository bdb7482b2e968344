//! File descriptors that who started the VMM left open for it.
//!
//! Guarantees: each is taken over once; a number that is not open, or is one of the three
//! standard streams, is refused.

#![expect(unsafe_code, reason = "a number becomes the descriptor that it names")]

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// A number that names no descriptor for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InheritedError {
    /// Not open, or a standard stream.
    #[error("file descriptor {0} was not left open for this VMM by who started it")]
    NotOpen(RawFd),
    /// In use by another drive or interface.
    #[error("file descriptor {0} is already in use by another device")]
    Taken(RawFd),
}

static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes over descriptor `number`. It is closed when the result is dropped, and cannot be taken
/// again.
///
/// # Errors
/// See [`InheritedError`].
pub fn take(number: RawFd) -> Result<OwnedFd, InheritedError> {
    if number <= 2 {
        return Err(InheritedError::NotOpen(number));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the number is only asked about; if it is open, it stays open for the call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl(borrowed, FcntlArg::F_GETFD).map_err(|_| InheritedError::NotOpen(number))?;
    // What this process opens itself is close-on-exec; what it inherited cannot be.
    if FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC) {
        return Err(InheritedError::NotOpen(number));
    }
    if !taken.insert(number) {
        return Err(InheritedError::Taken(number));
    }
    // A failure leaves it inheritable, which harms nobody: the VMM executes no other program.
    let _ = fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    // SAFETY: it is open, was inherited (nothing in this process owns it) and is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_left_open_is_refused_by_number() {
        for number in [-1, 0, 2, 987] {
            assert_eq!(take(number).err(), Some(InheritedError::NotOpen(number)));
        }
    }
}
