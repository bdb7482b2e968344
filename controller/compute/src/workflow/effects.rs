//! What steps may do to rows, in the step's own transaction.
//!
//! No effect leaves the database: a command becomes an outbox row, and is sent after the commit.

use super::state::{Effect, Ending, Event, Order, State};
use super::{Kind, power, spec};
use crate::instances::{self, Fault, Instance};
use crate::placement::{self, PlacementError};
use crate::{actions, states};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ControlSettings, Env, params};
use berth_controller_hosts::{Target, fences};
use berth_controller_network as network;
use berth_controller_operations::{Operation, outbox};
use berth_rpc_types::{
    Command, Envelope, HostId, METHOD_VERSION_MAX, PowerState, Stored, VmState, VmmId, VmmState,
};

/// Where effects are applied.
pub(super) struct Scene<'a> {
    pub(super) env: &'a Env,
    pub(super) control: &'a ControlSettings,
    pub(super) operation: &'a Operation,
    /// Where it stands: the effects belong to this step and attempt.
    pub(super) state: &'a State,
}

impl Scene<'_> {
    /// Applies one effect. Some are answered, by an event of the same transaction.
    pub(super) async fn apply(
        &self,
        tx: &mut Tx,
        effect: &Effect,
    ) -> Result<Option<Event>, StoreError> {
        match effect {
            Effect::Task(task) => {
                tx.execute(
                    "UPDATE instances SET task_state = $1, updated_at = $2, \
                     generation = generation + 1 WHERE id = $3 AND operation_id = $4",
                    params![
                        task.as_str(),
                        self.env.now(),
                        self.operation.instance_id,
                        self.operation.id
                    ],
                )
                .await?;
                Ok(None)
            }
            Effect::Place { excluded } => self.place(tx, excluded).await.map(Some),
            Effect::Find => self.find(tx).await.map(|t| Some(Event::Found(t))),
            Effect::Bind(target) => {
                let id = self.operation.instance_id;
                network::bind(tx, id, target.vmm_id, target.host_id).await?;
                Ok(None)
            }
            Effect::Send(target, order) => self.send(tx, *target, *order).await,
            Effect::GiveBack(target) => {
                placement::give_back(tx, self.env.now(), *target).await?;
                Ok(None)
            }
            Effect::Lose(target) => {
                let now = self.env.now();
                fences::lose(tx, now, *target).await?;
                placement::give_back(tx, now, *target).await?;
                Ok(None)
            }
            Effect::End(ending) => self.end(tx, ending).await.map(|()| None),
        }
    }

    async fn place(&self, tx: &mut Tx, excluded: &[HostId]) -> Result<Event, StoreError> {
        let instance = self.instance(tx).await?;
        let placed =
            placement::select_and_claim(tx, self.env, self.control, &instance, excluded).await;
        match placed {
            Ok(target) => Ok(Event::Placed(target)),
            Err(PlacementError::NoValidHost(why)) => Ok(Event::NoHost(why)),
            Err(PlacementError::Store(error)) => Err(error),
        }
    }

    /// A VMM of the instance that is not gone; the active one first.
    async fn find(&self, tx: &mut Tx) -> Result<Option<Target>, StoreError> {
        let row: Option<(VmmId, HostId)> = tx
            .query_opt(
                "SELECT id, host_id FROM vmms WHERE instance_id = $1 AND deleted_at IS NULL \
                 ORDER BY role, created_at LIMIT 1",
                params![self.operation.instance_id],
            )
            .await?;
        Ok(row.map(|(vmm_id, host_id)| Target { vmm_id, host_id }))
    }

    /// Rule 3: the next sequence. Rule 2: one message for a step and attempt, whoever runs it.
    async fn send(
        &self,
        tx: &mut Tx,
        target: Target,
        order: Order,
    ) -> Result<Option<Event>, StoreError> {
        let operation = self.operation;
        let (step, attempt) = (self.state.step.as_str(), self.state.attempt);
        let sent = outbox::has(tx, operation.id, step, attempt).await?;
        // Asked of a command that was sent, too: a fence ends the wait for its answer.
        if let Some(fence) = fences::standing(tx, target.host_id).await? {
            return Ok(Some(Event::Fenced { fence, sent }));
        }
        if sent {
            return Ok(None);
        }
        let command = match self.command(tx, target, order).await? {
            Ok(command) => command,
            Err(why) => return Ok(Some(Event::Unwritable(why))),
        };
        let envelope = self.envelope(tx, target, &command).await?;
        let now = self.env.now();
        outbox::put(tx, now, &envelope).await?;
        let event = event_name(self.state.kind);
        let host = self.hostname(tx, target).await?;
        actions::event(
            tx,
            now,
            operation.instance_id,
            &operation.request_id,
            event,
            Some(&host),
            None,
            None,
        )
        .await?;
        Ok(None)
    }

    async fn command(
        &self,
        tx: &mut Tx,
        target: Target,
        order: Order,
    ) -> Result<Result<Command, String>, StoreError> {
        let order = match order {
            // What does not run cannot be rebooted: it is started, with all that it takes.
            Order::Reboot { .. } if !self.runs(tx, target).await? => Order::Start,
            other => other,
        };
        let command = match order {
            Order::Stop { grace_s } => Command::Stop { grace_s },
            Order::Reboot { soft, grace_s } => Command::Reboot { soft, grace_s },
            Order::Pause => Command::Pause,
            Order::Unpause => Command::Unpause,
            Order::Delete => Command::Delete,
            Order::Build | Order::Start => {
                let instance = self.instance(tx).await?;
                let id = self.operation.id;
                match spec::compile(tx, self.env, &instance, target.vmm_id, id).await? {
                    Err(why) => return Ok(Err(why)),
                    Ok(spec) if order == Order::Build => Command::Build(Box::new(spec)),
                    Ok(spec) => Command::Start(Box::new(spec)),
                }
            }
        };
        Ok(Ok(command))
    }

    async fn runs(&self, tx: &mut Tx, target: Target) -> Result<bool, StoreError> {
        let state = self.state_of(tx, target.vmm_id).await?;
        // In a state that only newer agents know, its agent decides.
        Ok(state.is_none_or(|state| matches!(state, VmmState::Running | VmmState::Paused)))
    }

    /// The state that a VMM was last seen in, if this build knows it.
    async fn state_of(&self, tx: &mut Tx, vmm_id: VmmId) -> Result<Option<VmmState>, StoreError> {
        let row: Option<(Stored<VmmState>,)> = tx
            .query_opt("SELECT state FROM vmms WHERE id = $1", params![vmm_id])
            .await?;
        Ok(row.and_then(|(state,)| state.known()))
    }

    async fn envelope(
        &self,
        tx: &mut Tx,
        target: Target,
        command: &Command,
    ) -> Result<Envelope, StoreError> {
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
            message_id: self.env.message_id(),
            operation_id: self.operation.id,
            step: self.state.step.as_str().to_owned(),
            attempt: self.state.attempt,
            host_id: target.host_id,
            vmm_id: target.vmm_id,
            sequence,
            host_epoch,
            begin_by: None,
            silence_limit: self.control.silence_limit,
            method: command.method().to_owned(),
            version: METHOD_VERSION_MAX,
            request_id: self.operation.request_id.clone(),
            traceparent: self.operation.traceparent.clone(),
            body: command.body(),
        })
    }

    async fn hostname(&self, tx: &mut Tx, target: Target) -> Result<String, StoreError> {
        let row: Option<(String,)> = tx
            .query_opt(
                "SELECT hostname FROM hosts WHERE id = $1",
                params![target.host_id],
            )
            .await?;
        Ok(row.map(|(hostname,)| hostname).unwrap_or_default())
    }

    async fn end(&self, tx: &mut Tx, ending: &Ending) -> Result<(), StoreError> {
        let operation = self.operation;
        let Some(instance) = self.any_instance(tx).await? else {
            // The reaper's: there is nothing to tell anybody.
            let error = match ending {
                Ending::Done(_) => None,
                Ending::Failed { message, .. } => Some(message.as_str()),
            };
            return operation.close(tx, self.env, error).await;
        };
        let state = self.state;
        let row = states::transition(state.kind.action(&state.memory.given));
        let now = self.env.now();
        match ending {
            Ending::Done(reached) => {
                self.finish_event(tx, "Success", None).await?;
                operation.close(tx, self.env, None).await?;
                if state.kind == Kind::Delete {
                    self.erase(tx).await?;
                } else {
                    self.settle(tx, Some(row.done), *reached, None).await?;
                }
                actions::finish(tx, now, instance.id, &operation.request_id, None).await
            }
            Ending::Failed { message, detail } => {
                self.finish_event(tx, "Error", Some(message)).await?;
                operation.close(tx, self.env, Some(message)).await?;
                let fault = Fault {
                    code: 500,
                    message: message.clone(),
                    details: detail.clone(),
                    created: now,
                };
                let reached = self.reached(tx, &instance).await?;
                let vm_state = row.failed.or_else(|| {
                    // A failed stop of what crashed meanwhile leaves it stopped, as Nova would.
                    let was = instance.vm_state.known();
                    was.map(|was| power::vm_state_after(was, reached))
                });
                self.settle(tx, vm_state, reached, Some(&fault)).await?;
                let error = Some(message.as_str());
                actions::finish(tx, now, instance.id, &operation.request_id, error).await
            }
        }
    }

    async fn reached(
        &self,
        tx: &mut Tx,
        instance: &Instance,
    ) -> Result<Option<VmmState>, StoreError> {
        let Some(vmm_id) = instance.active_vmm_id else {
            return Ok(None);
        };
        self.state_of(tx, vmm_id).await
    }

    /// Ends the task. Without a `vm_state` the instance keeps its own.
    async fn settle(
        &self,
        tx: &mut Tx,
        vm_state: Option<VmState>,
        reached: Option<VmmState>,
        fault: Option<&Fault>,
    ) -> Result<(), StoreError> {
        let now = self.env.now();
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
                self.operation.instance_id,
                self.operation.id
            ],
        )
        .await?;
        let up = matches!(reached, Some(VmmState::Running | VmmState::Paused));
        network::set_active(tx, self.operation.instance_id, up).await
    }

    /// A delete was answered for every VMM: what the instance held is free.
    async fn erase(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let id = self.operation.instance_id;
        network::release(tx, id).await?;
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
                self.env.now(),
                id,
                self.operation.id
            ],
        )
        .await?;
        Ok(())
    }

    async fn finish_event(
        &self,
        tx: &mut Tx,
        result: &str,
        details: Option<&str>,
    ) -> Result<(), StoreError> {
        let operation = self.operation;
        actions::event(
            tx,
            self.env.now(),
            operation.instance_id,
            &operation.request_id,
            event_name(self.state.kind),
            None,
            Some(result),
            details,
        )
        .await
    }

    /// Deleted ones too.
    async fn any_instance(&self, tx: &mut Tx) -> Result<Option<Instance>, StoreError> {
        let id = self.operation.instance_id;
        tx.query_opt("SELECT * FROM instances WHERE id = $1", params![id])
            .await
    }

    async fn instance(&self, tx: &mut Tx) -> Result<Instance, StoreError> {
        let id = self.operation.instance_id;
        instances::load(tx, id)
            .await?
            .ok_or_else(|| missing("instances", &id))
    }
}

/// Nova's name of the event that `os-instance-actions` shows.
const fn event_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Create => "compute__do_build_and_run_instance",
        Kind::Delete => "compute_terminate_instance",
        Kind::Start => "compute_start_instance",
        Kind::Stop => "compute_stop_instance",
        Kind::Reboot => "compute_reboot_instance",
        Kind::Pause => "compute_pause_instance",
        Kind::Unpause => "compute_unpause_instance",
    }
}

fn missing(table: &str, id: &dyn std::fmt::Display) -> StoreError {
    StoreError::Malformed {
        table: table.into(),
        column: "id".into(),
        reason: format!("an open operation needs {id}, and it is not there"),
    }
}
