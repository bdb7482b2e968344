//! A file that keeps the end of what was written to it.
//!
//! Guarantees: whatever is written, in whatever portions, the file holds at least the last `keep`
//! bytes (once there were as many) and at most twice as many. What opens and reads the file finds
//! the old one or the new one, never one in the making.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The least that is kept, in bytes.
const KEEP_MIN: u64 = 4096;
/// The most that is kept, in bytes: twice as much can still be counted.
const KEEP_MAX: u64 = u64::MAX / 4;

/// A file that keeps the last bytes written to it: at least `keep`, at most twice as many.
pub struct RingFile {
    path: PathBuf,
    file: File,
    length: u64,
    keep: u64,
}

impl RingFile {
    /// Opens `path`, whose contents stay.
    ///
    /// # Errors
    /// If it cannot be opened or created.
    pub fn open(path: &Path, keep: u64) -> io::Result<RingFile> {
        // To read, too: with a reader of our own, a pipe can be opened before anybody reads it.
        let file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        // A named pipe or a device has no length, and needs no bound.
        let regular = file.metadata()?.is_file();
        let length = if regular { file.metadata()?.len() } else { 0 };
        let keep = if regular { keep } else { KEEP_MAX };
        Ok(RingFile {
            path: path.to_owned(),
            file,
            length,
            keep: keep.clamp(KEEP_MIN, KEEP_MAX),
        })
    }

    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// What the file system says; a part may have been written.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // As much as may ever be kept is written in one go, what is longer in several.
        let portion = usize::try_from(self.keep).unwrap_or(usize::MAX);
        for bytes in bytes.chunks(portion) {
            let count = bytes.len() as u64;
            if self.length.saturating_add(count) > self.keep * 2 {
                self.cut()?;
            }
            self.file.write_all(bytes)?;
            self.length = self.length.saturating_add(count);
        }
        Ok(())
    }

    /// Keeps the tail. It is written beside and renamed.
    fn cut(&mut self) -> io::Result<()> {
        let mut old = File::open(&self.path)?;
        // Not what was counted: a write that failed may have left a part, and others may cut too.
        let length = old.metadata()?.len();
        old.seek(SeekFrom::Start(length.saturating_sub(self.keep)))?;
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(".cut");
        let mut new = File::create(&beside)?;
        self.length = io::copy(&mut old.take(self.keep), &mut new)?;
        std::fs::rename(&beside, &self.path)?;
        self.file = File::options().append(true).open(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ring(keep: u64) -> (tempfile::TempDir, PathBuf, RingFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let ring = RingFile::open(&path, keep).unwrap();
        (folder, path, ring)
    }

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    #[test]
    fn the_last_bytes_are_kept_and_the_file_stays_small() {
        let (_folder, path, mut ring) = ring(4096);
        let mut all = Vec::new();
        for n in 0..500_u32 {
            let line = format!("line {n} of what a guest has to say\n");
            ring.write(line.as_bytes()).unwrap();
            all.extend_from_slice(line.as_bytes());
            let length = length(&path);
            assert!(
                length <= 2 * 4096 && length >= 4096.min(all.len() as u64),
                "{length}"
            );
        }
        assert!(all.ends_with(&std::fs::read(&path).unwrap()));
    }

    #[test]
    fn a_burst_larger_than_the_file_may_be_is_cut_too() {
        let (_folder, path, mut ring) = ring(4096);
        let burst: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        ring.write(&burst).unwrap();
        assert!(
            (4096..=8192).contains(&length(&path)),
            "{} bytes",
            length(&path)
        );
        assert!(burst.ends_with(&std::fs::read(&path).unwrap()));
    }

    #[test]
    fn a_size_that_nobody_can_double_is_no_overflow() {
        let (_folder, path, mut ring) = ring(u64::MAX);
        ring.write(b"login: ").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"login: ");
    }

    #[test]
    fn a_pipe_that_nobody_reads_yet_is_opened_at_once_and_never_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut ring = RingFile::open(&path, 4096).unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut read = vec![0; 20_000];
        for _ in 0..3 {
            ring.write(&[b'x'; 20_000]).unwrap();
            reader.read_exact(&mut read).unwrap();
        }
        assert!(path.exists() && !folder.path().join("pipe.cut").exists());
    }

    #[test]
    fn a_file_that_somebody_emptied_goes_on() {
        let (_folder, path, mut ring) = ring(4096);
        ring.write(&[b'a'; 8000]).unwrap();
        std::fs::write(&path, b"").unwrap();
        ring.write(&[b'b'; 500]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [b'b'; 500]);
    }
}
