//! Lists: filters, order, marker and limit, as the four services have them.
//!
//! A list says once which fields it has and what they are in SQL ([`Table`]). What a caller asks for
//! becomes a condition and an order ([`Asked`]); the database finds the page ([`page`]), so that a page
//! costs what is on it, and not what its project has.

mod condition;
pub mod markers;
pub mod page;

pub use condition::Condition;
pub use page::{Ids, PageError};

use crate::query::Params;
use crate::store::{Tx, Value};
use crate::{ApiError, Service, body, time};
use axum::http::StatusCode;

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// TEXT
    Text,
    /// BIGINT
    Number,
    /// 0 or 1
    Flag,
    /// Unix milliseconds, shown in whole seconds.
    Time,
}

/// A field of a list.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in the API.
    pub name: &'static str,
    /// Its SQL.
    pub sql: &'static str,
    /// What it is.
    pub is: Is,
    /// Whether it may be NULL.
    pub null: bool,
}

impl Field {
    /// One.
    pub const fn new(name: &'static str, sql: &'static str, is: Is) -> Self {
        Self {
            name,
            sql,
            is,
            null: false,
        }
    }

    /// It may be NULL.
    #[must_use]
    pub const fn or_null(mut self) -> Self {
        self.null = true;
        self
    }

    /// What is sorted by, which is never NULL: that comes first.
    fn key(&self) -> String {
        match (self.null, self.is) {
            (false, _) => self.sql.to_owned(),
            (true, Is::Text) => format!("COALESCE({}, '')", self.sql),
            (true, _) => format!("COALESCE({}, {})", self.sql, i64::MIN + 1),
        }
    }

    /// Whether it is one of these, as it is shown.
    fn is_one_of(&self, wanted: &[&str]) -> Condition {
        let Self { sql, is, null, .. } = self;
        let each = wanted.iter().map(|want| {
            if *null && (want.is_empty() || want.eq_ignore_ascii_case("none")) {
                return match is {
                    Is::Text => {
                        Condition::new(format!("COALESCE({sql}, '') IN ('', ?)"), [(*want).into()])
                    }
                    _ => Condition::new(format!("{sql} IS NULL"), []),
                };
            }
            let equal = |value: Value| Condition::new(format!("{sql} = ?"), [value]);
            match is {
                Is::Text => equal((*want).into()),
                Is::Number => want
                    .parse::<i64>()
                    .map_or(Condition::never(), |n| equal(n.into())),
                Is::Flag => match want.to_ascii_lowercase().as_str() {
                    "true" | "1" => equal(true.into()),
                    "false" | "0" => equal(false.into()),
                    _ => Condition::never(),
                },
                Is::Time => time::parse(want).map_or(Condition::never(), |from| {
                    let second = format!("{sql} >= ? AND {sql} < ?");
                    Condition::new(second, [from.into(), (from + 1000).into()])
                }),
            }
        });
        Condition::any(each)
    }
}

/// Which way a key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The least first.
    Ascending,
    /// The greatest first.
    Descending,
}

impl Direction {
    const fn reversed(self) -> Self {
        match self {
            Self::Ascending => Self::Descending,
            Self::Descending => Self::Ascending,
        }
    }
}

/// What is listed.
#[derive(Debug)]
pub struct Table {
    /// Its kind, for the markers of what is deleted.
    pub kind: &'static str,
    /// `ports p`
    pub from: &'static str,
    /// The SQL of its id.
    pub id: &'static str,
    /// The SQL of whose it is; '' for what everybody sees.
    pub owner: &'static str,
    /// What may be filtered and sorted by.
    pub fields: &'static [Field],
    /// What every order ends with.
    pub order: &'static [(&'static str, Direction)],
}

/// How a service speaks of lists.
#[derive(Debug)]
pub struct Style {
    /// Whose words to use.
    pub service: Service,
    /// What a sort key's direction is if none is given.
    pub direction: Direction,
    /// Items in one answer if no limit is given; `None` for the most.
    pub default_limit: Option<usize>,
    /// The most in one answer.
    pub max_limit: usize,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which rows.
    pub filter: Condition,
    /// In which order; the last key makes it a whole one.
    pub order: Vec<(Field, Direction)>,
    /// Those that follow this one.
    pub marker: Option<String>,
    /// At most so many.
    pub limit: usize,
    /// Those before the marker, the nearest first.
    pub reverse: bool,
}

/// Parameters that are no filters.
const PAGING: [&str; 7] = [
    "fields",
    "limit",
    "marker",
    "sort",
    "sort_key",
    "sort_dir",
    "page_reverse",
];

impl Style {
    /// A 400 in the service's words.
    pub fn bad(&self, message: impl Into<String>) -> ApiError {
        ApiError::new(self.service, StatusCode::BAD_REQUEST, message).kind("InvalidInput")
    }

    fn direction(&self, text: &str) -> Result<Direction, ApiError> {
        match text {
            "asc" => Ok(Direction::Ascending),
            "desc" => Ok(Direction::Descending),
            other => Err(self.bad(format!(
                "sort_dir {} is neither asc nor desc.",
                body::clip(other)
            ))),
        }
    }

    /// Sort keys with their directions: `sort=name:asc,id`, or `sort_key` and `sort_dir`, one each, or
    /// one direction for all.
    ///
    /// # Errors
    /// 400
    pub fn keys<'a>(&self, query: &'a Params) -> Result<Vec<(&'a str, Direction)>, ApiError> {
        let mut keys = Vec::new();
        if let Some(sort) = query.get("sort") {
            for part in sort.split(',') {
                let (key, direction) = match part.split_once(':') {
                    None => (part, self.direction),
                    Some((key, direction)) => (key, self.direction(direction)?),
                };
                keys.push((key, direction));
            }
            return Ok(keys);
        }
        let directions = query.all("sort_dir");
        let names = query.all("sort_key");
        if directions.len() > 1 && directions.len() != names.len() {
            return Err(self.bad("sort_dir is to be given once, or once for each sort_key."));
        }
        if let ([], [direction]) = (names.as_slice(), directions.as_slice()) {
            return Ok(vec![("created_at", self.direction(direction)?)]);
        }
        for (n, key) in names.into_iter().enumerate() {
            let direction = match directions.get(n).or(directions.last()) {
                None => self.direction,
                Some(text) => self.direction(text)?,
            };
            keys.push((key, direction));
        }
        Ok(keys)
    }

    /// What is asked for of a table. `own` makes conditions of filters that are no equality; what it
    /// gives `None` for is to be one of the table's fields. `hidden` are fields that the caller is not
    /// shown.
    ///
    /// # Errors
    /// 400 for an unknown filter, sort key or direction, or a malformed limit.
    pub fn asked(
        &self,
        table: &Table,
        query: &Params,
        hidden: &[&str],
        own: impl Fn(&str, &[&str]) -> Option<Result<Condition, ApiError>>,
    ) -> Result<Asked, ApiError> {
        let mut filter = Condition::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &query.0 {
            let name = name.as_str();
            if PAGING.contains(&name) || seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let wanted = query.all(name);
            if let Some(condition) = own(name, &wanted) {
                filter.and(condition?);
                continue;
            }
            let field = table.field(name).ok_or_else(|| {
                self.bad(format!(
                    "Invalid input for operation: {} is not a valid attribute for filtering.",
                    body::clip(name)
                ))
            })?;
            filter.and(match hidden.contains(&name) {
                true => Condition::never(),
                false => field.is_one_of(&wanted),
            });
        }
        let limit = query.limit(self.service, self.max_limit)?;
        Ok(Asked {
            filter,
            order: self.order(table, query, hidden)?,
            marker: query.get("marker").map(str::to_owned),
            limit: limit.or(self.default_limit).unwrap_or(self.max_limit),
            reverse: query.flag("page_reverse").unwrap_or(false),
        })
    }

    /// The page, in the service's words ([`Table::page`]).
    ///
    /// # Errors
    /// 400 for a marker that never was.
    pub async fn page(
        &self,
        tx: &mut Tx,
        table: &Table,
        visible: &Condition,
        owner: Option<&str>,
        asked: &Asked,
    ) -> Result<Ids, ApiError> {
        let page = table.page(tx, visible, owner, asked).await;
        page.map_err(|why| match why {
            PageError::Store(error) => error.into(),
            PageError::NoMarker => self.bad(format!(
                "marker {} is not in the list.",
                body::clip(asked.marker.as_deref().unwrap_or_default())
            )),
        })
    }

    fn order(
        &self,
        table: &Table,
        query: &Params,
        hidden: &[&str],
    ) -> Result<Vec<(Field, Direction)>, ApiError> {
        let mut order: Vec<(Field, Direction)> = Vec::new();
        for (key, direction) in self.keys(query)? {
            let shown = table
                .field(key)
                .filter(|field| !hidden.contains(&field.name));
            let field = shown.ok_or_else(|| {
                self.bad(format!(
                    "sort_key {} is not one of the fields.",
                    body::clip(key)
                ))
            })?;
            if order.iter().all(|(known, _)| known.name != field.name) {
                order.push((field, direction));
            }
        }
        Ok(table.whole(order))
    }
}

impl Table {
    /// A field, by its name in the API.
    pub fn field(&self, name: &str) -> Option<Field> {
        self.fields.iter().find(|field| field.name == name).copied()
    }

    /// An order that ends with the table's own.
    pub fn whole(&self, mut order: Vec<(Field, Direction)>) -> Vec<(Field, Direction)> {
        for (name, direction) in self.order {
            if order.iter().any(|(known, _)| known.name == *name) {
                continue;
            }
            order.extend(self.field(name).map(|field| (field, *direction)));
        }
        order
    }
}

/// The same query with another marker, to be put behind `?`.
pub fn again(query: &Params, changes: &[(&str, Option<&str>)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    let kept = query
        .0
        .iter()
        .filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    form.extend_pairs(kept);
    for (name, value) in changes {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    form.finish()
}

#[cfg(test)]
mod tests;
