//! Calls as both phones and backends handle them: who called, who rings, which dialogs stand, what is put off.
//! Owns nothing but that. Never dials.
//! Invariant: a request is answered on the line it came on, or, by a backend, on another of its lines when that is gone.

use super::cast::Cast;
use super::compose::{self, Draft};
use super::line::Holder;
use super::text::{Text, uri_in};
use super::wire::{Event, WireId};
use crate::base::time::Instant;

/// What one agent remembers.
#[derive(Default)]
pub struct Agent {
    pub dialogs: Vec<Dialog>,
    pub calling: Vec<Calling>,
    pub ringing: Vec<Ringing>,
    pub later: Vec<(Instant, Later)>,
    pub cseq: u32,
}

/// A dialog as one side of it knows it.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub root: usize,
    pub call_id: String,
    pub local: String,
    pub remote: String,
    pub target: String,
    pub routes: Vec<String>,
    pub cseq: u32,
}

impl Dialog {
    /// As an element of RFC 2543 would: the first Route stands in the Request-URI, the target is the last Route
    /// (RFC 3261 16.4).
    fn route_strictly(&mut self) {
        if self.routes.is_empty() {
            return;
        }
        let first = uri_in(&self.routes.remove(0)).to_owned();
        let target = std::mem::replace(&mut self.target, first);
        self.routes.push(format!("<{target}>"));
    }
}

/// An INVITE of ours without a final answer.
#[derive(Clone, Debug)]
pub struct Calling {
    pub id: usize,
    pub rings: bool,
    pub cancelled: bool,
}

/// An INVITE that we have not answered finally.
#[derive(Clone, Debug)]
pub struct Ringing {
    pub id: usize,
    pub line: WireId,
    pub text: Text,
}

/// What an agent has put off.
#[derive(Clone, Debug)]
pub enum Later {
    /// Answer this request, as it was received.
    Answer { line: WireId, id: usize, text: Box<Text>, status: u16 },
    /// The callee picks up, or is busy.
    PickUp { id: usize, status: u16 },
}

impl Cast {
    pub fn put_off(&mut self, agent: usize, nanos: (u64, u64), later: Later) {
        let mut net = self.net.borrow_mut();
        let at = Instant(net.now().0 + net.between(nanos));
        net.at(at, Event::Later { agent });
        self.agents[agent].later.push((at, later));
    }

    /// What was put off until now.
    pub fn later(&mut self, agent: usize) {
        let now = self.now();
        let due: Vec<Later> =
            self.agents[agent].later.extract_if(.., |(at, _)| *at <= now).map(|it| it.1).collect();
        for later in due {
            match later {
                Later::Answer { line, id, text, status } => {
                    self.answer(agent, line, id, &text, status);
                }
                Later::PickUp { id, status } => {
                    let ringing = &mut self.agents[agent].ringing;
                    let Some(at) = ringing.iter().position(|it| it.id == id) else { continue };
                    let Ringing { id, line, text } = ringing.swap_remove(at);
                    self.answer(agent, line, id, &text, status);
                }
            }
        }
    }

    // --- Who and where ---------------------------------------------------------------------------

    /// A line that the agent can speak on.
    pub fn line_of(&mut self, agent: usize) -> Option<WireId> {
        if self.is_phone(agent) {
            return self.phones[agent].line.filter(|line| self.speaks(*line));
        }
        let lines: Vec<WireId> = self.backends[agent - self.phones.len()].lines.clone();
        let lines: Vec<WireId> = lines.into_iter().filter(|line| self.speaks(*line)).collect();
        if lines.is_empty() {
            return None;
        }
        Some(lines[self.random.below(lines.len() as u64) as usize])
    }

    pub fn speaks(&self, line: WireId) -> bool {
        let line = &self.lines[line];
        line.open && !line.finished
    }

    /// The line to answer on.
    fn answering_line(&mut self, agent: usize, line: WireId) -> Option<WireId> {
        if self.speaks(line) {
            return Some(line);
        }
        if self.is_phone(agent) { None } else { self.line_of(agent) }
    }

    pub fn via(&self, line: WireId) -> String {
        let place = &self.lines[line].place;
        let transport = if place.tls { "TLS" } else { "TCP" };
        match self.lines[line].holder.backend() {
            Some(backend) => {
                format!("{transport} {}", super::setting::backend_address(backend))
            }
            None => format!("{transport} {}", place.peer),
        }
    }

    pub fn contact(&self, line: WireId) -> String {
        let peer = self.lines[line].place.peer;
        match self.lines[line].holder {
            Holder::Phone(phone) | Holder::Hostile(phone) => format!("<sip:u{phone}@{peer}>"),
            Holder::Link(backend) | Holder::Own(backend) => {
                let address = super::setting::backend_address(backend);
                format!("<sip:service@{address};transport=tcp>")
            }
        }
    }

    pub fn is_odd(&mut self) -> bool {
        let odd = self.setting.options.odd;
        self.one_in(odd)
    }

    // --- Calling ---------------------------------------------------------------------------------

    /// A request outside of any dialog.
    pub fn ask(
        &mut self,
        agent: usize,
        line: WireId,
        method: &str,
        uri: &str,
        routes: &[String],
        extra: &[String],
    ) -> usize {
        let marker = self.oracle.next();
        self.agents[agent].cseq += 1;
        let (via, mut contact) = (self.via(line), self.contact(line));
        if method == "REGISTER" && self.one_in(3) {
            contact.push_str(";+sip.instance=\"<urn:uuid:0>\";reg-id=1");
        }
        let wants_contact = matches!(method, "INVITE" | "REGISTER" | "SUBSCRIBE");
        let odd = self.is_odd();
        let body = match self.random.below(6) {
            0 => 0,
            1 => 3000,
            _ => 100 + self.random.below(300) as usize,
        };
        let text = compose::request(
            &Draft {
                marker,
                method,
                uri,
                via: &via,
                branch: None,
                from: &format!("<sip:a{agent}@edge.example.com>;tag=f{marker}"),
                to: &format!("<{uri}>"),
                call_id: &format!("m{marker}.{}", agent),
                cseq: self.agents[agent].cseq,
                contact: wants_contact.then_some(contact.as_str()),
                routes,
                extra,
                hops: Some(70),
                body,
            },
            odd,
            &mut self.random,
        );
        let id = self.say_request(line, text, None);
        if method == "INVITE" {
            self.agents[agent].calling.push(Calling { id, rings: false, cancelled: false });
        }
        id
    }

    /// A request within a dialog of the agent.
    pub fn ask_within(&mut self, agent: usize, line: WireId, dialog: usize, method: &str) -> usize {
        let marker = self.oracle.next();
        let (via, contact) = (self.via(line), self.contact(line));
        let it = &mut self.agents[agent].dialogs[dialog];
        // An ACK has the number of its INVITE (RFC 3261 13.2.2.4).
        it.cseq += u32::from(method != "ACK");
        let mut it = it.clone();
        let odd = self.is_odd();
        if odd && self.one_in(3) {
            it.route_strictly();
        }
        let text = compose::request(
            &Draft {
                marker,
                method,
                uri: &it.target,
                via: &via,
                branch: None,
                from: &it.local,
                to: &it.remote,
                call_id: &it.call_id,
                cseq: it.cseq,
                contact: (method == "INVITE").then_some(contact.as_str()),
                routes: &it.routes,
                extra: &[],
                hops: Some(70),
                body: if method == "INVITE" { 200 } else { 0 },
            },
            odd,
            &mut self.random,
        );
        let id = self.say_request(line, text, Some(it.root));
        if method == "INVITE" {
            self.agents[agent].calling.push(Calling { id, rings: false, cancelled: false });
        }
        id
    }

    /// Takes one's own call back while it rings (RFC 3261 9.1).
    pub fn cancel(&mut self, agent: usize, id: usize) {
        let line = self.oracle.sents[id].line;
        let calling = self.agents[agent].calling.iter_mut().find(|it| it.id == id);
        let Some(calling) = calling.filter(|it| it.rings && !it.cancelled) else { return };
        calling.cancelled = true;
        if !self.speaks(line) {
            return;
        }
        let invite = Text::parse(&self.oracle.sents[id].text).expect("it was whole");
        let to = invite.first("to").unwrap_or_default();
        let marker = self.oracle.next();
        let text = compose::hop_by_hop(marker, "CANCEL", &invite, &to);
        self.say_request(line, text, Some(id));
    }

    /// An answer to a request of ours has come, from a peer or from the front-end.
    pub fn call_responded(
        &mut self,
        agent: usize,
        line: WireId,
        to: usize,
        status: u16,
        text: &Text,
    ) {
        let asked = self.oracle.sents[to].clone();
        let Some(request) = Text::parse(&asked.text) else { return };
        if request.method() != "INVITE" {
            return;
        }
        let calling = &mut self.agents[agent].calling;
        let place = calling.iter().position(|it| it.id == to);
        match status {
            ..200 => {
                if let Some(place) = place {
                    calling[place].rings = true;
                }
            }
            200..300 => {
                if let Some(place) = place {
                    calling.swap_remove(place);
                }
                self.talk(agent, to, &request, text);
            }
            _ => {
                if let Some(place) = place {
                    calling.swap_remove(place);
                }
                let marker = self.oracle.next();
                let to_value = text.first("to").unwrap_or_default();
                let ack = compose::hop_by_hop(marker, "ACK", &request, &to_value);
                if self.speaks(line) {
                    self.say_request(line, ack, Some(to));
                }
            }
        }
    }

    /// The callee has picked up: a dialog stands, or is confirmed anew; the ACK goes its way.
    fn talk(&mut self, agent: usize, to: usize, request: &Text, response: &Text) {
        let call_id = response.call_id();
        let known = self.agents[agent].dialogs.iter().position(|it| it.call_id == call_id);
        let dialog = match known {
            Some(dialog) => dialog,
            None => {
                let mut routes = response.values("record-route");
                routes.reverse();
                let Some(target) = compose::contact_uri(response) else { return };
                self.agents[agent].dialogs.push(Dialog {
                    root: self.oracle.sents[to].root,
                    call_id,
                    local: request.first("from").unwrap_or_default(),
                    remote: response.first("to").unwrap_or_default(),
                    target,
                    routes,
                    cseq: request.cseq().0,
                });
                self.agents[agent].dialogs.len() - 1
            }
        };
        let same = Some(self.oracle.sents[to].line).filter(|_| self.setting.options.scripted);
        if let Some(line) = same.or_else(|| self.line_of(agent)) {
            self.ask_within(agent, line, dialog, "ACK");
        }
    }

    // --- Being called ----------------------------------------------------------------------------

    /// A request has come to a user agent.
    pub fn called(&mut self, agent: usize, line: WireId, id: usize, text: &Text) {
        let soon = (0, 20_000_000);
        let answer = |status| Later::Answer { line, id, text: Box::new(text.clone()), status };
        match text.method() {
            "ACK" => {}
            "INVITE" if text.to_tag().is_none() => {
                let scripted = self.setting.options.scripted;
                if !scripted && self.one_in(3) {
                    self.put_off(agent, soon, answer(100));
                }
                self.put_off(agent, soon, answer(180));
                self.agents[agent].ringing.push(Ringing { id, line, text: text.clone() });
                let status = if !scripted && self.one_in(6) { 486 } else { 200 };
                self.put_off(agent, (30_000_000, 600_000_000), Later::PickUp { id, status });
            }
            "CANCEL" => {
                let ringing = &mut self.agents[agent].ringing;
                let place = ringing.iter().position(|it| it.text.branch() == text.branch());
                self.answer(agent, line, id, text, if place.is_some() { 200 } else { 481 });
                if let Some(place) = place {
                    let it = self.agents[agent].ringing.swap_remove(place);
                    self.answer(agent, it.line, it.id, &it.text, 487);
                }
            }
            "BYE" => {
                let call_id = text.call_id();
                self.agents[agent].dialogs.retain(|dialog| dialog.call_id != call_id);
                self.put_off(agent, soon, answer(200));
            }
            _ => self.put_off(agent, soon, answer(200)),
        }
    }

    /// Answers a request; a 2xx to an INVITE makes a dialog.
    pub fn answer(&mut self, agent: usize, line: WireId, id: usize, text: &Text, status: u16) {
        let Some(line) = self.answering_line(agent, line) else { return };
        let marker = self.oracle.next();
        let contact = self.contact(line);
        let tag = format!("t{agent}x{}", self.oracle.sents[id].root);
        let body = if self.one_in(3) { 150 } else { 0 };
        let response = compose::response(marker, text, status, &tag, Some(&contact), body);
        if text.method() == "INVITE" && text.to_tag().is_none() && (200..300).contains(&status) {
            let read = Text::parse(&response).expect("a whole response");
            self.agents[agent].dialogs.push(Dialog {
                root: self.oracle.sents[id].root,
                call_id: text.call_id(),
                local: read.first("to").unwrap_or_default(),
                remote: text.first("from").unwrap_or_default(),
                target: compose::contact_uri(text).unwrap_or_default(),
                routes: text.values("record-route"),
                cseq: 1000,
            });
        }
        // 100 is for the next hop alone (RFC 3261 16.7 step 5): it must reach nobody.
        self.say_response(line, response, id, status == 100);
        let repeats = !self.setting.options.scripted && !self.winding_down && self.one_in(30);
        if (200..300).contains(&status) && repeats {
            // A final response that is sent twice reaches the asker twice.
            let again = self.oracle.next();
            let response = compose::response(again, text, status, &tag, Some(&contact), body);
            self.say_response(line, response, id, false);
        }
    }

    /// One of the agent's dialogs, to go on with.
    pub fn some_dialog(&mut self, agent: usize) -> Option<usize> {
        let count = self.agents[agent].dialogs.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    /// Goes on within a dialog: another INVITE, some INFO, or its end.
    pub fn go_on(&mut self, agent: usize, line: WireId, dialog: usize) {
        match self.random.below(4) {
            0 => {
                self.ask_within(agent, line, dialog, "INVITE");
            }
            1 => {
                self.ask_within(agent, line, dialog, "INFO");
            }
            _ => {
                self.ask_within(agent, line, dialog, "BYE");
                self.agents[agent].dialogs.swap_remove(dialog);
            }
        }
    }
}
