//! One transaction, on either database.

use super::{FromRow, Row, StoreError, Value};
use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};

/// An open transaction. Every statement takes SQL with `$1` parameters.
pub struct Tx {
    pub(super) inner: Inner,
    /// Whether it only reads.
    pub(super) reads: bool,
}

pub(super) enum Inner {
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

/// A statement with its parameters: the same words for two types.
macro_rules! bound {
    ($sql:expr, $params:expr) => {{
        let mut query = sqlx::query(sqlx::AssertSqlSafe($sql));
        for value in $params {
            query = match value.clone() {
                Value::Int(v) => query.bind(v),
                Value::Text(v) => query.bind(v),
                Value::Blob(v) => query.bind(v),
            };
        }
        query
    }};
}

impl Tx {
    /// Keeps others from writing to a table until the transaction ends. To be called before anything is
    /// read: then what others did while this waited is seen, since it is the one statement that a
    /// snapshot does not come before. SQLite's transaction has its lock from its beginning.
    ///
    /// # Errors
    /// [`StoreError::Database`]
    pub async fn lock(&mut self, table: &'static str) -> Result<(), StoreError> {
        if self.is_postgres() {
            self.execute(&format!("LOCK TABLE {table} IN EXCLUSIVE MODE"), &[])
                .await?;
        }
        Ok(())
    }

    pub(super) const fn is_postgres(&self) -> bool {
        matches!(self.inner, Inner::Postgres(_))
    }

    /// Runs a statement; tells how many rows it changed.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for a unique index, else [`StoreError::Database`].
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, StoreError> {
        if self.reads {
            return Err(StoreError::ReadOnly(sql.chars().take(80).collect()));
        }
        match &mut self.inner {
            Inner::Sqlite(connection) => {
                let query = bound!(sql, params);
                let done = query.execute(&mut **connection).await.map_err(translate)?;
                Ok(done.rows_affected())
            }
            Inner::Postgres(transaction) => {
                let query = bound!(sql, params);
                let done = query.execute(&mut **transaction).await.map_err(translate)?;
                Ok(done.rows_affected())
            }
        }
    }

    /// Runs a query; gives every row, as its type.
    ///
    /// # Errors
    /// As [`Tx::execute`], and [`StoreError::Malformed`] for a row that is not of the type.
    pub async fn query<T: FromRow>(
        &mut self,
        sql: &str,
        params: &[Value],
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.rows(sql, params).await?;
        rows.iter().map(T::from_row).collect()
    }

    /// Runs a query that gives one row or none (the first, if it gives more).
    ///
    /// # Errors
    /// As [`Tx::query`].
    pub async fn query_opt<T: FromRow>(
        &mut self,
        sql: &str,
        params: &[Value],
    ) -> Result<Option<T>, StoreError> {
        let rows = self.rows(sql, params).await?;
        rows.first().map(T::from_row).transpose()
    }

    async fn rows(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        match &mut self.inner {
            Inner::Sqlite(connection) => {
                let query = bound!(sql, params);
                let rows = query
                    .fetch_all(&mut **connection)
                    .await
                    .map_err(translate)?;
                rows.iter().map(sqlite_row).collect()
            }
            Inner::Postgres(transaction) => {
                let query = bound!(sql, params);
                let rows = query
                    .fetch_all(&mut **transaction)
                    .await
                    .map_err(translate)?;
                rows.iter().map(postgres_row).collect()
            }
        }
    }
}

/// The first row of a query on its own.
pub(super) async fn sqlite_row_of(
    pool: &sqlx::SqlitePool,
    sql: &str,
    params: &[Value],
) -> Result<Option<Row>, StoreError> {
    let row = bound!(sql, params).fetch_optional(pool).await;
    row.map_err(translate)?.as_ref().map(sqlite_row).transpose()
}

/// The same.
pub(super) async fn postgres_row_of(
    pool: &sqlx::PgPool,
    sql: &str,
    params: &[Value],
) -> Result<Option<Row>, StoreError> {
    let row = bound!(sql, params).fetch_optional(pool).await;
    row.map_err(translate)?
        .as_ref()
        .map(postgres_row)
        .transpose()
}

fn translate(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => {
            StoreError::Conflict(database.message().to_owned())
        }
        _ => StoreError::Database(error),
    }
}

fn sqlite_row(row: &sqlx::sqlite::SqliteRow) -> Result<Row, StoreError> {
    let mut columns = Vec::with_capacity(row.columns().len());
    for column in row.columns() {
        let at = column.ordinal();
        let kind = {
            let raw = row.try_get_raw(at).map_err(StoreError::Database)?;
            if raw.is_null() {
                "NULL".to_owned()
            } else {
                raw.type_info().name().to_owned()
            }
        };
        let value = match kind.as_str() {
            "NULL" => Value::Text(None),
            "INTEGER" | "BIGINT" | "BOOLEAN" => {
                Value::Int(row.try_get_unchecked(at).map_err(StoreError::Database)?)
            }
            "BLOB" => Value::Blob(row.try_get_unchecked(at).map_err(StoreError::Database)?),
            _ => Value::Text(row.try_get_unchecked(at).map_err(StoreError::Database)?),
        };
        columns.push((column.name().to_owned(), value));
    }
    Ok(Row { columns })
}

fn postgres_row(row: &sqlx::postgres::PgRow) -> Result<Row, StoreError> {
    let mut columns = Vec::with_capacity(row.columns().len());
    for column in row.columns() {
        let at = column.ordinal();
        let value = match column.type_info().name() {
            "INT8" => Value::Int(row.try_get(at).map_err(StoreError::Database)?),
            "INT4" => {
                let v: Option<i32> = row.try_get(at).map_err(StoreError::Database)?;
                Value::Int(v.map(i64::from))
            }
            "BYTEA" => Value::Blob(row.try_get(at).map_err(StoreError::Database)?),
            "NUMERIC" => {
                return Err(StoreError::Malformed {
                    table: "query".into(),
                    column: column.name().into(),
                    reason: "NUMERIC: write CAST(SUM(x) AS BIGINT)".into(),
                });
            }
            _ => Value::Text(row.try_get(at).map_err(StoreError::Database)?),
        };
        columns.push((column.name().to_owned(), value));
    }
    Ok(Row { columns })
}
