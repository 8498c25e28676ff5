//! Everybody who is not the front-end: phones, backends and those who mean no good; their lines and their memory.
//! Owns the agents. What a phone or a backend does is in `phone` and `backend`, the handling of calls in `agent`.
//! Invariant: nothing is said or heard but past the judges.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::agent::Agent;
use super::backend::Backend;
use super::faults::Fault;
use super::ladder::{Ladder, Rung};
use super::line::{Heard, Holder, Line};
use super::oracle::{Judge, Kind, Oracle, Receipt, Target};
use super::phone::Phone;
use super::reference::Place;
use super::setting::{self, Setting};
use super::text::Text;
use super::wire::{Event, Net, Side, WireId};
use crate::base::chunk::ChunkPool;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::config::snapshot::{ProbeMethod, Transport};
use crate::tls::Session;

/// Where a phone was registered, and the Path values of its earlier registrations.
#[derive(Clone, Debug)]
pub struct Binding {
    pub contact: String,
    pub path: Vec<String>,
    pub earlier: Vec<Vec<String>>,
}

/// Everybody on the stage.
pub struct Cast {
    pub setting: Rc<Setting>,
    pub net: Rc<RefCell<Net>>,
    /// By wire.
    pub lines: Vec<Line>,
    pub phones: Vec<Phone>,
    pub backends: Vec<Backend>,
    /// The calls of each agent: phones first, then backends.
    pub agents: Vec<Agent>,
    pub bindings: HashMap<usize, Binding>,
    pub oracle: Oracle,
    pub ladder: Ladder,
    pub random: Random,
    pub pool: ChunkPool,
    /// Nobody begins anything of his own any more.
    pub winding_down: bool,
}

impl Cast {
    pub fn new(setting: Rc<Setting>, net: Rc<RefCell<Net>>, mut random: Random) -> Cast {
        let options = &setting.options;
        let phones: Vec<Phone> = (0..options.phones + options.hostile)
            .map(|index| Phone::drawn(index, options, &mut random))
            .collect();
        let backends: Vec<Backend> = (0..setting::BACKENDS).map(Backend::new).collect();
        let agents = (0..phones.len() + backends.len()).map(|_| Agent::default()).collect();
        let mut oracle = Oracle::new(setting.facts(), options.is_calm());
        oracle.failover = options.failover;
        oracle.affinity_by_source = options.affinity == crate::config::snapshot::Affinity::Source;
        Cast {
            net,
            lines: Vec::new(),
            phones,
            backends,
            agents,
            bindings: HashMap::new(),
            oracle,
            ladder: Ladder::default(),
            random,
            pool: ChunkPool::new(usize::MAX / 2),
            winding_down: false,
            setting,
        }
    }

    pub fn now(&self) -> Instant {
        self.net.borrow().now()
    }

    pub fn is_phone(&self, agent: usize) -> bool {
        agent < self.phones.len()
    }

    /// The agent behind a backend.
    pub fn agent_of(&self, backend: usize) -> usize {
        self.phones.len() + backend
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.random.one_in(times)
    }

    /// Something happened after which a call may go elsewhere.
    pub fn trouble(&mut self) {
        let now = self.now();
        self.oracle.trouble(now);
    }

    // --- Connections -----------------------------------------------------------------------------

    /// An agent dials a listener.
    pub fn dial(
        &mut self,
        agent: usize,
        holder: Holder,
        peer: std::net::SocketAddr,
        listener: u32,
    ) -> WireId {
        let core_tls = self.setting.options.core_tls;
        let (zone, transport) = setting::listener_zone(listener, core_tls);
        let wire = self.net.borrow_mut().connect(agent, peer, Some(listener), None);
        let tls = transport == Transport::Tls;
        let session = tls.then(|| {
            let setting = &self.setting;
            let side = match (zone, holder.backend()) {
                (setting::CORE, Some(backend)) => &setting.backend_sides[backend].0,
                (setting::SECURE, _) => &setting.phone_sides[1],
                _ => &setting.phone_sides[0],
            };
            Session::client(side).expect("a client's session")
        });
        self.open(wire, holder, Place { zone, tls, peer }, session);
        wire
    }

    /// A worker has reached a backend.
    pub fn reached(&mut self, worker: u16, backend: usize) -> WireId {
        let peer = setting::backend_address(backend);
        let agent = self.agent_of(backend);
        let wire = self.net.borrow_mut().connect(agent, peer, None, Some(worker));
        let tls = self.setting.options.core_tls;
        let side = self.setting.backend_sides.get(backend);
        let session = side.filter(|_| tls).map(|(_, server)| Session::server(server));
        self.open(wire, Holder::Link(backend), Place { zone: setting::CORE, tls, peer }, session);
        self.backends[backend].lines.push(wire);
        self.trouble();
        wire
    }

    fn open(&mut self, wire: WireId, holder: Holder, place: Place, session: Option<Session>) {
        assert_eq!(wire, self.lines.len());
        let client = session.is_some() && !matches!(holder, Holder::Link(_));
        self.lines.push(Line::new(wire, holder, place, session));
        let now = self.now();
        self.ladder.push(now, Rung::Opened { line: wire });
        if client && !matches!(holder, Holder::Hostile(_)) {
            self.lines[wire].begin(&mut self.net.borrow_mut(), &mut self.pool);
        }
    }

    /// The agent lets go of a line.
    pub fn hang_up(&mut self, line: WireId, abort: bool) {
        if !std::mem::replace(&mut self.lines[line].open, false) {
            return;
        }
        let mut net = self.net.borrow_mut();
        self.lines[line].ended_at.get_or_insert(net.now());
        net.close(line, Side::Peer, abort);
        self.ladder.push(net.now(), Rung::Closed { line, abort });
        drop(net);
        if let Some(backend) = self.lines[line].holder.backend() {
            self.backends[backend].lines.retain(|it| *it != line);
            self.trouble();
        }
    }

    /// The agent will say nothing more, but listens on.
    pub fn half_close(&mut self, line: WireId) {
        let now = self.now();
        self.lines[line].ended_at.get_or_insert(now);
        self.lines[line].finish(&mut self.net.borrow_mut(), &mut self.pool);
    }

    // --- Said ------------------------------------------------------------------------------------

    /// Says a request; its target is read off its text. Returns its number.
    pub fn say_request(&mut self, line: WireId, text: String, root: Option<usize>) -> usize {
        let read = Text::parse(&text).expect("agents write whole messages");
        let target = self.oracle.target(&read, &self.lines[line]);
        let (method, branch) = (read.method().to_owned(), read.branch());
        self.say(line, text, Kind::Request { method, branch, target }, root, false)
    }

    /// Says a response to the request of that number.
    pub fn say_response(&mut self, line: WireId, text: String, to: usize, hostile: bool) -> usize {
        let status = Text::parse(&text).map_or(0, |text| text.status());
        let root = self.oracle.sents[to].root;
        let root = if hostile { None } else { Some(root) };
        self.say(line, text, Kind::Response { to, status }, root, hostile)
    }

    pub fn say(
        &mut self,
        line: WireId,
        text: String,
        kind: Kind,
        root: Option<usize>,
        hostile: bool,
    ) -> usize {
        let id = self.oracle.next();
        let now = self.now();
        self.ladder.push(now, Rung::Said { id });
        self.oracle.said(&mut self.lines[line], text, kind, root, now, hostile);
        let bytes = self.oracle.sents[id].text.as_bytes();
        let line = &mut self.lines[line];
        line.say(&mut self.net.borrow_mut(), &mut self.pool, bytes);
        id
    }

    // --- Heard -----------------------------------------------------------------------------------

    /// Bytes, an end or a reset have come to a line.
    pub fn listen(&mut self, line: WireId) {
        if line >= self.lines.len() || !self.lines[line].open {
            return;
        }
        let established = self.lines[line].established();
        let heard = self.lines[line].listen(&mut self.net.borrow_mut(), &mut self.pool);
        if established != self.lines[line].established() {
            self.trouble();
        }
        for it in heard {
            match it {
                Heard::Message(message) => self.heard(line, &message),
                Heard::Pong
                    if self.is_pinged() && matches!(self.lines[line].holder, Holder::Link(_)) =>
                {
                    self.pinged(line);
                }
                Heard::Pong => self.lines[line].pongs += 1,
                Heard::End => self.ended(line),
                Heard::Reset => {
                    let now = self.now();
                    self.ladder.push(now, Rung::WasReset { line });
                    self.hang_up(line, false);
                }
                Heard::Broken => self.hang_up(line, true),
            }
        }
        self.check_ciphertext(line);
    }

    /// The front-end has said its last word: we have, too.
    fn ended(&mut self, line: WireId) {
        self.hang_up(line, false);
    }

    /// Whether the front-end pings its backends.
    fn is_pinged(&self) -> bool {
        let health = self.setting.options.health;
        health.is_some_and(|health| health.method == ProbeMethod::Crlf)
    }

    fn check_ciphertext(&mut self, line: WireId) {
        let it = &mut self.lines[line];
        let records = std::mem::take(&mut it.records);
        let plaintext = it.plaintext;
        if records > 0 || plaintext {
            self.oracle.judge(Judge::Ciphertext, !plaintext, || {
                format!("bytes on TLS line {line} that are no TLS records")
            });
        }
    }

    fn heard(&mut self, line: WireId, message: &str) {
        if let Holder::Link(backend) = self.lines[line].holder
            && let Some(text) = Text::parse(message)
            && text.method() == "OPTIONS"
            && text.marker().is_none()
        {
            return self.probed(backend, line, &text);
        }
        if let Holder::Link(backend) = self.lines[line].holder
            && self.oracle.failover
            && let Some(text) = Text::parse(message)
            && matches!(text.method(), "ACK" | "CANCEL")
            && text.marker().is_none()
        {
            return self.hop_heard(backend, line, &text);
        }
        let receipt = {
            let net = self.net.borrow();
            self.oracle.heard(&net, &self.lines, line, message)
        };
        let now = self.now();
        let Some(text) = Text::parse(message) else { return };
        match receipt {
            Receipt::Peer(id) => {
                self.ladder.push(now, Rung::Heard { id, line });
                match self.oracle.sents[id].kind.clone() {
                    Kind::Request { .. } => self.requested(line, id, &text),
                    Kind::Response { to, status } => self.responded(line, to, status, &text),
                    Kind::Garbage { .. } => {}
                }
            }
            Receipt::Own(id) => {
                self.ladder.push(now, Rung::Answered { id, status: text.status(), line });
                self.responded(line, id, text.status(), &text);
            }
            Receipt::Unknown => {}
        }
    }

    fn requested(&mut self, line: WireId, id: usize, text: &Text) {
        match self.lines[line].holder {
            Holder::Phone(phone) => self.phone_requested(phone, line, id, text),
            Holder::Link(backend) | Holder::Own(backend) => {
                self.backend_requested(backend, line, id, text);
            }
            Holder::Hostile(_) => {}
        }
    }

    fn responded(&mut self, line: WireId, to: usize, status: u16, text: &Text) {
        match self.lines[line].holder {
            Holder::Phone(phone) => self.call_responded(phone, line, to, status, text),
            Holder::Link(backend) | Holder::Own(backend) => {
                if !self.relay_response(backend, to, status, text) {
                    let agent = self.agent_of(backend);
                    self.call_responded(agent, line, to, status, text);
                }
            }
            Holder::Hostile(_) => {}
        }
    }

    // --- Events ----------------------------------------------------------------------------------

    /// A line may read or write on.
    pub fn resume(&mut self, line: WireId) {
        if line >= self.lines.len() {
            return;
        }
        self.lines[line].flush(&mut self.net.borrow_mut(), &mut self.pool);
        self.listen(line);
    }

    /// It is an agent's turn to begin something.
    pub fn act(&mut self, agent: usize) {
        if self.winding_down {
            return;
        }
        let pause = if self.is_phone(agent) {
            self.phone_acts(agent);
            (20_000_000, 400_000_000)
        } else {
            self.backend_acts(agent - self.phones.len());
            (50_000_000, 500_000_000)
        };
        let mut net = self.net.borrow_mut();
        let pause = net.between(pause);
        net.after(pause, Event::Act { agent });
    }

    /// The agent reads nothing for a while.
    pub fn pause(&mut self, line: WireId, nanos: u64) {
        let mut net = self.net.borrow_mut();
        let until = Instant(net.now().0 + nanos);
        self.lines[line].paused_until = until;
        net.faults.count(Fault::SlowPeer);
        net.at(until, Event::Resume { wire: line });
    }

    /// Whether a request has had a final answer.
    pub fn is_answered(&self, id: usize) -> bool {
        !self.oracle.sents[id].answers.is_empty()
    }

    /// Whether a request needs one.
    pub fn wants_answer(&self, id: usize) -> bool {
        match &self.oracle.sents[id].kind {
            Kind::Request { method, .. } => method != "ACK",
            _ => false,
        }
    }

    /// Whether a request's target was the front-end itself.
    pub fn is_local(&self, id: usize) -> bool {
        matches!(&self.oracle.sents[id].kind, Kind::Request { target: Target::Local, .. })
    }
}
