//! The test's end of an emulated host's command channel.
//!
//! One thread reads the socket and hands each frame to the command that it belongs to; it ends,
//! and with it every command in flight, when the host's QEMU does.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::channel::{Frame, Kind, MAX_PAYLOAD, Run, receive, send};
use crate::process::wait_until;

/// What a command in a host said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; 128 plus the signal's number if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Its standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    #[must_use]
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Where the frames of the commands in flight go, by command number; none once the host is gone.
type Waiting = Arc<Mutex<Option<HashMap<u32, mpsc::Sender<Frame>>>>>;

/// The connection to one running host.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Mutex<UnixStream>,
    waiting: Waiting,
    hello: mpsc::Receiver<Frame>,
    next: AtomicU32,
}

impl Client {
    /// Connects to QEMU's end of the port; the host need not have booted yet.
    pub(crate) fn connect(socket: &Path, patience: Duration) -> Result<Self> {
        let stream = wait_until(patience, || Ok(UnixStream::connect(socket).ok()))?;
        let stream = stream.with_context(|| format!("QEMU does not open {}", socket.display()))?;
        let mut reader = stream.try_clone()?;
        let (hello_to, hello) = mpsc::channel();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::from([(0, hello_to)]))));
        let table = Arc::clone(&waiting);
        thread::Builder::new()
            .name("host-channel".into())
            .spawn(move || {
                while let Ok(frame) = receive(&mut reader) {
                    // Frames of a command that was given up are dropped.
                    if let Some(to) = lock(&table).as_ref().and_then(|table| table.get(&frame.id)) {
                        let _ = to.send(frame);
                    }
                }
                // Dropping the senders tells every waiter.
                *lock(&table) = None;
            })?;
        Ok(Self {
            stream: Mutex::new(stream),
            waiting,
            hello,
            next: AtomicU32::new(1),
        })
    }

    /// Waits a little for the host's first word; whether it came.
    pub(crate) fn is_up(&self, patience: Duration) -> bool {
        self.hello.recv_timeout(patience).is_ok()
    }

    /// Runs a command with `input` on its standard input, for at most `patience`.
    pub(crate) fn run(&self, argv: &[&str], input: &[u8], patience: Duration) -> Result<Output> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (to, frames) = mpsc::channel();
        lock(&self.waiting)
            .as_mut()
            .context("the host is gone")?
            .insert(id, to);
        let result = self.converse(id, argv, input, &frames, patience);
        if let Some(table) = lock(&self.waiting).as_mut() {
            table.remove(&id);
        }
        result.with_context(|| format!("in the host: {}", argv.join(" ")))
    }

    fn converse(
        &self,
        id: u32,
        argv: &[&str],
        input: &[u8],
        frames: &mpsc::Receiver<Frame>,
        patience: Duration,
    ) -> Result<Output> {
        let end = Instant::now() + patience;
        let run = Run {
            argv: argv.iter().map(ToString::to_string).collect(),
        };
        self.send(id, Kind::Run, &serde_json::to_vec(&run)?)?;
        for piece in input.chunks(MAX_PAYLOAD) {
            self.send(id, Kind::Input, piece)?;
        }
        self.send(id, Kind::Input, &[])?;
        let mut output = Output {
            code: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        loop {
            let frame = match frames.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(frame) => frame,
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the host died"),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.send(id, Kind::Kill, &[])?;
                    bail!(
                        "not done after {patience:?} (killed); it said: {}{}",
                        output.text(),
                        output.error_text()
                    );
                }
            };
            match frame.kind {
                Kind::Output => output.stdout.extend(frame.payload),
                Kind::Error => output.stderr.extend(frame.payload),
                Kind::Failed => bail!("{}", String::from_utf8_lossy(&frame.payload)),
                Kind::Exit => {
                    let code = frame
                        .payload
                        .try_into()
                        .ok()
                        .context("an exit code has four bytes")?;
                    output.code = i32::from_le_bytes(code);
                    return Ok(output);
                }
                other => bail!("the host sent a frame of the kind {other:?}"),
            }
        }
    }

    fn send(&self, id: u32, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut *stream, id, kind, payload).context("the host is gone")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, Option<HashMap<u32, mpsc::Sender<Frame>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
