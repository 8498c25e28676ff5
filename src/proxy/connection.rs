//! One stream's life: first byte, handshake, open, lingering, closing; its session, its two tails, its outbox.
//! Owns the bytes that wait in either direction. Never routes, never reads a header.
//! Invariant: at most one chunk is out; raw bytes (handshake, alerts) leave before plaintext that is sealed later.

use std::collections::VecDeque;
use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::base::chunk::{Chunk, ChunkPool, LARGE_BYTES, SMALL_BYTES};
use crate::base::time::Instant;
use crate::config::snapshot::{Family, Transport};
use crate::sip::frame::FrameState;
use crate::telemetry::counter::Closed;
use crate::tls::session::Session;

use super::token::{FlowId, PeerId};

/// Plaintext in one chunk: four TLS records' worth, so that what is sealed from it fits a large chunk.
const PLAIN_BYTES: usize = 64 * 1024;
const _: () = assert!(PLAIN_BYTES + 4 * 64 <= LARGE_BYTES);

/// Who a connection is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Accepted {
        listener: u16,
    },
    /// One that we dialled: the index of its link.
    Link {
        link: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Dialled, not yet connected.
    Dialling,
    /// Nothing received yet: the first byte tells TLS from SIP.
    Preface,
    Handshaking,
    Open,
    /// We have said our last word; what still comes is thrown away, so that the word is not lost in a reset.
    Lingering,
    /// Given to the loop to close.
    Closing,
}

#[derive(Debug)]
pub struct Connection {
    pub role: Role,
    pub phase: Phase,
    pub zone: u16,
    pub transport: Transport,
    pub peer: SocketAddr,
    /// The proxy that has named `peer`, where one has.
    pub came_by: Option<SocketAddr>,
    /// A header of the PROXY protocol must come before everything else.
    pub proxy_owed: bool,
    pub session: Option<Box<Session>>,
    /// Half a TLS record, or half a header of the PROXY protocol.
    pub ciphertext: Vec<u8>,
    /// Half a message, plain.
    pub carry: Vec<u8>,
    pub frame: FrameState,
    pub outbox: Outbox,
    /// On the list of connections with something to send.
    pub dirty: bool,
    /// Its first weighty step was taken from the rate of its source.
    pub handshake_rated: bool,
    /// Waits for its turn in the handshake budget.
    pub handshake_queued: bool,
    /// Counts in the table of handshakes under way.
    pub handshake_counted: bool,
    /// Its source prefix counts it: it came from a zone that was not trusted then.
    pub prefix_counted: bool,
    /// The peer has shut its sending side: close when the outbox is empty.
    pub finished: bool,
    /// Requests of it whose state is kept and that have had no final response.
    pub transactions: u32,
    /// A REGISTER was answered 200 over it.
    pub registered: bool,
    /// Why it is being closed, once it is.
    pub cause: Option<Closed>,
    pub accepted_at: Instant,
    pub phase_since: Instant,
    pub last_received: Instant,
    /// Of a link: when something was sent first after what was received last; `FAR` when nothing was.
    pub unheard_since: Instant,
    /// When we last sent a keepalive of our own.
    pub last_pinged: Instant,
    /// When the first byte of the message under way came; `FAR` when none is.
    pub message_since: Instant,
    /// When the chunk that is out was handed over; `FAR` when none is.
    pub sending_since: Instant,
    /// The deadline that the queue holds for it.
    pub armed: Instant,
    /// GCRA theoretical arrival times, in nanoseconds.
    pub request_tat: u64,
    pub ping_tat: u64,
    /// Backends that this connection stands for: of a link its own, of an accepted one those that it proves to be.
    pub backends: SmallVec<[PeerId; 1]>,
}

impl Connection {
    pub fn new(
        role: Role,
        zone: u16,
        transport: Transport,
        peer: SocketAddr,
        now: Instant,
    ) -> Self {
        Connection {
            role,
            phase: match role {
                Role::Accepted { .. } => Phase::Preface,
                Role::Link { .. } => Phase::Dialling,
            },
            zone,
            transport,
            peer,
            came_by: None,
            proxy_owed: false,
            session: None,
            ciphertext: Vec::new(),
            carry: Vec::new(),
            frame: FrameState::default(),
            outbox: Outbox::default(),
            dirty: false,
            handshake_rated: false,
            handshake_queued: false,
            handshake_counted: false,
            prefix_counted: false,
            finished: false,
            transactions: 0,
            registered: false,
            cause: None,
            accepted_at: now,
            phase_since: now,
            last_received: now,
            unheard_since: Instant::FAR,
            last_pinged: now,
            message_since: Instant::FAR,
            sending_since: Instant::FAR,
            armed: Instant::FAR,
            request_tat: 0,
            ping_tat: 0,
            backends: SmallVec::new(),
        }
    }

    pub fn family(&self) -> Family {
        Family::of(self.peer.ip().to_canonical())
    }

    pub fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.phase_since = now;
    }

    /// Whether SIP may be queued for it: open, or a link that is about to be.
    pub fn takes_messages(&self) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Dialling | Phase::Handshaking => matches!(self.role, Role::Link { .. }),
            Phase::Preface | Phase::Lingering | Phase::Closing => false,
        }
    }
}

/// A chunk of plaintext that waits.
#[derive(Debug)]
struct Waiting {
    chunk: Chunk,
    /// Bytes at its front of a message that begins in the chunk before.
    tail: usize,
}

impl Waiting {
    fn new(chunk: Chunk) -> Self {
        Waiting { chunk, tail: 0 }
    }

    fn room(&self) -> usize {
        room(&self.chunk)
    }
}

/// What waits to be sent to one peer: raw bytes first (handshake, alerts), then plaintext in order.
#[derive(Debug, Default)]
pub struct Outbox {
    raw: Vec<u8>,
    plain: VecDeque<Waiting>,
    plain_bytes: usize,
    /// One chunk is with the kernel.
    pub out: bool,
    /// close_notify is owed behind everything that waits (RFC 8446 6.1).
    pub goodbye: bool,
}

/// The outbox or the pool has no room; nothing was queued.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Outbox {
    /// Bytes that wait, without those that are out.
    pub fn waiting(&self) -> usize {
        self.raw.len() + self.plain_bytes + usize::from(self.goodbye)
    }

    pub fn is_idle(&self) -> bool {
        !self.out && self.waiting() == 0
    }

    /// Whether plaintext waits.
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Bytes that go out as they are (TLS handshake and alerts).
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }

    /// Gathers the pieces of one message of at most `len_max` bytes behind what waits already. All or nothing.
    pub fn push<'p>(
        &mut self,
        pool: &mut ChunkPool,
        limit: usize,
        len_max: usize,
        pieces: impl Iterator<Item = &'p [u8]>,
    ) -> Result<(), NoRoom> {
        let last = self.plain.len().saturating_sub(1);
        if self.plain_bytes + len_max > limit || !self.make_room(pool, len_max) {
            return Err(NoRoom);
        }
        // As a rule the message fits what is left of the last chunk, or the one new chunk.
        if let Some(Waiting { chunk, .. }) = self.plain.back_mut()
            && room(chunk) >= len_max
        {
            let before = chunk.len();
            pieces.for_each(|piece| chunk.push(piece));
            self.plain_bytes += chunk.len() - before;
        } else {
            self.push_over(last, pieces);
            // The message may have been shorter than it might have been.
            while let Some(spare) = self.plain.pop_back_if(|waiting| waiting.chunk.is_empty()) {
                pool.give(spare.chunk);
            }
        }
        Ok(())
    }

    /// Fills the chunks from `first` on, one after the other.
    fn push_over<'p>(&mut self, first: usize, pieces: impl Iterator<Item = &'p [u8]>) {
        let mut at = first;
        for piece in pieces {
            let mut rest = piece;
            while !rest.is_empty() {
                let chunk = &mut self.plain[at].chunk;
                let (now, later) = rest.split_at(rest.len().min(room(chunk)));
                chunk.push(now);
                rest = later;
                at += usize::from(!rest.is_empty());
            }
            self.plain_bytes += piece.len();
        }
        for waiting in self.plain.range_mut(first + 1..(at + 1).max(first + 1)) {
            waiting.tail = waiting.chunk.len();
        }
    }

    /// Sees to it that the last chunks have room for `len` bytes together.
    fn make_room(&mut self, pool: &mut ChunkPool, len: usize) -> bool {
        let mut have = self.plain.back().map_or(0, Waiting::room);
        if have >= len {
            return true;
        }
        // A small chunk that is too small becomes a large one, so that a batch stays one send.
        if let Some(last) = self.plain.back_mut()
            && last.chunk.capacity() < LARGE_BYTES
        {
            let Some(mut large) = pool.take(SMALL_BYTES + 1) else { return false };
            large.push(last.chunk.bytes());
            have = room(&large);
            pool.give(std::mem::replace(&mut last.chunk, large));
        }
        let first_new = self.plain.len();
        while have < len {
            let want = if self.plain.is_empty() { len - have } else { SMALL_BYTES + 1 };
            match pool.take(want.min(PLAIN_BYTES)) {
                Some(chunk) => {
                    have += room(&chunk);
                    self.plain.push_back(Waiting::new(chunk));
                }
                None => {
                    self.plain.drain(first_new..).for_each(|waiting| pool.give(waiting.chunk));
                    return false;
                }
            }
        }
        true
    }

    /// The next chunk to send, sealed by `session` where there is one. `Ok(None)`: nothing waits, or one is out.
    /// `may_seal` is false while a handshake is under way: only raw bytes leave then. `Err`: the session is broken.
    pub fn next(
        &mut self,
        pool: &mut ChunkPool,
        mut session: Option<&mut Box<Session>>,
        may_seal: bool,
    ) -> Result<Option<Chunk>, NoRoom> {
        if self.out {
            return Ok(None);
        }
        if self.goodbye && may_seal && self.plain_bytes == 0 {
            self.goodbye = false;
            if let Some(session) = session.as_mut() {
                session.close(&mut self.raw);
            }
        }
        if !self.raw.is_empty() {
            let take = self.raw.len().min(PLAIN_BYTES);
            let Some(mut chunk) = pool.take(take) else { return Ok(None) };
            chunk.push(&self.raw[..take]);
            self.raw.drain(..take);
            if self.raw.is_empty() {
                // Handshakes are rare; an idle connection keeps no buffer.
                self.raw = Vec::new();
            }
            self.out = true;
            return Ok(Some(chunk));
        }
        let Some(plain) = self.plain.front().map(|waiting| &waiting.chunk) else {
            return Ok(None);
        };
        if !may_seal || plain.is_empty() {
            return Ok(None);
        }
        let chunk = match session {
            None => self.plain.pop_front().expect("looked at above").chunk,
            Some(session) => {
                let Some(mut sealed) = pool.take(Session::sealed_len(plain.len())) else {
                    return Ok(None);
                };
                if session.seal(plain.bytes(), &mut sealed).is_err() {
                    pool.give(sealed);
                    return Err(NoRoom);
                }
                let plain = self.plain.pop_front().expect("looked at above").chunk;
                self.plain_bytes -= plain.len();
                pool.give(plain);
                self.out = true;
                return Ok(Some(sealed));
            }
        };
        self.plain_bytes -= chunk.len();
        self.out = true;
        Ok(Some(chunk))
    }

    /// Empties what waits; messages of which no byte was handed over go to `each` in order, chunk by chunk. The rest
    /// of a message whose beginning has left is nobody's: it would be read as another message.
    pub fn take_unsent(&mut self, pool: &mut ChunkPool, mut each: impl FnMut(&[u8])) {
        self.raw = Vec::new();
        self.plain_bytes = 0;
        self.goodbye = false;
        let mut begun = true;
        while let Some(Waiting { chunk, tail }) = self.plain.pop_front() {
            let skip = if begun { tail } else { 0 };
            begun &= skip == chunk.len();
            each(&chunk.bytes()[skip..]);
            pool.give(chunk);
        }
    }
}

fn room(chunk: &Chunk) -> usize {
    chunk.room().min(PLAIN_BYTES.saturating_sub(chunk.len()))
}

/// A connection named together with what the request path needs of it: copied once for each batch of bytes.
#[derive(Clone, Debug)]
pub struct Source {
    /// The connection that the request came on, named so that any worker can answer to it.
    pub flow: FlowId,
    pub zone: u16,
    pub transport: Transport,
    pub peer: SocketAddr,
    pub trusted: bool,
    pub backends: SmallVec<[PeerId; 1]>,
}

impl Source {
    pub fn family(&self) -> Family {
        Family::of(self.peer.ip().to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, pool: &mut ChunkPool) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(Some(chunk)) = outbox.next(pool, None, true) {
            all.extend_from_slice(chunk.bytes());
            pool.give(chunk);
            outbox.out = false;
        }
        all
    }

    #[test]
    fn messages_of_any_size_leave_whole_and_in_order() {
        let mut pool = ChunkPool::new(64 * LARGE_BYTES);
        let sizes = [
            vec![10, 20, 30],
            vec![3000, 3000],
            vec![5000; 40],
            vec![100, 200_000, 7, 66_000],
            vec![65_000, 400, 400, 65_000, 70_000, 1],
        ];
        // A message may be shorter than it might have been.
        for (sizes, slack) in
            sizes.iter().flat_map(|sizes| [0, 300, 9000].map(|slack| (sizes, slack)))
        {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let message: Vec<u8> = (0..*size).map(|at| (at * 7 + index) as u8).collect();
                let pieces = message.chunks(999);
                outbox.push(&mut pool, 1 << 20, *size + slack, pieces).unwrap();
                expected.extend_from_slice(&message);
            }
            assert_eq!(outbox.waiting(), expected.len());
            assert_eq!(drain(&mut outbox, &mut pool), expected);
            assert!(outbox.is_idle());
            assert_eq!(pool.bytes_out(), 0);
        }
    }

    /// A client's body could otherwise be read as a message of ours.
    #[test]
    fn what_comes_back_unsent_begins_with_a_whole_message() {
        for sizes in [vec![5000; 40], vec![70_000, 70_000, 3000], vec![300_000, 10, 10]] {
            let mut pool = ChunkPool::new(64 * LARGE_BYTES);
            for sent in 0..4 {
                let mut outbox = Outbox::default();
                for (index, size) in sizes.iter().enumerate() {
                    let mut message = vec![b'.'; *size];
                    message[0] = index as u8;
                    let pieces = message.chunks(999);
                    outbox.push(&mut pool, 1 << 20, *size, pieces).unwrap();
                }
                let mut gone = 0;
                for _ in 0..sent {
                    let Some(chunk) = outbox.next(&mut pool, None, true).unwrap() else { break };
                    gone += chunk.len();
                    outbox.out = false;
                    pool.give(chunk);
                }
                let mut unsent = Vec::new();
                outbox.take_unsent(&mut pool, |bytes| unsent.extend_from_slice(bytes));
                let (mut at, mut whole) = (0, Vec::new());
                for (index, size) in sizes.iter().enumerate() {
                    if at >= gone {
                        let mut message = vec![b'.'; *size];
                        message[0] = index as u8;
                        whole.extend_from_slice(&message);
                    }
                    at += size;
                }
                assert!(unsent == whole, "{sizes:?}, {sent} sent: {}", unsent.len());
                assert_eq!(pool.bytes_out(), 0);
            }
        }
    }

    #[test]
    fn a_full_outbox_queues_nothing() {
        let mut pool = ChunkPool::new(64 * LARGE_BYTES);
        let mut outbox = Outbox::default();
        outbox.push(&mut pool, 100, 60, std::iter::once(&[1u8; 60][..])).unwrap();
        assert_eq!(outbox.push(&mut pool, 100, 60, std::iter::once(&[2u8; 60][..])), Err(NoRoom));
        assert_eq!(drain(&mut outbox, &mut pool), [1; 60]);
    }

    #[test]
    fn a_dry_pool_queues_nothing_and_loses_nothing() {
        let mut pool = ChunkPool::new(LARGE_BYTES + SMALL_BYTES);
        let mut outbox = Outbox::default();
        outbox.push(&mut pool, 1 << 20, 10, std::iter::once(&[1u8; 10][..])).unwrap();
        let big = vec![2u8; 100_000];
        assert_eq!(
            outbox.push(&mut pool, 1 << 20, big.len(), std::iter::once(&big[..])),
            Err(NoRoom)
        );
        assert_eq!(drain(&mut outbox, &mut pool), [1; 10]);
        assert_eq!(pool.bytes_out(), 0);
    }
}
