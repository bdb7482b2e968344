//! Values in and rows out, the same for both databases.

use super::StoreError;
use serde::de::DeserializeOwned;

/// A parameter. `None` keeps its type, which PostgreSQL wants to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// BIGINT
    Int(Option<i64>),
    /// TEXT
    Text(Option<String>),
    /// BLOB
    Blob(Option<Vec<u8>>),
}

macro_rules! from {
    ($($ty:ty => |$v:ident| $make:expr),+ $(,)?) => {$(
        impl From<$ty> for Value { fn from($v: $ty) -> Self { $make } }
    )+};
}

from! {
    i64 => |v| Self::Int(Some(v)),
    Option<i64> => |v| Self::Int(v),
    i32 => |v| Self::Int(Some(i64::from(v))),
    u32 => |v| Self::Int(Some(i64::from(v))),
    u64 => |v| Self::Int(Some(i64::try_from(v).unwrap_or(i64::MAX))),
    bool => |v| Self::Int(Some(i64::from(v))),
    &str => |v| Self::Text(Some(v.to_owned())),
    String => |v| Self::Text(Some(v)),
    &String => |v| Self::Text(Some(v.clone())),
    Option<String> => |v| Self::Text(v),
    Option<&str> => |v| Self::Text(v.map(str::to_owned)),
    Vec<u8> => |v| Self::Blob(Some(v)),
    serde_json::Value => |v| Self::Text(Some(v.to_string())),
    &serde_json::Value => |v| Self::Text(Some(v.to_string())),
    uuid::Uuid => |v| Self::Text(Some(v.to_string())),
}

macro_rules! from_ids {
    ($($ty:ident),+) => {$(
        impl From<berth_rpc_types::$ty> for Value {
            fn from(v: berth_rpc_types::$ty) -> Self { Self::Text(Some(v.to_string())) }
        }
        impl From<Option<berth_rpc_types::$ty>> for Value {
            fn from(v: Option<berth_rpc_types::$ty>) -> Self { Self::Text(v.map(|v| v.to_string())) }
        }
    )+};
}
from_ids!(
    HostId,
    ImageId,
    InstanceId,
    MessageId,
    NetworkId,
    OperationId,
    PortId,
    SubnetId,
    VmmId
);

/// One row, columns by name.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub(super) columns: Vec<(String, Value)>,
}

impl Row {
    fn get(&self, column: &str) -> Result<&Value, StoreError> {
        let found = self.columns.iter().find(|(name, _)| name == column);
        found
            .map(|(_, value)| value)
            .ok_or_else(|| malformed(column, "is not in the row"))
    }

    /// A TEXT that may be NULL.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if there is no such column, or not of that type.
    pub fn opt_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        match self.get(column)? {
            Value::Text(text) => Ok(text.clone()),
            Value::Int(None) | Value::Blob(None) => Ok(None),
            other => Err(malformed(column, &format!("is not TEXT: {other:?}"))),
        }
    }

    /// A TEXT.
    ///
    /// # Errors
    /// As [`Row::opt_text`], and for NULL.
    pub fn text(&self, column: &str) -> Result<String, StoreError> {
        self.opt_text(column)?
            .ok_or_else(|| malformed(column, "is NULL"))
    }

    /// A BIGINT that may be NULL.
    ///
    /// # Errors
    /// As [`Row::opt_text`].
    pub fn opt_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
        match self.get(column)? {
            Value::Int(int) => Ok(*int),
            Value::Text(None) | Value::Blob(None) => Ok(None),
            other => Err(malformed(column, &format!("is not BIGINT: {other:?}"))),
        }
    }

    /// A BIGINT.
    ///
    /// # Errors
    /// As [`Row::opt_int`], and for NULL.
    pub fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.opt_int(column)?
            .ok_or_else(|| malformed(column, "is NULL"))
    }

    /// A BIGINT that is 0 or not.
    ///
    /// # Errors
    /// As [`Row::int`].
    pub fn flag(&self, column: &str) -> Result<bool, StoreError> {
        Ok(self.int(column)? != 0)
    }

    /// A TEXT that parses as `T` (ids, addresses).
    ///
    /// # Errors
    /// As [`Row::text`], and if it does not parse.
    pub fn parse<T>(&self, column: &str) -> Result<T, StoreError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        self.text(column)?
            .parse()
            .map_err(|e: T::Err| malformed(column, &e.to_string()))
    }

    /// A TEXT that may be NULL and parses as `T`.
    ///
    /// # Errors
    /// As [`Row::opt_text`], and if it does not parse.
    pub fn opt_parse<T>(&self, column: &str) -> Result<Option<T>, StoreError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let text = self.opt_text(column)?;
        text.map(|t| {
            t.parse()
                .map_err(|e: T::Err| malformed(column, &e.to_string()))
        })
        .transpose()
    }

    /// A TEXT that is JSON of a `T`.
    ///
    /// # Errors
    /// As [`Row::text`], and if it is not.
    pub fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|e| malformed(column, &e.to_string()))
    }

    /// A BLOB.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] as above.
    pub fn blob(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        match self.get(column)? {
            Value::Blob(Some(bytes)) => Ok(bytes.clone()),
            other => Err(malformed(column, &format!("is not BLOB: {other:?}"))),
        }
    }
}

fn malformed(column: &str, reason: &str) -> StoreError {
    StoreError::Malformed {
        table: "query".into(),
        column: column.into(),
        reason: reason.into(),
    }
}
