//! Markers of what is deleted: whoever lists and deletes page by page gives the id of a row that is gone
//! as the next page's marker. Where it was in any order is kept for a day of the cloud's beats
//! ([`crate::beat`]).

use super::{Condition, Is, Table};
use crate::params;
use crate::store::{Json, Row, StoreError, Tx};
use serde_json::{Map, Value};

/// Notes where rows were that are about to be deleted.
///
/// # Errors
/// [`StoreError`]
pub async fn keep(tx: &mut Tx, table: &Table, which: &Condition) -> Result<(), StoreError> {
    let columns: Vec<String> = table.fields.iter().map(super::Field::key).collect();
    let (sql, values) = which.statement(
        &format!(
            "SELECT {}, {}, {} FROM {}",
            table.id,
            table.owner,
            columns.join(", "),
            table.from
        ),
        "",
    );
    for row in tx.query::<Row>(&sql, &values).await? {
        let mut keys = Map::new();
        for (n, field) in table.fields.iter().enumerate() {
            let value = match field.is {
                Is::Text => Value::from(row.at::<String>(n + 2)?),
                Is::Number | Is::Flag | Is::Time => Value::from(row.at::<i64>(n + 2)?),
            };
            keys.insert(field.name.to_owned(), value);
        }
        tx.execute(
            "INSERT INTO deleted_markers (kind, id, owner, keys, beat) \
             VALUES ($1, $2, $3, $4, COALESCE((SELECT MAX(beat) FROM beats), 0)) \
             ON CONFLICT (kind, id) DO UPDATE SET keys = excluded.keys, beat = excluded.beat",
            params![
                table.kind,
                row.at::<String>(0)?,
                row.at::<String>(1)?,
                Value::Object(keys)
            ],
        )
        .await?;
    }
    Ok(())
}

/// What one was sorted by, if this owner may know it.
pub(super) async fn find(
    tx: &mut Tx,
    kind: &str,
    owner: Option<&str>,
    id: &str,
) -> Result<Option<Value>, StoreError> {
    let sql = "SELECT keys FROM deleted_markers WHERE kind = $1 AND id = $2 \
               AND (CAST($3 AS TEXT) IS NULL OR owner IN ('', $3))";
    let row = tx
        .query_opt::<(Json<Value>,)>(sql, params![kind, id, owner])
        .await?;
    Ok(row.map(|(Json(keys),)| keys))
}

/// Forgets those that are more than `beats` old. How many.
///
/// # Errors
/// [`StoreError`]
pub async fn prune(tx: &mut Tx, beats: i64) -> Result<u64, StoreError> {
    let sql = "DELETE FROM deleted_markers \
               WHERE beat < (SELECT COALESCE(MAX(beat), 0) FROM beats) - $1";
    tx.execute(sql, params![beats]).await
}
