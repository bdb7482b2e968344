//! What operations hold: a subject of any kind, by one operation at a time; and its sequence.
//!
//! A hold ends with its operation. A holder that is over holds nothing, whether its row is there
//! or not: a release that knows no holds may have ended it. An instance is held by its own row
//! (`instances.operation_id`), which the API shows; a VMM's sequence is in its row too.

use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::{OperationId, Subject};

/// Holds a subject for an operation. The inner error is who holds it. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn take(
    tx: &mut Tx,
    operation_id: OperationId,
    subject: &Subject,
) -> Result<Result<(), OperationId>, StoreError> {
    let (kind, id) = (subject.kind.as_str(), subject.id.to_string());
    tx.execute(
        "INSERT INTO holds (subject_kind, subject_id, operation_id) VALUES ($1, $2, $3) \
         ON CONFLICT (subject_kind, subject_id) DO UPDATE SET operation_id = EXCLUDED.operation_id \
         WHERE NOT EXISTS (SELECT 1 FROM operations o \
         WHERE o.id = holds.operation_id AND o.finished_at IS NULL)",
        params![kind, &id, operation_id],
    )
    .await?;
    let row: Option<(OperationId,)> = tx
        .query_opt(
            "SELECT operation_id FROM holds WHERE subject_kind = $1 AND subject_id = $2",
            params![kind, &id],
        )
        .await?;
    Ok(match row {
        Some((holder,)) if holder != operation_id => Err(holder),
        _ => Ok(()),
    })
}

/// Lets go all that an operation holds.
///
/// # Errors
/// [`StoreError`]
pub async fn release(tx: &mut Tx, operation_id: OperationId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM holds WHERE operation_id = $1",
        params![operation_id],
    )
    .await?;
    Ok(())
}

/// Draws the next sequence of a subject, from 1 (PROTOCOL.md, rule 3).
///
/// # Errors
/// [`StoreError`]
pub async fn next_sequence(tx: &mut Tx, subject: &Subject) -> Result<u64, StoreError> {
    let (kind, id) = (subject.kind.as_str(), subject.id.to_string());
    let row: Option<(u64,)> = tx
        .query_opt(
            "INSERT INTO sequences (subject_kind, subject_id, last) VALUES ($1, $2, 1) \
             ON CONFLICT (subject_kind, subject_id) DO UPDATE SET last = sequences.last + 1 \
             RETURNING last",
            params![kind, id],
        )
        .await?;
    // An upsert always gives its row.
    Ok(row.map_or(1, |(last,)| last))
}
