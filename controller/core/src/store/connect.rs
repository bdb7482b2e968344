//! Opening the database, and running transactions.

use super::tx::{self, Inner};
use super::{FromRow, StoreError, Tx, TxFuture, Value, schema};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

/// What PostgreSQL's planner is told. An index is looked into as cheaply as a table is read on: there are no
/// discs that turn, and a transaction that reads a whole table conflicts with every other one (PostgreSQL's
/// manual, 13.2.3). Nothing here runs for so long that compiling it would pay.
const PLANNER: [(&str, &str); 2] = [("random_page_cost", "1.1"), ("jit", "off")];
/// How often a transaction that lost against others is run again.
const ATTEMPTS: u32 = 30;
/// The longest wait before it is: doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

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
    /// Opens `sqlite:///path`, `sqlite::memory:` or `postgres://…`, and brings its tables up to
    /// date.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] for a URL that is not understood or a locked SQLite file;
    /// [`StoreError::Newer`] for the database of a newer program.
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
        let store = Self::open_as_it_is(url, exclusive).await?;
        schema::bring_up_to_date(&store).await?;
        Ok(store)
    }

    async fn open_as_it_is(url: &str, exclusive: bool) -> Result<Self, StoreError> {
        let pool = if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options: sqlx::postgres::PgConnectOptions =
                url.parse().map_err(StoreError::Database)?;
            let options = options.options(PLANNER);
            let pool = sqlx::postgres::PgPoolOptions::new()
                .max_connections(16)
                .acquire_timeout(Duration::from_secs(20));
            let pool = pool.connect_with(options).await;
            Pool::Postgres(pool.map_err(StoreError::Database)?)
        } else if let Some(path) = url.strip_prefix("sqlite:") {
            Self::sqlite(path, exclusive).await?
        } else {
            // Without what follows: it may be a password.
            let scheme = url
                .split_once(':')
                .map_or("no scheme", |(scheme, _)| scheme);
            return Err(StoreError::Configuration(format!(
                "database: its URL begins with {scheme:?}: begin it with sqlite:/// or postgres://"
            )));
        };
        Ok(Self { pool })
    }

    #[cfg(test)]
    pub(super) async fn connect_without_tables(url: &str) -> Result<Self, StoreError> {
        Self::open_as_it_is(url, true).await
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

    /// Runs `body` in a transaction: commits if it returns `Ok`, else rolls back. It is run
    /// again if it lost against another transaction, so it must have no effect but rows. One
    /// whose caller goes away half-way, as a client does that hangs up, rolls back.
    ///
    /// # Errors
    /// What `body` returned, or what the database said.
    pub async fn tx<T, E, F>(&self, body: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> TxFuture<'t, T, E> + Send + Sync,
        T: Send,
        E: From<StoreError> + AsStoreError + Send,
    {
        self.run(false, body).await
    }

    /// Runs `body`, which writes nothing, on one snapshot: no writer waits for it, and it for none. It is
    /// run again if its connection could not begin.
    ///
    /// # Errors
    /// What `body` returned, or what the database said; [`StoreError::ReadOnly`] if it writes.
    pub async fn read<T, E, F>(&self, body: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> TxFuture<'t, T, E> + Send + Sync,
        T: Send,
        E: From<StoreError> + AsStoreError + Send,
    {
        self.run(true, body).await
    }

    /// Runs one query on its own, which has its own snapshot; gives its first row, if it has one. Costs
    /// one way to the database and back, where a transaction costs three.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn query_opt<T: FromRow>(
        &self,
        sql: &str,
        params: &[Value],
    ) -> Result<Option<T>, StoreError> {
        let row = match &self.pool {
            Pool::Sqlite { pool, .. } => tx::sqlite_row_of(pool, sql, params).await?,
            Pool::Postgres(pool) => tx::postgres_row_of(pool, sql, params).await?,
        };
        row.as_ref().map(T::from_row).transpose()
    }

    async fn run<T, E, F>(&self, reads: bool, body: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> TxFuture<'t, T, E> + Send + Sync,
        T: Send,
        E: From<StoreError> + AsStoreError + Send,
    {
        for attempt in 0..ATTEMPTS {
            let error = match self.once(reads, &body).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.as_store_error().is_some_and(retryable) {
                return Err(error);
            }
            tracing::debug!(
                attempt,
                "transaction lost against another; running it again"
            );
            back_off(attempt).await;
        }
        Err(StoreError::Contended(ATTEMPTS).into())
    }

    async fn once<T, E, F>(&self, reads: bool, body: &F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> TxFuture<'t, T, E> + Send + Sync,
        T: Send,
        E: From<StoreError> + AsStoreError + Send,
    {
        // The lock is fair, so that SQLite's writers do not starve each other by busy-waiting.
        let _writer = match &self.pool {
            Pool::Sqlite { writer, .. } if !reads => Some(writer.lock().await),
            _ => None,
        };
        let mut tx = self.begin(reads).await?;
        match body(&mut tx).await {
            Ok(value) => {
                tx.commit().await?;
                Ok(value)
            }
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }

    async fn begin(&self, reads: bool) -> Result<Tx, StoreError> {
        let inner = match &self.pool {
            Pool::Sqlite { pool, .. } => {
                let begin = if reads { "BEGIN" } else { "BEGIN IMMEDIATE" };
                let transaction = pool.begin_with(begin).await;
                Inner::Sqlite(transaction.map_err(StoreError::Database)?)
            }
            Pool::Postgres(pool) => {
                // One snapshot is all that a reader needs; it takes part in no conflict.
                let begin = match reads {
                    true => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                    false => "BEGIN ISOLATION LEVEL SERIALIZABLE",
                };
                let transaction = pool.begin_with(begin).await;
                Inner::Postgres(transaction.map_err(StoreError::Database)?)
            }
        };
        Ok(Tx { inner, reads })
    }
}

/// Waits before another try, each time up to twice as long as before: those that lost against each other
/// would meet again at once. How long decides nothing but when, so that neither clock nor chance is the
/// injected one: a simulation's would stand still meanwhile.
#[allow(
    clippy::disallowed_methods,
    reason = "the machine's edge: the database's own conflicts"
)]
async fn back_off(attempt: u32) {
    let longest = BACK_OFF
        .0
        .saturating_mul(1 << attempt.min(16))
        .min(BACK_OFF.1);
    // As random as a hash map's seed, which is enough to part two of them.
    let draw = RandomState::new().hash_one(attempt);
    let share = u32::try_from(draw % 1_000).unwrap_or(0);
    tokio::time::sleep(longest * share / 1_000).await;
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
        let done = match self.inner {
            Inner::Sqlite(transaction) => transaction.commit().await,
            Inner::Postgres(transaction) => transaction.commit().await,
        };
        done.map_err(StoreError::Database)
    }

    /// As dropping it does, too; but what comes after waits for it.
    async fn rollback(self) {
        match self.inner {
            Inner::Sqlite(transaction) => drop(transaction.rollback().await),
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
                Box::pin(tx.query::<(String,)>("SELECT value FROM meta WHERE name = 'a'", &[]))
            })
            .await
            .unwrap();
        assert!(rows.is_empty());
    }

    #[tokio::test]
    async fn a_transaction_whose_caller_went_away_leaves_nothing_and_is_in_nobodys_way() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let endless = store.tx::<(), StoreError, _>(|tx| {
            Box::pin(async move {
                let sql = "INSERT INTO meta (name, value) VALUES ('a', 'b')";
                tx.execute(sql, params![]).await?;
                std::future::pending().await
            })
        });
        let gone = tokio::time::timeout(Duration::from_millis(200), endless).await;
        assert!(gone.is_err());
        let left = store.tx::<_, StoreError, _>(|tx| {
            Box::pin(tx.query::<(String,)>("SELECT value FROM meta WHERE name = 'a'", params![]))
        });
        assert!(left.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_reads_writes_nothing_and_waits_for_no_writer() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("db").display());
        let store = Store::connect(&url).await.unwrap();
        let insert = "INSERT INTO meta (name, value) VALUES ('a', 'b')";
        let written = store.read::<_, StoreError, _>(|tx| Box::pin(tx.execute(insert, &[])));
        assert!(matches!(written.await, Err(StoreError::ReadOnly(_))));
        async fn read(store: &Store) -> Vec<(String,)> {
            let read = store.read::<_, StoreError, _>(|tx| {
                let sql = "SELECT value FROM meta WHERE name = 'a'";
                Box::pin(tx.query::<(String,)>(sql, &[]))
            });
            read.await.unwrap()
        }
        let inside = store.tx::<_, StoreError, _>(|tx| {
            let store = store.clone();
            Box::pin(async move {
                tx.execute(insert, &[]).await?;
                Ok(read(&store).await)
            })
        });
        assert_eq!(inside.await.unwrap(), []);
        assert_eq!(read(&store).await, [("b".to_owned(),)]);
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
