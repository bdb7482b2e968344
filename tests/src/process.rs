//! Child processes that end when the test that started them ends, however it ends.
//!
//! A [`Child`] is killed and reaped when it is dropped. Should the test process itself be
//! killed, the kernel kills the child (`PR_SET_PDEATHSIG`). That signal is sent when the
//! *thread* that forked ends, so every child is forked by one thread that lives as long as the
//! process. It goes to the network namespace of the thread that asked, forks, and goes back: the
//! child may run as a user who could not go there.

#![expect(
    unsafe_code,
    reason = "a hook between fork and exec is unsafe by nature"
)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scratch;

/// A request to the forking thread.
struct Fork {
    command: Command,
    /// The network namespace to fork in; without one, the forking thread's own, which has what
    /// the machine can reach.
    netns: Option<File>,
    reply: mpsc::SyncSender<io::Result<std::process::Child>>,
}

/// The channel to the thread that forks all children of this process.
fn forker() -> &'static mpsc::Sender<Fork> {
    static FORKER: OnceLock<mpsc::Sender<Fork>> = OnceLock::new();
    FORKER.get_or_init(|| {
        let (requests, queue) = mpsc::channel::<Fork>();
        thread::Builder::new()
            .name("forker".into())
            .spawn(move || {
                for fork in queue {
                    // The asker may have panicked and gone; then the child dies with its handle.
                    let _ = fork.reply.send(fork_one(fork.command, fork.netns.as_ref()));
                }
            })
            .expect("a thread can be started");
        requests
    })
}

/// Starts the forking thread, in the caller's network namespace, if it does not run yet.
pub(crate) fn start_forker() {
    forker();
}

fn fork_one(command: Command, netns: Option<&File>) -> io::Result<std::process::Child> {
    let Some(netns) = netns else {
        return fork_here(command);
    };
    let home = File::open("/proc/thread-self/ns/net")?;
    // Entering the namespace that one is in already would need a privilege for nothing.
    if netns.metadata()?.ino() == home.metadata()?.ino() {
        return fork_here(command);
    }
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    let forked = fork_here(command);
    setns(&home, CloneFlags::CLONE_NEWNET)?;
    forked
}

fn fork_here(mut command: Command) -> io::Result<std::process::Child> {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: prctl with these arguments touches no memory of ours.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid cannot fail and touches no memory.
        if unsafe { libc::getppid() }.cast_unsigned() != parent {
            return Err(io::Error::other("the test ended before its child began"));
        }
        Ok(())
    };
    // SAFETY: the hook makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(hook) };
    command.spawn()
}

fn spawn_raw(command: Command) -> io::Result<std::process::Child> {
    spawn_in(command, Some(File::open("/proc/thread-self/ns/net")?))
}

fn spawn_in(command: Command, netns: Option<File>) -> io::Result<std::process::Child> {
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the forking thread is gone");
    forker()
        .send(Fork {
            command,
            netns,
            reply,
        })
        .map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// A running child process, killed when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `command` with standard output and error appended to the file `log`.
    ///
    /// # Errors
    /// Says which program could not be started and why.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("{name}: cannot open its log {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let program = command.get_program().to_string_lossy().into_owned();
        let inner = spawn_raw(command).with_context(|| {
            format!("{name}: cannot start {program}: is its package installed (make deps)?")
        })?;
        Ok(Self {
            name: name.into(),
            inner,
            log: log.into(),
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// Whether it still runs; an error that quotes its log's end if it has ended.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.inner.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {status}; its log ends:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// The last 2000 characters of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log, 2000)
    }

    /// Waits for its end, at most `patience`.
    ///
    /// # Errors
    /// If it still runs then.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let ended = wait_until(patience, || Ok(self.inner.try_wait()?))?;
        ended.ok_or_else(|| {
            anyhow!(
                "{} (pid {}) still runs after {patience:?}",
                self.name,
                self.pid()
            )
        })
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal} to {} (pid {})", self.name, self.pid()))
    }

    /// `kill -9`, and waits until the kernel has taken it away.
    ///
    /// # Errors
    /// If it was gone already: a test that kills what is dead proves nothing.
    pub fn kill9(&mut self) -> Result<()> {
        self.check_alive()?;
        self.inner.kill()?;
        let status = self.inner.wait()?;
        if status.signal() != Some(libc::SIGKILL) {
            bail!(
                "{} ended with {status} before it could be killed",
                self.name
            );
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

/// Runs `command` to its end, at most `patience`, and gives its output.
///
/// # Errors
/// If it cannot be started or takes longer (then it is killed).
pub fn run(command: Command, patience: Duration) -> Result<Output> {
    run_by(spawn_raw, command, patience)
}

fn run_by(
    spawn: fn(Command) -> io::Result<std::process::Child>,
    mut command: Command,
    patience: Duration,
) -> Result<Output> {
    let shown = format!("{command:?}");
    let dir = scratch::folder("run")?;
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?);
    let inner = spawn(command).with_context(|| format!("cannot start {shown}"))?;
    let mut child = Child {
        name: shown,
        inner,
        log: err.clone(),
    };
    let status = child.wait(patience)?;
    Ok(Output {
        status,
        stdout: fs::read(out)?,
        stderr: fs::read(err)?,
    })
}

/// Runs `command` as [`run`] does, and gives its standard output, if it exits with 0.
///
/// # Errors
/// Also if it exits with another code; the message has its standard error.
pub fn check(command: Command, patience: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    succeeded(&shown, &run(command, patience)?)
}

/// Runs `command` as [`check`] does, but outside every test's network: what installs something
/// needs the machine's own.
///
/// # Errors
/// As [`check`].
pub fn check_outside(command: Command, patience: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    succeeded(&shown, &run_outside(command, patience)?)
}

/// Runs `command` as [`run`] does, but outside every test's network.
///
/// # Errors
/// As [`run`].
pub fn run_outside(command: Command, patience: Duration) -> Result<Output> {
    let spawn = |command| spawn_in(command, None);
    run_by(spawn, command, patience)
}

fn succeeded(shown: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{shown}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks `ready` every few milliseconds until it gives a value, at most `patience`.
///
/// # Errors
/// The first error of `ready` ends the wait.
pub fn wait_until<T>(
    patience: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let end = Instant::now() + patience;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = ready()? {
            return Ok(Some(value));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The last `limit` bytes of a text file; a note in its place if it cannot be read.
#[must_use]
pub fn tail(path: &Path, limit: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(limit)..]).into_owned()
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}
