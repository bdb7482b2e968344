//! Image files: written whole or not at all.
//!
//! Bytes come by a bounded channel to one blocking thread, which writes and hashes them. The
//! file is fsynced, renamed to the image's id, and its directory fsynced, before anybody is
//! told that it is there. A process that dies leaves at most a part file, which [`sweep`]
//! removes when it is old.

use super::qcow2;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The disk.
    #[error("writing {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// More than the operator allows.
    #[error(
        "the image is larger than {0} bytes, the limit that max_image_bytes sets, or what is left of \
         the project's project_image_bytes"
    )]
    TooLarge(u64),
    /// The connection ended before the body did.
    #[error("the upload was cut short after {received} bytes: {reason}")]
    CutShort {
        /// Bytes that came.
        received: u64,
        /// Why.
        reason: String,
    },
    /// The writing thread ended early.
    #[error("the upload's writer stopped: {0}")]
    Stopped(String),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub md5: String,
    /// Lower-case hex.
    pub sha256: String,
    /// Lower-case hex.
    pub sha512: String,
    /// The first bytes, at most [`qcow2::HEADER`].
    pub head: Vec<u8>,
}

/// Where an image's file is. Its data is in its name: of two uploads to one image, of which one was
/// given up and goes on after all, neither writes over the other's.
pub fn path(directory: &Path, id: Uuid, sha512: &str) -> PathBuf {
    directory.join(format!("{id}.{}", sha512.get(..32).unwrap_or(sha512)))
}

/// Where the release before this one has it.
pub fn older_path(directory: &Path, id: Uuid) -> PathBuf {
    directory.join(id.to_string())
}

/// Gives an active image's file the name that the release before this one reads it by, as a link.
/// What goes wrong is logged: no controller of this release needs it.
pub async fn link_for_older(directory: &Path, id: Uuid, sha512: &str) {
    let (from, to) = (path(directory, id, sha512), older_path(directory, id));
    match tokio::fs::hard_link(&from, &to).await {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            tracing::warn!(image = %id, %error, "controllers of the release before cannot read the image");
        }
        _ => {}
    }
}

/// A part file, removed when dropped unless it was put in its place.
#[derive(Debug)]
pub struct PartFile {
    path: PathBuf,
    directory: PathBuf,
    /// What is in it.
    pub written: Written,
}

impl PartFile {
    /// Gives the file its image's name, durably.
    ///
    /// # Errors
    /// [`UploadError::Io`].
    pub async fn put(self, id: Uuid) -> Result<Written, UploadError> {
        let target = path(&self.directory, id, &self.written.sha512);
        let from = self.path.clone();
        let directory = self.directory.clone();
        let shown = target.display().to_string();
        tokio::task::spawn_blocking(move || {
            std::fs::rename(&from, &target)?;
            File::open(&directory)?.sync_all()
        })
        .await
        .map_err(|e| UploadError::Stopped(e.to_string()))?
        .map_err(|source| UploadError::Io {
            path: shown,
            source,
        })?;
        Ok(self.written.clone())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // After `put` there is nothing by this name.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Writes a body to a part file in `directory`, hashing it.
///
/// # Errors
/// [`UploadError`]; nothing is left then.
pub async fn receive<S, E>(
    directory: &Path,
    unique: Uuid,
    limit: u64,
    mut body: S,
) -> Result<PartFile, UploadError>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let part = directory.join(format!("{unique}.part"));
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let writer = {
        let (directory, part) = (directory.to_owned(), part.clone());
        tokio::task::spawn_blocking(move || write(&directory, &part, receiver))
    };
    let mut received = 0_u64;
    let mut failure = None;
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => {
                received += chunk.len() as u64;
                if received > limit {
                    failure = Some(UploadError::TooLarge(limit));
                    break;
                }
                if sender.send(chunk).await.is_err() {
                    break; // the writer failed, and says why below
                }
            }
            Err(error) => {
                failure = Some(UploadError::CutShort {
                    received,
                    reason: error.to_string(),
                });
                break;
            }
        }
    }
    drop(sender);
    let written = writer
        .await
        .map_err(|e| UploadError::Stopped(e.to_string()))?;
    let shown = part.display().to_string();
    let file = PartFile {
        path: part,
        directory: directory.to_owned(),
        written: written.map_err(|source| UploadError::Io {
            path: shown,
            source,
        })?,
    };
    match failure {
        Some(failure) => Err(failure),
        None => Ok(file),
    }
}

fn write(
    directory: &Path,
    part: &Path,
    mut chunks: mpsc::Receiver<Bytes>,
) -> std::io::Result<Written> {
    std::fs::create_dir_all(directory)?;
    let mut write_all = || {
        let mut file = File::create_new(part)?;
        let (mut md5, mut sha256, mut sha512) = (Md5::new(), Sha256::new(), Sha512::new());
        let mut size = 0_u64;
        let mut head = Vec::with_capacity(qcow2::HEADER);
        while let Some(chunk) = chunks.blocking_recv() {
            file.write_all(&chunk)?;
            md5.update(&chunk);
            sha256.update(&chunk);
            sha512.update(&chunk);
            size += chunk.len() as u64;
            head.extend(chunk.iter().take(qcow2::HEADER - head.len()));
        }
        file.sync_all()?;
        Ok(Written {
            size,
            md5: hex::encode(md5.finalize()),
            sha256: hex::encode(sha256.finalize()),
            sha512: hex::encode(sha512.finalize()),
            head,
        })
    };
    let result = write_all();
    if result.is_err() {
        drop(std::fs::remove_file(part));
    }
    result
}

/// Removes an image's file; one that is not there is fine.
///
/// # Errors
/// The system's.
pub async fn remove(directory: &Path, id: Uuid, sha512: &str) -> std::io::Result<()> {
    for path in [path(directory, id, sha512), older_path(directory, id)] {
        match tokio::fs::remove_file(path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what killed processes left: part files that nobody has written to for a day, and
/// whole files older than an hour that `known` says no image has: by the image's id and, but for
/// those of the release before this one, what their name says of their data. Returns their names.
///
/// # Errors
/// The system's.
pub fn sweep(
    directory: &Path,
    now: SystemTime,
    parts_too: bool,
    known: impl Fn(Uuid, Option<&str>) -> bool,
) -> std::io::Result<Vec<String>> {
    let mut removed = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(removed),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let age = now
            .duration_since(entry.metadata()?.modified()?)
            .unwrap_or_default();
        let (id, data) = match name.split_once('.') {
            Some((id, data)) => (id, Some(data)),
            None => (name.as_str(), None),
        };
        let stale = match (data, Uuid::parse_str(id)) {
            (Some("part"), _) => parts_too && age > Duration::from_secs(24 * 3600),
            (data, Ok(id)) => age > Duration::from_secs(3600) && !known(id, data),
            _ => false, // not ours
        };
        if stale {
            std::fs::remove_file(entry.path())?;
            removed.push(name);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::stream;

    type Chunk = Result<Bytes, String>;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[tokio::test]
    async fn what_is_put_is_whole_and_its_hashes_are_right() {
        let kept = directory();
        let directory = kept.path();
        let chunks: Vec<Chunk> = vec![Ok("ab".into()), Ok("c".into())];
        let part = receive(directory, Uuid::new_v4(), 100, stream::iter(chunks))
            .await
            .unwrap();
        let id = Uuid::new_v4();
        let written = part.put(id).await.unwrap();
        let sha512 = &written.sha512;
        assert_eq!(std::fs::read(path(directory, id, sha512)).unwrap(), b"abc");
        assert_eq!(written.size, 3);
        assert_eq!(written.md5, "900150983cd24fb0d6963f7d28e17f72");
        assert!(written.sha256.starts_with("ba7816bf8f01cfea"));
        assert!(written.sha512.starts_with("ddaf35a193617aba"));
        assert_eq!(written.head, b"abc");
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn an_upload_too_large_or_cut_short_leaves_nothing() {
        let kept = directory();
        let directory = kept.path();
        let large: Vec<Chunk> = vec![Ok("abc".into()), Ok("d".into())];
        let error = receive(directory, Uuid::new_v4(), 3, stream::iter(large))
            .await
            .unwrap_err();
        assert!(matches!(error, UploadError::TooLarge(3)));
        let cut: Vec<Chunk> = vec![Ok("abc".into()), Err("reset".into())];
        let error = receive(directory, Uuid::new_v4(), 9, stream::iter(cut))
            .await
            .unwrap_err();
        assert!(matches!(error, UploadError::CutShort { received: 3, .. }));
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_takes_old_orphans_only() {
        let kept = directory();
        let directory = kept.path();
        let (known, orphan) = (Uuid::new_v4(), Uuid::new_v4());
        let given_up = format!("{known}.0b");
        for name in [
            known.to_string(),
            format!("{known}.0a"),
            given_up.clone(),
            orphan.to_string(),
            "x.part".into(),
            "notes.txt".into(),
        ] {
            std::fs::write(directory.join(name), b"x").unwrap();
        }
        let is_known = |id: Uuid, data: Option<&str>| id == known && data != Some("0b");
        let later = |hours: u64| SystemTime::now() + Duration::from_secs(hours * 3600);
        assert_eq!(sweep(directory, later(0), true, is_known).unwrap(), [""; 0]);
        let mut swept = sweep(directory, later(2), true, is_known).unwrap();
        swept.sort();
        let mut orphans = [orphan.to_string(), given_up];
        orphans.sort();
        assert_eq!(swept, orphans);
        assert_eq!(
            sweep(directory, later(25), false, is_known).unwrap(),
            [""; 0]
        );
        assert_eq!(
            sweep(directory, later(25), true, is_known).unwrap(),
            ["x.part"]
        );
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 3);
    }
}
