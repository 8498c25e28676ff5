//! An agent's end of one connection: TLS or plain, whole messages cut out of what comes.
//! Owns the session and what is half. Never decides what is said.
//! Invariant: on a TLS line every byte that the front-end sends belongs to a TLS record.

use super::reference::Place;
use super::text::{Cut, cut};
use super::wire::{Net, Side, WireId};
use crate::base::chunk::ChunkPool;
use crate::base::time::Instant;
use crate::tls::Session;

/// Who holds a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Phone(usize),
    /// A worker's link to this backend.
    Link(usize),
    /// A connection that this backend has dialled itself.
    Own(usize),
    /// A client that means no good.
    Hostile(usize),
}

impl Holder {
    /// The backend at this line.
    pub fn backend(self) -> Option<usize> {
        match self {
            Holder::Link(backend) | Holder::Own(backend) => Some(backend),
            Holder::Phone(_) | Holder::Hostile(_) => None,
        }
    }
}

/// What came out of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Message(String),
    /// A CRLF: the answer to our ping.
    Pong,
    /// The front-end will say nothing more.
    End,
    Reset,
    /// The TLS session broke.
    Broken,
}

/// One connection of an agent.
pub struct Line {
    pub wire: WireId,
    pub holder: Holder,
    pub place: Place,
    session: Option<Box<Session>>,
    cipher: Vec<u8>,
    plain: Vec<u8>,
    /// Plaintext that waits for the handshake, and bytes that wait for room.
    unsealed: Vec<u8>,
    unsent: Vec<u8>,
    /// Nothing is read before this time.
    pub paused_until: Instant,
    pub open: bool,
    /// When it ended, or began to.
    pub ended_at: Option<Instant>,
    /// Our sending side is shut.
    pub finished: bool,
    /// The end was said and told.
    over: bool,
    /// Where the next record begins in what the front-end sends, and the part of its head that has come.
    record_left: usize,
    record_head: Vec<u8>,
    pub records: u64,
    /// The front-end has said something that is no TLS on a TLS line.
    pub plaintext: bool,
    /// A bit of the next ciphertext is flipped.
    pub flip: bool,
    /// Messages said on this line.
    pub said: u64,
    pub heard: u64,
    /// CRLF pings said and answers heard (RFC 5626 5.4).
    pub pings: u64,
    pub pongs: u64,
    /// Probes of the front-end heard, halves of its pings, and whether the last probe was refused.
    pub probes: u64,
    pub halves: u64,
    pub sulked: bool,
}

impl Line {
    pub fn new(wire: WireId, holder: Holder, place: Place, session: Option<Session>) -> Line {
        Line {
            wire,
            holder,
            place,
            session: session.map(Box::new),
            cipher: Vec::new(),
            plain: Vec::new(),
            unsealed: Vec::new(),
            unsent: Vec::new(),
            paused_until: Instant(0),
            open: true,
            ended_at: None,
            finished: false,
            over: false,
            record_left: 0,
            record_head: Vec::new(),
            records: 0,
            plaintext: false,
            flip: false,
            said: 0,
            heard: 0,
            pings: 0,
            pongs: 0,
            probes: 0,
            halves: 0,
            sulked: false,
        }
    }

    pub fn established(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.established())
    }

    /// The client's first flight.
    pub fn begin(&mut self, net: &mut Net, pool: &mut ChunkPool) {
        self.decrypt(net.now(), &mut []);
        self.flush(net, pool);
    }

    /// Queues plaintext; it leaves as far as there is room.
    pub fn say(&mut self, net: &mut Net, pool: &mut ChunkPool, bytes: &[u8]) {
        self.unsealed.extend_from_slice(bytes);
        self.flush(net, pool);
    }

    /// Queues bytes as they are, whatever the line speaks.
    pub fn say_raw(&mut self, net: &mut Net, pool: &mut ChunkPool, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        self.flush(net, pool);
    }

    pub fn flush(&mut self, net: &mut Net, pool: &mut ChunkPool) {
        if !self.open {
            return;
        }
        let flips = self.flip;
        self.seal(pool);
        if flips && !self.flip {
            // The front-end will end it, whether we read its last word or not.
            self.ended_at.get_or_insert(net.now());
        }
        let sent = net.send(self.wire, Side::Proxy, &self.unsent);
        self.unsent.drain(..sent);
        net.wires[self.wire].peer_waits = !self.unsent.is_empty();
        let all = self.unsent.is_empty() && self.unsealed.is_empty();
        if self.finished && all {
            net.finish(self.wire, Side::Proxy);
        }
    }

    fn seal(&mut self, pool: &mut ChunkPool) {
        let Some(session) = &mut self.session else {
            self.unsent.append(&mut self.unsealed);
            return;
        };
        if !session.established() || self.unsealed.is_empty() {
            return;
        }
        let from = self.unsent.len();
        for plain in self.unsealed.chunks(16 * 1024) {
            let mut chunk = pool.take(Session::sealed_len(plain.len())).expect("a pool of its own");
            if session.seal(plain, &mut chunk).is_ok() {
                self.unsent.extend_from_slice(chunk.bytes());
            }
            pool.give(chunk);
        }
        self.unsealed.clear();
        if self.flip && self.unsent.len() > from {
            self.flip = false;
            let at = from + (self.unsent.len() - from) / 2;
            self.unsent[at] ^= 0x10;
        }
    }

    /// Shuts our sending side once everything is sent.
    pub fn finish(&mut self, net: &mut Net, pool: &mut ChunkPool) {
        self.finished = true;
        self.flush(net, pool);
    }

    /// Reads what has arrived; messages in order.
    pub fn listen(&mut self, net: &mut Net, pool: &mut ChunkPool) -> Vec<Heard> {
        let mut heard = Vec::new();
        if !self.open || self.over || self.paused_until > net.now() {
            return heard;
        }
        let mut bytes = vec![0; net.wires[self.wire].to_peer.arrived()];
        let count = net.wires[self.wire].to_peer.take(&mut bytes);
        bytes.truncate(count);
        if count > 0 {
            net.peer_has_read(self.wire);
            self.check_records(&bytes);
            if !self.take_in(net.now(), bytes) {
                heard.push(Heard::Broken);
                return heard;
            }
            self.flush(net, pool);
            self.cut(&mut heard);
        }
        let wire = &net.wires[self.wire];
        if wire.reset {
            self.over = true;
            heard.push(Heard::Reset);
        } else if wire.to_peer.is_over() {
            self.over = true;
            heard.push(Heard::End);
        }
        heard
    }

    fn take_in(&mut self, now: Instant, mut bytes: Vec<u8>) -> bool {
        if self.session.is_none() {
            self.plain.append(&mut bytes);
            return true;
        }
        self.decrypt(now, &mut bytes)
    }

    fn decrypt(&mut self, now: Instant, bytes: &mut [u8]) -> bool {
        let Some(session) = &mut self.session else { return true };
        self.cipher.extend_from_slice(bytes);
        let mut reply = Vec::new();
        let opened = session.open(now, &mut self.cipher, &mut self.plain, &mut reply);
        self.unsent.extend_from_slice(&reply);
        match opened {
            Ok(opened) => {
                self.cipher.drain(..opened.consumed);
                true
            }
            Err(_) => false,
        }
    }

    /// Walks over the records that the front-end sends: type, version 3.x, length (RFC 8446 5.1).
    fn check_records(&mut self, bytes: &[u8]) {
        if !self.place.tls {
            return;
        }
        for byte in bytes {
            if self.record_left > 0 {
                self.record_left -= 1;
                continue;
            }
            self.record_head.push(*byte);
            if let [kind, major, _, high, low] = self.record_head[..] {
                self.plaintext |= !(20..=23).contains(&kind) || major != 3;
                self.record_left = usize::from(high) << 8 | usize::from(low);
                self.record_head.clear();
                self.records += 1;
            }
        }
    }

    fn cut(&mut self, heard: &mut Vec<Heard>) {
        loop {
            match cut(&self.plain) {
                Cut::More => return,
                Cut::Blank => {
                    self.plain.drain(..2);
                    heard.push(Heard::Pong);
                }
                Cut::Whole(len) => {
                    let message: Vec<u8> = self.plain.drain(..len).collect();
                    self.heard += 1;
                    heard.push(Heard::Message(String::from_utf8_lossy(&message).into_owned()));
                }
                Cut::Lost => {
                    let all = String::from_utf8_lossy(&self.plain).into_owned();
                    self.plain.clear();
                    heard.push(Heard::Message(all));
                }
            }
        }
    }

    /// Bytes of a message that never became whole.
    pub fn rest(&self) -> &[u8] {
        &self.plain
    }
}
