//! What a server boots: root, kernel and ramdisk images, and the command line.

use super::records::{self, Image};
use super::refuse;
use crate::api::{ApiError, Service};
use crate::identity::tokens;
use crate::params;
use crate::store::Tx;
use crate::workflow::Env;
use axum::http::StatusCode;
use berth_rpc_types::{ImageId, ImageSpec, OperationId};

/// The images of a server, each with a token that is good while the operation runs.
#[derive(Clone, Debug)]
pub struct BootImages {
    /// The root disk's.
    pub root: ImageSpec,
    /// bzImage or ELF.
    pub kernel: ImageSpec,
    /// initrd.
    pub ramdisk: Option<ImageSpec>,
    /// The root image's `os_command_line`.
    pub cmdline: String,
    /// GiB that the root disk must have at least.
    pub min_disk: u64,
    /// MiB that the guest must have at least.
    pub min_ram: u64,
}

/// What a guest gets if its image says nothing.
const DEFAULT_CMDLINE: &str = "root=/dev/vda ro console=ttyS0";

/// Collects what a server boots from a root image, with fresh tokens.
///
/// # Errors
/// 400 that names the image and what is wrong: gone, not active, no `kernel_id`, a disk format
/// that no driver takes.
pub async fn boot_images(
    tx: &mut Tx,
    env: &Env,
    image_id: ImageId,
    operation_id: OperationId,
) -> Result<BootImages, ApiError> {
    let root = ready(tx, "image", &image_id.to_string()).await?;
    if !matches!(root.disk_format.as_deref(), Some("raw" | "qcow2")) {
        return Err(wrong(format!(
            "Image {} has disk_format {}; a server boots from raw or qcow2.",
            root.id,
            root.disk_format.as_deref().unwrap_or("none")
        )));
    }
    let Some(kernel_id) = root.properties.get("kernel_id").filter(|k| !k.is_empty()) else {
        return Err(wrong(format!(
            "Image {} has no kernel_id: guests boot a kernel image directly; set the property \
             kernel_id (and ramdisk_id, os_command_line) on it.",
            root.id
        )));
    };
    let kernel = ready(tx, "kernel_id", kernel_id).await?;
    let ramdisk = match root.properties.get("ramdisk_id").filter(|r| !r.is_empty()) {
        Some(id) => Some(ready(tx, "ramdisk_id", id).await?),
        None => None,
    };
    let cmdline = root.properties.get("os_command_line");
    Ok(BootImages {
        cmdline: cmdline.map_or_else(|| DEFAULT_CMDLINE.to_owned(), Clone::clone),
        min_disk: u64::try_from(root.min_disk).unwrap_or(0),
        min_ram: u64::try_from(root.min_ram).unwrap_or(0),
        kernel: spec(tx, env, &kernel, operation_id).await?,
        ramdisk: match ramdisk {
            Some(image) => Some(spec(tx, env, &image, operation_id).await?),
            None => None,
        },
        root: spec(tx, env, &root, operation_id).await?,
    })
}

fn wrong(message: String) -> ApiError {
    ApiError::new(Service::Compute, StatusCode::BAD_REQUEST, message)
}

async fn ready(tx: &mut Tx, role: &str, id: &str) -> Result<Image, ApiError> {
    let Some(image) = records::find(tx, id).await? else {
        return Err(wrong(format!(
            "{role}: there is no image {}.",
            crate::api::body::clip(id)
        )));
    };
    if image.status != "active" {
        return Err(wrong(format!(
            "{role}: image {id} has status {}; it must be active (uploaded whole).",
            image.status
        )));
    }
    Ok(image)
}

async fn spec(
    tx: &mut Tx,
    env: &Env,
    image: &Image,
    operation_id: OperationId,
) -> Result<ImageSpec, ApiError> {
    let secret = env.secret();
    tx.execute(
        "INSERT INTO image_tokens (token_hash, image_id, operation_id, created_at) \
         VALUES ($1, $2, $3, $4)",
        params![tokens::hash(&secret), &image.id, operation_id, env.now()],
    )
    .await?;
    let id: ImageId = image.id.parse().map_err(|_| {
        refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "An image's id is no UUID.",
        )
    })?;
    Ok(ImageSpec {
        id,
        disk_format: image.disk_format.clone().unwrap_or_default(),
        size: u64::try_from(image.size.unwrap_or(0)).unwrap_or(0),
        sha512: image.sha512.clone().unwrap_or_default(),
        path: format!("/agent/v1/images/{id}"),
        token: secret,
    })
}
