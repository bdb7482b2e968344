//! Images (Glance): rows, files, and what a guest boots.
//!
//! - [`records`]: the rows and who may see them.
//! - [`files`]: bytes on disk. A file is written beside its place, hashed on the way, fsynced
//!   and renamed; what has an image's name is whole.
//! - [`qcow2`]: what a qcow2 file's header says of the disk in it.
//! - [`boot`]: root, kernel and ramdisk of a server, joined by the root image's `kernel_id`,
//!   `ramdisk_id` and `os_command_line`.
//! - [`reconcile`]: uploads that nobody carries on, and files that no image has.
//! - [`api`]: REST in front of them.
//! - [`serving`]: bytes for agents, with a token bound to one operation.
//!
//! A file's name is the image's UUID, parsed before it is used: no path comes from outside.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod api;
pub mod boot;
pub mod files;
pub(crate) mod members;
pub mod qcow2;
pub mod reconcile;
pub mod records;
pub mod serving;

pub use boot::{BootImages, BootSources, Source};
pub use serving::agent_router;

use axum::http::StatusCode;
use berth_controller_core::{ApiError, Service};

fn refuse(status: StatusCode, message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Image, status, message)
}

#[cfg(test)]
mod testing {
    //! An application that answers for identity and for images.

    pub use berth_controller_identity::testing::{Answer, App, Client, app_with};

    /// See [`app_with`].
    pub async fn app() -> App {
        app_with(|| axum::Router::new().nest("/image", crate::api::router())).await
    }
}
