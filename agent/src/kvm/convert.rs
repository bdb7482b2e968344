//! From a qcow2 image to a raw disk.
//!
//! The image is a stranger's file. Guarantees: it is opened as qcow2 and nothing else; one that
//! refers to another file, which would be one of this host's, is refused, and so is one that
//! claims a size that no disk has; looking at it costs bounded memory and processor time.

use super::helper::{HelperError, run, run_heard};
use crate::driver::DriverError;
use crate::progress::Part;
use berth_rpc_types::ImageSpec;
use std::path::Path;
use tokio::process::Command;

/// What looking at an image's header may take (Nova's limits): address space in bytes, processor
/// time in seconds.
const LOOK_LIMITS: [&str; 2] = ["--as=1073741824", "--cpu=30"];

/// Converts `from` to a raw disk at `to`, and tells `part` how far it is.
///
/// # Errors
/// Names the image, and what is wrong with it.
pub(super) async fn convert(
    image: &ImageSpec,
    from: &Path,
    to: &Path,
    part: &Part,
) -> Result<(), DriverError> {
    check(image, from).await?;
    let mut percents = Percents::default();
    run_heard(
        Command::new("qemu-img")
            .args(["convert", "-p", "-f", "qcow2", "-O", "raw"])
            .arg(from)
            .arg(to),
        |bytes| {
            if let Some(percent) = percents.hear(bytes) {
                part.converted(percent);
            }
        },
    )
    .await
    .map_err(|e| match e.is_of_host() {
        true => {
            let message = format!(
                "image {}: this host cannot convert it to a raw disk",
                image.id
            );
            DriverError::host(message, e.to_string())
        }
        false => {
            let message = format!("image {}: it cannot be converted to a raw disk", image.id);
            DriverError::request(message, e.to_string())
        }
    })
}

async fn check(image: &ImageSpec, from: &Path) -> Result<(), DriverError> {
    let info = run(Command::new("prlimit")
        .args(LOOK_LIMITS)
        .args(["--", "qemu-img", "info", "--output=json", "-f", "qcow2"])
        .arg(from))
    .await;
    let info = info.map_err(|e| match e {
        // That it takes more than looking may is the file's fault.
        HelperError::Ended { .. } => {
            let message = format!("image {}: it is no sound qcow2 file", image.id);
            DriverError::request(message, e.to_string())
        }
        HelperError::NotRun(_) => {
            let message = format!("image {}: this host cannot look at it", image.id);
            DriverError::host(message, e.to_string())
        }
    })?;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap_or_default();
    // A backing or data file would be read from this host's own disk.
    let refers = ["backing-filename", "full-backing-filename"]
        .iter()
        .any(|key| info.get(key).is_some())
        || info.pointer("/format-specific/data/data-file").is_some();
    if refers {
        let message = format!(
            "image {}: it refers to another file; flatten it first",
            image.id
        );
        return Err(DriverError::request(message, info.to_string()));
    }
    let virtual_size = info["virtual-size"].as_u64().unwrap_or(u64::MAX);
    if virtual_size > ImageSpec::VIRTUAL_SIZE_LIMIT {
        let message = format!(
            "image {}: its virtual size of {virtual_size} bytes is out of bounds",
            image.id
        );
        return Err(DriverError::request(message, info.to_string()));
    }
    Ok(())
}

/// Reads `    (12.34/100%)\r`, again and again, wherever the pipe splits it.
#[derive(Default)]
struct Percents {
    line: Vec<u8>,
}

impl Percents {
    /// The longest line of its kind; what is longer is none, and is not kept.
    const LINE: usize = 32;

    /// The last percent in `bytes`, if there is one.
    fn hear(&mut self, bytes: &[u8]) -> Option<u8> {
        let mut last = None;
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    last = self.percent().or(last);
                    self.line.clear();
                }
                byte if self.line.len() < Self::LINE => self.line.push(*byte),
                _ => {}
            }
        }
        last
    }

    fn percent(&self) -> Option<u8> {
        let text = std::str::from_utf8(&self.line).ok()?.trim();
        let (whole, _) = text.strip_prefix('(')?.split_once('.')?;
        whole.parse().ok().filter(|percent| *percent <= 100)
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
