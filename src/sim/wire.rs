//! Byte streams of the made-up network: split, coalesced, stalled, reset; and the shared state of that network.
//! Owns what is under way between two sockets, the virtual clock and the queue of things to come. Never reorders
//! within one stream, never invents a byte.
//! Invariant: what a receiver takes from a stream is a prefix of what its sender put in.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;

use super::faults::{Fault, Tally};
use crate::base::machine::ConnId;
use crate::base::random::Random;
use crate::base::time::Instant;

/// One connection of the whole run; numbers are never used twice.
pub type WireId = usize;

/// The end of a connection that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Proxy,
    Peer,
}

/// What is under way in one direction.
#[derive(Debug, Default)]
pub struct Stream {
    /// Sent, not yet in the receiver's socket.
    flying: VecDeque<u8>,
    /// In the receiver's socket, not yet read.
    arrived: VecDeque<u8>,
    /// The end of the stream was sent, and has come behind everything else.
    end_sent: bool,
    end_arrived: bool,
    /// Bytes that may be under way at once: the sender's and the receiver's buffer together.
    window: usize,
    /// A delivery is in the queue.
    delivering: bool,
    /// The network brings nothing until then.
    stalled_until: Instant,
    /// Everything ever taken by the receiver.
    taken: u64,
}

impl Stream {
    /// How many bytes a send would take now.
    pub fn room(&self) -> usize {
        if self.end_sent {
            return 0;
        }
        self.window.saturating_sub(self.flying.len() + self.arrived.len())
    }

    pub fn arrived(&self) -> usize {
        self.arrived.len()
    }

    /// The receiver has read everything and will get nothing more.
    pub fn is_over(&self) -> bool {
        self.end_arrived && self.arrived.is_empty()
    }

    /// Takes up to `into.len()` arrived bytes.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.arrived.len());
        let (front, back) = self.arrived.as_slices();
        let first = count.min(front.len());
        into[..first].copy_from_slice(&front[..first]);
        into[first..count].copy_from_slice(&back[..count - first]);
        self.arrived.drain(..count);
        self.taken += count as u64;
        count
    }

    /// Bytes that nobody will read any more.
    fn lose(&mut self) -> usize {
        let lost = self.flying.len() + self.arrived.len();
        self.flying.clear();
        self.arrived.clear();
        lost
    }

    /// For messages: bytes on the way, arrived, taken; ends.
    fn brief(&self) -> String {
        let Stream { flying, arrived, taken, end_sent, end_arrived, delivering, .. } = self;
        let (flying, arrived) = (flying.len(), arrived.len());
        format!(
            "{flying} flying, {arrived} arrived, {taken} taken, ended {end_sent}/{end_arrived}, on its way {delivering}"
        )
    }

    /// The sender has said its last word.
    pub fn is_ending(&self) -> bool {
        self.end_sent
    }
}

/// One connection between a peer and a worker.
#[derive(Debug)]
pub struct Wire {
    pub to_proxy: Stream,
    pub to_peer: Stream,
    /// The peer's address as the worker sees it.
    pub peer: SocketAddr,
    /// Index of the agent at the peer's end.
    pub agent: usize,
    /// The listener it came to; `None` when a worker dialled.
    pub listener: Option<u32>,
    /// The worker whose listener it comes to; `None`: any.
    pub wants: Option<u16>,
    /// The worker that has it, once it is accepted or dialled, and which of its lives.
    pub worker: Option<u16>,
    pub life: u32,
    /// A socket is there at this end.
    pub proxy_open: bool,
    pub peer_open: bool,
    /// The connection was reset; each end learns of it once.
    pub reset: bool,
    /// When the front-end could first know that it is over.
    pub over_at: Option<Instant>,
    /// The peer has bytes that found no room; so has the worker.
    pub peer_waits: bool,
    pub proxy_waits: bool,
}

impl Wire {
    pub fn stream(&mut self, to: Side) -> &mut Stream {
        match to {
            Side::Proxy => &mut self.to_proxy,
            Side::Peer => &mut self.to_peer,
        }
    }

    /// Its state, for messages.
    pub fn brief(&self) -> String {
        format!(
            "worker {:?}, open {}/{}, reset {}; to us: {}; to the peer: {}",
            self.worker,
            self.proxy_open,
            self.peer_open,
            self.reset,
            self.to_proxy.brief(),
            self.to_peer.brief()
        )
    }

    /// Nobody holds either end.
    pub fn is_gone(&self) -> bool {
        !self.proxy_open && !self.peer_open
    }
}

/// Everything that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// Some bytes of a stream arrive.
    Deliver {
        wire: WireId,
        to_proxy: bool,
    },
    /// A connection of a client reaches a listener.
    Arrive {
        wire: WireId,
    },
    /// A connect of a worker ends, one way or the other.
    Dialled {
        worker: u16,
        slot: u32,
        generation: u32,
    },
    /// A worker has something to do.
    Step {
        worker: u16,
    },
    /// A worker has slept long enough.
    Alarm {
        worker: u16,
    },
    /// A worker's next life begins.
    Restart {
        worker: u16,
    },
    /// An agent does something of its own, or what it has put off.
    Act {
        agent: usize,
    },
    Later {
        agent: usize,
    },
    /// The agent reads on after a pause.
    Resume {
        wire: WireId,
    },
    /// A fault strikes.
    Strike,
}

/// The traits of the network of one seed.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Latency of one delivery, in nanoseconds.
    pub latency: (u64, u64),
    /// One delivery in so many brings only a part; 0: never.
    pub split: u64,
    /// Streams of which every byte comes alone, one in so many; 0: none.
    pub dribble: u64,
    /// Bytes under way in one direction.
    pub window: (u64, u64),
}

/// A connect of a worker that has not ended.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    pub worker: u16,
    pub slot: u32,
    pub generation: u32,
    pub to: SocketAddr,
    pub deadline: Instant,
}

/// The made-up network and its clock, shared by rings, agents and the world.
#[derive(Debug)]
pub struct Net {
    now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    pub wires: Vec<Wire>,
    /// Connections that wait to be accepted, by worker and listener.
    pub backlog: Vec<Vec<VecDeque<WireId>>>,
    /// A wake was sent to this worker.
    pub woken: Vec<bool>,
    pub dials: Vec<Dial>,
    /// Which life each worker is in.
    lives: Vec<u32>,
    stepping: Vec<bool>,
    pub random: Random,
    pub weather: Weather,
    pub faults: Tally,
    /// How often the proxy let go of a connection that it had dialled, and when it last did.
    pub let_go: (u64, Instant),
    /// What must never happen and did.
    pub violations: Vec<String>,
}

impl Net {
    pub fn new(workers: usize, listeners: usize, weather: Weather, random: Random) -> Net {
        Net {
            now: Instant(1_000_000_000),
            queue: BinaryHeap::new(),
            order: 0,
            wires: Vec::new(),
            backlog: vec![vec![VecDeque::new(); listeners]; workers],
            woken: vec![false; workers],
            dials: Vec::new(),
            lives: vec![0; workers],
            stepping: vec![false; workers],
            random,
            weather,
            faults: Tally::default(),
            let_go: (0, Instant(0)),
            violations: Vec::new(),
        }
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    /// Moves the clock; never back.
    pub fn pass(&mut self, nanos: u64) {
        self.now = Instant(self.now.0 + nanos);
    }

    pub fn violation(&mut self, text: impl Into<String>) {
        self.violations.push(text.into());
    }

    // --- What comes next -----------------------------------------------------------------------

    pub fn at(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order, event)));
    }

    pub fn after(&mut self, nanos: u64, event: Event) {
        self.at(Instant(self.now.0 + nanos), event);
    }

    /// The next event not later than `until`; the clock goes to its time. `None`: the clock stands at `until`.
    pub fn next(&mut self, until: Instant) -> Option<Event> {
        match self.queue.peek() {
            Some(Reverse((at, _, _))) if *at <= until => {}
            _ => {
                self.now = self.now.max(until);
                return None;
            }
        }
        let Reverse((at, _, event)) = self.queue.pop()?;
        self.now = self.now.max(at);
        Some(event)
    }

    /// A number from the range, both ends included.
    pub fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.random.below(high - low + 1)
    }

    /// This worker has a completion, mail or a command: it will take a turn soon.
    pub fn rouse(&mut self, worker: u16) {
        if !self.stepping[usize::from(worker)] {
            self.stepping[usize::from(worker)] = true;
            // A busy worker finds more than one thing at a time.
            let lag = self.random.below(60_000);
            self.after(lag, Event::Step { worker });
        }
    }

    /// The turn that `rouse` promised begins.
    pub fn stepped(&mut self, worker: u16) {
        self.stepping[usize::from(worker)] = false;
    }

    /// Ends the sleep of another worker.
    pub fn wake(&mut self, worker: u16) {
        self.woken[usize::from(worker)] = true;
        self.rouse(worker);
    }

    // --- Lives -----------------------------------------------------------------------------------

    pub fn life_ended(&mut self, worker: u16) {
        self.lives[usize::from(worker)] += 1;
    }

    /// A worker has taken a connection.
    pub fn accepted(&mut self, wire: WireId, worker: u16) {
        let life = self.lives[usize::from(worker)];
        let it = &mut self.wires[wire];
        (it.worker, it.life, it.proxy_open) = (Some(worker), life, true);
    }

    /// The worker that had this connection has begun another life since.
    pub fn is_of_old_life(&self, wire: WireId) -> bool {
        let it = &self.wires[wire];
        it.worker.is_some_and(|worker| self.lives[usize::from(worker)] != it.life)
    }

    // --- Connections ---------------------------------------------------------------------------

    /// A new connection; `listener` where a peer dials us, `worker` where a worker dials.
    pub fn connect(
        &mut self,
        agent: usize,
        peer: SocketAddr,
        listener: Option<u32>,
        worker: Option<u16>,
    ) -> WireId {
        let window = self.weather.window;
        let (up, down) = (self.between(window) as usize, self.between(window) as usize);
        self.wires.push(Wire {
            to_proxy: Stream { window: up, ..Stream::default() },
            to_peer: Stream { window: down, ..Stream::default() },
            peer,
            agent,
            listener,
            wants: None,
            worker,
            life: worker.map_or(0, |worker| self.lives[usize::from(worker)]),
            proxy_open: worker.is_some(),
            peer_open: true,
            reset: false,
            over_at: None,
            peer_waits: false,
            proxy_waits: false,
        });
        let wire = self.wires.len() - 1;
        if listener.is_some() {
            let latency = self.latency();
            self.after(latency, Event::Arrive { wire });
        }
        wire
    }

    fn latency(&mut self) -> u64 {
        let range = self.weather.latency;
        self.between(range)
    }

    /// Puts bytes into the stream towards `to`, as many as have room.
    pub fn send(&mut self, wire: WireId, to: Side, bytes: &[u8]) -> usize {
        let gone = self.wires[wire].reset;
        let stream = self.wires[wire].stream(to);
        let count = bytes.len().min(stream.room());
        if gone {
            return 0;
        }
        stream.flying.extend(&bytes[..count]);
        self.deliver_later(wire, to);
        count
    }

    /// The sender's side is shut; the receiver reads the end behind everything else.
    pub fn finish(&mut self, wire: WireId, to: Side) {
        if to == Side::Peer && self.wires[wire].listener.is_none() {
            self.let_go = (self.let_go.0 + 1, self.now);
        }
        let stream = self.wires[wire].stream(to);
        if !stream.end_sent {
            stream.end_sent = true;
            self.deliver_later(wire, to);
        }
    }

    fn deliver_later(&mut self, wire: WireId, to: Side) {
        let latency = self.latency();
        let now = self.now;
        let stream = self.wires[wire].stream(to);
        if !stream.delivering {
            stream.delivering = true;
            let at = Instant(now.max(stream.stalled_until).0 + latency);
            self.at(at, Event::Deliver { wire, to_proxy: to == Side::Proxy });
        }
    }

    /// Nothing of this stream arrives before `until`.
    pub fn stall(&mut self, wire: WireId, to: Side, until: Instant) {
        self.wires[wire].stream(to).stalled_until = until;
    }

    pub fn clear_stalls(&mut self) {
        for wire in 0..self.wires.len() {
            for to in [Side::Proxy, Side::Peer] {
                let stream = self.wires[wire].stream(to);
                if std::mem::take(&mut stream.stalled_until) > Instant(0) {
                    self.after(0, Event::Deliver { wire, to_proxy: to == Side::Proxy });
                }
            }
        }
    }

    /// Brings some of the bytes under way. True: the receiver has something to read.
    pub fn deliver(&mut self, wire: WireId, to: Side) -> bool {
        let (now, weather) = (self.now, self.weather);
        let split = weather.split > 0 && self.random.one_in(weather.split);
        let dribble = weather.dribble > 0 && (wire as u64).is_multiple_of(weather.dribble);
        let share = self.random.next_u64();
        let stream = self.wires[wire].stream(to);
        stream.delivering = false;
        if stream.stalled_until > now {
            self.deliver_later(wire, to);
            return false;
        }
        let waiting = stream.flying.len();
        let count = match waiting {
            0 | 1 => waiting,
            _ if dribble => 1,
            _ if split => 1 + (share % (waiting as u64 - 1)) as usize,
            _ => waiting,
        };
        let (front, back) = stream.flying.as_slices();
        let first = count.min(front.len());
        stream.arrived.extend(&front[..first]);
        stream.arrived.extend(&back[..count - first]);
        stream.flying.drain(..count);
        if count < waiting {
            self.faults.count(if dribble { Fault::Dribble } else { Fault::Split });
            self.deliver_later(wire, to);
        } else if stream.end_sent {
            stream.end_arrived = true;
        }
        self.after_delivery(wire, to)
    }

    /// Bytes that come to a socket that is gone reset the connection (RFC 1122 4.2.2.13).
    fn after_delivery(&mut self, wire: WireId, to: Side) -> bool {
        let it = &mut self.wires[wire];
        let open = if to == Side::Proxy { it.proxy_open } else { it.peer_open };
        let waits = to == Side::Proxy && it.worker.is_none();
        if !open && !waits && it.stream(to).arrived() > 0 {
            self.reset(wire);
            return false;
        }
        if to == Side::Proxy
            && let Some(worker) = self.wires[wire].worker
        {
            self.rouse(worker);
        }
        true
    }

    /// The connection is reset: what was under way is lost, what has arrived may still be read.
    pub fn reset(&mut self, wire: WireId) {
        let (keep, now) = (self.random.one_in(2), self.now);
        let it = &mut self.wires[wire];
        if it.reset {
            return;
        }
        it.reset = true;
        it.over_at.get_or_insert(now);
        for to in [Side::Proxy, Side::Peer] {
            let stream = it.stream(to);
            stream.flying.clear();
            if !keep {
                stream.lose();
            }
        }
        let (agent_open, worker) = (it.peer_open, it.worker);
        if agent_open {
            self.after(0, Event::Resume { wire });
        }
        if let Some(worker) = worker {
            self.rouse(worker);
        }
    }

    /// One end gives its socket back. Unread bytes, or `abort`, reset the connection.
    pub fn close(&mut self, wire: WireId, side: Side, abort: bool) {
        let now = self.now;
        let it = &mut self.wires[wire];
        if side == Side::Proxy {
            it.over_at.get_or_insert(now);
        }
        let (open, to, from) = match side {
            Side::Proxy => (&mut it.proxy_open, Side::Peer, Side::Proxy),
            Side::Peer => (&mut it.peer_open, Side::Proxy, Side::Peer),
        };
        if !std::mem::replace(open, false) {
            return;
        }
        if side == Side::Proxy && self.wires[wire].listener.is_none() {
            self.let_go = (self.let_go.0 + 1, now);
        }
        let it = &mut self.wires[wire];
        let unread = it.stream(from).arrived() > 0;
        if abort || unread {
            self.reset(wire);
        } else if !it.reset {
            self.finish(wire, to);
        }
    }

    /// The peer has read: a worker whose send waits may go on.
    pub fn peer_has_read(&mut self, wire: WireId) {
        let it = &mut self.wires[wire];
        if std::mem::take(&mut it.proxy_waits)
            && let Some(worker) = it.worker
        {
            self.rouse(worker);
        }
    }

    /// The worker has read: a peer whose bytes wait may go on.
    pub fn proxy_has_read(&mut self, wire: WireId) {
        if std::mem::take(&mut self.wires[wire].peer_waits) {
            let latency = self.latency();
            self.after(latency, Event::Resume { wire });
        }
    }

    /// A worker dials; the world knows who listens there.
    pub fn dial(&mut self, worker: u16, conn: ConnId, to: SocketAddr, deadline: Instant) {
        let (slot, generation) = (conn.slot, conn.short_generation());
        self.dials.push(Dial { worker, slot, generation, to, deadline });
        let latency = self.latency();
        self.after(latency, Event::Dialled { worker, slot, generation });
    }
}
