//! The connections of one turn: what is under way for each, and the order in which one is closed.
//! Owns the engine's half of a connection's life and the submissions of the turn. Never looks at a
//! byte, never asks the clock.
//! Invariant: a slot is given back only by the completion of its Close, and Close is submitted only
//! when no receive, send or connect of that slot is under way. Otherwise the socket would live on
//! unseen and the kernel would hand the slot to the next connection at once.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::turn::{TurnCounts, TurnPlan};
use crate::base::chunk::Chunk;
use crate::base::limits;
use crate::base::machine::{Arrival, CloseCause, ConnId, Input, Machine};
use crate::base::ring::{ConnectFault, ReceiveEnd, Submission};
use crate::base::time::Instant;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Free,
    Connecting,
    Open,
    /// An orderly close was asked; the send under way goes first.
    Flushing,
    /// Everything is sent and our side is shut; what the peer still sends is thrown away.
    Lingering,
    /// What is under way has been cancelled; each operation still ends with its own completion.
    Cancelling,
    /// Close is submitted.
    Closing,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    generation: u32,
    phase: Phase,
    receiving: bool,
    sending: bool,
    connecting: bool,
    /// The peer has shut its sending side.
    finished: bool,
    /// Something was sent that a reset could destroy before the peer has read it.
    has_sent: bool,
    abort: bool,
    /// Bytes thrown away since the close was asked.
    discarded: u32,
    cause: Option<CloseCause>,
}

/// All connections of one turn, by slot.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    accepted: u32,
    accept_limit: u32,
    live_accepted: u32,
    live_own: u32,
    /// Lingering connections by deadline; the pause is the same for all, so this is also the order
    /// in which they began.
    lingering: VecDeque<(Instant, ConnId)>,
    /// What the turn asks of the ring, in order.
    pub submissions: VecDeque<Submission>,
    pub counts: TurnCounts,
}

impl Table {
    pub fn new(plan: &TurnPlan) -> Self {
        assert!(plan.accept_limit <= plan.accepted);
        let total = plan.accepted.checked_add(plan.own).expect("slots fit in 32 bits");
        Table {
            slots: vec![Slot::default(); total as usize],
            accepted: plan.accepted,
            accept_limit: plan.accept_limit,
            live_accepted: 0,
            live_own: 0,
            lingering: VecDeque::new(),
            submissions: VecDeque::with_capacity(1024),
            counts: TurnCounts::default(),
        }
    }

    pub fn live_accepted(&self) -> u32 {
        self.live_accepted
    }

    pub fn live_own(&self) -> u32 {
        self.live_own
    }

    /// True while the accepted range has no room beyond its reserve.
    pub fn is_crowded(&self) -> bool {
        self.live_accepted >= self.accept_limit
    }

    pub fn is_empty(&self) -> bool {
        self.live_accepted == 0 && self.live_own == 0
    }

    /// The life in `slot` if it is the one that the completion was started for.
    fn life(&mut self, slot: u32, generation: u32) -> Option<ConnId> {
        let found = self.slots.get(slot as usize).and_then(|entry| {
            let conn = ConnId { slot, generation: entry.generation };
            let same = entry.phase != Phase::Free && conn.short_generation() == generation;
            same.then_some(conn)
        });
        if found.is_none() {
            self.counts.stale_completions += 1;
        }
        found
    }

    fn slot(&mut self, conn: ConnId) -> &mut Slot {
        &mut self.slots[conn.slot as usize]
    }

    /// The phase of `conn`'s own life; `Free` when that life is over.
    fn phase(&self, conn: ConnId) -> Phase {
        let slot = &self.slots[conn.slot as usize];
        if slot.generation == conn.generation { slot.phase } else { Phase::Free }
    }

    fn begin(&mut self, conn: ConnId, phase: Phase) {
        let slot = self.slot(conn);
        assert!(slot.phase == Phase::Free, "slot {} lives already", conn.slot);
        *slot = Slot { generation: conn.generation, phase, ..Slot::default() };
        if conn.slot < self.accepted {
            self.live_accepted += 1;
        } else {
            self.live_own += 1;
        }
    }

    fn receive(&mut self, conn: ConnId) {
        let slot = self.slot(conn);
        // Two receives on one socket would both deliver, in any order.
        assert!(!slot.receiving);
        slot.receiving = true;
        self.submissions.push_back(Submission::Receive { conn });
    }

    // --- What the ring tells -------------------------------------------------------------------

    /// A connection was accepted: the Machine admits it or it is refused.
    pub fn accepted<M: Machine>(&mut self, machine: &mut M, now: Instant, arrival: Arrival) {
        self.counts.accepts += 1;
        let slot = arrival.slot;
        let Some(conn) = machine.admit(now, arrival) else {
            self.refuse(slot);
            return;
        };
        assert!(conn.slot == slot && slot < self.accepted);
        self.begin(conn, Phase::Open);
        self.receive(conn);
    }

    pub fn refuse(&mut self, slot: u32) {
        self.counts.accepts_refused += 1;
        self.submissions.push_back(Submission::Refuse { slot });
    }

    pub fn received<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Instant,
        (slot, generation): (u32, u32),
        bytes: &mut [u8],
        more: bool,
    ) {
        let Some(conn) = self.life(slot, generation) else { return };
        let entry = self.slot(conn);
        if !more {
            entry.receiving = false;
        }
        if entry.phase == Phase::Open {
            machine.handle(now, Input::Received { conn, bytes });
        } else {
            entry.discarded = entry.discarded.saturating_add(bytes.len() as u32);
            self.counts.bytes_discarded += bytes.len() as u64;
        }
        if !more {
            self.counts.receive_ends += 1;
            self.receive_over(now, conn);
        } else if self.slot(conn).discarded > limits::LINGER_BYTES {
            self.close(now, conn, CloseCause::Asked, true);
        }
    }

    pub fn receive_ended<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Instant,
        (slot, generation): (u32, u32),
        end: ReceiveEnd,
    ) {
        let Some(conn) = self.life(slot, generation) else { return };
        self.slot(conn).receiving = false;
        match end {
            ReceiveEnd::Finished => {
                self.slot(conn).finished = true;
                match self.slot(conn).phase {
                    Phase::Open => machine.handle(now, Input::Finished { conn }),
                    Phase::Lingering => self.cancel(conn),
                    _ => {}
                }
            }
            ReceiveEnd::Failed(_) => self.close(now, conn, CloseCause::Reset, true),
            ReceiveEnd::Starved => self.counts.starved += 1,
            ReceiveEnd::Cancelled | ReceiveEnd::Ended => self.counts.receive_ends += 1,
        }
        self.receive_over(now, conn);
    }

    /// The multishot receive is over: arm it again while bytes are still wanted. The submission
    /// leaves after the turn has given its buffers back, so that it does not starve at once.
    fn receive_over(&mut self, now: Instant, conn: ConnId) {
        let slot = self.slot(conn);
        let wanted = matches!(slot.phase, Phase::Open | Phase::Flushing | Phase::Lingering);
        if wanted && !slot.finished {
            if slot.discarded > limits::LINGER_BYTES {
                self.close(now, conn, CloseCause::Asked, true);
            } else {
                self.counts.rearms += 1;
                self.receive(conn);
            }
        } else {
            self.settle(conn);
        }
    }

    pub fn sent<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Instant,
        (slot, generation): (u32, u32),
        mut chunk: Chunk,
        result: Result<u32, i32>,
    ) {
        let Some(conn) = self.life(slot, generation) else {
            // The bytes belong to the Machine's pool whoever is in the slot now.
            machine.handle(now, Input::Sent { conn: ConnId { slot, generation }, chunk });
            return;
        };
        let taken = result.unwrap_or(0);
        chunk.advance(taken as usize);
        let slot = self.slot(conn);
        assert!(slot.sending);
        slot.has_sent |= taken > 0;
        let open = matches!(slot.phase, Phase::Open | Phase::Flushing);
        if open && taken > 0 && !chunk.unsent().is_empty() {
            self.counts.short_sends += 1;
            self.submissions.push_back(Submission::Send { conn, chunk });
            return;
        }
        slot.sending = false;
        let whole = chunk.unsent().is_empty();
        machine.handle(now, Input::Sent { conn, chunk });
        if open && !whole {
            self.close(now, conn, CloseCause::SendFailed, true);
        } else if self.phase(conn) == Phase::Flushing {
            self.linger(now, conn);
        } else {
            self.settle(conn);
        }
    }

    pub fn connected<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Instant,
        (slot, generation): (u32, u32),
        result: Result<(), ConnectFault>,
    ) {
        let Some(conn) = self.life(slot, generation) else { return };
        let slot = self.slot(conn);
        assert!(slot.connecting);
        slot.connecting = false;
        match result {
            _ if slot.phase != Phase::Connecting => self.settle(conn),
            Ok(()) => {
                slot.phase = Phase::Open;
                self.receive(conn);
                machine.handle(now, Input::Connected { conn });
            }
            Err(ConnectFault::Timeout) => self.close(now, conn, CloseCause::ConnectTimeout, true),
            Err(ConnectFault::Failed(_)) => self.close(now, conn, CloseCause::ConnectFailed, true),
        }
    }

    pub fn closed<M: Machine>(&mut self, machine: &mut M, now: Instant, slot: (u32, u32)) {
        let Some(conn) = self.life(slot.0, slot.1) else { return };
        let slot = self.slot(conn);
        assert!(slot.phase == Phase::Closing);
        assert!(!slot.receiving && !slot.sending && !slot.connecting);
        let cause = slot.cause.expect("a close has a cause");
        slot.phase = Phase::Free;
        if conn.slot < self.accepted {
            self.live_accepted -= 1;
        } else {
            self.live_own -= 1;
        }
        self.counts.closes += 1;
        machine.handle(now, Input::Closed { conn, cause });
    }

    // --- What the Machine asks -----------------------------------------------------------------

    pub fn transmit<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Instant,
        conn: ConnId,
        chunk: Chunk,
    ) {
        if self.phase(conn) != Phase::Open || chunk.unsent().is_empty() {
            machine.handle(now, Input::Sent { conn, chunk });
            return;
        }
        let slot = self.slot(conn);
        // Several sends on one socket may be taken in any order.
        assert!(!slot.sending, "two sends under way in slot {}", conn.slot);
        slot.sending = true;
        self.counts.sends += 1;
        self.submissions.push_back(Submission::Send { conn, chunk });
    }

    pub fn connect(&mut self, conn: ConnId, to: SocketAddr, deadline: Instant) {
        assert!(conn.slot >= self.accepted, "dialled connections live above the accepted range");
        self.begin(conn, Phase::Connecting);
        self.slot(conn).connecting = true;
        self.counts.connects += 1;
        self.submissions.push_back(Submission::Connect { conn, to, deadline });
    }

    /// Begins or hastens the end of a connection. The first cause stands.
    pub fn close(&mut self, now: Instant, conn: ConnId, cause: CloseCause, abort: bool) {
        let phase = self.phase(conn);
        if phase == Phase::Free {
            return;
        }
        let slot = self.slot(conn);
        slot.cause.get_or_insert(cause);
        slot.abort |= abort;
        match phase {
            Phase::Open if !abort && slot.sending => slot.phase = Phase::Flushing,
            Phase::Open if !abort => self.linger(now, conn),
            Phase::Connecting | Phase::Open => self.cancel(conn),
            Phase::Flushing | Phase::Lingering if abort => self.cancel(conn),
            _ => {}
        }
    }

    /// Everything is sent. A peer that may still be sending is given time to read our last bytes:
    /// a close with unread bytes would reset the connection and could destroy them.
    fn linger(&mut self, now: Instant, conn: ConnId) {
        let slot = self.slot(conn);
        let settled = slot.finished || !slot.has_sent;
        if settled || (conn.slot < self.accepted && self.is_crowded()) {
            self.cancel(conn);
            return;
        }
        let slot = self.slot(conn);
        slot.phase = Phase::Lingering;
        self.submissions.push_back(Submission::Finish { conn });
        self.lingering.push_back((now + limits::LINGER, conn));
    }

    /// Ends the lingering whose time has passed.
    pub fn end_lingering(&mut self, now: Instant) {
        while let Some(&(deadline, conn)) = self.lingering.front() {
            if deadline > now {
                break;
            }
            self.lingering.pop_front();
            if self.phase(conn) == Phase::Lingering {
                self.cancel(conn);
            }
        }
    }

    /// When `end_lingering` is wanted next.
    pub fn next_deadline(&self) -> Instant {
        self.lingering.front().map_or(Instant::FAR, |&(deadline, _)| deadline)
    }

    /// Resets every connection.
    pub fn abort_all(&mut self, now: Instant) {
        for slot in 0..self.slots.len() as u32 {
            let generation = self.slots[slot as usize].generation;
            self.close(now, ConnId { slot, generation }, CloseCause::Asked, true);
        }
    }

    fn cancel(&mut self, conn: ConnId) {
        let slot = self.slot(conn);
        slot.phase = Phase::Cancelling;
        if slot.receiving || slot.sending || slot.connecting {
            self.submissions.push_back(Submission::Cancel { conn });
        } else {
            self.settle(conn);
        }
    }

    /// Closes a cancelled connection when its last operation has ended.
    fn settle(&mut self, conn: ConnId) {
        let slot = self.slot(conn);
        let under_way = slot.receiving || slot.sending || slot.connecting;
        if slot.phase == Phase::Cancelling && !under_way {
            slot.phase = Phase::Closing;
            let abort = slot.abort;
            self.submissions.push_back(Submission::Close { conn, abort });
        }
    }
}
