//! Bytes of an API client, as they come in pieces: to requests, and these to actions.
#![no_main]

use std::io::{self, Read, Write};

use berth_vmm::api::http::{Connection, MAX_HEAD, ReadError};
use berth_vmm::api::routes;
use berth_vmm_api::VmState;
use libfuzzer_sys::fuzz_target;

const MAX_PAYLOAD: usize = 4096;

/// A client that sends a few bytes at a time, and hears nothing.
struct Client<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl Read for Client<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.min(buffer.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.bytes = later;
        Ok(count)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else {
        return;
    };
    let client = Client {
        bytes,
        piece: usize::from(*piece).max(1) * 8,
    };
    let mut connection = Connection::new(client, MAX_PAYLOAD);
    loop {
        match connection.read() {
            Ok(request) => {
                assert!(request.path.len() <= MAX_HEAD);
                assert!(request.body.as_ref().is_none_or(|b| b.len() <= MAX_PAYLOAD));
                let answer = match routes::parse(&request) {
                    Ok(parsed) => {
                        for state in [VmState::NotStarted, VmState::Running, VmState::Paused] {
                            let _ = parsed.action.allowed_in(state);
                        }
                        continue;
                    }
                    Err(error) => routes::fault(400, error.to_string()),
                };
                assert!(answer.body.is_some(), "a refusal says why");
            }
            Err(ReadError::Gone) => return,
            Err(ReadError::Bad(status, why)) => {
                assert!((400..500).contains(&status), "{status} {why}");
                return;
            }
        }
    }
});
