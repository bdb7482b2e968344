//! Changes to an image, in both of Glance's JSON-patch dialects:
//! `{"op": "replace", "path": "/name", "value": …}` (v2.1) and `{"replace": "/name", "value": …}`
//! (v2.0).

use super::view::{READ_ONLY, SETTABLE};
use super::{bad, forbidden};
use crate::records::Image;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::{ApiError, RequestContext, Service};
use serde_json::{Map, Value, json};

/// The most changes in one request.
const MAX_CHANGES: usize = 256;
/// The most properties, and the longest value, as Glance's own defaults have them.
const MAX_PROPERTIES: usize = 128;
const MAX_VALUE: usize = 65_535;

const CONTAINER_FORMATS: &[&str] = &[
    "bare",
    "ami",
    "ari",
    "aki",
    "ovf",
    "ova",
    "docker",
    "compressed",
];
const DISK_FORMATS: &[&str] = &[
    "raw", "qcow2", "aki", "ari", "ami", "iso", "vhd", "vhdx", "vmdk", "vdi", "ploop",
];

/// Whether a media type is one of a patch.
pub fn is_patch(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/openstack-images-v2.1-json-patch"
            | "application/openstack-images-v2.0-json-patch"
            | "application/json-patch+json"
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Replace,
    Remove,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    op: Op,
    name: String,
    value: Value,
}

/// Reads a patch of either dialect.
///
/// # Errors
/// 400 that names the entry.
pub fn parse(body: &Value) -> Result<Vec<Change>, ApiError> {
    let Value::Array(entries) = body else {
        return Err(bad(
            "Request body must be a JSON array of operation objects.",
        ));
    };
    if entries.len() > MAX_CHANGES {
        return Err(bad(format!(
            "A patch has at most {MAX_CHANGES} operations."
        )));
    }
    entries
        .iter()
        .enumerate()
        .map(|(n, entry)| parse_one(n, entry))
        .collect()
}

fn parse_one(n: usize, entry: &Value) -> Result<Change, ApiError> {
    let Value::Object(map) = entry else {
        return Err(bad(format!("Operation {n} is not a JSON object.")));
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str);
    let (op, path) = match (text("op"), text("path")) {
        (Some(op), Some(path)) => (op, path),
        _ => ["add", "replace", "remove"]
            .iter()
            .find_map(|op| text(op).map(|path| (*op, path)))
            .ok_or_else(|| bad(format!("Operation {n} has no op and path.")))?,
    };
    let op = match op {
        "add" => Op::Add,
        "replace" => Op::Replace,
        "remove" => Op::Remove,
        other => {
            return Err(bad(format!(
                "Operation {n}: {} is not one of add, replace and remove.",
                clip(other)
            )));
        }
    };
    let name = path
        .strip_prefix('/')
        .map(|p| p.replace("~1", "/").replace("~0", "~"))
        .filter(|p| !p.is_empty() && p.chars().count() <= 255)
        .ok_or_else(|| bad(format!("Operation {n}: the path is to be /NAME.")))?;
    let value = match (op, map.get("value")) {
        (Op::Remove, _) => Value::Null,
        (_, Some(value)) => value.clone(),
        (_, None) => {
            return Err(bad(format!(
                "Operation {n} requires a member named \"value\"."
            )));
        }
    };
    Ok(Change { op, name, value })
}

/// Applies changes in order.
///
/// # Errors
/// 400, 403 for read-only fields, 409 for a property that is not there.
pub fn apply(
    context: &RequestContext,
    image: &mut Image,
    changes: &[Change],
) -> Result<(), ApiError> {
    for change in changes {
        let name = change.name.as_str();
        if READ_ONLY.contains(&name) || name == "id" {
            return Err(forbidden(format!(
                "Attribute '{}' is read-only.",
                clip(name)
            )));
        }
        if name == "owner" {
            context.require("image:modify_image:owner")?;
        }
        if SETTABLE.contains(&name) || name == "owner" {
            if change.op == Op::Remove {
                return Err(forbidden(format!("Property {name} may not be removed.")));
            }
            let one = Map::from_iter([(name.to_owned(), change.value.clone())]);
            set(context, image, &Value::Object(one))?;
            continue;
        }
        let there = image.properties.contains_key(name);
        match change.op {
            Op::Replace | Op::Remove if !there => {
                return Err(super::refuse(
                    axum::http::StatusCode::CONFLICT,
                    format!("Property {} does not exist.", clip(name)),
                ));
            }
            Op::Remove => {
                image.properties.remove(name);
            }
            Op::Add | Op::Replace => {
                let one = Map::from_iter([(name.to_owned(), change.value.clone())]);
                set(context, image, &Value::Object(one))?;
            }
        }
    }
    Ok(())
}

/// Sets fields and properties from an object, checked.
///
/// # Errors
/// 400 that names the field; 403 for what only an administrator may.
pub fn set(context: &RequestContext, image: &mut Image, body: &Value) -> Result<(), ApiError> {
    let fields = Fields::of(Service::Image, body, "image")?;
    if fields.has("name") {
        image.name = fields.text("name", 255)?;
    }
    if let Some(visibility) = fields.text("visibility", 32)? {
        if !["public", "private", "shared", "community"].contains(&visibility.as_str()) {
            return Err(fields.wrong("visibility", "is not public, private, shared or community"));
        }
        if visibility == "public" {
            context.require("image:publicize_image")?;
        }
        image.visibility = visibility;
    }
    for (name, allowed) in [
        ("container_format", CONTAINER_FORMATS),
        ("disk_format", DISK_FORMATS),
    ] {
        if !fields.has(name) {
            continue;
        }
        let value = fields.text(name, 32)?;
        if value.as_deref().is_some_and(|v| !allowed.contains(&v)) {
            return Err(fields.wrong(name, &format!("is not one of {}", allowed.join(", "))));
        }
        if image.status != "queued" {
            return Err(forbidden(format!(
                "Attribute {name} can be only replaced for a queued image."
            )));
        }
        match name {
            "disk_format" => image.disk_format = value,
            _ => image.container_format = value,
        }
    }
    let max = i64::from(i32::MAX);
    if let Some(gib) = fields.int("min_disk", 0, max)? {
        image.min_disk = gib;
    }
    if let Some(mib) = fields.int("min_ram", 0, max)? {
        image.min_ram = mib;
    }
    if let Some(flag) = fields.flag("protected")? {
        image.protected = flag;
    }
    if let Some(flag) = fields.flag("os_hidden")? {
        image.hidden = flag;
    }
    if let Some(mut tags) = fields.texts("tags")? {
        tags.sort();
        tags.dedup();
        image.tags = tags;
    }
    if let Some(owner) = fields.text("owner", 255)? {
        if owner != context.project_id {
            context.require("image:add_image:owner")?;
        }
        image.owner = owner;
    }
    for (name, value) in fields.iter() {
        if SETTABLE.contains(&name.as_str()) || matches!(name.as_str(), "id" | "owner") {
            continue;
        }
        set_property(image, name, value)?;
    }
    Ok(())
}

fn set_property(image: &mut Image, name: &str, value: &Value) -> Result<(), ApiError> {
    if READ_ONLY.contains(&name) {
        return Err(forbidden(format!("Attribute '{name}' is read-only.")));
    }
    let shown = clip(name);
    let Value::String(text) = value else {
        return Err(bad(format!(
            "image.{shown} is to be a string, as every additional property is."
        )));
    };
    if name.is_empty() || name.chars().count() > 255 || name.contains('\0') {
        return Err(bad(format!(
            "{shown}: a property's name has 1 to 255 characters."
        )));
    }
    if text.len() > MAX_VALUE || text.contains('\0') {
        return Err(bad(format!(
            "image.{shown} is longer than {MAX_VALUE} bytes, or has a NUL."
        )));
    }
    image.properties.insert(name.to_owned(), text.clone());
    if image.properties.len() > MAX_PROPERTIES {
        return Err(super::refuse(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            format!("An image has at most {MAX_PROPERTIES} properties."),
        ));
    }
    Ok(())
}

/// A tag, checked.
///
/// # Errors
/// 400 for one that is empty or too long.
pub fn tag(text: &str) -> Result<String, ApiError> {
    if text.is_empty() || text.chars().count() > 255 || text.contains('\0') {
        return Err(bad("A tag has 1 to 255 characters."));
    }
    Ok(text.to_owned())
}

/// What the schemas say of a field's kind.
pub fn kinds() -> Value {
    json!({
        "container_format": CONTAINER_FORMATS, "disk_format": DISK_FORMATS,
    })
}
