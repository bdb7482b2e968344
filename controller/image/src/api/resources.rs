//! Images as resources: create, list, show, change, tag, delete.

use super::view::view;
use super::{Reply, bad, forbidden, no_content, ok, parse_id, patch, refuse};
use crate::files;
use crate::records::{self, Image};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use berth_controller_core::body::clip;
use berth_controller_core::{ApiError, AppState, RequestContext, Service, body};
use serde_json::Value;
use std::collections::BTreeMap;

/// `POST /v2/images`
pub async fn create(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    bytes: Bytes,
) -> Reply {
    let body = body::parse(Service::Image, &bytes)?;
    let id = match body.get("id") {
        None | Some(Value::Null) => {
            uuid::Builder::from_random_bytes(app.rng.bits().to_be_bytes()).into_uuid()
        }
        Some(Value::String(id)) => parse_id(id).map_err(|_| bad("image.id is to be a UUID."))?,
        Some(_) => return Err(bad("image.id is to be a UUID.")),
    };
    if context.project_id.is_empty() && body.get("owner").is_none() {
        return Err(bad(
            "The token has no project: use one scoped to a project.",
        ));
    }
    let now = app.clock.now_millis();
    let mut image = Image {
        id: id.to_string(),
        owner: context.project_id.clone(),
        name: None,
        status: "queued".into(),
        visibility: "shared".into(),
        container_format: None,
        disk_format: None,
        min_disk: 0,
        min_ram: 0,
        protected: false,
        hidden: false,
        size: None,
        virtual_size: None,
        md5: None,
        sha512: None,
        tags: Vec::new(),
        properties: BTreeMap::new(),
        created_at: now,
        updated_at: now,
    };
    patch::set(&context, &mut image, &body)?;
    app.store
        .tx(|tx| {
            let image = image.clone();
            Box::pin(async move { records::insert(tx, &image).await })
        })
        .await?;
    let mut response = (StatusCode::CREATED, Json(view(&image))).into_response();
    let location = format!("{}/image/v2/images/{}", app.base_url, image.id);
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

/// `GET /v2/images/{id}`
pub async fn show(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    let id = parse_id(&id)?.to_string();
    let image = app
        .store
        .read(|tx| {
            let (context, id) = (context.clone(), id.clone());
            Box::pin(async move { records::load(tx, &context.reach, &id).await })
        })
        .await?;
    Ok(ok(view(&image)))
}

/// Loads, lets `change` change, and stores; for owners.
async fn change(
    app: &AppState,
    context: &RequestContext,
    id: &str,
    change: impl Fn(&mut Image) -> Result<(), ApiError> + Send + Sync + Clone + 'static,
) -> Result<Image, ApiError> {
    let id = parse_id(id)?.to_string();
    let now = app.clock.now_millis();
    app.store
        .tx(|tx| {
            let (context, id, change) = (context.clone(), id.clone(), change.clone());
            Box::pin(async move {
                let mut image = records::load(tx, &context.reach, &id).await?;
                image.must_be_owned_by(&context.reach)?;
                change(&mut image)?;
                image.updated_at = now;
                records::update(tx, &image).await?;
                Ok::<_, ApiError>(image)
            })
        })
        .await
}

/// `PATCH /v2/images/{id}`
pub async fn update(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Reply {
    let kind = body::media_type(&headers);
    if !patch::is_patch(&kind) {
        return Err(refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "Content-Type {} is not a patch: use application/openstack-images-v2.1-json-patch.",
                clip(&kind)
            ),
        ));
    }
    let body: Value =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("The body is not JSON: {e}.")))?;
    let changes = patch::parse(&body)?;
    let who = context.clone();
    let image = change(&app, &context, &id, move |image| {
        patch::apply(&who, image, &changes)
    })
    .await?;
    Ok(ok(view(&image)))
}

/// `PUT /v2/images/{id}/tags/{tag}`
pub async fn add_tag(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path((id, tag)): Path<(String, String)>,
) -> Reply {
    let tag = patch::tag(&tag)?;
    change(&app, &context, &id, move |image| {
        if !image.tags.contains(&tag) {
            if image.tags.len() >= 128 {
                return Err(refuse(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "An image has at most 128 tags.",
                ));
            }
            image.tags.push(tag.clone());
        }
        Ok(())
    })
    .await?;
    Ok(no_content())
}

/// `DELETE /v2/images/{id}/tags/{tag}`
pub async fn remove_tag(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path((id, tag)): Path<(String, String)>,
) -> Reply {
    change(&app, &context, &id, move |image| {
        let before = image.tags.len();
        image.tags.retain(|t| *t != tag);
        if image.tags.len() == before {
            return Err(refuse(
                StatusCode::NOT_FOUND,
                format!("The image has no tag {}.", clip(&tag)),
            ));
        }
        Ok(())
    })
    .await?;
    Ok(no_content())
}

/// `DELETE /v2/images/{id}`: the row, then the file. A process that dies between leaves a file
/// that [`files::sweep`] takes.
pub async fn delete(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Reply {
    let id = parse_id(&id)?;
    let now = app.clock.now_millis();
    let sha512 = app
        .store
        .tx(|tx| {
            let context = context.clone();
            Box::pin(async move {
                let text = id.to_string();
                let image = records::load(tx, &context.reach, &text).await?;
                image.must_be_owned_by(&context.reach)?;
                if !records::delete(tx, now, &text).await? {
                    return Err(forbidden(format!(
                        "Image {id} is protected and cannot be deleted: set protected to false \
                         first."
                    )));
                }
                Ok::<_, ApiError>(image.sha512.unwrap_or_default())
            })
        })
        .await?;
    if let Err(error) = files::remove(&app.image_dir, id, &sha512).await {
        tracing::warn!(image = %id, %error, "a deleted image's file stays until the next sweep");
    }
    Ok(no_content())
}
