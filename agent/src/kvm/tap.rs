//! Persistent taps, by /dev/net/tun (Linux Documentation/networking/tuntap.rst). Netlink, which
//! does the rest, cannot make them.
#![expect(
    unsafe_code,
    reason = "TUNSETIFF and TUNSETPERSIST are ioctls without a safe wrapper"
)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;

// include/uapi/linux/if_tun.h: _IOW('T', 202, int), _IOW('T', 203, int).
nix::ioctl_write_ptr_bad!(tunsetiff, 0x4004_54ca, nix::libc::ifreq);
nix::ioctl_write_int_bad!(tunsetpersist, 0x4004_54cb);

/// Makes a persistent tap with room for virtio-net headers. One that is there stays.
///
/// # Errors
/// If the name is too long, or /dev/net/tun refuses.
pub(super) fn make(name: &str) -> io::Result<()> {
    if std::path::Path::new("/sys/class/net").join(name).exists() {
        return Ok(());
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain old data, for which all zeroes is a value.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is too long for an interface"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = nix::libc::IFF_TAP | nix::libc::IFF_NO_PI | nix::libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the request a valid ifreq that outlives the call.
    unsafe { tunsetiff(tun.as_raw_fd(), &raw const request) }?;
    // SAFETY: the descriptor is open; the argument is a plain number.
    unsafe { tunsetpersist(tun.as_raw_fd(), 1) }?;
    Ok(())
}
