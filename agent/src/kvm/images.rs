//! The image cache: fetched once, checked, made ready once, used by many guests.
//!
//! A cached file is named by the SHA-512 of what was fetched and by what it was made into, and
//! appears under that name (fsync, rename, fsync of the folder) only when it is whole and
//! right: whatever has the name may be used. A fetch that was interrupted is resumed. Guests
//! that want the same image at the same time wait for one fetch. What was not used for longest
//! goes when there is no room for another ([`super::eviction`]).

use super::blocking;
use super::convert::convert;
use super::eviction::{self, Bound, length_of};
use super::helper::run;
use crate::driver::DriverError;
use crate::journal::sync_folder;
use crate::link::{Controller, LinkError};
use crate::progress::{Part, Progress};
use crate::state_dir::write_durably;
use berth_rpc::kill_point;
use berth_rpc_types::{ImageSpec, VmmId};
use bytes::Bytes;
use futures::StreamExt as _;
use sha2::{Digest as _, Sha512};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Tries of one fetch before the step fails.
const TRIES: u32 = 5;
/// Chunks on their way from the network to the disk.
const IN_FLIGHT: usize = 16;

/// What an image is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A raw disk.
    Disk,
    /// A kernel that the VMM boots without a decompressor: an ELF.
    Kernel,
    /// An initrd, as it is.
    Ramdisk,
}

impl Use {
    fn extension(self) -> &'static str {
        match self {
            Self::Disk => "raw",
            Self::Kernel => "elf",
            Self::Ramdisk => "initrd",
        }
    }
}

/// The cache.
pub(super) struct Images {
    folder: PathBuf,
    vmm_binary: PathBuf,
    controller: Arc<dyn Controller>,
    bound: Bound,
    making: Mutex<HashMap<String, Weak<Making>>>,
    pins: Mutex<HashMap<VmmId, Vec<PathBuf>>>,
}

/// A file being made: by one, while the others who want it wait and see how far it is.
struct Making {
    one: tokio::sync::Mutex<()>,
    part: Arc<Part>,
}

impl Images {
    pub fn new(
        folder: PathBuf,
        vmm_binary: PathBuf,
        controller: Arc<dyn Controller>,
        bound: Bound,
    ) -> Self {
        Self {
            folder,
            vmm_binary,
            controller,
            bound,
            making: Mutex::default(),
            pins: Mutex::default(),
        }
    }

    /// Keeps these in the cache while a guest is made from them ([`Self::unpin`]).
    pub fn pin(&self, vmm_id: VmmId, paths: Vec<PathBuf>) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.insert(vmm_id, paths);
    }

    /// The guest has what it needs, or will never be.
    pub fn unpin(&self, vmm_id: VmmId) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.remove(&vmm_id);
    }

    /// Room for an image: what is fetched, and what that is made into.
    async fn make_room(&self, image: &ImageSpec) {
        let (folder, bound) = (self.folder.clone(), self.bound);
        let need = image.size.saturating_mul(2);
        let pinned = {
            let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            pins.values().flatten().cloned().collect()
        };
        let made = blocking(move || eviction::make_room(&folder, bound, need, &pinned)).await;
        match made {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(?gone, image_id = %image.id, "left the cache, for an image"),
            Err(error) => tracing::warn!(%error, "no room could be made in the image cache"),
        }
    }

    /// Where the image is, or will be, when it is ready.
    ///
    /// # Errors
    /// If the specification's checksum or format is not one: it would become a file name.
    pub fn path(&self, image: &ImageSpec, purpose: Use) -> Result<PathBuf, DriverError> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if image.sha512.len() != 128 || !image.sha512.bytes().all(hex) {
            let message = format!("image {}: it carries no SHA-512 to check it by", image.id);
            return Err(DriverError::request(
                message,
                format!("sha512 {:?}", image.sha512),
            ));
        }
        let format = match (purpose, image.disk_format.as_str()) {
            (Use::Disk, "raw" | "ami") => "raw",
            (Use::Disk, "qcow2") => "qcow2",
            (Use::Disk, other) => {
                let message = format!(
                    "image {}: disk format {other} is not supported; convert it to raw or qcow2",
                    image.id
                );
                return Err(DriverError::request(message, "disk_format"));
            }
            (Use::Kernel, _) => "kernel",
            (Use::Ramdisk, _) => "ramdisk",
        };
        let name = format!("{}.{format}.{}", image.sha512, purpose.extension());
        Ok(self.folder.join(name))
    }

    /// The image's path, once it is fetched, checked and made ready.
    ///
    /// # Errors
    /// Names the image, and what is wrong with it or with this host.
    pub async fn ready(
        &self,
        image: &ImageSpec,
        purpose: Use,
        cancelled: &CancellationToken,
        progress: &Progress,
    ) -> Result<PathBuf, DriverError> {
        let path = self.path(image, purpose)?;
        if is_whole(&path) {
            eviction::used(&path);
            return Ok(path);
        }
        let making = self.making(&path, image, purpose);
        progress.follow(&making.part);
        let _one = tokio::select! {
            held = making.one.lock() => held,
            () = cancelled.cancelled() => return Err(DriverError::Cancelled),
        };
        if is_whole(&path) {
            return Ok(path);
        }
        let made = async {
            self.make_room(image).await;
            let partial = path.with_extension("partial");
            let fetched = self.fetch(image, partial, &making.part).await?;
            let made = self.make(image, purpose, &fetched, &path, &making.part);
            let made = made.await;
            if made.is_err() {
                // What is half made is of no use to anybody, and may be what fills the disk.
                for left in [path.with_extension("new"), fetched] {
                    let _ = fs::remove_file(left);
                }
            }
            made
        };
        tokio::select! {
            made = made => made.map(|()| path.clone()),
            () = cancelled.cancelled() => Err(DriverError::Cancelled),
        }
    }

    fn making(&self, path: &Path, image: &ImageSpec, purpose: Use) -> Arc<Making> {
        let key = path.to_string_lossy().into_owned();
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = making.get(&key).and_then(Weak::upgrade) {
            return present;
        }
        making.retain(|_, present| present.strong_count() > 0);
        let converts = purpose == Use::Disk && image.disk_format == "qcow2";
        let new = Arc::new(Making {
            one: tokio::sync::Mutex::default(),
            part: Arc::new(Part::new(image.size, converts)),
        });
        making.insert(key, Arc::downgrade(&new));
        new
    }

    /// Fetches until all is there and right.
    async fn fetch(
        &self,
        image: &ImageSpec,
        partial: PathBuf,
        part: &Part,
    ) -> Result<PathBuf, DriverError> {
        let mut last = String::new();
        for attempt in 1..=TRIES {
            match self.fetch_once(image, &partial, part).await {
                Ok(digest) if digest == image.sha512 => {
                    tracing::info!(image_id = %image.id, bytes = image.size, "image fetched and right");
                    kill_point!("agent.image.fetched");
                    return Ok(partial);
                }
                Ok(digest) => {
                    // What was resumed may be a crash's leavings: once more, from the start.
                    last = format!("its SHA-512 is {digest}, expected {}", image.sha512);
                    let _ = fs::remove_file(&partial);
                    if attempt >= 2 {
                        let message = format!(
                            "image {}: the bytes do not have the image's checksum; upload it again",
                            image.id
                        );
                        return Err(DriverError::request(message, last));
                    }
                }
                Err(FetchError::Link(error @ LinkError::Refused { .. })) => {
                    let message = format!(
                        "image {}: the controller does not give it: {error}",
                        image.id
                    );
                    return Err(DriverError::request(message, error.to_string()));
                }
                Err(FetchError::TooLong(size)) => {
                    let _ = fs::remove_file(&partial);
                    let message = format!(
                        "image {}: more bytes come ({size}) than it should have ({})",
                        image.id, image.size
                    );
                    return Err(DriverError::request(message, "size"));
                }
                Err(FetchError::Disk(error)) => {
                    let message =
                        format!("image {}: cannot be stored on the host: {error}", image.id);
                    return Err(DriverError::host(message, partial.display().to_string()));
                }
                Err(FetchError::Link(error)) => {
                    tracing::warn!(image_id = %image.id, attempt, %error, "image not fetched; resuming");
                    last = error.to_string();
                    tokio::time::sleep(Duration::from_millis(300) * attempt).await;
                }
            }
        }
        let message = format!("image {}: not fetched in {TRIES} tries: {last}", image.id);
        Err(DriverError::host(message, last))
    }

    /// One connection's worth; the digest of the file if it came to its end.
    async fn fetch_once(
        &self,
        image: &ImageSpec,
        partial: &Path,
        part: &Part,
    ) -> Result<String, FetchError> {
        let (sender, receiver) = mpsc::channel::<Bytes>(IN_FLIGHT);
        let mut offset = fs::metadata(partial).map_or(0, |m| m.len());
        if offset > image.size {
            let _ = fs::remove_file(partial);
            offset = 0;
        }
        let mut here = offset;
        part.fetched(here);
        let (path, limit) = (partial.to_owned(), image.size);
        let writer = tokio::task::spawn_blocking(move || store(&path, receiver, limit));
        let mut link_error = None;
        if offset < image.size {
            match self.controller.image(image, offset).await {
                Ok(mut bytes) => {
                    while let Some(chunk) = bytes.next().await {
                        match chunk {
                            Ok(chunk) => {
                                here = here.saturating_add(chunk.len() as u64);
                                part.fetched(here);
                                if sender.send(chunk).await.is_err() {
                                    // The writer has failed, and says why below.
                                    break;
                                }
                            }
                            Err(error) => {
                                link_error = Some(error);
                                break;
                            }
                        }
                    }
                }
                Err(error) => link_error = Some(error),
            }
        }
        drop(sender);
        let stored = writer
            .await
            .map_err(|error| FetchError::Disk(std::io::Error::other(error)))?;
        let (digest, length) = stored?;
        if let Some(error) = link_error {
            return Err(FetchError::Link(error));
        }
        if length < image.size {
            return Err(FetchError::Link(LinkError::Unreachable {
                url: image.path.clone(),
                reason: format!("it ended after {length} of {} bytes", image.size),
            }));
        }
        Ok(digest)
    }

    async fn make(
        &self,
        image: &ImageSpec,
        purpose: Use,
        fetched: &Path,
        path: &Path,
        part: &Part,
    ) -> Result<(), DriverError> {
        let new = path.with_extension("new");
        match (purpose, image.disk_format.as_str()) {
            (Use::Disk, "qcow2") => convert(image, fetched, &new, part).await?,
            (Use::Kernel, _) => self.unpack(image, fetched, &new).await?,
            _ => {
                fs::rename(fetched, &new).map_err(|e| io_failure("cannot be renamed", image, &e))?
            }
        }
        let (from, to) = (new, path.to_owned());
        blocking(move || {
            let file = File::open(&from)?;
            file.sync_all()?;
            let length = file.metadata()?.len().to_string();
            write_durably(&length_of(&to), length.as_bytes(), 0o644)?;
            kill_point!("agent.image.made");
            fs::rename(&from, &to)?;
            to.parent().map_or(Ok(()), sync_folder)
        })
        .await
        .map_err(|e| io_failure("cannot be kept", image, &e))?;
        kill_point!("agent.image.ready");
        let _ = fs::remove_file(fetched);
        Ok(())
    }

    async fn unpack(&self, image: &ImageSpec, from: &Path, to: &Path) -> Result<(), DriverError> {
        run(Command::new(&self.vmm_binary)
            .arg("--unpack-kernel")
            .arg(from)
            .arg(to))
        .await
        .map(drop)
        .map_err(|e| {
            let said = e.to_string();
            let last = last_line(&said);
            match e.is_of_host() {
                true => {
                    let message = format!("image {}: this host cannot unpack it: {last}", image.id);
                    DriverError::host(message, said.clone())
                }
                false => {
                    let message = format!(
                        "image {}: it holds no kernel that can be booted: {last}",
                        image.id
                    );
                    DriverError::request(message, said.clone())
                }
            }
        })
    }
}

/// Whether a cached file is there, and as long as it was made: a file system may have lost its end since.
/// One that is not is removed. One of a release that noted no length is believed.
fn is_whole(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    let noted = fs::read_to_string(length_of(path)).ok();
    let noted = noted.and_then(|text| text.trim().parse::<u64>().ok());
    if noted.is_none_or(|length| length == metadata.len()) {
        return true;
    }
    tracing::error!(path = %path.display(), length = metadata.len(), noted, "a cached image was cut short; it is fetched anew");
    let _ = fs::remove_file(path);
    false
}

enum FetchError {
    Link(LinkError),
    TooLong(u64),
    Disk(std::io::Error),
}

impl From<std::io::Error> for FetchError {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Appends what comes, and gives digest and length of the whole file, which is then durable.
fn store(
    path: &Path,
    mut chunks: mpsc::Receiver<Bytes>,
    limit: u64,
) -> Result<(String, u64), FetchError> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let mut digest = Sha512::new();
    let mut length = 0u64;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
        length += count as u64;
    }
    while let Some(chunk) = chunks.blocking_recv() {
        length += chunk.len() as u64;
        if length > limit {
            return Err(FetchError::TooLong(length));
        }
        digest.update(&chunk);
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok((hex::encode(digest.finalize()), length))
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or("")
}

fn io_failure(what: &str, image: &ImageSpec, error: &std::io::Error) -> DriverError {
    let message = format!("image {}: {what} on the host: {error}", image.id);
    DriverError::host(message, error.to_string())
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
