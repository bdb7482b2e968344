//! An operation's row, read and written: the compare-and-swap that decides who did a step.
//!
//! A row of a kind, version, step or state that only a newer controller knows is left as it is: it
//! is neither driven nor ended here, and its answers are passed on ([`Opened::Newer`]).

use crate::{Kinds, Next, children, decide, holds, timers};
use berth_controller_core::store::{Json, Row, StoreError, Tx};
use berth_controller_core::{Env, Origin, params, row};
use berth_rpc_types::{InstanceId, OperationId, Stored, Subject, SubjectKind};
use serde_json::Value;
use uuid::Uuid;

/// One open operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it is about.
    pub subject: Subject,
    /// In whose project.
    pub project_id: String,
    /// Who asked for it.
    pub user_id: String,
    /// The request that asked for it.
    pub request_id: String,
    /// That request's W3C trace context.
    pub traceparent: Option<String>,
    /// What is done: `operations.kind`.
    pub kind: String,
    /// The current step, by name.
    pub step: String,
    /// Counts from 1; a command of a new attempt has a new message id.
    pub attempt: u32,
    /// What it remembers, as its kind writes it.
    pub params: Value,
    /// When the driver looks at it next, in Unix milliseconds; `None`: when something happens.
    pub wake_at: Option<i64>,
}

/// An operation to be.
#[derive(Clone, Debug)]
pub struct New<'a> {
    /// Its id.
    pub id: OperationId,
    /// The text in `operations.kind`.
    pub kind: &'a str,
    /// The version of its steps that it is begun with, and keeps.
    pub version: i64,
    /// The first step.
    pub step: &'a str,
    /// What it is about.
    pub subject: Subject,
    /// Who asked, under which request id.
    pub origin: &'a Origin,
    /// What the request said; kept in `operations.params` under `given`.
    pub given: &'a Value,
}

/// What an operation's id leads to.
#[derive(Debug)]
pub enum Opened {
    /// Open, and this build knows its kind, version and step.
    Ours(Box<Operation>),
    /// Open, and only a newer controller knows what to do with it; in words.
    Newer(String),
    /// Over, or never begun.
    Closed,
}

impl Operation {
    /// The operation, if it is open.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn open(
        tx: &mut Tx,
        kinds: &dyn Kinds,
        id: OperationId,
    ) -> Result<Opened, StoreError> {
        let row = tx
            .query_opt(
                "SELECT * FROM operations WHERE id = $1 AND finished_at IS NULL",
                params![id],
            )
            .await?;
        let Some(row) = row else {
            return Ok(Opened::Closed);
        };
        Self::opened(tx, &row, kinds).await
    }

    /// The SQL condition for rows that this build can drive. What it takes for ours may still turn
    /// out not to be ([`Operation::open`] looks closer); what it leaves out is not looked at.
    pub fn is_ours(kinds: &dyn Kinds) -> String {
        let known = kinds.kinds();
        let known = known.iter().map(|kind| {
            let (name, version) = (kind.name, kind.version);
            let steps = kind.steps.iter().map(|step| format!("'{}'", step.name));
            let steps: Vec<String> = steps.collect();
            let steps = steps.join(", ");
            format!("(kind = '{name}' AND version <= {version} AND step IN ({steps}))")
        });
        let known: Vec<String> = known.collect();
        format!("state = 'running' AND ({})", known.join(" OR "))
    }

    /// What a newer controller has written is not read further than to see that.
    async fn opened(tx: &mut Tx, row: &Row, kinds: &dyn Kinds) -> Result<Opened, StoreError> {
        let (kind, step): (String, String) = (row.get("kind")?, row.get("step")?);
        let (version, state): (i64, String) = (row.get("version")?, row.get("state")?);
        let known = kinds.kinds().into_iter().any(|known| {
            let steps = || known.steps.iter().any(|known| known.name == step);
            known.name == kind && version <= known.version && steps()
        });
        if !known || state != "running" {
            return Ok(Opened::Newer(format!(
                "{kind} version {version}, step {step}, {state}"
            )));
        }
        let id = row.get("id")?;
        let subject = match row.get::<Option<InstanceId>>("instance_id")? {
            Some(instance) => instance.into(),
            None => subject(tx, id).await?,
        };
        Ok(Opened::Ours(Box::new(Self {
            id,
            subject,
            project_id: row.get("project_id")?,
            user_id: row.get("user_id")?,
            request_id: row.get("request_id")?,
            traceparent: row.get("traceparent")?,
            kind,
            step,
            attempt: row.get("attempt")?,
            params: row.get::<Json<Value>>("params")?.0,
            wake_at: row.get("wake_at")?,
        })))
    }

    /// The instance that it is about.
    ///
    /// # Errors
    /// [`StoreError::Malformed`]: it is about something else.
    pub fn instance_id(&self) -> Result<InstanceId, StoreError> {
        let id = self.subject.id_of(SubjectKind::Instance);
        id.map(InstanceId).ok_or_else(|| StoreError::Malformed {
            table: "operations".into(),
            column: "instance_id".into(),
            reason: format!("{} {} is about {}", self.kind, self.id, self.subject),
        })
    }

    /// Writes a new operation's row. It is due at once.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn insert(tx: &mut Tx, now: i64, new: New<'_>) -> Result<(), StoreError> {
        let origin = new.origin;
        let subject = &new.subject;
        let instance_id = subject.id_of(SubjectKind::Instance).map(InstanceId);
        tx.execute(
            "INSERT INTO operations (id, kind, version, instance_id, project_id, user_id, request_id, \
             step, attempt, state, params, traceparent, wake_at, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $11, 1, 'running', $8, $9, $10, $10, $10)",
            params![
                new.id,
                new.kind,
                new.version,
                instance_id,
                &origin.project_id,
                &origin.user_id,
                &origin.request_id,
                decide::given(new.given),
                origin.traceparent.as_deref(),
                now,
                new.step
            ],
        )
        .await?;
        if instance_id.is_none() {
            tx.execute(
                "INSERT INTO operation_subjects (operation_id, subject_kind, subject_id) \
                 VALUES ($1, $2, $3)",
                params![new.id, subject.kind.as_str(), subject.id.to_string()],
            )
            .await?;
        }
        Ok(())
    }

    /// Writes the next state, if nobody else took this step since it was read. `false`: somebody did.
    /// `turn`: the driver's turn, which it may have been due for, is done with it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn save(
        &self,
        tx: &mut Tx,
        env: &Env,
        next: &Next,
        turn: bool,
    ) -> Result<bool, StoreError> {
        let now = env.now();
        let due = match (next.again, turn) {
            (true, _) => Some(now),
            (false, false) => self.wake_at,
            (false, true) => None,
        };
        let timer = match next.params["timers"] == true {
            true => timers::earliest(tx, self.id).await?,
            false => None,
        };
        let wake_at = due.into_iter().chain(timer).min();
        let changed = tx
            .execute(
                "UPDATE operations SET step = $1, attempt = $2, params = $3, wake_at = $4, \
                 updated_at = $5 WHERE id = $6 AND step = $7 AND attempt = $8 AND state = 'running'",
                params![
                    next.step,
                    next.attempt,
                    &next.params,
                    wake_at,
                    now,
                    self.id,
                    &self.step,
                    self.attempt
                ],
            )
            .await?;
        Ok(changed == 1)
    }

    /// Closes it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn close(
        &self,
        tx: &mut Tx,
        env: &Env,
        error: Option<&str>,
    ) -> Result<(), StoreError> {
        let state = if error.is_some() { "failed" } else { "done" };
        tx.execute(
            "UPDATE operations SET state = $1, error = $2, wake_at = NULL, updated_at = $3, \
             finished_at = $3 WHERE id = $4 AND state = 'running'",
            params![state, error, env.now(), self.id],
        )
        .await?;
        // What was not answered is not waited for any more, nor a timer or a child;
        // nothing is held.
        let ends = [
            "UPDATE outbox SET next_send_at = NULL WHERE operation_id = $1",
            "DELETE FROM timers WHERE operation_id = $1",
            "DELETE FROM children WHERE parent_id = $1",
        ];
        for end in ends {
            tx.execute(end, params![self.id]).await?;
        }
        holds::release(tx, self.id).await?;
        children::ended(tx, self.id, env.now()).await
    }
}

row! {
    struct About {
        subject_kind: Stored<SubjectKind>,
        subject_id: Uuid,
    }
}

async fn subject(tx: &mut Tx, id: OperationId) -> Result<Subject, StoreError> {
    let row: Option<About> = tx
        .query_opt(
            "SELECT subject_kind, subject_id FROM operation_subjects WHERE operation_id = $1",
            params![id],
        )
        .await?;
    let about = row.ok_or_else(|| StoreError::Malformed {
        table: "operation_subjects".into(),
        column: "operation_id".into(),
        reason: format!("operation {id} is about nothing"),
    })?;
    Ok(Subject {
        kind: about.subject_kind,
        id: about.subject_id,
    })
}
