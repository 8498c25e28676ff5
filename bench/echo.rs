//! The engine alone: an echo and its closed-loop generator, both Machines on the same turn and ring.
//! Prints processor time and system calls per message. See bench/README.md for the method.
//!
//! `echo serve 127.0.0.1:7000 --core 0 --bytes 500`
//! `echo load 127.0.0.1:7000 --core 1 --bytes 500 --connections 64`

#[path = "rig.rs"]
#[expect(dead_code, reason = "the outbox of a TLS stream is the tunnel's")]
mod rig;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rig::{ACCEPTED, Outbox};
use ringfront::base::chunk::ChunkPool;
use ringfront::base::machine::{Arrival, CloseCause, ConnId, Input, Machine, Output};
use ringfront::base::slab::Slab;
use ringfront::base::time::Instant;

/// Sends back what it receives; as a generator it dials first and sends the first message.
struct Echo {
    connections: Slab<Outbox>,
    pool: ChunkPool,
    dirty: Vec<ConnId>,
    closing: Vec<ConnId>,
    /// Where to dial, and how many connections are still to be dialled.
    dial: Option<(SocketAddr, u32)>,
    message: Vec<u8>,
    bytes: u64,
}

impl Echo {
    fn new(dial: Option<(SocketAddr, u32)>, own: u32, bytes: usize) -> Echo {
        Echo {
            connections: Slab::new(ACCEPTED, own),
            pool: ChunkPool::new(1 << 30),
            dirty: Vec::new(),
            closing: Vec::new(),
            dial,
            message: vec![b'x'; bytes],
            bytes: 0,
        }
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(outbox) = self.connections.get_mut(conn) else { return };
        outbox.push(&mut self.pool, bytes);
        self.dirty.push(conn);
    }
}

impl Machine for Echo {
    type Settings = ();
    type Envelope = ();
    type Report = u64;

    fn configure(&mut self, _now: Instant, _settings: Arc<()>) {}

    fn admit(&mut self, _now: Instant, arrival: Arrival) -> Option<ConnId> {
        self.connections.insert_at(arrival.slot, Outbox::default())
    }

    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Received { conn, bytes } => {
                self.bytes += bytes.len() as u64;
                self.send(conn, bytes);
            }
            Input::Sent { conn, chunk } => match self.connections.get_mut(conn) {
                Some(outbox) => {
                    outbox.home(&mut self.pool, chunk);
                    self.dirty.push(conn);
                }
                None => self.pool.give(chunk),
            },
            Input::Connected { conn } => {
                let message = std::mem::take(&mut self.message);
                self.send(conn, &message);
                self.message = message;
            }
            Input::Finished { conn } => self.closing.push(conn),
            Input::Closed { conn, cause } => {
                if self.dial.is_some() && cause != CloseCause::Asked {
                    eprintln!("a connection of the generator has ended: {}", cause.name());
                }
                self.connections.remove(conn);
            }
            Input::Tick | Input::Drain { .. } => {}
        }
    }

    fn deliver(&mut self, _now: Instant, (): ()) {}

    fn poll(&mut self) -> Option<Output> {
        if let Some((to, left)) = self.dial.filter(|(_, left)| *left > 0) {
            self.dial = Some((to, left - 1));
            let conn = self.connections.insert(Outbox::default()).expect("own slots");
            let deadline = ringfront::sys::clock::monotonic() + Duration::from_secs(5);
            return Some(Output::Connect { conn, to, deadline });
        }
        while let Some(conn) = self.dirty.pop() {
            let chunk = self.connections.get_mut(conn).and_then(Outbox::next);
            if let Some(chunk) = chunk {
                return Some(Output::Transmit { conn, chunk });
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
        self.bytes / self.message.len() as u64
    }

    fn drained(&self) -> bool {
        true
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let mode = words.next().expect("serve or load");
    let address: SocketAddr = words.next().expect("an address").parse().expect("host:port");
    let bytes = rig::parsed("--bytes", 500);
    let seconds = rig::parsed("--seconds", 5);
    if mode == "serve" {
        let build = move || Echo::new(None, 0, bytes);
        let core = rig::parsed("--core", 0);
        rig::run(core, Some(address), 0, build, seconds).print("echo");
    } else {
        let connections = rig::parsed("--connections", 64);
        let build = move || Echo::new(Some((address, connections)), connections, bytes);
        let core = rig::parsed("--core", 1);
        rig::run(core, None, connections, build, seconds).print("load");
    }
}
