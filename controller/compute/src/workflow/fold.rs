//! An event, folded into an operation on an instance: the next state, its effects, and the events
//! that these answer with, until there are none.

use super::effects::Scene;
use super::state::{Effect, Event, Limits, State};
use super::steps::next;
use super::{Kind, Step};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ControlSettings, Env, params};
use berth_controller_operations::{self as operations, Folded, Kinds, Operation};
use berth_rpc_types::{Outcome, VmmId, VmmState};
use futures::future::BoxFuture;
use std::collections::VecDeque;

/// The kinds of operation on instances.
#[derive(Clone, Copy, Debug)]
pub struct InstanceKinds;

impl Kinds for InstanceKinds {
    fn kinds(&self) -> Vec<operations::Kind> {
        let kinds = Kind::ALL.iter().map(|kind| operations::Kind {
            name: kind.as_str(),
            version: kind.version(),
        });
        kinds.collect()
    }

    fn steps(&self) -> Vec<&'static str> {
        Step::ALL.iter().map(|step| step.as_str()).collect()
    }

    fn fold<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        control: &'a ControlSettings,
        operation: &'a Operation,
        event: operations::Event,
    ) -> BoxFuture<'a, Result<Folded, StoreError>> {
        Box::pin(fold(tx, env, control, operation, event.into()))
    }

    fn observe<'a>(
        &'a self,
        tx: &'a mut Tx,
        vmm_id: VmmId,
        outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(observe(tx, vmm_id, outcome))
    }
}

async fn fold(
    tx: &mut Tx,
    env: &Env,
    control: &ControlSettings,
    operation: &Operation,
    event: Event,
) -> Result<Folded, StoreError> {
    let limits = Limits {
        max_attempts: control.max_attempts,
        grace_s: control.shutdown_timeout,
    };
    let mut events = VecDeque::from([event]);
    let mut state = State::of(operation)?;
    let mut again = false;
    let mut ended = false;
    while let Some(event) = events.pop_front() {
        let decided = next(&state, &event, limits);
        tracing::debug!(step = state.step.as_str(), ?event, next = ?decided.state.step, "step");
        // Effects belong to the step that asked for them.
        let scene = Scene {
            env,
            control,
            operation,
            state: &state,
        };
        for effect in &decided.effects {
            ended |= matches!(effect, Effect::End(_));
            events.extend(scene.apply(tx, effect).await?);
        }
        again = decided.again;
        state = decided.state;
    }
    Ok(if ended {
        Folded::Ended
    } else {
        Folded::Goes(state.row(again))
    })
}

/// The state that the answer tells, if it is newer than what is known (rule 10).
async fn observe(tx: &mut Tx, vmm_id: VmmId, outcome: &Outcome) -> Result<(), StoreError> {
    let (Outcome::Done {
        state, observation, ..
    }
    | Outcome::Failed {
        state, observation, ..
    }) = outcome
    else {
        return Ok(());
    };
    if *state == VmmState::Deleted {
        // What that frees is the workflow's to decide.
        return Ok(());
    }
    tx.execute(
        "UPDATE vmms SET state = $1, observation = $2 \
         WHERE id = $3 AND observation < $2 AND deleted_at IS NULL",
        params![state.as_str(), *observation, vmm_id],
    )
    .await?;
    Ok(())
}
