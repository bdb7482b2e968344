//! Frames from the tap to the guest.
//!
//! Guarantees: a frame is read straight into the buffers that the driver posted. How long it will
//! be is not known before: what the buffers taken so far cannot hold lands in a spill and is copied
//! behind them, so that a guest with small buffers pays for a copy now and then, and never with a
//! lost frame that its queue could have held. Buffers taken and not used go back to the queue when
//! the device pauses. All buffers of a frame become visible to the driver at once.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::GuestMemoryMmap;

use super::{HEADER_BYTES, MAX_FRAME};
use crate::chain::{Chain, Segments};
use crate::device::GuestBitmap;
use crate::guest_io::{GuestIo, GuestIoError};
use crate::queue::{DeviceQueue, QueueFault};

/// Frames a pass: after so many, the other direction has its turn.
const PASS: u32 = 64;
/// Room to have ready where frames are short: a few ordinary ones' worth.
const SHORT: u64 = 4096;
/// After so many short frames in a row, room for long ones is no longer kept ready.
const SHORT_STREAK: u32 = 64;
/// Descriptors that one receive buffer may have; Linux uses up to 19.
const BUFFER_SEGMENTS: usize = 64;
/// Descriptors that may be held at a time, so that they and the spill fit one readv.
const HELD_SEGMENTS: usize = 900;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: u64 = 10;

/// How a pass ended.
#[derive(Debug)]
pub(super) enum Pass {
    /// There may be more frames.
    More,
    /// The tap has nothing.
    Dry,
    /// The driver has posted too few buffers.
    NoBuffers,
    /// The host refused.
    Refused(io::Error),
}

/// A buffer taken from the queue and not yet used.
struct Held {
    head: u16,
    bytes: u64,
}

/// A frame that was read and does not fit the buffers held.
struct Waiting {
    bytes: u64,
    /// How much of it is already in the buffers; the rest is in the spill.
    in_place: u64,
}

pub(super) struct Receiver {
    io: GuestIo,
    chain: Chain,
    held: VecDeque<Held>,
    /// The memory of all buffers held, in order.
    room: Segments,
    spill: Box<[u8]>,
    waiting: Option<Waiting>,
    /// The driver can take a frame in several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    mergeable: bool,
    /// How much room to have ready before reading.
    want: u64,
    short_streak: u32,
}

impl Receiver {
    pub fn new(mergeable: bool) -> Self {
        Self {
            io: GuestIo::default(),
            chain: Chain::default(),
            held: VecDeque::new(),
            room: Segments::default(),
            spill: vec![0; MAX_FRAME].into_boxed_slice(),
            waiting: None,
            mergeable,
            want: SHORT,
            short_streak: 0,
        }
    }

    /// Receives up to [`PASS`] frames.
    pub fn pass<B: GuestBitmap>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        queue: &mut DeviceQueue,
        tap: BorrowedFd<'_>,
    ) -> Result<Pass, QueueFault> {
        for _ in 0..PASS {
            let frame = match self.waiting.take() {
                Some(frame) => frame,
                None => {
                    self.take_buffers(mem, queue, self.want)?;
                    if self.held.is_empty() {
                        return Ok(Pass::NoBuffers);
                    }
                    match self
                        .io
                        .read_frame(mem, self.room.as_slice(), &mut self.spill, tap)
                    {
                        Ok(bytes) => {
                            let bytes = bytes as u64;
                            Waiting {
                                bytes,
                                in_place: bytes.min(self.room.bytes()),
                            }
                        }
                        Err(GuestIoError::Guest(fault)) => return Err(fault),
                        Err(GuestIoError::Host(error))
                            if error.kind() == io::ErrorKind::WouldBlock =>
                        {
                            return Ok(Pass::Dry);
                        }
                        Err(GuestIoError::Host(error)) => return Ok(Pass::Refused(error)),
                    }
                }
            };
            if frame.bytes < HEADER_BYTES as u64 {
                continue; // No frame at all; the tap never does this.
            }
            self.expect_frames_like(frame.bytes);
            if frame.bytes > frame.in_place && !self.make_room(mem, queue, &frame)? {
                let hopeless = !self.mergeable
                    || self.held.len() >= usize::from(queue.size())
                    || self.held_segments() >= HELD_SEGMENTS;
                if hopeless {
                    tracing::debug!(
                        frame.bytes,
                        "a frame longer than all receive buffers is lost"
                    );
                    continue;
                }
                self.waiting = Some(frame);
                return Ok(Pass::NoBuffers);
            }
            self.deliver(mem, queue, frame.bytes)?;
        }
        Ok(Pass::More)
    }

    /// Gives the buffers that are held back to the queue. A frame that waits for more is lost.
    pub fn give_back(&mut self, queue: &mut DeviceQueue) {
        queue.unpop(u16::try_from(self.held.len()).unwrap_or(u16::MAX));
        self.held.clear();
        self.room.clear();
        self.waiting = None;
    }

    fn held_segments(&self) -> usize {
        self.room.as_slice().len()
    }

    /// Takes buffers until there is room for `want` bytes; one buffer if a frame must fit one.
    fn take_buffers<B: GuestBitmap>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        queue: &mut DeviceQueue,
        want: u64,
    ) -> Result<(), QueueFault> {
        while self.room.bytes() < want
            && (self.mergeable || self.held.is_empty())
            && self.held.len() < usize::from(queue.size())
            && self.held_segments() < HELD_SEGMENTS
        {
            if !queue.pop(mem, &mut self.chain)? {
                return Ok(());
            }
            let segments = self.chain.writable.as_slice();
            let usable = !segments.is_empty()
                && segments.len() <= BUFFER_SEGMENTS
                && self.chain.readable.bytes() == 0;
            if !usable {
                return Err(QueueFault::Malformed(
                    "a receive buffer must be writable, and short",
                ));
            }
            let bytes = self.chain.writable.bytes();
            self.held.push_back(Held {
                head: self.chain.head,
                bytes,
            });
            for segment in segments {
                self.room.push(*segment);
            }
        }
        Ok(())
    }

    /// Takes buffers for the rest of a frame and copies it there; false if there are too few.
    fn make_room<B: GuestBitmap>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        queue: &mut DeviceQueue,
        frame: &Waiting,
    ) -> Result<bool, QueueFault> {
        self.take_buffers(mem, queue, frame.bytes)?;
        if self.room.bytes() < frame.bytes {
            return Ok(false);
        }
        let rest = usize::try_from(frame.bytes.saturating_sub(frame.in_place)).unwrap_or(0);
        let rest = self.spill.get(..rest).unwrap_or_default();
        self.room.copy_from(mem, frame.in_place, rest)?;
        Ok(true)
    }

    /// Hands the first `bytes` bytes of the room to the driver, as one frame.
    fn deliver<B: GuestBitmap>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        queue: &mut DeviceQueue,
        bytes: u64,
    ) -> Result<(), QueueFault> {
        let mut buffers = 0u16;
        let mut room = 0u64;
        for held in &self.held {
            buffers = buffers.saturating_add(1);
            room = room.saturating_add(held.bytes);
            if room >= bytes {
                break;
            }
        }
        self.room
            .copy_from(mem, NUM_BUFFERS, &buffers.to_le_bytes())?;
        let mut left = bytes;
        for held in self.held.drain(..usize::from(buffers)) {
            let used = left.min(held.bytes);
            queue.add_used(mem, held.head, u32::try_from(used).unwrap_or(u32::MAX))?;
            left = left.saturating_sub(used);
        }
        self.room.advance(room);
        self.room.compact();
        queue.publish(mem)
    }

    /// Learns from a frame's length how much room the next ones will take.
    fn expect_frames_like(&mut self, bytes: u64) {
        if bytes > SHORT {
            self.want = MAX_FRAME as u64;
            self.short_streak = 0;
        } else {
            self.short_streak = self.short_streak.saturating_add(1);
            if self.short_streak >= SHORT_STREAK {
                self.want = SHORT;
            }
        }
    }
}
