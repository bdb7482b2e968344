//! Unpacks the ELF inside a bzImage, once per image, so that no guest spends its first 100 ms in
//! a decompressor.
//!
//! Guarantees: the output is a whole ELF or does not exist (written beside, synced, renamed). The
//! input is untrusted: what it unpacks to is bounded by [`MAX_ELF`], and damage is an error.
//!
//! Formats: LZ4 legacy frames (Debian) are unpacked here; gzip, xz and zstd by the programs of
//! those names, which every distribution that builds such kernels has. A file that is an ELF
//! already is copied.
//!
//! An ELF drops KASLR, which the decompressor does: booting the bzImage itself stays the choice
//! for those who want it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The largest kernel that is unpacked, in bytes; Debian's has 53 MB.
pub const MAX_ELF: u64 = 1 << 30;

/// Why a kernel cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No bzImage, or a damaged one.
    #[error("{path} is no bzImage that can be unpacked: {why}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Unpacks `input` to `output`.
///
/// # Errors
/// If the input is no bzImage, is damaged or too large, or the output cannot be written.
pub fn unpack(input: &Path, output: &Path) -> Result<(), UnpackError> {
    let in_error = |source| UnpackError::File {
        path: input.to_owned(),
        source,
    };
    let corrupt = |why: String| UnpackError::Corrupt {
        path: input.to_owned(),
        why,
    };
    let mut bytes = Vec::new();
    File::open(input)
        .map_err(in_error)?
        .take(MAX_ELF)
        .read_to_end(&mut bytes)
        .map_err(in_error)?;
    let elf = if bytes.starts_with(b"\x7fELF") {
        bytes
    } else {
        decompress(payload(&bytes).map_err(corrupt)?).map_err(corrupt)?
    };
    if !elf.starts_with(b"\x7fELF") {
        return Err(corrupt("what it unpacks to is no ELF".to_owned()));
    }
    write_whole(output, &elf).map_err(|source| UnpackError::File {
        path: output.to_owned(),
        source,
    })
}

/// Writes beside `path`, syncs and renames, so that no reader sees a part.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        // The error that matters is the one above.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// The compressed kernel inside a bzImage (`Documentation/arch/x86/boot.rst`: payload_offset and
/// payload_length count from the protected-mode code; the last 4 bytes are the size unpacked).
///
/// # Errors
/// What is wrong with its header, or that it is cut short.
pub fn payload(image: &[u8]) -> Result<&[u8], String> {
    let field = |offset: usize| {
        image
            .get(offset..offset + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
            .ok_or_else(|| "it is shorter than its header".to_owned())
    };
    if field(0x202)? != u32::from_le_bytes(*b"HdrS") {
        return Err("it lacks the setup header's magic".to_owned());
    }
    let setup_sectors = usize::from(image[0x1F1].max(1));
    let start = (setup_sectors + 1) * 512 + field(0x248)? as usize;
    let length = field(0x24C)? as usize;
    start
        .checked_add(length)
        .and_then(|end| image.get(start..end))
        .ok_or_else(|| {
            format!(
                "it is truncated: {} bytes, payload to {}",
                image.len(),
                start + length
            )
        })
}

/// How LZ4's legacy frame begins.
pub const LZ4_LEGACY: &[u8; 4] = &[0x02, 0x21, 0x4C, 0x18];

fn decompress(payload: &[u8]) -> Result<Vec<u8>, String> {
    if let Some(blocks) = payload.strip_prefix(LZ4_LEGACY) {
        return unlz4_legacy(blocks);
    }
    match payload {
        [0x1F, 0x8B, ..] => pipe("gzip", &["-dc"], payload),
        [0xFD, b'7', b'z', b'X', b'Z', ..] => pipe("xz", &["-dc"], payload),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => pipe("zstd", &["-dc"], payload),
        [0x7F, b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        _ => Err(format!(
            "unknown compression ({:02x?})",
            &payload[..payload.len().min(6)]
        )),
    }
}

/// LZ4's legacy frame: blocks of at most 8 MiB unpacked, each behind its packed size; at the end,
/// the kernel's own trailer (the size unpacked) stands where a block's size would.
///
/// # Errors
/// If a block is damaged, or all of it unpacks to more than [`MAX_ELF`].
pub fn unlz4_legacy(mut blocks: &[u8]) -> Result<Vec<u8>, String> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    while blocks.len() > 4 {
        let (size, rest) = blocks.split_at(4);
        let size = size.try_into().map(u32::from_le_bytes).unwrap_or(0) as usize;
        let packed = rest
            .get(..size)
            .filter(|packed| !packed.is_empty())
            .ok_or_else(|| format!("an LZ4 block of {size} bytes where {} are left", rest.len()))?;
        let start = out.len();
        if start as u64 + BLOCK as u64 > MAX_ELF {
            return Err(format!("it unpacks to more than {} MiB", MAX_ELF >> 20));
        }
        out.resize(start + BLOCK, 0);
        let unpacked = lz4_flex::block::decompress_into(packed, &mut out[start..])
            .map_err(|error| format!("LZ4: {error}"))?;
        out.truncate(start + unpacked);
        blocks = &rest[size..];
    }
    Ok(out)
}

/// Unpacks with another program. It may complain about the trailer (the kernel's 4-byte size), so
/// that what counts is what it wrote.
fn pipe(program: &str, arguments: &[&str], payload: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run {program}, which unpacks it: {error}"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let out = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A child that stops reading at the trailer is no error.
            let _ = stdin.map(|mut stdin| stdin.write_all(payload));
        });
        let mut out = Vec::new();
        match stdout {
            Some(stdout) => stdout.take(MAX_ELF).read_to_end(&mut out).map(|_| out),
            None => Ok(out),
        }
    });
    // Reaped even if its output could not be read; its exit code tells of the trailer only.
    let _ = child.kill();
    let _ = child.wait();
    out.map_err(|error| format!("{program}: {error}"))
}

/// Whether the file at `path` is a bzImage.
///
/// # Errors
/// If it cannot be read.
pub fn is_bzimage(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    file.seek(SeekFrom::Start(0x202))?;
    Ok(file.read_exact(&mut magic).is_ok() && magic == *b"HdrS")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x1F1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24C].copy_from_slice(&0_u32.to_le_bytes());
        image[0x24C..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn lz4(kernel: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(kernel);
        let mut frame = vec![0x02, 0x21, 0x4C, 0x18];
        frame.extend_from_slice(&(block.len() as u32).to_le_bytes());
        frame.extend_from_slice(&block);
        frame.extend_from_slice(&(kernel.len() as u32).to_le_bytes());
        frame
    }

    #[test]
    fn an_lz4_kernel_comes_out_whole_and_nothing_else_is_left() {
        let dir = std::env::temp_dir().join(format!("berth-unpack-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let kernel: Vec<u8> = b"\x7fELF"
            .iter()
            .copied()
            .chain((0..99_999).map(|n| n as u8))
            .collect();
        let (input, output) = (dir.join("vmlinuz"), dir.join("vmlinux"));
        std::fs::write(&input, bzimage(&lz4(&kernel))).unwrap();
        unpack(&input, &output).unwrap();
        assert_eq!(std::fs::read(&output).unwrap(), kernel);
        assert!(is_bzimage(&input).unwrap() && !is_bzimage(&output).unwrap());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn damage_anywhere_is_an_error_and_no_panic() {
        let good = bzimage(&lz4(
            b"\x7fELF and some more of it, which repeats, which repeats",
        ));
        for cut in [0, 1, 0x1F1, 0x206, 0x24D, 0x402, 0x408, good.len() - 5] {
            let cut = &good[..cut];
            assert!(
                payload(cut).and_then(decompress).is_err(),
                "{} bytes",
                cut.len()
            );
        }
        let mut flipped = good;
        flipped[0x409] ^= 0xFF;
        let _ = payload(&flipped).and_then(decompress);
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let error = unpack(Path::new("/proc/self/status"), Path::new("/nonexistent")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/proc/self/status is no bzImage"),
            "{error}"
        );
    }
}
