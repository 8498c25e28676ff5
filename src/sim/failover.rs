//! What is judged of pools with failover: what may be said twice, what the front-end says of its own, and that every
//! request ends. Owns nothing. Never shares code with `proxy/`.

use super::backend::Backend;
use super::cast::Cast;
use super::line::{Holder, Line};
use super::oracle::{Judge, Kind, Oracle, Sent, Target};
use super::text::{Text, name_of};
use super::wire::WireId;
use crate::base::time::{Duration, Instant};

/// 64*T1 (RFC 3261 17): nobody is told 408 before.
const TIMER_B: Duration = Duration::from_secs(32);

/// What may be sent to a second backend after a first one has had it.
const REPEATABLE: [&str; 5] = ["INVITE", "REGISTER", "OPTIONS", "SUBSCRIBE", "PUBLISH"];

/// Which attempt of a request this is: the one number in our branch that is read here, by its place in base32.
pub fn attempt(branch: &str) -> u8 {
    let digit = |at: usize| match branch.as_bytes().get(7 + at) {
        Some(letter @ b'a'..=b'z') => letter - b'a',
        Some(number @ b'2'..=b'7') => number - b'2' + 26,
        _ => 0,
    };
    // The fifteenth byte: the last three bits of the twenty-third digit, and the next one.
    (digit(22) & 0b111) << 5 | digit(23)
}

impl Oracle {
    /// Whether the front-end keeps the state of this request.
    pub fn is_kept(&self, sent: &Sent) -> bool {
        match &sent.kind {
            Kind::Request { method, target: Target::Pool | Target::Backend(_), .. } => {
                self.failover && !matches!(method.as_str(), "ACK" | "CANCEL")
            }
            _ => false,
        }
    }

    /// A request is heard once more: by another backend, if it may be said twice at all, and if nobody who was asked
    /// before has rung.
    pub fn check_repeated(&mut self, lines: &[Line], id: usize, line: WireId, attempt: u8) {
        let sent = &self.sents[id];
        let Kind::Request { method, .. } = &sent.kind else { return };
        let repeatable = REPEATABLE.contains(&method.as_str());
        let in_dialog = Text::parse(&sent.text).is_some_and(|text| text.to_tag().is_some());
        let backend_of = |line: WireId| lines[line].holder.backend();
        let backend = backend_of(line);
        let mut hearers = sent.hearers.iter();
        let others = hearers.all(|(it, other)| backend_of(*it) != backend && *other != attempt);
        // An earlier attempt may be heard later than the one that followed it.
        let before = |line: WireId| {
            let mut hearers = sent.hearers.iter();
            hearers.any(|(it, other)| *other < attempt && backend_of(*it) == backend_of(line))
        };
        let rang = method == "INVITE"
            && self.sents.iter().any(|it| {
                let to_it = |to: usize| to == id && it.heard > 0 && before(it.line);
                matches!(it.kind, Kind::Response { to, status: 101..200 } if to_it(to))
            });
        let hearers = sent.hearers.clone();
        let good = repeatable && !in_dialog && others && !rang && hearers.len() < 4;
        self.judge(Judge::Failover, good, || {
            format!(
                "m{id} was sent once more, to line {line} after {hearers:?}: repeatable {repeatable}, in a dialog {in_dialog}, to others {others}, rang {rang}"
            )
        });
    }

    /// Whether an answer of the front-end's own is due because it keeps the state of this request.
    pub fn is_due_by_state(&self, now: Instant, id: usize, status: u16) -> bool {
        let sent = &self.sents[id];
        let Kind::Request { method, branch, target: Target::Pool | Target::Backend(_) } =
            &sent.kind
        else {
            return false;
        };
        let invite = method == "INVITE";
        let refused = |it: &Sent| matches!(it.kind, Kind::Response { to, status: 503 } if to == id);
        self.failover
            && match status {
                100 => invite || now.since(sent.at) >= Duration::from_secs(3),
                200 => method == "CANCEL",
                408 => invite && now.since(sent.at) >= TIMER_B,
                487 => invite && self.was_cancelled(branch),
                500 => self.sents.iter().any(refused),
                _ => false,
            }
    }

    fn was_cancelled(&self, branch: &str) -> bool {
        self.sents.iter().any(|it| {
            matches!(&it.kind, Kind::Request { method, branch: other, .. } if method == "CANCEL" && other == branch)
        })
    }

    /// A final response has come to a request whose state is kept: the only one, but for more 2xx to an INVITE
    /// (RFC 6026 8.4), which may follow our own word, too.
    pub fn check_final(&mut self, id: usize, status: u16, by_peer: bool) {
        if !self.is_kept(&self.sents[id]) {
            return;
        }
        let Kind::Request { method, .. } = &self.sents[id].kind else { return };
        let another = method == "INVITE" && by_peer && (200..300).contains(&status);
        let before = self.sents[id].answers.clone();
        self.judge(Judge::Failover, before.is_empty() || another, || {
            format!("{status} to m{id}, which has been answered {before:?}")
        });
    }
}

impl Cast {
    /// An ACK or a CANCEL of the front-end's own: as its INVITE was heard here, and in its time.
    pub fn hop_heard(&mut self, backend: usize, line: WireId, text: &Text) {
        let branch = text.branch();
        let heard = self.backends[backend].invites.iter().rev().find(|it| it.1.branch() == branch);
        let Some((id, invite)) = heard.cloned() else {
            return self.oracle.judge(Judge::Failover, false, || {
                format!("{} of an INVITE that backend {backend} never heard: {text}", text.method())
            });
        };
        let same = |name: &str| text.first(name) == invite.first(name);
        let cancel = text.method() == "CANCEL";
        let whole = text.uri() == invite.uri()
            && text.values("via")[..] == invite.values("via")[..1]
            && text.values("route") == invite.values("route")
            && same("from")
            && same("call-id")
            && (same("to") || !cancel)
            && text.cseq() == (invite.cseq().0, text.method().to_owned())
            && text.body.is_empty();
        self.oracle.judge(Judge::Failover, whole, || format!("{text} is not of {invite}"));
        let own = |it: &Sent| self.lines[it.line].holder.backend() == Some(backend);
        let said = |statuses: std::ops::Range<u16>| {
            self.oracle.sents.iter().any(|it| {
                matches!(it.kind, Kind::Response { to, status } if to == id && statuses.contains(&status))
                    && own(it)
            })
        };
        let due = if cancel { said(100..200) } else { said(300..700) };
        self.oracle.judge(Judge::Failover, due, || {
            format!(
                "{} to backend {backend}, which has said nothing to m{id} that it is due to",
                text.method()
            )
        });
        match cancel {
            true => self.hop_cancelled(backend, line, text),
            false => self.backends[backend].acknowledged.push(branch),
        }
    }

    /// A failure that went back to the caller was acknowledged to the backend (RFC 3261 17.1.1.3).
    fn check_acknowledged(&mut self) {
        let failures = self.oracle.sents.iter().filter_map(|it| match it.kind {
            Kind::Response { to, status: 300.. } if it.heard > 0 => Some((to, it.line)),
            _ => None,
        });
        let failures: Vec<(usize, WireId)> = failures.collect();
        for (to, line) in failures {
            let Some(backend) = self.lines[line].holder.backend() else { continue };
            let invites = self.backends[backend].invites.iter();
            let branches: Vec<String> =
                invites.filter(|it| it.0 == to).map(|it| it.1.branch()).collect();
            let asked = &self.oracle.sents[to];
            let stands = asked.hearers.iter().all(|(it, _)| self.stands(*it));
            if branches.is_empty() || !stands || !self.oracle.is_kept(asked) {
                continue;
            }
            let acknowledged = &self.backends[backend].acknowledged;
            let good = branches.iter().any(|branch| acknowledged.contains(branch));
            self.oracle.judge(Judge::Failover, good, || {
                format!("backend {backend} heard no ACK of its failure of m{to}")
            });
        }
    }

    /// Whether a line has stood from the beginning to now.
    fn stands(&self, line: WireId) -> bool {
        let wire = &self.net.borrow().wires[line];
        let line = &self.lines[line];
        line.open && line.ended_at.is_none() && wire.over_at.is_none() && wire.worker.is_some()
    }

    fn hop_cancelled(&mut self, backend: usize, line: WireId, text: &Text) {
        let lines = text.lines.iter().filter(|line| {
            matches!(name_of(line).as_str(), "via" | "from" | "to" | "call-id" | "cseq")
        });
        let lines: String = lines.map(String::as_str).collect();
        let answer = format!("SIP/2.0 200 Whatever\r\n{lines}Content-Length: 0\r\n\r\n");
        if self.speaks(line) {
            self.lines[line].say(&mut self.net.borrow_mut(), &mut self.pool, answer.as_bytes());
        }
        let branch = text.branch();
        if let Some(place) = self.relayed(backend, &branch) {
            return self.relay_cancel(backend, place);
        }
        let agent = self.agent_of(backend);
        let ringing = &mut self.agents[agent].ringing;
        if let Some(place) = ringing.iter().position(|it| it.text.branch() == branch) {
            let it = ringing.swap_remove(place);
            self.answer(agent, it.line, it.id, &it.text, 487);
        }
    }

    /// A backend that is going down refuses what is new. True: it did.
    pub fn refuses(&mut self, backend: usize, line: WireId, id: usize, text: &Text) -> bool {
        let Backend { sulks, .. } = self.backends[backend];
        let new = text.to_tag().is_none() && !matches!(text.method(), "ACK" | "CANCEL");
        if !self.oracle.failover || !sulks || !new || self.one_in(3) {
            return false;
        }
        let agent = self.agent_of(backend);
        self.answer(agent, line, id, text, 503);
        true
    }

    /// After the longest timer: every call of a phone whose connection still stands has ended.
    pub fn check_ended(&mut self) {
        if !self.oracle.failover {
            return;
        }
        self.check_acknowledged();
        for id in 0..self.oracle.sents.len() {
            let sent = &self.oracle.sents[id];
            let invite = matches!(&sent.kind, Kind::Request { method, .. } if method == "INVITE");
            let phone = matches!(self.lines[sent.line].holder, Holder::Phone(_));
            if !invite || !phone || sent.hostile || !self.oracle.is_kept(sent) {
                continue;
            }
            if self.stands(sent.line) {
                let answered = !sent.answers.is_empty();
                self.oracle.judge(Judge::Failover, answered, || {
                    format!("INVITE m{id} was never answered, though its connection stands")
                });
            }
        }
    }
}
