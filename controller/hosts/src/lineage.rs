//! Which database this is, and how old: a lineage made once, and a counter that never falls within it.
//! [`crate::timelines`] says what becomes of that when a backup is restored (rule 5).

use berth_controller_core::store::{Store, StoreError, Tx};
use berth_controller_core::{AppState, Env, params};

/// Makes the lineage of a new database; gives what it is.
///
/// # Errors
/// [`StoreError`]
pub async fn ensure(store: &Store, env: &Env) -> Result<String, StoreError> {
    let lineage = env.uuid().to_string();
    store
        .tx(|tx| {
            let lineage = lineage.clone();
            Box::pin(async move {
                for (name, value) in [("lineage", lineage.as_str()), ("lineage_counter", "1")] {
                    tx.execute(
                        "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
                        params![name, value],
                    )
                    .await?;
                }
                Ok(read(tx).await?.0)
            })
        })
        .await
}

/// The lineage and its counter.
///
/// # Errors
/// [`StoreError`]
pub async fn read(tx: &mut Tx) -> Result<(String, u64), StoreError> {
    let rows: Vec<(String, String)> = tx
        .query(
            "SELECT name, value FROM meta WHERE name IN ('lineage', 'lineage_counter')",
            &[],
        )
        .await?;
    let mut found = (String::new(), 0);
    for (name, value) in rows {
        match name.as_str() {
            "lineage" => found.0 = value,
            _ => found.1 = value.parse().map_err(|_| counter(&value))?,
        }
    }
    Ok(found)
}

fn counter(value: &str) -> StoreError {
    StoreError::Malformed {
        table: "meta".into(),
        column: "lineage_counter".into(),
        reason: format!("is no number: {value}"),
    }
}

/// Counts on.
///
/// # Errors
/// [`StoreError`]
pub async fn advance(app: &AppState) -> Result<u64, StoreError> {
    app.store.tx(|tx| Box::pin(tx.execute(ADVANCE, &[]))).await
}

/// Counts on.
pub(crate) const ADVANCE: &str = "UPDATE meta SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) \
    WHERE name = 'lineage_counter'";
