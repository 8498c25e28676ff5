//! What those do who mean no good: answers for others, branches and tokens of other calls and other lives, forged ones,
//! bytes that are no SIP. They know everything that was ever said.
//! Owns nothing. Never breaks a cipher.

use super::cast::Cast;
use super::compose;
use super::faults::Fault;
use super::line::Holder;
use super::oracle::{Kind, Owner, Target};
use super::setting::{self, EDGE_TCP, EDGE_TLS};
use super::text::{Text, name_of};
use super::wire::WireId;

impl Cast {
    fn strikes(&mut self, fault: Fault) {
        self.net.borrow_mut().faults.count(fault);
    }

    /// A request that somebody was asked lately, as that one heard it. `of`: only those heard by this backend, or by
    /// any other.
    fn overheard(&mut self, mine: impl Fn(Option<usize>) -> bool) -> Option<usize> {
        let count = self.oracle.sents.len();
        (0..20).find_map(|_| {
            let id =
                count.checked_sub(1 + self.random.below(200.min(count.max(1) as u64)) as usize)?;
            let sent = &self.oracle.sents[id];
            let heard_at = sent.heard_at?;
            let request = matches!(&sent.kind, Kind::Request { method, .. } if method != "ACK");
            let by = self.lines[heard_at].holder.backend();
            (request && !sent.hostile && mine(by)).then_some(id)
        })
    }

    /// A client's ill deed.
    pub fn does_ill(&mut self, phone: usize, line: WireId) {
        match self.random.below(5) {
            0 => {
                // The answer to a request that a backend was asked.
                let Some(id) = self.overheard(|by| by.is_some()) else { return };
                self.strikes(Fault::AnswerForAnother);
                self.answer_ill(line, id, |_| {});
            }
            1 => {
                let Some(path) = self.path_of_another(phone, line) else { return };
                self.strikes(Fault::TokenStolen);
                self.ask(phone, line, "MESSAGE", "sip:u0@edge.example.com", &[path], &[]);
            }
            2 => {
                let Some(path) = self.path_of_another(usize::MAX, line) else { return };
                self.strikes(Fault::TokenForged);
                let forged = flip(&path, self.random.below(56) as usize);
                self.ask(phone, line, "MESSAGE", "sip:u0@edge.example.com", &[forged], &[]);
            }
            3 => {
                let Some(token) = self.token_of_a_call() else { return };
                self.strikes(Fault::TokenOfOtherCall);
                let route = format!("<sip:{token}@edge.example.com:5060;transport=tcp;lr>");
                self.ask(phone, line, "INVITE", "sip:u0@edge.example.com", &[route], &[]);
            }
            _ => self.is_raw(phone),
        }
    }

    /// A Path value with the token of a flow that is not this line.
    fn path_of_another(&mut self, phone: usize, line: WireId) -> Option<String> {
        let mut known: Vec<usize> =
            self.bindings.keys().copied().filter(|other| *other != phone).collect();
        known.sort_unstable();
        let other = *known.get(self.random.below(known.len().max(1) as u64) as usize)?;
        let path = self.bindings[&other].path.first()?.clone();
        let user = super::text::parts_of(super::text::uri_in(&path)).0?.to_owned();
        let foreign = self.oracle.tokens.get(&user) != Some(&Owner::Flow(line));
        foreign.then_some(path)
    }

    fn token_of_a_call(&mut self) -> Option<String> {
        let mut tokens: Vec<&String> = self
            .oracle
            .tokens
            .iter()
            .filter(|(_, owner)| matches!(owner, Owner::Route { .. }))
            .map(|(token, _)| token)
            .collect();
        tokens.sort_unstable();
        let count = tokens.len() as u64;
        (count > 0).then(|| tokens[self.random.below(count) as usize].clone())
    }

    /// A backend's ill deed.
    pub fn backend_does_ill(&mut self, backend: usize, line: WireId) {
        match self.random.below(9) {
            0 | 1 => {
                let Some(id) = self.overheard(|by| by.is_none_or(|by| by != backend)) else {
                    return;
                };
                self.strikes(Fault::AnswerForAnother);
                self.answer_ill(line, id, |_| {});
            }
            2 | 3 => {
                let Some(id) = self.overheard(|by| by == Some(backend)) else { return };
                let Some(other) = self.overheard(|by| by.is_some()) else { return };
                let other = Text::parse(&self.oracle.sents[other].text).map(|text| text.call_id());
                let own = Text::parse(&self.oracle.sents[id].text).map(|text| text.call_id());
                if other == own {
                    return;
                }
                self.strikes(Fault::BranchReplayed);
                let other = other.unwrap_or_default();
                self.answer_ill(line, id, |text| {
                    text.remove("call-id");
                    text.lines.push(format!("Call-ID: {other}\r\n"));
                });
            }
            4 | 5 => {
                let Some(id) = self.overheard(|by| by == Some(backend)) else { return };
                self.strikes(Fault::BranchReplayed);
                self.answer_ill(line, id, |text| {
                    let (number, method) = text.cseq();
                    text.remove("cseq");
                    text.lines.push(format!("CSeq: {} {method}\r\n", number + 1));
                });
            }
            6 | 7 => self.answers_old_life(backend, line),
            _ => self.answers_garbage(line),
        }
    }

    /// A response that cannot be cut out of the stream: the front-end must give the connection up.
    fn answers_garbage(&mut self, line: WireId) {
        self.strikes(Fault::Garbage);
        let id = self.oracle.next();
        let text = format!("SIP/2.0 200 OK\r\nX-Marker: m{id}.\r\nContent-Length: 1x\r\n\r\nx");
        let kind = Kind::Garbage { branch: compose::branch(id) };
        self.say(line, text, kind, None, true);
    }

    /// An answer, right in everything, to a request whose worker's life is over.
    fn answers_old_life(&mut self, backend: usize, line: WireId) {
        let net = self.net.borrow();
        let old = self.oracle.sents.iter().enumerate().rev().take(2000).find(|(_, sent)| {
            let asked = sent
                .heard_at
                .is_some_and(|heard_at| self.lines[heard_at].holder.backend() == Some(backend));
            asked && matches!(sent.kind, Kind::Request { .. }) && net.is_of_old_life(sent.line)
        });
        let Some((id, _)) = old else { return };
        drop(net);
        self.strikes(Fault::BranchOfOldLife);
        self.answer_ill(line, id, |_| {});
    }

    /// Says an answer to what somebody else was asked.
    pub fn answer_ill(&mut self, line: WireId, id: usize, change: impl FnOnce(&mut Text)) {
        let Some(heard) = self.oracle.sents[id].heard_text.clone() else { return };
        let Some(request) = Text::parse(&heard) else { return };
        let marker = self.oracle.next();
        let response = compose::response(marker, &request, 200, "ill", None, 0);
        let Some(mut text) = Text::parse(&response) else { return };
        change(&mut text);
        if text.lines.iter().any(|line| name_of(line) == "call-id") {
            self.say_response(line, text.to_string(), id, true);
        }
    }

    /// Remembers that a Path of a worker's earlier life is about to be used.
    pub fn note_old_life(&mut self, path: &[String]) {
        let token = path
            .first()
            .and_then(|path| super::text::parts_of(super::text::uri_in(path)).0.map(str::to_owned));
        let Some(Owner::Flow(flow)) = token.and_then(|it| self.oracle.tokens.get(&it)).cloned()
        else {
            return;
        };
        let mut net = self.net.borrow_mut();
        if net.is_of_old_life(flow) {
            net.faults.count(Fault::TokenOfOldLife);
        }
    }

    // --- Raw bytes -------------------------------------------------------------------------------

    /// A connection that speaks no SIP, or none that can be cut.
    pub fn is_raw(&mut self, index: usize) {
        let kinds = if self.setting.options.tls > 0 { 7 } else { 5 };
        let kind = self.random.below(kinds);
        let listener = if kind == 6 { EDGE_TLS } else { EDGE_TCP };
        self.phones[index].life += 1;
        let peer = setting::phone_address(index, 20_000 + self.phones[index].life, false);
        let line = self.dial(index, Holder::Hostile(index), peer, listener);
        let id = self.oracle.next();
        let head = format!(
            "MESSAGE sip:service@edge.example.com SIP/2.0\r\nVia: SIP/2.0/TCP {peer};branch=z9hG4bKm{id}.\r\n\
             Max-Forwards: 70\r\nFrom: <sip:x@y>;tag=1\r\nTo: <sip:z@y>\r\nCall-ID: m{id}.raw\r\n\
             CSeq: 1 MESSAGE\r\nX-Marker: m{id}.\r\n"
        );
        let text = match kind {
            0 => format!("{head}\r\n"),
            1 => format!("{head}Content-Length: -1\r\n\r\n"),
            2 => format!("{head}Content-Length: 4\r\nl: 5\r\n\r\nbody"),
            3 => format!("{head}Content-Length: 99999999\r\n\r\n"),
            4 => format!("{head}Subject: a bare\nline feed\r\nContent-Length: 0\r\n\r\n"),
            5 => "\u{16}\u{3}\u{1}\0\u{5}hello".to_owned(),
            _ => format!("{head}Content-Length: 0\r\n\r\n"),
        };
        self.strikes(if kind == 6 { Fault::PlainOnTls } else { Fault::Garbage });
        let branch = compose::branch(id);
        let kind = Kind::Garbage { branch };
        let now = self.now();
        self.ladder.push(now, super::ladder::Rung::Said { id });
        self.oracle.said(&mut self.lines[line], text.clone(), kind, None, now, true);
        let it = &mut self.lines[line];
        it.say_raw(&mut self.net.borrow_mut(), &mut self.pool, text.as_bytes());
    }

    /// A handshake that is begun and left.
    pub fn leaves_handshake(&mut self, index: usize) {
        self.phones[index].life += 1;
        let peer = setting::phone_address(index, 20_000 + self.phones[index].life, false);
        let line = self.dial(index, Holder::Hostile(index), peer, EDGE_TLS);
        self.strikes(Fault::HandshakeStalled);
        let part: &[u8] =
            [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00"][self.random.below(2) as usize];
        let it = &mut self.lines[line];
        it.say_raw(&mut self.net.borrow_mut(), &mut self.pool, part);
    }

    /// Whether a request can go nowhere but to a refusal.
    pub fn is_refusal(&self, id: usize) -> bool {
        matches!(&self.oracle.sents[id].kind, Kind::Request { target: Target::Nobody(_), .. })
    }
}

/// The text with another character in its token.
pub fn flip(path: &str, at: usize) -> String {
    let start = path.find(":f").map_or(0, |at| at + 2);
    let mut bytes = path.as_bytes().to_vec();
    if let Some(byte) = bytes.get_mut(start + at) {
        *byte = if *byte == b'a' { b'b' } else { b'a' };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| path.to_owned())
}
