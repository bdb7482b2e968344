//! The kernel, roots and initial RAM disks that hosts and guests boot; `scripts/fetch-images`
//! makes them once and keeps them below `target/berth-cache`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::binaries::workspace;
use crate::process;

/// Downloads included, on a slow line.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Where the images are. All are shared and must not be written to.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
}

impl Images {
    /// The images, made now if this machine has not made them yet (about a minute).
    ///
    /// # Errors
    /// What `scripts/fetch-images` says.
    pub fn get() -> Result<Self> {
        static DIR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let dir = DIR.get_or_init(|| {
            let made = process::check_outside(
                Command::new(workspace().join("scripts/fetch-images")),
                PATIENCE,
            );
            made.map(|out| PathBuf::from(out.trim()))
                .map_err(|error| format!("{error:#}"))
        });
        dir.clone()
            .map(|dir| Self { dir })
            .map_err(|error| anyhow!(error))
    }

    /// Debian's kernel as its package has it (bzImage).
    #[must_use]
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The ELF inside Debian's kernel.
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The kernel's release, as `uname -r` has it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn kernel_version(&self) -> Result<String> {
        let path = self.dir.join("kernel-version");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().into())
    }

    /// The guest's initial RAM disk: loads virtio's drivers and mounts `root=`.
    #[must_use]
    pub fn guest_initrd(&self) -> PathBuf {
        self.dir.join("guest-initrd")
    }

    /// The guest's initial RAM disk with an init of its own, made in `dir`: the shell's `script` is
    /// what `rdinit=/berth-init` on the command line runs.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn initrd_with_init(&self, dir: &Path, script: &str) -> Result<PathBuf> {
        let init = dir.join("berth-init");
        fs::write(&init, format!("#!/bin/busybox sh\n{script}"))?;
        fs::set_permissions(&init, Permissions::from_mode(0o755))?;
        // One more archive behind the first: the kernel unpacks them in order.
        let mut cpio = Command::new("sh");
        cpio.args([
            "-c",
            "echo berth-init | cpio -o -H newc -R 0:0 --quiet > second",
        ]);
        cpio.current_dir(dir);
        process::check(cpio, PATIENCE)?;
        let mut both = fs::read(self.guest_initrd())?;
        // An archive begins at a multiple of four bytes.
        both.resize(both.len().next_multiple_of(4), 0);
        both.extend(fs::read(dir.join("second"))?);
        let initrd = dir.join("initrd");
        fs::write(&initrd, both)?;
        Ok(initrd)
    }

    /// The guest's root disk: raw, ext4 without partitions, about 200 MB; it grows at boot.
    #[must_use]
    pub fn guest_root(&self) -> PathBuf {
        self.dir.join("guest.ext4")
    }

    /// The same disk as compressed qcow2.
    #[must_use]
    pub fn guest_qcow2(&self) -> PathBuf {
        self.dir.join("guest.qcow2")
    }

    /// The command line that boots the guest quickly, with its console on ttyS0.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn guest_cmdline(&self) -> Result<String> {
        let path = self.dir.join("guest-cmdline");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().into())
    }

    /// The root that all emulated hosts share.
    pub(crate) fn host_root(&self) -> PathBuf {
        self.dir.join("host.ext4")
    }

    /// An emulated host's initial RAM disk.
    pub(crate) fn host_initrd(&self) -> PathBuf {
        self.dir.join("host-initrd")
    }
}
