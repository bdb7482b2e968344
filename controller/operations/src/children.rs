//! Operations that an operation begins: so many at once, their progress, and their end.
//!
//! A parent is looked at again when a child ends; its kind is then told how far they are. What a
//! child came to is read from its own row, so that it does not matter which controller, of which
//! release, ended it.

use crate::kinds::Kinds;
use crate::machine::{Child, Progress, Signal};
use crate::{Operation, Signalled, signal};
use berth_controller_core::store::{Json, StoreError, Tx};
use berth_controller_core::{Env, params, row};
use berth_rpc_types::{OperationId, Stored, Subject, SubjectKind};
use serde_json::Value;
use uuid::Uuid;

/// Writes the children of an operation down: none is begun yet. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn write(
    tx: &mut Tx,
    parent: OperationId,
    children: &[Child],
    at_once: u32,
) -> Result<(), StoreError> {
    for (position, child) in (0_i64..).zip(children) {
        tx.execute(
            "INSERT INTO children (parent_id, position, kind, subject_kind, subject_id, given, \
             at_once, state) VALUES ($1, $2, $3, $4, $5, $6, $7, 'waiting') \
             ON CONFLICT (parent_id, position) DO NOTHING",
            params![
                parent,
                position,
                child.kind,
                child.subject.kind.as_str(),
                child.subject.id.to_string(),
                &child.given,
                i64::from(at_once.max(1))
            ],
        )
        .await?;
    }
    Ok(())
}

/// Those that have not begun never do. Those that run are told to abort when the parent is
/// looked at next ([`advance`]).
///
/// # Errors
/// [`StoreError`]
pub async fn stop(tx: &mut Tx, parent: OperationId) -> Result<(), StoreError> {
    for (from, to) in [("waiting", "stopped"), ("begun", "stopping")] {
        tx.execute(
            "UPDATE children SET state = $1 WHERE parent_id = $2 AND state = $3",
            params![to, parent, from],
        )
        .await?;
    }
    Ok(())
}

/// Begins as many as may run, and tells how far all are.
///
/// # Errors
/// [`StoreError`]
pub async fn advance(
    tx: &mut Tx,
    kinds: &dyn Kinds,
    env: &Env,
    parent: &Operation,
) -> Result<Progress, StoreError> {
    abort_stopping(tx, kinds, env, parent.id).await?;
    let (mut progress, at_once) = progress(tx, parent.id).await?;
    while progress.waiting > 0 && progress.running < at_once {
        let Some(waiting) = first_waiting(tx, parent.id).await? else {
            break;
        };
        progress.waiting -= 1;
        match begin(tx, kinds, env, parent, &waiting).await? {
            true => progress.running += 1,
            false => progress.failed += 1,
        }
    }
    Ok(progress)
}

/// Tells those that are to stop to abort, each once. What one makes of it is its own matter.
async fn abort_stopping(
    tx: &mut Tx,
    kinds: &dyn Kinds,
    env: &Env,
    parent: OperationId,
) -> Result<(), StoreError> {
    let stopping: Vec<(OperationId,)> = tx
        .query(
            "SELECT operation_id FROM children WHERE parent_id = $1 AND state = 'stopping'",
            params![parent],
        )
        .await?;
    for (child,) in stopping {
        if let Signalled::Refused(why) = signal(tx, kinds, env, child, Signal::Abort).await? {
            tracing::info!(operation_id = %child, why, "a child goes on to its end");
        }
        tx.execute(
            "UPDATE children SET state = 'begun' WHERE parent_id = $1 AND operation_id = $2",
            params![parent, child],
        )
        .await?;
    }
    Ok(())
}

row! {
    struct Waiting {
        position: i64,
        kind: String,
        subject_kind: Stored<SubjectKind>,
        subject_id: Uuid,
        given: Json<Value>,
    }
}

async fn first_waiting(tx: &mut Tx, parent: OperationId) -> Result<Option<Waiting>, StoreError> {
    tx.query_opt(
        "SELECT position, kind, subject_kind, subject_id, given FROM children \
         WHERE parent_id = $1 AND state = 'waiting' ORDER BY position LIMIT 1",
        params![parent],
    )
    .await
}

/// `false`: it was refused.
async fn begin(
    tx: &mut Tx,
    kinds: &dyn Kinds,
    env: &Env,
    parent: &Operation,
    waiting: &Waiting,
) -> Result<bool, StoreError> {
    let known = kinds.kinds().into_iter().find(|k| k.name == waiting.kind);
    let begun = match known {
        None => Err(format!("{} is not known here", waiting.kind)),
        Some(known) => {
            let child = Child {
                kind: known.name,
                subject: Subject {
                    kind: waiting.subject_kind.clone(),
                    id: waiting.subject_id,
                },
                given: waiting.given.0.clone(),
            };
            kinds.begin_child(tx, env, parent, &child).await?
        }
    };
    let (state, operation_id, why) = match begun {
        Ok(operation_id) => ("begun", Some(operation_id), None),
        Err(why) => ("refused", None, Some(why)),
    };
    tx.execute(
        "UPDATE children SET state = $1, operation_id = $2, why = $3 \
         WHERE parent_id = $4 AND position = $5",
        params![state, operation_id, why, parent.id, waiting.position],
    )
    .await?;
    Ok(operation_id.is_some())
}

row! {
    struct Counted {
        state: String,
        ended: Option<String>,
        at_once: u32,
        n: u32,
    }
}

async fn progress(tx: &mut Tx, parent: OperationId) -> Result<(Progress, u32), StoreError> {
    let counted: Vec<Counted> = tx
        .query(
            "SELECT c.state AS state, o.state AS ended, c.at_once AS at_once, COUNT(*) AS n \
             FROM children c LEFT JOIN operations o ON o.id = c.operation_id \
             AND o.finished_at IS NOT NULL WHERE c.parent_id = $1 \
             GROUP BY c.state, o.state, c.at_once",
            params![parent],
        )
        .await?;
    let mut progress = Progress::default();
    let mut at_once = 1;
    for some in counted {
        at_once = some.at_once.max(at_once);
        let of = match (some.state.as_str(), some.ended.as_deref()) {
            ("waiting", _) => &mut progress.waiting,
            ("stopped", _) => &mut progress.stopped,
            ("begun" | "stopping", None) => &mut progress.running,
            ("begun" | "stopping", Some("done")) => &mut progress.done,
            _ => &mut progress.failed,
        };
        *of += some.n;
    }
    Ok((progress, at_once))
}

/// Wakes the parent of an operation that is over.
///
/// # Errors
/// [`StoreError`]
pub async fn ended(tx: &mut Tx, child: OperationId, now: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE operations SET wake_at = $1 WHERE state = 'running' \
         AND id IN (SELECT parent_id FROM children WHERE operation_id = $2)",
        params![now, child],
    )
    .await?;
    Ok(())
}
