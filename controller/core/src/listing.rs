//! Lists: filters, order, marker and limit, on resources as the API shows them.
//!
//! What may be filtered and sorted by is what is shown, by name; no query parameter ever
//! becomes part of a statement.

use crate::query::Params;
use crate::{ApiError, Service};
use axum::http::StatusCode;
use serde_json::Value;
use std::cmp::Ordering;

/// How one resource is listed.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// Whose words to use.
    pub service: Service,
    /// Fields that may be filtered and sorted by.
    pub fields: &'a [&'a str],
    /// Parameters that are not filters.
    pub reserved: &'a [&'a str],
    /// Items in one answer if no limit is given; `None` for all.
    pub default_limit: Option<usize>,
    /// The most in one answer.
    pub max_limit: usize,
}

/// One page, and whether there are more behind it.
#[derive(Debug)]
pub struct Page {
    /// The items.
    pub items: Vec<Value>,
    /// Whether the page ended before the list did.
    pub more: bool,
}

const PAGING: [&str; 7] = [
    "fields",
    "limit",
    "marker",
    "sort",
    "sort_key",
    "sort_dir",
    "page_reverse",
];

impl Listing<'_> {
    fn bad(&self, message: String) -> ApiError {
        ApiError::new(self.service, StatusCode::BAD_REQUEST, message).kind("InvalidInput")
    }

    /// Filters, sorts and cuts.
    ///
    /// # Errors
    /// 400 for an unknown filter, sort key or direction, a marker that is not in the list, or a
    /// malformed limit.
    pub fn page(&self, items: Vec<Value>, query: &Params) -> Result<Page, ApiError> {
        let mut items = self.filter(items, query)?;
        self.sort(&mut items, query)?;
        if let Some(marker) = query.get("marker") {
            let at = items.iter().position(|i| i["id"] == marker);
            let at = at.ok_or_else(|| {
                self.bad(format!(
                    "marker {} is not in the list.",
                    crate::body::clip(marker)
                ))
            })?;
            items.drain(..=at);
        }
        let limit = query.limit(self.service, self.max_limit)?;
        let limit = limit.or(self.default_limit).unwrap_or(self.max_limit);
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Page { items, more })
    }

    fn filter(&self, mut items: Vec<Value>, query: &Params) -> Result<Vec<Value>, ApiError> {
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &query.0 {
            let name = name.as_str();
            if PAGING.contains(&name) || self.reserved.contains(&name) || seen.contains(&name) {
                continue;
            }
            if !self.fields.contains(&name) {
                return Err(self.bad(format!(
                    "Invalid input for operation: {} is not a valid attribute for filtering.",
                    crate::body::clip(name)
                )));
            }
            seen.push(name);
            let wanted = query.all(name);
            items.retain(|item| matches(&item[name], &wanted));
        }
        Ok(items)
    }

    fn sort(&self, items: &mut [Value], query: &Params) -> Result<(), ApiError> {
        let mut keys: Vec<(String, bool)> = Vec::new();
        if let Some(sort) = query.get("sort") {
            for part in sort.split(',') {
                let (key, dir) = part.split_once(':').unwrap_or((part, "asc"));
                keys.push((key.to_owned(), self.descending(dir)?));
            }
        } else {
            let dirs = query.all("sort_dir");
            for (n, key) in query.all("sort_key").into_iter().enumerate() {
                let dir = dirs.get(n).or(dirs.last()).copied().unwrap_or("asc");
                keys.push((key.to_owned(), self.descending(dir)?));
            }
            if keys.is_empty() && dirs.len() > 1 {
                return Err(self.bad("sort_dir needs a sort_key each.".into()));
            }
        }
        if let Some((key, _)) = keys
            .iter()
            .find(|(k, _)| !self.fields.contains(&k.as_str()))
        {
            return Err(self.bad(format!(
                "sort_key {} is not one of the fields.",
                crate::body::clip(key)
            )));
        }
        items.sort_by(|a, b| {
            keys.iter()
                .map(|(key, descending)| {
                    let order = compare(&a[key], &b[key]);
                    if *descending { order.reverse() } else { order }
                })
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        Ok(())
    }

    fn descending(&self, dir: &str) -> Result<bool, ApiError> {
        match dir {
            "asc" => Ok(false),
            "desc" => Ok(true),
            other => Err(self.bad(format!(
                "sort_dir {} is neither asc nor desc.",
                crate::body::clip(other)
            ))),
        }
    }
}

/// Whether a field has one of the wanted values. A list of objects is asked for by
/// `key=value`: one of each key's values, and all keys.
fn matches(field: &Value, wanted: &[&str]) -> bool {
    match field {
        Value::Array(entries)
            if entries.iter().any(Value::is_object) || wanted.iter().any(|w| w.contains('=')) =>
        {
            let pairs: Vec<(&str, &str)> =
                wanted.iter().filter_map(|w| w.split_once('=')).collect();
            pairs.iter().all(|(key, _)| {
                pairs
                    .iter()
                    .filter(|(k, _)| k == key)
                    .any(|(_, value)| entries.iter().any(|e| scalar(&e[*key], value)))
            })
        }
        Value::Array(entries) => wanted
            .iter()
            .any(|want| entries.iter().any(|e| scalar(e, want))),
        other => wanted.iter().any(|want| scalar(other, want)),
    }
}

fn scalar(have: &Value, want: &str) -> bool {
    match have {
        Value::Null => want.is_empty() || want.eq_ignore_ascii_case("none"),
        Value::Bool(flag) => match want.to_ascii_lowercase().as_str() {
            "true" | "1" => *flag,
            "false" | "0" => !flag,
            _ => false,
        },
        Value::String(text) => text == want,
        Value::Number(n) => n.to_string() == want,
        _ => false,
    }
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_i64().cmp(&b.as_i64()),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    const LISTING: Listing<'_> = Listing {
        service: Service::Network,
        fields: &["id", "name", "up", "size", "fixed_ips", "tags"],
        reserved: &["other"],
        default_limit: None,
        max_limit: 3,
    };

    fn ids(query: &[(&str, &str)]) -> Result<String, u16> {
        let items = vec![
            json!({"id": "a", "name": "x", "up": true, "size": 10, "tags": ["t"],
                   "fixed_ips": [{"ip_address": "10.0.0.1", "subnet_id": "s"}]}),
            json!({"id": "b", "name": "y", "up": false, "size": 9, "tags": [], "fixed_ips": []}),
            json!({"id": "c", "name": "x", "up": true, "size": null, "tags": ["t", "u"],
                   "fixed_ips": [{"ip_address": "10.0.0.2", "subnet_id": "s"}]}),
            json!({"id": "d", "name": "", "up": true, "size": 1, "tags": [], "fixed_ips": []}),
        ];
        let pairs = query
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        let page = LISTING
            .page(items, &Params(pairs.collect()))
            .map_err(|e| e.status.as_u16())?;
        Ok(page
            .items
            .iter()
            .map(|i| i["id"].as_str().unwrap())
            .collect())
    }

    #[test]
    fn filters_of_one_name_are_alternatives_and_of_several_conditions() {
        assert_eq!(ids(&[("name", "x"), ("name", "y")]).unwrap(), "abc");
        assert_eq!(ids(&[("name", "x"), ("size", "10")]).unwrap(), "a");
        assert_eq!(ids(&[("up", "False")]).unwrap(), "b");
        assert_eq!(ids(&[("tags", "u")]).unwrap(), "c");
        assert_eq!(ids(&[("fixed_ips", "ip_address=10.0.0.2")]).unwrap(), "c");
        assert_eq!(
            ids(&[
                ("fixed_ips", "subnet_id=s"),
                ("fixed_ips", "ip_address=10.0.0.1")
            ])
            .unwrap(),
            "a"
        );
        assert_eq!(ids(&[("other", "q"), ("name", "y")]).unwrap(), "b");
        assert_eq!(ids(&[("colour", "red")]), Err(400));
    }

    #[test]
    fn pages_are_sorted_start_after_the_marker_and_are_bounded() {
        assert_eq!(ids(&[]).unwrap(), "abc");
        assert_eq!(ids(&[("limit", "99")]).unwrap(), "abc");
        assert_eq!(ids(&[("sort_key", "size"), ("limit", "2")]).unwrap(), "cd");
        assert_eq!(
            ids(&[("sort_key", "size"), ("sort_dir", "desc"), ("marker", "b")]).unwrap(),
            "dc"
        );
        assert_eq!(
            ids(&[("sort", "name:desc,id:desc"), ("limit", "1")]).unwrap(),
            "b"
        );
        for wrong in [
            ("limit", "-1"),
            ("limit", "x"),
            ("marker", "z"),
            ("sort_key", "password"),
            ("sort", "id:up"),
        ] {
            assert_eq!(ids(&[wrong]), Err(400), "{wrong:?}");
        }
    }
}
