//! Vectored host I/O straight into and out of guest memory.
//!
//! Guarantees: the kernel is only ever handed addresses that lie within mapped guest memory, for
//! the length of one system call, while the caller holds the memory guard. Nothing is copied, and
//! nothing is allocated in the steady state. Bytes that the host wrote are marked dirty after they
//! were written. The only unsafe code of this crate, beside the tap's ioctls, is here.

#![expect(
    unsafe_code,
    reason = "preadv and its siblings take raw addresses of guest memory"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

use crate::chain::{MAX_SEGMENTS, Segment};
use crate::queue::QueueFault;

/// Why a transfer failed: the driver's mistake, or the host's.
#[derive(Debug, thiserror::Error)]
pub enum GuestIoError {
    /// A segment is not guest memory.
    #[error(transparent)]
    Guest(#[from] QueueFault),
    /// The system call failed.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// Reusable room for I/O vectors. Empty between calls: no address outlives its guard.
#[derive(Default)]
pub struct GuestIo {
    vectors: Vec<libc::iovec>,
}

// SAFETY: the vectors are empty whenever no method runs, and each method needs `&mut self`.
unsafe impl Send for GuestIo {}

impl GuestIo {
    /// Reads all of `segments` from `file` at byte `offset`.
    ///
    /// # Errors
    /// `Host` with `UnexpectedEof` if the file ends before; the guest's buffers may then be
    /// partly written.
    pub fn read_at<B: Bitmap + 'static>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        segments: &[Segment],
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), GuestIoError> {
        self.resolve(mem, segments)?;
        let result = self.transfer(offset, |vectors, count, at| {
            // SAFETY: `resolve` made `count` valid vectors within memory that `mem` keeps mapped.
            unsafe { libc::preadv(file.as_raw_fd(), vectors, count, at) }
        });
        mark_dirty(mem, segments);
        Ok(result?)
    }

    /// Writes all of `segments` to `file` at byte `offset`.
    ///
    /// # Errors
    /// `Host` for what the file system answers; part may have been written.
    pub fn write_at<B: Bitmap + 'static>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        segments: &[Segment],
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), GuestIoError> {
        self.resolve(mem, segments)?;
        Ok(self.transfer(offset, |vectors, count, at| {
            // SAFETY: as in `read_at`; the kernel only reads through the vectors.
            unsafe { libc::pwritev(file.as_raw_fd(), vectors, count, at) }
        })?)
    }

    /// Reads one frame: into `segments` first, and what they cannot hold into `spill`. Returns the
    /// frame's length.
    ///
    /// # Errors
    /// `Host` with `WouldBlock` if there is no frame.
    pub fn read_frame<B: Bitmap + 'static>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        segments: &[Segment],
        spill: &mut [u8],
        tap: BorrowedFd<'_>,
    ) -> Result<usize, GuestIoError> {
        self.resolve(mem, segments)?;
        self.vectors.push(libc::iovec {
            iov_base: spill.as_mut_ptr().cast(),
            iov_len: spill.len(),
        });
        // SAFETY: `resolve` made valid vectors within memory that `mem` keeps mapped; the last one
        // is `spill`, borrowed for this call.
        let result =
            self.once(|vectors, count| unsafe { libc::readv(tap.as_raw_fd(), vectors, count) });
        mark_dirty(mem, segments);
        Ok(result?)
    }

    /// Writes `segments` as one frame.
    ///
    /// # Errors
    /// `Host` for what the tap answers, e.g. `InvalidInput` for a nonsensical offload header.
    pub fn write_frame<B: Bitmap + 'static>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        segments: &[Segment],
        tap: BorrowedFd<'_>,
    ) -> Result<usize, GuestIoError> {
        self.resolve(mem, segments)?;
        // SAFETY: `resolve` made valid vectors within memory that `mem` keeps mapped.
        let result =
            self.once(|vectors, count| unsafe { libc::writev(tap.as_raw_fd(), vectors, count) });
        Ok(result?)
    }

    /// Turns guest addresses into host vectors, each checked to lie in guest memory.
    fn resolve<B: Bitmap + 'static>(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        segments: &[Segment],
    ) -> Result<(), QueueFault> {
        self.vectors.clear();
        for segment in segments {
            let len = usize::try_from(segment.len).map_err(|_| QueueFault::outside(segment))?;
            for slice in GuestMemoryBackend::get_slices(mem, segment.addr, len) {
                let Ok(slice) = slice else {
                    self.vectors.clear();
                    return Err(QueueFault::outside(segment));
                };
                self.vectors.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
        }
        Ok(())
    }

    /// Repeats a positioned call until every vector is served, then empties the list.
    fn transfer(
        &mut self,
        offset: u64,
        call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> io::Result<()> {
        let result = transfer_all(&mut self.vectors, offset, call);
        self.vectors.clear();
        result
    }

    /// One call for one frame, repeated only if a signal interrupted it; then empties the list.
    /// A frame cannot be served in parts: one of more vectors than a call takes (segments that
    /// each lie across two regions of memory) is refused.
    fn once(
        &mut self,
        call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
    ) -> io::Result<usize> {
        let count = vector_count(&self.vectors);
        if self.vectors.len() > MAX_SEGMENTS {
            self.vectors.clear();
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        let result = loop {
            match outcome(call(self.vectors.as_ptr(), count)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.vectors.clear();
        result
    }
}

fn transfer_all(
    vectors: &mut [libc::iovec],
    offset: u64,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut left = vectors;
    let mut at = offset;
    while !left.is_empty() {
        let position = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let done = match outcome(call(left.as_ptr(), vector_count(left), position)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => done,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        left = advance(left, done);
    }
    Ok(())
}

/// The vectors that are left after `done` bytes; a partly served one is shortened.
fn advance(vectors: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    let mut served = 0usize;
    for vector in vectors.iter_mut() {
        if done < vector.iov_len {
            vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(done).cast();
            vector.iov_len = vector.iov_len.saturating_sub(done);
            break;
        }
        done = done.saturating_sub(vector.iov_len);
        served = served.saturating_add(1);
    }
    vectors.get_mut(served..).unwrap_or_default()
}

fn vector_count(vectors: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(vectors.len().min(MAX_SEGMENTS)).unwrap_or(libc::c_int::MAX)
}

fn outcome(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn mark_dirty<B: Bitmap + 'static>(mem: &GuestMemoryMmap<B>, segments: &[Segment]) {
    for segment in segments {
        let len = usize::try_from(segment.len).unwrap_or(0);
        for slice in GuestMemoryBackend::get_slices(mem, segment.addr, len).flatten() {
            slice.bitmap().mark_dirty(0, slice.len());
        }
    }
}
