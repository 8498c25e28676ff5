//! The embedded backend: a registrar (RFC 3261 10, Path by RFC 3327, flows by RFC 5626 6), a stateless proxy between
//! its users, and behind both the user agent server of `callee`.
//! Owns the location service, the streams, and the calls that the callee has open. Never dials: it sends on connections
//! that were made to it. Never production storage: everything is in memory and without authentication, and a user with
//! several contacts is called at the one that registered last, since a stateless proxy cannot fork (RFC 3261 16.11).
//! Invariant: a response is passed on only when its branch is one that this process made for that very connection,
//! call and sequence number.

use std::convert::Infallible;
use std::sync::Arc;

use smallvec::SmallVec;

use super::callee::{ALLOW, Callee, Place, SUPPORTED, unsupported};
use super::location::{Binding, Contact, EXPIRES_DEFAULT, Flow, Keyed, Location, Refusal, Update};
use super::location::{CONTACTS_MAX, user_of};
use super::stream::{Received, Streams, Unit};
use crate::base::machine::{Arrival, ConnId, Input, Machine, Output};
use crate::base::time::Instant;
use crate::sip::frame::salvage;
use crate::sip::text::decimal;
use crate::sip::uri::same_host;
use crate::sip::{FrameLimits, Message, Method, Name, NameAddr, Patch, Scheme, Start, Uri};
use crate::tls::{ServerSide, Session};

/// Users of the embedded backend: as many as a load run of one machine registers.
pub const USERS_MAX: u32 = 131_072;
/// Bytes in all chunks that are out at once.
const CHUNK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections remembered as a front-end's, to reach its clients by Path: workers times lanes.
const FRONT_ENDS_MAX: usize = 1024;

/// One address that the backend listens on, in the order of its worker's listeners.
#[derive(Clone, Debug)]
pub struct Listening {
    /// `None`: plain TCP.
    pub tls: Option<ServerSide>,
    /// Host and port as they stand in Via and Contact; IPv6 in brackets.
    pub advertised: Box<str>,
}

/// What control gives the backend.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub listeners: Vec<Listening>,
}

/// What the backend counts; plain words since the last report, but for the two that are states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    /// Connections ended for bytes that are no SIP, or TLS that failed.
    pub streams_lost: u64,
    pub registers: u64,
    pub requests_answered: u64,
    pub requests_relayed: u64,
    pub responses_relayed: u64,
    /// Responses whose branch is not ours, or that came from another connection than the one that was asked.
    pub responses_refused: u64,
    /// Messages for a connection that is gone or does not read.
    pub undeliverable: u64,
    /// State: users with a binding, or remembered.
    pub users: u32,
    /// State: calls that wait for an answer or an ACK.
    pub calls_waiting: u32,
}

/// The backend.
#[derive(Debug)]
pub struct Registrar {
    settings: Arc<Settings>,
    streams: Streams,
    location: Location,
    callee: Callee,
    keys: Keyed,
    /// Connections on which requests came that had passed another element: a front-end's.
    front_ends: Vec<ConnId>,
    limits: FrameLimits,
    counts: Counts,
    text: Vec<u8>,
    draining: bool,
}

/// Where a request goes.
enum Target<'l> {
    /// To a registered user, there.
    Binding(&'l Binding),
    /// Along its Route, on this connection.
    Route(ConnId),
    /// To ourselves: the callee answers.
    Own,
    /// Nowhere, with this status.
    Nowhere(u16),
}

impl Registrar {
    /// A backend for connections in `accepted` slots; `seed` keys its tags and hashes.
    pub fn new(settings: Arc<Settings>, accepted: u32, seed: u64, now: Instant) -> Self {
        Registrar {
            settings,
            streams: Streams::new(accepted, 0, CHUNK_BYTES_MAX),
            location: Location::new(USERS_MAX, seed, now),
            callee: Callee::new(seed.rotate_left(17), now),
            keys: Keyed(seed.rotate_left(31)),
            front_ends: Vec::new(),
            limits: FrameLimits::default(),
            counts: Counts::default(),
            text: Vec::new(),
            draining: false,
        }
    }

    fn received(&mut self, now: Instant, conn: ConnId, bytes: &mut [u8]) {
        let mut received = match self.streams.receive(now, conn, bytes) {
            Ok(Some(received)) => received,
            Ok(None) => return,
            Err(_) => {
                self.counts.streams_lost += 1;
                return;
            }
        };
        if !self.take_units(now, conn, &mut received) {
            self.counts.streams_lost += 1;
            if let Some(request) = salvage(received.rest(), &self.limits) {
                self.answer(conn, &request, 400, &[]);
            }
            self.streams.close(conn, false);
        } else if received.peer_closed {
            self.streams.close(conn, false);
        }
        self.streams.keep(conn, received);
    }

    /// False: the stream is lost.
    fn take_units(&mut self, now: Instant, conn: ConnId, received: &mut Received<'_>) -> bool {
        let limits = self.limits;
        while let Some(unit) = received.next(&limits) {
            match unit {
                Ok(Unit::Message(message)) if message.is_request() => {
                    self.request(now, conn, &message);
                }
                Ok(Unit::Message(message)) => self.response(conn, &message),
                Ok(Unit::Ping) => {
                    self.streams.send(conn, [&b"\r\n"[..]].into_iter());
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn request(&mut self, now: Instant, conn: ConnId, request: &Message<'_>) {
        if let Err(fault) = request.validate_request() {
            return self.answer(conn, request, fault.kind.status(), &[]);
        }
        let is_front_end = request.vias().nth(1).is_some();
        if is_front_end
            && !self.front_ends.contains(&conn)
            && self.front_ends.len() < FRONT_ENDS_MAX
        {
            self.front_ends.push(conn);
        }
        if request.method() == Method::Register {
            return self.register(now, conn, request);
        }
        match self.target(conn, request) {
            Target::Binding(binding) => {
                let (to, uri, path) =
                    (self.way_to(binding), binding.uri.clone(), binding.path.clone());
                match to {
                    Some(to) => self.relay(conn, request, to, Some(&uri), &path),
                    None => self.answer(conn, request, 480, &[]),
                }
            }
            Target::Route(to) => self.relay(conn, request, to, None, b""),
            Target::Own => self.serve(now, conn, request),
            Target::Nowhere(status) => self.answer(conn, request, status, &[]),
        }
    }

    fn target(&self, conn: ConnId, request: &Message<'_>) -> Target<'_> {
        if request.values(Name::Route).nth(self.own_routes(conn, request)).is_some() {
            let back = Some(conn).filter(|conn| self.front_ends.contains(conn));
            let way = back.or_else(|| self.any_front_end());
            return way.map_or(Target::Nowhere(480), Target::Route);
        }
        let uri = request.request_uri_span().map_or(&b""[..], |span| request.text(span));
        if let Some(binding) = self.location.at_contact(uri) {
            return Target::Binding(binding);
        }
        let Ok(parsed) = Uri::parse(uri) else { return Target::Nowhere(400) };
        if parsed.scheme == Scheme::Other {
            return Target::Nowhere(416);
        }
        let Some(user) = user_of(&parsed) else { return Target::Own };
        if self.callee.is_ours(request) {
            return Target::Own;
        }
        match self.location.newest(&user) {
            // A request to a sips URI ends at a sips Contact or nowhere (RFC 5630 5.3).
            Some(binding) if parsed.scheme == Scheme::Sips && !is_sips(&binding.uri) => {
                Target::Nowhere(480)
            }
            Some(binding) => Target::Binding(binding),
            None if self.location.bindings(&user).is_some() => Target::Nowhere(480),
            None => Target::Own,
        }
    }

    /// Route values at the top that name us: a phone that has us as its outbound proxy.
    fn own_routes(&self, conn: ConnId, request: &Message<'_>) -> usize {
        let own = self.advertised(conn);
        let names_us = |value: &[u8]| {
            let route = NameAddr::parse(value).ok();
            let uri = route.and_then(|route| Uri::parse(route.uri).ok());
            let (host, port) = own.rsplit_once(':').unwrap_or((own, ""));
            uri.is_some_and(|uri| {
                same_host(uri.host, host.as_bytes())
                    && uri.port.is_some_and(|number| port.parse() == Ok(number))
            })
        };
        request.values(Name::Route).take_while(|value| names_us(value.bytes)).count()
    }

    /// The connection that leads to a binding: its own while it stands; behind a front-end any other of it.
    fn way_to(&self, binding: &Binding) -> Option<ConnId> {
        if self.streams.is_usable(binding.conn) {
            return Some(binding.conn);
        }
        if binding.path.is_empty() { None } else { self.any_front_end() }
    }

    fn any_front_end(&self) -> Option<ConnId> {
        self.front_ends.iter().copied().find(|conn| self.streams.is_usable(*conn))
    }

    fn advertised(&self, conn: ConnId) -> &str {
        let listener = self.streams.get(conn).map_or(0, |stream| stream.owner);
        self.settings.listeners.get(listener as usize).map_or("", |listener| &listener.advertised)
    }

    /// Answers as the user agent server.
    fn serve(&mut self, now: Instant, conn: ConnId, request: &Message<'_>) {
        let Some(place) = place(&self.settings, &self.streams, conn) else { return };
        let uri = request.request_uri_span().map_or(&b""[..], |span| request.text(span));
        let user = Uri::parse(uri).ok().and_then(|uri| user_of(&uri));
        self.text.clear();
        let status = self.callee.request(now, place, user.as_deref(), request, &mut self.text);
        if status != 0 {
            self.counts.requests_answered += 1;
        }
        self.send_text(conn);
    }

    /// Answers with a status alone; an ACK gets none.
    fn answer(
        &mut self,
        conn: ConnId,
        request: &Message<'_>,
        status: u16,
        extra: &[(&str, &[u8])],
    ) {
        if request.method() == Method::Ack {
            return;
        }
        let Some(place) = place(&self.settings, &self.streams, conn) else { return };
        self.text.clear();
        self.callee.plain(place, request, status, extra, &mut self.text);
        self.counts.requests_answered += 1;
        self.send_text(conn);
    }

    fn send_text(&mut self, conn: ConnId) {
        if !self.text.is_empty() && !self.streams.send(conn, [&self.text[..]].into_iter()) {
            self.counts.undeliverable += 1;
        }
    }
}

/// What the callee needs to know of a connection.
fn place<'s>(settings: &'s Settings, streams: &Streams, conn: ConnId) -> Option<Place<'s>> {
    let stream = streams.get(conn)?;
    let listener = settings.listeners.get(stream.owner as usize);
    Some(Place {
        conn,
        advertised: listener.map_or("", |listener| &listener.advertised),
        transport: if stream.is_tls() { "TLS" } else { "TCP" },
        peer: stream.peer,
    })
}

/// The registrar.
impl Registrar {
    fn register(&mut self, now: Instant, conn: ConnId, request: &Message<'_>) {
        self.counts.registers += 1;
        let unknown = unsupported(request, Name::Require, &["path", "outbound"]);
        if !unknown.is_empty() {
            return self.answer(conn, request, 420, &[("Unsupported", &unknown)]);
        }
        let user = request.to_uri().ok().and_then(|uri| user_of(&Uri::parse(uri).ok()?));
        let Some(user) = user else { return self.answer(conn, request, 404, &[]) };
        let path = joined(request, Name::Path);
        match self.store(now, conn, &user, &path, request) {
            Ok(outbound) => self.registered(now, conn, &user, &path, outbound, request),
            Err(status) => self.answer(conn, request, status, &[]),
        }
    }

    /// Changes the bindings as the request says. True: a flow was bound (RFC 5626 6).
    fn store(
        &mut self,
        now: Instant,
        conn: ConnId,
        user: &[u8],
        path: &[u8],
        request: &Message<'_>,
    ) -> Result<bool, u16> {
        let call_id = request.call_id().map_err(|_| 400_u16)?;
        let cseq = request.cseq().map_err(|_| 400_u16)?.number;
        let header = request.first(Name::Expires).map(|header| request.value(header));
        let values: SmallVec<[&[u8]; 4]> = request
            .values(Name::Contact)
            .map(|value| value.bytes)
            .filter(|value| !value.is_empty())
            .take(CONTACTS_MAX + 1)
            .collect();
        if values.contains(&&b"*"[..]) {
            // RFC 3261 10.3 step 6: alone, and with Expires 0.
            if values.len() > 1 || header.and_then(decimal) != Some(0) {
                return Err(400);
            }
            self.location.clear(now, user, call_id, cseq).map_err(status_of)?;
            return Ok(false);
        }
        let first_hop = first_hop_has_outbound(request);
        let mut texts: SmallVec<[Vec<u8>; 4]> = SmallVec::new();
        for value in &values {
            texts.push(kept_parameters(&NameAddr::parse(value).map_err(|_| 400_u16)?, value));
        }
        let mut contacts: SmallVec<[Contact<'_>; 4]> = SmallVec::new();
        for (value, parameters) in values.iter().zip(&texts) {
            contacts.push(contact(value, parameters, header, first_hop, request)?);
        }
        let added = contacts.iter().filter(|contact| contact.expires > 0);
        let flows = added.clone().filter(|contact| contact.flow.is_some()).count();
        if flows > 0 && added.count() > 1 {
            return Err(400);
        }
        let update = Update { call_id, cseq, path, conn, contacts: &contacts };
        if !contacts.is_empty() {
            self.location.update(now, user, &update).map_err(status_of)?;
        }
        Ok(flows > 0)
    }

    /// 200 with all bindings of the user (RFC 3261 10.3 step 8), and Path as it came (RFC 3327 5.3).
    fn registered(
        &mut self,
        now: Instant,
        conn: ConnId,
        user: &[u8],
        path: &[u8],
        outbound: bool,
        request: &Message<'_>,
    ) {
        let mut list = Vec::new();
        for binding in self.location.bindings(user).unwrap_or_default() {
            let seconds = binding.expires_at.since(now).as_secs_f64().ceil();
            let comma: &[u8] = if list.is_empty() { b"" } else { b", " };
            let expires = format!(";expires={seconds:.0}");
            for part in [comma, b"<", &binding.uri, b">", &binding.parameters, expires.as_bytes()] {
                list.extend_from_slice(part);
            }
        }
        let mut extra: SmallVec<[(&str, &[u8]); 5]> = SmallVec::new();
        if !list.is_empty() {
            extra.push(("Contact", &list));
        }
        if !path.is_empty() && request.has_option(Name::Supported, b"path") {
            extra.push(("Path", path));
        }
        if outbound {
            extra.push(("Require", b"outbound"));
        }
        extra.push(("Supported", SUPPORTED));
        extra.push(("Allow", ALLOW));
        self.answer(conn, request, 200, &extra);
    }
}

fn status_of(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::OutOfOrder => 500,
        Refusal::ContactsMany => 403,
        Refusal::BindingLarge => 513,
        Refusal::Full => 503,
    }
}

/// One Contact value of a REGISTER, or the status that refuses it.
fn contact<'a>(
    value: &'a [u8],
    parameters: &'a [u8],
    expires_header: Option<&[u8]>,
    first_hop: bool,
    request: &Message<'_>,
) -> Result<Contact<'a>, u16> {
    let name = NameAddr::parse(value).map_err(|_| 400_u16)?;
    let uri = Uri::parse(name.uri).map_err(|_| 400_u16)?;
    if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
        return Err(400);
    }
    // A value that cannot be read counts as absent (RFC 3261 10.3 step 7).
    let seconds =
        |text: &[u8]| decimal(text).map(|seconds| seconds.min(u64::from(u32::MAX)) as u32);
    let own = name.param("expires").flatten().and_then(seconds);
    let expires = own.or_else(|| expires_header.and_then(seconds)).unwrap_or(EXPIRES_DEFAULT);
    let reg_id = name.param("reg-id").flatten().and_then(decimal).filter(|id| *id > 0);
    let instance = name.param("+sip.instance").flatten();
    let flow = match (reg_id, instance) {
        (Some(reg_id), Some(instance)) if first_hop => {
            Some(Flow { instance, reg_id: u32::try_from(reg_id).map_err(|_| 400_u16)? })
        }
        (Some(_), Some(_)) if request.has_option(Name::Supported, b"outbound") => return Err(439),
        _ => None,
    };
    Ok(Contact { uri: name.uri, parameters, flow, expires })
}

/// Whether the element next to the phone has promised to keep its flow (RFC 5626 6): us, or whoever wrote `ob` in Path.
fn first_hop_has_outbound(request: &Message<'_>) -> bool {
    if !request.has_option(Name::Supported, b"outbound") {
        return false;
    }
    if request.vias().nth(1).is_none() {
        return true;
    }
    request.values(Name::Path).any(|value| {
        let uri = NameAddr::parse(value.bytes).ok().and_then(|path| Uri::parse(path.uri).ok());
        uri.is_some_and(|uri| uri.ob())
    })
}

/// Parameters of a Contact that are kept and shown again: all but `expires` and `q`.
fn kept_parameters(name: &NameAddr<'_>, value: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    for parameter in name.params() {
        let named = parameter.name.of(value);
        if !named.eq_ignore_ascii_case(b"expires") && !named.eq_ignore_ascii_case(b"q") {
            kept.extend_from_slice(parameter.whole.of(value));
        }
    }
    kept
}

/// All values of a header as one list; empty if there is none.
fn joined(request: &Message<'_>, name: Name) -> Vec<u8> {
    let mut list = Vec::new();
    for value in request.values(name) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(value.bytes);
    }
    list
}

fn is_sips(uri: &[u8]) -> bool {
    uri.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"sips:"))
}

/// The branch that we write: cookie, slot and generation of the connection that asked, a part of the request's own
/// branch, and a tag over all that a response must bring back, the connection it comes on included.
const COOKIE: &[u8] = b"z9hG4bKrfrly";
const BRANCH_BYTES: usize = COOKIE.len() + 8 + 8 + 16 + 16;

/// The stateless proxy (RFC 3261 16.11).
impl Registrar {
    /// Sends a request on: to a Contact along the Path of its registration, or along its own Route.
    fn relay(
        &mut self,
        conn: ConnId,
        request: &Message<'_>,
        to: ConnId,
        contact: Option<&[u8]>,
        path: &[u8],
    ) {
        let unknown = unsupported(request, Name::ProxyRequire, &[]);
        if !unknown.is_empty() {
            return self.answer(conn, request, 420, &[("Unsupported", &unknown)]);
        }
        let hops = request.max_forwards().ok().flatten().unwrap_or(71);
        if hops == 0 {
            return self.answer(conn, request, 483, &[]);
        }
        let (Ok(via), Some(peer)) =
            (request.top_via(), self.streams.get(conn).map(|from| from.peer))
        else {
            return self.answer(conn, request, 400, &[]);
        };
        let transport = match self.streams.get(to) {
            Some(stream) if stream.is_tls() => "TLS",
            _ => "TCP",
        };
        let branch = self.branch(conn, to, request);
        let mut patch = Patch::new(request);
        patch.push_via_with(|writer| {
            for part in ["SIP/2.0/", transport, " ", self.advertised(to), ";branch="] {
                writer.push(part.as_bytes());
            }
            writer.push(&branch);
        });
        patch.set_received_rport(&via, peer.ip(), peer.port());
        patch.set_max_forwards(hops - 1);
        patch.remove_values(Name::Route, self.own_routes(conn, request));
        if let Some(contact) = contact {
            let was_sips = request.request_uri_span().is_some_and(|uri| is_sips(request.text(uri)));
            match contact.get(4..) {
                // The scheme that was asked for stays (RFC 5630 5.3).
                Some(rest) if is_sips(contact) && !was_sips => {
                    patch.replace_request_uri(&[b"sip", rest].concat());
                }
                _ => patch.replace_request_uri(contact),
            }
        }
        if !path.is_empty() {
            patch.prepend_header(Name::Route, path);
        }
        patch.plain_content_length();
        if self.streams.send(to, patch.pieces()) {
            self.counts.requests_relayed += 1;
        } else {
            self.counts.undeliverable += 1;
            self.answer(conn, request, 480, &[]);
        }
    }

    /// The same for a request, its CANCEL and the ACK of a refusal: the method is not in it (RFC 3261 16.11).
    fn branch(&self, conn: ConnId, to: ConnId, request: &Message<'_>) -> [u8; BRANCH_BYTES] {
        let via = request.top_via().ok().and_then(|via| via.branch()).unwrap_or_default();
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let unique = self.keys.tag(&[b"unique", via]);
        let tag = self.tag(conn, to, unique, request.call_id().unwrap_or_default(), cseq);
        let mut branch = [0; BRANCH_BYTES];
        let (cookie, mut digits) = branch.split_at_mut(COOKIE.len());
        cookie.copy_from_slice(COOKIE);
        let parts = format_args!("{:08x}{:08x}{unique:016x}{tag:016x}", conn.slot, conn.generation);
        std::io::Write::write_fmt(&mut digits, parts).expect("the digits are counted");
        branch
    }

    fn tag(&self, conn: ConnId, to: ConnId, unique: u64, call_id: &[u8], cseq: u32) -> u64 {
        let number = |conn: ConnId| {
            ((u64::from(conn.slot) << 32) | u64::from(conn.generation)).to_be_bytes()
        };
        self.keys.tag(&[
            &number(conn),
            &number(to),
            &unique.to_be_bytes(),
            call_id,
            &cseq.to_be_bytes(),
        ])
    }

    /// Passes a response on to whoever asked (RFC 3261 16.7 and 16.11).
    fn response(&mut self, conn: ConnId, response: &Message<'_>) {
        let Start::Response { status, .. } = response.start() else { return };
        let branch = response.top_via().ok().and_then(|via| via.branch()).unwrap_or_default();
        if Callee::is_bye_branch(branch) || status == 100 {
            return;
        }
        let asked = self.asked(conn, branch, response).filter(|_| response.vias().nth(1).is_some());
        let Some(to) = asked else {
            self.counts.responses_refused += 1;
            return;
        };
        let mut patch = Patch::new(response);
        patch.pop_top_via();
        patch.plain_content_length();
        if self.streams.send(to, patch.pieces()) {
            self.counts.responses_relayed += 1;
        } else {
            self.counts.undeliverable += 1;
        }
    }

    /// The connection that a response goes to, if its branch is one of ours, made for this call and for the connection
    /// that the response came on.
    fn asked(&self, conn: ConnId, branch: &[u8], response: &Message<'_>) -> Option<ConnId> {
        let digits = branch.strip_prefix(COOKIE).filter(|_| branch.len() == BRANCH_BYTES)?;
        let number = |from: usize, to: usize| {
            u64::from_str_radix(std::str::from_utf8(&digits[from..to]).ok()?, 16).ok()
        };
        let to = ConnId { slot: number(0, 8)? as u32, generation: number(8, 16)? as u32 };
        let (unique, tag) = (number(16, 32)?, number(32, 48)?);
        let cseq = response.cseq().ok()?.number;
        (self.tag(to, conn, unique, response.call_id().ok()?, cseq) == tag).then_some(to)
    }
}

impl Machine for Registrar {
    type Settings = Settings;
    type Envelope = Infallible;
    type Report = Counts;

    fn configure(&mut self, _now: Instant, settings: Arc<Settings>) {
        self.settings = settings;
    }

    fn admit(&mut self, _now: Instant, arrival: Arrival) -> Option<ConnId> {
        let listener = self.settings.listeners.get(arrival.listener as usize)?;
        let session = listener.tls.as_ref().map(Session::server);
        let conn = self.streams.accept(arrival, session)?;
        self.counts.connections += 1;
        Some(conn)
    }

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Received { conn, bytes } => self.received(now, conn, bytes),
            Input::Finished { conn } => self.streams.close(conn, false),
            // It never dials.
            Input::Connected { .. } => {}
            Input::Sent { conn, chunk } => self.streams.sent(conn, chunk),
            Input::Closed { conn, .. } => {
                self.streams.closed(conn);
                self.front_ends.retain(|front_end| *front_end != conn);
            }
            Input::Tick => {
                self.location.expire(now);
                loop {
                    self.text.clear();
                    let streams = &self.streams;
                    let usable = |conn| streams.is_usable(conn);
                    let Some(due) = self.callee.due(now, usable, &mut self.text) else { break };
                    self.send_text(due.conn);
                }
            }
            Input::Drain { .. } => self.draining = true,
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
        self.location.deadline().min(self.callee.deadline())
    }

    fn report(&mut self, _now: Instant, spare: Counts) -> Counts {
        let mut counts = std::mem::replace(&mut self.counts, spare);
        counts.users = self.location.users();
        counts.calls_waiting = self.callee.waiting();
        counts
    }

    /// The front-end decides when calls have ended; the backend has no work of its own to wait for.
    fn drained(&self) -> bool {
        self.draining && self.callee.waiting() == 0
    }
}
