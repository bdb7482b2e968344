//! Finding the programs that stand beside this one, or on PATH.

use std::path::{Path, PathBuf};

/// The program `name`: beside this executable first, so that a build tree uses its own, then on PATH.
///
/// # Errors
/// Names the places looked at.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(name)));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&on_path).map(|folder| folder.join(name)))
        .find(|path| is_executable(path))
        .ok_or_else(|| {
            anyhow::anyhow!("no `{name}` beside this program or on PATH; build it or install it")
        })
}

fn is_executable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file()
}
