//! A tap interface, as Linux gives it out (kernel `Documentation/networking/tuntap.rst`).
//!
//! Guarantees: an open [`Tap`] is non-blocking and puts the 12-byte virtio header before each
//! frame. The ioctls are the only unsafe code, and stay in this file.

#![expect(unsafe_code, reason = "a tap is made and set up by ioctls")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::HEADER_BYTES;

/// Bytes of an interface's name, its final 0 included (`IFNAMSIZ`).
const NAME_BYTES: usize = 16;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// `struct ifreq` as TUNSETIFF and TUNGETIFF use it: a name and flags, in 40 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// Why a tap could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is no interface name.
    #[error("{0:?} is no interface name: 1 to 15 bytes, without '/', ':' or spaces")]
    Name(String),
    /// The kernel has no tun driver, or this process may not use it.
    #[error("cannot open /dev/net/tun (is the tun module loaded, and the device readable here?)")]
    Device(#[source] io::Error),
    /// The interface could not be taken.
    #[error("cannot attach to tap {name} (does it exist, is it this user's, is it in use?)")]
    Attach {
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file descriptor is no tap with a virtio header.
    #[error("file descriptor {0} is no tap opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    NotATap(i32),
    /// The tap could not be set up.
    #[error("cannot set up a tap: {doing}")]
    Setup {
        /// What was attempted.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An open tap with the virtio header on.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    /// A datagram socket, which moves frames like a tap and knows none of its ioctls.
    #[cfg(any(test, feature = "testkit"))]
    is_socket: bool,
}

impl Tap {
    /// Attaches to the tap `name` of this network namespace; makes it if it does not exist and
    /// this process may.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        let mut request = InterfaceRequest {
            name: [0; NAME_BYTES],
            flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
            rest: [0; 22],
        };
        let bad = |byte: u8| byte == b'/' || byte == b':' || byte <= b' ';
        match request.name.get_mut(..name.len()) {
            Some(room) if !name.is_empty() && name.len() < NAME_BYTES && !name.bytes().any(bad) => {
                room.copy_from_slice(name.as_bytes());
            }
            _ => return Err(TapError::Name(name.to_owned())),
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(TapError::Device)?;
        let fd = OwnedFd::from(file);
        // SAFETY: TUNSETIFF reads and writes an ifreq of 40 bytes, which `request` is.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        checked(result).map_err(|source| TapError::Attach {
            name: name.to_owned(),
            source,
        })?;
        Self::set_up(fd)
    }

    /// Takes over a file descriptor that someone else attached with `IFF_TAP`, `IFF_NO_PI` and
    /// `IFF_VNET_HDR`.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        let mut request = InterfaceRequest {
            name: [0; NAME_BYTES],
            flags: 0,
            rest: [0; 22],
        };
        // SAFETY: TUNGETIFF writes an ifreq of 40 bytes, which `request` is.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
        let needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if checked(result).is_err() || request.flags & needed != needed {
            return Err(TapError::NotATap(fd.as_raw_fd()));
        }
        // SAFETY: fcntl on an open descriptor, with an integer argument.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        // SAFETY: as above.
        let result =
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
        let doing = "make it non-blocking";
        checked(result).map_err(|source| TapError::Setup { doing, source })?;
        Self::set_up(fd)
    }

    fn set_up(fd: OwnedFd) -> Result<Self, TapError> {
        let size = HEADER_BYTES as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        let doing = "set the virtio header's size";
        checked(result).map_err(|source| TapError::Setup { doing, source })?;
        Ok(Self {
            fd,
            #[cfg(any(test, feature = "testkit"))]
            is_socket: false,
        })
    }

    /// A tap whose wire is in the test's hands.
    #[cfg(any(test, feature = "testkit"))]
    #[allow(
        clippy::unwrap_used,
        reason = "a test that gets no socket pair has nothing to test"
    )]
    pub(crate) fn socket() -> (Self, std::os::unix::net::UnixDatagram) {
        let (ours, wire) = std::os::unix::net::UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (
            Self {
                fd: ours.into(),
                is_socket: true,
            },
            wire,
        )
    }

    /// Tells the kernel which unfinished frames (`TUN_F_*`) the guest can take.
    ///
    /// # Errors
    /// `InvalidInput` if the kernel knows no such offload.
    pub fn set_offloads(&self, flags: u32) -> io::Result<()> {
        #[cfg(any(test, feature = "testkit"))]
        if self.is_socket {
            return Ok(());
        }
        let flags = libc::c_ulong::from(flags);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, flags) };
        checked(result)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_that_is_no_interface_name_is_refused_before_the_kernel_sees_it() {
        for name in ["", "sixteen-bytes-xx", "a/b", "a b", "a:b"] {
            assert!(
                matches!(Tap::open(name), Err(TapError::Name(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_descriptor_that_is_no_tap_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            Tap::from_fd(file.into()),
            Err(TapError::NotATap(_))
        ));
    }
}
