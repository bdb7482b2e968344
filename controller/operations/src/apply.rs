//! What a service has to do for its kinds of operation, and the loop that does it: an event, its
//! step's decision, the effects, and the events that these answer with, until there are none.
//!
//! All of it in one transaction, which the caller owns: the next state and every effect commit
//! together, or not at all (PROTOCOL.md, rule 2).

use crate::decide::{Decided, Standing, Unreadable};
use crate::kinds::{Folded, Kinds, Known, Next};
use crate::machine::{Child, Domain, Effect, Ending, Event, Kind, Signal};
use crate::{Operation, children, outbox, timers};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ControlSettings, Env};
use berth_rpc_types::{Envelope, OperationId, Outcome, Subject};
use futures::future::BoxFuture;
use serde_json::Value;
use std::collections::VecDeque;

/// Where effects are applied.
pub struct Scene<'a, D: Domain> {
    /// Time, chance and settings.
    pub env: &'a Env,
    /// The operation's row.
    pub operation: &'a Operation,
    /// Its kind.
    pub kind: &'a Kind<D>,
    /// The step that effects belong to.
    pub step: &'a str,
    /// That step's attempt.
    pub attempt: u32,
    /// What the request said.
    pub given: &'a Value,
}

/// A command's place among the others of its operation.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// See [`Effect::Send`].
    pub name: &'a str,
    /// Whether it was put into the outbox before.
    pub sent: bool,
}

/// A service, for its kinds.
pub trait Apply: Domain {
    /// All its kinds.
    fn machines() -> &'static [&'static Kind<Self>];

    /// What steps obey.
    fn limits(control: &ControlSettings) -> Self::Limits;

    /// Makes a change of rows. Some are answered.
    fn change<'a>(
        tx: &'a mut Tx,
        scene: &'a Scene<'a, Self>,
        change: &'a Self::Change,
    ) -> BoxFuture<'a, Result<Option<Self::Reply>, StoreError>>;

    /// Why nothing can be sent there, and nothing sent there will be answered: a fence, for
    /// example. Asked again for a command that was sent.
    fn closed<'a>(
        tx: &'a mut Tx,
        scene: &'a Scene<'a, Self>,
        to: Self::Target,
        command: Named<'a>,
    ) -> BoxFuture<'a, Result<Option<Self::Reply>, StoreError>>;

    /// Writes a command: its message, with the next sequence of its subject (rule 3). Called once
    /// for each name of a step's attempt. The inner error is why it cannot be written.
    fn envelope<'a>(
        tx: &'a mut Tx,
        scene: &'a Scene<'a, Self>,
        to: Self::Target,
        order: &'a Self::Order,
    ) -> BoxFuture<'a, Result<Result<Envelope, Self::Reply>, StoreError>>;

    /// Ends the operation: closes its row ([`Operation::close`]), and lets go what it was about.
    fn end<'a>(
        tx: &'a mut Tx,
        scene: &'a Scene<'a, Self>,
        ending: &'a Ending<Self>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// See [`Kinds::begin_child`].
    fn begin_child<'a>(
        tx: &'a mut Tx,
        env: &'a Env,
        parent: &'a Operation,
        child: &'a Child,
    ) -> BoxFuture<'a, Result<Result<OperationId, String>, StoreError>>;

    /// See [`Kinds::observe`].
    fn observe<'a>(
        tx: &'a mut Tx,
        subject: Subject,
        outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

impl<A: Apply> Kinds for A {
    fn kinds(&self) -> Vec<Known> {
        let known = A::machines().iter().map(|kind| Known {
            name: kind.name,
            version: kind.version,
            steps: kind.steps,
        });
        known.collect()
    }

    fn fold<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        operation: &'a Operation,
        event: Event,
    ) -> BoxFuture<'a, Result<Folded, StoreError>> {
        Box::pin(async move {
            let kind = kind_of::<A>(operation)?;
            let limits = A::limits(&env.control);
            let standing = standing(tx, kind, operation, &event).await?;
            let decided = (kind.decide)(&standing, &event.for_kind(), &limits);
            let decided = decided.map_err(malformed)?;
            carry_out(tx, env, operation, kind, standing, decided).await
        })
    }

    fn signal<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        operation: &'a Operation,
        signal: Signal,
    ) -> BoxFuture<'a, Result<Result<Folded, String>, StoreError>> {
        Box::pin(async move {
            let kind = kind_of::<A>(operation)?;
            let limits = A::limits(&env.control);
            let mut standing = Standing::from(operation);
            standing.waits = outbox::waits(tx, operation).await?;
            match (kind.signal)(&standing, &signal, &limits).map_err(malformed)? {
                Err(why) => Ok(Err(why)),
                Ok(decided) => {
                    let folded = carry_out(tx, env, operation, kind, standing, decided).await?;
                    Ok(Ok(folded))
                }
            }
        })
    }

    fn begin_child<'a>(
        &'a self,
        tx: &'a mut Tx,
        env: &'a Env,
        parent: &'a Operation,
        child: &'a Child,
    ) -> BoxFuture<'a, Result<Result<OperationId, String>, StoreError>> {
        A::begin_child(tx, env, parent, child)
    }

    fn observe<'a>(
        &'a self,
        tx: &'a mut Tx,
        subject: Subject,
        outcome: &'a Outcome,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        A::observe(tx, subject, outcome)
    }
}

impl From<&Operation> for Standing {
    fn from(operation: &Operation) -> Self {
        Self {
            step: operation.step.clone(),
            attempt: operation.attempt,
            params: operation.params.clone(),
            waits: vec![],
        }
    }
}

async fn standing<A: Apply>(
    tx: &mut Tx,
    kind: &Kind<A>,
    operation: &Operation,
    event: &Event,
) -> Result<Standing, StoreError> {
    let mut standing = Standing::from(operation);
    if standing.asks_who_waits(kind, event).map_err(malformed)? {
        standing.waits = outbox::waits(tx, operation).await?;
    }
    Ok(standing)
}

/// The kind of an open operation. One that this build does not know is not given to it.
fn kind_of<A: Apply>(operation: &Operation) -> Result<&'static Kind<A>, StoreError> {
    let mut kinds = A::machines().iter().copied();
    let kind = kinds.find(|kind| kind.name == operation.kind);
    kind.ok_or_else(|| {
        malformed(Unreadable {
            column: "kind",
            reason: format!("{} is not known", operation.kind),
        })
    })
}

fn malformed(unreadable: Unreadable) -> StoreError {
    StoreError::Malformed {
        table: "operations".into(),
        column: unreadable.column.into(),
        reason: unreadable.reason,
    }
}

/// Applies what was decided, and what follows from it.
async fn carry_out<A: Apply>(
    tx: &mut Tx,
    env: &Env,
    operation: &Operation,
    kind: &Kind<A>,
    mut standing: Standing,
    mut decided: Decided<A>,
) -> Result<Folded, StoreError> {
    let limits = A::limits(&env.control);
    let given = operation.params.get("given").unwrap_or(&Value::Null);
    let mut replies = VecDeque::new();
    let mut ended = false;
    let again = loop {
        tracing::debug!(step = standing.step, next = decided.step, "step");
        let scene = Scene {
            env,
            operation,
            kind,
            // What is ordered belongs to the step and attempt that it is ordered by; a step that
            // is gone on to has its own turn.
            step: &standing.step,
            attempt: standing.attempt,
            given,
        };
        for effect in &decided.effects {
            ended |= matches!(effect, Effect::End(_));
            replies.extend(apply(tx, &scene, effect).await?);
        }
        mark(&mut decided);
        standing.step = decided.step.to_owned();
        standing.attempt = decided.attempt;
        standing.params = decided.params;
        let Some(reply) = replies.pop_front() else {
            break decided.again;
        };
        let next = (kind.decide)(&standing, &Event::Reply(reply), &limits);
        decided = next.map_err(malformed)?;
    };
    if ended {
        return Ok(Folded::Ended);
    }
    let step = kind.step(&standing.step).map_or("", |step| step.name);
    Ok(Folded::Goes(Next {
        step,
        attempt: standing.attempt,
        params: standing.params,
        again,
    }))
}

/// Notes which tables hold something for it: those that do not are not asked.
fn mark<D: Domain>(decided: &mut Decided<D>) {
    for effect in &decided.effects {
        let (name, value) = match effect {
            Effect::Timer { .. } => ("timers", Value::Bool(true)),
            Effect::Children { .. } => ("children", serde_json::json!(crate::Progress::default())),
            _ => continue,
        };
        if let Value::Object(params) = &mut decided.params {
            params.insert(name.to_owned(), value);
        }
    }
}

async fn apply<A: Apply>(
    tx: &mut Tx,
    scene: &Scene<'_, A>,
    effect: &Effect<A>,
) -> Result<Option<A::Reply>, StoreError> {
    let operation = scene.operation;
    match effect {
        Effect::Change(change) => return A::change(tx, scene, change).await,
        Effect::Send { name, to, order } => return send(tx, scene, name, *to, order).await,
        Effect::Timer { name, after_ms } => {
            let at = scene.env.now().saturating_add(*after_ms);
            timers::set(tx, operation.id, name, at).await?;
        }
        Effect::Children { children, at_once } => {
            children::write(tx, operation.id, children, *at_once).await?;
        }
        Effect::StopChildren => children::stop(tx, operation.id).await?,
        Effect::End(ending) => A::end(tx, scene, ending).await?,
    }
    Ok(None)
}

/// Rule 2: one message for a step, attempt and name, whoever runs it.
async fn send<A: Apply>(
    tx: &mut Tx,
    scene: &Scene<'_, A>,
    name: &str,
    to: A::Target,
    order: &A::Order,
) -> Result<Option<A::Reply>, StoreError> {
    let id = scene.operation.id;
    let sent = outbox::has(tx, id, scene.step, scene.attempt, name).await?;
    // Asked of a command that was sent, too: a fence ends the wait for its answer.
    let closed = A::closed(tx, scene, to, Named { name, sent }).await?;
    if sent || closed.is_some() {
        return Ok(closed);
    }
    match A::envelope(tx, scene, to, order).await? {
        Err(unwritable) => Ok(Some(unwritable)),
        Ok(envelope) => {
            outbox::put(tx, scene.env, name, envelope).await?;
            Ok(None)
        }
    }
}
