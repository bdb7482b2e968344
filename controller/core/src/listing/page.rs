//! The page itself: which rows follow a marker in an order (keyset pagination), and whether there are
//! more.
//!
//! A marker is where the page before ended. Its row may have changed since, or may be gone: what follows
//! it is told by what was sorted by ([`super::markers`]).

use super::{Asked, Condition, Direction, Field, Is, Table, markers};
use crate::store::{Row, StoreError, Tx, Value};

/// A page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Its rows, in order.
    pub ids: Vec<String>,
    /// Whether there are more behind it; before it, if it was asked for in reverse.
    pub more: bool,
}

impl Ids {
    /// Rows that were read by these ids, in the page's order.
    pub fn in_order<T>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> String) -> Vec<T> {
        let places: std::collections::HashMap<&str, usize> = self
            .ids
            .iter()
            .enumerate()
            .map(|(n, id)| (id.as_str(), n))
            .collect();
        rows.sort_by_cached_key(|row| places.get(id(row).as_str()).copied());
        rows
    }

    /// That `column` is one of them.
    pub fn among(&self, column: &str) -> Condition {
        Condition::among(column, self.ids.iter().map(Value::from))
    }
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Nobody's marker, or another one's.
    #[error("marker is of no row")]
    NoMarker,
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Table {
    /// The page that is asked for of the rows that may be seen. `owner` is whose deleted rows' markers
    /// are known; `None` for everybody's.
    ///
    /// # Errors
    /// [`PageError`]
    pub async fn page(
        &self,
        tx: &mut Tx,
        visible: &Condition,
        owner: Option<&str>,
        asked: &Asked,
    ) -> Result<Ids, PageError> {
        let mut condition = visible.clone();
        condition.and(asked.filter.clone());
        let order: Vec<(Field, Direction)> = asked
            .order
            .iter()
            .map(|(field, direction)| {
                let backward = asked.reverse.then(|| direction.reversed());
                (*field, backward.unwrap_or(*direction))
            })
            .collect();
        if let Some(marker) = &asked.marker {
            let keys = self.keys(tx, visible, owner, &order, marker).await?;
            condition.and(behind(&order, &keys.ok_or(PageError::NoMarker)?));
        }
        let by: Vec<String> = order
            .iter()
            .map(|(field, direction)| match direction {
                Direction::Ascending => field.key(),
                Direction::Descending => format!("{} DESC", field.key()),
            })
            .collect();
        let (sql, values) = condition.statement(
            &format!("SELECT {} FROM {}", self.id, self.from),
            &format!(
                "ORDER BY {} LIMIT {}",
                by.join(", "),
                asked.limit.saturating_add(1)
            ),
        );
        let rows: Vec<(String,)> = tx.query(&sql, &values).await?;
        let mut ids: Vec<String> = rows.into_iter().map(|(id,)| id).collect();
        let more = ids.len() > asked.limit;
        ids.truncate(asked.limit);
        if asked.reverse {
            ids.reverse();
        }
        Ok(Ids { ids, more })
    }

    /// What a marker's row is sorted by, whether a filter leaves it out or not; what it was, if it was
    /// deleted.
    async fn keys(
        &self,
        tx: &mut Tx,
        visible: &Condition,
        owner: Option<&str>,
        order: &[(Field, Direction)],
        marker: &str,
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let mut its = visible.clone();
        its.and(Condition::new(format!("{} = ?", self.id), [marker.into()]));
        let columns: Vec<String> = order.iter().map(|(field, _)| field.key()).collect();
        let (sql, values) = its.statement(
            &format!("SELECT {} FROM {}", columns.join(", "), self.from),
            "",
        );
        if let Some(row) = tx.query_opt::<Row>(&sql, &values).await? {
            let keys = order
                .iter()
                .enumerate()
                .map(|(n, (field, _))| field.read(&row, n));
            return keys.collect::<Result<_, _>>().map(Some);
        }
        let Some(kept) = markers::find(tx, self.kind, owner, marker).await? else {
            return Ok(None);
        };
        Ok(order.iter().map(|(field, _)| field.kept(&kept)).collect())
    }
}

impl Field {
    /// What a row has of it.
    pub(super) fn read(&self, row: &Row, position: usize) -> Result<Value, StoreError> {
        Ok(match self.is {
            Is::Text => row.at::<String>(position)?.into(),
            Is::Number | Is::Flag | Is::Time => row.at::<i64>(position)?.into(),
        })
    }

    /// What was kept of it; `None` from a release that did not know it.
    fn kept(&self, kept: &serde_json::Value) -> Option<Value> {
        match self.is {
            Is::Text => kept[self.name].as_str().map(Value::from),
            Is::Number | Is::Flag | Is::Time => kept[self.name].as_i64().map(Value::from),
        }
    }
}

/// What comes behind these keys.
fn behind(order: &[(Field, Direction)], keys: &[Value]) -> Condition {
    let sign = |direction: &Direction| match direction {
        Direction::Ascending => '>',
        Direction::Descending => '<',
    };
    let columns: Vec<String> = order.iter().map(|(field, _)| field.key()).collect();
    let Some((_, first)) = order.first() else {
        return Condition::never();
    };
    // One comparison of rows, for which an index can be used.
    if order.iter().all(|(_, direction)| direction == first) {
        let marks = vec!["?"; keys.len()].join(", ");
        let sql = format!("({}) {} ({marks})", columns.join(", "), sign(first));
        return Condition::new(sql, keys.iter().cloned());
    }
    let mut equal = Condition::default();
    let mut each = Vec::new();
    for ((column, (_, direction)), key) in columns.iter().zip(order).zip(keys) {
        let mut here = equal.clone();
        let beyond = format!("{column} {} ?", sign(direction));
        here.and(Condition::new(beyond, [key.clone()]));
        each.push(here);
        equal.and(Condition::new(format!("{column} = ?"), [key.clone()]));
    }
    Condition::any(each)
}
