//! Runs in an emulated host and does what the test says: starts commands, passes their output
//! and exit codes on. Its wire is `berth_tests::channel` on the virtio-serial port `berth`.
//!
//! Threads: one reads the port; each command has one that waits for it and two that read its
//! output. They end with the command. Frames are written under one lock.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_tests::channel::{Kind, MAX_PAYLOAD, Run, receive, send};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A daemon that a command left behind may hold its output open for ever: after the command's
/// end its output is passed on until nothing came for this long.
const LINGER: Duration = Duration::from_millis(500);

/// The port, shared by all who write to it.
#[derive(Clone)]
struct Port(Arc<Mutex<File>>);

impl Port {
    /// Sends a frame. If the test is gone, nobody is left to tell.
    fn send(&self, id: u32, kind: Kind, payload: &[u8]) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = send(&mut *file, id, kind, payload);
    }
}

struct Running {
    group: Pid,
    input: Option<ChildStdin>,
}

fn main() -> Result<()> {
    let path = port_path()?;
    let file = File::options().read(true).write(true).open(&path);
    let mut reader = file.with_context(|| format!("cannot open {}", path.display()))?;
    let port = Port(Arc::new(Mutex::new(reader.try_clone()?)));
    let running = Arc::new(Mutex::new(HashMap::<u32, Running>::new()));
    port.send(0, Kind::Hello, &[]);
    loop {
        let frame = receive(&mut reader).context("the test's end of the port")?;
        let lock = || running.lock().unwrap_or_else(PoisonError::into_inner);
        match frame.kind {
            Kind::Run => match start(&frame.payload) {
                Ok(mut child) => {
                    let group = Pid::from_raw(child.id().cast_signed());
                    lock().insert(
                        frame.id,
                        Running {
                            group,
                            input: child.stdin.take(),
                        },
                    );
                    let (port, running) = (port.clone(), Arc::clone(&running));
                    thread::spawn(move || {
                        let code = attend(child, frame.id, &port);
                        running
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&frame.id);
                        port.send(frame.id, Kind::Exit, &code.to_le_bytes());
                    });
                }
                Err(error) => port.send(frame.id, Kind::Failed, format!("{error:#}").as_bytes()),
            },
            Kind::Input => {
                if let Some(command) = lock().get_mut(&frame.id) {
                    // A command that does not read its input has closed it: its own affair.
                    let written = command
                        .input
                        .as_mut()
                        .map(|input| input.write_all(&frame.payload));
                    if frame.payload.is_empty() || !matches!(written, Some(Ok(()))) {
                        command.input = None;
                    }
                }
            }
            Kind::Kill => {
                if let Some(command) = lock().get(&frame.id) {
                    let _ = killpg(command.group, Signal::SIGKILL);
                }
            }
            other => eprintln!("berth-testhost: a frame of the kind {other:?} is not for a host"),
        }
    }
}

/// The device of the port: there is no udev here that would make the link with its name.
fn port_path() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").context("no virtio-serial port")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == "berth" {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("no virtio-serial port is called berth")
}

fn start(payload: &[u8]) -> Result<Child> {
    let run: Run = serde_json::from_slice(payload).context("not a command")?;
    let (program, arguments) = run.argv.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .process_group(0)
        .current_dir("/root");
    command.env_clear().env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command.env("HOME", "/root").env("LC_ALL", "C.UTF-8");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .spawn()
        .with_context(|| format!("cannot start {program}"))
}

/// Passes the command's output on and waits for its end; gives its exit code as a shell would.
fn attend(mut child: Child, id: u32, port: &Port) -> i32 {
    let (done, all_done) = mpsc::channel::<()>();
    if let Some(stdout) = child.stdout.take() {
        pump(stdout, id, Kind::Output, port.clone(), done.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        pump(stderr, id, Kind::Error, port.clone(), done);
    }
    let status = child.wait();
    // A note for each piece of output; the channel closes when both pumps have ended.
    while all_done.recv_timeout(LINGER).is_ok() {}
    status.map_or(-1, shell_code)
}

fn shell_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

fn pump(
    mut from: impl Read + Send + 'static,
    id: u32,
    kind: Kind,
    port: Port,
    done: mpsc::Sender<()>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PAYLOAD];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            port.send(id, kind, &buffer[..count]);
            let _ = done.send(());
        }
    });
}
