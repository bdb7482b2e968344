//! Image bytes: up, down, and whether they may be had.

use super::{Reply, bad, forbidden, no_content, parse_id, refuse};
use crate::files::{self, UploadError, Written};
use crate::{qcow2, records, serving};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use berth_controller_core::body::media_type;
use berth_controller_core::{ApiError, AppState, RequestContext};
use futures::StreamExt as _;
use uuid::Uuid;

/// Properties by which a client says what it is about to send, and which hash that is. The
/// `openstack` client sets the first two; the third is for scripts.
const PROMISES: [&str; 3] = [
    "owner_specified.openstack.md5",
    "owner_specified.openstack.sha256",
    "sha512",
];

/// What was said of the data before it came.
struct Announced {
    disk_format: String,
    /// Of [`PROMISES`], with the hash in lower case.
    hashes: Vec<(&'static str, String)>,
    /// Bytes that its project may still store.
    room: u64,
}

/// `PUT /v2/images/{id}/file`
pub async fn upload(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Body,
) -> Reply {
    let id = parse_id(&id)?;
    if media_type(&headers) != "application/octet-stream" {
        return Err(refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Image data is sent with Content-Type application/octet-stream.",
        ));
    }
    let upload = uuid::Builder::from_random_bytes(app.rng.bits().to_be_bytes()).into_uuid();
    let announced = begin(&app, &context, id, upload).await?;
    let limit = app.settings.max_image_bytes.min(announced.room);
    // In a task of its own: a caller who hangs up must not leave the image "saving" for ever.
    let task = tokio::spawn(async move {
        // An image that was deleted takes no more data; `finish` tells the caller so.
        let taken_away = Box::pin(until_taken_away(&app, id, upload));
        let data = bytes.into_data_stream().take_until(taken_away);
        let received = files::receive(&app.image_dir, upload, limit, data).await;
        let result = match received {
            Ok(part) => finish(&app, id, upload, part, &announced).await,
            Err(error) => Err(upload_error(&error)),
        };
        if result.is_err() {
            back_to_queued(&app, id, upload).await;
        }
        result
    });
    task.await.map_err(|error| {
        tracing::error!(image = %id, %error, "an upload's task ended early");
        refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The upload failed; see the log.",
        )
    })??;
    Ok(no_content())
}

/// Marks the image as being saved: of two uploads at once, one is refused.
async fn begin(
    app: &AppState,
    context: &RequestContext,
    id: Uuid,
    upload: Uuid,
) -> Result<Announced, ApiError> {
    let now = app.clock.now_millis();
    let quota = app.settings.project_image_bytes;
    app.store
        .tx(|tx| {
            let context = context.clone();
            Box::pin(async move {
                let text = id.to_string();
                let image = records::load(tx, &context.reach, &text).await?;
                image.must_be_owned_by(&context.reach)?;
                let room = quota.saturating_sub(records::stored(tx, &image.owner).await?);
                if room == 0 {
                    return Err(over_quota(quota));
                }
                let (Some(_), Some(disk_format)) = (&image.container_format, &image.disk_format)
                else {
                    return Err(bad(
                        "Properties disk_format, container_format must be set prior to saving \
                         data.",
                    ));
                };
                if !records::begin_upload(tx, &text, &upload.to_string(), now).await? {
                    return Err(refuse(
                        StatusCode::CONFLICT,
                        format!(
                            "Image status transition from {} to saving is not allowed: an image \
                             is uploaded once.",
                            image.status
                        ),
                    ));
                }
                let hashes = PROMISES
                    .iter()
                    .filter_map(|name| {
                        let value = image.properties.get(*name)?;
                        (!value.is_empty()).then(|| (*name, value.to_ascii_lowercase()))
                    })
                    .collect();
                Ok(Announced {
                    disk_format: disk_format.clone(),
                    hashes,
                    room,
                })
            })
        })
        .await
}

/// Says from time to time that the upload goes on; ends when the image is no longer its own.
async fn until_taken_away(app: &AppState, id: Uuid, upload: Uuid) {
    loop {
        app.clock.sleep(records::SIGN_INTERVAL).await;
        match is_ours(app, id, upload).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(image = %id, %error, "an upload's sign of life was not stored");
            }
        }
    }
}

async fn is_ours(app: &AppState, id: Uuid, upload: Uuid) -> Result<bool, ApiError> {
    let now = app.clock.now_millis();
    app.store
        .tx(|tx| {
            Box::pin(async move {
                let (id, upload) = (id.to_string(), upload.to_string());
                Ok(records::upload_goes_on(tx, &id, &upload, now).await?)
            })
        })
        .await
}

fn taken_away(id: Uuid) -> ApiError {
    refuse(
        StatusCode::GONE,
        format!("Image {id} was deleted, or given up, while its data was being uploaded."),
    )
}

async fn finish(
    app: &AppState,
    id: Uuid,
    upload: Uuid,
    part: files::PartFile,
    announced: &Announced,
) -> Result<(), ApiError> {
    if !is_ours(app, id, upload).await? {
        return Err(taken_away(id));
    }
    for (name, expected) in &announced.hashes {
        let found = hash_of(&part.written, name);
        if found != expected {
            return Err(bad(format!(
                "Checksum mismatch: the image's property {name} says {expected}, but the {} bytes \
                 that were sent have {found}. Upload it again, or correct the property.",
                part.written.size
            )));
        }
    }
    let virtual_size = match announced.disk_format.as_str() {
        "qcow2" => Some(qcow2::virtual_size(&part.written.head).map_err(|error| {
            refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("Image {id} has disk_format qcow2, but what was sent is not usable as such: {error}."),
            )
        })?),
        _ => None,
    };
    keep(app, id, upload, part, virtual_size).await
}

/// Gives the file its name, and makes the image active if it is still this upload's. The file of one
/// that is not stays for the sweep: it is nobody's, whoever has the image now.
pub(super) async fn keep(
    app: &AppState,
    id: Uuid,
    upload: Uuid,
    part: files::PartFile,
    virtual_size: Option<u64>,
) -> Result<(), ApiError> {
    let written = part.put(id).await.map_err(|e| upload_error(&e))?;
    let now = app.clock.now_millis();
    let quota = app.settings.project_image_bytes;
    let saved = app
        .store
        .tx(|tx| {
            let written = written.clone();
            Box::pin(async move {
                let (id, upload) = (id.to_string(), upload.to_string());
                if !records::saved(tx, &id, &upload, &written, virtual_size, now).await? {
                    return Ok(false);
                }
                let image = records::find(tx, &id).await?;
                let owner = image.map(|image| image.owner).unwrap_or_default();
                // Of several uploads at once, those that end first have the room.
                if records::stored(tx, &owner).await? > quota {
                    return Err(over_quota(quota));
                }
                Ok::<_, ApiError>(true)
            })
        })
        .await;
    let saved = match saved {
        Ok(saved) => saved,
        Err(error) => {
            // It is still this upload's, so that no image has its file.
            if error.status == StatusCode::PAYLOAD_TOO_LARGE {
                drop(files::remove(&app.image_dir, id, &written.sha512).await);
            }
            return Err(error);
        }
    };
    if !saved {
        return Err(taken_away(id));
    }
    files::link_for_older(&app.image_dir, id, &written.sha512).await;
    Ok(())
}

fn over_quota(quota: u64) -> ApiError {
    refuse(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "Denying attempt to upload image because it exceeds the quota: a project stores {quota} \
             bytes of images (project_image_bytes). Delete some."
        ),
    )
}

fn hash_of<'w>(written: &'w Written, promise: &str) -> &'w str {
    match promise {
        "owner_specified.openstack.md5" => &written.md5,
        "owner_specified.openstack.sha256" => &written.sha256,
        _ => &written.sha512,
    }
}

fn upload_error(error: &UploadError) -> ApiError {
    match error {
        UploadError::TooLarge(_) => refuse(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        UploadError::CutShort { .. } => bad(error.to_string()),
        UploadError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            tracing::error!(%error, "the image directory is full");
            refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "There is no room left for images on the controller.",
            )
        }
        UploadError::Io { .. } | UploadError::Stopped(_) => {
            tracing::error!(%error, "upload failed");
            refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The image could not be written; the log has the cause under this request id.",
            )
        }
    }
}

async fn back_to_queued(app: &AppState, id: Uuid, upload: Uuid) {
    let now = app.clock.now_millis();
    let done = app
        .store
        .tx(|tx| {
            Box::pin(async move {
                let (id, upload) = (id.to_string(), upload.to_string());
                Ok::<_, ApiError>(records::upload_failed(tx, &id, &upload, now).await?)
            })
        })
        .await;
    if let Err(error) = done {
        tracing::error!(image = %id, %error, "a failed upload's image stays in saving until it is found silent");
    }
}

/// `GET /v2/images/{id}/file`; 204 while there is nothing.
pub async fn download(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let id = parse_id(&id)?;
    let image = app
        .store
        .tx(|tx| {
            let context = context.clone();
            Box::pin(async move { records::load(tx, &context.reach, &id.to_string()).await })
        })
        .await?;
    match image.status.as_str() {
        "active" => {}
        "deactivated" if context.may("image:download_image:deactivated") => {}
        "deactivated" => {
            return Err(forbidden(
                "The requested image has been deactivated. Image data download is forbidden.",
            ));
        }
        _ => return Ok(no_content()),
    }
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    let mut response =
        serving::stream(&app, id, image.sha512.as_deref().unwrap_or_default(), range).await?;
    if let Some(Ok(md5)) = image.md5.as_deref().map(HeaderValue::from_str)
        && response.status() == StatusCode::OK
    {
        response.headers_mut().insert("content-md5", md5);
    }
    Ok(response)
}

async fn turn(
    app: &AppState,
    context: &RequestContext,
    id: &str,
    from: &'static str,
    to: &'static str,
) -> Reply {
    let id = parse_id(id)?.to_string();
    let now = app.clock.now_millis();
    app.store
        .tx(|tx| {
            let (context, id) = (context.clone(), id.clone());
            Box::pin(async move {
                let image = records::load(tx, &context.reach, &id).await?;
                if image.status != to && !records::transition(tx, &id, from, to, now).await? {
                    return Err(forbidden(format!(
                        "Not allowed to make image {id} {to}: its status is {}.",
                        image.status
                    )));
                }
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(no_content())
}

/// `POST /v2/images/{id}/actions/deactivate`
pub async fn deactivate(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    turn(&app, &context, &id, "active", "deactivated").await
}

/// `POST /v2/images/{id}/actions/reactivate`
pub async fn reactivate(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    turn(&app, &context, &id, "deactivated", "active").await
}
