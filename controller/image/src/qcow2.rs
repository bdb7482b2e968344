//! What a qcow2 file's header says (QEMU, docs/interop/qcow2.rst): the size of the disk in it,
//! known before a server is accepted, and whether any host would take it.
//!
//! The agent looks at the whole file before it converts it; this reads [`HEADER`] bytes of a
//! stranger's file and allocates nothing.

use berth_rpc_types::ImageSpec;

/// Bytes of the header that are read: those of version 3 up to its own length.
pub const HEADER: usize = 104;

/// Incompatible feature bit 2: the data is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// Why a file is not taken as qcow2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Qcow2Error {
    /// Too short, or without the magic number.
    #[error("it is no qcow2 file; set disk_format to what it is")]
    NoQcow2,
    /// Not 2 or 3.
    #[error("its qcow2 version is {0}; convert it to version 3 with qemu-img")]
    Version(u32),
    /// A backing or data file: it would be read from a host's own disk.
    #[error("it refers to another file; flatten it with qemu-img convert")]
    RefersToFile,
    /// Its data is encrypted: no host has the key.
    #[error("it is encrypted; decrypt it with qemu-img convert")]
    Encrypted,
    /// Nobody has such a disk.
    #[error("its virtual size of {0} bytes is out of bounds")]
    VirtualSize(u64),
}

/// Bytes of the disk in a qcow2 file, by the file's first [`HEADER`] bytes.
///
/// # Errors
/// [`Qcow2Error`]
pub fn virtual_size(head: &[u8]) -> Result<u64, Qcow2Error> {
    let word = |at| field(head, at).map(u32::from_be_bytes);
    let long = |at| field(head, at).map(u64::from_be_bytes);
    if field(head, 0)? != *b"QFI\xfb" {
        return Err(Qcow2Error::NoQcow2);
    }
    let version = word(4)?;
    if !matches!(version, 2 | 3) {
        return Err(Qcow2Error::Version(version));
    }
    let external = version == 3 && long(72)? & EXTERNAL_DATA != 0;
    if long(8)? != 0 || external {
        return Err(Qcow2Error::RefersToFile);
    }
    if word(32)? != 0 {
        return Err(Qcow2Error::Encrypted);
    }
    match long(24)? {
        size if size > ImageSpec::VIRTUAL_SIZE_LIMIT => Err(Qcow2Error::VirtualSize(size)),
        size => Ok(size),
    }
}

/// A big-endian field of the header.
fn field<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], Qcow2Error> {
    let field = head.get(at..).and_then(<[u8]>::first_chunk);
    field.copied().ok_or(Qcow2Error::NoQcow2)
}

/// The header of a sound file with a disk of that many bytes.
#[cfg(test)]
pub fn header(size: u64) -> Vec<u8> {
    let mut head = vec![0; HEADER];
    head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    head[24..32].copy_from_slice(&size.to_be_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(at: usize, byte: u8) -> Result<u64, Qcow2Error> {
        let mut head = header(5 << 30);
        head[at] = byte;
        virtual_size(&head)
    }

    #[test]
    fn the_disk_has_the_size_that_the_header_says() {
        assert_eq!(virtual_size(&header(5 << 30)), Ok(5 << 30));
        assert_eq!(with(7, 2), Ok(5 << 30));
        // What follows a version 2 header is no feature bit.
        let mut old = header(1 << 20);
        old[7] = 2;
        old[79] = 4;
        assert_eq!(virtual_size(&old), Ok(1 << 20));
    }

    #[test]
    fn what_no_host_takes_is_refused_with_its_reason() {
        assert_eq!(with(0, b'q'), Err(Qcow2Error::NoQcow2));
        assert_eq!(virtual_size(&header(1)[..40]), Err(Qcow2Error::NoQcow2));
        assert_eq!(with(7, 4), Err(Qcow2Error::Version(4)));
        assert_eq!(with(15, 1), Err(Qcow2Error::RefersToFile));
        assert_eq!(with(79, 4), Err(Qcow2Error::RefersToFile));
        assert_eq!(with(35, 2), Err(Qcow2Error::Encrypted));
        let large = (64 << 40) + 1;
        assert_eq!(
            virtual_size(&header(large)),
            Err(Qcow2Error::VirtualSize(large))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(head in proptest::collection::vec(any::<u8>(), 0..HEADER)) {
            let _ = virtual_size(&head);
        }
    }
}
