//! Request bodies: read whole, bounded, parsed, and their fields taken by name and type.
//!
//! A body that is not what it should be is a 400 that names the field, in the words of the
//! service that was asked. Nothing here panics on any input.

use crate::{ApiError, Service};
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

/// The media type of a Content-Type: without its parameters, in lower case (RFC 9110, 8.3.1). Empty if
/// there is none.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

/// The largest JSON body that is read, in bytes.
pub const MAX_JSON_BYTES: usize = 1 << 20;

/// The longest name, in characters.
pub const MAX_NAME: usize = 255;

/// Parses a body as a JSON object.
///
/// # Errors
/// 400 with the position at which it stops being JSON.
pub fn parse(service: Service, bytes: &Bytes) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| bad(service, format!("The body is not JSON: {e}.")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(bad(service, "The body is to be a JSON object.".into()))
    }
}

fn bad(service: Service, message: String) -> ApiError {
    ApiError::new(service, StatusCode::BAD_REQUEST, message)
}

/// A JSON object whose fields are taken by name.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    service: Service,
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The object under `key` of a parsed body.
    ///
    /// # Errors
    /// 400 if it is missing or no object.
    pub fn within(service: Service, body: &'a Value, key: &str) -> Result<Self, ApiError> {
        match body.get(key) {
            Some(Value::Object(map)) => Ok(Self {
                service,
                path: key.to_owned(),
                map,
            }),
            Some(_) => Err(bad(service, format!("{key} is to be an object."))),
            None => Err(bad(service, format!("The body has no {key}."))),
        }
    }

    /// An object met inside another, for example in a list; `path` names it in messages.
    ///
    /// # Errors
    /// 400 if it is no object.
    pub fn of(service: Service, value: &'a Value, path: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self {
                service,
                path: path.to_owned(),
                map,
            }),
            _ => Err(bad(service, format!("{path} is to be an object."))),
        }
    }

    /// A 400 about one field.
    pub fn wrong(&self, name: &str, why: &str) -> ApiError {
        bad(self.service, format!("{}.{name} {why}.", self.path))
    }

    /// Whether the field is there, even as null.
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// The field as it stands; null counts as missing.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// Refuses fields that are not in `known`.
    ///
    /// # Errors
    /// 400 that names the first unknown one.
    pub fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.map.keys().find(|k| !known.contains(&k.as_str())) {
            None => Ok(()),
            Some(key) => Err(self.wrong(&clip(key), "is not a field that is known here")),
        }
    }

    /// A string of at most `max` characters.
    ///
    /// # Errors
    /// 400 if it is no string, or too long, or holds a NUL.
    pub fn text(&self, name: &str, max: usize) -> Result<Option<String>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                if text.chars().count() > max {
                    return Err(self.wrong(name, &format!("is longer than {max} characters")));
                }
                if text.contains('\0') {
                    return Err(self.wrong(name, "holds a NUL character"));
                }
                Ok(Some(text.clone()))
            }
            Some(_) => Err(self.wrong(name, "is to be a string")),
        }
    }

    /// A name that has to be there: 1 to 255 characters, not only spaces.
    ///
    /// # Errors
    /// 400 as told.
    pub fn name(&self, name: &str) -> Result<String, ApiError> {
        self.opt_name(name)?
            .ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// A name, if there: 1 to 255 characters, not only spaces.
    ///
    /// # Errors
    /// 400 as told.
    pub fn opt_name(&self, name: &str) -> Result<Option<String>, ApiError> {
        let text = self.text(name, MAX_NAME)?;
        match text {
            Some(t) if t.trim().is_empty() => Err(self.wrong(
                name,
                &format!("is empty: it is to have 1 to {MAX_NAME} characters"),
            )),
            other => Ok(other),
        }
    }

    /// A truth value; `"true"` and `"False"` are taken as such too.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(t)) if t.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(t)) if t.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(self.wrong(name, "is to be true or false")),
        }
    }

    /// A whole number within bounds; digits in a string are taken too.
    ///
    /// # Errors
    /// 400 for anything else, or out of bounds.
    pub fn int(&self, name: &str, min: i64, max: i64) -> Result<Option<i64>, ApiError> {
        let number = match self.get(name) {
            None => return Ok(None),
            Some(Value::Number(n)) => n.as_i64(),
            Some(Value::String(t)) => t.parse().ok(),
            Some(_) => None,
        };
        match number {
            Some(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(
                name,
                &format!("is to be a whole number from {min} to {max}"),
            )),
        }
    }

    /// A list of at most 1000 things.
    ///
    /// # Errors
    /// 400 if it is no list, or longer.
    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= 1000 => Ok(Some(list)),
            Some(Value::Array(_)) => Err(self.wrong(name, "has more than 1000 entries")),
            Some(_) => Err(self.wrong(name, "is to be a list")),
        }
    }

    /// A list of strings of at most 255 characters.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let Some(list) = self.list(name)? else {
            return Ok(None);
        };
        list.iter()
            .map(|v| match v.as_str() {
                Some(t) if t.chars().count() <= MAX_NAME && !t.contains('\0') => Ok(t.to_owned()),
                _ => Err(self.wrong(name, "is to be a list of strings of at most 255 characters")),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Some)
    }

    /// An object inside this one.
    ///
    /// # Errors
    /// 400 if it is there and no object.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => {
                Fields::of(self.service, value, &format!("{}.{name}", self.path)).map(Some)
            }
        }
    }
}

/// What a caller sent, short enough to be said back.
pub fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn message(result: Result<impl std::fmt::Debug, ApiError>) -> String {
        result.unwrap_err().message
    }

    #[test]
    fn a_wrong_field_is_named() {
        let body = json!({"user": {"name": 5, "enabled": "maybe", "age": 1.5, "odd": {}}});
        let fields = Fields::within(Service::Identity, &body, "user").unwrap();
        assert_eq!(message(fields.name("name")), "user.name is to be a string.");
        assert_eq!(message(fields.name("nick")), "user.nick is missing.");
        assert!(message(fields.flag("enabled")).starts_with("user.enabled is to be true"));
        assert!(message(fields.int("age", 0, 9)).starts_with("user.age is to be a whole"));
        assert!(message(fields.list("odd")).starts_with("user.odd is to be a list"));
        assert!(message(fields.only(&["name"])).contains("is not a field"));
        assert!(message(Fields::within(Service::Identity, &body, "role")).contains("no role"));
    }

    #[test]
    fn a_name_has_1_to_255_characters_however_many_bytes_those_are() {
        for (length, good) in [(0, false), (1, true), (255, true), (256, false)] {
            let body = json!({"x": {"name": "ä".repeat(length)}});
            let fields = Fields::within(Service::Network, &body, "x").unwrap();
            assert_eq!(fields.name("name").is_ok(), good, "{length}");
        }
        let body = json!({"x": {"name": "a\u{0}b", "blank": "  "}});
        let fields = Fields::within(Service::Network, &body, "x").unwrap();
        assert!(fields.name("name").is_err());
        assert!(fields.name("blank").is_err());
    }

    #[test]
    fn what_is_not_json_is_a_400_with_the_place() {
        let error = parse(Service::Image, &Bytes::from_static(b"{\"a\": ")).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert!(error.message.contains("line 1"));
        assert!(parse(Service::Image, &Bytes::from_static(b"[]")).is_err());
    }
}
