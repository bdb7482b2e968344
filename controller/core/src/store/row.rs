//! Values in and rows out, the same for both databases.
//!
//! A query says which type its rows have ([`FromRow`]), and that type says what each column is
//! ([`FromColumn`]): a struct by the names of its fields ([`row!`](crate::row)), a tuple by position.
//! sqlx's own `FromRow` would have each type once for each database, and knows neither a TEXT that is
//! an id nor a BIGINT that is a flag, which is what both databases have here.

use super::StoreError;
use berth_rpc_types::Stored;
use berth_rpc_types::states::State;
use serde::de::DeserializeOwned;
use std::str::FromStr;

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
    /// A column, by name.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if there is no such column, or it is not what the type says.
    pub fn get<T: FromColumn>(&self, column: &str) -> Result<T, StoreError> {
        let found = self.columns.iter().find(|(name, _)| name == column);
        let (_, value) = found.ok_or_else(|| malformed(column, "is not in the row"))?;
        T::from_column(value).map_err(|why| malformed(column, &why))
    }

    /// A column, by position from 0.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn at<T: FromColumn>(&self, position: usize) -> Result<T, StoreError> {
        let found = self.columns.get(position);
        let (column, value) =
            found.ok_or_else(|| malformed(&position.to_string(), "is not in the row"))?;
        T::from_column(value).map_err(|why| malformed(column, &why))
    }
}

/// What a query's rows are.
pub trait FromRow: Sized {
    /// Reads one row.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] names the column.
    fn from_row(row: &Row) -> Result<Self, StoreError>;
}

impl FromRow for Row {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(row.clone())
    }
}

macro_rules! tuples {
    ($(($($name:ident $position:literal),+)),+ $(,)?) => {$(
        impl<$($name: FromColumn),+> FromRow for ($($name,)+) {
            fn from_row(row: &Row) -> Result<Self, StoreError> {
                Ok(($(row.at::<$name>($position)?,)+))
            }
        }
    )+};
}
tuples!(
    (A 0),
    (A 0, B 1),
    (A 0, B 1, C 2),
    (A 0, B 1, C 2, D 3),
    (A 0, B 1, C 2, D 3, E 4),
);

/// What a column is.
pub trait FromColumn: Sized {
    /// Reads a value.
    ///
    /// # Errors
    /// Why it is not one, in words that follow the column's name.
    fn from_column(value: &Value) -> Result<Self, String>;
}

impl<T: FromColumn> FromColumn for Option<T> {
    fn from_column(value: &Value) -> Result<Self, String> {
        match value {
            Value::Int(None) | Value::Text(None) | Value::Blob(None) => Ok(None),
            value => T::from_column(value).map(Some),
        }
    }
}

/// A TEXT.
impl FromColumn for String {
    fn from_column(value: &Value) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
}

/// A BIGINT.
impl FromColumn for i64 {
    fn from_column(value: &Value) -> Result<Self, String> {
        match value {
            Value::Int(Some(int)) => Ok(*int),
            Value::Int(None) | Value::Text(None) | Value::Blob(None) => Err("is NULL".into()),
            other => Err(format!("is not BIGINT: {other:?}")),
        }
    }
}

/// A BIGINT that is 0 or not.
impl FromColumn for bool {
    fn from_column(value: &Value) -> Result<Self, String> {
        i64::from_column(value).map(|int| int != 0)
    }
}

macro_rules! counts {
    ($($ty:ty),+) => {$(
        /// A BIGINT in the type's range.
        impl FromColumn for $ty {
            fn from_column(value: &Value) -> Result<Self, String> {
                let int = i64::from_column(value)?;
                int.try_into().map_err(|_| format!("is out of range: {int}"))
            }
        }
    )+};
}
counts!(u8, u16, u32, u64);

/// A BLOB.
impl FromColumn for Vec<u8> {
    fn from_column(value: &Value) -> Result<Self, String> {
        match value {
            Value::Blob(Some(bytes)) => Ok(bytes.clone()),
            other => Err(format!("is not BLOB: {other:?}")),
        }
    }
}

/// A TEXT that parses as `T`: an address, a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parsed<T>(pub T);

impl<T: FromStr<Err: std::fmt::Display>> FromColumn for Parsed<T> {
    fn from_column(value: &Value) -> Result<Self, String> {
        parsed(value).map(Self)
    }
}

/// A TEXT that is JSON of a `T`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromColumn for Json<T> {
    fn from_column(value: &Value) -> Result<Self, String> {
        let value = serde_json::from_str(text(value)?).map_err(|e| e.to_string())?;
        Ok(Self(value))
    }
}

macro_rules! ids {
    ($($ty:ty),+ $(,)?) => {$(
        /// A TEXT in the id's form.
        impl FromColumn for $ty {
            fn from_column(value: &Value) -> Result<Self, String> {
                parsed(value)
            }
        }
    )+};
}
ids!(
    berth_rpc_types::HostId,
    berth_rpc_types::ImageId,
    berth_rpc_types::InstanceId,
    berth_rpc_types::MessageId,
    berth_rpc_types::NetworkId,
    berth_rpc_types::OperationId,
    berth_rpc_types::PortId,
    berth_rpc_types::SubnetId,
    berth_rpc_types::VmmId,
    uuid::Uuid,
);

/// A TEXT that is a state, of this build's or of a newer one's.
impl<T: State> FromColumn for Stored<T> {
    fn from_column(value: &Value) -> Result<Self, String> {
        text(value).map(Self::of)
    }
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(Some(text)) => Ok(text),
        Value::Int(None) | Value::Text(None) | Value::Blob(None) => Err("is NULL".into()),
        other => Err(format!("is not TEXT: {other:?}")),
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(value: &Value) -> Result<T, String> {
    text(value)?.parse().map_err(|e: T::Err| e.to_string())
}

fn malformed(column: &str, reason: &str) -> StoreError {
    StoreError::Malformed {
        table: "query".into(),
        column: column.into(),
        reason: reason.into(),
    }
}

/// A struct whose fields are a query's columns, by name. What stands `beside` them is no column, and
/// begins as its type's default.
///
/// ```
/// berth_controller_core::row! {
///     /// A port.
///     #[derive(Debug)]
///     pub struct Port {
///         /// Its id.
///         pub id: berth_rpc_types::PortId,
///     } beside {
///         /// Read by another query.
///         pub addresses: Vec<std::net::IpAddr>,
///     }
/// }
/// ```
#[macro_export]
macro_rules! row {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$of_field:meta])* $of:vis $field:ident: $ty:ty),* $(,)?
    } $(beside {
        $($(#[$of_beside:meta])* $at:vis $beside:ident: $beside_ty:ty),* $(,)?
    })?) => {
        $(#[$meta])*
        $vis struct $name {
            $($(#[$of_field])* $of $field: $ty,)*
            $($($(#[$of_beside])* $at $beside: $beside_ty,)*)?
        }

        impl $crate::store::FromRow for $name {
            fn from_row(row: &$crate::store::Row) -> Result<Self, $crate::store::StoreError> {
                Ok(Self {
                    $($field: row.get(stringify!($field))?,)*
                    $($($beside: Default::default(),)*)?
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    row! {
        struct Host {
            id: berth_rpc_types::HostId,
            enabled: bool,
            seen: Option<i64>,
            networks: Json<Vec<String>>,
        } beside {
            guests: u32,
        }
    }

    fn row(columns: &[(&str, Value)]) -> Row {
        let columns = columns.iter();
        let columns = columns.map(|(name, value)| ((*name).to_owned(), value.clone()));
        Row {
            columns: columns.collect(),
        }
    }

    #[test]
    fn a_struct_is_read_by_name_and_a_tuple_by_position() {
        let id = "11111111-1111-4111-8111-111111111111";
        let row = row(&[
            ("enabled", 1_i64.into()),
            ("id", id.into()),
            ("networks", "[\"physnet1\"]".into()),
            ("seen", Value::Text(None)),
        ]);
        let host = Host::from_row(&row).unwrap();
        assert_eq!(host.id.to_string(), id);
        assert!(host.enabled);
        assert_eq!((host.seen, host.guests), (None, 0));
        assert_eq!(host.networks.0, ["physnet1"]);
        let (enabled, text) = <(i64, String)>::from_row(&row).unwrap();
        assert_eq!((enabled, text.as_str()), (1, id));
    }

    #[test]
    fn what_a_column_is_not_is_said_with_its_name() {
        let row = row(&[("n", (-1_i64).into()), ("t", "x".into())]);
        let error = |e: StoreError| e.to_string();
        let text = row.get::<String>("n").map_err(error).unwrap_err();
        assert!(text.contains("column n: is not TEXT"), "{text}");
        let range = row.get::<u32>("n").map_err(error).unwrap_err();
        assert!(range.contains("out of range: -1"), "{range}");
        let absent = row.get::<String>("m").map_err(error).unwrap_err();
        assert!(absent.contains("column m: is not in the row"), "{absent}");
        assert!(row.get::<uuid::Uuid>("t").is_err());
        assert!(row.get::<Json<u8>>("t").is_err());
        assert!(row.at::<i64>(2).is_err());
    }
}
