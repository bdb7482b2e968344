//! The report of a host of which there is no news, which nearly every report is: one statement answers
//! it, and that the host was heard is written down for many hosts at once ([`Heard`]).
//!
//! Guarantees that it answers what [`crate::sync::fold`] would, or nothing: then that has its turn. So it
//! is asked of the rows whether there is anything at all that folding would look at: a refusal, a start,
//! a stray, a lost guest, a command without an answer, another capacity.
//!
//! [`Heard`]: berth_controller_core::Heard

use berth_controller_core::store::{Store, StoreError};
use berth_controller_core::{params, row};
use berth_rpc_types::link::{HostNumbers, SyncReply, SyncRequest, Timeline};

row! {
    /// What there is to say to a host without news.
    struct Quiet {
        epoch: u64,
        network_revision: u64,
        counter: String,
        last: u64,
        above: u64,
    }
}

/// The rows of a host for which nothing waits, and which obeys the newest timeline, as it was when its
/// agent was last folded in.
const QUIET: &str = "SELECT h.epoch, h.network_revision, n.last, ht.last AS above, \
    (SELECT value FROM meta WHERE name = 'lineage_counter') AS counter \
    FROM hosts h JOIN host_numbers n ON n.host_id = h.id \
    JOIN timelines t ON t.number = n.timeline AND t.id = $2 \
    JOIN host_timelines ht ON ht.host_id = h.id AND ht.timeline = t.number \
    JOIN agent_starts s ON s.host_id = h.id AND s.obeys = t.number \
    AND s.start_id = $3 AND s.boot_id = $4 \
    WHERE h.id = $1 AND h.capacity = $5 AND h.address = $6 AND h.agent_version = $7 \
    AND t.number = (SELECT MAX(number) FROM timelines) \
    AND EXISTS (SELECT 1 FROM meta m WHERE m.name = 'lineage' AND m.value = $8) \
    AND EXISTS (SELECT 1 FROM host_beats b WHERE b.host_id = h.id) \
    AND NOT EXISTS (SELECT 1 FROM refusals r WHERE r.host_id = h.id) \
    AND NOT EXISTS (SELECT 1 FROM strays g WHERE g.host_id = h.id) \
    AND NOT EXISTS (SELECT 1 FROM vmms v WHERE v.host_id = h.id AND v.lost_at IS NOT NULL \
    AND v.removed_at IS NULL) \
    AND NOT EXISTS (SELECT 1 FROM outbox c WHERE c.host_id = h.id AND c.result IS NULL)";

/// Answers a report, if there is no news in it and none for it.
///
/// # Errors
/// [`StoreError`]
pub async fn answer(store: &Store, request: &SyncRequest) -> Result<Option<SyncReply>, StoreError> {
    let has_news = request.starting
        || !request.observations.is_empty()
        || !request.guests.is_empty()
        || request.refusal.is_some();
    let (Some(start), Some(timeline), Some(lineage)) =
        (&request.start, request.timeline, &request.lineage)
    else {
        return Ok(None);
    };
    if has_news {
        return Ok(None);
    }
    let row: Option<Quiet> = store
        .query_opt(
            QUIET,
            params![
                request.host_id,
                timeline.to_string(),
                start.id.to_string(),
                &start.boot_id,
                capacity(request),
                &request.address,
                &request.version,
                lineage
            ],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let Ok(lineage_counter) = row.counter.parse() else {
        return Ok(None);
    };
    Ok(Some(SyncReply {
        epoch: row.epoch,
        lost: vec![],
        acknowledged: vec![],
        lineage: lineage.clone(),
        lineage_counter,
        network_revision: row.network_revision,
        forget: vec![],
        // Every command has its answer.
        numbers: Some(HostNumbers {
            last: row.last,
            watermark: row.last,
        }),
        timelines: vec![Timeline {
            id: timeline,
            above: row.above,
        }],
        tell: vec![],
        follows: None,
        refused: None,
        report_every_s: 0,
    }))
}

/// A host's capacity, as its row has it.
pub(crate) fn capacity(request: &SyncRequest) -> String {
    let capacity = serde_json::to_value(&request.capacity).unwrap_or_default();
    capacity.to_string()
}
