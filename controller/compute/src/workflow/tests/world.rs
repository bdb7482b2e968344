//! What stands around an operation in [`super::every_order`]: hosts, their VMMs and the outbox, as
//! far as a kind can tell the difference; and what is true of them after every transaction.

use super::super::domain::{Change, Effect, Event, InstanceKinds, Limits, Order, Reply};
use super::super::kinds::Kind;
use berth_controller_hosts::{Fence, Target};
use berth_controller_operations::decide::{Decided, Standing, given};
use berth_controller_operations::{Ending, Settled};
use berth_rpc_types::{HostId, Outcome, VmmId, VmmState};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What steps obey here.
pub const LIMITS: Limits = Limits {
    max_attempts: 3,
    grace_s: 60,
};
/// Hosts, numbered from 1.
const HOSTS: u128 = 3;

/// A VMM, as the database and its host have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vmm {
    pub target: Target,
    /// Its claim is held.
    pub claimed: bool,
    /// Something of it is, or may come to be, on its host.
    pub may_be_there: bool,
    /// A journal was lost that may have known of it.
    pub doubtful: bool,
}

/// A command in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub step: String,
    pub attempt: u32,
    pub name: &'static str,
    pub to: Target,
    pub order: Order,
    pub ended: bool,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    Done,
    Failed,
    GaveWay,
}

/// An operation and what stands around it.
#[derive(Clone, Debug)]
pub struct World {
    pub kind: Kind,
    pub standing: Standing,
    pub again: bool,
    pub over: Option<Over>,
    pub vmms: Vec<Vmm>,
    pub active: Option<VmmId>,
    pub outbox: Vec<Sent>,
    pub fenced: BTreeSet<HostId>,
}

/// Which of several answers the world gives, one after the other: all of them are tried.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    script: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    /// One of `of`.
    fn one(&mut self, of: usize) -> usize {
        if self.at == self.script.len() {
            self.script.push((0, of));
        }
        let (chosen, _) = self.script[self.at];
        self.at += 1;
        chosen
    }

    /// The next script; `None` once all were tried.
    pub fn next(mut self) -> Option<Self> {
        self.at = 0;
        while let Some((chosen, of)) = self.script.pop() {
            if chosen + 1 < of {
                self.script.push((chosen + 1, of));
                return Some(self);
            }
        }
        None
    }
}

pub fn target(vmm: u128, host: u128) -> Target {
    Target {
        vmm_id: VmmId::from_u128(vmm),
        host_id: HostId::from_u128(host),
    }
}

impl World {
    /// An operation that was begun, and so many VMMs that are there.
    pub fn begun(kind: Kind, asked: &Value, vmms: u128) -> Self {
        let there = |n| Vmm {
            target: target(n, n),
            claimed: true,
            may_be_there: true,
            doubtful: false,
        };
        let vmms: Vec<Vmm> = (1..=vmms).map(there).collect();
        let mut world = Self {
            kind,
            standing: Standing {
                step: kind.machine().first().to_owned(),
                attempt: 1,
                params: given(asked),
                waits: vec![],
            },
            again: true,
            over: None,
            active: vmms.first().map(|vmm| vmm.target.vmm_id),
            vmms,
            outbox: vec![],
            fenced: BTreeSet::new(),
        };
        // Written once as its kind writes it: what the request said, and defaults beside it.
        world.fold(&Event::Timer("none".into()), &mut Choices::default());
        world.again = true;
        world
    }

    /// Tells worlds apart.
    pub fn key(&self) -> String {
        format!("{self:?}")
    }

    fn with_waits(&self) -> Standing {
        let now = (self.standing.step.as_str(), self.standing.attempt);
        let waits = self
            .outbox
            .iter()
            .filter(|sent| !sent.ended && (sent.step.as_str(), sent.attempt) == now);
        Standing {
            waits: waits.map(|sent| sent.name.to_owned()).collect(),
            ..self.standing.clone()
        }
    }

    /// One transaction: what a kind decides, applied, with all that follows from it.
    pub fn fold(&mut self, event: &Event, choices: &mut Choices) {
        let machine = self.kind.machine();
        let decided = (machine.decide)(&self.with_waits(), event, &LIMITS).unwrap();
        self.carry_out(decided, choices);
    }

    /// What a signal comes to; in words, why nothing was done.
    pub fn signal(
        &mut self,
        signal: &berth_controller_operations::Signal,
        choices: &mut Choices,
    ) -> Result<(), String> {
        let machine = self.kind.machine();
        let decided = (machine.signal)(&self.with_waits(), signal, &LIMITS).unwrap()?;
        self.carry_out(decided, choices);
        Ok(())
    }

    fn carry_out(&mut self, decided: Decided<InstanceKinds>, choices: &mut Choices) {
        let mut replies = Vec::new();
        let from = self.standing.clone();
        for effect in &decided.effects {
            assert!(self.over.is_none(), "an effect after the end: {decided:?}");
            replies.extend(self.apply(&from, effect, choices));
        }
        self.standing.step = decided.step.to_owned();
        self.standing.attempt = decided.attempt;
        self.standing.params = decided.params;
        self.again = decided.again;
        for reply in replies {
            let again = self.again;
            self.fold(&Event::Reply(reply), choices);
            self.again |= again;
        }
    }

    fn apply(&mut self, at: &Standing, effect: &Effect, choices: &mut Choices) -> Option<Reply> {
        match effect {
            Effect::Change(change) => return self.change(change, choices),
            Effect::Send { name, to, order } => return self.send(at, name, *to, *order, choices),
            Effect::End(ending) => self.end(ending),
            Effect::Timer { .. } | Effect::Children { .. } | Effect::StopChildren => {
                panic!("no kind had one yet: teach the world what they are");
            }
        }
        None
    }

    fn change(&mut self, change: &Change, choices: &mut Choices) -> Option<Reply> {
        match change {
            Change::Task(_) => None,
            Change::Reserve { excluded } => {
                let fits = |host: &HostId| !excluded.contains(host) && !self.fenced.contains(host);
                let host = (1..=HOSTS).map(HostId::from_u128).find(fits);
                let Some(host_id) = host.filter(|_| choices.one(2) == 0) else {
                    return Some(Reply::NoHost("No valid host".into()));
                };
                let vmm_id = VmmId::from_u128(100 + self.vmms.len() as u128);
                let target = Target { vmm_id, host_id };
                self.vmms.push(Vmm {
                    target,
                    claimed: true,
                    may_be_there: false,
                    doubtful: false,
                });
                Some(Reply::Reserved(target))
            }
            Change::HandOver(target) => {
                assert!(
                    self.vmm(*target).claimed,
                    "handed over to what is not reserved"
                );
                self.active = Some(target.vmm_id);
                None
            }
            Change::Find => {
                let found = self.vmms.iter().find(|vmm| vmm.claimed);
                Some(Reply::Found(found.map(|vmm| vmm.target)))
            }
            Change::Bind(target) => {
                assert_eq!(self.active, Some(target.vmm_id), "bound before handed over");
                None
            }
            Change::GiveBack(target) => {
                let vmm = self.vmm(*target);
                assert!(
                    !vmm.may_be_there,
                    "given back under a VMM that may be there: {vmm:?}"
                );
                self.free(*target);
                None
            }
            Change::Lose(target) => {
                assert!(
                    self.fenced.contains(&target.host_id),
                    "lost without a fence"
                );
                self.free(*target);
                None
            }
        }
    }

    fn vmm(&mut self, target: Target) -> &mut Vmm {
        let mut vmms = self.vmms.iter_mut();
        vmms.find(|vmm| vmm.target == target).unwrap()
    }

    fn free(&mut self, target: Target) {
        self.vmm(target).claimed = false;
        if self.active == Some(target.vmm_id) {
            self.active = None;
        }
    }

    fn send(
        &mut self,
        at: &Standing,
        name: &'static str,
        to: Target,
        order: Order,
        choices: &mut Choices,
    ) -> Option<Reply> {
        let (step, attempt) = (at.step.as_str(), at.attempt);
        let mut outbox = self.outbox.iter();
        let before = outbox.find(|s| (s.step.as_str(), s.attempt, s.name) == (step, attempt, name));
        let sent = before.is_some();
        if let Some(before) = before {
            assert_eq!(
                (before.to, before.order),
                (to, order),
                "the same name, another command"
            );
        }
        if self.fenced.contains(&to.host_id) {
            let (why, who) = ("The host was forced down.".to_owned(), "user u".to_owned());
            let fence = Fence { why, who };
            return Some(Reply::Fenced { fence, sent });
        }
        if sent {
            return None;
        }
        let may_lack_an_image = matches!(order, Order::Build | Order::Start);
        if may_lack_an_image && choices.one(2) == 1 {
            return Some(Reply::Unwritable("the image is gone".into()));
        }
        assert!(self.vmm(to).claimed, "an order to what has no claim");
        if matches!(order, Order::Build | Order::Start) {
            self.vmm(to).may_be_there = true;
        }
        self.outbox.push(Sent {
            step: step.to_owned(),
            attempt,
            name,
            to,
            order,
            ended: false,
        });
        None
    }

    fn end(&mut self, ending: &Ending<InstanceKinds>) {
        let over = match ending {
            Ending::Done(_) => Over::Done,
            Ending::Failed(failure) => {
                assert!(!failure.message.is_empty(), "a failure without words");
                Over::Failed
            }
            Ending::GaveWay(_) => Over::GaveWay,
        };
        self.over = Some(over);
    }

    /// A command ends: what that does to its host, and the event that it is.
    pub fn ends(&mut self, index: usize, settled: Settled) -> Event {
        self.outbox[index].ended = true;
        let Sent {
            step,
            attempt,
            name,
            to,
            order,
            ..
        } = self.outbox[index].clone();
        // An epoch rises when a journal is lost, too: what that knew of the build is not known.
        if matches!(settled, Settled::Outcome(Outcome::StaleEpoch { .. })) {
            self.vmm(to).doubtful = true;
        }
        let doubtful = self.vmm(to).doubtful;
        let never_begun = match &settled {
            Settled::Unroutable(_) | Settled::Outcome(Outcome::Unsupported { .. }) => !doubtful,
            Settled::Outcome(Outcome::Failed { undone, .. }) => *undone,
            Settled::Outcome(_) | Settled::DeadLetter(_) => false,
        };
        let is_done = matches!(settled, Settled::Outcome(Outcome::Done { .. }));
        if (order == Order::Build && never_begun) || (order == Order::Delete && is_done) {
            self.vmm(to).may_be_there = false;
        }
        let command = name.to_owned();
        if (step.as_str(), attempt) == (self.standing.step.as_str(), self.standing.attempt) {
            Event::Answer { command, settled }
        } else {
            Event::Late {
                step,
                attempt,
                command,
                settled,
            }
        }
    }

    /// What is true after every transaction.
    pub fn check(&self) {
        let mut names = BTreeMap::new();
        for sent in &self.outbox {
            let of = (&sent.step, sent.attempt, sent.name);
            assert!(names.insert(of, ()).is_none(), "two commands of one name");
        }
        // Silence means unknown (rule 1): what may be there keeps its claim, unless it was fenced.
        for vmm in &self.vmms {
            let fenced = self.fenced.contains(&vmm.target.host_id);
            assert!(vmm.claimed || !vmm.may_be_there || fenced, "{vmm:?}");
        }
        match &self.over {
            None => assert!(
                self.waits_for_something(),
                "nothing will ever happen: {self:?}"
            ),
            Some(over) => self.check_end(over),
        }
    }

    fn waits_for_something(&self) -> bool {
        self.again || !self.with_waits().waits.is_empty()
    }

    fn check_end(&self, over: &Over) {
        let claimed: Vec<_> = self.vmms.iter().filter(|vmm| vmm.claimed).collect();
        match (self.kind, over) {
            (Kind::Delete, Over::Done) => assert!(claimed.is_empty(), "{self:?}"),
            (Kind::Create, Over::Done) => {
                assert!(matches!(claimed[..], [vmm] if vmm.may_be_there
                    && self.active == Some(vmm.target.vmm_id)));
            }
            // Nothing leaks: what is held is, or may be, there.
            (Kind::Create, Over::Failed) => {
                assert!(claimed.iter().all(|vmm| vmm.may_be_there), "{self:?}");
                assert!(claimed.len() <= 1);
            }
            _ => {}
        }
    }
}

/// Every way in which a command may end.
pub fn ends(order: Order) -> Vec<Settled> {
    let failed = |undone, retry_elsewhere| {
        Settled::Outcome(Outcome::Failed {
            message: "no room".into(),
            detail: "ENOSPC".into(),
            undone,
            retry_elsewhere,
            seen: None,
        })
    };
    let state = match order {
        Order::Delete => VmmState::Deleted,
        Order::Stop { .. } => VmmState::Stopped,
        Order::Pause => VmmState::Paused,
        Order::Build | Order::Start | Order::Unpause | Order::Reboot { .. } => VmmState::Running,
    };
    vec![
        Settled::Outcome(Outcome::done(state, 1)),
        failed(true, true),
        failed(true, false),
        failed(false, true),
        failed(false, false),
        Settled::Outcome(Outcome::Superseded { by: 9 }),
        Settled::Outcome(Outcome::StaleEpoch { current: 2 }),
        Settled::Outcome(Outcome::Unsupported { min: 1, max: 1 }),
        Settled::Unroutable("no queue".into()),
        Settled::DeadLetter("poison".into()),
    ]
}
