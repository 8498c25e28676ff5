//! The kernel as a Ring: one io_uring for one worker, with direct descriptors, multishot accept and
//! receive, and provided buffers.
//! Owns the ring, its descriptor table, its receive buffers and every chunk that is being sent.
//! Never decides when; never looks at a byte.
//! Invariant: memory that an operation refers to lives in `Memory` until that operation's last
//! completion has been taken, or is leaked.
//!
//! A ring belongs to the thread that built it (SINGLE_ISSUER), so it is not `Send`.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, TimeoutFlags, Timespec};
use io_uring::{cqueue, opcode};

use super::address::RawAddress;
use super::buffers::ReceiveBuffers;
pub use super::queues::Mode;
use super::queues::Queues;
use super::socket::Listener;
use super::wake::{RingDirectory, Waker};
use super::{StartUpFault, clock, probe};
use crate::base::chunk::Chunk;
use crate::base::limits;
use crate::base::machine::ConnId;
use crate::base::ring::{Completion, ConnectFault, Full, ReceiveEnd, Ring, RingCounts, Submission};
use crate::base::time::{Duration, Instant};

/// What a worker's ring is made of.
#[derive(Clone, Debug)]
pub struct RingPlan {
    pub worker: u16,
    pub listeners: Arc<[Listener]>,
    /// Descriptor slots given to accepted connections: the operator's limit and a reserve.
    pub accepted: u32,
    /// Slots above them for dialled connections.
    pub own: u32,
    /// Receive buffers, a power of two, and the bytes of each.
    pub buffers: u16,
    pub buffer_bytes: u32,
    /// Entries of the submission and of the completion queue.
    pub submissions: u32,
    pub completions: u32,
    pub waker: Arc<Waker>,
    pub directory: Arc<RingDirectory>,
    /// How the peer's address of an accepted connection is asked for.
    pub peer_names: PeerNames,
    pub mode: Mode,
    /// Sends of so many bytes and more go from our memory, which then stays until the peer has them.
    pub zero_copy_from: Option<u32>,
}

impl RingPlan {
    /// The usual sizes.
    pub fn new(
        worker: u16,
        accepted: u32,
        own: u32,
        directory: Arc<RingDirectory>,
    ) -> io::Result<Self> {
        Ok(RingPlan {
            worker,
            listeners: Arc::new([]),
            accepted,
            own,
            buffers: limits::RECEIVE_BUFFERS,
            buffer_bytes: limits::RECEIVE_BUFFER_BYTES,
            submissions: limits::RING_SUBMISSIONS,
            completions: limits::RING_COMPLETIONS,
            waker: Arc::new(Waker::new()?),
            directory,
            peer_names: PeerNames::ByCommand,
            mode: Mode::Deferred,
            zero_copy_from: None,
        })
    }
}

/// How the address of an accepted connection's peer is found: a direct descriptor has no number
/// that getpeername(2) would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerNames {
    /// By an operation of the ring (SO_PEERNAME through a socket command); where the kernel lacks
    /// it, by installing a descriptor.
    ByCommand,
    /// By installing a descriptor for the moment of getpeername(2).
    ByDescriptor,
}

/// The kind of an operation, in the highest byte of its user data.
mod op {
    pub const ACCEPT: u8 = 1;
    pub const PEER_NAME: u8 = 2;
    pub const PEER_DESCRIPTOR: u8 = 3;
    pub const RECEIVE: u8 = 4;
    pub const SEND: u8 = 5;
    /// The socket of a dialled connection and its options: only a failure completes.
    pub const DIAL: u8 = 6;
    pub const CONNECT: u8 = 7;
    pub const CONNECT_TIMEOUT: u8 = 8;
    pub const CANCEL: u8 = 9;
    pub const CLOSE: u8 = 10;
    pub const REFUSE: u8 = 11;
    pub const FINISH: u8 = 12;
    /// A message to another ring: only a failure completes.
    pub const WAKE: u8 = 13;
    /// A message from another ring.
    pub const WOKEN: u8 = 14;
    pub const EVENT: u8 = 15;
    /// SO_LINGER before an abort: only a failure completes.
    pub const RESET: u8 = 16;
}

/// `op:8 | generation:24 | slot:32`.
const fn user_data(op: u8, generation: u32, slot: u32) -> u64 {
    (op as u64) << 56 | ((generation & 0x00FF_FFFF) as u64) << 32 | slot as u64
}

const fn of_conn(op: u8, conn: ConnId) -> u64 {
    user_data(op, conn.short_generation(), conn.slot)
}

/// What is under way for a slot.
mod way {
    pub const RECEIVE: u8 = 1;
    pub const SEND: u8 = 2;
    pub const CONNECT: u8 = 4;
    /// A cancel was submitted.
    pub const CANCELLED: u8 = 8;
    /// The send goes from our memory.
    pub const ZERO_COPY: u8 = 16;
}

/// Ask whether the kernel has copied, and its answer (IORING_SEND_ZC_REPORT_USAGE, IORING_NOTIF_USAGE_ZC_COPIED).
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const NOTIF_COPIED: u32 = 1 << 31;

/// The one group of provided buffers.
const GROUP: u16 = 0;
/// Entries of the longest chain: socket, six options, connect, its timeout.
const CHAIN: usize = 9;
/// How long `drop` waits for the kernel to let go of our memory.
const REAP_PATIENCE: Duration = Duration::from_secs(1);

/// Values of socket options, read by the kernel when the operation runs.
static ONE: libc::c_int = 1;
static KEEPALIVE_IDLE: libc::c_int = limits::KEEPALIVE_IDLE.as_secs() as libc::c_int;
static KEEPALIVE_INTERVAL: libc::c_int = limits::KEEPALIVE_INTERVAL.as_secs() as libc::c_int;
static KEEPALIVE_PROBES: libc::c_int = limits::KEEPALIVE_PROBES as libc::c_int;
static UNACKNOWLEDGED_MS: libc::c_int = limits::UNACKNOWLEDGED.as_millis() as libc::c_int;
static RESET_ON_CLOSE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// Options of a dialled connection; an accepted one inherits the same from its listener.
static DIAL_OPTIONS: [(i32, i32, &libc::c_int); 6] = [
    (libc::IPPROTO_TCP, libc::TCP_NODELAY, &ONE),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &UNACKNOWLEDGED_MS),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, &ONE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &KEEPALIVE_IDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &KEEPALIVE_INTERVAL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &KEEPALIVE_PROBES),
];

/// Address and deadline of a connect; the kernel copies both when it takes the submission.
#[derive(Clone, Copy, Debug)]
struct Dial {
    address: RawAddress,
    deadline: Timespec,
}

/// Everything that operations under way may refer to.
#[derive(Debug)]
struct Memory {
    buffers: ReceiveBuffers,
    /// The chunk being sent, by slot.
    sends: Vec<Option<Chunk>>,
    /// What became of a send whose memory the kernel still reads, by slot; empty without zero-copy sends.
    outcomes: Vec<i32>,
    /// Where the kernel writes the peer's address, by accepted slot.
    names: Vec<RawAddress>,
    /// By dialled slot.
    dials: Vec<Dial>,
}

impl Memory {
    fn bytes(&self) -> usize {
        let chunks: usize = self.sends.iter().flatten().map(Chunk::capacity).sum();
        let names = self.names.len() * size_of::<RawAddress>();
        let dials = self.dials.len() * size_of::<Dial>();
        self.buffers.bytes() + chunks + names + dials
    }

    /// Gives the memory up for good: the kernel may still read or write it.
    fn leak(&mut self) {
        self.buffers.leak();
        std::mem::forget(std::mem::take(&mut self.sends));
        std::mem::forget(std::mem::take(&mut self.names));
        std::mem::forget(std::mem::take(&mut self.dials));
    }
}

/// A worker's io_uring.
pub struct KernelRing {
    queues: Queues,
    memory: Memory,
    plan: RingPlan,
    /// Bits of `way`, by slot.
    slots: Vec<u8>,
    /// Operations whose last completion is still to come.
    under_way: u32,
    /// Entries of our own that found no room.
    waiting: VecDeque<Entry>,
    /// The buffer lent with the last completion.
    lent: Option<u16>,
    now: Instant,
    counts: RingCounts,
    /// No operation is begun any more.
    ending: bool,
    abandoned: bool,
}

/// A completion without its borrow, or what is needed to borrow.
enum Event {
    Done(Completion<'static>),
    Lent { slot: u32, generation: u32, buffer: u16, len: u32, more: bool },
}

impl KernelRing {
    /// Builds the ring on the calling thread, which alone may use it then.
    pub fn new(plan: RingPlan) -> Result<KernelRing, StartUpFault> {
        let place = format!("worker {}", plan.worker);
        let fault = |step: &str, error: &io::Error| probe::explain(step, &place, error);
        let total = plan.accepted + plan.own;
        let submissions = plan.submissions.max(2 * CHAIN as u32);
        let setup = match plan.mode {
            Mode::PolledSubmission { .. } => probe::POLLED,
            _ => probe::SETUP,
        };
        let mut queues = Queues::new(submissions, plan.completions, plan.mode)
            .map_err(|error| fault(setup, &error))?;
        if plan.mode == Mode::BusyPoll {
            let registered = queues.register_busy_poll();
            registered.map_err(|error| fault(probe::BUSY_POLL, &error))?;
        }
        let buffers = ReceiveBuffers::new(plan.buffers, plan.buffer_bytes)
            .map_err(|error| fault("allocate receive buffers", &error))?;
        let submitter = &mut queues.submitter;
        let registered = submitter.register_ring_fd();
        registered.map_err(|error| fault("register the ring's descriptor", &error))?;
        let registered = submitter.register_files_sparse(total);
        registered.map_err(|error| fault(probe::FILES, &error))?;
        // Nothing here should ever need a kernel thread; if something does, it gets one.
        let registered = submitter.register_iowq_max_workers(&mut [1, 1]);
        registered.map_err(|error| fault("limit the ring's kernel threads", &error))?;
        let registered = buffers.register(submitter, GROUP);
        registered.map_err(|error| fault("register a provided-buffer ring", &error))?;
        let registered = queues.register_file_alloc_range(plan.accepted);
        registered.map_err(|error| fault("reserve descriptor slots", &error))?;
        let dial = Dial { address: RawAddress::EMPTY, deadline: Timespec::new() };
        let mut ring = KernelRing {
            queues,
            memory: Memory {
                buffers,
                sends: (0..total).map(|_| None).collect(),
                outcomes: plan.zero_copy_from.map_or(Vec::new(), |_| vec![0; total as usize]),
                names: vec![RawAddress::EMPTY; plan.accepted as usize],
                dials: vec![dial; plan.own as usize],
            },
            slots: vec![0; total as usize],
            plan,
            under_way: 0,
            waiting: VecDeque::new(),
            lent: None,
            now: clock::monotonic(),
            counts: RingCounts::default(),
            ending: false,
            abandoned: false,
        };
        if ring.plan.peer_names == PeerNames::ByCommand && !ring.reads_peer_names() {
            ring.plan.peer_names = PeerNames::ByDescriptor;
        }
        ring.begin(arm_event(&ring.plan.waker));
        ring.plan.directory.set(ring.plan.worker, Some(ring.queues.descriptor));
        Ok(ring)
    }

    /// How peer addresses are really asked for, after the kernel had its say.
    pub fn peer_names(&self) -> PeerNames {
        self.plan.peer_names
    }

    /// Asks for the peer's name of a socket pair in slot 0.
    fn reads_peer_names(&mut self) -> bool {
        let Ok((one, _other)) = UnixStream::pair() else { return false };
        let submitter = &self.queues.submitter;
        if self.memory.names.is_empty()
            || submitter.register_files_update(0, &[one.as_raw_fd()]).is_err()
        {
            return false;
        }
        let entry = self.ask_peer_name(0, 0);
        self.queues.push(&entry);
        self.queues.enter(Some(REAP_PATIENCE), &mut self.counts);
        let answer = self.queues.completion.next().map(|entry| entry.result());
        let removed = self.queues.submitter.register_files_update(0, &[-1]);
        answer.is_some_and(|length| length >= 2) && removed.is_ok()
    }

    fn ask_peer_name(&mut self, listener: u32, slot: u32) -> Entry {
        let name = self.memory.names[slot as usize].as_mut_ptr();
        let (level, option) = (libc::SOL_SOCKET as u32, libc::SO_PEERNAME as u32);
        opcode::GetSockOpt::new(Fixed(slot), level, option, name.cast(), RawAddress::BYTES)
            .build()
            .user_data(user_data(op::PEER_NAME, listener, slot))
    }

    /// Queues an operation that we begin by ourselves; it will complete.
    fn begin(&mut self, entry: Entry) {
        self.under_way += 1;
        self.queue(entry);
    }

    fn queue(&mut self, entry: Entry) {
        if self.waiting.is_empty() && self.queues.make_room(1, &mut self.counts) {
            self.queues.push(&entry);
        } else {
            self.waiting.push_back(entry);
        }
    }

    fn queue_waiting(&mut self) {
        while !self.waiting.is_empty() && self.queues.make_room(1, &mut self.counts) {
            let Some(entry) = self.waiting.pop_front() else { return };
            self.queues.push(&entry);
        }
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.lent.take() {
            self.memory.buffers.offer(buffer);
        }
    }

    // --- Submissions ---------------------------------------------------------------------------

    fn push_send(&mut self, conn: ConnId, chunk: Chunk) {
        let place = &mut self.memory.sends[conn.slot as usize];
        // Several sends on one socket may be taken in any order.
        assert!(place.is_none(), "two sends under way in slot {}", conn.slot);
        let unsent = place.insert(chunk).unsent();
        let zero_copy = self.plan.zero_copy_from.is_some_and(|from| unsent.len() >= from as usize);
        let entry = send(conn.slot, unsent, zero_copy).user_data(of_conn(op::SEND, conn));
        let ways = way::SEND | if zero_copy { way::ZERO_COPY } else { 0 };
        self.slots[conn.slot as usize] |= ways;
        self.under_way += 1;
        self.counts.zero_copy_sends += u64::from(zero_copy);
        self.queues.push(&entry);
    }

    /// A send is over, or its memory is free again. A zero-copy send says how it went first and that its memory is free
    /// later (io_uring_prep_send_zc(3)); its chunk stays here until then.
    fn sent(&mut self, life: (u32, u32), result: i32, flags: u32) -> Option<Event> {
        let (slot, generation) = life;
        let place = slot as usize;
        if cqueue::more(flags) {
            self.memory.outcomes[place] = result;
            return None;
        }
        let mut result = result;
        if cqueue::notif(flags) {
            // The kernel says here whether it copied after all: over loopback it always does.
            self.counts.zero_copy_copied += u64::from(result as u32 & NOTIF_COPIED != 0);
            result = self.memory.outcomes[place];
        }
        let zero_copy = self.slots[place] & way::ZERO_COPY != 0;
        self.slots[place] &= !way::ZERO_COPY;
        // More memory of ours than the kernel may pin (RLIMIT_MEMLOCK), or a socket that cannot: as usual then.
        if zero_copy
            && !self.ending
            && [-libc::ENOMEM, -libc::ENOBUFS, -libc::EOPNOTSUPP].contains(&result)
        {
            let chunk = self.memory.sends[place].as_ref().expect("a send has a chunk");
            let data = user_data(op::SEND, generation, slot);
            let again = send(slot, chunk.unsent(), false).user_data(data);
            self.queue(again);
            return None;
        }
        self.end(slot, way::SEND);
        let chunk = self.memory.sends[place].take().expect("a send has a chunk");
        let result = if result < 0 { Err(-result) } else { Ok(result as u32) };
        Some(Event::Done(Completion::Sent { slot, generation, chunk, result }))
    }

    fn push_connect(&mut self, conn: ConnId, to: SocketAddr, deadline: Instant) {
        let dialled = (conn.slot - self.plan.accepted) as usize;
        let dial = &mut self.memory.dials[dialled];
        let (address, length) = RawAddress::of(to);
        dial.address = address;
        dial.deadline = Timespec::new()
            .sec(deadline.0 / 1_000_000_000)
            .nsec((deadline.0 % 1_000_000_000) as u32);
        let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let slot = Fixed(conn.slot);
        let target = DestinationSlot::try_from_slot_target(conn.slot).expect("a slot of the table");
        let silent = Flags::IO_LINK | Flags::SKIP_SUCCESS;
        let connect = opcode::Connect::new(slot, dial.address.as_ptr().cast(), length)
            .build()
            .flags(Flags::IO_LINK)
            .user_data(of_conn(op::CONNECT, conn));
        let timeout = opcode::LinkTimeout::new(&raw const dial.deadline)
            .flags(TimeoutFlags::ABS)
            .build()
            .user_data(of_conn(op::CONNECT_TIMEOUT, conn));
        let socket = opcode::Socket::new(domain, libc::SOCK_STREAM, libc::IPPROTO_TCP)
            .file_index(Some(target))
            .build()
            .flags(silent)
            .user_data(of_conn(op::DIAL, conn));
        self.queues.push(&socket);
        for (level, name, value) in DIAL_OPTIONS {
            let option = set_option(slot, level, name, std::ptr::from_ref(value));
            let option = option.flags(silent).user_data(of_conn(op::DIAL, conn));
            self.queues.push(&option);
        }
        self.queues.push(&connect);
        self.queues.push(&timeout);
        self.slots[conn.slot as usize] = way::CONNECT;
        self.under_way += 1;
    }

    fn push_cancel(&mut self, conn: ConnId) {
        let ways = &mut self.slots[conn.slot as usize];
        *ways |= way::CANCELLED;
        let ways = *ways;
        // By user data: a cancel by descriptor would walk every armed receive of the ring.
        for (way, op) in
            [(way::RECEIVE, op::RECEIVE), (way::SEND, op::SEND), (way::CONNECT, op::CONNECT)]
        {
            if ways & way != 0 {
                self.queues.push(&cancel(of_conn(op, conn)));
            }
        }
    }

    fn push_close(&mut self, conn: ConnId, abort: bool) {
        let ways = self.slots[conn.slot as usize];
        // A socket with a receive armed would live on unseen after its slot is given away.
        assert!(ways & (way::RECEIVE | way::SEND | way::CONNECT) == 0);
        self.slots[conn.slot as usize] = 0;
        let slot = Fixed(conn.slot);
        if abort {
            let value = &raw const RESET_ON_CLOSE;
            let reset = set_option(slot, libc::SOL_SOCKET, libc::SO_LINGER, value)
                .flags(Flags::IO_HARDLINK | Flags::SKIP_SUCCESS)
                .user_data(of_conn(op::RESET, conn));
            self.queues.push(&reset);
        }
        let close = opcode::Close::new(slot).build().user_data(of_conn(op::CLOSE, conn));
        self.queues.push(&close);
        self.under_way += 1;
    }

    fn push_wake(&mut self, worker: u16) {
        // A worker between two lives has no ring; its next life begins by looking into its mail.
        let Some(ring) = self.plan.directory.ring(worker) else { return };
        let woken = user_data(op::WOKEN, 0, 0);
        let wake = opcode::MsgRingData::new(Fd(ring), 0, woken, None)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(user_data(op::WAKE, 0, u32::from(worker)));
        self.queues.push(&wake);
    }

    fn refuse(slot: u32) -> Entry {
        opcode::Close::new(Fixed(slot)).build().flags(Flags::SKIP_SUCCESS).user_data(user_data(
            op::REFUSE,
            0,
            slot,
        ))
    }

    // --- Completions ---------------------------------------------------------------------------

    /// Takes one entry of the completion queue; `None` when it concerns only ourselves.
    fn translate(&mut self, entry: &cqueue::Entry) -> Option<Event> {
        let data = entry.user_data();
        let (op, slot) = ((data >> 56) as u8, data as u32);
        let generation = (data >> 32) as u32 & 0x00FF_FFFF;
        let result = entry.result();
        let more = cqueue::more(entry.flags());
        let completion = match op {
            op::RECEIVE => return self.received((slot, generation), result, entry.flags()),
            op::SEND => return self.sent((slot, generation), result, entry.flags()),
            op::ACCEPT => return self.accepted(slot, result, more),
            op::PEER_NAME => {
                self.under_way -= 1;
                let name = &self.memory.names[slot as usize];
                let peer = if result < 0 { None } else { name.parse(result as usize) };
                self.named(generation, slot, peer, -result)
            }
            op::PEER_DESCRIPTOR => {
                self.under_way -= 1;
                let peer = self.installed(result).and_then(|stream| stream.peer_addr().ok());
                self.named(generation, slot, peer, -result)
            }
            op::CONNECT | op::DIAL => return self.connected(op, (slot, generation), result),
            op::CLOSE => {
                self.under_way -= 1;
                Completion::Closed { slot, generation }
            }
            op::FINISH => {
                self.under_way -= 1;
                // A peer that is gone already needs no end of stream.
                if let Some(stream) = self.installed(result) {
                    let _ = stream.shutdown(Shutdown::Write);
                    self.counts.system_calls += 1;
                }
                return None;
            }
            op::EVENT => {
                if !more {
                    self.under_way -= 1;
                    if !self.ending {
                        self.begin(arm_event(&self.plan.waker));
                    }
                }
                Completion::Woken
            }
            op::WOKEN => Completion::Woken,
            // Failures of what completes by failing only: nothing was there to cancel, to close, to
            // time out or to wake.
            _ => return None,
        };
        Some(Event::Done(completion))
    }

    fn end(&mut self, slot: u32, way: u8) {
        let ways = &mut self.slots[slot as usize];
        assert!(*ways & way != 0, "slot {slot} had nothing of this kind under way");
        *ways &= !way;
        self.under_way -= 1;
    }

    fn received(&mut self, life: (u32, u32), result: i32, flags: u32) -> Option<Event> {
        let (slot, generation) = life;
        let more = cqueue::more(flags);
        if !more {
            self.end(slot, way::RECEIVE);
        }
        let buffer = cqueue::buffer_select(flags);
        if result > 0 {
            let buffer = buffer.expect("received bytes are in a buffer");
            return Some(Event::Lent { slot, generation, buffer, len: result as u32, more });
        }
        self.lent = buffer;
        self.give_back();
        assert!(!more, "an empty receive is the last");
        let end = match -result {
            0 => ReceiveEnd::Finished,
            libc::ENOBUFS => ReceiveEnd::Starved,
            libc::ECANCELED => ReceiveEnd::Cancelled,
            errno => ReceiveEnd::Failed(errno),
        };
        Some(Event::Done(Completion::ReceiveEnded { slot, generation, end }))
    }

    /// A slot was filled: its connection is told of when the peer's address is known.
    fn accepted(&mut self, listener: u32, result: i32, more: bool) -> Option<Event> {
        if result >= 0 {
            let slot = result as u32;
            let entry = match self.plan.peer_names {
                PeerNames::ByCommand => self.ask_peer_name(listener, slot),
                PeerNames::ByDescriptor => {
                    let data = user_data(op::PEER_DESCRIPTOR, listener, slot);
                    opcode::FixedFdInstall::new(Fixed(slot), 0).build().user_data(data)
                }
            };
            if !self.ending {
                self.begin(entry);
            }
        }
        let errno = (-result).max(0);
        if more {
            let lost = Completion::AcceptLost { listener, errno };
            return (result < 0).then_some(Event::Done(lost));
        }
        self.under_way -= 1;
        Some(Event::Done(Completion::AcceptEnded { listener, errno }))
    }

    /// The peer's address is known, or the client has gone already (EINVAL, ENOTCONN): then the
    /// slot is given back.
    fn named(
        &mut self,
        listener: u32,
        slot: u32,
        peer: Option<SocketAddr>,
        errno: i32,
    ) -> Completion<'static> {
        match peer {
            Some(peer) => Completion::Accepted { listener, slot, peer },
            None => {
                self.queue(Self::refuse(slot));
                let errno = if errno > 0 { errno } else { libc::ENOTCONN };
                Completion::AcceptLost { listener, errno }
            }
        }
    }

    /// A direct descriptor installed as an ordinary one, closed when dropped.
    fn installed(&mut self, result: i32) -> Option<TcpStream> {
        if result < 0 {
            return None;
        }
        // The call that the stream is for, and its close.
        self.counts.system_calls += 2;
        // PROMISE: the descriptor is open and owned by nobody else.
        // WHO: IORING_OP_FIXED_FD_INSTALL has just made it for us.
        // TEST: tests/ring.rs without_the_command_a_descriptor_names_the_peer
        Some(TcpStream::from(unsafe { OwnedFd::from_raw_fd(result) }))
    }

    /// The connect has ended, or an earlier link of its chain has failed, which silences the rest.
    fn connected(&mut self, op: u8, life: (u32, u32), result: i32) -> Option<Event> {
        let (slot, generation) = life;
        let ways = self.slots[slot as usize];
        if ways & way::CONNECT == 0 {
            return None;
        }
        self.end(slot, way::CONNECT);
        let cancelled = ways & way::CANCELLED != 0;
        let result = match -result {
            errno if errno <= 0 => Ok(()),
            // Nobody but its timeout cancels a connect that we did not cancel.
            libc::ECANCELED if op == op::CONNECT && !cancelled => Err(ConnectFault::Timeout),
            errno => Err(ConnectFault::Failed(errno)),
        };
        Some(Event::Done(Completion::Connected { slot, generation, result }))
    }

    // --- The end -------------------------------------------------------------------------------

    /// Cancels everything and takes completions until the kernel refers to none of our memory.
    fn reap(&mut self) {
        self.give_back();
        self.ending = true;
        self.waiting.clear();
        let deadline = clock::monotonic() + REAP_PATIENCE;
        if self.under_way > 0 && self.queues.make_room(1, &mut self.counts) {
            let all = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.queues.push(&all.user_data(user_data(op::CANCEL, 0, 0)));
        }
        while self.under_way > 0 && clock::monotonic() < deadline {
            self.queues.enter(Some(REAP_PATIENCE / 20), &mut self.counts);
            while let Some(entry) = self.queues.completion.next() {
                if let Some(Event::Lent { buffer, .. }) = self.translate(&entry) {
                    self.memory.buffers.offer(buffer);
                }
            }
        }
    }
}

/// A send of all bytes, from our memory or copied.
fn send(slot: u32, bytes: &[u8], zero_copy: bool) -> Entry {
    let (start, len) = (bytes.as_ptr(), bytes.len() as u32);
    let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
    match zero_copy {
        false => opcode::Send::new(Fixed(slot), start, len).flags(flags).build(),
        true => opcode::SendZc::new(Fixed(slot), start, len)
            .flags(flags)
            .zc_flags(SEND_ZC_REPORT_USAGE)
            .build(),
    }
}

fn cancel(target: u64) -> Entry {
    opcode::AsyncCancel::new(target).build().flags(Flags::SKIP_SUCCESS).user_data(user_data(
        op::CANCEL,
        0,
        0,
    ))
}

fn set_option<T>(slot: Fixed, level: i32, name: i32, value: *const T) -> Entry {
    let (level, name, len) = (level as u32, name as u32, size_of::<T>() as u32);
    opcode::SetSockOpt::new(slot, level, name, value.cast(), len).build()
}

/// A poll that completes at each wake; the counter is never read, since each write is an edge.
fn arm_event(waker: &Waker) -> Entry {
    opcode::PollAdd::new(Fd(waker.descriptor()), libc::POLLIN as u32)
        .multi(true)
        .build()
        .user_data(user_data(op::EVENT, 0, 0))
}

impl Ring for KernelRing {
    fn now(&self) -> Instant {
        self.now
    }

    fn read_clock(&mut self) -> Instant {
        self.now = clock::monotonic();
        self.now
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Full> {
        let entries = match submission {
            Submission::Connect { .. } => CHAIN,
            Submission::Cancel { .. } => 3,
            Submission::Close { .. } => 2,
            _ => 1,
        };
        if !self.waiting.is_empty() || !self.queues.make_room(entries, &mut self.counts) {
            return Err(Full(submission));
        }
        match submission {
            Submission::Accept { listener } => {
                let socket = Fd(self.plan.listeners[listener as usize].descriptor());
                let accept = opcode::AcceptMulti::new(socket).allocate_file_index(true).build();
                self.under_way += 1;
                self.queues.push(&accept.user_data(user_data(op::ACCEPT, 0, listener)));
            }
            Submission::CancelAccept { listener } => {
                self.queues.push(&cancel(user_data(op::ACCEPT, 0, listener)));
            }
            Submission::Receive { conn } => {
                let ways = &mut self.slots[conn.slot as usize];
                // Two receives on one socket would both deliver.
                assert!(*ways & way::RECEIVE == 0);
                *ways |= way::RECEIVE;
                let receive = opcode::RecvMulti::new(Fixed(conn.slot), GROUP).build();
                self.under_way += 1;
                self.queues.push(&receive.user_data(of_conn(op::RECEIVE, conn)));
            }
            Submission::Send { conn, chunk } => self.push_send(conn, chunk),
            Submission::Connect { conn, to, deadline } => self.push_connect(conn, to, deadline),
            Submission::Finish { conn } => {
                let install = opcode::FixedFdInstall::new(Fixed(conn.slot), 0).build();
                self.under_way += 1;
                self.queues.push(&install.user_data(of_conn(op::FINISH, conn)));
            }
            Submission::Cancel { conn } => self.push_cancel(conn),
            Submission::Close { conn, abort } => self.push_close(conn, abort),
            Submission::Refuse { slot } => self.queues.push(&Self::refuse(slot)),
            Submission::Wake { worker } => self.push_wake(worker),
        }
        Ok(())
    }

    fn wait(&mut self, until: Instant) {
        self.give_back();
        self.queue_waiting();
        let nap = match until {
            Instant::FAR => Some(Duration::MAX),
            until if until > self.now => Some(until.since(self.now)),
            _ => None,
        };
        self.queues.enter(nap, &mut self.counts);
        self.now = clock::monotonic();
    }

    fn next(&mut self) -> Option<Completion<'_>> {
        self.give_back();
        loop {
            let entry = self.queues.completion.next()?;
            self.counts.completions += 1;
            match self.translate(&entry) {
                None => {}
                Some(Event::Done(completion)) => return Some(completion),
                Some(Event::Lent { slot, generation, buffer, len, more }) => {
                    self.lent = Some(buffer);
                    let bytes = self.memory.buffers.lend(buffer, len as usize);
                    return Some(Completion::Received { slot, generation, bytes, more });
                }
            }
        }
    }

    fn counts(&self) -> RingCounts {
        self.counts
    }

    fn abandon(&mut self) {
        self.abandoned = true;
        self.counts.leaked_bytes = self.memory.bytes() as u64;
    }
}

impl Drop for KernelRing {
    fn drop(&mut self) {
        self.plan.directory.set(self.plan.worker, None);
        let panicked = self.abandoned || std::thread::panicking();
        if !panicked {
            self.reap();
        }
        // The registered descriptor would keep the ring alive as long as this thread.
        let _ = self.queues.submitter.unregister_ring_fd();
        if panicked || self.under_way > 0 {
            self.memory.leak();
        }
    }
}
