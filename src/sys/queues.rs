//! The two queues of an io_uring and the door to the kernel between them.
//! Owns the ring and its shared memory. Never knows what an operation is for.
//! Invariant: only the thread that built it enters the kernel with it (SINGLE_ISSUER).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;

use io_uring::squeue::Entry;
use io_uring::types::{Napi, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter};

use crate::base::ring::RingCounts;
use crate::base::time::Duration;

/// How submissions reach the kernel, and how completions are waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// We enter the kernel; completions run when we ask for them (DEFER_TASKRUN).
    #[default]
    Deferred,
    /// A thread of the kernel takes submissions, on this core or on that of the ring's thread (SQPOLL). It sleeps after
    /// `POLL_IDLE` without any.
    PolledSubmission { core: Option<u32> },
    /// As `Deferred`; who waits first looks into the queues of the network cards for a while (NAPI busy polling).
    BusyPoll,
}

/// The kernel's thread spins so long for nothing before it sleeps: longer than a pause between bursts, shorter than an
/// operator would take for a hang.
const POLL_IDLE: Duration = Duration::from_millis(20);
/// A wait looks into the network cards' queues for so long (tuning.md names 20 to 50 us).
const BUSY_POLL_MICROSECONDS: u32 = 50;

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
    /// A thread of the kernel takes what is queued.
    polled: bool,
    _owner: RingOwner,
}

impl Queues {
    pub fn new(submissions: u32, completions: u32, mode: Mode) -> io::Result<Queues> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_clamp()
            .setup_cqsize(completions)
            .dontfork();
        match mode {
            Mode::Deferred | Mode::BusyPoll => {
                // Without the flag a wait that must not sleep would never see a completion.
                builder.setup_defer_taskrun().setup_taskrun_flag();
            }
            Mode::PolledSubmission { core } => {
                builder.setup_sqpoll(POLL_IDLE.as_millis() as u32);
                core.map(|core| builder.setup_sqpoll_cpu(core));
            }
        }
        let ring = builder.build(submissions)?;
        let descriptor = ring.as_raw_fd();
        let no_iowait = ring.params().is_feature_no_iowait();
        let owner = RingOwner { ring: NonNull::from(Box::leak(Box::new(ring))) };
        let mut ring = owner.ring;
        // PROMISE: the ring is valid, borrowed by nobody else, and lives as long as the borrow.
        // WHO: `owner`, which is dropped after the three borrowers.
        // TEST: tests/ring.rs, every test
        let (submitter, submission, completion) = unsafe { ring.as_mut() }.split();
        let polled = matches!(mode, Mode::PolledSubmission { .. });
        Ok(Queues {
            submitter,
            submission,
            completion,
            descriptor,
            no_iowait,
            polled,
            _owner: owner,
        })
    }

    /// Makes waits look into the queues of the network cards first.
    pub fn register_busy_poll(&self) -> io::Result<()> {
        let mut napi =
            Napi::new().set_busy_poll_timeout(BUSY_POLL_MICROSECONDS).set_prefer_busy_poll(true);
        self.submitter.register_napi(&mut napi)
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
        // A thread of the kernel that is at it needs no call but time.
        let made = match self.polled && !self.submission.need_wakeup() {
            true => self.submitter.squeue_wait(),
            false => self.submitter.submit(),
        };
        if let Err(error) = made {
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
        if self.polled && !wait && !overflown && !self.submission.need_wakeup() {
            return;
        }
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
