//! Images below the API: rows, files, and what a guest boots.
//!
//! - [`records`]: the rows and who may see them.
//! - [`files`]: bytes on disk. A file is written beside its place, hashed on the way, fsynced
//!   and renamed; what has an image's name is whole.
//! - [`qcow2`]: what a qcow2 file's header says of the disk in it.
//! - [`boot`]: root, kernel and ramdisk of a server, joined by the root image's `kernel_id`,
//!   `ramdisk_id` and `os_command_line`.
//! - [`serving`]: bytes for agents, with a token bound to one operation.
//!
//! A file's name is the image's UUID, parsed before it is used: no path comes from outside.

pub mod boot;
pub mod files;
pub mod qcow2;
pub mod records;
pub mod serving;

pub use boot::{BootImages, boot_images, can_boot};
pub use serving::serve_to_agent;

use crate::api::{ApiError, Service};
use axum::http::StatusCode;

pub(crate) fn refuse(status: StatusCode, message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Image, status, message)
}
