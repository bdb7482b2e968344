//! One file's way up: streamed, counted by a bar, hashed on the way, and compared at the end.

use crate::cloud::{Cloud, sent};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::stream::{self, Stream};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method};
use serde_json::Value;
use sha2::{Digest as _, Sha512};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are read, and sent, at a time.
const CHUNK: usize = 256 << 10;

/// A file that can be read, and its size.
pub struct Source {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Source {
    /// # Errors
    /// Names the file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let file = File::open(path).with_context(named)?;
        let about = file.metadata().with_context(named)?;
        if !about.is_file() || about.len() == 0 {
            bail!("{}: not a file with anything in it", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size: about.len(),
        })
    }
}

/// Sends the source's bytes to the image at `url`.
///
/// # Errors
/// What the cloud said; or that what it has is not what was read.
pub async fn upload(cloud: &Cloud, url: &str, name: &str, source: Source) -> anyhow::Result<()> {
    let Source { path, file, size } = source;
    let bar = bar(name, size);
    let hash = Arc::new(Mutex::new(Sha512::new()));
    let body = Body::wrap_stream(chunks(file, size, bar.clone(), Arc::clone(&hash)));
    let file_url = format!("{url}/file");
    let call = cloud
        .call(Method::PUT, &file_url)
        .header("content-type", "application/octet-stream")
        .header("content-length", size)
        .body(body);
    let result = sent(&file_url, call).await;
    bar.finish_and_clear();
    result.with_context(|| format!("uploading {}", path.display()))?;
    let read = hash.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let read = hex::encode(read.finalize());
    let image: Value = sent(url, cloud.call(Method::GET, url))
        .await?
        .json()
        .await?;
    let there = image["os_hash_value"].as_str().unwrap_or_default();
    if there != read {
        bail!(
            "{}: what arrived has SHA-512 {there}, what was sent {read}; send it again",
            path.display()
        );
    }
    eprintln!("{name}: {}, {} bytes", path.display(), size);
    Ok(())
}

/// On standard error, and only where that is a terminal.
fn bar(name: &str, size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size);
    bar.set_style(bar_style(
        "{prefix} {wide_bar} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    ));
    bar.set_prefix(name.to_owned());
    bar
}

/// A bar that looks like `template`.
pub fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Exactly `size` bytes, or an error: the file's size was announced.
fn chunks(
    file: File,
    size: u64,
    bar: ProgressBar,
    hash: Arc<Mutex<Sha512>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold((file, size), move |(mut file, left)| {
        let chunk = (left > 0).then(|| next(&mut file, left));
        if let Some(Ok(chunk)) = &chunk {
            bar.inc(chunk.len() as u64);
            hash.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .update(chunk);
        }
        // After an error, nothing more.
        let left = match &chunk {
            Some(Ok(chunk)) => left - chunk.len() as u64,
            _ => 0,
        };
        async move { chunk.map(|chunk| (chunk, (file, left))) }
    })
}

fn next(file: &mut File, left: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    let mut chunk = vec![0; wanted];
    let read = file.read(&mut chunk)?;
    if read == 0 {
        return Err(io::Error::other(format!(
            "the file became shorter while it was read: {left} bytes are missing"
        )));
    }
    chunk.truncate(read);
    Ok(chunk.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::StreamExt as _;

    #[tokio::test]
    async fn a_file_is_sent_whole_counted_and_hashed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = vec![3; CHUNK + 17];
        std::fs::write(file.path(), &bytes).unwrap();
        let source = Source::open(file.path()).unwrap();
        let (bar, hash) = (ProgressBar::hidden(), Arc::new(Mutex::new(Sha512::new())));
        let stream = chunks(source.file, source.size, bar.clone(), Arc::clone(&hash));
        let sent: Vec<u8> = stream.map(|c| c.unwrap().to_vec()).concat().await;
        assert_eq!(sent, bytes);
        assert_eq!(bar.position(), bytes.len() as u64);
        let read = hash.lock().unwrap().clone().finalize();
        assert_eq!(read, Sha512::digest(&bytes));
    }

    #[tokio::test]
    async fn a_file_that_shrinks_breaks_the_upload() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "four").unwrap();
        let source = Source::open(file.path()).unwrap();
        let hash = Arc::new(Mutex::new(Sha512::new()));
        let parts: Vec<_> = chunks(source.file, 6, ProgressBar::hidden(), hash)
            .collect()
            .await;
        assert!(
            parts
                .last()
                .unwrap()
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("2 bytes")
        );
    }

    #[test]
    fn what_is_no_file_is_named() {
        let error = Source::open(Path::new("/no/such/disk")).err().unwrap();
        assert!(format!("{error:#}").contains("/no/such/disk"));
        assert!(Source::open(Path::new("/dev")).is_err());
    }
}
