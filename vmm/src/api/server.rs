//! The socket, its connections, and the way to the state driver.
//!
//! Guarantees: one client that is slow, silent or hostile costs the others nothing; there are at
//! most [`MAX_CONNECTIONS`], and each request is answered, also the one that ends the VMM
//! ([`Server::finish`] waits for the answers under way). A socket that is in use by a running VMM is
//! refused, one left behind by a dead VMM is replaced.
//!
//! Threads: `berth_api` accepts; one thread a connection. They end with the process.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_kill_point::kill_point;

use super::http::{Answer, Connection, ReadError, Request};
use super::routes;
use crate::driver::{self, ActionError, Message};

/// Connections at a time; more are closed at once.
pub const MAX_CONNECTIONS: usize = 32;
/// A client that sends nothing for so long, or takes no answer, gives its place to another.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the end of the VMM waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What the threads share.
struct Shared {
    driver: SyncSender<Message>,
    max_payload: usize,
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    connections: usize,
    /// Requests whose answers are not written yet.
    pending: usize,
}

/// A listening API.
pub struct Server {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the API socket {path}: {source}")]
pub struct ListenError {
    path: PathBuf,
    source: io::Error,
}

impl Server {
    /// Listens at `path` and passes what is asked for to `driver`.
    ///
    /// # Errors
    /// If the socket is in use or cannot be made.
    pub fn start(
        path: &Path,
        driver: SyncSender<Message>,
        max_payload: usize,
    ) -> Result<Server, ListenError> {
        let failed = |source| ListenError {
            path: path.to_owned(),
            source,
        };
        let listener = listen(path).map_err(failed)?;
        kill_point!("vmm.socket.bound");
        let shared = Arc::new(Shared {
            driver,
            max_payload,
            counts: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("berth_api".to_owned())
            .spawn(move || accept(&listener, &theirs))
            .map_err(failed)?;
        tracing::info!(socket = %path.display(), "API server started.");
        Ok(Server {
            shared,
            path: path.to_owned(),
        })
    }

    /// Takes the socket away, and waits until the answers under way are written.
    pub fn finish(self) {
        // Gone already, if somebody cleaned up behind us.
        let _ = std::fs::remove_file(&self.path);
        let deadline = Instant::now() + LAST_ANSWERS;
        let mut counts = self.shared.lock();
        while counts.pending > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(counts, left);
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            if !is_socket || UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

/// `berth_api`.
fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Too many open files, say: it may be better soon.
                tracing::warn!(%error, "cannot accept an API connection");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let mut counts = shared.lock();
        if counts.connections >= MAX_CONNECTIONS {
            drop(counts);
            tracing::warn!("too many API connections; one is refused");
            continue;
        }
        counts.connections += 1;
        drop(counts);
        let theirs = Arc::clone(shared);
        let spawned = std::thread::Builder::new()
            .name("berth_api_conn".to_owned())
            .spawn(move || {
                serve(stream, &theirs);
                theirs.lock().connections -= 1;
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot serve an API connection");
            shared.lock().connections -= 1;
        }
    }
}

/// One connection, until its client has gone, or has been silent for too long.
fn serve(stream: UnixStream, shared: &Shared) {
    let limited = stream
        .set_read_timeout(Some(SILENCE))
        .and_then(|()| stream.set_write_timeout(Some(SILENCE)));
    if let Err(error) = limited {
        tracing::warn!(%error, "cannot bound an API connection's silence; it is closed");
        return;
    }
    let mut connection = Connection::new(stream, shared.max_payload);
    loop {
        let (answer, close) = match connection.read() {
            Ok(request) => {
                shared.lock().pending += 1;
                (handle(&request, shared), request.close)
            }
            Err(ReadError::Gone) => return,
            Err(ReadError::Bad(status, why)) => {
                shared.lock().pending += 1;
                (routes::fault(status, why), true)
            }
        };
        let written = connection.write(&Answer { close, ..answer });
        shared.lock().pending -= 1;
        shared.changed.notify_all();
        if close || written.is_err() {
            return;
        }
    }
}

fn handle(request: &Request, shared: &Shared) -> Answer {
    if let Some(id) = &request.request_id {
        crate::log::set_request_id(id);
    }
    tracing::info!(
        "The API server received a {} request on \"{}\".",
        request.method,
        request.path.escape_debug()
    );
    let started = Instant::now();
    let answer = match routes::parse(request) {
        Err(error) => routes::fault(400, error.to_string()),
        Ok(parsed) => {
            let result = ask(shared, parsed.action, request.request_id.clone());
            Answer {
                deprecated: parsed.deprecated,
                ..routes::answer(result)
            }
        }
    };
    let us = started.elapsed().as_micros() as u64;
    if answer.status >= 400 {
        let fault = answer.body.as_deref().unwrap_or("");
        tracing::error!(status = answer.status, us, fault, "Received Error.");
    } else {
        tracing::info!(
            status = answer.status,
            us,
            "The request was executed successfully."
        );
    }
    answer
}

/// Passes an action to the state driver and waits for its answer.
fn ask(
    shared: &Shared,
    action: crate::action::Action,
    request_id: Option<String>,
) -> Result<crate::action::Answer, ActionError> {
    let (reply, answer) = sync_channel(1);
    let request = driver::Request {
        action,
        request_id,
        reply,
    };
    shared
        .driver
        .send(Message::Request(Box::new(request)))
        .map_err(|_| ActionError::Gone)?;
    answer.recv().unwrap_or(Err(ActionError::Gone))
}
