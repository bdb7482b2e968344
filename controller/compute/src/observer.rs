//! What hosts see of guests that no operation is open on (Nova's `_sync_power_states`).

use crate::actions;
use crate::instances::{self, Fault, Instance};
use crate::strays;
use crate::workflow::{Begin, BeginError, Kind, begin, power};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{Env, Origin, params};
use berth_controller_hosts::Observer;
use berth_controller_network as network;
use berth_rpc_types::spec::VmmSpec;
use berth_rpc_types::{HostId, InstanceId, Observation, PowerState, VmState, VmmId, VmmState};
use futures::future::BoxFuture;

/// Instances, as those who are told what hosts see.
#[derive(Clone, Copy, Debug)]
pub struct Instances;

impl Observer for Instances {
    fn observed<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        instance_id: InstanceId,
        seen: &'a Observation,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(observed(tx, env, instance_id, seen))
    }

    fn found<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        vmm_id: VmmId,
        host_id: HostId,
        spec: &'a VmmSpec,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(strays::hold(tx, env.now(), vmm_id, host_id, spec))
    }

    fn gone<'a>(
        &'a self,
        tx: &'a mut Tx,
        vmm_id: VmmId,
        host_id: HostId,
        spec: &'a VmmSpec,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(strays::let_go(tx, vmm_id, host_id, spec))
    }
}

async fn observed(
    tx: &mut Tx,
    env: &Env,
    instance_id: InstanceId,
    seen: &Observation,
) -> Result<bool, StoreError> {
    let Some(instance) = instances::load(tx, instance_id).await? else {
        // The reconciler removes it by an explicit tombstone.
        return Ok(true);
    };
    if instance.operation_id.is_some() {
        return Ok(false);
    }
    // What a newer controller's state means for what guests do by themselves, only it knows.
    let Some(was) = instance.vm_state.known() else {
        return Ok(false);
    };
    tx.execute(
        "UPDATE vmms SET state = $1, observation = $2 WHERE id = $3",
        params![seen.state.as_str(), seen.observation, seen.vmm_id],
    )
    .await?;
    if instance.active_vmm_id == Some(seen.vmm_id) {
        by_itself(tx, env, &instance, was, seen).await?;
    }
    Ok(true)
}

/// A guest did something by itself.
async fn by_itself(
    tx: &mut Tx,
    env: &Env,
    instance: &Instance,
    was: VmState,
    seen: &Observation,
) -> Result<(), StoreError> {
    let vm_state = power::vm_state_after(was, Some(seen.state));
    let fault = |message: &str, details: &str| Fault {
        code: 500,
        message: message.into(),
        details: details.into(),
        created: env.now(),
    };
    let fault = match (&seen.error, seen.state) {
        (_, VmmState::Deleted) => Some(fault(
            "The server's host no longer has it: delete the server.",
            "the host's disk was replaced, or the controllers' database was restored from a backup",
        )),
        (Some(error), _) => Some(fault("The guest's VMM ended by itself.", error)),
        (None, _) => None,
    };
    let fault = fault.map(|f| serde_json::to_string(&f).unwrap_or_default());
    tx.execute(
        "UPDATE instances SET vm_state = $1, power_state = $2, fault = COALESCE($3, fault), \
         updated_at = $4, generation = generation + 1 WHERE id = $5 AND operation_id IS NULL",
        params![
            vm_state.as_str(),
            PowerState::from(seen.state) as i64,
            fault,
            env.now(),
            instance.id
        ],
    )
    .await?;
    let up = matches!(seen.state, VmmState::Running | VmmState::Paused);
    network::set_active(tx, instance.id, up).await?;
    if vm_state != was {
        let error = seen.error.as_deref().unwrap_or_default();
        tracing::info!(instance_id = %instance.id, seen = %seen.state, error, "the guest stopped by itself");
    }
    if power::must_stop(was, seen.state) {
        stop_again(tx, env, instance).await?;
    }
    Ok(())
}

async fn stop_again(tx: &mut Tx, env: &Env, instance: &Instance) -> Result<(), StoreError> {
    let origin = Origin {
        request_id: format!("req-{}", env.uuid()),
        user_id: instance.user_id.clone(),
        project_id: instance.project_id.clone(),
        traceparent: None,
    };
    tracing::warn!(request_id = %origin.request_id, instance_id = %instance.id, "it runs and should not: stopping it");
    let wanted = Begin {
        kind: Kind::Stop,
        instance_id: instance.id,
        origin: &origin,
        params: &serde_json::json!({}),
    };
    match begin(tx, env, wanted).await {
        Ok(operation) => {
            let (now, id) = (env.now(), Some(operation));
            actions::start(tx, now, instance.id, &origin, "stop", id).await
        }
        Err(BeginError::Store(error)) => Err(error),
        // Somebody is at it: told again, it is looked at again.
        Err(_) => Ok(()),
    }
}
