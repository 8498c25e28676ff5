//! A backend that costs as little as it can: every request is answered 200 with its own headers, in order.
//! So that what is measured is what stands before it. See bench/README.md for the method.
//!
//! `backend 127.0.0.1:7062 --core 1 --seconds 60`

#[path = "rig.rs"]
#[expect(dead_code, reason = "the outbox of a TLS stream is the tunnel's")]
mod rig;

use std::net::SocketAddr;

use memchr::memmem;
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
    answers: u64,
}

impl Backend {
    /// Answers all whole requests; bodies are not looked for, the bench sends none.
    fn answer(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(conn) else { return };
        stream.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = memmem::find(&stream.rest[at..], b"\r\n\r\n") {
            let request = &stream.rest[at..at + head + 4];
            at += request.len();
            if request.starts_with(b"ACK ") {
                continue;
            }
            let headers = memchr::memchr(b'\n', request).map_or(0, |end| end + 1);
            stream.outbox.push(&mut self.pool, b"SIP/2.0 200 OK\r\n");
            stream.outbox.push(&mut self.pool, &request[headers..]);
            self.answers += 1;
        }
        stream.rest.drain(..at);
        self.dirty.push(conn);
    }
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
    let build = || Backend {
        streams: Slab::new(ACCEPTED, 0),
        pool: ChunkPool::new(1 << 30),
        dirty: Vec::new(),
        closing: Vec::new(),
        answers: 0,
    };
    let (core, seconds) = (rig::parsed("--core", 1), rig::parsed("--seconds", 60));
    rig::run(core, Some(address), 0, build, seconds).print("backend");
}
