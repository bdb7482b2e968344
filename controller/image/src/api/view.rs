//! An image as the API shows it: its own fields and its properties in one flat object.

use crate::records::Image;
use berth_controller_core::time;
use serde_json::{Value, json};

/// Fields that the service writes; a caller who tries is told so.
pub const READ_ONLY: &[&str] = &[
    "status",
    "size",
    "virtual_size",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "created_at",
    "updated_at",
    "file",
    "self",
    "schema",
    "direct_url",
    "locations",
    "stores",
];

/// Fields that a caller may set, beside properties.
pub const SETTABLE: &[&str] = &[
    "name",
    "visibility",
    "container_format",
    "disk_format",
    "min_disk",
    "min_ram",
    "protected",
    "os_hidden",
    "tags",
];

/// Renders one.
pub fn view(image: &Image) -> Value {
    let mut body: serde_json::Map<String, Value> = image
        .properties
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let own = json!({
        "id": image.id,
        "name": image.name,
        "status": image.status,
        "visibility": image.visibility,
        "owner": image.owner,
        "container_format": image.container_format,
        "disk_format": image.disk_format,
        "min_disk": image.min_disk,
        "min_ram": image.min_ram,
        "protected": image.protected,
        "os_hidden": image.hidden,
        "size": image.size,
        "virtual_size": image.virtual_size,
        "checksum": image.md5,
        "os_hash_algo": image.sha512.as_ref().map(|_| "sha512"),
        "os_hash_value": image.sha512,
        "tags": image.tags,
        "created_at": time::seconds(image.created_at),
        "updated_at": time::seconds(image.updated_at),
        "self": format!("/v2/images/{}", image.id),
        "file": format!("/v2/images/{}/file", image.id),
        "schema": "/v2/schemas/image",
    });
    if let Value::Object(own) = own {
        body.extend(own);
    }
    Value::Object(body)
}
