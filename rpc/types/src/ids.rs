//! Typed ids: UUIDs that cannot be mistaken for one another.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! typed_id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The id with these 128 bits; callers draw them from their injected `Rng`.
            pub const fn from_u128(bits: u128) -> Self {
                Self(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> { Uuid::parse_str(s).map(Self) }
        }
    )+};
}

typed_id! {
    /// What the user asked for: a server.
    InstanceId,
    /// One VMM process on one host for an instance; directories, taps, journal entries
    /// and queue messages are keyed by it (PROTOCOL.md, "What there is").
    VmmId,
    /// A host, for as long as its agent's state directory lives. The hostname is a label.
    HostId,
    /// A workflow: one durable operation.
    OperationId,
    /// One message; sent again in doubt, with the same id.
    MessageId,
    /// An image.
    ImageId,
    /// A network.
    NetworkId,
    /// A subnet.
    SubnetId,
    /// A port: a MAC, its addresses, and what it is bound to.
    PortId,
}
