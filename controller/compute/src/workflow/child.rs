//! An operation on an instance that another operation begins, as its request would.

use super::{Begin, BeginError, Kind, begin as begin_operation};
use crate::{actions, instances, states};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{Env, Origin};
use berth_controller_operations::{Child, Operation};
use berth_rpc_types::{InstanceId, OperationId, SubjectKind};

/// Begins it, if the table of states allows it. The inner error says in words why not.
pub(super) async fn begin(
    tx: &mut Tx,
    env: &Env,
    parent: &Operation,
    child: &Child,
) -> Result<Result<OperationId, String>, StoreError> {
    let id = child.subject.id_of(SubjectKind::Instance).map(InstanceId);
    let (Some(kind), Some(instance_id)) = (Kind::parse(child.kind), id) else {
        let subject = &child.subject;
        return Ok(Err(format!("there is no {} of {subject}", child.kind)));
    };
    let Some(instance) = instances::load(tx, instance_id).await? else {
        return Ok(Err(BeginError::NotFound(instance_id).to_string()));
    };
    let line = kind.line(&child.given);
    let launched = instance.launched_at.is_some();
    let task = instance.task_state.as_ref();
    if let Err(refusal) = states::check(line, &instance.vm_state, task, launched) {
        return Ok(Err(refusal.message(line.action, &instance_id)));
    }
    // In the name of who began the parent.
    let origin = Origin {
        request_id: parent.request_id.clone(),
        user_id: parent.user_id.clone(),
        project_id: parent.project_id.clone(),
        traceparent: parent.traceparent.clone(),
    };
    let wanted = Begin {
        kind,
        instance_id,
        origin: &origin,
        params: &child.given,
    };
    match begin_operation(tx, env, wanted).await {
        Ok(operation) => {
            let (now, action) = (env.now(), line.action);
            actions::start(tx, now, instance_id, &origin, action, Some(operation)).await?;
            Ok(Ok(operation))
        }
        Err(BeginError::Store(error)) => Err(error),
        Err(refused) => Ok(Err(refused.to_string())),
    }
}
