//! The user agent server of the embedded backend: it answers for users whom nobody has registered, so that a first call
//! can be tried with one phone. A user named `ring…` rings for ten seconds before the answer, so that CANCEL can be
//! tried; `nobody` is not found.
//! Owns the calls that wait for something: an answer that is due, an ACK. Everything else is computed from the request,
//! so an established call costs nothing. Never sends by itself: it writes messages and says where they go.
//! Invariant: a call in the table has a deadline; one that is acknowledged, ended or given up is not in the table.

use std::collections::HashMap;
use std::fmt::Write;

use smallvec::SmallVec;

use super::location::Keyed;
use super::sdp;
use crate::base::machine::ConnId;
use crate::base::time::{DeadlineQueue, Duration, Instant};
use crate::sip::{FrameLimits, FrameState, Framed, Message, Method, Name, NameAddr, Scheme, Uri};
use crate::sip::{frame, reply};

/// What we say we can do; also the answer to OPTIONS.
pub const ALLOW: &[u8] = b"INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, REGISTER";
pub const SUPPORTED: &[u8] = b"path, outbound";
pub const ACCEPT: &[u8] = b"application/sdp, text/plain";

/// Calls that wait for an answer or an ACK: at 64*T1 for a caller that never acknowledges, a thousand of them a second.
pub const CALLS_MAX: u32 = 32_768;
/// How long a user named `ring…` rings.
const RING_FOR: Duration = Duration::from_secs(10);
/// A 2xx is sent again after T1, then after twice as long each time up to T2, until the ACK is there, whatever the
/// transport: beyond the next hop it may be another one (RFC 3261 13.3.1.4).
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// Then the call is given up with a BYE.
const ACK_PATIENCE: Duration = Duration::from_secs(32);

/// Where an answer is to go, and what goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub conn: ConnId,
}

/// What the callee knows of itself and the connection.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub conn: ConnId,
    /// Our host and port as they stand in Contact and Via.
    pub advertised: &'a str,
    /// `TCP` or `TLS`.
    pub transport: &'a str,
    /// Where the request came from, for the topmost Via.
    pub peer: std::net::SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// For its answer.
    Ringing,
    /// For the ACK; the 2xx is sent again after `pause`.
    Answered { pause: Duration, give_up: Instant },
}

#[derive(Debug)]
struct Call {
    key: u64,
    cseq: u32,
    waiting: Waiting,
    conn: ConnId,
    advertised: Box<str>,
    transport: &'static str,
    peer: std::net::SocketAddr,
    /// The INVITE; what is sent later is written from it.
    request: Vec<u8>,
}

/// The user agent server.
#[derive(Debug)]
pub struct Callee {
    calls: Vec<Option<Call>>,
    free: Vec<u32>,
    by_key: HashMap<u64, u32, Keyed>,
    deadlines: DeadlineQueue,
    keys: Keyed,
    spare: Vec<Vec<u8>>,
    limits: FrameLimits,
    /// BYEs of our own so far, for their branches.
    byes: u32,
}

impl Callee {
    pub fn new(seed: u64, now: Instant) -> Self {
        Callee {
            calls: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::with_hasher(Keyed(seed)),
            deadlines: DeadlineQueue::new(CALLS_MAX, now),
            keys: Keyed(seed ^ 0x6361_6C6C_6565),
            spare: Vec::new(),
            limits: FrameLimits::default(),
            byes: 0,
        }
    }

    /// Calls that wait for an answer or an ACK.
    pub fn waiting(&self) -> u32 {
        self.by_key.len() as u32
    }

    pub fn deadline(&self) -> Instant {
        self.deadlines.next()
    }

    /// Whether the request belongs to a dialog of ours: its To tag is the one that we gave.
    pub fn is_ours(&self, request: &Message<'_>) -> bool {
        let tag = request.to_tag().ok().flatten();
        tag.is_some_and(|tag| Some(tag) == self.tag(request).as_ref().map(<[u8; 16]>::as_slice))
    }

    /// Answers a request that is for nobody who is registered: appends what is due at once to `out`, and says the last
    /// status in it; 0 when nothing is answered.
    pub fn request(
        &mut self,
        now: Instant,
        place: Place<'_>,
        user: Option<&[u8]>,
        request: &Message<'_>,
        out: &mut Vec<u8>,
    ) -> u16 {
        let unsupported = unsupported(request, Name::Require, &[]);
        let method = request.method();
        if !unsupported.is_empty() && !matches!(method, Method::Ack | Method::Cancel) {
            return self.plain(place, request, 420, &[("Unsupported", &unsupported)], out);
        }
        let within = request.to_tag().ok().flatten().is_some();
        match method {
            Method::Ack => self.acknowledged(request),
            Method::Cancel => self.cancel(place, request, out),
            Method::Options => self.options(place, request, out),
            Method::Bye | Method::Invite | Method::Message if within && !self.is_ours(request) => {
                self.plain(place, request, 481, &[], out)
            }
            _ if user == Some(b"nobody") || user.is_none() => {
                self.plain(place, request, 404, &[], out)
            }
            Method::Invite => self.invite(now, place, user.unwrap_or_default(), request, out),
            Method::Bye if !within => self.plain(place, request, 481, &[], out),
            Method::Bye => {
                self.forget(self.key(request));
                self.plain(place, request, 200, &[], out)
            }
            Method::Message => self.plain(place, request, 200, &[], out),
            Method::Other => self.plain(place, request, 501, &[("Allow", ALLOW)], out),
            _ => self.plain(place, request, 405, &[("Allow", ALLOW)], out),
        }
    }

    /// 200 with what we can do (RFC 3261 11.2).
    pub fn options(&self, place: Place<'_>, request: &Message<'_>, out: &mut Vec<u8>) -> u16 {
        let extra = [("Allow", ALLOW), ("Accept", ACCEPT), ("Supported", SUPPORTED)];
        self.plain(place, request, 200, &extra, out)
    }

    /// A response without body; says its status.
    pub fn plain(
        &self,
        place: Place<'_>,
        request: &Message<'_>,
        status: u16,
        extra: &[(&str, &[u8])],
        out: &mut Vec<u8>,
    ) -> u16 {
        let tag = self.tag(request).unwrap_or(*b"0000000000000000");
        let from = Some((place.peer.ip(), place.peer.port()));
        reply(request, status, None, extra, &tag, from, out);
        status
    }

    fn invite(
        &mut self,
        now: Instant,
        place: Place<'_>,
        user: &[u8],
        request: &Message<'_>,
        out: &mut Vec<u8>,
    ) -> u16 {
        if !request.body().is_empty() && !is_sdp(request) {
            return self.plain(place, request, 415, &[("Accept", ACCEPT)], out);
        }
        if sdp::answer(request.body(), "", 0).is_none() {
            return self.plain(place, request, 488, &[], out);
        }
        let key = self.key(request);
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        if let Some(call) = self.call(key) {
            let (same, ringing) = (call.cseq == cseq, call.waiting == Waiting::Ringing);
            match (same, ringing) {
                (true, true) => return self.provisional(place, request, out),
                (true, false) => return self.good(place, request, out),
                // One INVITE at a time (RFC 3261 14.2).
                (false, true) => return self.plain(place, request, 491, &[], out),
                (false, false) => self.forget(key),
            }
        }
        let initial = request.to_tag().ok().flatten().is_none();
        let rings = initial && user.starts_with(b"ring");
        let (waiting, deadline) = match rings {
            true => (Waiting::Ringing, now + RING_FOR),
            false => (Waiting::Answered { pause: T1, give_up: now + ACK_PATIENCE }, now + T1),
        };
        let Some(slot) = self.slot() else {
            return self.plain(place, request, 503, &[], out);
        };
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(request.bytes());
        self.calls[slot as usize] = Some(Call {
            key,
            cseq,
            waiting,
            conn: place.conn,
            advertised: place.advertised.into(),
            transport: if place.transport == "TLS" { "TLS" } else { "TCP" },
            peer: place.peer,
            request: copy,
        });
        self.by_key.insert(key, slot);
        self.deadlines.set(slot, deadline);
        if initial {
            self.provisional(place, request, out);
        }
        if rings { 180 } else { self.good(place, request, out) }
    }

    fn provisional(&self, place: Place<'_>, request: &Message<'_>, out: &mut Vec<u8>) -> u16 {
        self.within_dialog(place, request, 180, out)
    }

    /// 200 with our part of the session.
    fn good(&self, place: Place<'_>, request: &Message<'_>, out: &mut Vec<u8>) -> u16 {
        self.within_dialog(place, request, 200, out);
        let host = place.advertised.rsplit_once(':').map_or("", |(host, _)| host);
        let version = request.cseq().map_or(0, |cseq| cseq.number);
        let body = sdp::answer(request.body(), host, version).unwrap_or_default();
        sdp::attach(&body, out);
        200
    }

    /// A response that makes or keeps a dialog: Record-Route as it came, and our Contact (RFC 3261 12.1.1).
    fn within_dialog(
        &self,
        place: Place<'_>,
        request: &Message<'_>,
        status: u16,
        out: &mut Vec<u8>,
    ) -> u16 {
        let contact = contact(place, request);
        let mut extra: SmallVec<[(&str, &[u8]); 8]> = request
            .rows(Name::RecordRoute)
            .map(|(_, header)| ("Record-Route", request.value(header)))
            .collect();
        extra.push(("Contact", contact.as_bytes()));
        extra.push(("Allow", ALLOW));
        extra.push(("Supported", SUPPORTED));
        self.plain(place, request, status, &extra, out)
    }

    fn acknowledged(&mut self, request: &Message<'_>) -> u16 {
        let key = self.key(request);
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        if self.call(key).is_some_and(|call| call.cseq == cseq && call.waiting != Waiting::Ringing)
        {
            self.forget(key);
        }
        0
    }

    /// RFC 3261 9.2: 200 for the CANCEL itself if it matches, and 487 for an INVITE that is not answered yet.
    fn cancel(&mut self, place: Place<'_>, request: &Message<'_>, out: &mut Vec<u8>) -> u16 {
        let key = self.key(request);
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let Some(call) = self.call(key).filter(|call| call.cseq == cseq) else {
            return self.plain(place, request, 481, &[], out);
        };
        let ringing = call.waiting == Waiting::Ringing;
        self.plain(place, request, 200, &[], out);
        if !ringing {
            return 200;
        }
        let Some(call) = self.take(key) else { return 200 };
        self.with_invite(&call, |place, invite| self.plain(place, invite, 487, &[], out));
        self.rest(call);
        487
    }

    /// Takes the next thing that is due: appends the message to `out`. Call until `None`. `usable` says whether a
    /// connection still stands.
    pub fn due(
        &mut self,
        now: Instant,
        usable: impl Fn(ConnId) -> bool,
        out: &mut Vec<u8>,
    ) -> Option<Due> {
        while let Some(slot) = self.deadlines.expired(now) {
            let Some(mut call) = self.calls[slot as usize].take() else { continue };
            let conn = call.conn;
            match call.waiting {
                _ if !usable(conn) => {}
                Waiting::Answered { give_up, .. } if now >= give_up => {
                    self.byes = self.byes.wrapping_add(1);
                    let number = self.byes;
                    self.with_invite(&call, |place, invite| self.bye(place, number, invite, out));
                }
                waiting => {
                    let (pause, give_up) = match waiting {
                        Waiting::Ringing => (T1, now + ACK_PATIENCE),
                        Waiting::Answered { pause, give_up } => ((pause * 2).min(T2), give_up),
                    };
                    call.waiting = Waiting::Answered { pause, give_up };
                    self.deadlines.set(slot, now + pause);
                    self.with_invite(&call, |place, invite| self.good(place, invite, out));
                    self.calls[slot as usize] = Some(call);
                    return Some(Due { conn });
                }
            }
            self.by_key.remove(&call.key);
            self.free.push(slot);
            self.rest(call);
            if !out.is_empty() {
                return Some(Due { conn });
            }
        }
        None
    }

    /// BYE from the callee (RFC 3261 12.2.1.1): the caller's Contact, and the route set in the order of Record-Route.
    fn bye(&self, place: Place<'_>, number: u32, invite: &Message<'_>, out: &mut Vec<u8>) -> u16 {
        let contact = invite.values(Name::Contact).next();
        let target =
            contact.and_then(|value| NameAddr::parse(value.bytes).ok()).map(|name| name.uri);
        let (Some(target), Some(tag)) = (target, self.tag(invite)) else { return 0 };
        let part = |out: &mut Vec<u8>, parts: &[&[u8]]| {
            parts.iter().for_each(|part| out.extend_from_slice(part));
        };
        let via = format!(
            "SIP/2.0/{} {};branch={BYE_BRANCH}{number:08x}{:016x}",
            place.transport,
            place.advertised,
            self.key(invite)
        );
        part(out, &[b"BYE ", target, b" SIP/2.0\r\nVia: ", via.as_bytes()]);
        part(out, &[b"\r\nMax-Forwards: 70\r\n"]);
        for route in invite.values(Name::RecordRoute) {
            part(out, &[b"Route: ", route.bytes, b"\r\n"]);
        }
        for (header, other, own) in [("From", Name::To, true), ("To", Name::From, false)] {
            let value = invite.first(other).map_or(&b""[..], |header| invite.value(header));
            let tagged = invite.to_tag().ok().flatten().is_some();
            part(out, &[header.as_bytes(), b": ", value]);
            if own && !tagged {
                part(out, &[b";tag=", &tag]);
            }
            part(out, &[b"\r\n"]);
        }
        let call_id = invite.call_id().unwrap_or_default();
        part(out, &[b"Call-ID: ", call_id, b"\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n"]);
        0
    }

    /// Whether a response answers a BYE of ours.
    pub fn is_bye_branch(branch: &[u8]) -> bool {
        branch.starts_with(BYE_BRANCH.as_bytes())
    }

    fn with_invite<T>(&self, call: &Call, act: impl FnOnce(Place<'_>, &Message<'_>) -> T) {
        let place = Place {
            conn: call.conn,
            advertised: &call.advertised,
            transport: call.transport,
            peer: call.peer,
        };
        let framed = frame(&call.request, &mut FrameState::default(), &self.limits);
        if let Ok(Framed::Message(invite)) = framed {
            act(place, &invite);
        }
    }

    /// Names a dialog: the caller's side of it.
    fn key(&self, request: &Message<'_>) -> u64 {
        let tag = request.from_tag().ok().flatten().unwrap_or_default();
        self.keys.tag(&[b"call", request.call_id().unwrap_or_default(), tag])
    }

    /// Our To tag for a request: always the same for one dialog, so that none has to be remembered.
    fn tag(&self, request: &Message<'_>) -> Option<[u8; 16]> {
        let from = request.from_tag().ok()?.unwrap_or_default();
        let number = self.keys.tag(&[b"tag", request.call_id().ok()?, from]);
        let mut text = [0; 16];
        let mut rest: &mut [u8] = &mut text;
        std::io::Write::write_fmt(&mut rest, format_args!("{number:016x}")).ok()?;
        Some(text)
    }

    fn call(&self, key: u64) -> Option<&Call> {
        self.calls[*self.by_key.get(&key)? as usize].as_ref()
    }

    fn take(&mut self, key: u64) -> Option<Call> {
        let slot = self.by_key.remove(&key)?;
        self.deadlines.clear(slot);
        self.free.push(slot);
        self.calls[slot as usize].take()
    }

    fn forget(&mut self, key: u64) {
        if let Some(call) = self.take(key) {
            self.rest(call);
        }
    }

    /// The memory of a call that is over serves the next one.
    fn rest(&mut self, mut call: Call) {
        if self.spare.len() < 256 {
            call.request.clear();
            self.spare.push(call.request);
        }
    }

    fn slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.calls.len() as u32;
        (slot < CALLS_MAX).then(|| {
            self.calls.push(None);
            slot
        })
    }
}

const BYE_BRANCH: &str = "z9hG4bKrfbye";

/// Option tags of a header that we do not have, as a list; empty when all are known.
pub fn unsupported(request: &Message<'_>, name: Name, known: &[&str]) -> Vec<u8> {
    let mut list = Vec::new();
    for value in request.values(name) {
        let is_known = known.iter().any(|tag| value.bytes.eq_ignore_ascii_case(tag.as_bytes()));
        if !is_known && !value.bytes.is_empty() {
            if !list.is_empty() {
                list.extend_from_slice(b", ");
            }
            list.extend_from_slice(value.bytes);
        }
    }
    list
}

fn is_sdp(request: &Message<'_>) -> bool {
    let value = request.first(Name::ContentType).map(|header| request.value(header));
    let kind = value.and_then(|value| value.split(|byte| *byte == b';').next());
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"application/sdp"))
}

/// Our Contact in the dialog: the user that was called, at our own address; `sips` where the request was.
fn contact(place: Place<'_>, request: &Message<'_>) -> String {
    let uri = request.request_uri_span().map_or(&b""[..], |span| request.text(span));
    let uri = Uri::parse(uri).ok();
    let user =
        uri.and_then(|uri| std::str::from_utf8(uri.user?.split(|b| *b == b':').next()?).ok());
    let (scheme, parameter) = match uri.map(|uri| uri.scheme) {
        Some(Scheme::Sips) => ("sips", ""),
        _ => ("sip", ";transport=tcp"),
    };
    let mut text = String::new();
    let user = user.unwrap_or("ringfront");
    let _ = write!(text, "<{scheme}:{user}@{}{parameter}>", place.advertised);
    text
}
