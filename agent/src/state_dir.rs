//! The state directory: who this host is, and that only one agent is at it.
//!
//! | file | what |
//! | --- | --- |
//! | `lock` | held by flock for as long as the agent lives |
//! | `host-id` | made once; the host is this id for as long as the directory lives |
//! | `secret` | made once, before the host joins with it; mode 0600 |
//! | `key.pem` | the key that this host's certificates are for, made once; mode 0600 |
//! | `join.json` | what joining gave; mode 0600 |
//! | `journal` | [`crate::journal`] |

use crate::identity::HostKey;
use crate::journal::sync_folder;
use berth_rpc::clock::Rng;
use berth_rpc_types::HostId;
use berth_rpc_types::link::JoinReply;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another agent is at it.
    #[error("state directory {0} is in use by another agent; give each agent its own state_dir")]
    InUse(PathBuf),
    /// A file cannot be read or written.
    #[error("state directory: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error(
        "state directory: {path} is damaged ({reason}); restore it, or join anew with an empty state_dir"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A locked state directory.
pub struct StateDir {
    path: PathBuf,
    host_id: HostId,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if it is missing, locks it, and reads or makes the host's id.
    ///
    /// # Errors
    /// See [`StateDirError`].
    pub fn open(path: &Path, rng: &dyn Rng) -> Result<Self, StateDirError> {
        fs::create_dir_all(path).map_err(io_at(path))?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io_at(&lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StateDirError::InUse(path.to_owned()))?;
        let id_path = path.join("host-id");
        let host_id = match fs::read_to_string(&id_path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|e: uuid::Error| StateDirError::Damaged {
                    path: id_path,
                    reason: e.to_string(),
                })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let host_id = HostId::from_u128(rng.bits());
                write_durably(&id_path, format!("{host_id}\n").as_bytes(), 0o644)
                    .map_err(io_at(&id_path))?;
                host_id
            }
            Err(source) => {
                return Err(StateDirError::Io {
                    path: id_path,
                    source,
                });
            }
        };
        Ok(Self {
            path: path.to_owned(),
            host_id,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this host is.
    pub fn host_id(&self) -> HostId {
        self.host_id
    }

    /// The secret that this host joins with: 256 bits in hexadecimal, made once.
    ///
    /// # Errors
    /// If it cannot be read or made durable.
    pub fn secret(&self, rng: &dyn Rng) -> Result<String, StateDirError> {
        let path = self.path.join("secret");
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StateDirError::Io { path, source }),
        }
        let secret = format!("{:032x}{:032x}", rng.bits(), rng.bits());
        let line = format!("{secret}\n");
        write_durably(&path, line.as_bytes(), 0o600).map_err(io_at(&path))?;
        Ok(secret)
    }

    /// The key that this host's certificates are for, made once.
    ///
    /// # Errors
    /// If it cannot be read, understood or made durable.
    pub fn key(&self) -> Result<HostKey, StateDirError> {
        let path = self.path.join("key.pem");
        let damaged = |error: rcgen::Error| StateDirError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        };
        match fs::read_to_string(&path) {
            Ok(pem) => return HostKey::from_pem(&pem).map_err(damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StateDirError::Io { path, source }),
        }
        let (key, pem) = HostKey::generate().map_err(damaged)?;
        write_durably(&path, pem.as_bytes(), 0o600).map_err(io_at(&path))?;
        Ok(key)
    }

    /// What joining gave, if the host has joined.
    ///
    /// # Errors
    /// If the file is there but cannot be understood.
    pub fn joined(&self) -> Result<Option<JoinReply>, StateDirError> {
        let path = self.path.join("join.json");
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(reply) => Ok(Some(reply)),
                Err(error) => Err(StateDirError::Damaged {
                    path,
                    reason: error.to_string(),
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateDirError::Io { path, source }),
        }
    }

    /// Keeps what joining gave.
    ///
    /// # Errors
    /// If it cannot be made durable.
    pub fn keep_joined(&self, reply: &JoinReply) -> Result<(), StateDirError> {
        let path = self.path.join("join.json");
        let bytes = serde_json::to_vec(reply).map_err(|e| io_at(&path)(io::Error::other(e)))?;
        write_durably(&path, &bytes, 0o600).map_err(io_at(&path))
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> StateDirError + '_ {
    move |source| StateDirError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Replaces a file whole: a reader, and whoever comes after a crash, sees the old or the new.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // Made anew, so that the mode holds.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_rpc::clock::SeededRng;

    #[test]
    fn a_host_stays_itself_and_is_one_agents_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path(), &SeededRng::new(1)).unwrap();
        let id = first.host_id();
        let second = StateDir::open(folder.path(), &SeededRng::new(2));
        assert!(matches!(second, Err(StateDirError::InUse(_))));
        drop(first);
        let third = StateDir::open(folder.path(), &SeededRng::new(3)).unwrap();
        assert_eq!(third.host_id(), id);
        let secret = third.secret(&SeededRng::new(3)).unwrap();
        assert_eq!(secret.len(), 64);
        assert_eq!(third.secret(&SeededRng::new(4)).unwrap(), secret);
    }

    #[test]
    fn what_joining_gave_is_kept_from_others_eyes() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(folder.path(), &SeededRng::new(1)).unwrap();
        assert!(dir.joined().unwrap().is_none());
        let reply = JoinReply {
            secret: "s".into(),
            broker_url: None,
        };
        dir.keep_joined(&reply).unwrap();
        assert_eq!(dir.joined().unwrap().unwrap().secret, "s");
        let mode = fs::metadata(folder.path().join("join.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
