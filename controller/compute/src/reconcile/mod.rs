//! What is kept true of instances, their VMMs and their claims.
//!
//! - [`instances`]: no instance is held by a closed operation.
//! - [`claims`]: claims equal what is, or may be, there.
//! - [`vmms`]: VMMs whose server is gone get their tombstone.

pub mod claims;
pub mod instances;
pub mod vmms;

use berth_controller_core::params;
use berth_controller_core::store::{Store, StoreError, Tx, TxFuture};

/// Rows of a window: few enough that a round costs the same in a large cloud, and many enough that
/// a hundred thousand are looked at in a quarter of an hour.
const ROWS: i64 = 1_000;

/// The part of a table that a round looks at; the next round looks at the next part. What is looked for
/// there should never be found, and waits for its turn.
#[derive(Debug, Default)]
pub struct Window {
    /// The last key of the round before; empty at the beginning.
    after: String,
}

impl Window {
    /// Reads the next part ([`Window::read`]), and mends what something is to be done about: `mend` looks at
    /// each again, in a transaction. Gives how many it mended.
    async fn mend<F>(&mut self, store: &Store, sql: &str, mend: F) -> Result<u64, StoreError>
    where
        F: for<'t> Fn(&'t mut Tx, Vec<String>) -> TxFuture<'t, u64, StoreError> + Send + Sync,
    {
        let found = self.read(store, sql).await?;
        if found.is_empty() {
            return Ok(0);
        }
        store.tx(|tx| mend(tx, found.clone())).await
    }

    /// Reads the next part: `sql` gives keys above `$1` in their order, `$2` of them at most, and of each
    /// whether something is to be done about it. Gives those.
    async fn read(&mut self, store: &Store, sql: &str) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String, bool)> = store
            .read::<_, StoreError, _>(|tx| {
                let (sql, after) = (sql.to_owned(), self.after.clone());
                Box::pin(async move { tx.query(&sql, params![after, ROWS]).await })
            })
            .await?;
        let is_last = i64::try_from(rows.len()).is_ok_and(|n| n < ROWS);
        self.after = match rows.last() {
            Some((key, _)) if !is_last => key.clone(),
            _ => String::new(),
        };
        let marked = rows.into_iter().filter(|(_, is_marked)| *is_marked);
        Ok(marked.map(|(key, _)| key).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn every_row_has_its_turn() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let rows = 2 * ROWS + 1;
        store
            .tx::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
                               WHERE i < $1) INSERT INTO meta SELECT printf('bench-%08d', i), i FROM n";
                    tx.execute(sql, params![rows]).await
                })
            })
            .await
            .unwrap();
        let mut window = Window::default();
        let sql = "SELECT name, CASE WHEN value IN ('1', '1000', '1001', '2001') THEN 1 ELSE 0 END \
                   AS is_marked FROM meta WHERE name LIKE 'bench%' AND name > $1 ORDER BY name LIMIT $2";
        let mut found = Vec::new();
        for _ in 0..4 {
            let round = window.read(&store, sql).await.unwrap();
            found.push(round.len());
        }
        // From the beginning again.
        assert_eq!(found, [2, 1, 1, 2]);
    }
}
