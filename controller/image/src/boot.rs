//! What a server boots: root, kernel and ramdisk images, and the command line.

use super::records::{self, Image};
use super::refuse;
use axum::http::StatusCode;
use berth_controller_core::secret::digest;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, Env, Service, params, policy::Reach};
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

/// Whether a server can boot from a root image, as it is now: asked before one is accepted.
/// Kernel and ramdisk are to be images that the caller sees, as the root image is.
///
/// # Errors
/// 400 that names the image, and the property to set.
pub async fn can_boot(tx: &mut Tx, reach: &Reach, image_id: ImageId) -> Result<(), ApiError> {
    parts(tx, Some(reach), image_id).await.map(drop)
}

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
    let Parts {
        root,
        kernel,
        ramdisk,
    } = parts(tx, None, image_id).await?;
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

/// The images that a server boots from.
struct Parts {
    root: Image,
    kernel: Image,
    ramdisk: Option<Image>,
}

/// Looks them up; `seen_by` asks that this caller sees them.
async fn parts(tx: &mut Tx, seen_by: Option<&Reach>, image_id: ImageId) -> Result<Parts, ApiError> {
    let root = ready(
        tx,
        seen_by,
        &format!("Image {image_id}"),
        &image_id.to_string(),
    )
    .await?;
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
    let named = |property: &str| format!("Image {}: its {property}", root.id);
    let kernel = ready(tx, seen_by, &named("kernel_id"), kernel_id).await?;
    let ramdisk = match root.properties.get("ramdisk_id").filter(|r| !r.is_empty()) {
        Some(id) => Some(ready(tx, seen_by, &named("ramdisk_id"), id).await?),
        None => None,
    };
    Ok(Parts {
        root,
        kernel,
        ramdisk,
    })
}

fn wrong(message: String) -> ApiError {
    ApiError::new(Service::Compute, StatusCode::BAD_REQUEST, message)
}

/// An image that is there, whole, and `seen_by` whoever asks; `what` names it in messages.
async fn ready(
    tx: &mut Tx,
    seen_by: Option<&Reach>,
    what: &str,
    id: &str,
) -> Result<Image, ApiError> {
    let found = records::find(tx, id).await?;
    let seen = found.filter(|image| seen_by.is_none_or(|reach| image.visible_to(reach)));
    let Some(image) = seen else {
        let id = berth_controller_core::body::clip(id);
        return Err(wrong(format!(
            "{what}: there is no image {id}. Upload it, and set the property to its id."
        )));
    };
    if image.status != "active" {
        return Err(wrong(format!(
            "{what}: image {id} has status {}; it must be active (uploaded whole).",
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
        params![digest(&secret), &image.id, operation_id, env.now()],
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
