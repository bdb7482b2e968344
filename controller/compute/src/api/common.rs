//! What Nova's handlers share: who calls, errors, links, and checks of input as Nova's schemas
//! make them.

use super::microversion::Microversion;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use berth_controller_core::body::{Fields, parse};
use berth_controller_core::{ApiError, AppState, RequestContext, Service};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What a handler gives.
pub type Reply = Result<Response, ApiError>;

pub(super) use berth_controller_core::{read, tx};

/// One call of the API: the application, who asks, and in which microversion.
#[derive(Clone)]
pub struct Call {
    /// The application.
    pub app: AppState,
    /// Who asks.
    pub context: RequestContext,
    /// In which microversion.
    pub version: Microversion,
}

impl FromRequestParts<AppState> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let missing = || {
            error(
                StatusCode::UNAUTHORIZED,
                "The request you have made requires authentication.",
            )
        };
        let context = parts.extensions.get::<RequestContext>();
        let version = parts.extensions.get::<Microversion>();
        Ok(Self {
            app: app.clone(),
            context: context.cloned().ok_or_else(missing)?,
            version: version.copied().unwrap_or(Microversion(1)),
        })
    }
}

impl Call {
    /// Whether the microversion is 2.`minor` or later.
    pub fn since(&self, minor: u16) -> bool {
        self.version.0 >= minor
    }

    /// 404 for what came or went with a microversion.
    ///
    /// # Errors
    /// 404 outside of 2.`since` to 2.`until`.
    pub fn only_in(&self, since: u16, until: u16) -> Result<(), ApiError> {
        if (since..=until).contains(&self.version.0) {
            Ok(())
        } else {
            Err(not_found("The resource could not be found."))
        }
    }

    /// The absolute address of something below `/compute/v2.1`.
    pub fn href(&self, path: &str) -> String {
        format!("{}/compute/v2.1/{path}", self.app.base_url)
    }

    /// Nova's pair of links.
    pub fn links(&self, path: &str) -> Value {
        links(&self.app.base_url, path)
    }

    /// Unix milliseconds.
    pub fn now(&self) -> i64 {
        self.app.clock.now_millis()
    }
}

/// Nova's pair of links to something below `/compute/v2.1`.
pub fn links(base_url: &str, path: &str) -> Value {
    json!([
        {"rel": "self", "href": format!("{base_url}/compute/v2.1/{path}")},
        {"rel": "bookmark", "href": format!("{base_url}/compute/{path}")},
    ])
}

/// An error of this service.
pub fn error(status: StatusCode, message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Compute, status, message)
}

/// 400
pub fn bad(message: impl Into<String>) -> ApiError {
    error(StatusCode::BAD_REQUEST, message)
}

/// 404
pub fn not_found(message: impl Into<String>) -> ApiError {
    error(StatusCode::NOT_FOUND, message)
}

/// 409
pub fn conflict(message: impl Into<String>) -> ApiError {
    error(StatusCode::CONFLICT, message)
}

/// 403
pub fn forbidden(message: impl Into<String>) -> ApiError {
    error(StatusCode::FORBIDDEN, message)
}

/// 501: known to Nova, not done here; refused rather than stored (PROTOCOL.md, rule 12).
pub fn unsupported(what: &str) -> ApiError {
    error(
        StatusCode::NOT_IMPLEMENTED,
        format!("{what} is not supported by this release of Berth."),
    )
}

/// A JSON answer.
pub fn answer(status: StatusCode, body: Value) -> Response {
    (status, axum::Json(body)).into_response()
}

/// 200 with JSON.
pub fn ok(body: Value) -> Reply {
    Ok(answer(StatusCode::OK, body))
}

/// A status alone.
pub fn status(status: StatusCode) -> Reply {
    Ok(status.into_response())
}

/// Parses a body that is an object with exactly the keys given.
///
/// # Errors
/// 400
pub fn object(bytes: &Bytes, keys: &[&str]) -> Result<Value, ApiError> {
    let body = parse(Service::Compute, bytes)?;
    Fields::of(Service::Compute, &body, "body")?.only(keys)?;
    Ok(body)
}

/// The object under `key`.
///
/// # Errors
/// 400
pub fn within<'a>(body: &'a Value, key: &str) -> Result<Fields<'a>, ApiError> {
    Fields::within(Service::Compute, body, key)
}

/// A name as Nova's schema has it: 1 to 255 printable characters, none of them a space at
/// either end. A slash is a character like any other.
///
/// # Errors
/// 400 that names the field.
pub fn opt_name(fields: &Fields<'_>, name: &str) -> Result<Option<String>, ApiError> {
    let Some(text) = fields.opt_name(name)? else {
        if fields.has(name) {
            return Err(fields.wrong(name, "is null: it is to have 1 to 255 characters"));
        }
        return Ok(None);
    };
    if text.trim() != text {
        return Err(fields.wrong(name, "starts or ends with whitespace"));
    }
    if text.chars().any(char::is_control) {
        return Err(fields.wrong(name, "holds a character that is not printable"));
    }
    Ok(Some(text))
}

/// As [`opt_name`], and it has to be there.
///
/// # Errors
/// 400 that names the field.
pub fn name(fields: &Fields<'_>, name: &str) -> Result<String, ApiError> {
    opt_name(fields, name)?.ok_or_else(|| fields.wrong(name, "is missing"))
}

/// A boolean as Nova's schema has it.
///
/// # Errors
/// 400 that names the field.
pub fn boolean(fields: &Fields<'_>, name: &str) -> Result<Option<bool>, ApiError> {
    match fields.get(name) {
        Some(Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Ok(Some(true)),
            "false" | "0" | "off" | "no" => Ok(Some(false)),
            _ => Err(fields.wrong(name, "is to be a boolean")),
        },
        _ => fields.flag(name),
    }
}

/// A description: at most `max` characters, or null.
///
/// # Errors
/// 400 that names the field.
pub fn description(fields: &Fields<'_>, max: usize) -> Result<Option<Option<String>>, ApiError> {
    if !fields.has("description") {
        return Ok(None);
    }
    let text = fields.text("description", max)?;
    if text.iter().any(|t| t.chars().any(char::is_control)) {
        return Err(fields.wrong("description", "holds a character that is not printable"));
    }
    Ok(Some(text))
}

/// Metadata: keys of 1 to 255 characters of `[a-zA-Z0-9-_:. ]`, values of at most 255.
///
/// # Errors
/// 400 that names the field.
pub fn metadata(fields: &Fields<'_>) -> Result<BTreeMap<String, String>, ApiError> {
    let mut map = BTreeMap::new();
    for (key, value) in fields.iter() {
        let shown = berth_controller_core::body::clip(key);
        let known = |c: char| c.is_ascii_alphanumeric() || "-_:. ".contains(c);
        if key.is_empty() || key.len() > 255 || !key.chars().all(known) {
            return Err(fields.wrong(&shown, "is no key: 1 to 255 of letters, digits, '-_:. '"));
        }
        match value.as_str() {
            Some(text) if text.chars().count() <= 255 && !text.contains('\0') => {
                map.insert(key.clone(), text.to_owned());
            }
            _ => {
                return Err(fields.wrong(&shown, "is to be a string of at most 255 characters"));
            }
        }
    }
    Ok(map)
}

/// A tag: 1 to 60 characters without `,` and `/`.
///
/// # Errors
/// 400 that names the tag.
pub fn tag(text: &str) -> Result<String, ApiError> {
    let length = text.chars().count();
    let bad_character = |c: char| c.is_control() || c == ',' || c == '/';
    if length == 0 || length > 60 || text.chars().any(bad_character) {
        return Err(bad(format!(
            "Tag '{}' is invalid: it is to have 1 to 60 characters without ',' and '/'.",
            berth_controller_core::body::clip(text)
        )));
    }
    Ok(text.to_owned())
}

/// The most tags of a server.
pub const MAX_TAGS: usize = 50;

/// A list of tags, none of them twice.
///
/// # Errors
/// 400 that names the field.
pub fn tags(fields: &Fields<'_>, name: &str) -> Result<Option<BTreeSet<String>>, ApiError> {
    let Some(list) = fields.texts(name)? else {
        return Ok(None);
    };
    if list.len() > MAX_TAGS {
        return Err(fields.wrong(name, &format!("has more than {MAX_TAGS} tags")));
    }
    list.iter()
        .map(|t| tag(t))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// A UUID with hyphens, as ids are written here: a name is never one by chance.
pub fn uuid(text: &str) -> Option<uuid::Uuid> {
    (text.len() == 36).then(|| uuid::Uuid::parse_str(text).ok())?
}
