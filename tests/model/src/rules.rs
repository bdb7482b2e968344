//! The rules of PROTOCOL.md that the model keeps, and how each can be weakened.
//!
//! A rule that no [`Weakness`] takes away is a sentence that nobody has tried: every weakness here
//! has a counterexample, found by the tests.

macro_rules! weaknesses {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One rule, or one word of one, taken away.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Weakness { $($(#[$doc])* $name),* }

        impl Weakness {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

weaknesses! {
    /// Rule 1: the controller takes silence for "never begun", and frees the claim.
    SilenceFrees,
    /// Rule 1: an agent that lost its journal answers a build that is sent again with "undone".
    UnknownIsUndone,
    /// Rule 3: the agent takes a command with a lower sequence.
    SequenceNotKept,
    /// Rule 3: the agent forgets a tombstone when it is old, whatever the watermark says.
    TombstoneForgottenByClock,
    /// Rule 3: the agent takes a command that it does not know at or below the watermark.
    WatermarkNotHeeded,
    /// Rule 3: the watermark is the last number drawn, unsettled ones included.
    WatermarkAboveUnsettled,
    /// Rule 4: a fence leaves the epoch as it was.
    EpochNotRaised,
    /// Rule 4: the agent consumes before it has learnt its epoch and what it has lost.
    EpochNotAsked,
    /// Rule 4: what an agent accepted in an older epoch is carried out in the new one.
    OldOrdersCarriedOn,
    /// Rule 5: the agent ends guests that the controller does not list.
    AbsenceIsAnOrder,
    /// Rule 5: the refusal of an older database is judged anew each time.
    RefusalNotLatched,
    /// Rule 5, as it is worded: a database is older if its counter is lower, and that alone.
    CounterAlone,
    /// Rule 5: what an agent knows is compared with what the database says now, not with what it said
    /// when its controller started.
    EvidenceOfNow,
    /// Rule 5: an agent takes a command of a controller's start that it has not heard of before it
    /// has asked what that controller's database is.
    StartNotAsked,
    /// Rule 5: accepting a lineage leaves sequences and host numbers as they are.
    AcceptRaisesNothing,
    /// Rule 5: accepting a lineage leaves strays without a claim.
    StraysNotHeld,
    /// Rule 5, as it is worded: accepting a lineage ends nothing that was under way for a VMM that
    /// its host no longer has.
    AcceptEndsNothing,
    /// Rule 5: what its host did not have when a lineage was accepted may be followed at once.
    AcceptedIsOver,
    /// Rule 6: the lease ends in the agent, not in the VMM.
    LeaseInAgent,
    /// Rule 6: the lease is counted from the moment the grant arrives.
    LeaseFromArrival,
    /// Rule 6: the controller adds no margin.
    NoMargin,
    /// Rule 6: any grant lets a paused guest go on, whatever its generation.
    GrantOfAnyGeneration,
    /// Rule 6: a controller whose database was restored waits for no grace time.
    NoGrace,
    /// Rule 6: a controller that starts begins leases anew before the grace time is over.
    LeaseBegunInGrace,
    /// Rule 6: a guest that waits for its first lease goes on without asking the storage.
    StorageNotAsked,
    /// Rule 7: the source's VMM can be resumed by its agent after it handed over.
    SourceResumes,
    /// Rule 7: the source's agent starts the guest again when its VMM is dead after the hand-over.
    SourceStartsAgain,
    /// Rule 7: no answer is taken for a refusal.
    SilenceIsRefusal,
    /// Rule 7: the target answers a refusal, and does not write it down.
    RefusalNotDurable,
    /// Rule 7: the target runs first, and notes that it took the right afterwards.
    RunsBeforeNote,
    /// Rule 7: the fence of the target's host is taken for a refusal.
    FenceIsRefusal,
    /// Rule 7: a migration is given up without asking the target.
    UndoWithoutInquiry,
    /// Rule 7: an agent that restarts ends an incoming VMM that runs, taking it for a stopped one.
    AgentEndsIncoming,
    /// Rule 7: an armed target runs without a live lease.
    TargetNeedsNoLease,
    /// The writer a guest's disk had before is not named when the next one takes it.
    TakeNamesNobody,
    /// It is named by its VMM, not by the right that it had.
    TakeNamesVmms,
    /// A host's epoch stays as it was when the host was off.
    BootNotTold,
    /// Rule 8: a guest is evacuated when its host has been silent.
    EvacuationOnSilence,
    /// Rule 8: a lease's end is enough on storage that refuses nobody.
    LeaseOnPlainStorage,
}

/// The rules in force: all, but for these. Two are taken away where one is the other's second belt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules(pub &'static [Weakness]);

impl Rules {
    /// Whether this one has been taken away.
    pub fn lack(self, weakness: Weakness) -> bool {
        self.0.contains(&weakness)
    }
}
