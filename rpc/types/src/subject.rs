//! What a command, an operation or a hold is about.

use crate::states::{State, states};
use crate::{HostId, ImageId, InstanceId, NetworkId, PortId, Stored, VmmId};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

states! {
    /// The kinds of things that have a sequence, or a lock, of their own.
    SubjectKind {
        /// A server.
        Instance = "instance",
        /// One process for it.
        Vmm = "vmm",
        /// A disk, root disks too.
        Disk = "disk",
        /// A volume.
        Volume = "volume",
        /// An image.
        Image = "image",
        /// A port.
        Port = "port",
        /// A network.
        Network = "network",
        /// A host.
        Host = "host",
    }
}

/// One of them. Its kind may be one that only newer builds know: it is carried as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// What kind of thing.
    pub kind: Stored<SubjectKind>,
    /// Which.
    pub id: Uuid,
}

impl Subject {
    /// That one, of a kind that this build knows.
    pub const fn new(kind: SubjectKind, id: Uuid) -> Self {
        Self {
            kind: Stored::Known(kind),
            id,
        }
    }

    /// Its id, if it is of that kind.
    pub fn id_of(&self, kind: SubjectKind) -> Option<Uuid> {
        (self.kind.known() == Some(kind)).then_some(self.id)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
    }
}

macro_rules! subjects {
    ($($id:ident -> $kind:ident),+ $(,)?) => {$(
        impl From<$id> for Subject {
            fn from(id: $id) -> Self { Self::new(SubjectKind::$kind, id.0) }
        }
    )+};
}

subjects! {
    InstanceId -> Instance,
    VmmId -> Vmm,
    ImageId -> Image,
    PortId -> Port,
    NetworkId -> Network,
    HostId -> Host,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_subject_is_on_the_wire_as_its_two_texts_and_a_newer_kind_is_carried() {
        for kind in SubjectKind::ALL {
            let subject = Subject::new(*kind, Uuid::nil());
            let value = serde_json::to_value(&subject).unwrap();
            assert_eq!(value["kind"], kind.as_str());
            assert_eq!(serde_json::from_value::<Subject>(value).unwrap(), subject);
        }
        let newer = serde_json::json!({"kind": "share", "id": Uuid::nil()});
        let carried: Subject = serde_json::from_value(newer.clone()).unwrap();
        assert_eq!(carried.kind.known(), None);
        assert_eq!(serde_json::to_value(&carried).unwrap(), newer);
    }
}
