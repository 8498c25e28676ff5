//! The limit to compare with: a bare tunnel for messages on the same turn, ring and TLS session as the
//! front-end. Many clients over TLS or TCP, one connection to the backend over TCP, messages cut by
//! Content-Length alone, answers returned in the order of the questions. It reads no header, keeps no
//! state and forgives nothing. See bench/README.md for the method.
//!
//! `byte_proxy 127.0.0.1:7061 127.0.0.1:7062 --tls --core 0 --seconds 10`

#[path = "message.rs"]
mod message;
#[path = "rig.rs"]
mod rig;
#[path = "side.rs"]
mod side;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use message::{PING, message_len, starts_blank};
use rig::{ACCEPTED, Outbox};
use ringfront::base::chunk::ChunkPool;
use ringfront::base::machine::{Arrival, ConnId, Input, Machine, Output};
use ringfront::base::slab::Slab;
use ringfront::base::time::Instant;
use ringfront::tls::ServerSide;
use ringfront::tls::session::Session;

/// Plaintext that one chunk holds when sealed.
const PLAIN_MAX: usize = 64 * 1024;

#[derive(Default)]
struct Stream {
    session: Option<Box<Session>>,
    /// Half a TLS record, half a message.
    cipher: Vec<u8>,
    plain: Vec<u8>,
    /// What is to be sealed at the turn's end.
    unsealed: Vec<u8>,
    outbox: Outbox,
}

struct ByteProxy {
    streams: Slab<Stream>,
    side: Option<ServerSide>,
    backend: SocketAddr,
    upstream: Option<ConnId>,
    connected: bool,
    /// Who asked, in the order in which the backend will answer.
    asked: VecDeque<ConnId>,
    pool: ChunkPool,
    dirty: Vec<ConnId>,
    closing: Vec<ConnId>,
    answers: u64,
}

impl ByteProxy {
    fn receive(&mut self, now: Instant, conn: ConnId, bytes: &mut [u8]) {
        let Some(stream) = self.streams.get_mut(conn) else { return };
        if stream.session.is_none() && stream.plain.is_empty() {
            // The usual way without TLS: cut where the kernel put it.
            let used = self.cut(conn, bytes);
            let Some(stream) = self.streams.get_mut(conn) else { return };
            return stream.plain.extend_from_slice(&bytes[used..]);
        }
        let mut plain = std::mem::take(&mut stream.plain);
        match &mut stream.session {
            None => plain.extend_from_slice(bytes),
            Some(session) => {
                let mut reply = Vec::new();
                if stream.cipher.is_empty() {
                    let opened = session.open(now, bytes, &mut plain, &mut reply);
                    let consumed = opened.map_or(bytes.len(), |opened| opened.consumed);
                    stream.cipher.extend_from_slice(&bytes[consumed..]);
                } else {
                    stream.cipher.extend_from_slice(bytes);
                    let opened = session.open(now, &mut stream.cipher, &mut plain, &mut reply);
                    let consumed = opened.map_or(stream.cipher.len(), |opened| opened.consumed);
                    stream.cipher.drain(..consumed);
                }
                if !reply.is_empty() {
                    stream.outbox.push(&mut self.pool, &reply);
                    self.dirty.push(conn);
                }
            }
        }
        let used = self.cut(conn, &plain);
        plain.drain(..used);
        if let Some(stream) = self.streams.get_mut(conn) {
            stream.plain = plain;
        }
    }

    /// Forwards the whole messages at the front of `bytes` and says how long they are.
    fn cut(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            if let Some(len) = starts_blank(rest) {
                used += len;
                if len == PING {
                    self.pong(conn);
                }
                continue;
            }
            let Some(len) = message_len(rest) else { return used };
            self.forward(conn, &rest[..len]);
            used += len;
        }
    }

    /// Answers a ping (RFC 5626 4.4.1), as a front-end would: it is no message.
    fn pong(&mut self, conn: ConnId) {
        let Some(stream) = self.streams.get_mut(conn) else { return };
        if stream.session.is_some() {
            stream.unsealed.extend_from_slice(b"\r\n");
        } else {
            stream.outbox.push(&mut self.pool, b"\r\n");
        }
        self.dirty.push(conn);
    }

    fn forward(&mut self, from: ConnId, message: &[u8]) {
        let to = if Some(from) != self.upstream {
            if !message.starts_with(b"ACK ") {
                self.asked.push_back(from);
            }
            self.upstream
        } else if message.starts_with(b"SIP/2.0 1") {
            self.asked.front().copied()
        } else {
            self.answers += 1;
            self.asked.pop_front()
        };
        let Some((to, stream)) = to.and_then(|to| Some((to, self.streams.get_mut(to)?))) else {
            return;
        };
        if stream.session.is_some() {
            stream.unsealed.extend_from_slice(message);
        } else {
            stream.outbox.push(&mut self.pool, message);
        }
        self.dirty.push(to);
    }

    fn transmit(&mut self, conn: ConnId) -> Option<Output> {
        if Some(conn) == self.upstream && !self.connected {
            return None;
        }
        let stream = self.streams.get_mut(conn)?;
        if let Some(chunk) = stream.outbox.next() {
            return Some(Output::Transmit { conn, chunk });
        }
        if stream.outbox.is_out() || stream.unsealed.is_empty() {
            return None;
        }
        let len = stream.unsealed.len().min(PLAIN_MAX);
        let mut chunk = self.pool.take(Session::sealed_len(len)).expect("no end");
        let session = stream.session.as_mut().expect("unsealed bytes have a session");
        session.seal(&stream.unsealed[..len], &mut chunk).expect("an established session");
        stream.unsealed.drain(..len);
        stream.outbox.take_out();
        Some(Output::Transmit { conn, chunk })
    }
}

impl Machine for ByteProxy {
    type Settings = ();
    type Envelope = ();
    type Report = u64;

    fn configure(&mut self, _now: Instant, _settings: Arc<()>) {}

    fn admit(&mut self, _now: Instant, arrival: Arrival) -> Option<ConnId> {
        let session = self.side.as_ref().map(|side| Box::new(Session::server(side)));
        self.streams.insert_at(arrival.slot, Stream { session, ..Stream::default() })
    }

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Received { conn, bytes } => self.receive(now, conn, bytes),
            Input::Sent { conn, chunk } => match self.streams.get_mut(conn) {
                Some(stream) => {
                    stream.outbox.home(&mut self.pool, chunk);
                    self.dirty.push(conn);
                }
                None => self.pool.give(chunk),
            },
            Input::Finished { conn } => self.closing.push(conn),
            Input::Closed { conn, cause } => {
                if Some(conn) == self.upstream {
                    eprintln!("the connection to the backend has ended: {}", cause.name());
                }
                self.streams.remove(conn);
            }
            Input::Connected { conn } => {
                self.connected = true;
                self.dirty.push(conn);
            }
            Input::Tick | Input::Drain { .. } => {}
        }
    }

    fn deliver(&mut self, _now: Instant, (): ()) {}

    fn poll(&mut self) -> Option<Output> {
        if self.upstream.is_none() {
            let conn = self.streams.insert(Stream::default()).expect("one own slot");
            self.upstream = Some(conn);
            let deadline = ringfront::sys::clock::monotonic() + Duration::from_secs(5);
            return Some(Output::Connect { conn, to: self.backend, deadline });
        }
        while let Some(conn) = self.dirty.pop() {
            if let Some(output) = self.transmit(conn) {
                return Some(output);
            }
        }
        let conn = self.closing.pop()?;
        Some(Output::Close { conn, abort: false })
    }

    fn post(&mut self) -> Option<(u16, ())> {
        None
    }

    fn undelivered(&mut self, _now: Instant, (): ()) {}

    fn leaving(&mut self, _now: Instant) {}

    fn deadline(&self) -> Instant {
        Instant::FAR
    }

    fn report(&mut self, _now: Instant, _spare: u64) -> u64 {
        self.answers
    }

    fn drained(&self) -> bool {
        true
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let mut address = || words.next().expect("two addresses").parse().expect("host:port");
    let (listener, backend): (SocketAddr, SocketAddr) = (address(), address());
    let side = std::env::args().any(|word| word == "--tls").then(side::self_made);
    let build = move || ByteProxy {
        streams: Slab::new(ACCEPTED, 1),
        side: side.clone(),
        backend,
        upstream: None,
        connected: false,
        asked: VecDeque::new(),
        pool: ChunkPool::new(1 << 30),
        dirty: Vec::new(),
        closing: Vec::new(),
        answers: 0,
    };
    let (core, seconds) = (rig::parsed("--core", 0), rig::parsed("--seconds", 10));
    rig::run(core, Some(listener), 1, build, seconds).print("byte-proxy");
}
