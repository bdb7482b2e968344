//! Metrics, a JSON object a line, as Firecracker writes them: on `FlushMetrics` and at the end.
//!
//! Guarantees: a file or pipe that nobody reads never blocks the VMM; what cannot be written is
//! an error for who asked.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_vmm_api as api;

/// The VMM's counters and where they go.
#[derive(Default)]
pub struct Metrics {
    sink: Option<(File, Option<String>)>,
    /// Actions that were allowed.
    pub actions: u64,
    /// Requests that were refused.
    pub refused: u64,
}

impl Metrics {
    /// `PUT /metrics`.
    ///
    /// # Errors
    /// If the file cannot be opened, or metrics go somewhere already.
    pub fn configure(&mut self, config: &api::Metrics, id: &str) -> io::Result<()> {
        if self.sink.is_some() {
            return Err(io::Error::other("the metrics system is already configured"));
        }
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&config.metrics_path)?;
        self.sink = Some((file, config.emit_id.then(|| id.to_owned())));
        Ok(())
    }

    /// Writes a line; nothing if metrics go nowhere.
    ///
    /// # Errors
    /// If the line cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some((file, id)) = &mut self.sink else {
            return Ok(());
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut line = serde_json::json!({
            "utc_timestamp_ms": now.as_millis() as u64,
            "vmm": { "actions": self.actions, "refused": self.refused },
        });
        if let (Some(id), Some(line)) = (id, line.as_object_mut()) {
            line.insert("id".to_owned(), id.as_str().into());
        }
        writeln!(file, "{line}")
    }
}
