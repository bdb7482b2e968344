//! Why a piece of configuration is refused.
//!
//! Guarantees: the texts of refusals that Firecracker has too are Firecracker's, word for word at
//! the start, since its clients match them; each names what was refused.

use berth_virtio::{BlockError, NetError, TapError};
use berth_vmm_api as api;

use super::{MAX_ID, MAX_VCPUS};
use crate::boot::cmdline::CmdlineError;
use crate::inherited::InheritedError;

/// Why a piece of configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// The kernel cannot be opened.
    #[error("Boot source error: The kernel file cannot be opened: {source} ({path})")]
    Kernel {
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The initrd cannot be opened.
    #[error(
        "Boot source error: The initrd file cannot be opened due to invalid path or invalid \
         permissions. {source} ({path})"
    )]
    Initrd {
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No kernel could take the command line.
    #[error("Boot source error: The kernel command line is invalid: {0}")]
    Cmdline(#[from] CmdlineError),
    /// The memory is no multiple of its pages, or none at all.
    #[error(
        "Machine config error: The memory size (MiB) is either 0, or not a multiple of the \
         configured page size."
    )]
    MemorySize,
    /// No guest has so many vCPUs, or an odd number of threads.
    #[error(
        "Machine config error: The number of vCPUs must be greater than 0, less than {MAX_VCPUS} \
         and must be 1 or an even number if SMT is enabled."
    )]
    VcpuCount,
    /// A second root disk.
    #[error("Drive config error: A root block device already exists!")]
    SecondRoot,
    /// The file of a drive cannot be opened.
    #[error(
        "Drive config error: Unable to create the virtio block device: Error manipulating the \
         backing file: {source} {path}"
    )]
    DriveFile {
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of a drive is no disk, or its serial none.
    #[error("Drive config error: Unable to create the virtio block device: {0}")]
    Block(#[from] BlockError),
    /// A drive with no backing, or with two.
    #[error("Drive config error: drive {id} needs exactly one of `path_on_host` and `fd`")]
    DriveBacking {
        /// The drive.
        id: String,
    },
    /// The tap of an interface cannot be had.
    #[error("Network config error: Could not create the network device: {id}: {source}")]
    Tap {
        /// The interface.
        id: String,
        /// Why not.
        source: TapError,
    },
    /// The MAC or MTU of an interface cannot be.
    #[error("Network config error: Could not create the network device: {0}")]
    Net(#[from] NetError),
    /// Two interfaces with one MAC.
    #[error("Network config error: The MAC address is already in use: {0}")]
    MacInUse(api::MacAddr),
    /// A file descriptor that was not left open for the VMM.
    #[error("{0}")]
    Inherited(#[from] InheritedError),
    /// A field that has no effect yet.
    #[error("{field} is not supported: {hint}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// An id that is empty, too long, or holds control characters.
    #[error(
        "{kind} config error: the id {id:?} must have 1 to {MAX_ID} bytes, without control characters"
    )]
    Id {
        /// Of which kind of device.
        kind: &'static str,
        /// How it begins.
        id: String,
    },
    /// An id that a device of another kind has.
    #[error(
        "the {kind} id {id} is already in use by another kind of device; ids are unique in a guest"
    )]
    IdInUse {
        /// Of which kind the device that was refused is.
        kind: &'static str,
        /// The id.
        id: String,
    },
    /// More devices than any machine has slots for.
    #[error("{0} devices are the most that a guest can have")]
    TooMany(usize),
    /// A change of a device that the guest has not got.
    #[error("Unable to patch the block device: {0} Please verify the request arguments.")]
    NoSuchDevice(String),
}

/// Limits are refused until they are enforced.
pub(crate) const NO_RATE_LIMITS: ResourceError = ResourceError::Unsupported {
    field: "a rate limiter",
    hint: "limits are not enforced yet, so they are not accepted",
};
