//! Tags of networks, subnets, ports and security groups: words of their owners, by which lists are
//! filtered.

use berth_controller_core::listing::Condition;
use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx, Value};
use std::collections::HashMap;

/// What has tags, as paths name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Networks,
    Subnets,
    Ports,
    SecurityGroups,
}

impl Kind {
    pub const ALL: [Self; 4] = [
        Self::Networks,
        Self::Subnets,
        Self::Ports,
        Self::SecurityGroups,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Subnets => "subnets",
            Self::Ports => "ports",
            Self::SecurityGroups => "security-groups",
        }
    }
}

/// Something with an id, and room for its tags.
pub(crate) trait Tagged {
    /// What it is.
    const KIND: Kind;
    /// Its id.
    fn id(&self) -> &str;
    /// Where its tags go.
    fn tags(&mut self) -> &mut Vec<String>;
}

/// Reads the tags of these, in order.
///
/// # Errors
/// The store's.
pub(crate) async fn fill<T: Tagged>(tx: &mut Tx, all: &mut [T]) -> Result<(), StoreError> {
    if all.is_empty() {
        return Ok(());
    }
    let mut which = Condition::new("kind = ?", [T::KIND.as_str().into()]);
    which.and(Condition::among(
        "resource_id",
        all.iter().map(|one| Value::from(one.id())),
    ));
    let (sql, values) =
        which.statement("SELECT resource_id, tag FROM network_tags", "ORDER BY tag");
    let mut tags: HashMap<String, Vec<String>> = HashMap::new();
    for (id, tag) in tx.query(&sql, &values).await? {
        tags.entry(id).or_default().push(tag);
    }
    for one in all {
        let own = tags.remove(one.id()).unwrap_or_default();
        *one.tags() = own;
    }
    Ok(())
}

/// One's.
///
/// # Errors
/// The store's.
pub(crate) async fn of(tx: &mut Tx, kind: Kind, id: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT tag FROM network_tags WHERE kind = $1 AND resource_id = $2 ORDER BY tag";
    let rows: Vec<(String,)> = tx.query(sql, params![kind.as_str(), id]).await?;
    Ok(rows.into_iter().map(|(tag,)| tag).collect())
}

/// Gives it one more.
///
/// # Errors
/// The store's.
pub(crate) async fn add(tx: &mut Tx, kind: Kind, id: &str, tag: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO network_tags (kind, resource_id, tag) VALUES ($1, $2, $3) \
               ON CONFLICT DO NOTHING";
    tx.execute(sql, params![kind.as_str(), id, tag]).await?;
    Ok(())
}

/// Takes one away; whether it had it.
///
/// # Errors
/// The store's.
pub(crate) async fn remove(
    tx: &mut Tx,
    kind: Kind,
    id: &str,
    tag: &str,
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM network_tags WHERE kind = $1 AND resource_id = $2 AND tag = $3";
    Ok(tx.execute(sql, params![kind.as_str(), id, tag]).await? > 0)
}

/// Takes all away of those whose ids meet this: they go.
///
/// # Errors
/// The store's.
pub(crate) async fn clear(tx: &mut Tx, kind: Kind, ids: Condition) -> Result<(), StoreError> {
    let mut which = Condition::new("kind = ?", [kind.as_str().into()]);
    which.and(ids);
    let (sql, values) = which.statement("DELETE FROM network_tags", "");
    tx.execute(&sql, &values).await?;
    Ok(())
}

/// The filters `tags`, `tags-any`, `not-tags` and `not-tags-any`, each with tags joined by commas; `None`
/// for another name. `column` is the id's.
pub(crate) fn filter(kind: Kind, column: &str, name: &str, wanted: &[&str]) -> Option<Condition> {
    let (all, not) = match name {
        "tags" => (true, false),
        "tags-any" => (false, false),
        "not-tags" => (true, true),
        "not-tags-any" => (false, true),
        _ => return None,
    };
    let tags = wanted.iter().flat_map(|text| text.split(','));
    let with = |tags: Vec<Value>| {
        let mut having = Condition::new("kind = ?", [kind.as_str().into()]);
        having.and(Condition::among("tag", tags));
        having.within(column, "SELECT resource_id FROM network_tags")
    };
    let tags: Vec<Value> = tags
        .filter(|tag| !tag.is_empty())
        .map(Value::from)
        .collect();
    let has = match all {
        false => with(tags),
        true => {
            let mut each = Condition::default();
            for tag in tags {
                each.and(with(vec![tag]));
            }
            each
        }
    };
    Some(if not { has.negated() } else { has })
}
