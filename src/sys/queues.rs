//! The two queues of an io_uring and the door to the kernel between them.
//! Owns the ring and its shared memory. Never knows what an operation is for.
//! Invariant: only the thread that built it enters the kernel with it (SINGLE_ISSUER).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;

use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter};

use crate::base::ring::RingCounts;
use crate::base::time::Duration;

/// The memory that the ring and its queues share; freed last.
struct RingOwner {
    ring: NonNull<IoUring>,
}

impl Drop for RingOwner {
    fn drop(&mut self) {
        // PROMISE: the pointer came from a leaked `Box`, and nobody borrows from it any more.
        // WHO: `Queues` made it and drops its three borrowers before this field.
        // TEST: tests/ring.rs, every test that ends with an orderly stop
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

/// The three ends of the ring, held for its whole life: the registered descriptor's index lives in
/// the `Submitter` value. Fields drop in this order.
pub(super) struct Queues {
    pub submitter: Submitter<'static>,
    pub submission: SubmissionQueue<'static>,
    pub completion: CompletionQueue<'static>,
    pub descriptor: RawFd,
    pub no_iowait: bool,
    _owner: RingOwner,
}

impl Queues {
    pub fn new(submissions: u32, completions: u32) -> io::Result<Queues> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Without it a wait that must not sleep would never see a completion.
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_clamp()
            .setup_cqsize(completions)
            .dontfork()
            .build(submissions)?;
        let descriptor = ring.as_raw_fd();
        let no_iowait = ring.params().is_feature_no_iowait();
        let owner = RingOwner { ring: NonNull::from(Box::leak(Box::new(ring))) };
        let mut ring = owner.ring;
        // PROMISE: the ring is valid, borrowed by nobody else, and lives as long as the borrow.
        // WHO: `owner`, which is dropped after the three borrowers.
        // TEST: tests/ring.rs, every test
        let (submitter, submission, completion) = unsafe { ring.as_mut() }.split();
        Ok(Queues { submitter, submission, completion, descriptor, no_iowait, _owner: owner })
    }

    /// Keeps automatic slots (accept) out of those that we choose (dial).
    pub fn register_file_alloc_range(&self, count: u32) -> io::Result<()> {
        const IORING_REGISTER_FILE_ALLOC_RANGE: libc::c_uint = 25;
        // struct io_uring_file_index_range { __u32 off; __u32 len; __u64 resv; }
        let range: [u32; 4] = [0, count, 0, 0];
        // PROMISE: the argument points to a readable io_uring_file_index_range.
        // WHO: `range` lives on this stack frame beyond the call.
        // TEST: tests/ring.rs accepted_and_dialled_connections_have_slots_of_their_own
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.descriptor,
                IORING_REGISTER_FILE_ALLOC_RANGE,
                range.as_ptr(),
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Room for `count` entries in the submission queue, by entering the kernel if need be.
    pub fn make_room(&mut self, count: usize, counts: &mut RingCounts) -> bool {
        if self.submission.capacity() - self.submission.len() >= count {
            return true;
        }
        self.submission.sync();
        counts.system_calls += 1;
        if let Err(error) = self.submitter.submit() {
            assert_passing(&error);
        }
        self.submission.sync();
        self.submission.capacity() - self.submission.len() >= count
    }

    pub fn push(&mut self, entry: &Entry) {
        // PROMISE: what the entry points to stays valid and untouched for the whole operation.
        // WHO: it points into `uring::Memory` (kept or leaked until the last completion) or to
        // statics; the probe waits for the one operation that points to its stack.
        // TEST: tests/ring.rs a_panic_costs_the_connections_and_the_worker_lives_on
        let pushed = unsafe { self.submission.push(entry) };
        pushed.expect("the caller made room");
    }

    /// Enters the kernel: hands over what is queued, takes what is done, and sleeps up to `nap` when
    /// nothing is.
    pub fn enter(&mut self, nap: Option<Duration>, counts: &mut RingCounts) {
        self.submission.sync();
        self.completion.sync();
        let overflown = self.submission.cq_overflow();
        counts.overflows += u64::from(overflown);
        let wait = nap.is_some() && self.completion.is_empty() && !overflown;
        if !wait && self.submission.is_empty() && !overflown && !self.submission.taskrun() {
            return;
        }
        let timespec = Timespec::from(nap.unwrap_or_default());
        let args = match nap {
            Some(nap) if nap < Duration::MAX => SubmitArgs::new().timespec(&timespec),
            _ => SubmitArgs::new(),
        };
        // An idle front-end is idle, not waiting for a disk.
        let flags = if self.no_iowait { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
        counts.system_calls += 1;
        let entered = self.submitter.submit_with_args_and_flags(usize::from(wait), &args, flags);
        if let Err(error) = entered {
            assert_passing(&error);
        }
        self.submission.sync();
        self.completion.sync();
    }
}

/// Errors of io_uring_enter(2) that say "later" and lose nothing; any other is our own fault.
fn assert_passing(error: &io::Error) {
    let passing = [libc::ETIME, libc::EINTR, libc::EAGAIN, libc::EBUSY];
    let code = error.raw_os_error().unwrap_or(0);
    assert!(passing.contains(&code), "io_uring_enter: {error}");
}
