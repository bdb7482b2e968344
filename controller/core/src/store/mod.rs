//! The database: the only memory a controller has.
//!
//! One SQL text for two databases: `$1` parameters; TEXT, BIGINT and BLOB columns. The only
//! way in is [`Store::tx`]: SERIALIZABLE and retried on PostgreSQL; BEGIN IMMEDIATE with one
//! writer on SQLite; and [`Store::read`] for what writes nothing, which waits for nobody. A closure may run several times, so it holds no network, file or broker
//! I/O and no side effect but the rows (PROTOCOL.md, rule 11).
//!
//! Check and write are one statement: a conditional UPDATE whose row count is looked at, or a
//! unique index whose violation is [`StoreError::Conflict`].

mod connect;
mod row;
mod schema;
mod tx;

pub use connect::{AsStoreError, Store};
pub use row::{FromColumn, FromRow, Json, Parsed, Row, Value};
pub use tx::Tx;

use futures::future::BoxFuture;

/// Why a transaction did not commit.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique index refused a row. Names the constraint or columns where the database tells.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A row's content is not what this build expects.
    #[error("row of {table}: column {column}: {reason}")]
    Malformed {
        /// The table or query.
        table: String,
        /// The column.
        column: String,
        /// Why.
        reason: String,
    },
    /// The database could not be reached or refused; nothing was committed.
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
    /// A transaction that only reads was to write.
    #[error("a transaction that was begun to read does not write: {0}")]
    ReadOnly(String),
    /// Other transactions kept winning.
    #[error("the transaction lost against others {0} times; try again")]
    Contended(u32),
    /// A newer program has changed the tables.
    #[error(
        "the database has schema step {database}, and this program knows steps up to {program}: a \
         newer berth-controller used it. Run that version or a later one, or restore a backup from \
         before the upgrade"
    )]
    Newer {
        /// The database's last step.
        database: i64,
        /// This program's.
        program: i64,
    },
    /// The configuration is wrong.
    #[error("database URL: {0}")]
    Configuration(String),
}

/// What a transaction's closure returns.
pub type TxFuture<'t, T, E> = BoxFuture<'t, Result<T, E>>;

/// `params![a, b]`: parameters for `$1`, `$2`.
#[macro_export]
macro_rules! params {
    () => { &[] as &[$crate::store::Value] };
    ($($value:expr),+ $(,)?) => { &[$($crate::store::Value::from($value)),+] };
}
