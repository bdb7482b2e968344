//! The end of a guest's console, and of its VMM's log.
//!
//! What is in such a file is the guest's, and the file is its VMM's, which a guest may have taken
//! over. Guarantees: however much is in it and whatever it has become (a pipe, a link to a file of
//! the host's), reading its end takes bounded time and memory, and reads nothing else. The bytes
//! are passed on as they are: who shows them in a terminal judges escape sequences.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// At most `limit` bytes from a regular file's end.
///
/// # Errors
/// What the system says, or that it is no regular file.
pub(crate) fn read_end(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let why = format!("{} is no regular file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let start = metadata.len().saturating_sub(limit);
    file.seek(io::SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last `lines` lines of `text`, or all of it. A line end at the very end ends a line, it
/// does not begin one.
pub(crate) fn last_lines(text: &str, lines: Option<u32>) -> &str {
    let Some(lines) = lines else {
        return text;
    };
    if lines == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    body.rmatch_indices('\n')
        .nth(wanted - 1)
        .map_or(text, |(at, _)| &text[at + 1..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        assert_eq!(last_lines("a\nb\nc\n", Some(2)), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", Some(1)), "c");
        assert_eq!(last_lines("a\nb\n", Some(9)), "a\nb\n");
        assert_eq!(last_lines("a\n", None), "a\n");
        assert_eq!(last_lines("a\n", Some(0)), "");
        assert_eq!(last_lines("", Some(3)), "");
    }

    #[test]
    fn a_gigabyte_of_one_endless_line_costs_its_end_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let mut file = File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        file.seek(io::SeekFrom::End(0)).unwrap();
        file.write_all(b"\x1b[2J\x1b]0;owned\x07\xff\xfe login: ")
            .unwrap();
        let bytes = read_end(&path, 1 << 20).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.ends_with("\u{1b}]0;owned\u{7}\u{fffd}\u{fffd} login: "));
        for lines in [None, Some(1), Some(u32::MAX)] {
            assert_eq!(last_lines(&text, lines), text, "there is one line");
        }
        // It travels as JSON, in which each control character is six bytes, and comes out the same.
        let sent = serde_json::to_vec(&*text).unwrap();
        assert!(sent.len() < 7 << 20, "{} bytes", sent.len());
        assert_eq!(serde_json::from_slice::<String>(&sent).unwrap(), text);
    }

    #[test]
    fn what_is_no_file_of_the_guests_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(
            read_end(&link, 100).is_err(),
            "a link to a file of the host's"
        );
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            read_end(&pipe, 100).is_err(),
            "a pipe, and nobody waits for it"
        );
        assert!(read_end(folder.path(), 100).is_err(), "a directory");
        assert!(read_end(Path::new("/dev/zero"), 100).is_err(), "a device");
    }
}
