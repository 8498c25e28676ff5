//! The judges: every message that anybody says or hears passes here, and so does the balance at the end.
//! Owns what was said, who may hear it, and what each signed word was made for. Never shares code with `proxy/`.
//! Invariant: each judge counts what it has compared; one that never did is worth nothing.

use std::collections::HashMap;

use super::failover;
use super::line::{Holder, Line};
use super::reference::{self, Facts, Words};
use super::text::{Text, parts_of, uri_in};
use super::wire::{Net, WireId};
use crate::base::time::{Duration, Instant};

/// What is judged. Closed: each must have compared something in a hundred seeds, or the run fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    /// Everything received is forwarded, answered, refused or lost with a name.
    Ledger,
    /// A forwarded message is what the naive reference makes of it.
    Reference,
    /// An answer of our own is what the naive reference makes of it, with a status that is due.
    Answer,
    /// Messages of one connection come to another in the order they were sent.
    Order,
    /// A response comes to the connection that asked, from the one that was asked, once.
    Asker,
    /// A request goes where its signed words or its call say.
    Target,
    /// Nothing of a call is heard where it has no business.
    Leak,
    /// The same call goes to the same backend.
    Affinity,
    /// No plaintext leaves on a TLS line.
    Ciphertext,
    /// What was said with ill intent reaches nobody.
    Forgery,
    /// In the end every transaction is settled.
    Settled,
    /// In the end everything is at home.
    Home,
    /// After warm-up no buffer is allocated any more.
    Allocation,
    /// Late completions are counted, and do nothing.
    Stale,
    /// A worker with nothing to do sleeps.
    Rest,
    /// A ping has one answer.
    Pong,
    /// What is kept of a transaction is used as the rules say, and every call ends.
    Failover,
}

impl Judge {
    pub const ALL: [Judge; 17] = [
        Judge::Ledger,
        Judge::Reference,
        Judge::Answer,
        Judge::Order,
        Judge::Asker,
        Judge::Target,
        Judge::Leak,
        Judge::Affinity,
        Judge::Ciphertext,
        Judge::Forgery,
        Judge::Settled,
        Judge::Home,
        Judge::Allocation,
        Judge::Stale,
        Judge::Rest,
        Judge::Pong,
        Judge::Failover,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Judge::Ledger => "ledger",
            Judge::Reference => "reference",
            Judge::Answer => "answer",
            Judge::Order => "order",
            Judge::Asker => "asker",
            Judge::Target => "target",
            Judge::Leak => "leak",
            Judge::Affinity => "affinity",
            Judge::Ciphertext => "ciphertext",
            Judge::Forgery => "forgery",
            Judge::Settled => "settled",
            Judge::Home => "home",
            Judge::Allocation => "allocation",
            Judge::Stale => "stale",
            Judge::Rest => "rest",
            Judge::Pong => "pong",
            Judge::Failover => "failover",
        }
    }
}

/// Until every worker has learnt what became of its links.
const TROUBLE_NANOS: u64 = 300_000_000;

/// Who a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any backend of the pool.
    Pool,
    Backend(usize),
    Line(WireId),
    /// The front-end itself.
    Local,
    /// Nobody; the answer is one of these.
    Nobody(&'static [u16]),
}

/// What a signed word was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Flow(WireId),
    Route { flow: WireId, backend: Option<usize>, call_id: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Request {
        method: String,
        branch: String,
        target: Target,
    },
    /// To the request of this number.
    Response {
        to: usize,
        status: u16,
    },
    /// No message: what it is answered with, if it is.
    Garbage {
        branch: String,
    },
}

/// One message that somebody has said.
#[derive(Clone, Debug)]
pub struct Sent {
    pub line: WireId,
    pub text: String,
    pub at: Instant,
    /// Its place among the messages of its line.
    pub place: u64,
    pub kind: Kind,
    /// The first message of its call, or of what it passes on.
    pub root: usize,
    /// It must be heard by nobody.
    pub hostile: bool,
    /// Where it was heard, and how often.
    pub heard_at: Option<WireId>,
    pub heard: u32,
    /// Who heard it, and which attempt of the front-end's that was.
    pub hearers: Vec<(WireId, u8)>,
    pub heard_when: Instant,
    /// Final answers that its sender has heard: status, and whether a peer said it.
    pub answers: Vec<(u16, bool)>,
    /// As it was heard, with the front-end's signed words in it.
    pub heard_text: Option<String>,
}

/// A message that comes in pieces has this long before its rate is judged.
const MESSAGE_MOMENT: Duration = Duration::from_secs(2);

/// What a message that was heard turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Message of this number.
    Peer(usize),
    /// An answer of the front-end to this request.
    Own(usize),
    Unknown,
}

pub struct Oracle {
    pub facts: Facts,
    pub sents: Vec<Sent>,
    pub tokens: HashMap<String, Owner>,
    /// Requests by branch and method.
    requests: HashMap<(String, String), usize>,
    families: HashMap<usize, Vec<usize>>,
    calls: HashMap<String, (usize, u64, usize)>,
    orders: HashMap<(WireId, WireId), u64>,
    /// Moves on with everything that may send a call elsewhere, and when it last did.
    trouble: u64,
    troubled_at: Instant,
    /// Requests that were answered 430 while their flow, the second, was still open.
    pub doubtful: Vec<(usize, WireId)>,
    /// Nothing is excused.
    pub strict: bool,
    /// The pool keeps the state of its transactions.
    pub failover: bool,
    /// By source address instead of Call-ID.
    pub affinity_by_source: bool,
    compared: [u64; Judge::ALL.len()],
    /// Requests that have had a final answer.
    pub answered: u32,
    pub violations: Vec<String>,
}

impl Oracle {
    pub fn new(facts: Facts, strict: bool) -> Oracle {
        Oracle {
            facts,
            sents: Vec::new(),
            tokens: HashMap::new(),
            requests: HashMap::new(),
            families: HashMap::new(),
            calls: HashMap::new(),
            orders: HashMap::new(),
            trouble: 0,
            troubled_at: Instant(0),
            doubtful: Vec::new(),
            strict,
            failover: false,
            affinity_by_source: false,
            compared: [0; Judge::ALL.len()],
            answered: 0,
            violations: Vec::new(),
        }
    }

    pub fn compared(&self, judge: Judge) -> u64 {
        self.compared[judge as usize]
    }

    pub fn count(&mut self, judge: Judge) {
        self.compared[judge as usize] += 1;
    }

    /// One comparison: a violation unless `good`.
    pub fn judge(&mut self, judge: Judge, good: bool, text: impl FnOnce() -> String) {
        self.count(judge);
        if !good {
            self.violations.push(format!("{}: {}", judge.name(), text()));
        }
    }

    /// Something happened after which a call may go elsewhere.
    pub fn trouble(&mut self, now: Instant) {
        self.trouble += 1;
        self.troubled_at = now;
    }

    // --- Said ------------------------------------------------------------------------------------

    /// The number of the next message.
    pub fn next(&self) -> usize {
        self.sents.len()
    }

    /// Somebody says a message. `root`: an earlier message of the same call.
    pub fn said(
        &mut self,
        line: &mut Line,
        text: String,
        kind: Kind,
        root: Option<usize>,
        at: Instant,
        hostile: bool,
    ) {
        let id = self.next();
        let root = root.map_or(id, |root| self.sents[root].root);
        let family = self.families.entry(root).or_default();
        if !hostile || root == id {
            family.push(id);
        }
        match &kind {
            Kind::Request { method, branch, .. } => {
                self.requests.insert((branch.clone(), method.clone()), id);
            }
            Kind::Garbage { branch } => {
                self.requests.insert((branch.clone(), String::new()), id);
            }
            Kind::Response { .. } => {}
        }
        let place = line.said;
        line.said += 1;
        self.sents.push(Sent {
            line: line.wire,
            text,
            at,
            place,
            kind,
            root,
            hostile,
            heard_at: None,
            heard: 0,
            hearers: Vec::new(),
            heard_when: Instant::FAR,
            answers: Vec::new(),
            heard_text: None,
        });
    }

    pub fn is_request(&self, sent: &Sent) -> bool {
        matches!(&sent.kind, Kind::Request { method, .. } if method != "ACK")
    }

    /// Where a request must go, read off its text.
    pub fn target(&self, text: &Text, line: &Line) -> Target {
        let strict = reference::unstrict(&self.facts, text);
        let text = strict.as_ref().map_or(text, |(_, plain)| plain);
        let mut routes = text.values("route");
        if let Some((own, _)) = &strict {
            routes.insert(0, format!("<{own}>"));
        }
        let (count, tokens) = self.facts.own_routes(&routes);
        let hops = text.first("max-forwards");
        if hops.as_deref() == Some("0") && text.method() != "OPTIONS" {
            return Target::Nobody(&[483]);
        }
        if text.first("proxy-require").is_some() {
            return Target::Nobody(&[420]);
        }
        if text.uri().starts_with("mailto:") {
            return Target::Nobody(&[416]);
        }
        let owners: Option<Vec<Owner>> =
            tokens.iter().map(|token| self.tokens.get(token).cloned()).collect();
        let Some(owners) = owners else { return Target::Nobody(&[403]) };
        let other_call = owners.iter().any(
            |owner| matches!(owner, Owner::Route { call_id, .. } if *call_id != text.call_id()),
        );
        if other_call {
            return Target::Nobody(&[403]);
        }
        let trusted = self.facts.trusted[usize::from(line.place.zone)];
        let by_token = match &owners[..] {
            [Owner::Flow(flow)] if *flow == line.wire => None,
            [Owner::Flow(_)] if !trusted => Some(Target::Nobody(&[403])),
            [Owner::Flow(flow)] => Some(Target::Line(*flow)),
            [Owner::Route { backend: None, .. }] | [] => None,
            [Owner::Route { flow, backend: Some(backend), .. }] => {
                Some(match line.holder.backend() {
                    Some(_) => Target::Line(*flow),
                    None => Target::Backend(*backend),
                })
            }
            [_, Owner::Route { flow, .. }, ..] => Some(Target::Line(*flow)),
            [_, _, ..] => Some(Target::Nobody(&[403])),
        };
        let by_token = by_token.unwrap_or_else(|| self.by_configuration(text, routes.get(count)));
        if hops.as_deref() == Some("0") { Target::Local } else { by_token }
    }

    fn by_configuration(&self, text: &Text, next: Option<&String>) -> Target {
        let first = next.map_or(text.uri(), |next| uri_in(next)).to_ascii_lowercase();
        if first.contains(";transport=udp") {
            return Target::Nobody(&[480]);
        }
        if text.uri().starts_with("sips:") && !self.facts.core_tls {
            return Target::Nobody(&[480]);
        }
        if let Some(next) = next {
            let (_, host, port) = parts_of(uri_in(next));
            let named = (0..super::setting::BACKENDS).find(|index| {
                let address = super::setting::backend_address(*index);
                host == address.ip().to_string() && port == Some(address.port())
            });
            if let Some(backend) = named {
                return Target::Backend(backend);
            }
        }
        let (user, ..) = parts_of(text.uri());
        let ours = self.facts.is_own(text.uri());
        if text.method() == "OPTIONS" && next.is_none() && user.is_none() && ours {
            return Target::Local;
        }
        Target::Pool
    }

    // --- Heard -----------------------------------------------------------------------------------

    /// Somebody hears a whole message.
    pub fn heard(&mut self, net: &Net, lines: &[Line], line: WireId, message: &str) -> Receipt {
        let Some(text) = Text::parse(message) else {
            self.judge(Judge::Reference, false, || format!("no message at all: {message:?}"));
            return Receipt::Unknown;
        };
        self.check_leak(lines, line, message);
        let Some(id) = text.marker() else {
            return self.heard_own(net, lines, line, &text, message);
        };
        if id >= self.sents.len() {
            self.judge(Judge::Reference, false, || format!("a marker that nobody said: {message}"));
            return Receipt::Unknown;
        }
        let from = lines[self.sents[id].line].place;
        let original = Text::parse(&self.sents[id].text).unwrap_or_else(|| text.clone());
        let expected = match &self.sents[id].kind {
            Kind::Request { .. } => {
                reference::request(&self.facts, &original, &from, &lines[line].place)
            }
            _ => reference::response(&original),
        };
        let words = reference::compare(&expected, message);
        let fault = words.as_ref().err().cloned();
        self.judge(Judge::Reference, fault.is_none(), || {
            format!("message m{id}: {}", fault.unwrap_or_default())
        });
        // What is sent elsewhere comes later than what was said after it.
        let kept = self.is_kept(&self.sents[id]);
        let again = self.sents[id].heard > 0;
        if !kept || (self.strict && !again) {
            self.check_order(id, line);
        }
        match self.sents[id].kind.clone() {
            Kind::Request { target, .. } => {
                self.check_target(net, lines, id, line, &target);
                self.learn(lines, id, line, &original, &words.unwrap_or_default());
            }
            Kind::Response { to, status } => self.check_asker(lines, id, line, to, status),
            Kind::Garbage { .. } => {}
        }
        let attempt = if kept { failover::attempt(&text.branch()) } else { 0 };
        if again && kept {
            self.check_repeated(lines, id, line, attempt);
        } else {
            self.judge(Judge::Asker, !again, || format!("message m{id} was heard twice"));
        }
        let sent = &mut self.sents[id];
        sent.hearers.push((line, attempt));
        sent.heard += 1;
        sent.heard_at = Some(line);
        sent.heard_when = net.now();
        sent.heard_text = Some(message.to_owned());
        Receipt::Peer(id)
    }

    fn check_order(&mut self, id: usize, line: WireId) {
        let sent = &self.sents[id];
        let (key, place) = ((sent.line, line), sent.place);
        let before = self.orders.insert(key, place);
        if let Some(before) = before {
            self.judge(Judge::Order, before < place, || {
                format!("message m{id} ({place} of line {}) came after {before}", key.0)
            });
        }
    }

    fn check_target(
        &mut self,
        net: &Net,
        lines: &[Line],
        id: usize,
        line: WireId,
        target: &Target,
    ) {
        let holder = lines[line].holder;
        let good = match target {
            Target::Pool => matches!(holder, Holder::Link(_)),
            Target::Backend(backend) => holder == Holder::Link(*backend),
            Target::Line(flow) => *flow == line,
            Target::Local | Target::Nobody(_) => false,
        };
        self.judge(Judge::Target, good, || {
            format!("request m{id} for {target:?} came to line {line}, {holder:?}")
        });
        let moves = self.failover && (!self.strict || self.sents[id].heard > 0);
        if *target == Target::Pool && good && !moves {
            self.check_affinity(net, lines, id, line);
        }
    }

    fn check_affinity(&mut self, net: &Net, lines: &[Line], id: usize, line: WireId) {
        let troubled_at = self.troubled_at.max(net.let_go.1);
        let Some(backend) = lines[line].holder.backend() else { return };
        let Some(text) = Text::parse(&self.sents[id].text) else { return };
        let invite = self.requests.get(&(text.branch(), "INVITE".to_owned())).copied();
        if let Some(invite) = invite.filter(|invite| *invite != id) {
            // A CANCEL and the ACK of a failure go where their INVITE went, when it went anywhere.
            let went = self.sents[invite].heard_at.and_then(|it| lines[it].holder.backend());
            if let Some(went) = went
                && troubled_at < self.sents[invite].at
            {
                self.judge(Judge::Affinity, went == backend, || {
                    format!("request m{id} went to backend {backend}, its INVITE to {went}")
                });
            }
            return;
        }
        let key = match self.affinity_by_source {
            true => lines[self.sents[id].line].place.peer.ip().to_string(),
            false => text.call_id(),
        };
        // The workers learn of it a little later.
        if self.sents[id].at.nanos_since(troubled_at) < TROUBLE_NANOS {
            return;
        }
        let trouble = self.trouble + net.let_go.0;
        let before = self.calls.insert(key, (backend, trouble, id));
        if let Some((before, then, other)) = before
            && then == trouble
        {
            self.judge(Judge::Affinity, before == backend, || {
                format!("request m{id} went to backend {backend}, m{other} of its call to {before}")
            });
        }
    }

    /// The signed words in what was forwarded: what each was made for.
    fn learn(&mut self, lines: &[Line], id: usize, line: WireId, text: &Text, words: &Words) {
        let from = self.sents[id].line;
        if let Some(token) = &words.flow {
            self.tokens.insert(token.clone(), Owner::Flow(from));
        }
        let (here, there) = (lines[from].holder.backend(), lines[line].holder.backend());
        let (flow, backend) = match (here, there) {
            (None, Some(backend)) => (from, Some(backend)),
            (Some(backend), None) => (line, Some(backend)),
            _ => (from, None),
        };
        for token in &words.routes {
            let same = *token == words.routes[0];
            self.judge(Judge::Reference, same, || format!("m{id} carries two route tokens"));
            let owner = Owner::Route { flow, backend, call_id: text.call_id() };
            self.tokens.insert(token.clone(), owner);
        }
    }

    fn check_asker(&mut self, lines: &[Line], id: usize, line: WireId, to: usize, status: u16) {
        let from = self.sents[id].line;
        let asker = self.sents[to].line;
        let by_asked = self.sents[to].hearers.iter().any(|(asked, _)| {
            *asked == from
                || lines[*asked].holder.backend().is_some()
                    && lines[*asked].holder.backend() == lines[from].holder.backend()
        });
        self.judge(Judge::Asker, asker == line && by_asked, || {
            format!("response m{id} to m{to} of line {asker} came to line {line} from line {from}")
        });
        if status >= 200 && asker == line {
            self.answer_heard(to, status, true);
        }
    }

    /// An answer that carries nobody's marker is our own.
    fn heard_own(
        &mut self,
        net: &Net,
        lines: &[Line],
        line: WireId,
        text: &Text,
        message: &str,
    ) -> Receipt {
        let (branch, method) = (text.branch(), text.cseq().1);
        let found = self
            .requests
            .get(&(branch.clone(), method))
            .or_else(|| self.requests.get(&(branch, String::new())))
            .copied();
        let Some(id) = found.filter(|_| !text.is_request()) else {
            self.judge(Judge::Answer, false, || format!("line {line} never asked: {message}"));
            return Receipt::Unknown;
        };
        let status = text.status();
        let asker = self.sents[id].line;
        self.judge(Judge::Asker, asker == line, || {
            format!("our {status} to m{id} of line {asker} came to line {line}")
        });
        let due = self.is_due(net, lines, id, status);
        self.judge(Judge::Answer, due, || format!("{status} to m{id} was not due: {message}"));
        if let Kind::Request { .. } = self.sents[id].kind
            && let Some(original) = Text::parse(&self.sents[id].text)
        {
            let reason = text.start.splitn(3, ' ').nth(2).unwrap_or_default();
            let place = lines[asker].place;
            let expected = reference::answer(&original, &place, status, reason);
            let fault = reference::compare(&expected, message).err();
            self.judge(Judge::Answer, fault.is_none(), || {
                format!("{status} to m{id}: {}", fault.unwrap_or_default())
            });
        }
        if status >= 200 {
            self.answer_heard(id, status, false);
        }
        Receipt::Own(id)
    }

    fn answer_heard(&mut self, id: usize, status: u16, by_peer: bool) {
        self.check_final(id, status, by_peer);
        let answers = &mut self.sents[id].answers;
        self.answered += u32::from(answers.is_empty());
        answers.push((status, by_peer));
    }

    /// Whether the front-end had a reason to answer this request itself with this status.
    fn is_due(&mut self, net: &Net, lines: &[Line], id: usize, status: u16) -> bool {
        // A body that comes too slowly is given up with a word.
        let slow = net.now().since(self.sents[id].at) >= MESSAGE_MOMENT && !self.strict;
        match &self.sents[id].kind {
            Kind::Request { .. } if status == 400 && slow => true,
            Kind::Request { .. } if self.is_due_by_state(net.now(), id, status) => true,
            Kind::Garbage { .. } => matches!(status, 400 | 413 | 501 | 505),
            Kind::Response { .. } => false,
            Kind::Request { target: Target::Nobody(statuses), .. } => {
                statuses.contains(&status) || (status == 503 && !self.strict)
            }
            Kind::Request { target: Target::Local, .. } => {
                status == 200 || (status == 503 && !self.strict)
            }
            Kind::Request { target: Target::Line(flow), .. } => {
                let wire = &net.wires[*flow];
                let gone = !wire.peer_open || !wire.proxy_open || wire.reset;
                let line = &lines[*flow];
                let ending = wire.to_peer.is_ending() || line.ended_at.is_some();
                match status {
                    // The front-end may have given it up before the network can see it: judged at the end.
                    430 if !gone && !ending => {
                        self.doubtful.push((id, *flow));
                        true
                    }
                    430 => true,
                    503 => !self.strict,
                    _ => false,
                }
            }
            Kind::Request { .. } => matches!(status, 503 | 480) && !self.strict,
        }
    }

    // --- Leaks -----------------------------------------------------------------------------------

    /// Every marker anywhere in what is heard belongs to a call that this line takes part in.
    fn check_leak(&mut self, lines: &[Line], line: WireId, message: &str) {
        let mut seen = Vec::new();
        for (at, _) in message.match_indices('m') {
            let digits: String =
                message[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            let ends = message[at + 1 + digits.len()..].starts_with('.');
            let Ok(id) = digits.parse::<usize>() else { continue };
            if !ends || id >= self.sents.len() || seen.contains(&id) {
                continue;
            }
            seen.push(id);
            let party = self.is_party(lines, id, line);
            self.judge(Judge::Leak, party, || {
                format!("line {line} ({:?}) heard of m{id}: {message}", lines[line].holder)
            });
        }
    }

    fn is_party(&self, lines: &[Line], id: usize, line: WireId) -> bool {
        let holder = lines[line].holder;
        let same = |other: WireId| {
            let backend = holder.backend();
            other == line || (backend.is_some() && lines[other].holder.backend() == backend)
        };
        let by_call = self.families[&self.sents[id].root].iter().any(|member| {
            let sent = &self.sents[*member];
            same(sent.line)
                || match &sent.kind {
                    Kind::Request { target: Target::Pool, .. } => holder.backend().is_some(),
                    Kind::Request { target: Target::Backend(backend), .. } => {
                        holder.backend() == Some(*backend)
                    }
                    Kind::Request { target: Target::Line(flow), .. } => *flow == line,
                    Kind::Request { .. } | Kind::Garbage { .. } => false,
                    Kind::Response { to, .. } => same(self.sents[*to].line),
                }
        });
        // Those who mean no good have heard of everything: what they said themselves comes back to them.
        let marker = format!("m{id}.");
        let knew = |sent: &Sent| sent.line == line && sent.text.contains(&marker);
        by_call || self.sents.iter().rev().any(knew)
    }
}
