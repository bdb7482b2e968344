//! The serial console: a 16550 whose bytes go to a file or terminal, and come from one.
//!
//! Guarantees: the guest is never blocked by whoever reads its console, and never makes the VMM
//! hold more than [`BUFFER`] bytes. A vCPU only puts its byte into a buffer; the thread
//! `berth_console` writes them out. If the reader is slower than the guest, the bytes in between
//! are dropped, and their number is said where they were. Input waits outside until the guest's
//! FIFO has room.
//!
//! Threads: `berth_console` ends when the [`Console`] is dropped, after it has written what is
//! left or [`LAST_WORDS`] have passed; `berth_stdin` ends with its input or with the process.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

pub use super::ring_file::RingFile;

/// Bytes of output that wait for their reader at most.
pub const BUFFER: usize = 256 << 10;
/// How long the end of a guest waits for a console that nobody reads.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// How much of a console file is kept if nothing else is asked for, in bytes.
pub const KEEP: u64 = 1 << 20;

/// The serial port.
pub struct SerialDevice {
    serial: Serial<IrqTrigger, NoCallbacks, ConsoleWriter>,
    room: Arc<Condvar>,
}

/// The serial port's interrupt.
struct IrqTrigger(EventFd);

impl Trigger for IrqTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The device tells nobody of single bytes.
struct NoCallbacks;

impl SerialEvents for NoCallbacks {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {}
}

impl SerialDevice {
    /// A port with `irq` as its interrupt, whose output goes to `console`.
    pub fn new(irq: EventFd, console: &Console) -> SerialDevice {
        let out = ConsoleWriter(Arc::clone(&console.shared));
        SerialDevice {
            serial: Serial::with_events(IrqTrigger(irq), NoCallbacks, out),
            room: Arc::new(Condvar::new()),
        }
    }

    /// The guest reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        let full = self.serial.fifo_capacity() == 0;
        let value = self.serial.read(register);
        if full && self.serial.fifo_capacity() > 0 {
            self.room.notify_all();
        }
        value
    }

    /// The guest writes a register.
    pub fn write(&mut self, register: u8, value: u8) {
        // Output cannot fail; an interrupt that cannot be raised is one that is pending already.
        if let Err(error) = self.serial.write(register, value) {
            tracing::debug!(?error, "serial port");
        }
    }
}

/// Copies `input` into the guest's serial port until it ends, never more than the guest's FIFO
/// holds. `filter` sees each chunk first; it returns false to end.
pub fn pump_input(
    device: &Mutex<SerialDevice>,
    mut input: impl Read,
    mut filter: impl FnMut(&[u8]) -> bool,
) {
    let mut buffer = [0; 64];
    loop {
        let got = match input.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(got) => got,
        };
        if !filter(&buffer[..got]) {
            return;
        }
        let mut rest = &buffer[..got];
        let mut port = device.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Arc::clone(&port.room);
        while !rest.is_empty() {
            if port.serial.fifo_capacity() == 0 {
                port = room.wait(port).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            match port.serial.enqueue_raw_bytes(rest) {
                // In loopback mode nothing is taken: the guest is testing its port, not listening.
                Ok(0) | Err(_) => break,
                Ok(taken) => rest = &rest[taken..],
            }
        }
    }
}

/// Where the console's output goes.
pub enum Sink {
    /// A file descriptor that is somebody else's, such as standard output.
    Stream(File),
    /// A file of bounded size.
    Ring(RingFile),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stream(file) => file.write_all(bytes),
            Sink::Ring(ring) => ring.write(bytes),
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    dropped: u64,
    closing: bool,
    /// The writer has written everything that it took.
    idle: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's side of the buffer. Takes everything, at once.
struct ConsoleWriter(Arc<Shared>);

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let room = BUFFER - state.bytes.len().min(BUFFER);
        let taken = bytes.len().min(room);
        state.bytes.extend(&bytes[..taken]);
        state.dropped += (bytes.len() - taken) as u64;
        let wake = state.idle;
        drop(state);
        if wake {
            self.0.changed.notify_all();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The console's output and the thread that writes it.
pub struct Console {
    shared: Arc<Shared>,
}

impl Console {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(sink: Sink) -> io::Result<Console> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("berth_console".to_owned())
            .stack_size(128 << 10)
            .spawn(move || write_out(&theirs, sink))?;
        Ok(Console { shared })
    }

    /// Waits until everything is written, [`LAST_WORDS`] at most.
    pub fn drain(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        let mut state = self.shared.lock();
        while !(state.idle && state.bytes.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.drain();
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
    }
}

/// `berth_console`. A reader that has gone is given up after saying so; a file that cannot be
/// written (a full disk) is tried again with what comes next. The guest goes on.
fn write_out(shared: &Shared, mut sink: Sink) {
    let mut broken = false;
    let mut chunk = Vec::new();
    loop {
        let mut state = shared.lock();
        while state.bytes.is_empty() && state.dropped == 0 {
            state.idle = true;
            // For who waits until all is written.
            shared.changed.notify_all();
            if state.closing {
                return;
            }
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        chunk.clear();
        chunk.extend(state.bytes.drain(..));
        let dropped = std::mem::take(&mut state.dropped);
        drop(state);
        if dropped > 0 {
            let note = format!("\r\n[{dropped} bytes of console output dropped]\r\n");
            chunk.extend_from_slice(note.as_bytes());
        }
        if broken && matches!(sink, Sink::Stream(_)) {
            continue;
        }
        match sink.write(&chunk) {
            Ok(()) if broken => {
                tracing::info!("the console's output is kept again");
                broken = false;
            }
            Ok(()) => {}
            Err(error) => {
                if !broken {
                    tracing::warn!(%error, "the console's output is lost from here on");
                }
                broken = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn device(console: &Console) -> Mutex<SerialDevice> {
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Mutex::new(SerialDevice::new(irq, console))
    }

    #[test]
    fn what_the_guest_prints_is_in_the_file_when_the_console_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let console = Console::start(Sink::Ring(RingFile::open(&path, KEEP).unwrap())).unwrap();
        let port = device(&console);
        for byte in b"login: " {
            port.lock().unwrap().write(0, *byte);
        }
        drop(console);
        assert_eq!(std::fs::read(&path).unwrap(), b"login: ");
    }

    #[test]
    fn a_reader_that_never_reads_blocks_nobody_and_costs_a_bounded_buffer() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let console = Console::start(Sink::Stream(File::from(writer))).unwrap();
        let port = device(&console);
        let start = Instant::now();
        for n in 0..3 * BUFFER {
            port.lock().unwrap().write(0, n as u8);
        }
        assert!(console.shared.lock().bytes.len() <= BUFFER);
        assert!(console.shared.lock().dropped > 0);
        drop(console);
        assert!(start.elapsed() < LAST_WORDS * 10);
        drop(reader);
    }

    #[test]
    fn input_waits_until_the_guest_has_room() {
        let console = Console::start(Sink::Stream(File::create("/dev/null").unwrap())).unwrap();
        let port = Arc::new(device(&console));
        let typed: Vec<u8> = (0..200).collect();
        let pump = {
            let (port, typed) = (Arc::clone(&port), typed.clone());
            std::thread::spawn(move || pump_input(&port, &typed[..], |_| true))
        };
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while seen.len() < typed.len() && Instant::now() < deadline {
            const LINE_STATUS: u8 = 5;
            let mut port = port.lock().unwrap();
            if port.read(LINE_STATUS) & 1 != 0 {
                seen.push(port.read(0));
            }
        }
        pump.join().unwrap();
        assert_eq!(seen, typed);
    }

    /// CVE-2020-27173 (vm-superio), CVE-2020-27174 (Firecracker): input without bound.
    #[test]
    fn a_guest_that_talks_to_itself_in_loopback_mode_fills_its_fifo_and_no_more() {
        let console = Console::start(Sink::Stream(File::create("/dev/null").unwrap())).unwrap();
        let port = device(&console);
        let mut port = port.lock().unwrap();
        const MODEM_CONTROL: u8 = 4;
        port.write(MODEM_CONTROL, 1 << 4);
        for n in 0..1_000_000_u32 {
            port.write(0, n as u8);
        }
        assert_eq!(port.serial.fifo_capacity(), 0, "the FIFO is full");
        assert!(port.serial.state().in_buffer.len() <= 64);
    }

    /// Firecracker's port width asserts and #8098 of Cloud Hypervisor: no register, no value
    /// and no order of accesses may end the VMM.
    #[test]
    fn no_access_to_any_register_panics_or_blocks() {
        let console = Console::start(Sink::Stream(File::create("/dev/null").unwrap())).unwrap();
        let port = device(&console);
        let mut port = port.lock().unwrap();
        for n in 0..200_000_u32 {
            let mixed = n.wrapping_mul(2_654_435_761);
            let (register, value) = ((mixed >> 24) as u8, (mixed >> 8) as u8);
            port.write(register, value);
            port.read(register.wrapping_add(value));
        }
    }

    #[test]
    fn a_gigabyte_of_output_leaves_a_small_file_that_ends_with_the_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let console = Console::start(Sink::Ring(RingFile::open(&path, 64 << 10).unwrap())).unwrap();
        let mut writer = ConsoleWriter(Arc::clone(&console.shared));
        // As `rep outsb` would bring it, but in larger portions: 1 GiB of one endless line.
        let portion = [b'\x1b'; 64 << 10];
        for _ in 0..(1 << 30) / portion.len() {
            writer.write_all(&portion).unwrap();
        }
        while !console.shared.lock().bytes.is_empty() {
            console.drain();
        }
        writer.write_all(b"last words").unwrap();
        drop(console);
        let kept = std::fs::read(&path).unwrap();
        assert!(kept.len() <= 128 << 10, "{} bytes", kept.len());
        assert!(kept.ends_with(b"last words"));
    }
}
