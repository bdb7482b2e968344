//! Which cached images go when there is no room for another: those that were used longest ago, but
//! none that a guest is being made from.
//!
//! What a guest needs after it was made is its own: its disks are copies, its kernel and initrd are
//! links in its directory ([`keep`]), so that it starts whatever left the cache.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What may be in the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Bytes on the disk; 0: half of the file system.
    pub bytes: u64,
}

struct Cached {
    path: PathBuf,
    bytes: u64,
    /// Whether a guest has it, too: it takes no room less without the cache's name.
    is_shared: bool,
    used: SystemTime,
}

/// Removes images until `need` more bytes fit, and tells which. If no more can go, that is for
/// who writes them to find out.
///
/// # Errors
/// The file system's.
pub(super) fn make_room(
    folder: &Path,
    bound: Bound,
    need: u64,
    pinned: &HashSet<PathBuf>,
) -> io::Result<Vec<PathBuf>> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    let size = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    let most = match bound.bytes {
        0 => size(disk.blocks()) / 2,
        bytes => bytes,
    };
    let mut free = size(disk.blocks_available());
    let mut total = 0_u64;
    let mut may_go = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // A sparse file takes what is in it.
        let bytes = metadata.blocks().saturating_mul(512);
        total = total.saturating_add(bytes);
        let path = entry.path();
        if is_whole(&path) && !pinned.contains(&path) {
            may_go.push(Cached {
                path,
                bytes,
                is_shared: metadata.nlink() > 1,
                used: metadata.modified()?,
            });
        }
    }
    may_go.sort_by_key(|cached| Reverse(cached.used));
    let mut gone = Vec::new();
    while total.saturating_add(need) > most || free < need {
        let Some(cached) = may_go.pop() else { break };
        fs::remove_file(&cached.path)?;
        let _ = fs::remove_file(length_of(&cached.path));
        total = total.saturating_sub(cached.bytes);
        if !cached.is_shared {
            free = free.saturating_add(cached.bytes);
        }
        gone.push(cached.path);
    }
    Ok(gone)
}

/// Where the length stands that a cached file was made with.
pub(super) fn length_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".length");
    name.into()
}

/// Neither on its way nor something else's.
fn is_whole(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    matches!(extension, Some("raw" | "elf" | "initrd"))
}

/// Notes that an image was used now. That it is not noted costs a fetch one day.
pub(super) fn used(path: &Path) {
    let times = FileTimes::new().set_modified(SystemTime::now());
    let noted = File::open(path).and_then(|file| file.set_times(times));
    if let Err(error) = noted {
        tracing::debug!(path = %path.display(), %error, "the use of an image was not noted");
    }
}

/// Where a guest has a cached file as its own.
pub(super) fn kept(guest: &Path, cached: &Path) -> PathBuf {
    guest.join(cached.file_name().unwrap_or_default())
}

/// Keeps a cached file in a guest's directory, beyond the cache: as a link, or as a copy where that
/// is another file system. Safe to do twice.
///
/// # Errors
/// The file system's.
pub(super) fn keep(guest: &Path, cached: &Path) -> io::Result<()> {
    let own = kept(guest, cached);
    match fs::hard_link(cached, &own) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let new = own.with_extension("new");
            fs::copy(cached, &new)?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, &own)
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    /// A cached image of so many KiB, used at this second.
    fn cached(folder: &Path, name: &str, kib: usize, second: u64) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, vec![1; kib << 10]).unwrap();
        let times =
            FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(times).unwrap();
        path
    }

    const fn bound(kib: u64) -> Bound {
        Bound { bytes: kib << 10 }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_no_more_than_has_to() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let newest = cached(folder, "a.raw.raw", 64, 3);
        let oldest = cached(folder, "b.raw.raw", 64, 1);
        let middle = cached(folder, "c.kernel.elf", 64, 2);
        let none = HashSet::new();
        assert_eq!(
            make_room(folder, bound(256), 64 << 10, &none).unwrap(),
            [""; 0].map(PathBuf::from)
        );
        let gone = make_room(folder, bound(200), 64 << 10, &none).unwrap();
        assert_eq!(gone, [oldest]);
        used(&middle);
        let gone = make_room(folder, bound(128), 64 << 10, &none).unwrap();
        assert_eq!(gone, [newest]);
        assert!(middle.exists());
    }

    #[test]
    fn what_a_guest_is_made_from_stays_and_what_is_on_its_way_too() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let pinned = cached(folder, "a.raw.raw", 64, 1);
        let partial = cached(folder, "b.raw.partial", 64, 1);
        let other = cached(folder, "c.raw.raw", 64, 9);
        let pins = HashSet::from([pinned.clone()]);
        let gone = make_room(folder, bound(1), 0, &pins).unwrap();
        assert_eq!(gone, [other]);
        assert!(pinned.exists() && partial.exists());
    }

    #[test]
    fn a_guest_keeps_what_it_boots_from_when_the_cache_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, guest) = (folder.path().join("images"), folder.path().join("vmm"));
        fs::create_dir_all(&cache).unwrap();
        fs::create_dir_all(&guest).unwrap();
        let kernel = cached(&cache, "a.kernel.elf", 4, 1);
        keep(&guest, &kernel).unwrap();
        keep(&guest, &kernel).unwrap();
        let gone = make_room(&cache, bound(1), 0, &HashSet::new()).unwrap();
        assert_eq!(gone, std::slice::from_ref(&kernel));
        assert_eq!(fs::read(kept(&guest, &kernel)).unwrap(), vec![1; 4 << 10]);
    }
}
