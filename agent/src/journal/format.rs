//! The journal's file: a header, then lines of `crc32 json`, each a batch of records.
//!
//! Guarantees: what was written is read back; a torn last line is told from damage before it, and
//! both from a whole line in words that only a newer agent knows; any bytes at all are contents or
//! an error, never a panic.

use super::{JournalError, io_error};
use crate::host_record::HostRecord;
use crate::record::VmmRecord;
use berth_rpc_types::VmmId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// First line of the file: the format's version.
pub(super) const HEADER: &str = "berth-agent-journal 1\n";

/// One change.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Host(HostRecord),
    Vmm(#[serde(with = "shared")] Arc<VmmRecord>),
    Forget(VmmId),
}

/// serde for an `Arc`, as for what is in it.
mod shared {
    use super::{Arc, Deserialize, Serialize};

    pub fn serialize<T: Serialize, S: serde::Serializer>(
        value: &Arc<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (**value).serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// All that is remembered.
#[derive(Clone, Default)]
pub(super) struct Contents {
    pub host: HostRecord,
    pub vmms: BTreeMap<VmmId, Arc<VmmRecord>>,
}

impl Contents {
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Host(host) => self.host = host,
            Record::Vmm(vmm) => {
                self.vmms.insert(vmm.vmm_id, vmm);
            }
            Record::Forget(vmm_id) => {
                self.vmms.remove(&vmm_id);
            }
        }
    }

    pub fn records(&self) -> Vec<Record> {
        let vmms = self.vmms.values().cloned().map(Record::Vmm);
        std::iter::once(Record::Host(self.host.clone()))
            .chain(vmms)
            .collect()
    }
}

/// A line that holds `records`.
///
/// # Errors
/// If they cannot be encoded.
pub(super) fn encode(path: &Path, records: &[Record]) -> Result<Vec<u8>, JournalError> {
    let json = serde_json::to_string(records)
        .map_err(|error| io_error(path, "encode")(std::io::Error::other(error)))?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes())
}

/// The JSON of a line that is whole, by its checksum.
fn whole(line: &[u8]) -> Option<&[u8]> {
    let (crc, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let crc = std::str::from_utf8(crc.strip_suffix(b" ")?).ok()?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json)).then_some(json)
}

/// The contents, and how many bytes of the file are good.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<(Contents, u64), JournalError> {
    let mut contents = Contents::default();
    if bytes.len() < HEADER.len() && HEADER.as_bytes().starts_with(bytes) {
        return Ok((contents, 0));
    }
    let Some(rest) = bytes.strip_prefix(HEADER.as_bytes()) else {
        let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let found = String::from_utf8_lossy(first).chars().take(40).collect();
        return Err(JournalError::Format {
            path: path.to_owned(),
            found,
        });
    };
    let mut good = HEADER.len();
    let mut torn = None;
    for (index, line) in rest.split_inclusive(|b| *b == b'\n').enumerate() {
        // Something behind a damaged line: that was no torn end.
        if let Some(line) = torn {
            return Err(JournalError::Damaged {
                path: path.to_owned(),
                line,
            });
        }
        let number = index + 2;
        let Some(json) = whole(line) else {
            torn = Some(number);
            continue;
        };
        let records: Vec<Record> =
            serde_json::from_slice(json).map_err(|error| JournalError::Newer {
                path: path.to_owned(),
                line: number,
                reason: error.to_string(),
            })?;
        records.into_iter().for_each(|r| contents.apply(r));
        good += line.len();
    }
    Ok((contents, good as u64))
}
