//! Opening the database, making its tables, and running transactions.

use super::{StoreError, Tx, TxFuture, tx::Inner};
use crate::params;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use std::sync::Arc;
use std::time::Duration;

/// Each file makes its own tables; all are run at every start, so each statement is `IF NOT EXISTS`.
const SCHEMA: &[&str] = &[
    include_str!("schema/core.sql"),
    include_str!("schema/identity.sql"),
    include_str!("schema/image.sql"),
    include_str!("schema/compute.sql"),
    include_str!("schema/network.sql"),
];

/// How often a transaction that lost against others is run again.
const ATTEMPTS: u32 = 30;

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
}

#[derive(Clone)]
enum Pool {
    /// The lock file beside the database is held for the store's life: one process writes.
    Sqlite {
        pool: sqlx::SqlitePool,
        writer: Arc<tokio::sync::Mutex<()>>,
        _lock: Option<Arc<std::fs::File>>,
    },
    Postgres(sqlx::PgPool),
}

impl Store {
    /// Opens `sqlite:///path`, `sqlite::memory:` or `postgres://…`, and makes missing tables.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] for a URL that is not understood or a locked SQLite file.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::open(url, true).await
    }

    /// As [`Store::connect`], for a tool that works beside a running controller: an SQLite file
    /// is not locked. SQLite still takes one writer at a time.
    ///
    /// # Errors
    /// As [`Store::connect`].
    pub async fn connect_beside(url: &str) -> Result<Self, StoreError> {
        Self::open(url, false).await
    }

    async fn open(url: &str, exclusive: bool) -> Result<Self, StoreError> {
        let pool = if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = sqlx::postgres::PgPoolOptions::new()
                .max_connections(16)
                .acquire_timeout(Duration::from_secs(20));
            Pool::Postgres(options.connect(url).await.map_err(StoreError::Database)?)
        } else if let Some(path) = url.strip_prefix("sqlite:") {
            Self::sqlite(path, exclusive).await?
        } else {
            return Err(StoreError::Configuration(format!(
                "{url}: begin it with sqlite:/// or postgres://"
            )));
        };
        let store = Self { pool };
        store.create_tables().await?;
        Ok(store)
    }

    async fn sqlite(path: &str, exclusive: bool) -> Result<Pool, StoreError> {
        let memory = path == ":memory:";
        let (options, lock) = if memory {
            (SqliteConnectOptions::new().in_memory(true), None)
        } else {
            let path = path.trim_start_matches("//");
            let lock = if exclusive { Some(lock(path)?) } else { None };
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true);
            (options, lock.map(Arc::new))
        };
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: what a request was answered for survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        // Changing a new file to WAL is refused at once while another connection looks at it:
        // one alone does it before the pool's are opened, which then find it done.
        let first = match memory {
            true => None,
            false => Some(options.connect().await.map_err(StoreError::Database)?),
        };
        let pool = SqlitePoolOptions::new()
            .max_connections(if memory { 1 } else { 8 })
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(StoreError::Database)?;
        if let Some(first) = first {
            first.close().await.map_err(StoreError::Database)?;
        }
        Ok(Pool::Sqlite {
            pool,
            writer: Arc::default(),
            _lock: lock,
        })
    }

    async fn create_tables(&self) -> Result<(), StoreError> {
        // Even `IF NOT EXISTS` locks a table against its writers: not where all of it is there.
        let digest = hex::encode(Sha256::digest(SCHEMA.concat()));
        if self.schema().await.is_some_and(|made| made == digest) {
            return Ok(());
        }
        for file in SCHEMA {
            let text = match self.pool {
                Pool::Sqlite { .. } => (*file).to_owned(),
                Pool::Postgres(_) => file.replace(" BLOB", " BYTEA"),
            };
            let statements: Vec<String> = statements(&text);
            self.tx(|tx| {
                let statements = statements.clone();
                Box::pin(async move {
                    if matches!(tx.inner, Inner::Postgres(_)) {
                        // Two controllers may start together: CREATE IF NOT EXISTS alone races.
                        // Its answer is of type void, which is no value: it is run, not asked.
                        tx.execute("SELECT pg_advisory_xact_lock(4277009102)", &[])
                            .await?;
                    }
                    for statement in &statements {
                        tx.execute(statement, &[]).await?;
                    }
                    Ok::<_, StoreError>(())
                })
            })
            .await?;
        }
        self.tx(|tx| {
            let digest = digest.clone();
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO meta (name, value) VALUES ('schema', $1) \
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    params![digest],
                )
                .await?;
                Ok::<_, StoreError>(())
            })
        })
        .await
    }

    /// Digest of the tables' definitions as last made; `None` in a new database.
    async fn schema(&self) -> Option<String> {
        let row = self.tx::<_, StoreError, _>(|tx| {
            let sql = "SELECT value FROM meta WHERE name = 'schema'";
            Box::pin(tx.query_opt(sql, &[]))
        });
        // A database without the table answers with an error; one that is away will say so again.
        row.await.ok()??.text("value").ok()
    }

    /// Runs `body` in a transaction: commits if it returns `Ok`, else rolls back. It is run
    /// again if it lost against another transaction, so it must have no effect but rows.
    ///
    /// # Errors
    /// What `body` returned, or what the database said.
    pub async fn tx<T, E, F>(&self, body: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> TxFuture<'t, T, E> + Send + Sync,
        T: Send,
        E: From<StoreError> + AsStoreError + Send,
    {
        for attempt in 0..ATTEMPTS {
            // The lock is fair, so that SQLite's writers do not starve each other by busy-waiting.
            let _writer = match &self.pool {
                Pool::Sqlite { writer, .. } => Some(writer.lock().await),
                Pool::Postgres(_) => None,
            };
            let mut tx = match self.begin().await {
                Ok(tx) => tx,
                Err(error) if retryable(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            let result = body(&mut tx).await;
            let error = match result {
                Ok(value) => match tx.commit().await {
                    Ok(()) => return Ok(value),
                    Err(error) => E::from(error),
                },
                Err(error) => {
                    tx.rollback().await;
                    error
                }
            };
            if !error.as_store_error().is_some_and(retryable) {
                return Err(error);
            }
            tracing::debug!(
                attempt,
                "transaction lost against another; running it again"
            );
        }
        Err(StoreError::Contended(ATTEMPTS).into())
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        let inner = match &self.pool {
            Pool::Sqlite { pool, .. } => {
                let mut connection = pool.acquire().await.map_err(StoreError::Database)?;
                sqlx::query("BEGIN IMMEDIATE")
                    .execute(&mut *connection)
                    .await
                    .map_err(StoreError::Database)?;
                Inner::Sqlite(connection)
            }
            Pool::Postgres(pool) => {
                let mut transaction = pool.begin().await.map_err(StoreError::Database)?;
                sqlx::query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                    .execute(&mut *transaction)
                    .await
                    .map_err(StoreError::Database)?;
                Inner::Postgres(transaction)
            }
        };
        Ok(Tx { inner })
    }
}

fn lock(path: &str) -> Result<std::fs::File, StoreError> {
    let lock = std::fs::File::create(format!("{path}.lock"))
        .map_err(|e| StoreError::Configuration(format!("{path}.lock: {e}")))?;
    lock.try_lock().map_err(|_| {
        StoreError::Configuration(format!(
            "{path} is in use by another controller; SQLite serves one: use postgres:// for several"
        ))
    })?;
    Ok(lock)
}

impl Tx {
    async fn commit(self) -> Result<(), StoreError> {
        match self.inner {
            Inner::Sqlite(mut connection) => {
                let done = sqlx::query("COMMIT").execute(&mut *connection).await;
                if done.is_err() {
                    drop(connection.close().await);
                }
                done.map(|_| ()).map_err(StoreError::Database)
            }
            Inner::Postgres(transaction) => {
                transaction.commit().await.map_err(StoreError::Database)
            }
        }
    }

    async fn rollback(self) {
        match self.inner {
            Inner::Sqlite(mut connection) => {
                // A connection whose state is unknown must not go back to the pool.
                if sqlx::query("ROLLBACK")
                    .execute(&mut *connection)
                    .await
                    .is_err()
                {
                    drop(connection.close().await);
                }
            }
            Inner::Postgres(transaction) => drop(transaction.rollback().await),
        }
    }
}

/// Lets [`Store::tx`] see whether an error of the caller's type is a lost race.
pub trait AsStoreError {
    /// The store's error inside, if that is what this is.
    fn as_store_error(&self) -> Option<&StoreError>;
}

impl AsStoreError for StoreError {
    fn as_store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// Serialisation failures and deadlocks (PostgreSQL 40001, 40P01) and SQLITE_BUSY (5, 517).
fn retryable(error: &StoreError) -> bool {
    let StoreError::Database(sqlx::Error::Database(database)) = error else {
        return false;
    };
    matches!(
        database.code().as_deref(),
        Some("40001" | "40P01" | "5" | "517")
    )
}

/// Splits a schema file at semicolons; `--` comments may hold none.
fn statements(text: &str) -> Vec<String> {
    let without_comments: String = text
        .lines()
        .map(|line| line.split("--").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    without_comments
        .split(';')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::params;

    #[tokio::test]
    async fn a_failed_transaction_leaves_nothing() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let failed: Result<(), StoreError> = store
            .tx(|tx| {
                Box::pin(async move {
                    tx.execute(
                        "INSERT INTO meta (name, value) VALUES ($1, $2)",
                        params!["a", "b"],
                    )
                    .await?;
                    Err(StoreError::Configuration("on purpose".into()))
                })
            })
            .await;
        assert!(failed.is_err());
        let rows: Vec<_> = store
            .tx::<_, StoreError, _>(|tx| {
                Box::pin(tx.query("SELECT value FROM meta WHERE name = 'a'", &[]))
            })
            .await
            .unwrap();
        assert!(rows.is_empty());
    }

    #[tokio::test]
    async fn a_unique_index_is_a_conflict() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        for expected in [true, false] {
            let done: Result<u64, StoreError> = store
                .tx(|tx| {
                    Box::pin(async move {
                        tx.execute(
                            "INSERT INTO meta (name, value) VALUES ($1, $2)",
                            params!["a", "b"],
                        )
                        .await
                    })
                })
                .await;
            assert_eq!(done.is_ok(), expected, "{done:?}");
            if let Err(error) = done {
                assert!(matches!(error, StoreError::Conflict(_)));
            }
        }
    }
}
