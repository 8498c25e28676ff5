//! The SIP proxy core: a Machine. Owns all state of one worker: connections, links, buckets, counts.
//! Never does I/O, never asks the clock. Reads like a table of contents: what happens to bytes is in `stream`, what
//! happens to messages in `relay`, where they go in `route`, what is changed in them in `forward`.
//! Invariant: a response is routed by the branch that we wrote, never by a table.
#![forbid(unsafe_code)]

pub mod admission;
mod connection;
mod drain;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handshake;
mod health;
mod overload;
mod pending;
mod preface;
pub mod refusal;
mod relay;
pub mod roll;
mod route;
pub mod settings;
#[cfg(any(test, fuzzing))]
mod stand;
mod stream;
#[cfg(test)]
mod tests;
pub mod token;
mod transaction;
mod upstream;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::chunk::ChunkPool;
use crate::base::limits;
use crate::base::machine::{Arrival, CloseCause, ConnId, Input, Machine, Output};
use crate::base::random::Random;
use crate::base::slab::Slab;
use crate::base::time::{DeadlineQueue, Duration, Instant};
use crate::config::snapshot::{Listener, Transport};
use crate::sip::{FaultKind, Method};
use crate::telemetry::counter::{Closed, Counters, FAULTS};
use crate::telemetry::latency::{Latency, Stage};

use admission::{Bucket, Buckets};
use connection::{Connection, Role, Source};
use drain::Drain;
use handshake::HandshakeBudget;
use overload::Overload;
use pending::Pending;
use refusal::Refusals;
use settings::Settings;
use token::{FlowId, PeerId};
use transaction::Table;
pub use upstream::Change;
use upstream::{LinkState, Upstream};

/// Names of the methods that are counted apart, in the order of the counters.
pub fn method_names() -> impl Iterator<Item = &'static str> {
    Method::ALL.iter().map(|method| method.name())
}

/// Names of the faults that a message can have, in the order of the counters.
pub fn fault_names() -> impl Iterator<Item = &'static str> {
    FaultKind::ALL.iter().map(|kind| kind.name())
}

const _: () = assert!(FaultKind::ALL.len() == FAULTS);

/// A message for a connection of another worker; owns its bytes.
#[derive(Debug)]
pub struct Envelope {
    kind: EnvelopeKind,
    /// When it was posted: the crossing is a latency stage.
    posted: Instant,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum EnvelopeKind {
    /// A request as it came in, with where it came from: the worker that owns the flow edits and sends it.
    Request { source: Box<Source> },
    /// A response as it came in, with where it came from, to a request whose state that worker keeps.
    Unjudged { source: Box<Source> },
    /// A response ready to be sent on this flow.
    Response { flow: FlowId, origin: Origin },
}

/// What one worker hands to control: counts since the last report, and how things stand now.
#[derive(Debug)]
pub struct Report {
    pub counters: Counters,
    pub latency: Latency,
    pub gauges: Gauges,
}

/// How things stand when the report is made.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// For each zone: accepted connections over TCP and over TLS.
    pub connections: Vec<[u64; 2]>,
    /// For each backend, in order of the pools.
    pub backends: Vec<BackendGauge>,
    /// Backends that have come up or gone down since the last report, as far as they are kept.
    pub changes: Vec<Change>,
    /// Messages refused since the last report, as far as they are kept.
    pub refusals: Refusals,
    pub handshakes_open: u64,
    /// Capacity of the chunks that are not at home, in bytes.
    pub chunk_bytes_out: u64,
    pub draining: bool,
    /// Transactions whose state is kept.
    pub transactions: u32,
    /// New requests that are refused for overload, in per mille.
    pub shed: u32,
}

/// How a backend stands with one worker.
#[derive(Clone, Debug)]
pub struct BackendGauge {
    /// Whether it takes requests.
    pub up: bool,
    /// Why it does or does not, and for how long.
    pub reason: &'static str,
    pub since: Duration,
    /// Established lanes, and all of them.
    pub lanes_up: u32,
    pub lanes: u32,
    /// The part of its weight that it has by now, in per cent (slow start).
    pub ramp: u8,
}

impl Report {
    /// Empty counts for these settings: what control lends to a worker.
    pub fn new(zones: usize, backends: usize) -> Self {
        Report {
            counters: Counters::new(zones, backends),
            latency: Latency::new(),
            gauges: Gauges::default(),
        }
    }
}

/// Who wrote a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Peer,
    Own,
}

/// Settings and the time of the call: what every step reads.
#[derive(Clone, Copy)]
struct Context<'s> {
    settings: &'s Settings,
    now: Instant,
}

/// The proxy of one worker.
pub struct Proxy {
    settings: Arc<Settings>,
    core: Core,
}

/// Everything that changes while the proxy runs.
struct Core {
    worker: u8,
    incarnation: u32,
    connections: Slab<Connection>,
    /// Keys below the slab's capacity are connections by slot, those above are links by number.
    deadlines: DeadlineQueue,
    chunks: ChunkPool,
    dirty: VecDeque<ConnId>,
    /// Connections that wait for chunks to come home.
    starved: Vec<ConnId>,
    outputs: VecDeque<Output>,
    posts: VecDeque<(u16, Envelope)>,
    upstream: Upstream,
    pending: Pending,
    transactions: Table,
    buckets: Buckets,
    rates: Rates,
    handshakes: HandshakeBudget,
    overload: Overload,
    drain: Option<Drain>,
    random: Random,
    counters: Counters,
    latency: Latency,
    gauges: Gauges,
    refusals: Refusals,
    turn: TurnCounts,
    /// Buffers that are reused: carried tails, envelopes, plaintext and replies of the call under way.
    spare: Vec<Vec<u8>>,
    plain: Vec<u8>,
    reply: Vec<u8>,
    text: Vec<u8>,
}

/// Messages of this turn whose latency is known when its submissions leave.
#[derive(Default)]
struct TurnCounts {
    /// When the completions of this turn were read.
    began: Instant,
    /// Whether anything came in it: a turn for a question of the control plane leaves `began` as it was.
    worked: bool,
    requests: u64,
    responses: u64,
}

impl TurnCounts {
    fn begin(&mut self, now: Instant) {
        (self.began, self.worked) = (now, true);
    }
}

/// Rates of the limits, settled for one worker.
struct Rates {
    requests_per_prefix: Bucket,
    requests_per_connection: Bucket,
    handshakes_per_prefix: Bucket,
    requests_per_aor: Option<Bucket>,
}

impl Rates {
    fn new(settings: &Settings) -> Self {
        let limits = &settings.snapshot.limits;
        let share = |rate| Bucket::share(rate, settings.workers);
        Rates {
            requests_per_prefix: share(limits.requests_per_prefix),
            requests_per_connection: Bucket::whole(limits.requests_per_connection),
            handshakes_per_prefix: share(limits.handshake_rate_per_prefix),
            requests_per_aor: limits.requests_per_aor.map(share),
        }
    }
}

/// Spare buffers kept for reuse, and how large one may have grown to be kept.
pub const SPARE_BUFFERS: usize = 256;
pub const SPARE_BYTES_MAX: usize = 128 * 1024;

/// What one live transaction takes beside its kept request.
pub const TRANSACTION_BYTES: usize = transaction::TRANSACTION_BYTES;

/// The proxy's own state of one connection, without what it points to.
pub const CONNECTION_BYTES: usize = size_of::<connection::Connection>();

impl Proxy {
    /// A proxy for worker `worker` in this life; `accepted` connections at most are dictated by the ring.
    pub fn new(
        worker: u8,
        incarnation: u32,
        accepted: u32,
        seed: u64,
        now: Instant,
        settings: Arc<Settings>,
    ) -> Self {
        let capacity = accepted + limits::OWN_SLOTS;
        let zones = settings.snapshot.zones.len();
        let backends = settings.backends().len();
        let mut random = Random::new(seed);
        let hash_seed = random.next_u64();
        let core = Core {
            worker,
            incarnation,
            connections: Slab::new(accepted, limits::OWN_SLOTS),
            deadlines: DeadlineQueue::new(capacity + limits::OWN_SLOTS, now),
            chunks: ChunkPool::new(limits::CHUNK_BYTES_MAX),
            dirty: VecDeque::with_capacity(1024),
            starved: Vec::new(),
            outputs: VecDeque::with_capacity(64),
            posts: VecDeque::with_capacity(64),
            upstream: Upstream::default(),
            pending: Pending::new(),
            transactions: Table::new(accepted, now),
            buckets: Buckets::new(hash_seed),
            rates: Rates::new(&settings),
            handshakes: HandshakeBudget::new(now, hash_seed),
            overload: Overload::default(),
            drain: None,
            random,
            counters: Counters::new(zones, backends),
            latency: Latency::new(),
            gauges: Gauges { connections: vec![[0; 2]; zones], ..Gauges::default() },
            refusals: Refusals::default(),
            turn: TurnCounts::default(),
            spare: Vec::with_capacity(SPARE_BUFFERS),
            plain: Vec::with_capacity(SPARE_BYTES_MAX),
            reply: Vec::with_capacity(32 * 1024),
            text: Vec::with_capacity(SPARE_BYTES_MAX),
        };
        settings.prefixes.forget(worker);
        let mut proxy = Proxy { settings, core };
        let settings = Arc::clone(&proxy.settings);
        proxy.configure(now, settings);
        proxy
    }
}

impl Machine for Proxy {
    type Settings = Settings;
    type Envelope = Envelope;
    type Report = Report;

    fn configure(&mut self, now: Instant, settings: Arc<Settings>) {
        self.settings = settings;
        let cx = Context { settings: &self.settings, now };
        self.core.configure(cx);
    }

    fn admit(&mut self, now: Instant, arrival: Arrival) -> Option<ConnId> {
        let cx = Context { settings: &self.settings, now };
        self.core.turn.begin(now);
        self.core.admit(cx, arrival)
    }

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        let cx = Context { settings: &self.settings, now };
        let core = &mut self.core;
        core.turn.begin(now);
        match input {
            Input::Received { conn, bytes } => core.received(cx, conn, bytes),
            Input::Finished { conn } => core.finished(cx, conn),
            Input::Connected { conn } => core.connected(cx, conn),
            Input::Sent { conn, chunk } => core.sent(cx, conn, chunk),
            Input::Closed { conn, cause } => core.closed(cx, conn, cause),
            Input::Tick => core.tick(cx),
            Input::Drain { deadline } => core.start_drain(cx, deadline),
        }
    }

    fn deliver(&mut self, now: Instant, envelope: Envelope) {
        let cx = Context { settings: &self.settings, now };
        self.core.turn.begin(now);
        self.core.deliver(cx, envelope);
    }

    fn poll(&mut self) -> Option<Output> {
        self.core.poll(Context { settings: &self.settings, now: self.core.turn.began })
    }

    fn post(&mut self) -> Option<(u16, Envelope)> {
        self.core.posts.pop_front()
    }

    fn undelivered(&mut self, now: Instant, envelope: Envelope) {
        let cx = Context { settings: &self.settings, now };
        self.core.undelivered(cx, envelope);
    }

    fn leaving(&mut self, now: Instant) {
        let core = &mut self.core;
        let nanos = now.nanos_since(core.turn.began);
        if core.turn.requests > 0 {
            core.latency.record_n(Stage::ProxyRequest, nanos, core.turn.requests);
        }
        if core.turn.responses > 0 {
            core.latency.record_n(Stage::ProxyResponse, nanos, core.turn.responses);
        }
        core.turn.requests = 0;
        core.turn.responses = 0;
        core.handshakes.turn_ended(now);
        if std::mem::take(&mut core.turn.worked) {
            core.overload.turn_ended(nanos, self.settings.snapshot.limits.turn_time);
        }
        let starved = std::mem::take(&mut core.starved);
        starved.into_iter().for_each(|conn| core.mark_dirty(conn));
    }

    fn deadline(&self) -> Instant {
        self.core.deadline()
    }

    fn report(&mut self, now: Instant, spare: Report) -> Report {
        let core = &mut self.core;
        let backends = self.settings.backends().iter().enumerate();
        let gauges = backends.map(|(index, place)| {
            let slow_start = self.settings.snapshot.pools[usize::from(place.pool)].slow_start;
            core.upstream.gauge(index, now, slow_start)
        });
        core.gauges.backends = gauges.collect();
        core.gauges.changes = core.upstream.take_changes();
        core.gauges.handshakes_open = u64::from(core.handshakes.open());
        core.gauges.chunk_bytes_out = core.chunks.bytes_out() as u64;
        core.gauges.draining = core.drain.is_some();
        core.gauges.transactions = core.transactions.len();
        core.gauges.shed = core.overload.share();
        let Report { mut counters, latency, gauges: Gauges { refusals, .. } } = spare;
        core.gauges.refusals = std::mem::replace(&mut core.refusals, refusals.emptied());
        let empty =
            Counters::new(self.settings.snapshot.zones.len(), self.settings.backends().len());
        counters.merge(&empty);
        Report {
            counters: std::mem::replace(&mut core.counters, counters),
            latency: std::mem::replace(&mut core.latency, latency),
            gauges: core.gauges.clone(),
        }
    }

    fn drained(&self) -> bool {
        self.core.drain.is_some() && self.core.connections.live_accepted() == 0
    }
}

impl Core {
    fn configure(&mut self, cx: Context<'_>) {
        let keeps_state = cx.settings.snapshot.pools.iter().any(|pool| pool.failover);
        let transactions = cx.settings.snapshot.limits.transactions_per_core;
        self.transactions.allow(if keeps_state { transactions } else { 0 });
        self.rates = Rates::new(cx.settings);
        let zones = cx.settings.snapshot.zones.len();
        if self.gauges.connections.len() < zones {
            self.gauges.connections.resize(zones, [0; 2]);
        }
        self.counters.merge(&Counters::new(zones, cx.settings.backends().len()));
        for conn in self.upstream.configure(cx.settings, cx.now) {
            self.close(cx, conn, Closed::ConfigurationChanged);
        }
        for backend in 0..cx.settings.backends().len() {
            // The reason is read only for one whose links went.
            self.judge_backend(cx, backend, upstream::OPERATOR);
        }
        for link in 0..self.upstream.len().min(limits::OWN_SLOTS) {
            match self.upstream.link(link).state {
                LinkState::Down { .. } => self.dial(cx, link),
                LinkState::Dialling { conn } | LinkState::Up { conn } => {
                    if let Some(connection) = self.connections.get_mut(conn) {
                        connection.role = Role::Link { link };
                    }
                    self.link_due(cx, link);
                }
            }
        }
    }

    /// House rules for a newcomer: source, prefix, slots, handshakes. The doors are counted by name.
    fn admit(&mut self, cx: Context<'_>, arrival: Arrival) -> Option<ConnId> {
        let listener = &cx.settings.snapshot.listeners[arrival.listener as usize];
        let zone = &cx.settings.snapshot.zones[usize::from(listener.zone)];
        let limits = &cx.settings.snapshot.limits;
        let address = arrival.peer.ip();
        let refuse = |core: &mut Core, cause| {
            core.counters.close(listener.zone, cause);
            None
        };
        if self.drain.is_some() {
            return refuse(self, Closed::Draining);
        }
        let proxied = !listener.proxy_from.is_empty();
        if proxied && !listener.proxy_from.iter().any(|from| from.contains(address)) {
            return refuse(self, Closed::ProxySourceNotListed);
        }
        if self.connections.live_accepted() >= limits.connections_per_core {
            return refuse(self, Closed::SlotFull);
        }
        let tls = listener.transport == Transport::Tls;
        // Behind a proxy the peer is judged when its address is known.
        if !proxied && let Err(cause) = self.let_in(cx, listener, address) {
            return refuse(self, cause);
        }
        let role = Role::Accepted { listener: arrival.listener as u16 };
        let mut connection =
            Connection::new(role, listener.zone, listener.transport, arrival.peer, cx.now);
        connection.proxy_owed = proxied;
        connection.handshake_counted = tls && !proxied;
        connection.prefix_counted = !zone.trusted && !proxied;
        if zone.trusted && !proxied {
            connection.backends = backends_at(cx.settings, listener.zone, arrival.peer);
        }
        let Some(conn) = self.connections.insert_at(arrival.slot, connection) else {
            self.release_handshake(tls && !proxied, address, !zone.trusted);
            if !zone.trusted && !proxied {
                cx.settings.prefixes.leave(address, self.worker);
            }
            return refuse(self, Closed::SlotFull);
        };
        let transport = usize::from(tls);
        self.counters.zones[usize::from(listener.zone)].connections[transport] += 1;
        self.gauges.connections[usize::from(listener.zone)][transport] += 1;
        self.arm(cx, conn);
        Some(conn)
    }

    /// The rules for a peer by its address: source, handshakes, prefix. What it is counted in is undone at its end.
    fn let_in(
        &mut self,
        cx: Context<'_>,
        listener: &Listener,
        address: std::net::IpAddr,
    ) -> Result<(), Closed> {
        let zone = &cx.settings.snapshot.zones[usize::from(listener.zone)];
        if !zone.allow_from.is_empty() && !zone.allow_from.iter().any(|from| from.contains(address))
        {
            return Err(Closed::SourceNotAllowed);
        }
        let tls = listener.transport == Transport::Tls;
        if tls && !self.admit_handshake(cx, address, zone.trusted) {
            return Err(Closed::HandshakesFull);
        }
        let limit = cx.settings.snapshot.limits.connections_per_prefix;
        if !zone.trusted && !cx.settings.prefixes.enter(address, limit, self.worker) {
            self.release_handshake(tls, address, true);
            return Err(Closed::PrefixFull);
        }
        Ok(())
    }

    /// A proxy has named the peer of a connection: from now on it is the peer everywhere.
    fn named(&mut self, cx: Context<'_>, conn: ConnId, peer: SocketAddr) -> Result<(), Closed> {
        let Some(connection) = self.connections.get(conn) else { return Ok(()) };
        let Role::Accepted { listener } = connection.role else { return Ok(()) };
        let Some(listener) = cx.settings.snapshot.listeners.get(usize::from(listener)) else {
            return Err(Closed::ConfigurationChanged);
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.let_in(cx, listener, peer.ip())?;
        let trusted = cx.settings.snapshot.zones[usize::from(listener.zone)].trusted;
        let Some(connection) = self.connections.get_mut(conn) else { return Ok(()) };
        let proxy = std::mem::replace(&mut connection.peer, peer);
        connection.came_by = (proxy != peer).then_some(proxy);
        connection.handshake_counted = listener.transport == Transport::Tls;
        connection.prefix_counted = !trusted;
        if trusted {
            connection.backends = backends_at(cx.settings, listener.zone, peer);
        }
        Ok(())
    }

    fn admit_handshake(
        &mut self,
        cx: Context<'_>,
        address: std::net::IpAddr,
        trusted: bool,
    ) -> bool {
        let limits = &cx.settings.snapshot.limits;
        if self.handshakes.open() >= limits.handshakes_per_core {
            return false;
        }
        let limit = limits.handshakes_per_prefix;
        if !trusted && !self.buckets.handshake(address, cx.now, limit) {
            return false;
        }
        self.handshakes.opened();
        true
    }

    fn release_handshake(&mut self, counted: bool, address: std::net::IpAddr, by_prefix: bool) {
        if counted {
            self.handshakes.ended();
            if by_prefix {
                self.buckets.handshake_ended(address);
            }
        }
    }

    /// The connection is gone: what it held is given back, what waited for it is answered.
    fn closed(&mut self, cx: Context<'_>, conn: ConnId, cause: CloseCause) {
        let Some(mut connection) = self.connections.remove(conn) else { return };
        self.deadlines.clear(conn.slot);
        let address = connection.peer.ip();
        let prefix_counted = connection.prefix_counted;
        self.release_handshake(connection.handshake_counted, address, prefix_counted);
        if connection.handshake_queued {
            self.handshakes.forget(conn, address);
        }
        let why = connection.cause.unwrap_or(match cause {
            CloseCause::Asked if connection.finished => Closed::PeerFinished,
            CloseCause::Asked => Closed::Draining,
            CloseCause::ConnectFailed => Closed::ConnectFailed,
            CloseCause::ConnectTimeout => Closed::ConnectTimeout,
            CloseCause::Reset => Closed::Reset,
            CloseCause::SendFailed => Closed::SendFailed,
        });
        self.counters.close(connection.zone, why);
        let ciphertext = std::mem::take(&mut connection.ciphertext);
        self.give_buffer(ciphertext);
        let carry = std::mem::take(&mut connection.carry);
        self.give_buffer(carry);
        match connection.role {
            Role::Accepted { .. } => {
                let transport = usize::from(connection.transport == Transport::Tls);
                self.gauges.connections[usize::from(connection.zone)][transport] -= 1;
                if prefix_counted {
                    cx.settings.prefixes.leave(address, self.worker);
                }
                self.answer_unsent(cx, connection, PeerId::flow(self.flow_of(conn)), 430);
            }
            Role::Link { link } => {
                self.link_lost(cx, conn, link, why);
                let peer = connection.backends.first().copied().unwrap_or(PeerId::NONE);
                self.answer_unsent(cx, connection, peer, 503);
                self.attempts_lost(cx, conn);
            }
        }
    }

    /// What waited for a connection that is gone: its requests are answered.
    fn answer_unsent(
        &mut self,
        cx: Context<'_>,
        mut connection: Connection,
        peer: PeerId,
        status: u16,
    ) {
        if !connection.outbox.has_plain() {
            return;
        }
        let mut unsent = self.take_buffer();
        let outbox = &mut connection.outbox;
        outbox.take_unsent(&mut self.chunks, |bytes| unsent.extend_from_slice(bytes));
        self.bounce(cx, &unsent, peer, status);
        self.give_buffer(unsent);
    }

    /// Deadlines that have passed: connections and links.
    fn tick(&mut self, cx: Context<'_>) {
        self.work_off_handshakes(cx);
        while let Some(key) = self.deadlines.expired(cx.now) {
            if key < self.connections.capacity() {
                if let Some(conn) = self.connections.life(key) {
                    self.connection_due(cx, conn);
                }
            } else {
                self.link_due(cx, key - self.connections.capacity());
            }
        }
        while let Some(id) = self.transactions.expired(cx.now) {
            self.transaction_due(cx, id);
        }
        self.drain_due(cx);
    }

    fn deadline(&self) -> Instant {
        let work = self.handshakes.ready_at();
        // A dry pool fills by sends that complete; look again soon even if none does.
        let starved = if self.starved.is_empty() { Instant::FAR } else { self.turn.began };
        let next = self.deadlines.next().min(self.transactions.deadline());
        next.min(work).min(starved).min(self.drain_next())
    }

    /// Dials a link that is down; called again when the back-off is over.
    fn dial(&mut self, cx: Context<'_>, link: u32) {
        if link >= self.upstream.len() || self.drain.is_some() {
            return;
        }
        if !matches!(self.upstream.link(link).state, LinkState::Down { .. }) {
            return;
        }
        let backend = self.upstream.backend(link);
        let place = cx.settings.backends()[backend];
        let pool = &cx.settings.snapshot.pools[usize::from(place.pool)];
        let settings = &pool.backends[usize::from(place.backend)];
        let role = Role::Link { link };
        let mut connection =
            Connection::new(role, pool.zone, settings.transport, settings.address, cx.now);
        connection.backends = SmallVec::from_elem(place.peer, 1);
        let Some(conn) = self.connections.insert(connection) else {
            self.retry_link(cx, link);
            return;
        };
        if let Some(link) = self.upstream.link_mut(link) {
            link.state = LinkState::Dialling { conn };
        }
        let deadline = cx.now + pool.connect_timeout;
        self.outputs.push_back(Output::Connect { conn, to: settings.address, deadline });
    }

    fn retry_link(&mut self, cx: Context<'_>, link: u32) {
        let retry_at = self.upstream.back_off(link, cx.now, &mut self.random);
        self.deadlines.set(self.connections.capacity() + link, retry_at);
        if retry_at <= cx.now {
            self.dial(cx, link);
        }
    }

    fn link_up(&mut self, cx: Context<'_>, conn: ConnId, link: u32) {
        if link < self.upstream.len() {
            let place = cx.settings.backends()[self.upstream.backend(link)];
            let health = cx.settings.snapshot.pools[usize::from(place.pool)].health;
            self.upstream.came_up(link, conn, cx.now, health.map_or(0, |health| health.rise));
            self.judge_backend(cx, self.upstream.backend(link), upstream::CONNECTED);
            self.look_after(cx, link, conn);
        }
    }

    fn link_lost(&mut self, cx: Context<'_>, conn: ConnId, link: u32, why: Closed) {
        let ours = self.upstream.link_mut(link).is_some_and(|link| link.conn() == Some(conn));
        if ours {
            self.retry_link(cx, link);
            self.judge_backend(cx, self.upstream.backend(link), why.name());
        }
    }

    /// A link of this backend has changed: whether the backend takes requests.
    fn judge_backend(&mut self, cx: Context<'_>, backend: usize, reason: &'static str) {
        if let Some(event) = self.upstream.judge(backend, cx.now, reason) {
            self.counters.health[backend][event as usize] += 1;
        }
    }

    /// This connection as any worker may name it.
    fn flow_of(&self, conn: ConnId) -> FlowId {
        FlowId {
            worker: self.worker,
            incarnation: self.incarnation,
            slot: conn.slot,
            generation: conn.generation,
        }
    }

    /// The connection that a flow names, if it is of this worker's present life.
    fn conn_of(&self, flow: FlowId) -> Option<ConnId> {
        let ours = flow.worker == self.worker && flow.incarnation == self.incarnation;
        ours.then_some(ConnId { slot: flow.slot, generation: flow.generation })
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| {
            self.counters.buffers_allocated += 1;
            Vec::new()
        })
    }

    fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        let worth = buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES_MAX;
        if worth && self.spare.len() < SPARE_BUFFERS {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// The backends of pools in this zone that live at a peer's address.
fn backends_at(settings: &Settings, zone: u16, peer: SocketAddr) -> SmallVec<[PeerId; 1]> {
    let address = peer.ip().to_canonical();
    let in_zone = |pool: u16| settings.snapshot.pools[usize::from(pool)].zone == zone;
    let here = settings
        .backends()
        .iter()
        .filter(|place| in_zone(place.pool) && place.address.ip().to_canonical() == address);
    here.map(|place| place.peer).collect()
}
