//! Why a piece of configuration is refused.
//!
//! Guarantees: the texts of refusals that Firecracker has too are Firecracker's, word for word at
//! the start, since its clients match them; each names what was refused.

use berth_virtio::{BlockError, NetError, TapError};
use berth_vmm_api as api;

use super::MAX_VCPUS;
use crate::boot::cmdline::CmdlineError;
use crate::inherited::InheritedError;

/// Why a piece of configuration is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ResourceError {
    #[error("Boot source error: The kernel file cannot be opened: {source} ({path})")]
    Kernel {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "Boot source error: The initrd file cannot be opened due to invalid path or invalid \
         permissions. {source} ({path})"
    )]
    Initrd {
        path: String,
        source: std::io::Error,
    },
    #[error("Boot source error: The kernel command line is invalid: {0}")]
    Cmdline(#[from] CmdlineError),
    #[error(
        "Machine config error: The memory size (MiB) is either 0, or not a multiple of the \
         configured page size."
    )]
    MemorySize,
    #[error(
        "Machine config error: The number of vCPUs must be greater than 0, less than {MAX_VCPUS} \
         and must be 1 or an even number if SMT is enabled."
    )]
    VcpuCount,
    #[error("Drive config error: A root block device already exists!")]
    SecondRoot,
    #[error(
        "Drive config error: Unable to create the virtio block device: Error manipulating the \
         backing file: {source} {path}"
    )]
    DriveFile {
        path: String,
        source: std::io::Error,
    },
    #[error("Drive config error: Unable to create the virtio block device: {0}")]
    Block(#[from] BlockError),
    #[error("Drive config error: drive {id} needs exactly one of `path_on_host` and `fd`")]
    DriveBacking { id: String },
    #[error("Network config error: Could not create the network device: {id}: {source}")]
    Tap { id: String, source: TapError },
    #[error("Network config error: Could not create the network device: {0}")]
    Net(#[from] NetError),
    #[error("Network config error: The MAC address is already in use: {0}")]
    MacInUse(api::MacAddr),
    #[error("{0}")]
    Inherited(#[from] InheritedError),
    #[error("{field} is not supported: {hint}")]
    Unsupported {
        field: &'static str,
        hint: &'static str,
    },
    #[error(
        "the {kind} id {id} is already in use by another kind of device; ids are unique in a guest"
    )]
    IdInUse { kind: &'static str, id: String },
    #[error("{0} devices are the most that a guest can have")]
    TooMany(usize),
    #[error("Unable to patch the block device: {0} Please verify the request arguments.")]
    NoSuchDevice(String),
}

/// Limits are refused until they are enforced.
pub(crate) const NO_RATE_LIMITS: ResourceError = ResourceError::Unsupported {
    field: "a rate limiter",
    hint: "limits are not enforced yet, so they are not accepted",
};
