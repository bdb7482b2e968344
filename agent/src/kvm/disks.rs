//! A guest's disks: sparse raw files of its own, made from cached images.
//!
//! A disk appears under its name only when it is whole. It shares its blocks with the image
//! where the file system can (reflink), else only its data is copied, and its holes stay holes.

use super::blocking;
use crate::driver::DriverError;
use crate::journal::sync_folder;
use berth_rpc::kill_point;
use berth_rpc_types::DiskSpec;
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

const GIB: u64 = 1 << 30;
/// Copied between two looks at the cancellation, in bytes.
const CHUNK: usize = 4 << 20;

/// The disk's file in its VMM's directory.
pub(super) fn path(folder: &Path, disk: &DiskSpec) -> PathBuf {
    folder.join(format!("disk-{}.raw", disk.id))
}

/// Makes a disk, from `base` if it has an image.
///
/// # Errors
/// If the image does not fit the size asked for, or the host has no room.
pub(super) async fn make(
    folder: &Path,
    disk: &DiskSpec,
    base: Option<PathBuf>,
    cancelled: &CancellationToken,
) -> Result<(), DriverError> {
    let path = path(folder, disk);
    let new = path.with_extension("new");
    let size = size(disk, base.as_deref())?;
    let token = cancelled.clone();
    let made = blocking(move || {
        // What an interrupted try left.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&new)?;
        if let Some(base) = base {
            copy(&File::open(base)?, &file, &token)?;
        }
        file.set_len(size)?;
        file.sync_all()?;
        kill_point!("agent.disk.made");
        fs::rename(&new, &path)?;
        path.parent().map_or(Ok(()), sync_folder)
    });
    match made.await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(DriverError::Cancelled),
        Err(error) => {
            let message = format!("disk {}: cannot be made on this host: {error}", disk.id);
            Err(DriverError::host(message, error.to_string()))
        }
    }
}

/// The size that the guest sees, in bytes.
fn size(disk: &DiskSpec, base: Option<&Path>) -> Result<u64, DriverError> {
    let least = match base {
        Some(base) => fs::metadata(base).map(|m| m.len()).map_err(|error| {
            let message = format!("disk {}: its image is not in the cache: {error}", disk.id);
            DriverError::host(message, base.display().to_string())
        })?,
        None => 0,
    };
    let out_of_bounds = || {
        let message = format!("disk {}: {} GiB is out of bounds", disk.id, disk.size_gib);
        DriverError::request(message, "size_gib")
    };
    let wanted = match disk.size_gib {
        0 => least,
        gib => gib
            .checked_mul(GIB)
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or_else(out_of_bounds)?,
    };
    if wanted < least {
        let message = format!(
            "disk {}: the image is {} GiB large, the flavor's disk only {} GiB; choose a flavor with a larger disk",
            disk.id,
            least.div_ceil(GIB),
            disk.size_gib
        );
        return Err(DriverError::request(message, format!("{least} bytes")));
    }
    Ok(wanted)
}

/// Copies data, not holes. `Interrupted` tells a cancellation.
fn copy(from: &File, to: &File, cancelled: &CancellationToken) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let end = from.metadata()?.len();
    let mut at = 0;
    let mut buffer = vec![0; CHUNK];
    while at < end {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(from, SeekFrom::Hole(data))?;
        at = data;
        while at < hole {
            if cancelled.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let left = usize::try_from(hole - at).unwrap_or(CHUNK).min(CHUNK);
            let read = from.read_at(&mut buffer[..left], at)?;
            if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the image shrank",
                ));
            }
            to.write_all_at(&buffer[..read], at)?;
            at += read as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn disk(size_gib: u64) -> DiskSpec {
        DiskSpec {
            id: uuid::Uuid::from_u128(7),
            image: None,
            size_gib,
            read_only: false,
        }
    }

    #[tokio::test]
    async fn a_disk_has_the_images_data_the_flavors_size_and_holes_for_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        let file = File::create(&base).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 40 << 20).unwrap();
        let token = CancellationToken::new();
        make(folder.path(), &disk(1), Some(base), &token)
            .await
            .unwrap();
        let made = File::open(path(folder.path(), &disk(1))).unwrap();
        let mut found = [0; 6];
        made.read_exact_at(&mut found, 40 << 20).unwrap();
        assert_eq!(&found, b"middle");
        let meta = made.metadata().unwrap();
        assert_eq!(meta.len(), GIB);
        assert!(meta.blocks() * 512 < 16 << 20, "{} blocks", meta.blocks());
    }

    #[tokio::test]
    async fn an_image_larger_than_the_flavors_disk_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        File::create(&base).unwrap().set_len(3 * GIB).unwrap();
        let token = CancellationToken::new();
        let error = make(folder.path(), &disk(2), Some(base), &token)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("3 GiB") && error.contains("only 2 GiB"),
            "{error}"
        );
        assert!(!path(folder.path(), &disk(2)).exists());
    }

    #[tokio::test]
    async fn a_cancelled_copy_leaves_no_disk_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        fs::write(&base, vec![1; 1 << 20]).unwrap();
        let token = CancellationToken::new();
        token.cancel();
        let made = make(folder.path(), &disk(0), Some(base), &token).await;
        // Where the file system shares blocks there is nothing to cancel.
        if made != Ok(()) {
            assert_eq!(made, Err(DriverError::Cancelled));
            assert!(!path(folder.path(), &disk(0)).exists());
        }
    }
}
