//! The connections of a Machine that is no proxy: TLS or plain, framing, and an outbox with one chunk in flight.
//! Owns the streams, what waits to be sent on each, and what is half received. Never knows what a message means.
//! Invariant: a stream is on the dirty list at most once, and a chunk of it is out at most once.
//!
//! A Machine that receives does it in three steps, so that it may send on any stream while it looks at a message:
//! [`Streams::receive`] decrypts and lets go of the stream, [`Received::next`] cuts messages, [`Streams::keep`] takes
//! back what is half.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::base::chunk::{Chunk, ChunkPool, LARGE_BYTES, SMALL_BYTES};
use crate::base::machine::{Arrival, ConnId, Output};
use crate::base::slab::Slab;
use crate::base::time::Instant;
use crate::sip::{self, FrameLimits, FrameState, Framed, Message, frame};
use crate::tls::{self, Session};

/// Plaintext that may wait for one stream: a peer that reads slower than this is not waited for.
pub const OUTBOX_BYTES_MAX: usize = 1024 * 1024;

/// Ciphertext that is kept until it is whole: what `tls::session` may ask for, and one receive buffer on top.
const CIPHER_BYTES_MAX: usize = tls::session::KEPT_BYTES_MAX + 17 * 1024;

/// Plaintext of one chunk: four full TLS records fit into a large chunk.
const CHUNK_PLAIN_MAX: usize = 4 * tls::session::RECORD_PLAIN_MAX;
const _: () = assert!(Session::sealed_len(CHUNK_PLAIN_MAX) <= LARGE_BYTES);

/// What sealing a whole chunk adds.
const SEAL_EXTRA_MAX: usize = Session::sealed_len(CHUNK_PLAIN_MAX) - CHUNK_PLAIN_MAX;

/// Buffers at rest that are kept for the next stream in need: one for each stream of a busy turn.
const SPARE_BUFFERS_MAX: usize = 1024;

/// What a stream is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Dialling,
    Handshaking,
    Open,
    /// The close is asked for, or will be once the outbox is empty.
    Ending,
}

/// One connection.
#[derive(Debug)]
pub struct Stream {
    pub phase: Phase,
    /// The other end: where we dialled, or who was accepted.
    pub peer: SocketAddr,
    /// Of an accepted stream its listener; of a dialled one the Machine's own key.
    pub owner: u32,
    session: Option<Box<Session>>,
    /// Half a TLS record.
    cipher: Vec<u8>,
    /// Half a message.
    carry: Vec<u8>,
    frame: FrameState,
    /// Plaintext that waits to be sent.
    pending: Vec<u8>,
    /// What TLS itself has to say: records, ready to go, before anything that is sealed later.
    records: Vec<u8>,
    in_flight: bool,
    dirty: bool,
    /// close_notify is queued: nothing can be sealed any more.
    farewell: bool,
    close_asked: bool,
}

impl Stream {
    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    pub fn is_tls(&self) -> bool {
        self.session.is_some()
    }

    /// Whether everything that was sent has left.
    pub fn is_flushed(&self) -> bool {
        !self.in_flight && self.pending.is_empty() && self.records.is_empty()
    }

    fn has_bytes_ready(&self) -> bool {
        let may_seal = matches!(self.phase, Phase::Open | Phase::Ending);
        !self.records.is_empty() || may_seal && self.may_send() && !self.pending.is_empty()
    }

    /// A TLS stream sends nothing of ours before its handshake has ended.
    fn may_send(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.established() && !self.farewell)
    }
}

/// Why nothing more can be received on a stream. It is ending when this is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Tls(tls::Fault),
    /// More half records than may be kept.
    CipherFull,
}

/// Plaintext of one completion, and what was half before it.
#[derive(Debug)]
pub struct Received<'b> {
    bytes: Bytes<'b>,
    at: usize,
    frame: FrameState,
    /// The TLS handshake ended in this call, or a plain stream was open already: false.
    pub established: bool,
    /// The peer has said that nothing more will come.
    pub peer_closed: bool,
}

#[derive(Debug)]
enum Bytes<'b> {
    Lent(&'b [u8]),
    Own(Vec<u8>),
}

impl Bytes<'_> {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Lent(bytes) => bytes,
            Bytes::Own(bytes) => bytes,
        }
    }
}

/// What stands at the front of a stream.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one turn of a loop")]
pub enum Unit<'m> {
    Message(Message<'m>),
    /// CRLFCRLF: a CRLF is owed (RFC 5626 4.4.1).
    Ping,
}

impl Received<'_> {
    /// The next whole unit. After a fault there is no next one: the stream is lost.
    pub fn next(&mut self, limits: &FrameLimits) -> Option<Result<Unit<'_>, sip::Fault>> {
        let Received { bytes, at, frame: state, .. } = self;
        let bytes = bytes.all();
        loop {
            match frame(&bytes[*at..], state, limits) {
                Ok(Framed::Partial) => return None,
                Ok(Framed::Blank { len }) => *at += len as usize,
                Ok(Framed::Ping) => {
                    *at += 4;
                    return Some(Ok(Unit::Ping));
                }
                Ok(Framed::Message(message)) => {
                    *at += message.len();
                    return Some(Ok(Unit::Message(message)));
                }
                Err(fault) => return Some(Err(fault)),
            }
        }
    }

    /// Takes the CRLF that answers a ping of ours, if that is all there is.
    pub fn take_pong(&mut self) -> bool {
        let found = sip::frame::is_pong(self.rest());
        if found {
            self.at += 2;
            self.frame.reset();
        }
        found
    }

    /// What has not been taken.
    pub fn rest(&self) -> &[u8] {
        &self.bytes.all()[self.at..]
    }
}

/// All streams of one Machine.
#[derive(Debug)]
pub struct Streams {
    slab: Slab<Stream>,
    pool: ChunkPool,
    dirty: VecDeque<ConnId>,
    /// Streams that found the pool empty.
    starved: Vec<ConnId>,
    asks: VecDeque<Output>,
    /// Plaintext under way; one is enough, since a Machine handles one completion at a time.
    scratch: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Streams {
    /// Room for `accepted` streams in slots of the ring's and `own` dialled ones; chunks of all of them together hold
    /// at most `chunk_bytes`.
    pub fn new(accepted: u32, own: u32, chunk_bytes: usize) -> Self {
        Streams {
            slab: Slab::new(accepted, own),
            pool: ChunkPool::new(chunk_bytes),
            dirty: VecDeque::new(),
            starved: Vec::new(),
            asks: VecDeque::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// A stream that was accepted; with a session it speaks TLS.
    pub fn accept(&mut self, arrival: Arrival, session: Option<Session>) -> Option<ConnId> {
        let phase = if session.is_some() { Phase::Handshaking } else { Phase::Open };
        let mut stream = Stream::new(phase, arrival.peer, session);
        stream.owner = arrival.listener;
        self.slab.insert_at(arrival.slot, stream)
    }

    /// Dials; `None` when all slots are taken.
    pub fn dial(
        &mut self,
        to: SocketAddr,
        session: Option<Session>,
        owner: u32,
        deadline: Instant,
    ) -> Option<ConnId> {
        let mut stream = Stream::new(Phase::Dialling, to, session);
        stream.owner = owner;
        let conn = self.slab.insert(stream)?;
        self.asks.push_back(Output::Connect { conn, to, deadline });
        Some(conn)
    }

    pub fn get(&self, conn: ConnId) -> Option<&Stream> {
        self.slab.get(conn)
    }

    /// All streams, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Stream)> {
        self.slab.iter()
    }

    pub fn live(&self) -> u32 {
        self.slab.live_accepted() + self.slab.live_own()
    }

    /// Whether what is sent on this stream has a way.
    pub fn is_usable(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|stream| stream.phase == Phase::Open)
    }

    /// A dial has succeeded. True: the stream is open; false: TLS has begun to shake hands.
    pub fn connected(&mut self, now: Instant, conn: ConnId) -> Result<bool, Lost> {
        let Some(stream) = self.slab.get_mut(conn) else { return Ok(false) };
        let Some(session) = &mut stream.session else {
            stream.phase = Phase::Open;
            self.mark(conn);
            return Ok(true);
        };
        stream.phase = Phase::Handshaking;
        let opened = session.open(now, &mut [], &mut self.scratch, &mut stream.records);
        self.mark(conn);
        match opened {
            Ok(_) => Ok(false),
            Err(fault) => {
                self.close(conn, false);
                Err(Lost::Tls(fault))
            }
        }
    }

    /// Takes bytes of a stream. What comes back is handed to `keep` when its units are taken. `None`: the stream is
    /// gone or ending.
    pub fn receive<'b>(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &'b mut [u8],
    ) -> Result<Option<Received<'b>>, Lost> {
        let Some(stream) = self.slab.get_mut(conn) else { return Ok(None) };
        if stream.phase == Phase::Ending {
            return Ok(None);
        }
        let frame = stream.frame;
        let mut received = Received {
            bytes: Bytes::Lent(&[]),
            at: 0,
            frame,
            established: false,
            peer_closed: false,
        };
        let Some(session) = &mut stream.session else {
            received.bytes = if stream.carry.is_empty() {
                Bytes::Lent(bytes)
            } else {
                Bytes::Own(joined(&mut self.scratch, &mut stream.carry, bytes))
            };
            return Ok(Some(received));
        };
        let mut plain = joined(&mut self.scratch, &mut stream.carry, &[]);
        let opened =
            decrypt(session, now, &mut stream.cipher, bytes, &mut plain, &mut stream.records);
        let has_records = !stream.records.is_empty();
        match opened {
            Ok(opened) => {
                if opened.established {
                    stream.phase = Phase::Open;
                }
                received.established = opened.established;
                received.peer_closed = opened.peer_closed;
                received.bytes = Bytes::Own(plain);
                if has_records || opened.established {
                    self.mark(conn);
                }
                Ok(Some(received))
            }
            Err(lost) => {
                self.scratch = plain;
                self.close(conn, false);
                Err(lost)
            }
        }
    }

    /// Takes back what is half.
    pub fn keep(&mut self, conn: ConnId, received: Received<'_>) {
        if let Some(stream) = self.slab.get_mut(conn) {
            stream.frame = received.frame;
            let rest = received.rest();
            if !rest.is_empty() {
                if stream.carry.capacity() == 0 {
                    stream.carry = self.spare.pop().unwrap_or_default();
                }
                stream.carry.extend_from_slice(rest);
            } else if stream.carry.capacity() > 0 {
                rest_buffer(&mut self.spare, &mut stream.carry);
            }
        }
        if let Bytes::Own(mut plain) = received.bytes {
            plain.clear();
            self.scratch = plain;
        }
    }

    /// Queues a text of several pieces, all or nothing. False: the stream is gone, ending, or its outbox is full.
    pub fn send<'p>(&mut self, conn: ConnId, pieces: impl Iterator<Item = &'p [u8]>) -> bool {
        let Some(stream) = self.slab.get_mut(conn) else { return false };
        if stream.phase == Phase::Ending || stream.pending.len() > OUTBOX_BYTES_MAX {
            return false;
        }
        if stream.pending.capacity() == 0 {
            stream.pending = self.spare.pop().unwrap_or_default();
        }
        pieces.for_each(|piece| stream.pending.extend_from_slice(piece));
        self.mark(conn);
        true
    }

    /// A chunk has come home.
    pub fn sent(&mut self, conn: ConnId, chunk: Chunk) {
        self.pool.give(chunk);
        if let Some(stream) = self.slab.get_mut(conn) {
            stream.in_flight = false;
            if stream.has_bytes_ready() || stream.phase == Phase::Ending {
                self.mark(conn);
            }
        }
        for conn in std::mem::take(&mut self.starved) {
            self.mark(conn);
        }
    }

    /// Ends a stream: in order, once everything queued is sent, or at once by a reset.
    pub fn close(&mut self, conn: ConnId, abort: bool) {
        let Some(stream) = self.slab.get_mut(conn) else { return };
        stream.phase = Phase::Ending;
        if abort && !stream.close_asked {
            stream.close_asked = true;
            stream.pending.clear();
            stream.records.clear();
            self.asks.push_back(Output::Close { conn, abort });
        } else {
            self.mark(conn);
        }
    }

    /// A stream is gone.
    pub fn closed(&mut self, conn: ConnId) -> Option<Stream> {
        let mut stream = self.slab.remove(conn)?;
        rest_buffer(&mut self.spare, &mut stream.pending);
        rest_buffer(&mut self.spare, &mut stream.carry);
        Some(stream)
    }

    /// What the loop is to do next.
    pub fn poll(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.asks.pop_front() {
                return Some(output);
            }
            let conn = self.dirty.pop_front()?;
            if let Some(output) = self.flush(conn) {
                return Some(output);
            }
        }
    }

    fn mark(&mut self, conn: ConnId) {
        if let Some(stream) = self.slab.get_mut(conn)
            && !stream.dirty
        {
            stream.dirty = true;
            self.dirty.push_back(conn);
        }
    }

    fn flush(&mut self, conn: ConnId) -> Option<Output> {
        let stream = self.slab.get_mut(conn)?;
        stream.dirty = false;
        if stream.in_flight || stream.close_asked {
            return None;
        }
        if stream.phase == Phase::Ending && !stream.has_bytes_ready() {
            // close_notify comes after everything that is sealed (RFC 8446 6.1).
            if let Some(session) = &mut stream.session
                && !std::mem::replace(&mut stream.farewell, true)
            {
                session.close(&mut stream.records);
            }
            if stream.records.is_empty() {
                stream.close_asked = true;
                return Some(Output::Close { conn, abort: false });
            }
        }
        if !stream.has_bytes_ready() {
            return None;
        }
        let Some(mut chunk) = self.pool.take(wanted(stream)) else {
            self.starved.push(conn);
            return None;
        };
        if fill(stream, &mut chunk).is_err() {
            // The session can seal no more: what is left unsaid stays so.
            self.pool.give(chunk);
            self.close(conn, true);
            return self.asks.pop_front();
        }
        if stream.pending.is_empty() {
            rest_buffer(&mut self.spare, &mut stream.pending);
        }
        stream.in_flight = true;
        Some(Output::Transmit { conn, chunk })
    }
}

impl Stream {
    fn new(phase: Phase, peer: SocketAddr, session: Option<Session>) -> Self {
        Stream {
            phase,
            peer,
            owner: 0,
            session: session.map(Box::new),
            cipher: Vec::new(),
            carry: Vec::new(),
            frame: FrameState::default(),
            pending: Vec::new(),
            records: Vec::new(),
            in_flight: false,
            dirty: false,
            farewell: false,
            close_asked: false,
        }
    }
}

/// `scratch` with the half message and `bytes` behind it; `carry` is empty afterwards.
fn joined(scratch: &mut Vec<u8>, carry: &mut Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let mut plain = std::mem::take(scratch);
    plain.clear();
    plain.append(carry);
    plain.extend_from_slice(bytes);
    plain
}

/// Opens `bytes` behind what is kept in `cipher`.
fn decrypt(
    session: &mut Session,
    now: Instant,
    cipher: &mut Vec<u8>,
    bytes: &mut [u8],
    plain: &mut Vec<u8>,
    records: &mut Vec<u8>,
) -> Result<tls::Opened, Lost> {
    if cipher.is_empty() {
        let opened = session.open(now, bytes, plain, records).map_err(Lost::Tls)?;
        cipher.extend_from_slice(&bytes[opened.consumed..]);
        return Ok(opened);
    }
    if cipher.len() + bytes.len() > CIPHER_BYTES_MAX {
        return Err(Lost::CipherFull);
    }
    cipher.extend_from_slice(bytes);
    let opened = session.open(now, cipher, plain, records).map_err(Lost::Tls)?;
    cipher.drain(..opened.consumed);
    if cipher.is_empty() {
        *cipher = Vec::new();
    }
    Ok(opened)
}

/// Bytes that the next chunk of a stream takes.
fn wanted(stream: &Stream) -> usize {
    let plain = if stream.may_send() { stream.pending.len().min(CHUNK_PLAIN_MAX) } else { 0 };
    let sealed = if stream.is_tls() { Session::sealed_len(plain) } else { plain };
    (stream.records.len() + sealed).min(LARGE_BYTES)
}

/// Moves records, then sealed or plain text, into `chunk` as far as it has room.
fn fill(stream: &mut Stream, chunk: &mut Chunk) -> Result<(), tls::Fault> {
    let records = stream.records.len().min(chunk.room());
    chunk.push(&stream.records[..records]);
    stream.records.drain(..records);
    if stream.records.is_empty() && stream.records.capacity() > SMALL_BYTES {
        stream.records = Vec::new();
    }
    if !stream.records.is_empty() || stream.pending.is_empty() || !stream.may_send() {
        return Ok(());
    }
    let plain = match &mut stream.session {
        None => {
            let plain = stream.pending.len().min(chunk.room());
            chunk.push(&stream.pending[..plain]);
            plain
        }
        Some(session) => {
            let plain = stream.pending.len().min(CHUNK_PLAIN_MAX);
            // Records that took some of the room leave less for the text: the rest goes with the next chunk.
            let plain = if Session::sealed_len(plain) <= chunk.room() {
                plain
            } else {
                chunk.room().saturating_sub(SEAL_EXTRA_MAX)
            };
            if plain > 0 {
                session.seal(&stream.pending[..plain], chunk)?;
            }
            plain
        }
    };
    stream.pending.drain(..plain);
    Ok(())
}

/// Puts a buffer's memory back for the next stream in need.
fn rest_buffer(spare: &mut Vec<Vec<u8>>, buffer: &mut Vec<u8>) {
    let mut taken = std::mem::take(buffer);
    if taken.capacity() > 0 && spare.len() < SPARE_BUFFERS_MAX {
        taken.clear();
        spare.push(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::machine::Output;

    fn arrival(slot: u32) -> Arrival {
        Arrival { slot, listener: 3, peer: "127.0.0.1:4000".parse().unwrap() }
    }

    fn transmitted(streams: &mut Streams) -> (ConnId, Chunk) {
        match streams.poll() {
            Some(Output::Transmit { conn, chunk }) => (conn, chunk),
            other => panic!("{other:?}"),
        }
    }

    fn say(streams: &mut Streams, conn: ConnId, text: &[u8]) -> bool {
        streams.send(conn, [text].into_iter())
    }

    #[test]
    fn one_chunk_is_out_at_a_time_and_what_comes_meanwhile_goes_with_the_next() {
        let mut streams = Streams::new(2, 0, 1 << 20);
        let conn = streams.accept(arrival(0), None).unwrap();
        assert_eq!(streams.get(conn).unwrap().owner, 3);
        assert!(say(&mut streams, conn, b"one") && say(&mut streams, conn, b"two"));
        let (_, chunk) = transmitted(&mut streams);
        assert_eq!(chunk.bytes(), b"onetwo");
        assert!(say(&mut streams, conn, b"three"));
        assert!(streams.poll().is_none());
        streams.sent(conn, chunk);
        assert_eq!(transmitted(&mut streams).1.bytes(), b"three");
    }

    #[test]
    fn an_orderly_close_comes_after_everything_that_was_queued() {
        let mut streams = Streams::new(2, 0, 1 << 20);
        let conn = streams.accept(arrival(0), None).unwrap();
        let long = vec![b'x'; LARGE_BYTES + 10];
        assert!(say(&mut streams, conn, &long));
        let (_, first) = transmitted(&mut streams);
        streams.close(conn, false);
        assert!(!say(&mut streams, conn, b"too late"));
        assert!(streams.poll().is_none());
        let taken = first.len();
        streams.sent(conn, first);
        let (_, second) = transmitted(&mut streams);
        assert_eq!(taken + second.len(), long.len());
        streams.sent(conn, second);
        assert!(matches!(streams.poll(), Some(Output::Close { abort: false, .. })));
        assert!(streams.poll().is_none());
        assert!(streams.closed(conn).is_some() && streams.closed(conn).is_none());
    }

    #[test]
    fn a_reset_forgets_what_was_queued() {
        let mut streams = Streams::new(2, 0, 1 << 20);
        let conn = streams.accept(arrival(0), None).unwrap();
        assert!(say(&mut streams, conn, b"never sent"));
        streams.close(conn, true);
        streams.close(conn, true);
        assert!(matches!(streams.poll(), Some(Output::Close { abort: true, .. })));
        assert!(streams.poll().is_none());
    }

    #[test]
    fn an_empty_pool_makes_streams_wait_for_a_chunk_to_come_home() {
        let mut streams = Streams::new(2, 0, SMALL_BYTES);
        let one = streams.accept(arrival(0), None).unwrap();
        let two = streams.accept(arrival(1), None).unwrap();
        assert!(say(&mut streams, one, b"one") && say(&mut streams, two, b"two"));
        let (conn, chunk) = transmitted(&mut streams);
        assert_eq!(conn, one);
        assert!(streams.poll().is_none());
        streams.sent(one, chunk);
        let (conn, chunk) = transmitted(&mut streams);
        assert_eq!((conn, chunk.bytes()), (two, &b"two"[..]));
    }

    #[test]
    fn a_peer_that_does_not_read_is_not_written_to_for_ever() {
        let mut streams = Streams::new(1, 0, 1 << 20);
        let conn = streams.accept(arrival(0), None).unwrap();
        let text = vec![b'x'; 100_000];
        let taken = (0..100).take_while(|_| say(&mut streams, conn, &text)).count();
        assert_eq!(taken, OUTBOX_BYTES_MAX / 100_000 + 1);
    }

    #[test]
    fn a_message_in_halves_is_one_message() {
        let text = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 3\r\n\r\nabc\r\n\r\nrest";
        let mut streams = Streams::new(1, 0, 1 << 20);
        let conn = streams.accept(arrival(0), None).unwrap();
        let limits = FrameLimits::default();
        for cut in 1..text.len() - 4 {
            let (mut messages, mut pings) = (0, 0);
            for half in [&text[..cut], &text[cut..text.len() - 4]] {
                let bytes = &mut half.to_vec();
                let mut received = streams.receive(Instant(0), conn, bytes).unwrap().unwrap();
                while let Some(unit) = received.next(&limits) {
                    match unit.unwrap() {
                        Unit::Message(message) => messages += usize::from(message.body() == b"abc"),
                        Unit::Ping => pings += 1,
                    }
                }
                streams.keep(conn, received);
            }
            assert_eq!((messages, pings), (1, 1), "cut at {cut}");
        }
    }
}
