//! Tags over HTTP, alike for all that has them.

use super::{Reply, bad, forbidden, no_content, ok};
use crate::errors::not_found;
use crate::tags::{self, Kind};
use crate::{networks, ports, security_groups};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, MatchedPath, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use axum::routing::get;
use berth_controller_core::body::{self, Fields, clip};
use berth_controller_core::listing::Condition;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, AppState, Call, Service, read, tx};
use serde_json::json;
use std::collections::HashMap;

/// As Neutron's: how long one is; and how many something has.
const LONGEST: usize = 255;
const MOST: usize = 50;

/// What a path names: something, and (but for lists) a tag.
#[derive(Clone, Debug)]
struct Named {
    kind: Kind,
    id: String,
    tag: String,
}

impl FromRequestParts<AppState> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let names = Path::<HashMap<String, String>>::from_request_parts(parts, app).await;
        let Path(mut names) = names.map_err(|e| bad(format!("The path is malformed: {e}.")))?;
        let matched = parts
            .extensions
            .get::<MatchedPath>()
            .map(MatchedPath::as_str);
        let matched = matched.unwrap_or_default();
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| matched.contains(&format!("/{}/", kind.as_str())));
        Ok(Self {
            kind: kind.ok_or_else(|| bad("The path names nothing that has tags."))?,
            id: names.remove("id").unwrap_or_default(),
            tag: names.remove("tag").unwrap_or_default(),
        })
    }
}

impl Named {
    /// It is there, and the caller sees it; to be changed, it is also its own.
    async fn within(&self, tx: &mut Tx, call: &Call, changes: bool) -> Result<(), ApiError> {
        let (reach, id) = (&call.context.reach, self.id.as_str());
        let owner = match self.kind {
            Kind::Networks => networks::load(tx, reach, id).await?.project_id,
            Kind::Ports => ports::load(tx, reach, id).await?.project_id,
            Kind::Subnets => {
                super::subnets::load(tx, &call.context, id)
                    .await?
                    .project_id
            }
            Kind::SecurityGroups => {
                let group = security_groups::find(tx, id).await?;
                let own = group.filter(|group| call.context.may_see(&group.project_id));
                own.ok_or_else(|| security_groups::missing(id))?.project_id
            }
        };
        if changes && !call.context.may_see(&owner) {
            return Err(forbidden(
                "It is another project's: only its owner may tag it.",
            ));
        }
        Ok(())
    }

    fn missing(&self) -> ApiError {
        not_found("TagNotFound", "Tag", &self.tag)
    }
}

/// Refuses what is no tag: a list of them, a path, nothing, or too much.
fn check(tags: &[String]) -> Result<(), ApiError> {
    if tags.len() > MOST {
        return Err(bad(format!("There are at most {MOST} tags.")));
    }
    let wrong =
        |tag: &&String| tag.is_empty() || tag.chars().count() > LONGEST || tag.contains([',', '/']);
    match tags.iter().find(wrong) {
        None => Ok(()),
        Some(tag) => Err(bad(format!(
            "'{}' is no tag: it is to have 1 to {LONGEST} characters, none of them a comma or a slash.",
            clip(tag)
        ))),
    }
}

/// All routes of tags, below `/v2.0`.
pub(super) fn router() -> Router<AppState> {
    let mut router = Router::new();
    for kind in Kind::ALL {
        let all = format!("/{}/{{id}}/tags", kind.as_str());
        let one = format!("{all}/{{tag}}");
        router = router
            .route(&all, get(list).put(replace).delete(clear))
            .route(&one, get(has).put(add).delete(remove));
    }
    router
}

async fn list(call: Call, of: Named) -> Reply {
    let tags = read!(call, |tx| [call, of] {
        of.within(tx, &call, false).await?;
        Ok::<_, ApiError>(tags::of(tx, of.kind, &of.id).await?)
    })?;
    Ok(ok(json!({ "tags": tags })))
}

async fn replace(call: Call, of: Named, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let fields = Fields::of(Service::Network, &body, "the body")?;
    fields.only(&["tags"])?;
    let wanted = fields
        .texts("tags")?
        .ok_or_else(|| bad("The body has no tags."))?;
    check(&wanted)?;
    let tags = tx!(call, |tx| [call, of, wanted] {
        of.within(tx, &call, true).await?;
        tags::clear(tx, of.kind, Condition::new("resource_id = ?", [of.id.as_str().into()])).await?;
        for tag in &wanted {
            tags::add(tx, of.kind, &of.id, tag).await?;
        }
        Ok::<_, ApiError>(tags::of(tx, of.kind, &of.id).await?)
    })?;
    Ok(ok(json!({ "tags": tags })))
}

async fn clear(call: Call, of: Named) -> Reply {
    tx!(call, |tx| [call, of] {
        of.within(tx, &call, true).await?;
        let own = Condition::new("resource_id = ?", [of.id.as_str().into()]);
        Ok::<_, ApiError>(tags::clear(tx, of.kind, own).await?)
    })?;
    Ok(no_content())
}

async fn has(call: Call, one: Named) -> Reply {
    let tags = read!(call, |tx| [call, one] {
        one.within(tx, &call, false).await?;
        Ok::<_, ApiError>(tags::of(tx, one.kind, &one.id).await?)
    })?;
    match tags.contains(&one.tag) {
        true => Ok(no_content()),
        false => Err(one.missing()),
    }
}

async fn add(call: Call, one: Named) -> Reply {
    check(std::slice::from_ref(&one.tag))?;
    tx!(call, |tx| [call, one] {
        one.within(tx, &call, true).await?;
        let before = tags::of(tx, one.kind, &one.id).await?;
        if before.len() >= MOST && !before.contains(&one.tag) {
            return Err(bad(format!("There are at most {MOST} tags.")));
        }
        Ok(tags::add(tx, one.kind, &one.id, &one.tag).await?)
    })?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remove(call: Call, one: Named) -> Reply {
    let had = tx!(call, |tx| [call, one] {
        one.within(tx, &call, true).await?;
        Ok::<_, ApiError>(tags::remove(tx, one.kind, &one.id, &one.tag).await?)
    })?;
    match had {
        true => Ok(no_content()),
        false => Err(one.missing()),
    }
}
