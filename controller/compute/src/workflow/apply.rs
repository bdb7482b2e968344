//! What steps may do to rows, in the step's own transaction.
//!
//! No effect leaves the database: a command becomes an outbox row, and is sent after the commit.

use super::domain::{Change, InstanceKinds, Limits, Order, Reply};
use super::kinds::{self, MACHINES};
use super::{child, power, spec};
use crate::instances::{self, Fault, Instance};
use crate::placement::{self, PlacementError};
use crate::{actions, boot_sources};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ControlSettings, Env, params};
use berth_controller_hosts::{Target, fences};
use berth_controller_network as network;
use berth_controller_operations::{Apply, Child, Ending, Failure, Kind, Named, Operation, Scene};
use berth_rpc_types::{
    Command, Envelope, HostId, InstanceId, METHOD_VERSION_MAX, OperationId, Outcome, PowerState,
    Seen, Stored, Subject, SubjectKind, VmState, VmmId, VmmState,
};
use futures::future::BoxFuture;

type Here<'a> = Scene<'a, InstanceKinds>;

impl Apply for InstanceKinds {
    fn machines() -> &'static [&'static Kind<Self>] {
        &MACHINES
    }

    fn limits(control: &ControlSettings) -> Limits {
        Limits {
            max_attempts: control.max_attempts,
            grace_s: control.shutdown_timeout,
        }
    }

    fn change<'a>(
        tx: &'a mut Tx,
        scene: &'a Here<'a>,
        change: &'a Change,
    ) -> BoxFuture<'a, Result<Option<Reply>, StoreError>> {
        Box::pin(make(tx, scene, change))
    }

    fn closed<'a>(
        tx: &'a mut Tx,
        _scene: &'a Here<'a>,
        to: Target,
        command: Named<'a>,
    ) -> BoxFuture<'a, Result<Option<Reply>, StoreError>> {
        Box::pin(async move {
            let fence = fences::standing(tx, to.host_id).await?;
            let sent = command.sent;
            Ok(fence.map(|fence| Reply::Fenced { fence, sent }))
        })
    }

    fn envelope<'a>(
        tx: &'a mut Tx,
        scene: &'a Here<'a>,
        to: Target,
        order: &'a Order,
    ) -> BoxFuture<'a, Result<Result<Envelope, Reply>, StoreError>> {
        Box::pin(async move {
            let command = match command(tx, scene, to, *order).await? {
                Ok(command) => command,
                Err(why) => return Ok(Err(Reply::Unwritable(why))),
            };
            let envelope = envelope(tx, scene, to, &command).await?;
            let operation = scene.operation;
            let host = hostname(tx, to).await?;
            actions::event(
                tx,
                scene.env.now(),
                operation.instance_id()?,
                &operation.request_id,
                scene.kind.about.event,
                Some(&host),
                None,
                None,
            )
            .await?;
            Ok(Ok(envelope))
        })
    }

    fn end<'a>(
        tx: &'a mut Tx,
        scene: &'a Here<'a>,
        ending: &'a Ending<Self>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(end(tx, scene, ending))
    }

    fn begin_child<'a>(
        tx: &'a mut Tx,
        env: &'a Env,
        parent: &'a Operation,
        wanted: &'a Child,
    ) -> BoxFuture<'a, Result<Result<OperationId, String>, StoreError>> {
        Box::pin(child::begin(tx, env, parent, wanted))
    }

    fn observe<'a>(
        tx: &'a mut Tx,
        subject: Subject,
        outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match (subject.id_of(SubjectKind::Vmm), outcome.seen()) {
                (Some(id), Some(seen)) => observe(tx, VmmId(id), seen).await,
                _ => Ok(()),
            }
        })
    }
}

/// The state that an answer tells, if it is newer than what is known (rule 10).
async fn observe(tx: &mut Tx, vmm_id: VmmId, seen: &Seen) -> Result<(), StoreError> {
    if seen.state == VmmState::Deleted {
        // What that frees is the workflow's to decide.
        return Ok(());
    }
    tx.execute(
        "UPDATE vmms SET state = $1, observation = $2 \
         WHERE id = $3 AND observation < $2 AND deleted_at IS NULL",
        params![seen.state.as_str(), seen.observation, vmm_id],
    )
    .await?;
    Ok(())
}

async fn make(tx: &mut Tx, scene: &Here<'_>, change: &Change) -> Result<Option<Reply>, StoreError> {
    let (operation, now) = (scene.operation, scene.env.now());
    let id = operation.instance_id()?;
    match change {
        Change::Task(task) => {
            tx.execute(
                "UPDATE instances SET task_state = $1, updated_at = $2, \
                 generation = generation + 1 WHERE id = $3 AND operation_id = $4",
                params![task.as_str(), now, id, operation.id],
            )
            .await?;
        }
        Change::Reserve { excluded } => {
            return reserve(tx, scene.env, id, excluded).await.map(Some);
        }
        Change::HandOver(target) => placement::hand_over(tx, id, *target).await?,
        Change::Find => return find(tx, id).await.map(|found| Some(Reply::Found(found))),
        Change::Bind(target) => network::bind(tx, id, target.vmm_id, target.host_id).await?,
        Change::GiveBack(target) => placement::give_back(tx, now, *target).await?,
        Change::Lose(target) => {
            fences::lose(tx, now, *target).await?;
            placement::give_back(tx, now, *target).await?;
        }
    }
    Ok(None)
}

async fn reserve(
    tx: &mut Tx,
    env: &Env,
    id: InstanceId,
    excluded: &[HostId],
) -> Result<Reply, StoreError> {
    let instance = instance(tx, id).await?;
    match placement::select_and_claim(tx, env, &instance, excluded).await {
        Ok(target) => Ok(Reply::Reserved(target)),
        Err(PlacementError::NoValidHost(why)) => Ok(Reply::NoHost(why)),
        Err(PlacementError::Store(error)) => Err(error),
    }
}

/// A VMM of the instance that is not gone; the active one first.
async fn find(tx: &mut Tx, id: InstanceId) -> Result<Option<Target>, StoreError> {
    let row: Option<(VmmId, HostId)> = tx
        .query_opt(
            "SELECT id, host_id FROM vmms WHERE instance_id = $1 AND deleted_at IS NULL \
             ORDER BY role, created_at LIMIT 1",
            params![id],
        )
        .await?;
    Ok(row.map(|(vmm_id, host_id)| Target { vmm_id, host_id }))
}

async fn command(
    tx: &mut Tx,
    scene: &Here<'_>,
    target: Target,
    order: Order,
) -> Result<Result<Command, String>, StoreError> {
    let order = match order {
        // What does not run cannot be rebooted: it is started, with all that it takes.
        Order::Reboot { .. } if !runs(tx, target).await? => Order::Start,
        other => other,
    };
    let command = match order {
        Order::Stop { grace_s } => Command::Stop { grace_s },
        Order::Reboot { soft, grace_s } => Command::Reboot { soft, grace_s },
        Order::Pause => Command::Pause,
        Order::Unpause => Command::Unpause,
        Order::Delete => Command::Delete,
        Order::Build | Order::Start => {
            let operation = scene.operation;
            let instance = instance(tx, operation.instance_id()?).await?;
            let spec = spec::compile(tx, scene.env, &instance, target.vmm_id, operation.id);
            match spec.await? {
                Err(why) => return Ok(Err(why)),
                Ok(spec) if order == Order::Build => Command::Build(Box::new(spec)),
                Ok(spec) => Command::Start(Box::new(spec)),
            }
        }
    };
    Ok(Ok(command))
}

async fn runs(tx: &mut Tx, target: Target) -> Result<bool, StoreError> {
    let state = state_of(tx, target.vmm_id).await?;
    // In a state that only newer agents know, its agent decides.
    Ok(state.is_none_or(|state| matches!(state, VmmState::Running | VmmState::Paused)))
}

/// The state that a VMM was last seen in, if this build knows it.
async fn state_of(tx: &mut Tx, vmm_id: VmmId) -> Result<Option<VmmState>, StoreError> {
    let row: Option<(Stored<VmmState>,)> = tx
        .query_opt("SELECT state FROM vmms WHERE id = $1", params![vmm_id])
        .await?;
    Ok(row.and_then(|(state,)| state.known()))
}

async fn envelope(
    tx: &mut Tx,
    scene: &Here<'_>,
    target: Target,
    command: &Command,
) -> Result<Envelope, StoreError> {
    let operation = scene.operation;
    tx.execute(
        "UPDATE vmms SET sequence = sequence + 1 WHERE id = $1",
        params![target.vmm_id],
    )
    .await?;
    let (sequence, host_epoch): (u64, u64) = tx
        .query_opt(
            "SELECT v.sequence, h.epoch FROM vmms v JOIN hosts h ON h.id = v.host_id \
             WHERE v.id = $1",
            params![target.vmm_id],
        )
        .await?
        .ok_or_else(|| missing("vmms", &target.vmm_id))?;
    Ok(Envelope {
        message_id: scene.env.message_id(),
        operation_id: operation.id,
        step: scene.step.to_owned(),
        attempt: scene.attempt,
        host_id: target.host_id,
        vmm_id: target.vmm_id,
        sequence,
        host_epoch,
        begin_by: None,
        silence_limit: scene.env.control.silence_limit,
        method: command.method().to_owned(),
        version: METHOD_VERSION_MAX,
        request_id: operation.request_id.clone(),
        traceparent: operation.traceparent.clone(),
        body: command.body(),
        command: String::new(),
        subject: Some(target.vmm_id.into()),
        host_number: None,
        timeline: None,
        lineage: String::new(),
    })
}

async fn hostname(tx: &mut Tx, target: Target) -> Result<String, StoreError> {
    let row: Option<(String,)> = tx
        .query_opt(
            "SELECT hostname FROM hosts WHERE id = $1",
            params![target.host_id],
        )
        .await?;
    Ok(row.map(|(hostname,)| hostname).unwrap_or_default())
}

async fn end(
    tx: &mut Tx,
    scene: &Here<'_>,
    ending: &Ending<InstanceKinds>,
) -> Result<(), StoreError> {
    let (operation, now) = (scene.operation, scene.env.now());
    let error = match ending {
        Ending::Done(_) => None,
        Ending::Failed(Failure { message, .. }) => Some(message.clone()),
        Ending::GaveWay(to) => Some(format!("pre-empted by delete {to}")),
    };
    operation.close(tx, scene.env, error.as_deref()).await?;
    // The reaper's is about an instance that is gone: there is nothing to tell anybody.
    let Some(instance) = any_instance(tx, operation.instance_id()?).await? else {
        return Ok(());
    };
    let row = kinds::line(scene.kind, scene.given);
    let failed = match ending {
        Ending::Done(reached) => {
            finish_event(tx, scene, "Success", None).await?;
            if row.done == VmState::Deleted {
                erase(tx, scene).await?;
            } else {
                settle(tx, scene, Some(row.done), *reached, None).await?;
            }
            None
        }
        Ending::Failed(Failure { message, detail }) => {
            finish_event(tx, scene, "Error", Some(message)).await?;
            let fault = Fault {
                code: 500,
                message: message.clone(),
                details: detail.clone(),
                created: now,
            };
            let reached = match instance.active_vmm_id {
                Some(vmm_id) => state_of(tx, vmm_id).await?,
                None => None,
            };
            let vm_state = row.failed.or_else(|| {
                // A failed stop of what crashed meanwhile leaves it stopped, as Nova would.
                let was = instance.vm_state.known();
                was.map(|was| power::vm_state_after(was, reached))
            });
            settle(tx, scene, vm_state, reached, Some(&fault)).await?;
            Some(message.as_str())
        }
        // Who took its place has the instance.
        Ending::GaveWay(_) => Some("The instance was deleted meanwhile."),
    };
    actions::finish(tx, now, instance.id, &operation.request_id, failed).await
}

/// Ends the task. Without a `vm_state` the instance keeps its own.
async fn settle(
    tx: &mut Tx,
    scene: &Here<'_>,
    vm_state: Option<VmState>,
    reached: Option<VmmState>,
    fault: Option<&Fault>,
) -> Result<(), StoreError> {
    let (id, now) = (scene.operation.instance_id()?, scene.env.now());
    let power = reached.map(|state| PowerState::from(state) as i64);
    let fault = fault.map(|f| serde_json::to_string(f).unwrap_or_default());
    let launched = (vm_state == Some(VmState::Active)).then_some(now);
    tx.execute(
        "UPDATE instances SET vm_state = COALESCE($1, vm_state), task_state = NULL, operation_id = NULL, \
         power_state = COALESCE($2, power_state), fault = $3, \
         launched_at = COALESCE(launched_at, $4), updated_at = $5, generation = generation + 1 \
         WHERE id = $6 AND operation_id = $7",
        params![
            vm_state.map(VmState::as_str),
            power,
            fault,
            launched,
            now,
            id,
            scene.operation.id
        ],
    )
    .await?;
    let up = matches!(reached, Some(VmmState::Running | VmmState::Paused));
    network::set_active(tx, id, up).await
}

/// A delete was answered for every VMM: what the instance held is free.
async fn erase(tx: &mut Tx, scene: &Here<'_>) -> Result<(), StoreError> {
    let id = scene.operation.instance_id()?;
    network::release(tx, id).await?;
    boot_sources::forget(tx, id).await?;
    tx.execute("DELETE FROM disks WHERE instance_id = $1", params![id])
        .await?;
    tx.execute(
        "DELETE FROM server_group_members WHERE instance_id = $1",
        params![id],
    )
    .await?;
    tx.execute(
        "UPDATE instances SET vm_state = $1, task_state = NULL, operation_id = NULL, \
         power_state = 0, active_vmm_id = NULL, updated_at = $2, deleted_at = $2, \
         generation = generation + 1 WHERE id = $3 AND operation_id = $4",
        params![
            VmState::Deleted.as_str(),
            scene.env.now(),
            id,
            scene.operation.id
        ],
    )
    .await?;
    Ok(())
}

async fn finish_event(
    tx: &mut Tx,
    scene: &Here<'_>,
    result: &str,
    details: Option<&str>,
) -> Result<(), StoreError> {
    let operation = scene.operation;
    actions::event(
        tx,
        scene.env.now(),
        operation.instance_id()?,
        &operation.request_id,
        scene.kind.about.event,
        None,
        Some(result),
        details,
    )
    .await
}

/// Deleted ones too.
async fn any_instance(tx: &mut Tx, id: InstanceId) -> Result<Option<Instance>, StoreError> {
    tx.query_opt("SELECT * FROM instances WHERE id = $1", params![id])
        .await
}

async fn instance(tx: &mut Tx, id: InstanceId) -> Result<Instance, StoreError> {
    instances::load(tx, id)
        .await?
        .ok_or_else(|| missing("instances", &id))
}

fn missing(table: &str, id: &dyn std::fmt::Display) -> StoreError {
    StoreError::Malformed {
        table: table.into(),
        column: "id".into(),
        reason: format!("an open operation needs {id}, and it is not there"),
    }
}
