//! An operation's row, read and written: the compare-and-swap that decides who did a step.
//!
//! A row of a kind, version, step or state that only a newer controller knows is left as it is: it
//! is neither driven nor ended here, and its answers are passed on ([`Opened::Newer`]).

use super::state::{Memory, State, Step};
use super::{Env, Kind};
use crate::params;
use crate::store::{Row, StoreError, Tx};
use berth_rpc_types::{InstanceId, OperationId};

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
    /// Where it stands.
    pub state: State,
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
    pub async fn open(tx: &mut Tx, id: OperationId) -> Result<Opened, StoreError> {
        let row = tx
            .query_opt(
                "SELECT * FROM operations WHERE id = $1 AND finished_at IS NULL",
                params![id],
            )
            .await?;
        row.map_or(Ok(Opened::Closed), |row| Self::from_row(&row))
    }

    /// The SQL condition for rows that this build can drive. What it takes for ours may still turn
    /// out not to be ([`Operation::open`] looks closer); what it leaves out is not looked at.
    pub(crate) fn is_ours() -> String {
        let kinds = Kind::ALL.iter().map(|kind| {
            let (name, version) = (kind.as_str(), kind.version());
            format!("(kind = '{name}' AND version <= {version})")
        });
        let kinds: Vec<String> = kinds.collect();
        let steps = Step::ALL.iter().map(|step| format!("'{}'", step.as_str()));
        let steps: Vec<String> = steps.collect();
        format!(
            "state = 'running' AND ({}) AND step IN ({})",
            kinds.join(" OR "),
            steps.join(", ")
        )
    }

    fn from_row(row: &Row) -> Result<Opened, StoreError> {
        let id: OperationId = row.parse("id")?;
        let (kind, step) = (row.text("kind")?, row.text("step")?);
        let (version, state) = (row.int("version")?, row.text("state")?);
        let known = Kind::parse(&kind).zip(Step::parse(&step));
        let ours = known.filter(|(kind, _)| version <= kind.version() && state == "running");
        let Some((kind, step)) = ours else {
            return Ok(Opened::Newer(format!(
                "{kind} version {version}, step {step}, {state}"
            )));
        };
        let memory: Memory = row.json("params")?;
        Ok(Opened::Ours(Box::new(Self {
            id,
            instance_id: row.parse("instance_id")?,
            request_id: row.text("request_id")?,
            traceparent: row.opt_text("traceparent")?,
            state: State {
                kind,
                step,
                attempt: u32::try_from(row.int("attempt")?).unwrap_or(1),
                memory,
            },
        })))
    }

    /// Writes the next state, if nobody else took this step since it was read. `false`: somebody did.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn save(
        &self,
        tx: &mut Tx,
        env: &Env,
        next: &State,
        wake_at: Option<i64>,
    ) -> Result<bool, StoreError> {
        let memory = serde_json::to_value(&next.memory).unwrap_or_default();
        let changed = tx
            .execute(
                "UPDATE operations SET step = $1, attempt = $2, params = $3, wake_at = $4, \
                 updated_at = $5 WHERE id = $6 AND step = $7 AND attempt = $8 AND state = 'running'",
                params![
                    next.step.as_str(),
                    next.attempt,
                    memory,
                    wake_at,
                    env.now(),
                    self.id,
                    self.state.step.as_str(),
                    self.state.attempt
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
}
