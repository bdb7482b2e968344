//! From files to a guest that is ready to run: kernel, initrd, command line, boot protocol.
//!
//! Data flow: [`BootFiles`] (opened and named) -> [`kernel::load`] puts the kernel into guest
//! memory and says which protocol it takes -> the initrd goes to the top of low memory ->
//! [`params`] writes what that protocol wants to be told -> [`Entry`] says where to start.
//!
//! Guarantees: files are untrusted. A corrupt or truncated one is an error that names it; nothing
//! in it can make the loader loop, panic or write outside guest memory.

pub mod cmdline;
pub mod kernel;
pub mod layout;
pub mod params;
pub mod unpack;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress};

pub use crate::kvm::registers::Entry;
use crate::machine::AddressMap;
use crate::memory::GuestMemory;

/// A file that was opened under a name, which errors will tell.
#[derive(Debug)]
pub struct NamedFile {
    /// Its path.
    pub path: PathBuf,
    /// The file.
    pub file: File,
}

impl NamedFile {
    /// Opens `path` to read. A named pipe that nobody writes to does not hold it up.
    ///
    /// # Errors
    /// What the system says, or that it is no regular file.
    pub fn open(path: &Path) -> std::io::Result<NamedFile> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if !file.metadata()?.is_file() {
            let why = "it is no regular file";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
        }
        Ok(NamedFile {
            path: path.to_owned(),
            file,
        })
    }
}

/// What a guest boots from.
#[derive(Debug)]
pub struct BootFiles<'a> {
    /// The kernel.
    pub kernel: &'a NamedFile,
    /// The initial ramdisk.
    pub initrd: Option<&'a NamedFile>,
    /// The whole command line.
    pub cmdline: &'a str,
    /// Where the RSDP is.
    pub rsdp: u64,
}

/// Why a guest cannot be booted from its files.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// See [`kernel::KernelError`].
    #[error("kernel {path}: {source}")]
    Kernel {
        /// The kernel's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: kernel::KernelError,
    },
    /// The initrd cannot be read.
    #[error("initrd {path}: {why}")]
    Initrd {
        /// The initrd's file.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// A boot structure does not fit into guest memory; its least size excludes it.
    #[error("cannot write {what} to guest memory: {source}")]
    Write {
        /// The structure.
        what: &'static str,
        /// The address.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}

/// Where an initrd lies in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Initrd {
    /// Its first byte, at a page boundary.
    pub address: u64,
    /// Bytes; 0 if there is none.
    pub size: u64,
}

/// Loads everything and writes what the kernel is to be told.
///
/// # Errors
/// If a file is unreadable, no kernel, or too large for the guest.
pub fn load(
    memory: &GuestMemory,
    map: &AddressMap,
    files: &BootFiles<'_>,
) -> Result<Entry, BootError> {
    let kernel_error = |source| BootError::Kernel {
        path: files.kernel.path.clone(),
        source,
    };
    let kernel = kernel::load(memory, map, &files.kernel.file).map_err(kernel_error)?;
    let initrd = match files.initrd {
        Some(file) => load_initrd(memory, map, file, &kernel)?,
        None => Initrd::default(),
    };
    write_cmdline(memory, files.cmdline, &kernel).map_err(kernel_error)?;
    let write = |what| move |source| BootError::Write { what, source };
    match kernel.entry {
        Entry::Linux64 { .. } => {
            params::write_zero_page(memory, map, kernel.setup_header, initrd, files)
                .map_err(write("the zero page"))?;
        }
        Entry::Pvh { .. } => params::write_start_info(memory, map, initrd, files)
            .map_err(write("the PVH start info"))?,
    }
    crate::kvm::registers::write_tables(memory, kernel.entry).map_err(write("the page tables"))?;
    Ok(kernel.entry)
}

fn write_cmdline(
    memory: &GuestMemory,
    cmdline: &str,
    kernel: &kernel::Kernel,
) -> Result<(), kernel::KernelError> {
    let limit = kernel.cmdline_limit();
    if cmdline.len() >= limit {
        return Err(kernel::KernelError::CmdlineTooLong {
            len: cmdline.len(),
            limit: limit - 1,
        });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, GuestAddress(layout::CMDLINE))
        .map_err(|error| kernel::KernelError::TooLarge(error.to_string()))
}

/// Puts the initrd at the top of the memory that the kernel can take it from.
fn load_initrd(
    memory: &GuestMemory,
    map: &AddressMap,
    named: &NamedFile,
    kernel: &kernel::Kernel,
) -> Result<Initrd, BootError> {
    const PAGE: u64 = 0x1000;
    let failed = |why: String| BootError::Initrd {
        path: named.path.clone(),
        why,
    };
    let size = named
        .file
        .metadata()
        .map_err(|error| failed(error.to_string()))?
        .len();
    if size == 0 {
        return Err(failed("it is empty".to_owned()));
    }
    let top = map.low_ram_end().min(kernel.initrd_limit());
    let address = top
        .checked_sub(size)
        .map(|address| address & !(PAGE - 1))
        .filter(|address| *address >= kernel.end)
        .ok_or_else(|| {
            failed(format!(
                "its {} KiB do not fit between the kernel's end at {} KiB and {} KiB; give the \
                 guest more memory",
                size >> 10,
                kernel.end >> 10,
                top >> 10
            ))
        })?;
    let length = usize::try_from(size).map_err(|error| failed(error.to_string()))?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut &named.file, length)
        .map_err(|error| failed(format!("cannot be read whole: {error}")))?;
    Ok(Initrd { address, size })
}
