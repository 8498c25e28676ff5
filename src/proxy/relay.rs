//! What happens to messages: requests are checked, routed, edited and queued, or answered; responses follow their
//! branch. Owns nothing of its own. Never touches bytes that are not a whole message.
//! Invariant: every request that is taken ends in exactly one of forwarded, answered, or refused with a name.

use std::fmt::Write;

use smallvec::SmallVec;

use crate::base::machine::ConnId;
use crate::config::snapshot::Transport;
use crate::sip::text::may_hold;
use crate::sip::{
    Fault, FrameState, Framed, Message, Method, Name, Patch, RequestParts, ResponseParts, Scheme,
    Start, Via, frame, reply,
};
use crate::telemetry::counter::{Outcome, Refused, TransportRefused};
use crate::telemetry::latency::Stage;

use super::connection::Source;
use super::forward::{self, Way};
use super::refusal::Refusal;
use super::route::{Answer, Routed, Router, Target};
use super::settings::Order;
use super::token::{self, Branch, BranchKey, FlowId, PeerId, UniqueFields};
use super::{Context, Core, Envelope, EnvelopeKind, Origin};

/// What we say in an OPTIONS answer.
const ALLOW: &[u8] =
    b"INVITE, ACK, BYE, CANCEL, OPTIONS, REGISTER, MESSAGE, SUBSCRIBE, NOTIFY, REFER, INFO, PRACK, UPDATE, PUBLISH";
const SUPPORTED: &[u8] = b"path, outbound";

/// What a request says of itself, read once, and the parts of its branch.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub request: RequestParts<'a>,
    pub unique: u64,
    pub loop_part: u32,
    /// The attempt of a transaction whose state is kept; `None`: it goes out statelessly.
    pub attempt: Option<u8>,
}

impl Keys<'_> {
    /// The branch that the request goes to `peer` with.
    pub(super) fn write_branch(
        &self,
        cx: Context<'_>,
        flow: FlowId,
        peer: PeerId,
    ) -> [u8; token::BRANCH_TEXT] {
        let branch = Branch {
            stateful: self.attempt.is_some(),
            flow,
            attempt: self.attempt.unwrap_or_default(),
            unique: self.unique,
            loop_part: self.loop_part,
        };
        let parts = &self.request.parts;
        cx.settings.branch_key.write(&branch, peer, parts.call_id, parts.cseq.number)
    }
}

impl Core {
    /// One message of a connection.
    pub(super) fn message(&mut self, cx: Context<'_>, source: &Source, message: &Message<'_>) {
        let zone = &mut self.counters.zones[usize::from(source.zone)];
        if message.is_request() {
            zone.requests[message.method() as usize] += 1;
            self.request(cx, source, message);
        } else {
            zone.responses += 1;
            self.response(cx, source, message);
        }
    }

    fn request(&mut self, cx: Context<'_>, source: &Source, message: &Message<'_>) {
        if let Err(answer) = self.admit_request(cx, source, message) {
            return self.answer(cx, source, message, answer);
        }
        let keys = match message.read_request() {
            Ok(request) => keys(cx, source, message, request),
            Err(fault) => {
                self.counters.fault(fault.kind as usize);
                self.refuse(source, Refused::Malformed, Some(fault));
                return self.answer_fault(cx, source, message, fault);
            }
        };
        if keys.request.parts.via.transport.eq_ignore_ascii_case(b"UDP") {
            self.counters.refuse_transport(TransportRefused::Via);
        }
        if !self.transactions.is_empty() && self.under_way(cx, source, message, &keys) {
            return;
        }
        match self.judge(cx, source, message, &keys, &[]) {
            Ok(routed) => self.send_on(cx, source, message, &keys, &routed),
            Err(answer) => self.answer(cx, source, message, answer),
        }
    }

    /// Rates and bans: before anything of the message is believed.
    fn admit_request(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
    ) -> Result<(), Answer> {
        if source.trusted {
            return Ok(());
        }
        // No Retry-After: those who come back together would only be next (RFC 7339 5.10.2).
        if self.overload.sheds(message, &mut self.random) {
            return Err(Answer::new(503, Refused::Overload));
        }
        let address = source.peer.ip();
        let limits = &cx.settings.snapshot.limits;
        if limits.failures_per_prefix.is_some() && self.buckets.banned(address, cx.now) {
            return Err(Answer::new(503, Refused::Banned));
        }
        let conn = self.conn_of(source.flow);
        if let Some(connection) = conn.and_then(|conn| self.connections.get_mut(conn))
            && !self.rates.requests_per_connection.take(&mut connection.request_tat, cx.now)
        {
            return Err(Answer::new(503, Refused::RateConnection));
        }
        if !self.buckets.request(address, cx.now, &self.rates.requests_per_prefix) {
            return Err(Answer::new(503, Refused::RatePrefix));
        }
        if let Some(bucket) = &self.rates.requests_per_aor
            && let Ok(aor) = message.to_uri()
            && !self.buckets.aor(cx.settings.branch_key.table_hash(aor), cx.now, bucket)
        {
            return Err(Answer::new(503, Refused::RateAor));
        }
        Ok(())
    }

    /// RFC 3261 16.3 to 16.5, in that order: may it pass, and where does it go?
    pub(super) fn judge<'a>(
        &self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'a>,
        keys: &Keys<'a>,
        tried: &[PeerId],
    ) -> Result<Routed<'a>, Answer> {
        let method = keys.request.method;
        if !matches!(keys.request.uri.scheme, Scheme::Sip | Scheme::Sips | Scheme::Tel) {
            return Err(Answer::new(416, Refused::UnknownScheme));
        }
        let last_hop = keys.request.parts.max_forwards == Some(0);
        if last_hop && method != Method::Options {
            return Err(Answer::new(483, Refused::MaxForwards));
        }
        if loops(cx, message, keys) {
            return Err(Answer::new(482, Refused::Loop));
        }
        if message.first(Name::ProxyRequire).is_some() {
            return Err(Answer::new(420, Refused::ProxyRequire));
        }
        let router = Router {
            settings: cx.settings,
            upstream: &self.upstream,
            pending: &self.pending,
            source,
            unique: keys.unique,
            // What was taken before goes on.
            draining: self.drain.is_some() && tried.is_empty(),
            tried,
            decided: None,
            now: cx.now,
        };
        let mut routed = router.route(message, &keys.request)?;
        if last_hop {
            routed.target = Target::Local;
        }
        Ok(routed)
    }

    fn send_on(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        keys: &Keys<'_>,
        routed: &Routed<'_>,
    ) {
        match routed.target {
            Target::Local => self.answer_options(cx, source, message),
            Target::Backend { backend, conn } => {
                if self.keeps_state(cx, source, keys, backend) {
                    return self.begin(cx, source, message, keys, routed);
                }
                let sent =
                    self.forward_to_backend(cx, source, message, keys, routed, (backend, conn));
                if let Err(answer) = sent {
                    self.answer(cx, source, message, answer);
                }
            }
            Target::Flow(flow) if flow.worker != self.worker => {
                self.cross(cx, source, message, flow);
            }
            Target::Flow(flow) => {
                let conn = self.conn_of(flow).filter(|conn| {
                    self.connections.get(*conn).is_some_and(|it| it.takes_messages())
                });
                let Some(conn) = conn else {
                    return self.answer(cx, source, message, Answer::new(430, Refused::FlowGone));
                };
                let backend = source.backends.first().copied().unwrap_or(routed.dialog_backend);
                let (peer, dialog) = (PeerId::flow(flow), (flow, backend));
                let sent = self.forward(cx, source, message, keys, routed, conn, peer, dialog);
                if let Err(answer) = sent {
                    self.answer(cx, source, message, answer);
                }
            }
        }
    }

    /// Forwards to a backend and counts what came of it there.
    pub(super) fn forward_to_backend(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        keys: &Keys<'_>,
        routed: &Routed<'_>,
        (backend, conn): (usize, ConnId),
    ) -> Result<(), Answer> {
        let peer = cx.settings.backends()[backend].peer;
        let dialog = (source.flow, peer);
        let sent = self.forward(cx, source, message, keys, routed, conn, peer, dialog);
        let outcome = if sent.is_ok() { Outcome::Sent } else { Outcome::Refused };
        self.counters.backends[backend][outcome as usize] += 1;
        sent
    }

    /// Edits the request and queues it for `conn`; or how it is to be answered instead.
    #[expect(clippy::too_many_arguments, reason = "the whole of one forward, read once above")]
    pub(super) fn forward(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        keys: &Keys<'_>,
        routed: &Routed<'_>,
        conn: ConnId,
        peer: PeerId,
        (dialog_flow, dialog_backend): (FlowId, PeerId),
    ) -> Result<(), Answer> {
        let Some(connection) = self.connections.get(conn) else {
            return Err(Answer::new(503, Refused::NoBackend));
        };
        let (zone, transport) = (connection.zone, connection.transport);
        if routed.sips && transport != Transport::Tls {
            return Err(SIPS_REFUSED);
        }
        let text = keys.write_branch(cx, source.flow, peer);
        let parts = &keys.request.parts;
        let way = Way {
            zone,
            transport,
            family: connection.family(),
            branch: &text,
            dialog_flow,
            dialog_backend,
        };
        let mut patch = Patch::new(message);
        forward::request(cx.settings, parts, source, routed, &way, &mut patch);
        if self.queue(cx, conn, patch.len_max(), patch.pieces()).is_err() {
            return Err(Answer::new(503, Refused::LinkFull));
        }
        self.counters.zones[usize::from(zone)].requests_forwarded += 1;
        self.turn.requests += 1;
        let method = keys.request.method;
        if method != Method::Ack {
            self.pending.sent(keys.unique, method as u8, cx.now, cx.now, peer);
        }
        Ok(())
    }

    /// Hands the request to the worker that owns the flow.
    fn cross(&mut self, cx: Context<'_>, source: &Source, message: &Message<'_>, flow: FlowId) {
        if flow.worker >= cx.settings.workers {
            return self.answer(cx, source, message, Answer::new(430, Refused::FlowGone));
        }
        let mut bytes = self.take_buffer();
        bytes.extend_from_slice(message.bytes());
        let kind = EnvelopeKind::Request { source: Box::new(source.clone()) };
        self.counters.crossings += 1;
        let envelope = Envelope { kind, posted: cx.now, bytes };
        self.posts.push_back((u16::from(flow.worker), envelope));
    }

    /// An envelope from another worker: the request is judged here anew, by the same rules, and ends at a flow of ours;
    /// the response only wants its connection.
    pub(super) fn deliver(&mut self, cx: Context<'_>, envelope: Envelope) {
        self.latency.record(Stage::Crossing, cx.now.nanos_since(envelope.posted));
        match envelope.kind {
            EnvelopeKind::Request { source } => {
                self.reread(cx, &envelope.bytes, |core, message| {
                    let Ok(request) = message.read_request() else { return };
                    let keys = keys(cx, &source, message, request);
                    match core.judge(cx, &source, message, &keys, &[]) {
                        Ok(routed) => core.send_on(cx, &source, message, &keys, &routed),
                        Err(answer) => core.answer(cx, &source, message, answer),
                    }
                });
            }
            EnvelopeKind::Unjudged { source } => {
                self.reread(cx, &envelope.bytes, |core, message| {
                    core.response(cx, &source, message);
                });
            }
            EnvelopeKind::Response { flow, origin } => {
                let bytes = &envelope.bytes;
                self.deliver_response(cx, flow, origin, bytes.len(), std::iter::once(&bytes[..]));
            }
        }
        self.give_buffer(envelope.bytes);
    }

    /// The other worker's mailbox is full: the request is answered, a response is lost (and counted).
    pub(super) fn undelivered(&mut self, cx: Context<'_>, envelope: Envelope) {
        match envelope.kind {
            EnvelopeKind::Request { source } => {
                let full = Answer::new(503, Refused::MailboxFull);
                self.reread(cx, &envelope.bytes, |core, message| {
                    core.answer(cx, &source, message, full)
                });
            }
            EnvelopeKind::Response { origin, .. } => {
                self.counters.refuse(unsent(origin, Refused::ResponseUnsent));
            }
            EnvelopeKind::Unjudged { .. } => self.counters.refuse(Refused::ResponseUnsent),
        }
        self.give_buffer(envelope.bytes);
    }

    /// Messages that were whole when we copied them, one after the other.
    pub(super) fn reread(
        &mut self,
        cx: Context<'_>,
        bytes: &[u8],
        mut each: impl FnMut(&mut Core, &Message<'_>),
    ) {
        let mut rest = bytes;
        let limits = cx.settings.own_frame_limits();
        while let Ok(Framed::Message(message)) = frame(rest, &mut FrameState::default(), limits) {
            rest = &rest[message.len()..];
            each(self, &message);
        }
    }

    /// Requests that were queued for a peer and never sent: each is answered, by the branch that we had put on it.
    pub(super) fn bounce(&mut self, cx: Context<'_>, bytes: &[u8], peer: PeerId, status: u16) {
        self.reread(cx, bytes, |core, message| {
            if !message.is_request() {
                return;
            }
            let Some(branch) = own_branch(cx, message, peer) else { return };
            if branch.stateful {
                return core.attempt_unsent(cx, message, &branch);
            }
            core.counters.refuse(Refused::Unsent);
            if message.method() == Method::Ack {
                return core.counters.refuse(Refused::AckDropped);
            }
            let mut text = std::mem::take(&mut core.text);
            let tag = to_tag(cx, message);
            reply(message, status, None, &[], &tag, None, &mut text);
            core.counters.answer(status);
            core.reread(cx, &text, |core, response| {
                let Ok(parts) = response.read_response(b"") else { return };
                let mut patch = Patch::new(response);
                forward::response(cx.settings, &parts, &mut patch);
                let len = patch.len_max();
                core.deliver_response(cx, branch.flow, Origin::Own, len, patch.pieces());
            });
            text.clear();
            core.text = text;
        });
    }

    /// OPTIONS to ourselves: how we are (RFC 3261 11).
    fn answer_options(&mut self, cx: Context<'_>, source: &Source, message: &Message<'_>) {
        let usable = (0..cx.settings.backends().len()).any(|backend| {
            self.upstream.is_up(backend) && cx.settings.orders[backend] == Order::Up
        });
        if self.drain.is_some() {
            return self.answer(cx, source, message, Answer::new(503, Refused::Draining));
        }
        if !usable {
            return self.answer(cx, source, message, Answer::new(503, Refused::NoBackend));
        }
        let extra: [(&str, &[u8]); 3] =
            [("Allow", ALLOW), ("Accept", b"application/sdp"), ("Supported", SUPPORTED)];
        self.reply(cx, source, message, 200, &extra);
    }

    pub(super) fn answer_fault(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        fault: Fault,
    ) {
        if message.method() == Method::Ack {
            return self.counters.refuse(Refused::AckDropped);
        }
        self.reply(cx, source, message, fault.kind.status(), &[]);
    }

    /// Answers a request instead of forwarding it; an ACK is only counted (RFC 3261 17).
    pub(super) fn answer(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        answer: Answer,
    ) {
        self.refuse(source, answer.reason, None);
        if let Some(place) = answer.transport {
            self.counters.refuse_transport(place);
        }
        if message.method() == Method::Ack {
            return self.counters.refuse(Refused::AckDropped);
        }
        let mut warning = Vec::new();
        let mut unsupported = Vec::new();
        let mut extra: SmallVec<[(&str, &[u8]); 2]> = SmallVec::new();
        if let Some(text) = answer.warning {
            // 380 is SIPS Not Allowed (RFC 5630 5.3).
            let code =
                if answer.transport == Some(TransportRefused::Sips) { "380 " } else { "399 " };
            warning.extend_from_slice(code.as_bytes());
            warning.extend_from_slice(cx.settings.snapshot.node.as_bytes());
            warning.extend_from_slice(b" \"");
            warning.extend_from_slice(text.as_bytes());
            warning.push(b'"');
            extra.push(("Warning", &warning));
        }
        if answer.status == 420 {
            for value in message.values(Name::ProxyRequire) {
                if !unsupported.is_empty() {
                    unsupported.extend_from_slice(b", ");
                }
                unsupported.extend_from_slice(value.bytes);
            }
            extra.push(("Unsupported", &unsupported));
        }
        if answer.reason == Refused::Draining || answer.reason == Refused::NoBackend {
            extra.push(("Retry-After", self.retry_after()));
        }
        self.reply(cx, source, message, answer.status, &extra);
    }

    /// Spread, so that those who were refused together do not come back together.
    fn retry_after(&mut self) -> &'static [u8] {
        const SECONDS: [&[u8]; 10] =
            [b"5", b"6", b"7", b"8", b"9", b"10", b"11", b"12", b"13", b"14"];
        SECONDS[self.random.below(SECONDS.len() as u64) as usize]
    }

    pub(super) fn reply(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        status: u16,
        extra: &[(&str, &[u8])],
    ) {
        let mut text = std::mem::take(&mut self.text);
        let tag = to_tag(cx, message);
        let received = Some((source.peer.ip().to_canonical(), source.peer.port()));
        reply(message, status, None, extra, &tag, received, &mut text);
        self.counters.answer(status);
        self.note_status(cx, source, status);
        self.deliver_response(cx, source.flow, Origin::Own, text.len(), std::iter::once(&text[..]));
        text.clear();
        self.text = text;
    }

    /// A response: checked against the peer that was asked, our Via off, back by the branch (RFC 3261 16.7).
    fn response(&mut self, cx: Context<'_>, source: &Source, message: &Message<'_>) {
        let face = cx.settings.face(source.zone, source.transport, source.family());
        let parts = match message.read_response(&face.via) {
            Ok(parts) => parts,
            Err(fault) => {
                self.counters.fault(fault.kind as usize);
                return self.refuse(source, Refused::ResponseMalformed, Some(fault));
            }
        };
        match self.judge_response(cx, source, message, &parts) {
            Ok((branch, last)) if branch.stateful => {
                self.stateful_response(cx, source, message, &parts, &branch, last);
            }
            Ok((branch, last)) => {
                let ends_here = message.is_only_via(parts.via_end);
                if ends_here && self.takes_probe(cx, source, message, &branch) {
                    return;
                }
                self.pass_back(cx, source, message, &parts, &branch, last);
            }
            // A stateless hop ends every 100 (RFC 3261 16.11): no news.
            Err(Refused::ResponseTrying) => self.counters.refuse(Refused::ResponseTrying),
            Err(reason) => self.refuse(source, reason, None),
        }
    }

    /// Counts a refused message, and has the log tell it.
    pub(super) fn refuse(&mut self, source: &Source, reason: Refused, fault: Option<Fault>) {
        self.counters.refuse(reason);
        let (peer, zone) = (source.peer, source.zone);
        self.refusals.note(Refusal { peer, zone, reason, fault });
    }

    /// A response that is the client's: noted, our Via off, and back on the connection that its request came on.
    pub(super) fn pass_back(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        parts: &ResponseParts<'_>,
        branch: &Branch,
        last: bool,
    ) {
        self.note_answered(cx, source, message, parts, branch, last);
        if message.is_only_via(parts.via_end) {
            return self.counters.refuse(Refused::ResponseEndsHere);
        }
        let mut patch = Patch::new(message);
        forward::response(cx.settings, parts, &mut patch);
        let len = patch.len_max();
        if self.deliver_response(cx, branch.flow, Origin::Peer, len, patch.pieces()) {
            self.turn.responses += 1;
        }
    }

    /// Whose response it is, and whether it is a final one.
    fn judge_response(
        &self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        parts: &ResponseParts<'_>,
    ) -> Result<(Branch, bool), Refused> {
        let (call_id, cseq) = (parts.call_id, parts.cseq.number);
        if parts.sent_by.is_some_and(|(host, port)| !cx.settings.is_own(host, port)) {
            return Err(Refused::ResponseNotOurs);
        }
        let read = parts.branch.and_then(BranchKey::read).ok_or(Refused::ResponseNotOurs)?;
        let verify = |peer| read.verify(&cx.settings.branch_key, peer, call_id, cseq);
        let branch = source.backends.iter().find_map(|backend| verify(*backend));
        let branch =
            branch.or_else(|| verify(PeerId::flow(source.flow))).ok_or(Refused::ResponseForged)?;
        let Start::Response { status, .. } = message.start() else {
            return Err(Refused::ResponseMalformed);
        };
        if status == 100 && !branch.stateful {
            return Err(Refused::ResponseTrying);
        }
        if goes_to_everybody(message, parts.via_end) {
            return Err(Refused::ResponseBroadcast);
        }
        Ok((branch, status >= 200))
    }

    fn note_answered(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        parts: &ResponseParts<'_>,
        branch: &Branch,
        last: bool,
    ) {
        let method = Method::from_bytes(parts.cseq.method);
        if let Some(answered) = self.pending.answered(branch.unique, method as u8, cx.now, last) {
            if let Some(nanos) = answered.backend {
                self.latency.record(Stage::Backend, nanos);
            }
            if let Some(received) = answered.received {
                self.latency.record(Stage::Transaction, cx.now.nanos_since(received));
            }
        }
        if last && let Some(peer) = source.backends.first() {
            let backend = cx.settings.backends().iter().position(|place| place.peer == *peer);
            if let Some(backend) = backend {
                self.counters.backends[backend][Outcome::Answered as usize] += 1;
            }
        }
        let Start::Response { status, .. } = message.start() else { return };
        let Some(conn) = self.conn_of(branch.flow) else { return };
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if method == Method::Register && (200..300).contains(&status) {
            connection.registered = true;
        }
        let asker = connection.peer.ip();
        let trusted = cx.settings.snapshot.zones[usize::from(connection.zone)].trusted;
        if !trusted && let Some(limit) = cx.settings.snapshot.limits.failures_per_prefix {
            match status {
                401 | 403 | 404 => self.buckets.failed(asker, cx.now, limit),
                200..=299 => self.buckets.succeeded(asker),
                _ => {}
            }
        }
    }

    /// Failures that we answer ourselves count like those of a backend.
    fn note_status(&mut self, cx: Context<'_>, source: &Source, status: u16) {
        if !source.trusted
            && matches!(status, 401 | 403 | 404)
            && let Some(limit) = cx.settings.snapshot.limits.failures_per_prefix
        {
            self.buckets.failed(source.peer.ip(), cx.now, limit);
        }
    }

    /// A response on its last step: to the connection that asked, on this worker or another.
    fn deliver_response<'p>(
        &mut self,
        cx: Context<'_>,
        flow: FlowId,
        origin: Origin,
        len_max: usize,
        pieces: impl Iterator<Item = &'p [u8]>,
    ) -> bool {
        if flow.worker != self.worker && flow.worker < cx.settings.workers {
            let mut bytes = self.take_buffer();
            pieces.for_each(|piece| bytes.extend_from_slice(piece));
            let kind = EnvelopeKind::Response { flow, origin };
            self.counters.crossings += 1;
            let envelope = Envelope { kind, posted: cx.now, bytes };
            self.posts.push_back((u16::from(flow.worker), envelope));
            return true;
        }
        let conn = self.conn_of(flow);
        let connection = conn.and_then(|conn| self.connections.get(conn));
        let (Some(conn), Some(connection)) = (conn, connection) else {
            self.counters.refuse(unsent(origin, Refused::ResponseFlowGone));
            return false;
        };
        let zone = usize::from(connection.zone);
        match self.queue(cx, conn, len_max, pieces) {
            Ok(()) => {
                let forwarded = u64::from(origin == Origin::Peer);
                self.counters.zones[zone].responses_forwarded += forwarded;
                true
            }
            Err(_) => {
                // A client whose outbox is full is closed by `queue`; a link keeps what it has.
                self.counters.refuse(unsent(origin, Refused::ResponseUnsent));
                false
            }
        }
    }
}

/// The name of a response that nobody could be given: an answer of our own has one name whatever the reason.
const fn unsent(origin: Origin, reason: Refused) -> Refused {
    match origin {
        Origin::Peer => reason,
        Origin::Own => Refused::AnswerUnsent,
    }
}

/// `sips` means TLS on every hop (RFC 5630 5.3); the next one is not.
const SIPS_REFUSED: Answer = Answer {
    status: 480,
    reason: Refused::TransportPolicy,
    transport: Some(TransportRefused::Sips),
    warning: Some("sips needs TLS and the next hop has none"),
};

pub(super) fn keys<'a>(
    cx: Context<'_>,
    source: &Source,
    message: &Message<'a>,
    request: RequestParts<'a>,
) -> Keys<'a> {
    let parts = &request.parts;
    let from_tag = parts.from.tag().unwrap_or_default();
    let cseq = parts.cseq.number;
    let key = &cx.settings.branch_key;
    let unique = key.unique(&UniqueFields {
        branch: parts.via.branch().unwrap_or_default(),
        sent_by: parts.via.host,
        call_id: parts.call_id,
        cseq,
        from_tag,
        source: source.peer.ip(),
        zone: source.zone,
    });
    let uri = message.request_uri_span().map_or(&b""[..], |span| message.text(span));
    let routes = message.values(Name::Route).map(|value| value.bytes);
    let loop_part = key.loop_part(uri, routes, parts.call_id, from_tag, cseq, source.zone);
    Keys { request, unique, loop_part, attempt: None }
}

/// Whether a Via below ours would have the next element send to the broadcast address (RFC 4475 3.3.18).
fn goes_to_everybody(message: &Message<'_>, top: u32) -> bool {
    const EVERYBODY: &[u8] = b"255.255.255.255";
    message.below_top_via(top).any(|text| may_hold(text, b"255.", 0))
        && message.vias().skip(1).any(|via| via.is_ok_and(|via| via.host == EVERYBODY))
}

/// The branch that we put on a request for this peer.
fn own_branch(cx: Context<'_>, message: &Message<'_>, peer: PeerId) -> Option<Branch> {
    let read = BranchKey::read(message.top_via().ok()?.branch()?)?;
    let (call_id, cseq) = (message.call_id().ok()?, message.cseq().ok()?);
    read.verify(&cx.settings.branch_key, peer, call_id, cseq.number)
}

/// Whether the request has been here with the same Request-URI and Route (RFC 5393 4.2.2). Lower values are only parsed
/// where the beginning of a branch of ours may stand.
fn loops(cx: Context<'_>, message: &Message<'_>, keys: &Keys<'_>) -> bool {
    const BEGINNING: &[u8; 4] = token::BEGINNING.last_chunk().expect("it is longer");
    let is_ours = |via: &Via<'_>| {
        let read = via.branch().and_then(BranchKey::read);
        read.is_some_and(|read| read.loop_part() == keys.loop_part)
            && cx.settings.is_own(via.host, via.port)
    };
    let top = &keys.request.parts.via;
    is_ours(top)
        || message.below_top_via(top.end()).any(|text| may_hold(text, BEGINNING, 0))
            && message.vias().skip(1).any(|via| via.is_ok_and(|via| is_ours(&via)))
}

/// A To tag for our own responses: the same for the same request, so that a stateless answer can be repeated
/// (RFC 3261 8.2.7).
fn to_tag(cx: Context<'_>, message: &Message<'_>) -> SmallVec<[u8; 16]> {
    let via = message.top_via().ok();
    let branch = via.as_ref().and_then(|via| via.branch()).unwrap_or_default();
    let hash = cx.settings.branch_key.table_hash(branch);
    let mut text = TagText(SmallVec::new());
    // Writing into a SmallVec cannot fail.
    let _ = write!(text, "{hash:016x}");
    text.0
}

struct TagText(SmallVec<[u8; 16]>);

impl Write for TagText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
