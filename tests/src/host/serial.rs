//! A byte on an emulated host's serial console, again and again.
//!
//! It is what keeps a host going whose timers are one-shot (`qemu.rs`, `PERIODIC_TICK`): any
//! interrupt revives a processor that lost its timer's.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How long a host that lost its timer interrupt may stand still.
const EVERY: Duration = Duration::from_millis(100);
/// XON, which a terminal takes without giving it to anybody.
const BYTE: [u8; 1] = [0x11];

/// Writes to the serial console behind the socket at `path` from a thread of its own, which ends
/// when the host does. What the console says is read and dropped: QEMU keeps its log.
pub(super) fn keep_awake(path: &Path) -> Result<()> {
    let mut console = UnixStream::connect(path)
        .with_context(|| format!("cannot reach the serial console at {}", path.display()))?;
    console.set_read_timeout(Some(EVERY))?;
    thread::Builder::new()
        .name("host serial".into())
        .spawn(move || {
            let mut said = [0; 4096];
            let mut last = Instant::now();
            loop {
                match console.read(&mut said) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
                if last.elapsed() >= EVERY {
                    last = Instant::now();
                    if console.write_all(&BYTE).is_err() {
                        return;
                    }
                }
            }
        })?;
    Ok(())
}
