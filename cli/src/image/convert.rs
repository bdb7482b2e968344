//! `berth image convert`: a raw disk from another format, with a bar; what `berth run` boots.
//!
//! The output appears under its name only when it is whole. `qemu-img` does the work; the input's
//! format is said by the caller and never guessed from bytes, and a file that refers to others
//! (a backing file, an external data file) is refused: its name may be anybody's words.

use super::upload::bar_style;
use crate::tools;
use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Arguments of `berth image convert`.
#[derive(clap::Args)]
pub struct Convert {
    /// The disk to convert.
    input: PathBuf,
    /// The raw disk to make; holes stay holes.
    output: PathBuf,
    /// What the input is.
    #[arg(long, default_value = "qcow2", value_parser = ["qcow2", "vmdk", "vdi", "vpc"])]
    from: String,
}

/// Converts.
///
/// # Errors
/// Names the file, with `qemu-img`'s own words.
pub fn convert(arguments: &Convert) -> anyhow::Result<()> {
    let Convert {
        input,
        output,
        from,
    } = arguments;
    if output.exists() {
        bail!("{} exists already", output.display());
    }
    let qemu_img = tools::find("qemu-img").context("apt-get install qemu-utils")?;
    alone(&qemu_img, input, from)?;
    let mut partial = output.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let done = run(&qemu_img, input, from, &partial).and_then(|()| {
        std::fs::rename(&partial, output)
            .with_context(|| format!("cannot make {}", output.display()))
    });
    if done.is_err() {
        // Perhaps it was never made.
        let _ = std::fs::remove_file(&partial);
    }
    done
}

/// Refuses an input that reads other files.
fn alone(qemu_img: &Path, input: &Path, from: &str) -> anyhow::Result<()> {
    let about = Command::new(qemu_img)
        .args(["info", "--output=json", "-f", from])
        .arg(input)
        .output()
        .context("qemu-img info")?;
    if !about.status.success() {
        let said = String::from_utf8_lossy(&about.stderr);
        bail!("{} is no {from} disk: {}", input.display(), said.trim());
    }
    let about: serde_json::Value =
        serde_json::from_slice(&about.stdout).context("qemu-img info")?;
    let data = &about["format-specific"]["data"];
    for (what, found) in [
        ("backing file", &about["backing-filename"]),
        ("external data file", &data["data-file"]),
    ] {
        if let Some(other) = found.as_str() {
            bail!(
                "{} has a {what} ({other}); merge it first (qemu-img rebase)",
                input.display()
            );
        }
    }
    Ok(())
}

fn run(qemu_img: &Path, input: &Path, from: &str, output: &Path) -> anyhow::Result<()> {
    let mut child = Command::new(qemu_img)
        .args(["convert", "-p", "-f", from, "-O", "raw"])
        .args([input, output])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("qemu-img convert")?;
    let bar = ProgressBar::new(100);
    bar.set_style(bar_style("{prefix} {wide_bar} {percent:>3}% {eta}"));
    bar.set_prefix(input.display().to_string());
    if let Some(stdout) = child.stdout.take() {
        follow(stdout, |percent| bar.set_position(percent));
    }
    // A few lines at most: the pipe's buffer holds them until now.
    let done = child.wait_with_output().context("qemu-img convert")?;
    bar.finish_and_clear();
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("converting {}: {}", input.display(), said.trim());
    }
    Ok(())
}

/// Reads `    (12.34/100%)\r` again and again, to the end.
fn follow(mut from: impl Read, mut tell: impl FnMut(u64)) {
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        for byte in &buffer[..read] {
            match byte {
                b'\r' | b'\n' => {
                    if let Some(percent) = percent(&line) {
                        tell(percent);
                    }
                    line.clear();
                }
                // What is no line of its kind is cut short, not kept.
                byte if line.len() < buffer.len() => line.push(*byte),
                _ => {}
            }
        }
    }
}

fn percent(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?.trim();
    let (whole, _) = text.strip_prefix('(')?.split_once('.')?;
    whole.parse().ok().filter(|percent| *percent <= 100)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percents_are_read_wherever_the_pipe_splits_them() {
        let said = b"    (0.00/100%)\r    (41.52/100%)\rnoise\n    (100.00/100%)\r\n";
        let mut told = Vec::new();
        follow(&said[..], |percent| told.push(percent));
        assert_eq!(told, [0, 41, 100]);
    }

    #[test]
    fn a_disk_is_converted_whole_or_not_at_all() {
        let Ok(qemu_img) = tools::find("qemu-img") else {
            println!("SKIPPED: a_disk_is_converted_whole_or_not_at_all: there is no qemu-img");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let bytes: Vec<u8> = (0..1 << 20).map(|i| (i / 7) as u8).collect();
        std::fs::write(path("raw"), &bytes).unwrap();
        let made = Command::new(qemu_img)
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args([path("raw"), path("qcow2")])
            .status();
        assert!(made.unwrap().success());
        let arguments = |input: &str, output: &str| Convert {
            input: path(input),
            output: path(output),
            from: "qcow2".into(),
        };
        convert(&arguments("qcow2", "out")).unwrap();
        assert_eq!(std::fs::read(path("out")).unwrap(), bytes);
        let error = convert(&arguments("qcow2", "out")).unwrap_err().to_string();
        assert!(error.contains("exists"), "{error}");
        // A raw disk is not taken for what it may look like.
        let error = convert(&arguments("raw", "other")).unwrap_err().to_string();
        assert!(error.contains("is no qcow2 disk"), "{error}");
        assert!(!path("other").exists() && !path("other.partial").exists());
    }
}
