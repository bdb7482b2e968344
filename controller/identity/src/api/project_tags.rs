//! Tags of projects.

use super::projects::PROJECT;
use super::{Reply, bad, no_content, not_found, ok};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use berth_controller_core::body::{self, Fields, clip};
use berth_controller_core::{ApiError, Call, Service, read, tx};
use serde_json::json;

/// As Keystone's: how many a project has, and how long one is.
const MOST: usize = 80;
const LONGEST: usize = 255;

/// What a tag may be: no list, and no path.
///
/// # Errors
/// 400
pub(super) fn check(tags: &[String]) -> Result<(), ApiError> {
    if tags.len() > MOST {
        return Err(bad(format!("A project has at most {MOST} tags.")));
    }
    let wrong =
        |tag: &&String| tag.is_empty() || tag.chars().count() > LONGEST || tag.contains([',', '/']);
    match tags.iter().find(wrong) {
        None => Ok(()),
        Some(tag) => Err(bad(format!(
            "{} is no tag: it is to have 1 to {LONGEST} characters, none of them a comma or a slash.",
            clip(tag)
        ))),
    }
}

/// Reads the tags, lets `change` change them, and stores them.
async fn change(
    call: &Call,
    id: &str,
    change: impl Fn(&mut Vec<String>) -> Result<(), ApiError> + Clone + Send + Sync + 'static,
) -> Result<Vec<String>, ApiError> {
    let id = id.to_owned();
    tx!(call, |tx| [call, id, change] {
        let mut tags = PROJECT.within(tx, &call.context.reach, &id).await?.tags();
        change(&mut tags)?;
        check(&tags)?;
        PROJECT.change(tx, &id, &[("tags", json!(tags).to_string().into())]).await?;
        Ok::<_, ApiError>(tags)
    })
}

/// `GET /v3/projects/{id}/tags`
pub async fn list(call: Call, Path(id): Path<String>) -> Reply {
    let row = read!(call, |tx| [call, id] {
        PROJECT.within(tx, &call.context.reach, &id).await
    })?;
    let link = format!("{}/identity/v3/projects/{id}/tags", call.app.base_url);
    Ok(ok(
        json!({"tags": row.tags(), "links": {"self": link, "previous": null, "next": null}}),
    ))
}

/// `PUT /v3/projects/{id}/tags`: these, and no others.
pub async fn replace(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Identity, &bytes)?;
    let fields = Fields::of(Service::Identity, &body, "the body")?;
    let mut wanted = fields
        .texts("tags")?
        .ok_or_else(|| bad("The body has no tags."))?;
    wanted.sort_unstable();
    wanted.dedup();
    let tags = change(&call, &id, move |tags| {
        tags.clone_from(&wanted);
        Ok(())
    })
    .await?;
    let link = format!("{}/identity/v3/projects/{id}/tags", call.app.base_url);
    Ok(ok(
        json!({"tags": tags, "links": {"self": link, "previous": null, "next": null}}),
    ))
}

/// `DELETE /v3/projects/{id}/tags`
pub async fn clear(call: Call, Path(id): Path<String>) -> Reply {
    change(&call, &id, |tags| {
        tags.clear();
        Ok(())
    })
    .await?;
    Ok(no_content())
}

/// `GET /v3/projects/{id}/tags/{tag}`
pub async fn has(call: Call, Path((id, tag)): Path<(String, String)>) -> Reply {
    let row = read!(call, |tx| [call, id] {
        PROJECT.within(tx, &call.context.reach, &id).await
    })?;
    match row.tags().contains(&tag) {
        true => Ok(no_content()),
        false => Err(not_found("project tag", &tag)),
    }
}

/// `PUT /v3/projects/{id}/tags/{tag}`
pub async fn add(call: Call, Path((id, tag)): Path<(String, String)>) -> Reply {
    change(&call, &id, move |tags| {
        if !tags.contains(&tag) {
            tags.push(tag.clone());
        }
        Ok(())
    })
    .await?;
    Ok(StatusCode::CREATED.into_response())
}

/// `DELETE /v3/projects/{id}/tags/{tag}`
pub async fn remove(call: Call, Path((id, tag)): Path<(String, String)>) -> Reply {
    change(&call, &id, move |tags| {
        let before = tags.len();
        tags.retain(|t| *t != tag);
        match tags.len() == before {
            true => Err(not_found("project tag", &tag)),
            false => Ok(()),
        }
    })
    .await?;
    Ok(no_content())
}
