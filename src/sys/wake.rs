//! How a sleeping ring is woken: an eventfd for any thread of the process, and the directory of ring
//! descriptors for a message from ring to ring. Both outlive a worker's lives.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Wakes one worker's ring from any thread.
#[derive(Debug)]
pub struct Waker {
    event: File,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        // PROMISE: none but valid flags (eventfd(2)).
        // WHO: the constants.
        // TEST: tests/ring.rs an_eventfd_wakes_a_sleeping_ring
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // PROMISE: `fd` is open and nobody else owns it.
        // WHO: eventfd(2) has just made it.
        // TEST: tests/ring.rs an_eventfd_wakes_a_sleeping_ring
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker { event: File::from(event) })
    }

    /// The ring's sleep ends, now or as soon as it begins. Never blocks: the only failure is a
    /// counter at its limit, and then the ring has been woken already.
    pub fn wake(&self) {
        let _ = (&self.event).write(&1_u64.to_ne_bytes());
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// The descriptors of all workers' rings, by worker; a worker between two lives has none.
#[derive(Debug)]
pub struct RingDirectory {
    rings: Box<[AtomicI32]>,
}

const NO_RING: RawFd = -1;

impl RingDirectory {
    pub fn new(workers: u16) -> RingDirectory {
        RingDirectory { rings: (0..workers).map(|_| AtomicI32::new(NO_RING)).collect() }
    }

    pub(super) fn set(&self, worker: u16, ring: Option<RawFd>) {
        self.rings[usize::from(worker)].store(ring.unwrap_or(NO_RING), Ordering::Release);
    }

    /// A descriptor that may have been closed meanwhile: a message to it then fails, or wakes some
    /// other worker for nothing.
    pub(super) fn ring(&self, worker: u16) -> Option<RawFd> {
        let fd = self.rings[usize::from(worker)].load(Ordering::Acquire);
        (fd != NO_RING).then_some(fd)
    }
}
