//! A backend that costs as little as it can: every request is answered 200 with its own headers, in order; an INVITE
//! 180 and 200, with a Contact here, so that ACK and BYE come. So that what is measured is what stands before it. See
//! bench/README.md for the method.
//!
//! `backend 127.0.0.1:7062 --core 1 --seconds 60`

#[path = "message.rs"]
mod message;
#[path = "rig.rs"]
#[expect(dead_code, reason = "the outbox of a TLS stream is the tunnel's")]
mod rig;

use std::net::SocketAddr;

use message::{PING, message_len, starts_blank};
use rig::{ACCEPTED, Outbox};
use ringfront::base::chunk::ChunkPool;
use ringfront::base::machine::{Arrival, ConnId, Input, Machine, Output};
use ringfront::base::slab::Slab;
use ringfront::base::time::Instant;
use std::sync::Arc;

#[derive(Default)]
struct Stream {
    rest: Vec<u8>,
    outbox: Outbox,
}

struct Backend {
    streams: Slab<Stream>,
    pool: ChunkPool,
    dirty: Vec<ConnId>,
    closing: Vec<ConnId>,
    /// The whole line.
    contact: String,
    text: Vec<u8>,
    answers: u64,
}

impl Backend {
    /// Answers all whole requests.
    fn answer(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(conn) else { return };
        stream.rest.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = &stream.rest[at..];
            if let Some(len) = starts_blank(rest) {
                at += len;
                if len == PING {
                    stream.outbox.push(&mut self.pool, b"\r\n");
                }
                continue;
            }
            let Some(len) = message_len(rest) else { break };
            let request = &rest[..len];
            at += len;
            if request.starts_with(b"ACK ") {
                continue;
            }
            self.answers += 1;
            if request.starts_with(b"INVITE ") {
                let (ringing, ok) = (b"SIP/2.0 180 Ringing\r\n", b"SIP/2.0 200 OK\r\n");
                let (nothing, answer) = (b"Content-Length: 0\r\n\r\n", ANSWER.as_bytes());
                for (line, end) in [(&ringing[..], &nothing[..]), (ok, answer)] {
                    self.text.clear();
                    accept(line, request, &self.contact, end, &mut self.text);
                    stream.outbox.push(&mut self.pool, &self.text);
                }
                continue;
            }
            let headers = memchr::memchr(b'\n', request).map_or(0, |end| end + 1);
            stream.outbox.push(&mut self.pool, b"SIP/2.0 200 OK\r\n");
            stream.outbox.push(&mut self.pool, &request[headers..]);
        }
        stream.rest.drain(..at);
        self.dirty.push(conn);
    }
}

/// What is said of media in every 200: as much as a phone would.
const ANSWER: &str = "Content-Type: application/sdp\r\nContent-Length: 104\r\n\r\n\
    v=0\r\no=backend 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\n\
    m=audio 9 RTP/AVP 0 8\r\na=sendrecv\r\n";

/// A response to INVITE that makes a dialog: what must be copied (RFC 3261 8.2.6.2, 12.1.1), a tag, a Contact.
fn accept(line: &[u8], request: &[u8], contact: &str, end: &[u8], out: &mut Vec<u8>) {
    const COPIED: [&[u8]; 6] = [b"Via:", b"Record-Route:", b"From:", b"To:", b"Call-ID:", b"CSeq:"];
    out.extend_from_slice(line);
    let mut rest = &request[memchr::memchr(b'\n', request).map_or(0, |end| end + 1)..];
    while let Some(len) = memchr::memchr(b'\n', rest).filter(|len| *len > 1) {
        let header = &rest[..len - 1];
        rest = &rest[len + 1..];
        if COPIED.iter().any(|name| header.starts_with(name)) {
            out.extend_from_slice(header);
            let tag: &[u8] = if header.starts_with(b"To:") { b";tag=backend\r\n" } else { b"\r\n" };
            out.extend_from_slice(tag);
        }
    }
    out.extend_from_slice(contact.as_bytes());
    out.extend_from_slice(end);
}

impl Machine for Backend {
    type Settings = ();
    type Envelope = ();
    type Report = u64;

    fn configure(&mut self, _now: Instant, _settings: Arc<()>) {}

    fn admit(&mut self, _now: Instant, arrival: Arrival) -> Option<ConnId> {
        self.streams.insert_at(arrival.slot, Stream::default())
    }

    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Received { conn, bytes } => self.answer(conn, bytes),
            Input::Sent { conn, chunk } => match self.streams.get_mut(conn) {
                Some(stream) => {
                    stream.outbox.home(&mut self.pool, chunk);
                    self.dirty.push(conn);
                }
                None => self.pool.give(chunk),
            },
            Input::Finished { conn } => self.closing.push(conn),
            Input::Closed { conn, .. } => drop(self.streams.remove(conn)),
            Input::Connected { .. } | Input::Tick | Input::Drain { .. } => {}
        }
    }

    fn deliver(&mut self, _now: Instant, (): ()) {}

    fn poll(&mut self) -> Option<Output> {
        while let Some(conn) = self.dirty.pop() {
            if let Some(chunk) = self.streams.get_mut(conn).and_then(|stream| stream.outbox.next())
            {
                return Some(Output::Transmit { conn, chunk });
            }
        }
        self.closing.pop().map(|conn| Output::Close { conn, abort: false })
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
    let address: SocketAddr =
        std::env::args().nth(1).expect("an address").parse().expect("host:port");
    let build = move || Backend {
        streams: Slab::new(ACCEPTED, 0),
        pool: ChunkPool::new(1 << 30),
        dirty: Vec::new(),
        closing: Vec::new(),
        contact: format!("Contact: <sip:backend@{address};transport=tcp>\r\n"),
        text: Vec::new(),
        answers: 0,
    };
    let (core, seconds) = (rig::parsed("--core", 1), rig::parsed("--seconds", 60));
    rig::run(core, Some(address), 0, build, seconds).print("backend");
}
