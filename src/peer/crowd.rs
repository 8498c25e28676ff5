//! Many user agents that make load, on the same loop as everything else: closed loop (each connection keeps a number of
//! operations under way) or open loop (arrivals at a fixed rate, latency from the intended start, so that a slow answer
//! cannot hide the ones behind it).
//! Owns its clients, the operations under way and the schedule. Never asks the clock or the kernel.
//! Invariant: an operation is counted once, as completed or as a fault; its latency is recorded only when it began
//! within the measured window.

mod connect;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use super::scenario::{Key, Scenario, Script, Sender, Step};
use super::stream::{Lost, Received, Streams, Unit};
use super::tally::{Fault, Measure, Phase, Tally};
use crate::base::machine::{Arrival, ConnId, Input, Machine, Output};
use crate::base::time::{DeadlineQueue, Duration, Instant};
use crate::sip::{FrameLimits, Message, Method, Start, reply};
use crate::tls::ClientSide;

/// Operations under way in an open loop: 64*T1 of a hundred thousand arrivals would be more than any server holds.
pub const OPERATIONS_MAX: u32 = 65_536;
/// Connections being made at once unless the plan says otherwise, so that a listener's backlog is not the limit.
pub const DIALS_DEFAULT: u32 = 64;
/// A connection and its handshake take no longer; beyond is a fault.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Work begins when all connections stand, or after this.
const GATHER_PATIENCE: Duration = Duration::from_secs(30);
/// Pauses before a lost connection is dialled again.
const BACK_OFF: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Bytes in all chunks that are out at once: 64 large ones, or 1024 small ones.
const CHUNK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How work is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Operations under way on each connection.
    Closed { outstanding: u32 },
    /// Arrivals per second at equal distances, over all connections in turn.
    Open { per_second: f64 },
}

/// What one worker's crowd does; made once, never changed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: SocketAddr,
    /// `None`: plain TCP.
    pub tls: Option<ClientSide>,
    pub scenario: Scenario,
    pub script: Script,
    pub load: Load,
    /// Of this worker; not 0.
    pub connections: u32,
    /// Of them being made at once; not 0.
    pub dials: u32,
    pub warm_up: Duration,
    pub duration: Duration,
    /// Longest wait for an operation to end.
    pub timeout: Duration,
}

impl Plan {
    /// Operations that may be under way.
    fn operations(&self) -> u32 {
        match self.load {
            _ if self.scenario.dials_each_time() => self.connections,
            Load::Closed { outstanding } => self.connections.saturating_mul(outstanding),
            Load::Open { .. } => OPERATIONS_MAX,
        }
    }
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientPhase {
    /// Not connected; dialled again when its deadline comes, or at the next arrival.
    Away,
    Dialling,
    Shaking,
    Open,
    /// Closed by us; its end is awaited.
    Leaving,
}

#[derive(Debug)]
struct Client {
    conn: Option<ConnId>,
    phase: ClientPhase,
    /// When the phase under way began.
    since: Instant,
    /// When the operation that dialled was meant to begin.
    intended: Instant,
    /// First of the operations under way on this connection.
    first: u32,
    /// Place in the list of open clients.
    place: u32,
    serial: u32,
    /// In a row.
    failures: u32,
    /// Has come through or failed once.
    settled: bool,
    /// In a storm: has neither come through nor failed yet.
    storming: bool,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    generation: u32,
    client: u32,
    started: Instant,
    live: bool,
    /// Became known to ring: the first 18x is timed.
    rung: bool,
    step: Step,
    next: u32,
    previous: u32,
}

/// Arrivals of the open loop.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    begin: Instant,
    per_second: f64,
    count: u64,
}

impl Arrivals {
    fn next(&self) -> Instant {
        self.begin + Duration::from_secs_f64(self.count as f64 / self.per_second)
    }
}

/// The crowd of one worker.
#[derive(Debug)]
pub struct Crowd {
    plan: Plan,
    streams: Streams,
    clients: Vec<Client>,
    /// Clients whose connection stands, in no order.
    open: Vec<u32>,
    /// Clients that may dial when others have come through.
    to_dial: VecDeque<u32>,
    dialling: u32,
    /// How many clients of the storm under way have neither come through nor failed.
    storming: u32,
    /// How many clients have come through or failed once.
    settled: u32,
    operations: Vec<Operation>,
    free: Vec<u32>,
    live: u32,
    /// Operations begun in this turn: their start is when the turn's sends leave.
    fresh: Vec<Key>,
    /// Keys: clients, then operations.
    deadlines: DeadlineQueue,
    arrivals: Option<Arrivals>,
    turn: u32,
    phase: Phase,
    phase_end: Instant,
    window: (Instant, Instant),
    reported: Instant,
    tally: Tally,
    text: Vec<u8>,
    limits: FrameLimits,
}

impl Crowd {
    pub fn new(plan: Plan, now: Instant) -> Self {
        let (connections, operations) = (plan.connections, plan.operations());
        let client = |_| Client {
            conn: None,
            phase: ClientPhase::Away,
            since: now,
            intended: now,
            first: NONE,
            place: NONE,
            serial: 0,
            failures: 0,
            settled: false,
            storming: false,
        };
        let operation = Operation {
            generation: 0,
            client: NONE,
            started: now,
            live: false,
            rung: false,
            step: Step::First,
            next: NONE,
            previous: NONE,
        };
        let gathers = !plan.scenario.dials_each_time();
        let mut crowd = Crowd {
            streams: Streams::new(0, connections, CHUNK_BYTES_MAX),
            clients: (0..connections).map(client).collect(),
            open: Vec::with_capacity(connections as usize),
            to_dial: if gathers { (0..connections).collect() } else { VecDeque::new() },
            dialling: 0,
            storming: 0,
            settled: 0,
            operations: vec![operation; operations as usize],
            free: (0..operations).rev().collect(),
            live: 0,
            fresh: Vec::new(),
            deadlines: DeadlineQueue::new(connections.saturating_add(operations), now),
            arrivals: None,
            turn: 0,
            phase: Phase::Connecting,
            phase_end: if gathers { now + GATHER_PATIENCE } else { now },
            window: (Instant::FAR, Instant::FAR),
            reported: now,
            tally: Tally::new(),
            text: Vec::new(),
            limits: FrameLimits::default(),
            plan,
        };
        crowd.dial_waiting(now);
        crowd
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }
}

/// The course of a run.
impl Crowd {
    fn advance(&mut self, now: Instant) {
        while now >= self.phase_end {
            match self.phase {
                Phase::Connecting => self.begin_work(now),
                Phase::WarmUp => {
                    self.phase = Phase::Measuring;
                    self.phase_end = self.window.1;
                }
                Phase::Measuring => {
                    // Those who were to come in time belong to the run, however late we are.
                    self.arrive(self.phase_end);
                    self.end_work(now);
                }
                Phase::Ending => self.finish_run(),
                Phase::Done => self.phase_end = Instant::FAR,
            }
        }
        if self.is_phase_over() {
            self.phase_end = now;
            self.advance(now);
        }
    }

    /// Whether the phase has reached its aim before its time.
    fn is_phase_over(&self) -> bool {
        match self.phase {
            Phase::Connecting => self.settled == self.clients.len() as u32,
            Phase::Ending => self.is_quiet(),
            _ => false,
        }
    }

    /// Nothing is under way that was begun as work.
    fn is_quiet(&self) -> bool {
        let open_is_work = self.plan.scenario.dials_each_time();
        let at_rest = !open_is_work || self.open.is_empty();
        self.live == 0 && self.dialling == 0 && at_rest
    }

    fn begin_work(&mut self, now: Instant) {
        self.phase = Phase::WarmUp;
        self.phase_end = now + self.plan.warm_up;
        self.window = (self.phase_end, self.phase_end + self.plan.duration);
        if let Load::Open { per_second } = self.plan.load {
            self.arrivals = Some(Arrivals { begin: now, per_second, count: 0 });
        } else if self.plan.scenario == Scenario::Storm {
            self.begin_storm(now);
        } else if self.plan.scenario.dials_each_time() {
            (0..self.clients.len() as u32).for_each(|client| self.await_turn(client, now));
            self.dial_waiting(now);
        } else {
            for place in 0..self.open.len() {
                self.fill(self.open[place], now);
            }
        }
    }

    fn end_work(&mut self, now: Instant) {
        self.phase = Phase::Ending;
        self.phase_end = now + self.plan.timeout;
        self.arrivals = None;
        self.to_dial.clear();
    }

    fn finish_run(&mut self) {
        self.phase = Phase::Done;
        self.phase_end = Instant::FAR;
        for client in 0..self.clients.len() as u32 {
            self.deadlines.clear(client);
            if let Some(conn) = self.clients[client as usize].conn {
                self.leave(client, conn, false);
            }
        }
    }

    fn is_working(&self) -> bool {
        matches!(self.phase, Phase::WarmUp | Phase::Measuring)
    }

    fn is_measured(&self, at: Instant) -> bool {
        self.window.0 <= at && at < self.window.1
    }

    /// Begins the arrivals that are due.
    fn arrive(&mut self, now: Instant) {
        while let Some(arrivals) = &mut self.arrivals {
            let intended = arrivals.next();
            if intended > now {
                return;
            }
            arrivals.count += 1;
            if self.plan.scenario.dials_each_time() {
                match self.next_away() {
                    Some(client) => self.dial(client, now, intended),
                    None => self.tally.fault(Fault::Shed),
                }
            } else if !self.open.is_empty() && !self.free.is_empty() {
                self.turn = (self.turn + 1) % self.open.len() as u32;
                self.begin(self.open[self.turn as usize], intended);
            } else {
                self.tally.fault(Fault::Shed);
            }
        }
    }

    /// A client that could dial for an arrival; looks at each at most once.
    fn next_away(&mut self) -> Option<u32> {
        let count = self.clients.len() as u32;
        for step in 1..=count {
            let client = (self.turn + step) % count;
            if self.clients[client as usize].phase == ClientPhase::Away {
                self.turn = client;
                return Some(client);
            }
        }
        None
    }
}

/// Operations.
impl Crowd {
    /// Brings a client up to the number of operations that it keeps under way.
    fn fill(&mut self, client: u32, now: Instant) {
        let Load::Closed { outstanding } = self.plan.load else { return };
        if self.plan.scenario != Scenario::Idle {
            (0..outstanding).for_each(|_| self.begin(client, now));
        }
    }

    fn begin(&mut self, client: u32, started: Instant) {
        let Some(index) = self.free.pop() else { return self.tally.fault(Fault::Shed) };
        let entry = &mut self.clients[client as usize];
        let Some(conn) = entry.conn else { return self.free.push(index) };
        let operation = &mut self.operations[index as usize];
        let key = Key { index, generation: operation.generation };
        self.text.clear();
        self.plan.script.first(key, Sender { client, serial: entry.serial }, &mut self.text);
        if !self.streams.send(conn, [&self.text[..]].into_iter()) {
            self.free.push(index);
            return self.tally.fault(Fault::Shed);
        }
        entry.serial = entry.serial.wrapping_add(1);
        self.tally.bytes_sent += self.text.len() as u64;
        let next = std::mem::replace(&mut entry.first, index);
        *operation = Operation {
            client,
            started,
            live: true,
            rung: false,
            step: Step::First,
            next,
            previous: NONE,
            ..*operation
        };
        if next != NONE {
            self.operations[next as usize].previous = index;
        }
        self.live += 1;
        self.fresh.push(key);
        let key = self.clients.len() as u32 + index;
        self.deadlines.set(key, started + self.plan.timeout);
    }

    /// Takes an operation off all lists.
    fn release(&mut self, index: u32) -> Operation {
        let operation = self.operations[index as usize];
        assert!(operation.live);
        let entry = &mut self.operations[index as usize];
        entry.live = false;
        entry.generation = entry.generation.wrapping_add(1);
        if operation.previous == NONE {
            self.clients[operation.client as usize].first = operation.next;
        } else {
            self.operations[operation.previous as usize].next = operation.next;
        }
        if operation.next != NONE {
            self.operations[operation.next as usize].previous = operation.previous;
        }
        self.deadlines.clear(self.clients.len() as u32 + index);
        self.free.push(index);
        self.live -= 1;
        operation
    }

    /// An operation has ended by an answer or for want of one; the next may begin.
    fn finish(&mut self, now: Instant, index: u32, outcome: Result<(), Fault>) {
        let operation = self.release(index);
        match outcome {
            Ok(()) => self.completed(now, operation.started),
            Err(fault) => self.tally.fault(fault),
        }
        let client = operation.client;
        if self.plan.scenario == Scenario::Storm {
            return self.through_storm(client);
        }
        if self.plan.scenario.dials_each_time() {
            if let Some(conn) = self.clients[client as usize].conn {
                self.leave(client, conn, false);
            }
        } else if self.is_working() && self.arrivals.is_none() {
            self.begin(client, now);
        }
    }

    fn completed(&mut self, now: Instant, started: Instant) {
        self.tally.completed_ever += 1;
        self.tally.completed += u64::from(self.is_measured(now));
        if self.is_measured(started) {
            self.tally.record(Measure::Operation, now.nanos_since(started));
        }
    }

    /// All operations of a client have failed; says how many.
    fn fail_operations(&mut self, client: u32, fault: Fault) -> u32 {
        let mut count = 0;
        while self.clients[client as usize].first != NONE {
            self.release(self.clients[client as usize].first);
            self.tally.fault(fault);
            count += 1;
        }
        count
    }

    fn expired(&mut self, now: Instant, key: u32) {
        let Some(index) = key.checked_sub(self.clients.len() as u32) else {
            return self.client_expired(now, key);
        };
        self.finish(now, index, Err(Fault::Timeout));
    }

    fn client_expired(&mut self, now: Instant, client: u32) {
        let entry = &self.clients[client as usize];
        let fault = match (entry.phase, entry.conn) {
            (ClientPhase::Away, _) if self.phase < Phase::Ending => {
                self.await_turn(client, now);
                return self.dial_waiting(now);
            }
            (ClientPhase::Dialling, Some(conn)) => (conn, Fault::ConnectTimeout),
            (ClientPhase::Shaking, Some(conn)) => (conn, Fault::HandshakeTimeout),
            (ClientPhase::Open, Some(conn)) => (conn, Fault::Timeout),
            _ => return,
        };
        self.lost(client, fault.0, fault.1);
    }
}

/// What comes in.
impl Crowd {
    fn received(&mut self, now: Instant, conn: ConnId, bytes: &mut [u8]) {
        let Some(client) = self.client_of(conn) else { return };
        let mut received = match self.streams.receive(now, conn, bytes) {
            Ok(Some(received)) => received,
            Ok(None) => return,
            Err(lost) => return self.stream_lost(client, conn, lost),
        };
        if received.established {
            self.established(now, client, conn);
        }
        let before = received.rest().len();
        let framed = self.take_units(now, client, conn, &mut received);
        self.tally.bytes_received += (before - received.rest().len()) as u64;
        let peer_closed = received.peer_closed;
        self.streams.keep(conn, received);
        if !framed {
            self.lost(client, conn, Fault::Unframeable);
        } else if peer_closed {
            self.peer_closed(client, conn);
        }
    }

    fn stream_lost(&mut self, client: u32, conn: ConnId, lost: Lost) {
        let shaking = self.clients[client as usize].phase == ClientPhase::Shaking;
        let fault = match lost {
            Lost::Tls(_) if shaking => Fault::HandshakeFailed,
            Lost::Tls(_) | Lost::CipherFull => Fault::RecordBad,
        };
        if self.fail_operations(client, fault) == 0 {
            self.tally.fault(fault);
        }
        // In order: the alert that TLS has queued still goes out.
        self.leave_badly(client, conn, false);
    }

    fn take_units(
        &mut self,
        now: Instant,
        client: u32,
        conn: ConnId,
        received: &mut Received<'_>,
    ) -> bool {
        let limits = self.limits;
        while let Some(unit) = received.next(&limits) {
            match unit {
                Ok(Unit::Message(message)) if message.is_request() => {
                    self.answer(conn, &message);
                }
                Ok(Unit::Message(message)) => self.response(now, client, conn, &message),
                Ok(Unit::Ping) => {
                    self.streams.send(conn, [&b"\r\n"[..]].into_iter());
                }
                Err(_) => return false,
            }
        }
        if self.plan.scenario == Scenario::Handshake && received.take_pong() {
            let intended = self.clients[client as usize].intended;
            self.completed(now, intended);
            // A reset: both ends are rid of the connection at once, and no port waits (RFC 9293 3.6.1).
            self.leave(client, conn, true);
        }
        true
    }

    fn response(&mut self, now: Instant, client: u32, conn: ConnId, message: &Message<'_>) {
        let Start::Response { status, .. } = message.start() else { return };
        let found = self.plan.script.transaction(message).filter(|(key, _)| {
            let operation = self.operations.get(key.index as usize);
            operation.is_some_and(|operation| {
                operation.live
                    && operation.generation == key.generation
                    && operation.client == client
            })
        });
        let Some((key, step)) = found.filter(|_| (100..700).contains(&status)) else {
            return self.tally.fault(Fault::Stray);
        };
        if self.is_measured(now) {
            self.tally.response(status);
        }
        let good = (200..300).contains(&status);
        let operation = &mut self.operations[key.index as usize];
        let started = operation.started;
        match (self.plan.scenario, operation.step, step) {
            (Scenario::Call, Step::First, Step::First) if status < 200 => {
                let first = (180..190).contains(&status) && !operation.rung;
                operation.rung |= first;
                if first && self.is_measured(started) {
                    self.tally.record(Measure::Ringing, now.nanos_since(started));
                }
            }
            (_, _, _) if status < 200 => {}
            (Scenario::Call, Step::First, Step::First) => {
                self.call_answered(now, conn, key, message, good);
            }
            // A 2xx that comes again before it has seen our ACK.
            (Scenario::Call, Step::Bye, Step::First) => {}
            _ => self.finish(now, key.index, if good { Ok(()) } else { Err(Fault::Status) }),
        }
    }

    fn call_answered(
        &mut self,
        now: Instant,
        conn: ConnId,
        key: Key,
        message: &Message<'_>,
        good: bool,
    ) {
        self.text.clear();
        let told = self.plan.script.acknowledge(key, message, good, &mut self.text);
        self.tally.bytes_sent += self.text.len() as u64;
        let sent = self.streams.send(conn, [&self.text[..]].into_iter());
        if !good {
            return self.finish(now, key.index, Err(Fault::Status));
        }
        if !told || !sent {
            return self.finish(now, key.index, Err(Fault::Stray));
        }
        let operation = &mut self.operations[key.index as usize];
        operation.step = Step::Bye;
        let started = operation.started;
        if self.is_measured(started) {
            self.tally.record(Measure::Answer, now.nanos_since(started));
        }
    }

    /// A server may ask for signs of life; anything else was not asked for.
    fn answer(&mut self, conn: ConnId, request: &Message<'_>) {
        let status = match request.method() {
            Method::Options => 200,
            Method::Ack => return,
            _ => 481,
        };
        if status != 200 {
            self.tally.fault(Fault::Stray);
        }
        self.text.clear();
        reply(request, status, None, &[], b"load", None, &mut self.text);
        self.streams.send(conn, [&self.text[..]].into_iter());
    }

    fn peer_closed(&mut self, client: u32, conn: ConnId) {
        if self.clients[client as usize].phase == ClientPhase::Leaving {
            return;
        }
        let under_way = self.fail_operations(client, Fault::PeerClosed);
        if under_way == 0 && self.phase < Phase::Ending {
            self.tally.fault(Fault::PeerClosed);
        }
        self.leave_badly(client, conn, false);
    }
}

impl Machine for Crowd {
    type Settings = ();
    type Envelope = Infallible;
    type Report = Tally;

    /// A run's plan does not change.
    fn configure(&mut self, _now: Instant, _settings: Arc<()>) {}

    /// A crowd has no listener.
    fn admit(&mut self, _now: Instant, _arrival: Arrival) -> Option<ConnId> {
        None
    }

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        if now >= self.phase_end {
            self.advance(now);
        }
        match input {
            Input::Received { conn, bytes } => self.received(now, conn, bytes),
            Input::Finished { conn } => {
                if let Some(client) = self.client_of(conn) {
                    self.peer_closed(client, conn);
                }
            }
            Input::Connected { conn } => self.connected(now, conn),
            Input::Sent { conn, chunk } => self.streams.sent(conn, chunk),
            Input::Closed { conn, cause } => self.closed(now, conn, cause),
            Input::Tick => {
                self.arrive(now);
                while let Some(key) = self.deadlines.expired(now) {
                    self.expired(now, key);
                }
                self.advance(now);
            }
            Input::Drain { .. } if self.phase >= Phase::Ending => {}
            Input::Drain { .. } => {
                self.window.1 = self.window.1.min(now);
                self.end_work(now);
            }
        }
    }

    fn deliver(&mut self, _now: Instant, envelope: Infallible) {
        match envelope {}
    }

    fn poll(&mut self) -> Option<Output> {
        self.streams.poll()
    }

    fn post(&mut self) -> Option<(u16, Infallible)> {
        None
    }

    fn undelivered(&mut self, _now: Instant, envelope: Infallible) {
        match envelope {}
    }

    fn leaving(&mut self, now: Instant) {
        for key in self.fresh.drain(..) {
            let operation = &mut self.operations[key.index as usize];
            if !operation.live || operation.generation != key.generation {
                continue;
            }
            if matches!(self.plan.load, Load::Open { .. }) {
                if self.window.0 <= operation.started && operation.started < self.window.1 {
                    self.tally.record(Measure::Lag, now.nanos_since(operation.started));
                }
            } else if !self.plan.scenario.dials_each_time() {
                operation.started = now;
            }
        }
    }

    fn deadline(&self) -> Instant {
        let arrival = self.arrivals.map_or(Instant::FAR, |arrivals| arrivals.next());
        let phase_end = if self.is_phase_over() { Instant(0) } else { self.phase_end };
        self.deadlines.next().min(arrival).min(phase_end)
    }

    fn report(&mut self, now: Instant, spare: Tally) -> Tally {
        let mut tally = std::mem::replace(&mut self.tally, spare);
        let (from, to) = (self.reported.max(self.window.0), now.min(self.window.1));
        tally.measured = to.since(from);
        tally.phase = self.phase;
        tally.connections_open = self.open.len() as u32;
        tally.operations_open = self.live;
        self.reported = now;
        tally
    }

    fn drained(&self) -> bool {
        self.phase == Phase::Done && self.streams.live() == 0
    }
}
