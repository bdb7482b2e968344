//! Additions: how a quota is counted beside the transaction that adds to it.
//!
//! A count looks at every row that a project has. Inside a serialisable transaction that would set it against
//! each step of each of that project's servers, which writes to the same pages, and one of the two would be
//! run again. So what a project has is counted before, by a reader on one snapshot ([`number`], and the
//! counts), and the transaction that adds first raises the number of additions from the one that was counted
//! with ([`raise_from`]). If it is another one by then, somebody added meanwhile, and is to be counted, too.
//! What was freed meanwhile only leaves more room than was counted.

use crate::params;
use crate::store::{StoreError, Tx};

const RAISE: &str = "INSERT INTO quota_additions (project_id, number) VALUES ($1, 1) \
    ON CONFLICT (project_id) DO UPDATE SET number = quota_additions.number + 1";

/// How many times something was added to what a project has.
///
/// # Errors
/// [`StoreError`]
pub async fn number(tx: &mut Tx, project: &str) -> Result<i64, StoreError> {
    let sql = "SELECT number FROM quota_additions WHERE project_id = $1";
    let row: Option<(i64,)> = tx.query_opt(sql, params![project]).await?;
    Ok(row.map_or(0, |(number,)| number))
}

/// Says that this transaction adds. One that counts before, by itself, is to say it as well, for those that
/// counted beside it.
///
/// # Errors
/// [`StoreError`]
pub async fn raise(tx: &mut Tx, project: &str) -> Result<(), StoreError> {
    tx.execute(RAISE, params![project]).await?;
    Ok(())
}

/// Says that this transaction adds, to what was counted when there had been `number` additions. `false`: there
/// have been more since, and nothing is to be added before it is counted again.
///
/// # Errors
/// [`StoreError`]
pub async fn raise_from(tx: &mut Tx, project: &str, number: i64) -> Result<bool, StoreError> {
    let sql = format!("{RAISE} WHERE quota_additions.number = $2");
    Ok(tx.execute(&sql, params![project, number]).await? == 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::Store;

    async fn from(store: &Store, number: i64) -> bool {
        store
            .tx(|tx| Box::pin(async move { raise_from(tx, "p", number).await }))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn of_those_that_counted_at_once_one_adds() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        for round in 0..3 {
            assert!(from(&store, round).await);
            assert!(!from(&store, round).await, "it was counted before the last");
        }
        let after = store
            .tx(|tx| {
                Box::pin(async move {
                    raise(tx, "p").await?;
                    raise(tx, "other").await?;
                    number(tx, "p").await
                })
            })
            .await;
        assert_eq!(after.unwrap(), 4);
        assert!(!from(&store, 3).await, "any addition counts");
        assert!(from(&store, 4).await);
    }
}
