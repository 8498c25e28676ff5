//! What backends do: register phones, answer, relay calls between phones, call phones through their Path, die, return.
//! Owns a backend's lines and what it relays. Never touches the front-end.

use super::cast::{Binding, Cast};
use super::compose;
use super::faults::Fault;
use super::line::Holder;
use super::oracle::Judge;
use super::setting::{self, CORE_IN};
use super::text::{Text, name_of, parts_of, uri_in, value_of};
use super::wire::WireId;

pub struct Backend {
    pub up: bool,
    /// Connects to it end in nothing.
    pub black_hole: bool,
    /// Probes are answered by 503.
    pub sulks: bool,
    /// Links of workers and connections of its own.
    pub lines: Vec<WireId>,
    relays: Vec<Relay>,
    /// INVITEs that it has heard, with their numbers.
    pub invites: Vec<(usize, Text)>,
    /// Branches that were acknowledged to it by the front-end.
    pub acknowledged: Vec<String>,
    dials: u16,
}

/// A request passed on.
struct Relay {
    /// As it came, and as it left.
    came: usize,
    came_branch: String,
    left: usize,
    left_text: Text,
    line: WireId,
    done: bool,
}

impl Backend {
    pub fn new(_index: usize) -> Backend {
        Backend {
            up: true,
            black_hole: false,
            sulks: false,
            lines: Vec::new(),
            relays: Vec::new(),
            invites: Vec::new(),
            acknowledged: Vec::new(),
            dials: 0,
        }
    }
}

impl Cast {
    // --- Being asked -----------------------------------------------------------------------------

    pub fn backend_requested(&mut self, backend: usize, line: WireId, id: usize, text: &Text) {
        let agent = self.agent_of(backend);
        if text.method() == "INVITE" && self.oracle.failover {
            self.backends[backend].invites.push((id, text.clone()));
        }
        if self.refuses(backend, line, id, text) {
            return;
        }
        if text.method() == "REGISTER" {
            self.bind(line, id, text);
            return self.called(agent, line, id, text);
        }
        if let Some(place) = self.relayed(backend, &text.branch())
            && matches!(text.method(), "ACK" | "CANCEL")
        {
            if text.method() == "CANCEL" {
                self.answer(agent, line, id, text, 200);
                self.relay_cancel(backend, place);
            }
            return;
        }
        let own = setting::backend_address(backend).to_string();
        let passes = text.values("route").first().is_some_and(|route| route.contains(&own));
        let phone = phone_of(text.uri());
        match phone.and_then(|phone| self.bindings.get(&phone).cloned()) {
            _ if passes => self.relay_on(backend, line, id, text),
            Some(binding) if text.to_tag().is_none() => {
                self.relay(backend, line, id, text, &binding);
            }
            _ => self.called(agent, line, id, text),
        }
    }

    /// A probe of the front-end: answered, or refused. It is of no call that anybody judges.
    pub fn probed(&mut self, backend: usize, line: WireId, text: &Text) {
        let own = setting::backend_address(backend).to_string();
        let whole = text.values("via").len() == 1
            && text.uri().contains(&own) | self.setting.options.core_tls
            && text.body.is_empty();
        self.oracle.judge(Judge::Answer, whole, || format!("no probe: {text:?}"));
        let sulks = self.backends[backend].sulks;
        let rise = u64::from(self.setting.options.health.map_or(0, |health| health.rise));
        let it = &mut self.lines[line];
        it.probes += 1;
        // What it takes to be believed, and when it changes its mind.
        if it.probes <= rise || sulks || std::mem::replace(&mut it.sulked, sulks) {
            self.trouble();
        }
        self.lines[line].sulked = sulks;
        let status = if sulks { 503 } else { 200 };
        let lines = text.lines.iter().filter(|line| {
            matches!(name_of(line).as_str(), "via" | "from" | "to" | "call-id" | "cseq")
        });
        let lines: String = lines.map(String::as_str).collect();
        let answer = format!("SIP/2.0 {status} Whatever\r\n{lines}Content-Length: 0\r\n\r\n");
        if sulks {
            self.net.borrow_mut().faults.count(Fault::ProbeRefused);
        }
        self.lines[line].say(&mut self.net.borrow_mut(), &mut self.pool, answer.as_bytes());
    }

    /// Half a ping of the front-end; the other half is owed an answer (RFC 5626 4.4.1).
    pub fn pinged(&mut self, line: WireId) {
        let it = &mut self.lines[line];
        it.halves += 1;
        if it.halves.is_multiple_of(2) {
            it.probes += 1;
            let rise = u64::from(self.setting.options.health.map_or(0, |health| health.rise));
            let proves = it.probes <= rise;
            it.say(&mut self.net.borrow_mut(), &mut self.pool, b"\r\n");
            if proves {
                self.trouble();
            }
        }
    }

    /// A registration: where the phone is and the way to it.
    fn bind(&mut self, _line: WireId, id: usize, text: &Text) {
        let Holder::Phone(phone) = self.lines[self.oracle.sents[id].line].holder else { return };
        let Some(contact) = compose::contact_uri(text) else { return };
        let path = text.values("path");
        let old = self.bindings.remove(&phone);
        let mut earlier = old.as_ref().map_or(Vec::new(), |old| old.earlier.clone());
        earlier.extend(old.map(|old| old.path));
        self.bindings.insert(phone, Binding { contact, path, earlier });
    }

    // --- Passing on ------------------------------------------------------------------------------

    /// A request to a registered phone: along its Path.
    fn relay(&mut self, backend: usize, line: WireId, id: usize, text: &Text, binding: &Binding) {
        let mut out = text.clone();
        let routes = binding.path.iter().map(|path| format!("Route: {path}\r\n"));
        let lines: Vec<String> = routes.collect();
        out.start = format!("{} {} SIP/2.0", text.method(), binding.contact);
        let at = out.lines.iter().position(|line| name_of(line) == "via").unwrap_or(0);
        out.lines.splice(at..at, lines);
        let stays = !self.setting.options.scripted && self.one_in(2);
        if text.method() == "INVITE" && stays {
            let own = setting::backend_address(backend);
            let first = out.lines.iter().position(|line| name_of(line) == "record-route");
            let at = first.unwrap_or(out.lines.len());
            out.lines.insert(at, format!("Record-Route: <sip:{own};transport=tcp;lr>\r\n"));
        }
        self.pass_on(backend, line, id, text, out);
    }

    /// A request within a dialog that we stay in: our own Route off, along the next.
    fn relay_on(&mut self, backend: usize, line: WireId, id: usize, text: &Text) {
        let mut out = text.clone();
        let routes = text.values("route");
        out.remove("route");
        let at = out.lines.iter().position(|line| name_of(line) == "via").unwrap_or(0);
        let rest = routes[1..].iter().map(|route| format!("Route: {route}\r\n"));
        out.lines.splice(at..at, rest.collect::<Vec<_>>());
        self.pass_on(backend, line, id, text, out);
    }

    fn pass_on(&mut self, backend: usize, line: WireId, id: usize, text: &Text, mut out: Text) {
        let agent = self.agent_of(backend);
        let Some(way) = self.line_of(agent) else { return };
        let marker = self.oracle.next();
        let via = format!("Via: SIP/2.0/{};branch={}\r\n", self.via(way), compose::branch(marker));
        let at = out.lines.iter().position(|line| name_of(line) == "via").unwrap_or(0);
        out.lines.insert(at, via);
        for line in &mut out.lines {
            if name_of(line) == "max-forwards" {
                let hops: u32 = value_of(line).parse().unwrap_or(70);
                *line = format!("Max-Forwards: {}\r\n", hops.saturating_sub(1));
            }
        }
        out.set_marker(marker);
        let left = self.say_request(way, out.to_string(), Some(id));
        self.backends[backend].relays.push(Relay {
            came: id,
            came_branch: text.branch(),
            left,
            left_text: out,
            line,
            done: false,
        });
    }

    /// What was passed on of the request that came with this branch.
    pub fn relayed(&self, backend: usize, branch: &str) -> Option<usize> {
        let mut relays = self.backends[backend].relays.iter();
        relays.position(|relay| relay.came_branch == branch && !branch.is_empty())
    }

    pub fn relay_cancel(&mut self, backend: usize, place: usize) {
        let relay = &self.backends[backend].relays[place];
        let (left, way) = (relay.left, self.oracle.sents[relay.left].line);
        if relay.done || !self.speaks(way) {
            return;
        }
        let to = relay.left_text.first("to").unwrap_or_default();
        let marker = self.oracle.next();
        let text = compose::hop_by_hop(marker, "CANCEL", &relay.left_text, &to);
        self.say_request(way, text, Some(left));
    }

    /// A response to something that was passed on: back to who asked. False: it is to a request of our own.
    pub fn relay_response(&mut self, backend: usize, to: usize, status: u16, text: &Text) -> bool {
        let relays = &mut self.backends[backend].relays;
        let Some(relay) = relays.iter_mut().find(|relay| relay.left == to) else { return false };
        relay.done |= status >= 200;
        let (came, line, left_text) = (relay.came, relay.line, relay.left_text.clone());
        if status >= 300 && left_text.method() == "INVITE" {
            let marker = self.oracle.next();
            let to_value = text.first("to").unwrap_or_default();
            let ack = compose::hop_by_hop(marker, "ACK", &left_text, &to_value);
            let way = self.oracle.sents[to].line;
            if self.speaks(way) {
                self.say_request(way, ack, Some(to));
            }
        }
        let mut back = text.clone();
        let Some(top) = back.lines.iter().position(|line| name_of(line) == "via") else {
            return true;
        };
        back.lines.remove(top);
        let agent = self.agent_of(backend);
        let line = if self.speaks(line) { Some(line) } else { self.line_of(agent) };
        let Some(line) = line else { return true };
        let marker = self.oracle.next();
        if back.marker().is_some() {
            back.set_marker(marker);
        } else {
            back.lines.push(format!("X-Marker: m{marker}.\r\n"));
        }
        self.say_response(line, back.to_string(), came, false);
        true
    }

    // --- Acting ----------------------------------------------------------------------------------

    pub fn backend_acts(&mut self, backend: usize) {
        if !self.backends[backend].up {
            return;
        }
        let agent = self.agent_of(backend);
        let owns = self.backends[backend]
            .lines
            .iter()
            .any(|line| self.lines[*line].holder == Holder::Own(backend));
        if !owns && backend != setting::GUEST && self.one_in(3) {
            self.backend_dials(backend);
        }
        let Some(line) = self.line_of(agent) else { return };
        if self.setting.options.hostile > 0 && self.one_in(3) {
            return self.backend_does_ill(backend, line);
        }
        // Several at once, so that a mailbox may be full.
        let many = if self.one_in(4) { 4 } else { 1 };
        (0..many).for_each(|_| self.backend_acts_once(backend, line));
    }

    fn backend_acts_once(&mut self, backend: usize, line: WireId) {
        let agent = self.agent_of(backend);
        match self.random.below(8) {
            0..=1 => match self.some_dialog(agent) {
                Some(dialog) => self.go_on(agent, line, dialog),
                None => self.calls_phone(backend, line, "OPTIONS"),
            },
            2 => self.calls_phone(backend, line, "OPTIONS"),
            3 => {
                self.ask(agent, line, "OPTIONS", "sip:10.0.0.1", &[], &[]);
            }
            4 => self.calls_phone(backend, line, "MESSAGE"),
            _ => self.calls_phone(backend, line, "INVITE"),
        }
    }

    pub fn backend_dials(&mut self, backend: usize) {
        let it = &mut self.backends[backend];
        it.dials += 1;
        let mut peer = setting::backend_address(backend);
        peer.set_port(40_000 + it.dials);
        let agent = self.agent_of(backend);
        let line = self.dial(agent, Holder::Own(backend), peer, CORE_IN);
        self.backends[backend].lines.push(line);
    }

    /// Calls a registered phone along its Path; now and then along one of an earlier registration.
    fn calls_phone(&mut self, backend: usize, line: WireId, method: &str) {
        let mut known: Vec<usize> = self.bindings.keys().copied().collect();
        known.sort_unstable();
        if known.is_empty() {
            return;
        }
        let phone = known[self.random.below(known.len() as u64) as usize];
        let binding = self.bindings[&phone].clone();
        let earlier = self.one_in(6).then(|| binding.earlier.last().cloned()).flatten();
        let path = earlier.unwrap_or(binding.path);
        let agent = self.agent_of(backend);
        self.note_old_life(&path);
        self.ask(agent, line, method, &binding.contact, &path, &[]);
    }
}

/// The phone that a URI names: `u` and its number.
fn phone_of(uri: &str) -> Option<usize> {
    let (user, ..) = parts_of(uri_in(uri));
    user?.strip_prefix('u')?.parse().ok()
}
