//! Scripted phones on the same loop: each registers, calls, is called, holds and hangs up as its script says, one step
//! after the other, and writes down what it saw. For runs from end to end, where the servers between are the thing
//! under test; what a phone sends is what RFC 3261, 3327 and 5626 ask of one.
//! Owns the phones, their dialogs and their ladders. Never authenticates: a challenge is a failure of the step.
//! Invariant: a phone waits for one thing at a time, and for no longer than 64*T1.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::sdp;
use super::stream::{Received, Streams, Unit};
use crate::base::machine::{Arrival, ConnId, Input, Machine, Output};
use crate::base::random::Random;
use crate::base::time::{DeadlineQueue, Duration, Instant};
use crate::sip::{FrameLimits, FrameState, Framed, Message, Method, Name, NameAddr, Start};
use crate::sip::{frame, reply};
use crate::tls::{ClientSide, Session};

/// Longest wait of a step: 64*T1 (RFC 3261 17.1.1.2).
const PATIENCE: Duration = Duration::from_secs(32);
/// Requests that came before their step: a caller is at most a few ahead.
const EARLY_MAX: usize = 16;
/// Lines of a ladder; a script is a few dozen steps.
const LADDER_MAX: usize = 1000;
const CHUNK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One thing that a phone does or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// REGISTER with Path and outbound, until its 2xx; 0 seconds removes the binding.
    Register {
        expires: u32,
    },
    /// Waits until every phone whose script has this point has come to it.
    Meet {
        point: u32,
    },
    /// INVITE until its 2xx, then ACK.
    Call {
        to: Box<str>,
    },
    /// INVITE until it is refused with this status.
    CallRefused {
        to: Box<str>,
        status: u16,
    },
    /// INVITE until it rings, then CANCEL until both are answered.
    CallAndCancel {
        to: Box<str>,
    },
    /// Is called: 180, 200, until the ACK.
    AwaitCall,
    /// Is called and rings until the CANCEL.
    AwaitCancel,
    /// INVITE inside the dialog, `sendonly` or back to `sendrecv`.
    Hold,
    Resume,
    /// Is put on hold or taken back: 200, until the ACK.
    AwaitChange,
    /// BYE until its 2xx.
    HangUp,
    /// Is hung up on.
    AwaitHangUp,
    Message {
        to: Box<str>,
    },
    AwaitMessage,
    /// CRLFCRLF until its CRLF (RFC 5626 4.4.1).
    Ping,
    Pause {
        time: Duration,
    },
    /// Closes the connection and dials anew.
    Reconnect,
}

/// One phone.
#[derive(Clone, Debug)]
pub struct Profile {
    pub user: Box<str>,
    /// The host of its address of record.
    pub domain: Box<str>,
    pub target: SocketAddr,
    /// `None`: plain TCP.
    pub tls: Option<ClientSide>,
    pub script: Vec<Step>,
}

/// How far a phone has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Running { step: usize },
    Done,
    Failed { step: usize, why: String },
}

/// What a phone has seen so far.
#[derive(Clone, Debug)]
pub struct Progress {
    pub user: Box<str>,
    pub outcome: Outcome,
    /// `> METHOD target` and `< status METHOD`, in order.
    pub ladder: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// For the connection.
    Dial,
    /// For the final response to the request under way.
    Response,
    /// For a request, the ACK included.
    Request,
    Ack,
    /// For a CANCEL of the INVITE that rings.
    Cancel,
    Pong,
    Meeting,
    Time,
    Nothing,
}

/// A call, from this phone's side (RFC 3261 12).
#[derive(Clone, Debug, Default)]
struct Dialog {
    call_id: String,
    /// From and To as they stand in what this phone sends.
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
    cseq: u32,
    /// Its routes are settled: later responses do not change them (RFC 3261 12.2.1.2).
    made: bool,
}

#[derive(Debug)]
struct Phone {
    conn: Option<ConnId>,
    step: usize,
    waiting: Waiting,
    outcome: Outcome,
    ladder: Vec<String>,
    early: VecDeque<Vec<u8>>,
    dialog: Option<Dialog>,
    /// Branch of the request under way, and the request itself for its CANCEL and ACK.
    branch: String,
    request: Vec<u8>,
    cancelled: bool,
    /// The ACK of the last 2xx, for one that comes again.
    acknowledgement: Vec<u8>,
    registrations: u32,
    /// The INVITE that rings.
    ringing: Vec<u8>,
}

/// Phones of one worker.
#[derive(Debug)]
pub struct Phones {
    profiles: Vec<Profile>,
    streams: Streams,
    phones: Vec<Phone>,
    deadlines: DeadlineQueue,
    random: Random,
    limits: FrameLimits,
    draining: bool,
}

impl Phones {
    /// Phones that begin at once; `seed` makes their tags and branches.
    pub fn new(profiles: Vec<Profile>, seed: u64, now: Instant) -> Self {
        let count = profiles.len() as u32;
        let phone = |_: &Profile| Phone {
            conn: None,
            step: 0,
            waiting: Waiting::Nothing,
            outcome: Outcome::Running { step: 0 },
            ladder: Vec::new(),
            early: VecDeque::new(),
            dialog: None,
            branch: String::new(),
            request: Vec::new(),
            cancelled: false,
            acknowledgement: Vec::new(),
            registrations: 0,
            ringing: Vec::new(),
        };
        let mut phones = Phones {
            // A second slot each: the old connection may still be closing when the new one is dialled.
            streams: Streams::new(0, 2 * count, CHUNK_BYTES_MAX),
            phones: profiles.iter().map(phone).collect(),
            deadlines: DeadlineQueue::new(count, now),
            random: Random::new(seed),
            limits: FrameLimits::default(),
            draining: false,
            profiles,
        };
        (0..count as usize).for_each(|place| phones.dial(place, now));
        phones
    }

    /// Whether every phone has come to its end, well or not.
    pub fn is_over(&self) -> bool {
        self.phones.iter().all(|phone| !matches!(phone.outcome, Outcome::Running { .. }))
    }

    fn progress(&self) -> Vec<Progress> {
        let both = self.profiles.iter().zip(&self.phones);
        both.map(|(profile, phone)| Progress {
            user: profile.user.clone(),
            outcome: phone.outcome.clone(),
            ladder: phone.ladder.clone(),
        })
        .collect()
    }

    fn dial(&mut self, place: usize, now: Instant) {
        let profile = &self.profiles[place];
        let session = match &profile.tls {
            None => None,
            Some(side) => match Session::client(side) {
                Ok(session) => Some(session),
                Err(fault) => return self.fail(place, fault.kind.name()),
            },
        };
        let (target, deadline) = (profile.target, now + PATIENCE);
        let Some(conn) = self.streams.dial(target, session, place as u32, deadline) else {
            return self.fail(place, "no slot to dial with");
        };
        self.phones[place].conn = Some(conn);
        self.wait(place, now, Waiting::Dial, PATIENCE);
    }

    fn wait(&mut self, place: usize, now: Instant, waiting: Waiting, patience: Duration) {
        self.phones[place].waiting = waiting;
        self.deadlines.set(place as u32, now + patience);
    }

    fn fail(&mut self, place: usize, why: impl Into<String>) {
        let phone = &mut self.phones[place];
        if matches!(phone.outcome, Outcome::Running { .. }) {
            phone.outcome = Outcome::Failed { step: phone.step, why: why.into() };
            phone.waiting = Waiting::Nothing;
            self.deadlines.clear(place as u32);
        }
    }

    /// Which phone a connection belongs to, unless it has another one by now.
    fn phone_of(&self, conn: ConnId) -> Option<usize> {
        let place = self.streams.get(conn)?.owner as usize;
        (self.phones[place].conn == Some(conn)).then_some(place)
    }

    /// The step is done: the next begins.
    fn next_step(&mut self, place: usize, now: Instant) {
        let phone = &mut self.phones[place];
        if !matches!(phone.outcome, Outcome::Running { .. }) {
            return;
        }
        phone.step += 1;
        phone.outcome = Outcome::Running { step: phone.step };
        self.begin_step(place, now);
    }

    fn begin_step(&mut self, place: usize, now: Instant) {
        let Some(step) = self.profiles[place].script.get(self.phones[place].step).cloned() else {
            let phone = &mut self.phones[place];
            (phone.outcome, phone.waiting) = (Outcome::Done, Waiting::Nothing);
            return self.deadlines.clear(place as u32);
        };
        let mut waiting = Waiting::Response;
        let mut patience = PATIENCE;
        match step {
            Step::Register { expires } => self.register(place, expires),
            Step::Call { to } | Step::CallRefused { to, .. } | Step::CallAndCancel { to } => {
                self.call(place, &to);
            }
            Step::Message { to } => self.message(place, &to),
            Step::Hold => self.within(place, "INVITE", Some("sendonly")),
            Step::Resume => self.within(place, "INVITE", Some("sendrecv")),
            Step::HangUp => self.within(place, "BYE", None),
            Step::AwaitCall
            | Step::AwaitCancel
            | Step::AwaitChange
            | Step::AwaitHangUp
            | Step::AwaitMessage => waiting = Waiting::Request,
            Step::Ping => {
                self.send(place, b"\r\n\r\n");
                waiting = Waiting::Pong;
            }
            Step::Meet { .. } => waiting = Waiting::Meeting,
            Step::Pause { time } => (waiting, patience) = (Waiting::Time, time),
            Step::Reconnect => {
                if let Some(conn) = self.phones[place].conn.take() {
                    self.streams.close(conn, false);
                }
                return self.dial(place, now);
            }
        }
        if !matches!(self.phones[place].outcome, Outcome::Running { .. }) {
            return;
        }
        self.wait(place, now, waiting, patience);
        match waiting {
            Waiting::Meeting => self.meet(now),
            Waiting::Request => self.take_early(place, now),
            _ => {}
        }
    }

    /// Lets all go on who have waited for each other.
    fn meet(&mut self, now: Instant) {
        let point_of = |phones: &Phones, place: usize| {
            let step = phones.profiles[place].script.get(phones.phones[place].step);
            match step {
                Some(Step::Meet { point }) => Some(*point),
                _ => None,
            }
        };
        for place in 0..self.phones.len() {
            let waits = self.phones[place].waiting == Waiting::Meeting;
            let Some(point) = point_of(self, place).filter(|_| waits) else { continue };
            let invited: SmallVec<[usize; 8]> = (0..self.phones.len())
                .filter(|other| self.profiles[*other].script.contains(&Step::Meet { point }))
                .collect();
            let here = |other: &usize| {
                self.phones[*other].waiting == Waiting::Meeting
                    && point_of(self, *other) == Some(point)
            };
            if invited.iter().all(here) {
                for other in invited {
                    self.next_step(other, now);
                }
            }
        }
    }

    /// A request that came before its step.
    fn take_early(&mut self, place: usize, now: Instant) {
        let Some(bytes) = self.phones[place].early.pop_front() else { return };
        let limits = self.limits;
        if let Ok(Framed::Message(message)) = frame(&bytes, &mut FrameState::default(), &limits) {
            self.request(place, now, &message);
        }
    }

    fn send(&mut self, place: usize, bytes: &[u8]) {
        let line = first_line(bytes);
        if let Some(line) = line {
            self.note(place, format!("> {line}"));
        }
        let conn = self.phones[place].conn;
        if !conn.is_some_and(|conn| self.streams.send(conn, [bytes].into_iter())) {
            self.fail(place, "the connection is gone");
        }
    }

    fn note(&mut self, place: usize, line: String) {
        let ladder = &mut self.phones[place].ladder;
        if ladder.len() < LADDER_MAX {
            ladder.push(line);
        }
    }
}

/// `METHOD target` or `status METHOD`, for a ladder; nothing for a ping.
fn first_line(bytes: &[u8]) -> Option<String> {
    let limits = FrameLimits::default();
    let Ok(Framed::Message(message)) = frame(bytes, &mut FrameState::default(), &limits) else {
        return None;
    };
    Some(line_of(&message))
}

fn line_of(message: &Message<'_>) -> String {
    let text = String::from_utf8_lossy;
    match message.start() {
        Start::Request { method_name, uri, .. } => format!("{} {}", text(method_name), text(uri)),
        Start::Response { status, .. } => {
            let method = message.cseq().map_or(&b""[..], |cseq| cseq.method);
            format!("{status} {}", text(method))
        }
    }
}

/// What a phone says.
impl Phones {
    fn token(&mut self) -> String {
        format!("{:016x}", self.random.next_u64())
    }

    /// Where this phone says that it is: nowhere in particular, its flow finds it (RFC 5626).
    fn contact(&self, place: usize) -> String {
        format!("sip:{0}@{0}.invalid;transport=tcp", self.profiles[place].user)
    }

    fn address(&self, place: usize) -> String {
        format!("sip:{}@{}", self.profiles[place].user, self.profiles[place].domain)
    }

    /// Writes and sends a request; it is the one under way.
    fn ask(&mut self, place: usize, method: &str, target: &str, headers: &str, body: &str) {
        let branch = format!("z9hG4bKua{}", self.token());
        let user = &self.profiles[place].user;
        let transport = if self.profiles[place].tls.is_some() { "TLS" } else { "TCP" };
        let kind = match (method, body) {
            (_, "") => "",
            ("MESSAGE", _) => "Content-Type: text/plain\r\n",
            _ => "Content-Type: application/sdp\r\n",
        };
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/{transport} {user}.invalid;branch={branch};rport;keep\r\n\
             Max-Forwards: 70\r\n{headers}{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if method != "ACK" {
            let phone = &mut self.phones[place];
            (phone.branch, phone.request) = (branch, text.clone().into_bytes());
            phone.cancelled = false;
        } else {
            self.phones[place].acknowledgement = text.clone().into_bytes();
        }
        self.send(place, text.as_bytes());
    }

    fn register(&mut self, place: usize, expires: u32) {
        let phone = &mut self.phones[place];
        phone.registrations += 1;
        let (cseq, domain) = (phone.registrations, self.profiles[place].domain.clone());
        let (own, contact, tag) = (self.address(place), self.contact(place), self.token());
        let user = self.profiles[place].user.clone();
        let headers = format!(
            "From: <{own}>;tag={tag}\r\nTo: <{own}>\r\nCall-ID: register@{user}.invalid\r\n\
             CSeq: {cseq} REGISTER\r\nContact: <{contact}>;reg-id=1;+sip.instance=\"<urn:uuid:00000000-0000-1000-\
             8000-{place:012x}>\"\r\nExpires: {expires}\r\nSupported: path, outbound\r\n"
        );
        self.ask(place, "REGISTER", &format!("sip:{domain}"), &headers, "");
    }

    fn call(&mut self, place: usize, to: &str) {
        let (own, contact) = (self.address(place), self.contact(place));
        let dialog = Dialog {
            call_id: format!("{}@{}.invalid", self.token(), self.profiles[place].user),
            local: format!("<{own}>;tag={}", self.token()),
            remote: format!("<{to}>"),
            target: to.to_owned(),
            routes: Vec::new(),
            cseq: 1,
            made: false,
        };
        let headers = format!(
            "From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 INVITE\r\nContact: <{contact};ob>\r\n\
             Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE\r\nSupported: outbound\r\n",
            dialog.local, dialog.remote, dialog.call_id
        );
        self.phones[place].dialog = Some(dialog);
        self.ask(place, "INVITE", to, &headers, &offer("sendrecv", 1));
    }

    fn message(&mut self, place: usize, to: &str) {
        let (own, call_id, tag) = (self.address(place), self.token(), self.token());
        let headers = format!(
            "From: <{own}>;tag={tag}\r\nTo: <{to}>\r\nCall-ID: {call_id}\r\nCSeq: 1 MESSAGE\r\n"
        );
        self.ask(place, "MESSAGE", to, &headers, "hello");
    }

    /// A request inside the dialog; an INVITE with this direction of the session.
    fn within(&mut self, place: usize, method: &str, direction: Option<&str>) {
        let contact = self.contact(place);
        let Some(dialog) = &mut self.phones[place].dialog else {
            return self.fail(place, "there is no call");
        };
        if method != "ACK" {
            dialog.cseq += 1;
        }
        let mut headers: String =
            dialog.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        headers.push_str(&format!(
            "From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\n",
            dialog.local, dialog.remote, dialog.call_id, dialog.cseq
        ));
        if method == "INVITE" {
            headers.push_str(&format!("Contact: <{contact};ob>\r\n"));
        }
        let target = dialog.target.clone();
        let body = direction.map(|direction| offer(direction, dialog.cseq)).unwrap_or_default();
        self.ask(place, method, &target, &headers, &body);
    }

    /// CANCEL, or the ACK of a refusal: what the request under way was, with its branch (RFC 3261 9.1, 17.1.1.3).
    fn follow(&mut self, place: usize, method: &str, to: Option<&[u8]>) {
        let request = String::from_utf8_lossy(&self.phones[place].request).into_owned();
        let mut text = String::new();
        for (number, line) in request.lines().enumerate() {
            let name = line.split(':').next().unwrap_or("");
            match name {
                _ if number == 0 => text.push_str(&line.replacen("INVITE", method, 1)),
                "CSeq" => text.push_str(&line.replacen("INVITE", method, 1)),
                "To" if to.is_some() => {
                    text.push_str(String::from_utf8_lossy(to.unwrap_or_default()).trim_end());
                }
                "Via" | "Max-Forwards" | "Route" | "From" | "To" | "Call-ID" => text.push_str(line),
                "" => break,
                _ => continue,
            }
            text.push_str("\r\n");
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        self.send(place, text.as_bytes());
    }
}

/// An offer or answer of one audio stream that nobody sends to.
fn offer(direction: &str, version: u32) -> String {
    format!(
        "v=0\r\no=phone 1 {version} IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
         m=audio 9 RTP/AVP 0\r\na={direction}\r\n"
    )
}

/// What a phone hears.
impl Phones {
    fn received(&mut self, now: Instant, conn: ConnId, bytes: &mut [u8]) {
        let Some(place) = self.phone_of(conn) else { return };
        let mut received = match self.streams.receive(now, conn, bytes) {
            Ok(Some(received)) => received,
            Ok(None) => return,
            Err(lost) => return self.fail(place, format!("{lost:?}")),
        };
        if received.established && self.phones[place].waiting == Waiting::Dial {
            self.arrived(place, now);
        }
        self.take_units(now, place, conn, &mut received);
        if received.peer_closed {
            self.ended(place, conn);
        }
        self.streams.keep(conn, received);
    }

    fn take_units(
        &mut self,
        now: Instant,
        place: usize,
        conn: ConnId,
        received: &mut Received<'_>,
    ) {
        let limits = self.limits;
        while let Some(unit) = received.next(&limits) {
            match unit {
                Ok(Unit::Message(message)) => {
                    self.note(place, format!("< {}", line_of(&message)));
                    match message.is_request() {
                        true => self.request(place, now, &message),
                        false => self.response(place, now, &message),
                    }
                }
                Ok(Unit::Ping) => {
                    self.streams.send(conn, [&b"\r\n"[..]].into_iter());
                }
                Err(fault) => {
                    self.streams.close(conn, true);
                    return self.fail(place, format!("no SIP: {}", fault.kind.name()));
                }
            }
        }
        if self.phones[place].waiting == Waiting::Pong && received.take_pong() {
            self.next_step(place, now);
        }
    }

    /// The connection stands: the script goes on, or begins.
    fn arrived(&mut self, place: usize, now: Instant) {
        let script = &self.profiles[place].script;
        match script.get(self.phones[place].step) {
            Some(Step::Reconnect) => self.next_step(place, now),
            _ => self.begin_step(place, now),
        }
    }

    fn ended(&mut self, place: usize, conn: ConnId) {
        self.streams.close(conn, false);
        self.phones[place].conn = None;
        self.fail(place, "the server closed the connection");
    }

    fn response(&mut self, place: usize, now: Instant, response: &Message<'_>) {
        let Start::Response { status, .. } = response.start() else { return };
        let branch = response.top_via().ok().and_then(|via| via.branch()).unwrap_or_default();
        let method = response.method();
        if branch != self.phones[place].branch.as_bytes() {
            if method == Method::Invite && (200..300).contains(&status) {
                // A 2xx that comes again: its ACK was lost on the way.
                let text = self.phones[place].acknowledgement.clone();
                if !text.is_empty() {
                    self.send(place, &text);
                }
            }
            return;
        }
        let step = self.profiles[place].script.get(self.phones[place].step).cloned();
        let waits = self.phones[place].waiting == Waiting::Response;
        match (step, method, status) {
            // Of the CANCEL; the INVITE's own answer is what counts.
            (_, Method::Cancel, _) => {}
            (Some(Step::CallAndCancel { .. }), _, 180..=189) if !self.phones[place].cancelled => {
                self.phones[place].cancelled = true;
                self.follow(place, "CANCEL", None);
            }
            (_, _, 100..=199) => {}
            (Some(Step::Call { .. } | Step::Hold | Step::Resume), Method::Invite, 200..=299) => {
                self.agreed(place, response);
                self.within(place, "ACK", None);
                if waits {
                    self.next_step(place, now);
                }
            }
            (step, Method::Invite, _) if status >= 300 => {
                let to = response.first(Name::To).map(|header| response.text(header.line()));
                self.follow(place, "ACK", to);
                let expected = match step {
                    Some(Step::CallRefused { status: expected, .. }) => expected == status,
                    Some(Step::CallAndCancel { .. }) => status == 487,
                    _ => false,
                };
                match expected {
                    true => self.next_step(place, now),
                    false => self.fail(place, format!("{status} to INVITE")),
                }
            }
            (Some(_), _, 200..=299) if waits && method != Method::Invite => {
                if method == Method::Bye {
                    self.phones[place].dialog = None;
                }
                self.next_step(place, now);
            }
            _ => self.fail(place, format!("unexpected {}", line_of(response))),
        }
    }

    /// Takes from a 2xx what makes the dialog (RFC 3261 12.1.2).
    fn agreed(&mut self, place: usize, response: &Message<'_>) {
        let Some(dialog) = &mut self.phones[place].dialog else { return };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(to) = response.first(Name::To) {
            dialog.remote = text(response.value(to));
        }
        if let Some(contact) = contact_of(response) {
            dialog.target = contact;
        }
        if !std::mem::replace(&mut dialog.made, true) {
            dialog.routes =
                response.values(Name::RecordRoute).map(|value| text(value.bytes)).collect();
            dialog.routes.reverse();
        }
    }

    fn request(&mut self, place: usize, now: Instant, request: &Message<'_>) {
        let step = self.profiles[place].script.get(self.phones[place].step).cloned();
        let waiting = self.phones[place].waiting;
        match (request.method(), step, waiting) {
            (Method::Options, ..) => self.answer(place, request, 200, &[], ""),
            (Method::Ack, _, Waiting::Ack) => self.next_step(place, now),
            (Method::Ack, ..) => {}
            (Method::Invite, Some(Step::AwaitCall), Waiting::Request) => {
                self.called(place, request);
                self.accept(place, request, 180, "");
                self.accept(place, request, 200, "sendrecv");
                self.wait(place, now, Waiting::Ack, PATIENCE);
            }
            (Method::Invite, Some(Step::AwaitChange), Waiting::Request) => {
                if let (Some(contact), Some(dialog)) =
                    (contact_of(request), &mut self.phones[place].dialog)
                {
                    dialog.target = contact;
                }
                let held = memchr::memmem::find(request.body(), b"a=sendonly").is_some();
                self.accept(place, request, 200, if held { "recvonly" } else { "sendrecv" });
                self.wait(place, now, Waiting::Ack, PATIENCE);
            }
            (Method::Invite, Some(Step::AwaitCancel), Waiting::Request) => {
                self.called(place, request);
                self.accept(place, request, 180, "");
                self.phones[place].ringing = request.bytes().to_vec();
                self.wait(place, now, Waiting::Cancel, PATIENCE);
            }
            (Method::Cancel, _, Waiting::Cancel) => {
                self.answer(place, request, 200, &[], "");
                self.refuse_ringing(place);
                self.wait(place, now, Waiting::Ack, PATIENCE);
            }
            (Method::Bye, Some(Step::AwaitHangUp), Waiting::Request) => {
                self.answer(place, request, 200, &[], "");
                self.phones[place].dialog = None;
                self.next_step(place, now);
            }
            (Method::Message, Some(Step::AwaitMessage), Waiting::Request) => {
                self.answer(place, request, 200, &[], "");
                self.next_step(place, now);
            }
            (Method::Invite | Method::Bye | Method::Message, ..)
                if self.phones[place].early.len() < EARLY_MAX =>
            {
                self.phones[place].early.push_back(request.bytes().to_vec());
            }
            _ => self.answer(place, request, 481, &[], ""),
        }
    }

    /// Takes from an INVITE what makes the dialog (RFC 3261 12.1.1).
    fn called(&mut self, place: usize, invite: &Message<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let value = |name| invite.first(name).map(|header| text(invite.value(header)));
        let tag = self.token();
        self.phones[place].dialog = Some(Dialog {
            call_id: text(invite.call_id().unwrap_or_default()),
            local: format!("{};tag={tag}", value(Name::To).unwrap_or_default()),
            remote: value(Name::From).unwrap_or_default(),
            target: contact_of(invite).unwrap_or_default(),
            routes: invite.values(Name::RecordRoute).map(|route| text(route.bytes)).collect(),
            cseq: 0,
            made: true,
        });
    }

    /// A response that makes or keeps the dialog; with a session unless `direction` is empty.
    fn accept(&mut self, place: usize, request: &Message<'_>, status: u16, direction: &str) {
        let contact = format!("<{};ob>", self.contact(place));
        let mut extra: SmallVec<[(&str, &[u8]); 8]> = request
            .rows(Name::RecordRoute)
            .map(|(_, header)| ("Record-Route", request.value(header)))
            .collect();
        extra.push(("Contact", contact.as_bytes()));
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let body = if direction.is_empty() { String::new() } else { offer(direction, cseq) };
        self.answer(place, request, status, &extra, &body);
    }

    fn refuse_ringing(&mut self, place: usize) {
        let bytes = std::mem::take(&mut self.phones[place].ringing);
        let limits = self.limits;
        if let Ok(Framed::Message(invite)) = frame(&bytes, &mut FrameState::default(), &limits) {
            self.answer(place, &invite, 487, &[], "");
        }
    }

    fn answer(
        &mut self,
        place: usize,
        request: &Message<'_>,
        status: u16,
        extra: &[(&str, &[u8])],
        body: &str,
    ) {
        let local = self.phones[place].dialog.as_ref().map(|dialog| dialog.local.as_str());
        let tag = local.and_then(|local| local.rsplit_once(";tag=")).map_or("none", |(_, tag)| tag);
        let mut text = Vec::new();
        reply(request, status, None, extra, tag.as_bytes(), None, &mut text);
        if !body.is_empty() {
            sdp::attach(body, &mut text);
        }
        self.send(place, &text);
    }
}

fn contact_of(message: &Message<'_>) -> Option<String> {
    let value = message.values(Name::Contact).next()?;
    let uri = NameAddr::parse(value.bytes).ok()?.uri;
    Some(String::from_utf8_lossy(uri).into_owned())
}

impl Machine for Phones {
    type Settings = ();
    type Envelope = Infallible;
    /// All that was seen so far, not since the last report.
    type Report = Vec<Progress>;

    /// A script does not change.
    fn configure(&mut self, _now: Instant, _settings: Arc<()>) {}

    /// A phone has no listener.
    fn admit(&mut self, _now: Instant, _arrival: Arrival) -> Option<ConnId> {
        None
    }

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Received { conn, bytes } => self.received(now, conn, bytes),
            Input::Finished { conn } => {
                if let Some(place) = self.phone_of(conn) {
                    self.ended(place, conn);
                }
            }
            Input::Connected { conn } => {
                let opened = self.streams.connected(now, conn);
                let Some(place) = self.phone_of(conn) else { return };
                match opened {
                    Ok(true) => self.arrived(place, now),
                    Ok(false) => {}
                    Err(lost) => self.fail(place, format!("{lost:?}")),
                }
            }
            Input::Sent { conn, chunk } => self.streams.sent(conn, chunk),
            Input::Closed { conn, cause } => {
                let place = self.phone_of(conn);
                self.streams.closed(conn);
                if let Some(place) = place {
                    self.phones[place].conn = None;
                    self.fail(place, format!("connection closed: {}", cause.name()));
                }
            }
            Input::Tick => {
                while let Some(key) = self.deadlines.expired(now) {
                    let place = key as usize;
                    match self.phones[place].waiting {
                        Waiting::Time => self.next_step(place, now),
                        waiting => self.fail(place, format!("nothing came: {waiting:?}")),
                    }
                }
            }
            Input::Drain { .. } => {
                self.draining = true;
                for place in 0..self.phones.len() {
                    if let Some(conn) = self.phones[place].conn.take() {
                        self.streams.close(conn, false);
                    }
                    self.fail(place, "drained");
                }
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

    fn leaving(&mut self, _now: Instant) {}

    fn deadline(&self) -> Instant {
        self.deadlines.next()
    }

    fn report(&mut self, _now: Instant, _spare: Vec<Progress>) -> Vec<Progress> {
        self.progress()
    }

    fn drained(&self) -> bool {
        self.draining && self.streams.live() == 0
    }
}
