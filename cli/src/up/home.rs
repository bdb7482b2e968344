//! The directory behind `berth up`: one cloud's state, and one process at it.
//!
//! | file | what |
//! | --- | --- |
//! | `lock` | held by flock while `berth up` lives; names its process |
//! | `admin-password` | made once; mode 0600 |
//! | `openrc` | what a shell needs for the `openstack` command; mode 0600 |
//! | `controller/` | database, images, the CA (`ca.pem`) |
//! | `agent/` | journal, guests, image cache |

use anyhow::{Context as _, bail};
use berth_rpc::clock::Rng;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A locked directory. Dropping it lets the next `berth up` in.
pub struct Home {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Home {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// If another `berth up` is at it (its process is named), or it cannot be written.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the state directory {}", path.display()))?;
        // The agent's processes have other working directories.
        let path = path
            .canonicalize()
            .with_context(|| format!("state directory {}", path.display()))?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            let owner = fs::read_to_string(&lock_path).unwrap_or_default();
            bail!(
                "`berth up` already runs on {} (process {}); stop it, or give this one another --state-dir",
                path.display(),
                owner.trim()
            );
        };
        lock.set_len(0)
            .and_then(|()| (&*lock).write_all(std::process::id().to_string().as_bytes()))
            .with_context(|| format!("cannot write {}", lock_path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// The controller's part.
    pub fn controller(&self) -> PathBuf {
        self.path.join("controller")
    }

    /// The agent's part.
    pub fn agent(&self) -> PathBuf {
        self.path.join("agent")
    }

    /// Those of simulated hosts beyond the first.
    pub fn more_agents(&self, number: u16) -> PathBuf {
        self.path.join(format!("agent-{number}"))
    }

    /// The password of the user `admin`: made at the first start, and kept.
    ///
    /// # Errors
    /// If its file cannot be read or written.
    pub fn admin_password(&self, rng: &dyn Rng) -> anyhow::Result<String> {
        let path = self.path.join("admin-password");
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
        let password = format!("{:032x}", rng.bits());
        write_private(&path, &format!("{password}\n"))?;
        Ok(password)
    }

    /// Writes `openrc`, and gives its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_openrc(&self, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join("openrc");
        write_private(&path, text)?;
        Ok(path)
    }
}

/// Where `berth up` keeps its state unless told otherwise: `$XDG_DATA_HOME/berth`, or
/// `~/.local/share/berth`.
///
/// # Errors
/// If neither variable is set.
pub fn default_path() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(data) = set("XDG_DATA_HOME") {
        return Ok(PathBuf::from(data).join("berth"));
    }
    let home = set("HOME").context("HOME is not set: say where with --state-dir")?;
    Ok(PathBuf::from(home).join(".local/share/berth"))
}

/// Replaces a file whole, readable by its owner alone from its first byte on.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_rpc::clock::SeededRng;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn one_process_at_a_time_and_the_other_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let first = Home::open(folder.path()).unwrap();
        let error = Home::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("--state-dir"), "{error}");
        drop(first);
        Home::open(folder.path()).unwrap();
    }

    #[test]
    fn the_password_is_made_once_and_for_the_owners_eyes() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let made = home.admin_password(&SeededRng::new(1)).unwrap();
        assert_eq!(made.len(), 32);
        assert_eq!(home.admin_password(&SeededRng::new(2)).unwrap(), made);
        let file = fs::metadata(folder.path().join("admin-password")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
}
