//! From where an operation stands and what happens to it, to where it stands then: the part that
//! all kinds share. Pure, as they are.
//!
//! A kind decides for the step that it is at ([`Then`]). Here that becomes a row to be: the next
//! step and attempt, what is remembered, and the effects. A failure is taken back here, a step at
//! a time, backwards from where it failed: a step whose undo needs commands is waited for
//! ([`Undoing`]); the others follow in the same transaction. A step that may give a right away
//! holds all of it back until its commands are answered, and is never crossed backwards
//! (PROTOCOL.md, rule 7).

use crate::machine::{
    At, Domain, Effect, Ending, Event, Failure, Kind, Machine, Progress, Settled, Signal, Step,
    Then, Undo,
};
use berth_rpc_types::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Commands that one step sends at most, whatever happens.
pub const ATTEMPTS_MAX: u32 = 10;

/// Where an operation stands, as its row has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The current step, by name.
    pub step: String,
    /// Counts from 1.
    pub attempt: u32,
    /// `operations.params`: what the kind remembers, with [`Kept`] beside it.
    pub params: Value,
    /// The names of the step's commands without an answer.
    pub waits: Vec<String>,
}

impl Standing {
    /// What the engine keeps.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn kept(&self) -> Result<Kept, Unreadable> {
        Kept::deserialize(&self.params).map_err(unreadable)
    }

    /// Whether its kind or the engine may ask which commands are not answered: looked up only then.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn asks_who_waits<D: Domain, R>(
        &self,
        kind: &Kind<D>,
        event: &Event<R>,
    ) -> Result<bool, Unreadable> {
        let gives_right = kind.step(&self.step).is_some_and(|step| step.gives_right);
        Ok(gives_right
            || !matches!(event, Event::Run | Event::Reply(_))
            || self.kept()?.undoing.is_some())
    }
}

/// What the engine keeps in `operations.params`, beside what the kind remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// What the request said.
    pub given: Value,
    /// What is being taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undoing: Option<Undoing>,
    /// Whether a timer was ever set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub timers: bool,
    /// How far its children were when its kind was told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Progress>,
}

impl Kept {
    /// Names that no kind's memory may have.
    pub const NAMES: &'static [&'static str] = &["given", "undoing", "timers", "children"];
}

/// The undo of the current step waits for its commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undoing {
    /// Why.
    pub failure: Failure,
    /// The step that is tried again after it; else the operation is over.
    pub retry: Option<String>,
}

/// What was decided: the row to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided<D: Domain> {
    /// The step from now on.
    pub step: &'static str,
    /// Its attempt.
    pub attempt: u32,
    /// What is remembered.
    pub params: Value,
    /// In order; they belong to the step and attempt that asked for them.
    pub effects: Vec<Effect<D>>,
    /// Whether there is more to do at once; else it waits for an event.
    pub again: bool,
}

/// A row that its kind cannot read; says which column, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operations.{column}: {reason}")]
pub struct Unreadable {
    /// The column.
    pub column: &'static str,
    /// In words.
    pub reason: String,
}

fn unreadable(error: serde_json::Error) -> Unreadable {
    Unreadable {
        column: "params",
        reason: error.to_string(),
    }
}

/// An operation at a step, read.
struct Read<M: Machine> {
    /// Among [`Machine::STEPS`].
    index: usize,
    step: Step,
    attempt: u32,
    kept: Kept,
    memory: M::Memory,
}

impl<M: Machine> Read<M> {
    fn of(standing: &Standing) -> Result<Self, Unreadable> {
        let mut steps = M::STEPS.iter().enumerate();
        let (index, step) = steps
            .find(|(_, step)| step.name == standing.step)
            .ok_or_else(|| Unreadable {
                column: "step",
                reason: format!("{} has no step {}", M::NAME, standing.step),
            })?;
        Ok(Self {
            index,
            step: *step,
            attempt: standing.attempt,
            kept: standing.kept()?,
            memory: M::Memory::deserialize(&standing.params).map_err(unreadable)?,
        })
    }

    fn decided(self, effects: Vec<Effect<M::In>>, again: bool) -> Decided<M::In> {
        Decided {
            step: self.step.name,
            attempt: self.attempt,
            params: params(&self.kept, &self.memory),
            effects,
            again,
        }
    }

    fn at(mut self, step: &'static str) -> Self {
        let found = M::STEPS.iter().enumerate().find(|(_, s)| s.name == step);
        debug_assert!(found.is_some(), "{} has no step {step}", M::NAME);
        if let Some((index, step)) = found {
            self.index = index;
            self.step = *step;
        }
        self
    }

    fn end(self, ending: Ending<M::In>) -> Decided<M::In> {
        self.decided(vec![Effect::End(ending)], false)
    }
}

/// What a new operation remembers.
pub fn given(given: &Value) -> Value {
    serde_json::json!({ "given": given })
}

fn params(kept: &Kept, memory: &impl Serialize) -> Value {
    let mut all = Map::new();
    // Plain structs with string keys: writing them cannot fail.
    for part in [serde_json::to_value(memory), serde_json::to_value(kept)] {
        if let Ok(Value::Object(fields)) = part {
            all.extend(fields);
        }
    }
    Value::Object(all)
}

/// What a kind does at an event. See [`Kind::decide`].
///
/// # Errors
/// [`Unreadable`]
pub fn decide<M: Machine>(
    standing: &Standing,
    event: &Event<<M::In as Domain>::Reply>,
    limits: &<M::In as Domain>::Limits,
) -> Result<Decided<M::In>, Unreadable> {
    let read = Read::<M>::of(standing)?;
    if let Some(undoing) = read.kept.undoing.clone() {
        return Ok(undo_goes_on(read, undoing, &standing.waits, event));
    }
    let (then, read) = ask(read, &standing.waits, |at| M::next(at, event, limits));
    if read.step.gives_right && is_held(&then) && !is_resolved(&standing.waits, event) {
        return Ok(read.decided(vec![], false));
    }
    Ok(carry(read, then))
}

/// What a kind does at a signal. See [`Kind::signal`].
///
/// # Errors
/// [`Unreadable`]
pub fn signal<M: Machine>(
    standing: &Standing,
    signal: &Signal,
    limits: &<M::In as Domain>::Limits,
) -> Result<Result<Decided<M::In>, String>, Unreadable> {
    let read = Read::<M>::of(standing)?;
    let by_delete = matches!(signal, Signal::Delete { .. });
    if read.kept.undoing.is_some() && !by_delete {
        return Ok(Err("it failed, and is being taken back".into()));
    }
    if read.step.gives_right && !standing.waits.is_empty() && by_delete {
        return Ok(Err(
            "the right to run the guest may be changing hands; ask again when that is answered"
                .into(),
        ));
    }
    let (then, read) = ask(read, &standing.waits, |at| M::signal(at, signal, limits));
    let then = match then {
        Ok(then) => then,
        Err(why) => return Ok(Err(why)),
    };
    if read.step.gives_right && is_held(&then) && !standing.waits.is_empty() {
        return Ok(Err(
            "the right to run the guest may be changing hands; ask again when that is answered"
                .into(),
        ));
    }
    Ok(Ok(carry(read, then)))
}

fn ask<M: Machine, T>(
    read: Read<M>,
    waits: &[String],
    asked: impl FnOnce(&mut At<'_, M::Memory>) -> T,
) -> (T, Read<M>) {
    let Read {
        index,
        step,
        attempt,
        kept,
        memory,
    } = read;
    let mut at = At {
        step: step.name,
        attempt,
        given: &kept.given,
        waits,
        memory,
    };
    let then = asked(&mut at);
    let memory = at.memory;
    let read = Read {
        index,
        step,
        attempt,
        kept,
        memory,
    };
    (then, read)
}

/// What a step that may give a right away does not do before it is answered.
const fn is_held<D: Domain>(then: &Then<D>) -> bool {
    !matches!(then, Then::Wait(_) | Then::Go(..) | Then::Again(_))
}

/// Whether all that was ordered was answered by its agent: what the broker gave up on was not.
fn is_resolved<R>(waits: &[String], event: &Event<R>) -> bool {
    let unknown = matches!(
        event,
        Event::Answer {
            settled: Settled::DeadLetter(_),
            ..
        }
    );
    waits.is_empty() && !unknown
}

fn carry<M: Machine>(mut read: Read<M>, then: Then<M::In>) -> Decided<M::In> {
    match then {
        Then::Wait(effects) => read.decided(effects, false),
        Then::Go(step, effects) => read.at(step).decided(effects, true),
        Then::Again(effects) => {
            read.attempt += 1;
            read.decided(effects, true)
        }
        Then::Retry(step) => {
            let undoing = Undoing {
                failure: Failure::default(),
                retry: Some(step.to_owned()),
            };
            take_back(read, undoing)
        }
        Then::Done(reached) => read.end(Ending::Done(reached)),
        Then::Fail(failure) => take_back(
            read,
            Undoing {
                failure,
                retry: None,
            },
        ),
        Then::Leave(failure) => read.end(Ending::Failed(failure)),
        Then::GiveWay(to) => read.end(Ending::GaveWay(to)),
    }
}

/// Takes back this step and those before it, as far as no commands are needed.
fn take_back<M: Machine>(mut read: Read<M>, undoing: Undoing) -> Decided<M::In> {
    let mut effects = Vec::new();
    // What a right may have been given for is not taken back: only forward, or left as it is.
    let given = |index: usize| M::STEPS.iter().take(index).any(|step| step.gives_right);
    if given(read.index) {
        return read.end(Ending::Failed(undoing.failure));
    }
    loop {
        if read.step.undo == Undo::Declared {
            let mut after = read.memory.clone();
            let undo = M::undo(read.step.name, &mut after);
            if undo.iter().any(is_send) {
                // Sent by the next run of the step, under the step's own name.
                read.kept.undoing = Some(undoing);
                read.attempt += 1;
                return read.decided(effects, true);
            }
            effects.extend(undo);
            read.memory = after;
        }
        match step_back(read, &undoing) {
            Back::Further(further) => read = further,
            Back::There(there) => return finish_undo(there, undoing, effects),
        }
    }
}

enum Back<M: Machine> {
    Further(Read<M>),
    There(Read<M>),
}

fn step_back<M: Machine>(read: Read<M>, undoing: &Undoing) -> Back<M> {
    if undoing.retry.as_deref() == Some(read.step.name) {
        return Back::There(read);
    }
    let before = read.index.checked_sub(1).and_then(|i| M::STEPS.get(i));
    match before {
        Some(step) => Back::Further(read.at(step.name)),
        None => Back::There(read),
    }
}

/// All is taken back.
fn finish_undo<M: Machine>(
    mut read: Read<M>,
    undoing: Undoing,
    mut effects: Vec<Effect<M::In>>,
) -> Decided<M::In> {
    read.kept.undoing = None;
    if undoing.retry.is_some() {
        read.attempt += 1;
        return read.decided(effects, true);
    }
    effects.push(Effect::End(Ending::Failed(undoing.failure)));
    read.decided(effects, false)
}

fn is_send<D: Domain>(effect: &Effect<D>) -> bool {
    matches!(effect, Effect::Send { .. })
}

/// The undo of a step needs commands: they are sent, and waited for.
fn undo_goes_on<M: Machine>(
    mut read: Read<M>,
    undoing: Undoing,
    waits: &[String],
    event: &Event<<M::In as Domain>::Reply>,
) -> Decided<M::In> {
    let mut after = read.memory.clone();
    let undo = M::undo(read.step.name, &mut after);
    match event {
        Event::Run => {
            let sends = undo.into_iter().filter(is_send).collect();
            read.decided(sends, false)
        }
        Event::Answer {
            settled: Settled::Outcome(Outcome::Done { .. }),
            ..
        } if waits.is_empty() => {
            read.memory = after;
            let changes: Vec<_> = undo.into_iter().filter(|e| !is_send(e)).collect();
            read.kept.undoing = None;
            match step_back(read, &undoing) {
                Back::There(there) => finish_undo(there, undoing, changes),
                Back::Further(further) => {
                    let mut next = take_back(further, undoing);
                    next.effects.splice(0..0, changes);
                    next
                }
            }
        }
        // Never begun: once more, with the epoch as it is now.
        Event::Answer {
            settled: Settled::Outcome(Outcome::StaleEpoch { .. }),
            ..
        } if read.attempt < ATTEMPTS_MAX => {
            read.attempt += 1;
            read.decided(vec![], true)
        }
        Event::Answer {
            settled: Settled::Outcome(Outcome::Done { .. } | Outcome::Progress { .. }),
            ..
        }
        | Event::Late { .. }
        | Event::Timer(_)
        | Event::Children(_) => read.decided(vec![], false),
        // What could not be taken back is left as it is, for a delete.
        Event::Answer { settled, .. } => {
            let failure = not_undone(read.step.name, undoing.failure, &explain(settled));
            read.end(Ending::Failed(failure))
        }
        Event::Reply(reply) => {
            let failure = not_undone(read.step.name, undoing.failure, &format!("{reply:?}"));
            read.end(Ending::Failed(failure))
        }
    }
}

fn not_undone(step: &str, failure: Failure, why: &str) -> Failure {
    let Failure {
        mut message,
        mut detail,
    } = failure;
    message.push_str(" What was done before could not be taken back: delete it, or try again.");
    if !detail.is_empty() {
        detail.push_str("; ");
    }
    detail.push_str(&format!("step {step} was not taken back: {why}"));
    Failure { message, detail }
}

fn explain(settled: &Settled) -> String {
    match settled {
        Settled::Outcome(Outcome::Failed { message, .. }) => message.clone(),
        Settled::Outcome(outcome) => format!("the agent answered {}", outcome.name()),
        Settled::Unroutable(why) | Settled::DeadLetter(why) => why.clone(),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
