//! The steps of the operations: create, start, delete, migrate, and recovery from the disk.
//!
//! | kind | steps |
//! | --- | --- |
//! | create, recover | `Build`, on another host if it was undone |
//! | start | `Start` |
//! | delete | `Destroy`, for each VMM |
//! | migrate | `Incoming`, `HandOver`, `Settle`; then `DropSource`, or `Resume` and `DropTarget` |
//!
//! Create, start and delete are the product's own kinds, which are asked what they make of an answer
//! ([`decided`]); recovery is a create, and the steps of migrate are the model's.
//!
//! From the order to hand over until its answer nobody is known to have the right
//! ([`Operation::holder`]): there is neither undo nor delete then, only `Settle` (rule 7).

use crate::database::{Database, Instance, Row};
use crate::decisions::{Decision, decided};
use crate::rules::{Rules, Weakness};
use crate::words::{Answer, HostNo, Message, Order, Reply, VmmNo};
use berth_controller_compute::workflow::Kind;
use berth_rpc_types::VmmState;

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Make a guest on the host that was chosen.
    Build,
    /// Run the guest that is there.
    Start,
    /// Remove a VMM; until there is none left.
    Destroy,
    /// Prepare the target.
    Incoming,
    /// Order the source to hand over.
    HandOver,
    /// End the matter at the target.
    Settle,
    /// Give the right back to the source.
    Resume {
        /// The target's host was fenced: look at the storage first.
        unless_taken: bool,
    },
    /// Remove the target.
    DropTarget,
    /// Remove the source.
    DropSource,
}

impl Step {
    /// The product's kind, if it has this step.
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Build => Some(Kind::Create),
            Self::Start => Some(Kind::Start),
            Self::Destroy => Some(Kind::Delete),
            _ => None,
        }
    }
}

/// The operation's row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// The step.
    pub step: Step,
    /// The VMM being built or started; a migration's target.
    pub vmm: VmmNo,
    /// A migration's source.
    pub source: VmmNo,
    /// Who has the right, as far as is known.
    pub holder: VmmNo,
    /// Hosts that failed: a set of `1 << host`.
    pub tried: u8,
    /// The command whose answer is waited for. It is sent again until then (rule 2).
    pub message: Option<Message>,
}

impl Operation {
    fn new(step: Step) -> Self {
        Self {
            step,
            vmm: VmmNo::NOBODY,
            source: VmmNo::NOBODY,
            holder: VmmNo::NOBODY,
            tried: 0,
            message: None,
        }
    }

    /// Between the order that may give the right away and its answer (rule 7).
    pub fn is_in_the_window(&self) -> bool {
        matches!(
            self.step,
            Step::HandOver | Step::Settle | Step::Resume { .. }
        )
    }
}

impl Database {
    /// A server was asked for, or has no VMM that has the right: it starts from its disk, somewhere.
    pub fn build(&mut self, rules: Rules) {
        self.operation = Some(Operation::new(Step::Build));
        self.place(rules);
    }

    /// The same, but not on the host that it was on.
    pub fn evacuate(&mut self, from: HostNo, rules: Rules) {
        self.operation = Some(Operation {
            tried: 1 << from,
            ..Operation::new(Step::Build)
        });
        self.place(rules);
    }

    /// Start what is there.
    pub fn start(&mut self, rules: Rules) {
        self.operation = Some(Operation {
            vmm: self.active,
            ..Operation::new(Step::Start)
        });
        self.go(Step::Start, rules);
    }

    /// Delete; pre-empts what is under way.
    pub fn delete(&mut self, rules: Rules) {
        self.operation = Some(Operation::new(Step::Destroy));
        self.active = VmmNo::NOBODY;
        self.go(Step::Destroy, rules);
    }

    /// Whether a delete may begin now.
    pub fn may_delete(&self) -> bool {
        let waits = |operation: &Operation| {
            operation.is_in_the_window()
                || matches!(
                    operation.step,
                    Step::Destroy | Step::DropTarget | Step::DropSource
                )
        };
        self.instance != Instance::Deleted && !self.operation.as_ref().is_some_and(waits)
    }

    /// Move the guest to the other host.
    pub fn migrate(&mut self, rules: Rules) {
        let Some(source) = self.rows.get(&self.active) else {
            return;
        };
        let host = 1 - source.host;
        let target = self.reserve(host);
        self.operation = Some(Operation {
            vmm: target,
            source: self.active,
            holder: self.active,
            ..Operation::new(Step::Incoming)
        });
        self.go(Step::Incoming, rules);
    }

    /// Give the migration up: the target is asked, since a database that was restored cannot know
    /// whether the source was ordered to hand over.
    pub fn abort(&mut self, rules: Rules) {
        let asks = !rules.lack(Weakness::UndoWithoutInquiry);
        self.go(if asks { Step::Settle } else { Step::DropTarget }, rules);
    }

    /// No answer came for long.
    pub fn inquire(&mut self, rules: Rules) {
        self.go(Step::Settle, rules);
    }

    /// A VMM with a claim of its host.
    fn reserve(&mut self, host: HostNo) -> VmmNo {
        // Ids are random: a restored database does not draw the same ones again.
        let base = 8 * self.branch;
        let last = self
            .rows
            .keys()
            .map(|no| no.0)
            .filter(|no| *no > base)
            .max();
        let vmm = VmmNo(last.unwrap_or(base) + 1);
        self.rows.insert(
            vmm,
            Row {
                host,
                sequence: 0,
                rights: 0,
                claim: true,
                open: true,
                lost: false,
                doubtful: false,
                stray: false,
            },
        );
        vmm
    }

    /// Chooses a host that is up and has not failed, or gives up.
    fn place(&mut self, rules: Rules) {
        let Some(operation) = &self.operation else {
            return;
        };
        let tried = operation.tried;
        let fits = |host: &HostNo| !self.hosts[*host].down && tried & (1 << *host) == 0;
        match (0..2).find(fits) {
            Some(host) => {
                let vmm = self.reserve(host);
                if let Some(operation) = &mut self.operation {
                    operation.vmm = vmm;
                    operation.tried |= 1 << host;
                }
                self.go(Step::Build, rules);
            }
            None => self.end(Instance::Down),
        }
    }

    fn end(&mut self, instance: Instance) {
        self.operation = None;
        self.instance = instance;
    }

    /// Enters a step: draws its command, or goes on to what is left to do if the VMM that it is
    /// about is not there any more.
    pub fn go(&mut self, step: Step, rules: Rules) {
        let Some(operation) = &mut self.operation else {
            return;
        };
        operation.step = step;
        operation.message = None;
        let (vmm, source) = (operation.vmm, operation.source);
        let (there, source_there) = (self.is_live(vmm), self.is_live(source));
        let back = Step::Resume {
            unless_taken: !rules.lack(Weakness::FenceIsRefusal),
        };
        let (subject, order, peer) = match step {
            Step::Build if !there => return self.place(rules),
            Step::Build => (vmm, Order::Build, VmmNo::NOBODY),
            Step::Start if !there => return self.end(Instance::Down),
            Step::Start => (vmm, Order::Start, VmmNo::NOBODY),
            Step::Destroy => {
                let next = self.rows.iter().find(|(_, row)| row.open && !row.lost);
                let Some((next, _)) = next else {
                    return self.end(Instance::Deleted);
                };
                (*next, Order::Delete, VmmNo::NOBODY)
            }
            Step::Incoming if !there => return self.go_back(rules),
            Step::Incoming if !source_there => return self.abort(rules),
            Step::Incoming => (vmm, Order::Incoming, source),
            Step::HandOver if !source_there => return self.go(Step::Settle, rules),
            Step::HandOver if !there => return self.go(back, rules),
            Step::HandOver => (source, Order::HandOver, vmm),
            Step::Settle if !there && source_there => return self.go(back, rules),
            Step::Settle if !there => return self.go_back(rules),
            Step::Settle => (vmm, Order::Settle, VmmNo::NOBODY),
            Step::Resume { .. } if !source_there => return self.go(Step::DropTarget, rules),
            Step::Resume { unless_taken } => (source, Order::Resume { unless_taken }, vmm),
            Step::DropTarget if !there => return self.go_back(rules),
            Step::DropTarget => (vmm, Order::Delete, VmmNo::NOBODY),
            Step::DropSource if !source_there => return self.end(Instance::Active),
            Step::DropSource => (source, Order::Delete, VmmNo::NOBODY),
        };
        let message = self.draw(subject, order, peer, rules);
        if let Some(operation) = &mut self.operation {
            operation.message = message;
            if operation.is_in_the_window() {
                operation.holder = VmmNo::NOBODY;
            }
        }
    }

    /// A migration that ends where it began, or, if the right is nobody's, from the disk.
    fn go_back(&mut self, rules: Rules) {
        let holder = self.operation.as_ref().map(|o| o.holder);
        match holder.filter(|holder| self.is_live(*holder)) {
            Some(holder) => {
                self.active = holder;
                self.end(Instance::Active);
            }
            None => {
                self.active = VmmNo::NOBODY;
                self.build(rules);
            }
        }
    }

    /// A VMM was given away, or is gone without having been deleted.
    pub fn lose(&mut self, vmm: VmmNo, rules: Rules) {
        if self.active == vmm {
            self.active = VmmNo::NOBODY;
            if self.operation.is_none() && self.instance == Instance::Active {
                self.instance = Instance::Down;
            }
        }
        let Some(operation) = &self.operation else {
            return;
        };
        let step = operation.step;
        let is_about = operation.message.as_ref().is_some_and(|m| m.vmm == vmm);
        let both = matches!(step, Step::Incoming | Step::HandOver);
        if is_about || both && (vmm == operation.vmm || vmm == operation.source) {
            self.go(step, rules);
        }
    }

    /// Folds an answer in, in one transaction with what it changes. One that nobody waits for
    /// changes nothing.
    pub fn fold(&mut self, answer: Answer, rules: Rules) {
        let Some(operation) = &mut self.operation else {
            return;
        };
        let Some(message) = operation.message.filter(|m| m.name == answer.to) else {
            return;
        };
        let (step, vmm, source) = (operation.step, operation.vmm, operation.source);
        let is_done = matches!(answer.reply, Reply::Done(_));
        // It is sent again when an operator has accepted the database.
        if answer.reply == Reply::Refused {
            return;
        }
        if let Some(kind) = step.kind() {
            return self.carry_out(decided(kind, answer.reply), message, rules);
        }
        match answer.reply {
            // Never begun: once more, with the epoch as it is now.
            Reply::StaleEpoch | Reply::BelowWatermark => return self.go(step, rules),
            Reply::Superseded => return self.end(Instance::Down),
            _ => {}
        }
        match step {
            // They are kinds of the product's.
            Step::Build | Step::Start | Step::Destroy => {}
            Step::Incoming if is_done => self.go(Step::HandOver, rules),
            Step::Incoming => self.abort(rules),
            Step::HandOver if is_done => self.go(Step::Settle, rules),
            Step::HandOver => {
                // Not handed over, and never will be by this order.
                operation.holder = source;
                self.go(Step::DropTarget, rules);
            }
            Step::Settle if answer.reply == Reply::Done(VmmState::Running) => {
                operation.holder = vmm;
                self.active = vmm;
                self.go(Step::DropSource, rules);
            }
            Step::Settle => self.refused(rules),
            Step::Resume { .. } => {
                if is_done {
                    operation.holder = source;
                    self.go(Step::DropTarget, rules);
                } else {
                    // The target took it, or the source is dead: its memory is dropped.
                    operation.source = vmm;
                    operation.vmm = source;
                    self.go(Step::DropTarget, rules);
                }
            }
            Step::DropTarget => {
                self.close(message.vmm);
                let operation = self.operation.as_ref();
                let other = operation.map_or(VmmNo::NOBODY, |o| o.source);
                let holder = operation.map_or(VmmNo::NOBODY, |o| o.holder);
                if holder == VmmNo::NOBODY && self.is_live(other) {
                    // The right is nobody's: nothing of either is kept.
                    if let Some(operation) = &mut self.operation {
                        operation.vmm = other;
                    }
                    return self.go(Step::DropTarget, rules);
                }
                self.go_back(rules);
            }
            Step::DropSource => {
                self.close(source);
                self.end(Instance::Active);
            }
        }
    }

    /// What a kind of the product decided at the answer to this message.
    fn carry_out(&mut self, decision: Decision, message: Message, rules: Rules) {
        let Some(operation) = &mut self.operation else {
            return;
        };
        let step = operation.step;
        match decision {
            Decision::Done => {
                self.active = operation.vmm;
                self.end(Instance::Active);
            }
            Decision::Left => self.end(Instance::Down),
            Decision::Again => self.go(step, rules),
            Decision::GivenBack { excluded } if step == Step::Build => {
                if !excluded && let Some(row) = self.rows.get(&message.vmm) {
                    operation.tried &= !(1 << row.host);
                }
                self.give_up_build(rules);
            }
            Decision::GivenBack { .. } => {
                self.close(message.vmm);
                self.go(step, rules);
            }
        }
    }

    /// The target refused: the right goes back.
    pub fn refused(&mut self, rules: Rules) {
        let unless_taken = false;
        self.go(Step::Resume { unless_taken }, rules);
    }

    /// Nothing is left of the build: its claim is free, and another host may do.
    pub fn give_up_build(&mut self, rules: Rules) {
        if let Some(vmm) = self.operation.as_ref().map(|o| o.vmm) {
            self.close(vmm);
            self.place(rules);
        }
    }
}
