//! The second seam: submissions in, completions out. The kernel is one Ring, the simulator another.
//! Owns the words of the seam. Never names io_uring types, never decides when.

use std::net::SocketAddr;

use super::chunk::Chunk;
use super::machine::ConnId;
use super::time::Instant;

/// What the loop asks of a Ring. A submission owns its bytes (`Chunk`) or refers to what is registered.
#[derive(Debug)]
pub enum Submission {
    /// Accept connections of this listener until told otherwise (multishot).
    Accept { listener: u32 },
    /// End the multishot accept; `AcceptEnded` follows.
    CancelAccept { listener: u32 },
    /// Receive into lent buffers until told otherwise (multishot).
    Receive { conn: ConnId },
    /// Send `chunk.unsent()`; `Sent` brings the chunk back. One at a time for each connection.
    Send { conn: ConnId, chunk: Chunk },
    /// Dial; `Connected` follows, at `deadline` at the latest.
    Connect { conn: ConnId, to: SocketAddr, deadline: Instant },
    /// Shut our sending side: after what was sent the peer reads the end of the stream. Only with
    /// no send under way; no completion.
    Finish { conn: ConnId },
    /// Ask the kernel to end what is under way for the connection (receive, send, connect). Each operation still
    /// ends with its own completion.
    Cancel { conn: ConnId },
    /// Give the descriptor back; only with nothing under way. `abort` resets instead of an orderly end.
    Close { conn: ConnId, abort: bool },
    /// A connection that the Machine refused to admit: close it. No completion.
    Refuse { slot: u32 },
    /// Wake another worker that says it sleeps. No completion here; `Woken` there.
    Wake { worker: u16 },
}

/// What a Ring tells the loop. `slot` and `generation` (24 bits) name the life that the operation was started for;
/// the loop compares it with the life that is there now.
#[derive(Debug)]
pub enum Completion<'a> {
    Accepted {
        listener: u32,
        slot: u32,
        peer: SocketAddr,
    },
    /// The multishot accept is over and must be armed again (or not). `errno` 0: ended without error.
    AcceptEnded {
        listener: u32,
        errno: i32,
    },
    /// An accepted connection was lost before its peer's name could be read or the descriptor table was full.
    AcceptLost {
        listener: u32,
        errno: i32,
    },
    /// The buffer is lent until the next call of `next` or `wait`. `more` false: the multishot is over.
    Received {
        slot: u32,
        generation: u32,
        bytes: &'a mut [u8],
        more: bool,
    },
    /// The multishot receive is over.
    ReceiveEnded {
        slot: u32,
        generation: u32,
        end: ReceiveEnd,
    },
    /// A send is over: `result` bytes were taken (maybe fewer than asked), or the error.
    Sent {
        slot: u32,
        generation: u32,
        chunk: Chunk,
        result: Result<u32, i32>,
    },
    Connected {
        slot: u32,
        generation: u32,
        result: Result<(), ConnectFault>,
    },
    Closed {
        slot: u32,
        generation: u32,
    },
    Woken,
}

/// How a multishot receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// The peer shut its sending side.
    Finished,
    /// No buffer was free. Arm again only after buffers went back.
    Starved,
    Cancelled,
    /// The kernel ended the multishot with nothing wrong (completion queue overflow): arm again.
    Ended,
    Failed(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    Timeout,
    Failed(i32),
}

/// The submission could not be taken; nothing was lost, it comes back.
#[derive(Debug)]
pub struct Full(pub Submission);

/// What a Ring counts of itself; plain words, read in housekeeping.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingCounts {
    /// Calls into the kernel.
    pub system_calls: u64,
    /// Completions taken from the queue, of all kinds.
    pub completions: u64,
    /// Completion queue overflows seen.
    pub overflows: u64,
    /// Sends that left from our memory, and those of them that the kernel copied after all.
    pub zero_copy_sends: u64,
    pub zero_copy_copied: u64,
    /// Bytes of send chunks and receive buffers given up with a dead ring.
    pub leaked_bytes: u64,
}

/// The kernel, or something that pretends to be it.
pub trait Ring {
    /// The clock, as read when `wait` returned; `wait` and `read_clock` move it.
    fn now(&self) -> Instant;

    /// Reads the clock anew.
    fn read_clock(&mut self) -> Instant;

    /// Queues a submission. A Ring makes room by itself (entering the kernel) before it says `Full`.
    /// Submissions take effect at the next `wait`, or earlier when room had to be made; those of
    /// one connection keep their order.
    fn submit(&mut self, submission: Submission) -> Result<(), Full>;

    /// Hands everything queued to the kernel and sleeps until a completion is there or `until` has come. An `until`
    /// in the past does not sleep.
    fn wait(&mut self, until: Instant);

    /// The next completion. A lent buffer goes back when `next` or `wait` is called again.
    fn next(&mut self) -> Option<Completion<'_>>;

    fn counts(&self) -> RingCounts;

    /// After a panic: lets go of every connection without waiting for the kernel. Memory that the
    /// kernel may still write into is leaked and counted. Only `counts` may be asked afterwards.
    fn abandon(&mut self) {}
}
