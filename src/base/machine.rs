//! The first seam: a sans-I/O machine. Bytes and time in; bytes and deadlines out.
//! Owns the words that a Machine and the loop exchange. Never does I/O, never says a SIP word.
//!
//! Law: after each `handle`, the loop calls `poll` until it yields `None` before the turn ends.

use std::net::SocketAddr;
use std::sync::Arc;

use super::chunk::Chunk;
use super::time::Instant;

/// One connection's life: the slot is its place in the ring's descriptor table and in the Machine's slab, the
/// generation tells this life from earlier ones in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub slot: u32,
    pub generation: u32,
}

impl ConnId {
    /// The part of the generation that fits beside the slot in a completion (24 bits).
    pub const fn short_generation(self) -> u32 {
        self.generation & 0x00FF_FFFF
    }
}

/// What is known of a connection when it has just been accepted.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The descriptor slot that the ring gave to the connection; the Machine keeps it in the same slot.
    pub slot: u32,
    /// Index of the listener among those that this worker was given.
    pub listener: u32,
    pub peer: SocketAddr,
}

/// Everything that can happen to a Machine. Closed: a new variant is a design event.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes of a connection, lent for this call; the Machine may change them in place (decryption).
    Received { conn: ConnId, bytes: &'a mut [u8] },
    /// The peer has shut its sending side; no byte will follow, what we send may still arrive.
    Finished { conn: ConnId },
    /// A `Connect` has succeeded. A failure is `Closed` with `CloseCause::ConnectFailed` or `ConnectTimeout`.
    Connected { conn: ConnId },
    /// A chunk has come home, wholly sent or not; exactly one for each `Transmit`, always before `Closed`.
    Sent { conn: ConnId, chunk: Chunk },
    /// The connection is gone and its slot is free for a new life.
    Closed { conn: ConnId, cause: CloseCause },
    /// The machine's `deadline` has passed.
    Tick,
    /// No new work; `deadline` is when the process means to stop.
    Drain { deadline: Instant },
}

/// Everything that a Machine can ask for.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes. At most one chunk of a connection is out at a time: the Machine yields the next one only
    /// after `Sent` has brought the last one home.
    Transmit { conn: ConnId, chunk: Chunk },
    /// Dial. `conn` is a fresh life in one of the Machine's own slots (those above the accepted range).
    Connect { conn: ConnId, to: SocketAddr, deadline: Instant },
    /// End a connection. What was transmitted before is sent out first unless `abort`; `Closed` follows.
    Close { conn: ConnId, abort: bool },
    /// Stop or resume accepting on all listeners of this worker.
    Accept { open: bool },
}

/// Why a connection ended, as the loop saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseCause {
    /// The Machine asked for it.
    Asked,
    ConnectFailed,
    ConnectTimeout,
    /// The peer reset the connection or the network gave up on it.
    Reset,
    /// A send failed.
    SendFailed,
}

impl CloseCause {
    pub const ALL: [CloseCause; 5] = [
        CloseCause::Asked,
        CloseCause::ConnectFailed,
        CloseCause::ConnectTimeout,
        CloseCause::Reset,
        CloseCause::SendFailed,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            CloseCause::Asked => "asked",
            CloseCause::ConnectFailed => "connect_failed",
            CloseCause::ConnectTimeout => "connect_timeout",
            CloseCause::Reset => "reset",
            CloseCause::SendFailed => "send_failed",
        }
    }
}

/// What a proxy, an embedded backend and a load generator all are.
pub trait Machine {
    /// What control may change while the Machine runs; read between turns only.
    type Settings: Send + Sync + 'static;
    /// Something that another worker's Machine of the same kind must handle; owns its bytes.
    type Envelope: Send + 'static;
    /// Counters and histograms, handed out whole and replaced by a spare.
    type Report: Send + 'static;

    fn configure(&mut self, now: Instant, settings: Arc<Self::Settings>);

    /// A connection has been accepted. `None` refuses it (the Machine has counted why); the loop then closes it.
    /// The `ConnId` has the slot of the arrival.
    fn admit(&mut self, now: Instant, arrival: Arrival) -> Option<ConnId>;

    fn handle(&mut self, now: Instant, input: Input<'_>);

    /// An envelope from another worker.
    fn deliver(&mut self, now: Instant, envelope: Self::Envelope);

    fn poll(&mut self) -> Option<Output>;

    /// The next envelope for another worker. If that worker's mailbox is full, `undelivered` brings it back.
    fn post(&mut self) -> Option<(u16, Self::Envelope)>;

    fn undelivered(&mut self, now: Instant, envelope: Self::Envelope);

    /// Told once in each turn, right before its submissions leave, with the clock read anew: what was received in
    /// this turn has taken this long.
    fn leaving(&mut self, now: Instant);

    /// When `Input::Tick` is wanted at the latest. `Instant::FAR` when never; a past instant means "I have work left
    /// that I put off to let others in" and the loop will not sleep.
    fn deadline(&self) -> Instant;

    /// Swaps the counts gathered since the last report with `spare` (empty counts of the same shape).
    fn report(&mut self, now: Instant, spare: Self::Report) -> Self::Report;

    /// True when a drain has nothing left to wait for.
    fn drained(&self) -> bool;
}
