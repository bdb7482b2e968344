//! One internal form of a resource, rendered for a microversion by a table of its fields.
//!
//! Nova's schemas are closed: a field of a later microversion in an earlier answer is as wrong
//! as a missing one. So no handler writes fields by hand; a row says since and until when, and
//! for whom.

use super::microversion::{MAX, MIN, Microversion};
use serde_json::{Map, Value};

/// Who sees a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody who sees the resource.
    All,
    /// Administrators.
    Admin,
}

/// One field of a resource `T`. A value of `None` leaves the field out.
pub struct Field<T> {
    /// Its name in JSON.
    pub name: &'static str,
    /// The first 2.n that has it.
    pub since: u16,
    /// The last 2.n that has it.
    pub until: u16,
    /// Who sees it.
    pub audience: Audience,
    /// Its value.
    pub value: fn(&T, Microversion) -> Option<Value>,
}

impl<T> Field<T> {
    /// A field of all microversions.
    pub const fn always(name: &'static str, value: fn(&T, Microversion) -> Option<Value>) -> Self {
        Self {
            name,
            since: MIN,
            until: MAX,
            audience: Audience::All,
            value,
        }
    }

    /// From this microversion on.
    #[must_use]
    pub const fn since(mut self, minor: u16) -> Self {
        self.since = minor;
        self
    }

    /// Up to and with this microversion.
    #[must_use]
    pub const fn until(mut self, minor: u16) -> Self {
        self.until = minor;
        self
    }

    /// For administrators only.
    #[must_use]
    pub const fn admin(mut self) -> Self {
        self.audience = Audience::Admin;
        self
    }
}

/// The resource as this microversion shows it.
pub fn render<T>(table: &[Field<T>], item: &T, version: Microversion, admin: bool) -> Value {
    let mut map = Map::new();
    for field in table {
        let shown = (field.since..=field.until).contains(&version.0)
            && (admin || field.audience == Audience::All);
        if shown && let Some(value) = (field.value)(item, version) {
            map.insert(field.name.to_owned(), value);
        }
    }
    Value::Object(map)
}

/// The names that a table shows, for golden tests.
#[cfg(test)]
pub fn names<T>(table: &[Field<T>], version: Microversion, admin: bool) -> Vec<&'static str> {
    let shown = |f: &&Field<T>| {
        (f.since..=f.until).contains(&version.0) && (admin || f.audience == Audience::All)
    };
    table.iter().filter(shown).map(|f| f.name).collect()
}
