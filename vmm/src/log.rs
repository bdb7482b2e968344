//! The VMM's log: lines of `tracing`, each with the VMM's id and the request that it works for.
//!
//! Guarantees: every line carries the id of the last request that reached the VMM, so that one
//! request can be followed from REST to KVM; a log that nobody reads blocks nobody (a pipe is
//! non-blocking, and lines that do not fit are lost).
//!
//! Where lines go and from which level can change while the VMM runs (`PUT /logger`).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use berth_vmm_api::{LogLevel, Logger};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

struct State {
    file: Option<File>,
    id: String,
    request_id: Option<String>,
}

static STATE: Mutex<State> = Mutex::new(State {
    file: None,
    id: String::new(),
    request_id: None,
});
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the log of the VMM called `id`, on standard error from `level` on.
pub fn start(id: &str, request_id: Option<&str>, level: LogLevel) {
    let mut state = state();
    state.id = id.to_owned();
    state.request_id = request_id.map(str::to_owned);
    drop(state);
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Lines);
    // A second start (in tests) keeps the first subscriber.
    if tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .is_ok()
    {
        let _ = LEVEL.set(handle);
    }
}

/// From now on, lines are written for this request.
pub fn set_request_id(id: &str) {
    state().request_id = Some(clean(id));
}

/// An id as it can stand in a line: bounded, printable.
fn clean(id: &str) -> String {
    id.chars()
        .filter(|c| c.is_ascii_graphic())
        .take(128)
        .collect()
}

/// `PUT /logger`. What is not given stays as it is.
///
/// # Errors
/// If the file cannot be opened.
pub fn configure(config: &Logger) -> io::Result<()> {
    if let Some(path) = &config.log_path {
        let file = open(path)?;
        state().file = Some(file);
    }
    if let (Some(level), Some(handle)) = (config.level, LEVEL.get()) {
        handle.reload(filter(level)).map_err(io::Error::other)?;
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        // With a reader of our own, a pipe can be opened before anybody reads it.
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}

/// Gives `tracing` a place for each line.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line
    }
}

/// Takes one whole line at a time, which is how the formatter writes.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = state();
        let mut line = format!("[{}] ", state.id).into_bytes();
        if let Some(request_id) = &state.request_id {
            line.extend_from_slice(format!("request_id={request_id} ").as_bytes());
        }
        line.extend_from_slice(bytes);
        // A log that cannot be written has nowhere to say so.
        let _ = match &mut state.file {
            Some(file) => file.write_all(&line),
            None => io::stderr().write_all(&line),
        };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_tells_the_vmm_and_the_request() {
        let path = std::env::temp_dir().join(format!("berth-log-{}", std::process::id()));
        start("vm7", None, LogLevel::Info);
        configure(&Logger {
            log_path: Some(path.clone()),
            ..Default::default()
        })
        .unwrap();
        set_request_id("req-42\n[vm8] forged");
        tracing::info!("started");
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.ends_with("started")).unwrap();
        assert!(
            line.starts_with("[vm7] request_id=req-42[vm8]forged "),
            "{line}"
        );
        std::fs::remove_file(path).unwrap();
    }
}
