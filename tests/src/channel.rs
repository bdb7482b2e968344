//! The command channel between a test and an emulated host: frames over a virtio-serial port.
//!
//! A frame is a little-endian length (of what follows it), the number of the command it belongs
//! to, a kind and a payload of at most 64 KiB. Several commands run at once; each ends with
//! exactly one [`Kind::Exit`] or [`Kind::Failed`]. Both sides of it are in this crate.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The most bytes in a frame's payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Host to test, number 0: the host is up. Sent once, when its server starts.
    Hello = 0,
    /// Test to host: start a command; the payload is a [`Run`] in JSON.
    Run = 1,
    /// Test to host: bytes for the command's standard input. An empty payload ends it.
    Input = 2,
    /// Test to host: kill the command and its process group.
    Kill = 3,
    /// Host to test: bytes of its standard output.
    Output = 4,
    /// Host to test: bytes of its standard error.
    Error = 5,
    /// Host to test: it ended; the payload is its exit code, or 128 plus its signal's number.
    Exit = 6,
    /// Host to test: it could not be started; the payload says why.
    Failed = 7,
}

impl Kind {
    fn parse(byte: u8) -> io::Result<Self> {
        Ok(match byte {
            0 => Self::Hello,
            1 => Self::Run,
            2 => Self::Input,
            3 => Self::Kill,
            4 => Self::Output,
            5 => Self::Error,
            6 => Self::Exit,
            7 => Self::Failed,
            _ => {
                return Err(io::Error::other(format!(
                    "a frame of the unknown kind {byte}"
                )));
            }
        })
    }
}

/// A command to run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// The program and its arguments.
    pub argv: Vec<String>,
}

/// One frame.
#[derive(Debug)]
pub struct Frame {
    /// The command that it belongs to.
    pub id: u32,
    /// What it says.
    pub kind: Kind,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// Writes one frame with a single call, so that writers under a lock never mix frames.
///
/// # Errors
/// If the payload is longer than [`MAX_PAYLOAD`], or the other side is gone.
pub fn send(to: &mut impl Write, id: u32, kind: Kind, payload: &[u8]) -> io::Result<()> {
    if payload.len() > MAX_PAYLOAD {
        return Err(io::Error::other(format!(
            "a payload of {} bytes",
            payload.len()
        )));
    }
    let length = u32::try_from(payload.len() + 5).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(payload.len() + 9);
    frame.extend(length.to_le_bytes());
    frame.extend(id.to_le_bytes());
    frame.push(kind as u8);
    frame.extend(payload);
    to.write_all(&frame)?;
    to.flush()
}

/// Reads one frame.
///
/// # Errors
/// If the other side is gone, or sends what is no frame.
pub fn receive(from: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if !(5..=MAX_PAYLOAD + 5).contains(&length) {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut payload = vec![0; length - 5];
    from.read_exact(&mut payload)?;
    let id = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    Ok(Frame {
        id,
        kind: Kind::parse(head[8])?,
        payload,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_frame_arrives_as_it_was_sent() {
        let mut wire = Vec::new();
        send(&mut wire, 7, Kind::Output, b"abc").unwrap();
        let frame = receive(&mut &wire[..]).unwrap();
        assert_eq!(
            (frame.id, frame.kind, &frame.payload[..]),
            (7, Kind::Output, &b"abc"[..])
        );
    }

    #[test]
    fn a_frame_too_long_or_unknown_is_an_error() {
        assert!(send(&mut Vec::new(), 1, Kind::Output, &vec![0; MAX_PAYLOAD + 1]).is_err());
        assert!(receive(&mut &[255, 255, 255, 255, 0, 0, 0, 0, 1][..]).is_err());
        assert!(receive(&mut &[5, 0, 0, 0, 0, 0, 0, 0, 99][..]).is_err());
        assert!(receive(&mut &[6, 0, 0, 0, 0, 0, 0, 0, 1][..]).is_err());
    }
}
