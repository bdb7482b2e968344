//! What happens, one thing at a time.

use crate::words::{Answer, HostNo, Message, VmmNo};
use crate::world::Grant;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A user deletes the server.
    Delete,
    /// A user migrates it.
    Migrate,
    /// A user gives the migration up.
    Abort,
    /// A user starts the server, or it is recovered from its disk.
    Start,
    /// A controller publishes the command that is waited for, again and again.
    Send,
    /// A controller reads the command that is waited for, and holds it.
    Hold,
    /// It publishes what it held.
    SendHeld,
    /// It is killed with what it held.
    LoseHeld,
    /// A controller folds an answer in; it may be delivered once more.
    Fold(Answer, Repeat),
    /// A controller asks the target, since no answer came.
    Inquire,
    /// A controller takes silence for an answer.
    Assume,
    /// A controller grants a lease.
    Grant(Grant),
    /// A controller gives the guest away, since its lease has run out.
    RunOut,
    /// The broker loses a command.
    LoseCommand(Message),
    /// The broker loses an answer.
    LoseAnswer(Answer),
    /// A command arrives; it may be delivered once more.
    Arrive(Message, Repeat),
    /// An agent goes on with what it has accepted for a VMM.
    Work(HostNo, VmmNo),
    /// It carries it out, and is killed before it wrote that down.
    WorkAndDie(HostNo, VmmNo),
    /// A build fails on its host, and is undone.
    FailBuild(HostNo, VmmNo),
    /// An agent reports, and is told what it has to know.
    Sync(HostNo),
    /// The same, though it has nothing to learn but its watermark.
    Report(HostNo),
    /// An agent forgets a VMM that is gone.
    Forget(HostNo, VmmNo),
    /// An agent is killed.
    KillAgent(HostNo),
    /// An agent starts.
    StartAgent(HostNo),
    /// The agent's disk is replaced by an empty one, and it starts.
    NewDisk(HostNo),
    /// The target has the "go": it takes lock and generation of the storage.
    Take,
    /// The "go" is lost.
    LoseGo,
    /// The target notes that it took the right.
    NoteTook(HostNo, VmmNo),
    /// The target runs.
    Run(HostNo, VmmNo),
    /// The source's agent resumes or starts a guest that handed over.
    GoOn(HostNo, VmmNo),
    /// A lease arrives.
    LeaseArrives(HostNo, Grant),
    /// A guest pauses at its lease's soft end. The timer may be up to a tick late, as a clock is that
    /// goes slower than the controller's.
    SoftEnd(HostNo, VmmNo),
    /// The kernel's timer kills a VMM whose lease has ended.
    HardEnd(HostNo, VmmNo),
    /// A VMM dies.
    KillVmm(HostNo, VmmNo),
    /// A host loses power.
    CutPower(HostNo),
    /// A host has power again.
    PowerOn(HostNo),
    /// A host is fenced: its power is off, and that is recorded.
    Fence(HostNo),
    /// A lock ends by itself.
    LoseLock,
    /// A host's kernel writes what it had yet to write.
    WriteLate(HostNo),
    /// The database is backed up.
    Backup,
    /// The database is restored from its backup.
    Restore,
    /// An operator accepts the restored database.
    AcceptLineage,
    /// Time passes.
    Tick,
}

/// Whether a message stays in its queue after it was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Delivered once.
    No,
    /// To be delivered again.
    Yes,
}
