//! Members of shared images over HTTP: an owner names projects, and each of them says whether it wants the
//! image in its lists.

use super::{Reply, bad, forbidden, no_content, ok, parse_id, refuse};
use crate::members::{self, MOST, Member};
use crate::records::{self, Image};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::{self, Fields, clip};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, Call, Service, read, time, tx};
use serde_json::{Value, json};

const STATUSES: [&str; 3] = ["pending", "accepted", "rejected"];

fn view(member: &Member) -> Value {
    json!({
        "image_id": member.image_id,
        "member_id": member.member,
        "status": member.status,
        "created_at": time::seconds(member.created_at),
        "updated_at": time::seconds(member.updated_at),
        "schema": "/v2/schemas/member",
    })
}

fn missing(image: &str, member: &str) -> ApiError {
    refuse(
        StatusCode::NOT_FOUND,
        format!("{} is no member of image {image}.", clip(member)),
    )
}

/// An image whose members the caller may change.
async fn own(tx: &mut Tx, call: &Call, id: &str) -> Result<Image, ApiError> {
    let image = records::load(tx, &call.context.reach, id).await?;
    image.must_be_owned_by(&call.context.reach)?;
    if image.visibility != "shared" {
        return Err(forbidden(format!(
            "Only an image whose visibility is shared has members; that of {id} is {}.",
            image.visibility
        )));
    }
    Ok(image)
}

/// `GET /v2/images/{id}/members`: an owner sees all, a member itself.
pub async fn list(call: Call, Path(id): Path<String>) -> Reply {
    let id = parse_id(&id)?.to_string();
    let members = read!(call, |tx| [call, id] {
        let image = records::load(tx, &call.context.reach, &id).await?;
        let mut members = members::list(tx, &id).await?;
        if !call.context.may_see(&image.owner) {
            members.retain(|one| one.member == call.context.project_id);
        }
        Ok::<_, ApiError>(members)
    })?;
    let members: Vec<Value> = members.iter().map(view).collect();
    Ok(ok(
        json!({"members": members, "schema": "/v2/schemas/members"}),
    ))
}

/// `POST /v2/images/{id}/members`
pub async fn create(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let id = parse_id(&id)?.to_string();
    let body = body::parse(Service::Image, &bytes)?;
    let fields = Fields::of(Service::Image, &body, "the body")?;
    fields.only(&["member"])?;
    let member = fields
        .text("member", 255)?
        .filter(|member| !member.is_empty());
    let member = member.ok_or_else(|| bad("The body names no member: a project's id."))?;
    let now = call.now();
    let made = tx!(call, |tx| [call, id, member] {
        own(tx, &call, &id).await?;
        match members::add(tx, now, &id, &member).await {
            Err(StoreError::Conflict(_)) => Err(refuse(
                StatusCode::CONFLICT,
                format!("{} is a member of image {id} already.", clip(&member)),
            )),
            Err(other) => Err(other.into()),
            Ok(false) => Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("An image has at most {MOST} members."),
            )),
            Ok(true) => {
                let made = members::find(tx, &id, &member).await?;
                made.ok_or_else(|| missing(&id, &member))
            }
        }
    })?;
    Ok(ok(view(&made)))
}

/// One that the caller may see: the image's owner, or itself.
async fn load(tx: &mut Tx, call: &Call, id: &str, member: &str) -> Result<Member, ApiError> {
    let image = records::load(tx, &call.context.reach, id).await?;
    let sees = call.context.may_see(&image.owner) || call.context.project_id == member;
    let found = members::find(tx, id, member).await?;
    found.filter(|_| sees).ok_or_else(|| missing(id, member))
}

/// `GET /v2/images/{id}/members/{member}`
pub async fn show(call: Call, Path((id, member)): Path<(String, String)>) -> Reply {
    let id = parse_id(&id)?.to_string();
    let found = read!(call, |tx| [call, id, member] { load(tx, &call, &id, &member).await })?;
    Ok(ok(view(&found)))
}

/// `PUT /v2/images/{id}/members/{member}`: the member's own word.
pub async fn update(call: Call, Path((id, member)): Path<(String, String)>, bytes: Bytes) -> Reply {
    let id = parse_id(&id)?.to_string();
    let body = body::parse(Service::Image, &bytes)?;
    let fields = Fields::of(Service::Image, &body, "the body")?;
    fields.only(&["status"])?;
    let status = fields.text("status", 32)?.unwrap_or_default();
    if !STATUSES.contains(&status.as_str()) {
        return Err(bad(format!(
            "status is to be one of {}.",
            STATUSES.join(", ")
        )));
    }
    let now = call.now();
    let found = tx!(call, |tx| [call, id, member, status] {
        load(tx, &call, &id, &member).await?;
        if !call.context.may_see(&member) {
            return Err(forbidden(
                "Whether an image is accepted is the member's to say, and not the owner's.",
            ));
        }
        members::answer(tx, now, &id, &member, &status).await?;
        load(tx, &call, &id, &member).await
    })?;
    Ok(ok(view(&found)))
}

/// `DELETE /v2/images/{id}/members/{member}`
pub async fn delete(call: Call, Path((id, member)): Path<(String, String)>) -> Reply {
    let id = parse_id(&id)?.to_string();
    tx!(call, |tx| [call, id, member] {
        own(tx, &call, &id).await?;
        match members::remove(tx, &id, &member).await? {
            true => Ok(()),
            false => Err(missing(&id, &member)),
        }
    })?;
    Ok(no_content())
}
