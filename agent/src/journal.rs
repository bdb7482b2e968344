//! The agent's memory: what it has accepted, how far it has come, and what it has answered.
//!
//! An append-only file of lines, each a batch of records ([`format`]); the newest record of a key
//! holds. What it guarantees:
//! - an update that returned `Ok` is on the disk (fdatasync) and survives any death;
//! - updates are applied in the order in which their closures ran, whole or not at all;
//! - a torn last line, which nobody was told about, is cut off; damage before the last line
//!   is an error, never a silent loss;
//! - after a failed write nothing more is accepted until [`Journal::recover`] has written the
//!   whole committed state to a new file (after a failed fsync the old one cannot be trusted).
//!
//! Updates that come while another is being synced share the next fdatasync. No task is
//! needed: the first to come writes for all who wait.

mod format;

use crate::host_record::HostRecord;
use crate::record::VmmRecord;
use berth_rpc::kill_point;
use berth_rpc_types::VmmId;
use format::{Contents, HEADER, Record, encode, parse};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

const FILE: &str = "journal";
/// A file larger than this, and than four times its live contents, is written anew.
const COMPACT_ABOVE: u64 = 4 << 20;

/// Why the journal cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading or writing failed. `knob` says what helps.
    #[error("journal {path}: cannot {doing}: {reason}; free space or repair the disk")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's words.
        reason: String,
    },
    /// A line before the last one is damaged: what follows it cannot be trusted.
    #[error(
        "journal {path}: line {line} is damaged and more follow; restore the file, or move the state directory away and join as a new host"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counting from 1.
        line: usize,
    },
    /// A whole line says what this version does not know. It was promised, so it is not cut off.
    #[error(
        "journal {path}: line {line} was written by a newer version of the agent ({reason}); start that version again"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Counting from 1.
        line: usize,
        /// The parser's words.
        reason: String,
    },
    /// Written by another version.
    #[error("journal {path}: unknown format {found:?}; this version reads {HEADER:?}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its first line.
        found: String,
    },
}

type Waiter = oneshot::Sender<Result<(), JournalError>>;

struct State {
    /// What is on the disk.
    committed: Contents,
    /// What is on the disk once all pending updates are.
    staged: Contents,
    pending: Vec<(Record, Waiter)>,
    /// Whether somebody writes now.
    writing: bool,
    failed: Option<JournalError>,
}

/// The open file. Only whoever set [`State::writing`] locks it.
struct Disk {
    file: File,
    length: u64,
}

/// See the module's words.
pub struct Journal {
    path: PathBuf,
    state: Mutex<State>,
    disk: Mutex<Disk>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks but the callers' closures, before any change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Opens or makes the journal in `folder`, cutting off a torn last line.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(folder: &Path) -> Result<Arc<Self>, JournalError> {
        let path = folder.join(FILE);
        let io = |doing| io_error(&path, doing);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let (contents, length) = parse(&path, &bytes)?;
        if length < bytes.len() as u64 {
            tracing::warn!(path = %path.display(), cut = bytes.len() as u64 - length, "journal: torn last line cut off");
            file.set_len(length).map_err(io("truncate"))?;
        }
        if length == 0 {
            file.seek(SeekFrom::Start(0)).map_err(io("seek"))?;
            file.write_all(HEADER.as_bytes()).map_err(io("write"))?;
        }
        file.sync_all().map_err(io("sync"))?;
        sync_folder(folder).map_err(io("sync the folder of"))?;
        let length = file.seek(SeekFrom::End(0)).map_err(io("seek"))?;
        Ok(Arc::new(Self {
            state: Mutex::new(State {
                committed: contents.clone(),
                staged: contents,
                pending: Vec::new(),
                writing: false,
                failed: None,
            }),
            disk: Mutex::new(Disk { file, length }),
            path,
        }))
    }

    /// The host's record, as it is on the disk.
    pub fn host(&self) -> HostRecord {
        lock(&self.state).committed.host.clone()
    }

    /// A VMM's record, as it is on the disk.
    pub fn vmm(&self, vmm_id: VmmId) -> Option<Arc<VmmRecord>> {
        lock(&self.state).committed.vmms.get(&vmm_id).cloned()
    }

    /// Every VMM's record, as it is on the disk.
    pub fn vmms(&self) -> Vec<Arc<VmmRecord>> {
        lock(&self.state).committed.vmms.values().cloned().collect()
    }

    /// Why nothing can be written now, if so.
    pub fn failed(&self) -> Option<JournalError> {
        lock(&self.state).failed.clone()
    }

    /// Changes a VMM's record (a new one if there is none) and makes it durable. A change that
    /// changes nothing writes nothing. `change` runs under the journal's lock: it must not call it.
    ///
    /// # Errors
    /// If it could not be made durable; then it has not happened.
    pub async fn update<T>(
        self: &Arc<Self>,
        vmm_id: VmmId,
        change: impl FnOnce(&mut VmmRecord) -> T,
    ) -> Result<T, JournalError> {
        let (answer, waiting) = {
            let mut state = self.writable()?;
            let present = state.staged.vmms.get(&vmm_id);
            let mut record = present.map_or_else(|| VmmRecord::new(vmm_id), |r| (**r).clone());
            let answer = change(&mut record);
            if present.is_some_and(|present| **present == record) {
                // What is staged may not be durable yet: wait for it, if anything is under way.
                if state.pending.is_empty() && !state.writing {
                    return Ok(answer);
                }
            }
            (
                answer,
                self.stage(&mut state, Record::Vmm(Arc::new(record))),
            )
        };
        self.durable(waiting).await.map(|()| answer)
    }

    /// Changes the host's record and makes it durable.
    ///
    /// # Errors
    /// If it could not be made durable; then it has not happened.
    pub async fn update_host(
        self: &Arc<Self>,
        change: impl FnOnce(&mut HostRecord),
    ) -> Result<(), JournalError> {
        let waiting = {
            let mut state = self.writable()?;
            let mut host = state.staged.host.clone();
            change(&mut host);
            if host == state.committed.host && state.pending.is_empty() && !state.writing {
                return Ok(());
            }
            self.stage(&mut state, Record::Host(host))
        };
        self.durable(waiting).await
    }

    /// Forgets VMMs that are gone: the controller no longer needs their tombstones.
    ///
    /// # Errors
    /// If it could not be made durable.
    pub async fn forget(self: &Arc<Self>, vmm_id: VmmId) -> Result<(), JournalError> {
        let waiting = {
            let mut state = self.writable()?;
            if !state.staged.vmms.contains_key(&vmm_id) {
                return Ok(());
            }
            self.stage(&mut state, Record::Forget(vmm_id))
        };
        self.durable(waiting).await
    }

    /// After a failure: writes the committed state to a new file and accepts updates again.
    ///
    /// # Errors
    /// If that fails too; try again later.
    pub async fn recover(self: &Arc<Self>) -> Result<(), JournalError> {
        if self.failed().is_none() {
            return Ok(());
        }
        let this = Arc::clone(self);
        run_blocking(move || {
            this.compact()?;
            lock(&this.state).failed = None;
            Ok(())
        })
        .await
    }

    fn writable(&self) -> Result<MutexGuard<'_, State>, JournalError> {
        let state = lock(&self.state);
        match &state.failed {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// Adds a record to the next batch; `true` tells the caller that it is the writer.
    fn stage(
        &self,
        state: &mut State,
        record: Record,
    ) -> (oneshot::Receiver<Result<(), JournalError>>, bool) {
        let (waiter, waiting) = oneshot::channel();
        state.staged.apply(record.clone());
        state.pending.push((record, waiter));
        (waiting, !std::mem::replace(&mut state.writing, true))
    }

    async fn durable(
        self: &Arc<Self>,
        (waiting, writer): (oneshot::Receiver<Result<(), JournalError>>, bool),
    ) -> Result<(), JournalError> {
        if writer {
            let this = Arc::clone(self);
            // Not awaited: if the caller is dropped, those who wait for its batch must not be.
            tokio::task::spawn_blocking(move || this.write_pending());
        }
        waiting.await.unwrap_or_else(|_| {
            Err(JournalError::Io {
                path: self.path.clone(),
                doing: "write",
                reason: "the agent is ending".into(),
            })
        })
    }

    /// Writes batch after batch until nothing is pending.
    fn write_pending(&self) {
        loop {
            let batch = {
                let mut state = lock(&self.state);
                if state.pending.is_empty() || state.failed.is_some() {
                    state.writing = false;
                    return;
                }
                std::mem::take(&mut state.pending)
            };
            let (records, waiters): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let outcome = self.append(&records);
            let mut state = lock(&self.state);
            let mut told = waiters;
            match &outcome {
                Ok(()) => records.into_iter().for_each(|r| state.committed.apply(r)),
                Err(error) => {
                    tracing::error!(%error, "journal: not written; nothing more is accepted");
                    state.failed = Some(error.clone());
                    state.staged = state.committed.clone();
                    told.extend(
                        std::mem::take(&mut state.pending)
                            .into_iter()
                            .map(|(_, w)| w),
                    );
                }
            }
            drop(state);
            for waiter in told {
                // Whoever no longer waits does not need to know.
                let _ = waiter.send(outcome.clone());
            }
            if outcome.is_ok()
                && self.wants_compaction()
                && let Err(error) = self.compact()
            {
                tracing::error!(%error, "journal: not compacted");
                lock(&self.state).failed = Some(error);
            }
        }
    }

    fn append(&self, records: &[Record]) -> Result<(), JournalError> {
        let line = encode(&self.path, records)?;
        let mut disk = lock(&self.disk);
        let length = disk.length;
        let written = disk.file.write_all(&line).and_then(|()| {
            kill_point!("agent.journal.written");
            disk.file.sync_data()
        });
        match written {
            Ok(()) => {
                disk.length += line.len() as u64;
                kill_point!("agent.journal.synced");
                Ok(())
            }
            Err(source) => {
                // What half of it says must not be read later as if it had been promised.
                let _ = disk.file.set_len(length);
                let _ = disk.file.seek(SeekFrom::Start(length));
                Err(io_error(&self.path, "write")(source))
            }
        }
    }

    fn wants_compaction(&self) -> bool {
        let length = lock(&self.disk).length;
        if length < COMPACT_ABOVE {
            return false;
        }
        let records = lock(&self.state).committed.records();
        encode(&self.path, &records).is_ok_and(|live| length > 4 * live.len() as u64)
    }

    fn compact(&self) -> Result<(), JournalError> {
        let records = lock(&self.state).committed.records();
        let io = |doing| io_error(&self.path, doing);
        let mut bytes = HEADER.as_bytes().to_vec();
        for record in records {
            bytes.extend(encode(&self.path, &[record])?);
        }
        let new = self.path.with_extension("new");
        let mut disk = lock(&self.disk);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new)
            .map_err(io("make a new"))?;
        file.write_all(&bytes).map_err(io("write a new"))?;
        file.sync_all().map_err(io("sync a new"))?;
        kill_point!("agent.journal.compacted");
        std::fs::rename(&new, &self.path).map_err(io("rename a new"))?;
        kill_point!("agent.journal.renamed");
        if let Some(folder) = self.path.parent() {
            sync_folder(folder).map_err(io("sync the folder of"))?;
        }
        *disk = Disk {
            file,
            length: bytes.len() as u64,
        };
        Ok(())
    }
}

/// Makes a folder's entries durable.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

async fn run_blocking(
    work: impl FnOnce() -> Result<(), JournalError> + Send + 'static,
) -> Result<(), JournalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(JournalError::Io {
            path: FILE.into(),
            doing: "write",
            reason: error.to_string(),
        }),
    }
}

fn io_error<'a>(
    path: &'a Path,
    doing: &'static str,
) -> impl FnOnce(std::io::Error) -> JournalError + 'a {
    move |source| JournalError::Io {
        path: path.to_owned(),
        doing,
        reason: source.to_string(),
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
