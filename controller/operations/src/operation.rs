//! An operation's row, read and written: the compare-and-swap that decides who did a step.
//!
//! A row of a kind, version, step or state that only a newer controller knows is left as it is: it
//! is neither driven nor ended here, and its answers are passed on ([`Opened::Newer`]).

use crate::{Kinds, Next};
use berth_controller_core::store::{Json, Row, StoreError, Tx};
use berth_controller_core::{Env, RequestContext, params};
use berth_rpc_types::{InstanceId, OperationId};
use serde_json::{Value, json};

/// One open operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it is about.
    pub instance_id: InstanceId,
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
}

/// An operation to be.
#[derive(Clone, Copy, Debug)]
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
    pub instance_id: InstanceId,
    /// Who asked, under which request id.
    pub context: &'a RequestContext,
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
        row.map_or(Ok(Opened::Closed), |row: Row| Self::opened(&row, kinds))
    }

    /// The SQL condition for rows that this build can drive. What it takes for ours may still turn
    /// out not to be ([`Operation::open`] looks closer); what it leaves out is not looked at.
    pub fn is_ours(kinds: &dyn Kinds) -> String {
        let known = kinds.kinds();
        let known = known.iter().map(|kind| {
            let (name, version) = (kind.name, kind.version);
            format!("(kind = '{name}' AND version <= {version})")
        });
        let known: Vec<String> = known.collect();
        let steps = kinds.steps();
        let steps: Vec<String> = steps.iter().map(|step| format!("'{step}'")).collect();
        format!(
            "state = 'running' AND ({}) AND step IN ({})",
            known.join(" OR "),
            steps.join(", ")
        )
    }

    /// What a newer controller has written is not read further than to see that.
    fn opened(row: &Row, kinds: &dyn Kinds) -> Result<Opened, StoreError> {
        let (kind, step): (String, String) = (row.get("kind")?, row.get("step")?);
        let (version, state): (i64, String) = (row.get("version")?, row.get("state")?);
        let mut known = kinds.kinds().into_iter();
        let known = known.any(|known| known.name == kind && version <= known.version);
        if !known || !kinds.steps().contains(&step.as_str()) || state != "running" {
            return Ok(Opened::Newer(format!(
                "{kind} version {version}, step {step}, {state}"
            )));
        }
        Ok(Opened::Ours(Box::new(Self {
            id: row.get("id")?,
            instance_id: row.get("instance_id")?,
            request_id: row.get("request_id")?,
            traceparent: row.get("traceparent")?,
            kind,
            step,
            attempt: row.get("attempt")?,
            params: row.get::<Json<Value>>("params")?.0,
        })))
    }

    /// Writes a new operation's row. It is due at once.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn insert(tx: &mut Tx, now: i64, new: New<'_>) -> Result<(), StoreError> {
        let context = new.context;
        tx.execute(
            "INSERT INTO operations (id, kind, version, instance_id, project_id, user_id, request_id, \
             step, attempt, state, params, traceparent, wake_at, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $11, 1, 'running', $8, $9, $10, $10, $10)",
            params![
                new.id,
                new.kind,
                new.version,
                new.instance_id,
                &context.project_id,
                &context.user_id,
                &context.request_id,
                json!({ "given": new.given }),
                context.traceparent.as_deref(),
                now,
                new.step
            ],
        )
        .await?;
        Ok(())
    }

    /// Writes the next state, if nobody else took this step since it was read. `false`: somebody did.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn save(&self, tx: &mut Tx, env: &Env, next: &Next) -> Result<bool, StoreError> {
        let now = env.now();
        let changed = tx
            .execute(
                "UPDATE operations SET step = $1, attempt = $2, params = $3, wake_at = $4, \
                 updated_at = $5 WHERE id = $6 AND step = $7 AND attempt = $8 AND state = 'running'",
                params![
                    next.step,
                    next.attempt,
                    &next.params,
                    next.again.then_some(now),
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
        // What was not answered is not waited for any more.
        tx.execute(
            "UPDATE outbox SET next_send_at = NULL WHERE operation_id = $1",
            params![self.id],
        )
        .await?;
        Ok(())
    }

    /// Ends an open operation for another, `by`. Its commands are not sent again. Gives the id of the
    /// request that had asked for it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn pre_empt(
        tx: &mut Tx,
        now: i64,
        open: OperationId,
        by: &str,
    ) -> Result<Option<String>, StoreError> {
        tx.execute(
            "UPDATE operations SET state = 'failed', error = $1, wake_at = NULL, updated_at = $2, \
             finished_at = $2 WHERE id = $3 AND state = 'running'",
            params![format!("pre-empted by {by}"), now, open],
        )
        .await?;
        tx.execute(
            "UPDATE outbox SET next_send_at = NULL WHERE operation_id = $1",
            params![open],
        )
        .await?;
        let row = tx
            .query_opt(
                "SELECT request_id FROM operations WHERE id = $1",
                params![open],
            )
            .await?;
        Ok(row.map(|(request_id,)| request_id))
    }
}
