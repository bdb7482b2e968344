//! What Glance says of itself: versions, schemas, and that there is no import.

use super::view::{READ_ONLY, SETTABLE};
use super::{Reply, ok, patch, refuse};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_controller_core::AppState;
use serde_json::{Map, Value, json};

/// `GET /image`: 300, as there are several minor versions.
pub async fn versions(State(app): State<AppState>) -> Response {
    let link = format!("{}/image/v2/", app.base_url);
    let version = |id: &str, status: &str| json!({"id": id, "status": status, "links": [{"rel": "self", "href": link}]});
    let body = json!({"versions": [
        version("v2.9", "CURRENT"),
        version("v2.7", "SUPPORTED"),
        version("v2.6", "SUPPORTED"),
        version("v2.5", "SUPPORTED"),
        version("v2.4", "SUPPORTED"),
        version("v2.3", "SUPPORTED"),
        version("v2.2", "SUPPORTED"),
        version("v2.1", "SUPPORTED"),
        version("v2.0", "SUPPORTED"),
    ]});
    (StatusCode::MULTIPLE_CHOICES, Json(body)).into_response()
}

fn image_schema() -> Value {
    let kinds = patch::kinds();
    let mut properties = Map::new();
    for name in READ_ONLY {
        let kind = match *name {
            "size" | "virtual_size" => json!(["null", "integer"]),
            "locations" => json!("array"),
            _ => json!(["null", "string"]),
        };
        properties.insert((*name).into(), json!({"type": kind, "readOnly": true}));
    }
    for name in SETTABLE {
        let field = match *name {
            "min_disk" | "min_ram" => json!({"type": "integer", "minimum": 0}),
            "protected" | "os_hidden" => json!({"type": "boolean"}),
            "tags" => json!({"type": "array", "items": {"type": "string", "maxLength": 255}}),
            "visibility" => json!({
                "type": "string", "enum": ["community", "public", "private", "shared"],
            }),
            "container_format" | "disk_format" => {
                let mut all: Vec<Value> = kinds[*name].as_array().cloned().unwrap_or_default();
                all.insert(0, Value::Null);
                json!({"type": ["null", "string"], "enum": all})
            }
            _ => json!({"type": ["null", "string"], "maxLength": 255}),
        };
        properties.insert((*name).into(), field);
    }
    properties.insert("id".into(), json!({"type": "string"}));
    properties.insert(
        "owner".into(),
        json!({"type": ["null", "string"], "maxLength": 255}),
    );
    json!({
        "name": "image",
        "properties": properties,
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

/// `GET /v2/schemas/{name}`
pub async fn show(Path(name): Path<String>) -> Reply {
    let list = |name: &str, item: Value| {
        json!({
            "name": name,
            "properties": {
                name: {"type": "array", "items": item},
                "schema": {"type": "string"},
                "first": {"type": "string"}, "next": {"type": "string"},
            },
            "links": [
                {"rel": "first", "href": "{first}"},
                {"rel": "next", "href": "{next}"},
                {"rel": "describedby", "href": "{schema}"},
            ],
        })
    };
    let member = || {
        json!({"name": "member", "properties": {
            "member_id": {"type": "string"}, "image_id": {"type": "string"},
            "status": {"type": "string"}, "created_at": {"type": "string"},
            "updated_at": {"type": "string"}, "schema": {"type": "string", "readOnly": true},
        }})
    };
    match name.as_str() {
        "image" => Ok(ok(image_schema())),
        "images" => Ok(ok(list("images", image_schema()))),
        "member" => Ok(ok(member())),
        "members" => Ok(ok(list("members", member()))),
        other => Err(refuse(
            StatusCode::NOT_FOUND,
            format!(
                "There is no schema {}.",
                berth_controller_core::body::clip(other)
            ),
        )),
    }
}

/// `GET /v2/info/import`: no import methods; data goes to `/file`.
pub async fn import_info() -> Response {
    ok(json!({"import-methods": {
        "description": "Import methods available.", "type": "array", "value": [],
    }}))
}
