//! The programs under test, built as the tests were: same target directory, same profile.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// Room for a first build of a whole program on two busy cores.
const BUILD_PATIENCE: Duration = Duration::from_secs(1800);

/// Builds the binary `name` of the workspace's package `package` if it is not fresh, and gives
/// its path. `BERTH_PREBUILT=1` takes what is there without asking cargo.
///
/// # Errors
/// If it does not build; the message has the compiler's.
pub fn build(package: &str, name: &str) -> Result<PathBuf> {
    let folder = profile_dir()?;
    let path = folder.join(name);
    if std::env::var_os("BERTH_PREBUILT").is_some() && path.exists() {
        return Ok(path);
    }
    let mut arguments = vec!["-p", package];
    if folder.ends_with("release") {
        arguments.push("--release");
    }
    compile(name, &arguments)?;
    Ok(path)
}

/// Builds the binary `name` optimised, whatever the tests are: what benchmarks measure.
///
/// # Errors
/// If it does not build; the message has the compiler's.
pub fn build_optimised(name: &str) -> Result<PathBuf> {
    compile(name, &["--workspace", "--release"])?;
    Ok(target_dir()?.join("release").join(name))
}

fn compile(name: &str, arguments: &[&str]) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bin", name]);
    cargo.args(arguments);
    cargo
        .arg("--manifest-path")
        .arg(workspace().join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target_dir()?);
    process::check(cargo, BUILD_PATIENCE).with_context(|| format!("{name} does not build"))?;
    Ok(())
}

/// Where the tests were built.
fn target_dir() -> Result<PathBuf> {
    let folder = profile_dir()?;
    let target = folder.parent().context("a target directory has a parent")?;
    Ok(target.to_owned())
}

/// The path of a binary of this crate, which cargo builds along with its tests.
///
/// # Errors
/// If it has to be built after all, and does not build.
pub(crate) fn own(name: &str) -> Result<PathBuf> {
    let path = profile_dir()?.join(name);
    if path.exists() {
        Ok(path)
    } else {
        build(env!("CARGO_PKG_NAME"), name)
    }
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// `target/debug` or `target/release`, wherever the running test is from.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.parent().context("a program is in a folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_path_buf())
}
