//! What a server boots: root, kernel and ramdisk images, and the command line.

use super::records::{self, Image};
use super::refuse;
use axum::http::StatusCode;
use berth_controller_core::secret::digest;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, Env, Service, params, policy::Reach};
use berth_rpc_types::{ImageId, ImageSpec, OperationId};
use serde::{Deserialize, Serialize};

/// The images of a server, each with a token that is good while the operation runs.
#[derive(Clone, Debug)]
pub struct BootImages {
    /// The root disk's.
    pub root: ImageSpec,
    /// bzImage or ELF.
    pub kernel: ImageSpec,
    /// initrd.
    pub ramdisk: Option<ImageSpec>,
}

/// What a guest gets if its image says nothing.
const DEFAULT_CMDLINE: &str = "root=/dev/vda ro console=ttyS0";

/// What a server boots from, as it was when the server was asked for. Images are immutable once they
/// are active, and their ids are never given again; what an image says of its kernel is not: so
/// it is read once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSources {
    /// What the root disk is made from.
    pub root: Source,
    /// The kernel.
    pub kernel: Source,
    /// The initrd.
    pub ramdisk: Option<Source>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// An image's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The image.
    pub id: ImageId,
    /// Glance's `disk_format`.
    pub disk_format: String,
    /// Bytes.
    pub size: u64,
    /// In hexadecimal: whatever has that id, it is this that boots.
    pub sha512: String,
}

impl From<&ImageSpec> for Source {
    fn from(spec: &ImageSpec) -> Self {
        Self {
            id: spec.id,
            disk_format: spec.disk_format.clone(),
            size: spec.size,
            sha512: spec.sha512.clone(),
        }
    }
}

impl BootSources {
    /// Of an image as it is now; it, its kernel and its ramdisk are to be images that `reach` sees.
    ///
    /// # Errors
    /// 400 that names the image, what is wrong (gone, not active, no `kernel_id`, a disk format
    /// that no driver takes), and the property to set.
    pub async fn of(tx: &mut Tx, reach: &Reach, image_id: ImageId) -> Result<Self, ApiError> {
        let Parts {
            root,
            kernel,
            ramdisk,
        } = parts(tx, reach, image_id).await?;
        let cmdline = root.properties.get("os_command_line");
        Ok(Self {
            cmdline: cmdline.map_or_else(|| DEFAULT_CMDLINE.to_owned(), Clone::clone),
            root: source(&root)?,
            kernel: source(&kernel)?,
            ramdisk: ramdisk.as_ref().map(source).transpose()?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Source> {
        [&self.root, &self.kernel].into_iter().chain(&self.ramdisk)
    }

    /// Whether the images are still there, for a host that has none of them.
    ///
    /// # Errors
    /// 400 that names the image that is not.
    pub async fn are_there(&self, tx: &mut Tx) -> Result<(), ApiError> {
        for source in self.all() {
            let id = source.id.to_string();
            let found = records::find(tx, &id).await?;
            let same = |image: &Image| image.sha512.as_ref() == Some(&source.sha512);
            match found.filter(same) {
                None => {
                    return Err(wrong(format!(
                        "Image {id}, which the server was made from, is gone: make the server \
                         again, from another image."
                    )));
                }
                Some(image) if image.status != "active" => {
                    return Err(wrong(format!(
                        "Image {id}, which the server was made from, has status {}; it must be \
                         active.",
                        image.status
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The images as an agent fetches them, with tokens for this operation.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn specs(
        &self,
        tx: &mut Tx,
        env: &Env,
        operation_id: OperationId,
    ) -> Result<BootImages, StoreError> {
        Ok(BootImages {
            root: spec(tx, env, &self.root, operation_id).await?,
            kernel: spec(tx, env, &self.kernel, operation_id).await?,
            ramdisk: match &self.ramdisk {
                Some(source) => Some(spec(tx, env, source, operation_id).await?),
                None => None,
            },
        })
    }
}

/// The images that a server boots from.
struct Parts {
    root: Image,
    kernel: Image,
    ramdisk: Option<Image>,
}

/// Looks them up, among what `reach` sees.
async fn parts(tx: &mut Tx, reach: &Reach, image_id: ImageId) -> Result<Parts, ApiError> {
    let root = ready(
        tx,
        reach,
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
    let kernel = ready(tx, reach, &named("kernel_id"), kernel_id).await?;
    let ramdisk = match root.properties.get("ramdisk_id").filter(|r| !r.is_empty()) {
        Some(id) => Some(ready(tx, reach, &named("ramdisk_id"), id).await?),
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

/// An image that is there, whole, and within `reach`; `what` names it in messages.
async fn ready(tx: &mut Tx, reach: &Reach, what: &str, id: &str) -> Result<Image, ApiError> {
    let seen = records::seen(tx, reach, id).await?;
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

/// An active image's data.
fn source(image: &Image) -> Result<Source, ApiError> {
    let unreadable = || {
        refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Image {} is active without a checksum or a size.", image.id),
        )
    };
    let size = image.size.and_then(|size| u64::try_from(size).ok());
    Ok(Source {
        id: image.id.parse().map_err(|_| unreadable())?,
        disk_format: image.disk_format.clone().unwrap_or_default(),
        size: size.ok_or_else(unreadable)?,
        sha512: image.sha512.clone().ok_or_else(unreadable)?,
    })
}

async fn spec(
    tx: &mut Tx,
    env: &Env,
    source: &Source,
    operation_id: OperationId,
) -> Result<ImageSpec, StoreError> {
    let secret = env.secret();
    tx.execute(
        "INSERT INTO image_tokens (token_hash, image_id, operation_id, created_at) \
         VALUES ($1, $2, $3, $4)",
        params![digest(&secret), source.id, operation_id, env.now()],
    )
    .await?;
    Ok(ImageSpec {
        id: source.id,
        disk_format: source.disk_format.clone(),
        size: source.size,
        sha512: source.sha512.clone(),
        path: format!("/agent/v1/images/{}", source.id),
        token: secret,
    })
}
