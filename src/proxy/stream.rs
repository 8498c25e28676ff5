//! What happens to bytes: first byte, handshake, decryption, framing, keepalive, the outbox, deadlines, the end.
//! Owns nothing of its own. Never looks at a header.
//! Invariant: received bytes are not referenced after the call that lent them.

use crate::base::chunk::Chunk;
use crate::base::limits;
use crate::base::machine::{ConnId, Output};
use crate::base::time::{Duration, Instant};
use crate::config::snapshot::Transport;
use crate::sip::frame::is_pong;
use crate::sip::{Framed, frame, salvage};
use crate::telemetry::counter::{Closed, HandshakeLabel, Refused, ReportLabel, TransportRefused};
use crate::telemetry::latency::Stage;
use crate::tls::fault::CLOSE_NOTIFY;
use crate::tls::session::{Foreseen, Session};

use super::connection::{Connection, NoRoom, Phase, Role, Source};
use super::preface::{self, HEADER_BYTES_MAX, Preface};
use super::route::Answer;
use super::{Context, Core};

/// After our last word the peer has so long to read it before the connection is cut.
const LINGER: Duration = Duration::from_secs(1);
/// A peer that takes nothing for so long does not read.
const SEND_STALL: Duration = Duration::from_secs(10);
/// The rate of a message under way is judged after this time, and again each second.
const RATE_GRACE: Duration = Duration::from_secs(2);
const RATE_STEP: Duration = Duration::from_secs(1);
/// The header of the PROXY protocol must be whole by then (its specification wants three seconds at least).
const PROXY_DEADLINE: Duration = Duration::from_secs(3);
/// CRLF pings: 20 within 5 seconds.
const PING_INTERVAL: u64 = 250_000_000;
const PING_BURST: u64 = 19 * PING_INTERVAL;
/// The first byte of a TLS record that begins a handshake (RFC 8446 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Ciphertext that may wait for the handshake budget: a ClientHello of 16 KiB and what follows it.
const HANDSHAKE_BYTES_MAX: usize = 40 * 1024;

impl Core {
    /// Bytes of a connection.
    pub(super) fn received(&mut self, cx: Context<'_>, conn: ConnId, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.last_received = cx.now;
        connection.unheard_since = Instant::FAR;
        let mut bytes = bytes;
        match connection.phase {
            Phase::Preface => {
                if connection.proxy_owed {
                    let Some(used) = self.proxy_header(cx, conn, bytes) else { return };
                    bytes = &mut bytes[used..];
                }
                let Some(&first) = bytes.first() else { return };
                if !self.preface(cx, conn, first) {
                    return;
                }
            }
            Phase::Lingering | Phase::Closing | Phase::Dialling => return,
            Phase::Handshaking | Phase::Open => {}
        }
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.session.is_none() {
            self.plain_bytes(cx, conn, bytes);
        } else if connection.phase == Phase::Handshaking {
            self.handshake(cx, conn, bytes);
        } else {
            self.decrypt(cx, conn, bytes);
        }
    }

    /// The header that must come first: how many of `bytes` belong to it when it ends here; `None`: it does not, or the
    /// connection ends.
    fn proxy_header(&mut self, cx: Context<'_>, conn: ConnId, bytes: &[u8]) -> Option<usize> {
        let connection = self.connections.get_mut(conn)?;
        let before = connection.ciphertext.len();
        // What follows the header has no place here: at most one header is kept.
        let room = (HEADER_BYTES_MAX + 1).saturating_sub(before);
        connection.ciphertext.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let outcome = match preface::read(&connection.ciphertext) {
            Ok(Preface::Partial) => return None,
            Ok(Preface::Whole { len, peer }) => {
                // A proxy that speaks for itself is its own peer.
                let peer = peer.unwrap_or(connection.peer);
                connection.proxy_owed = false;
                connection.ciphertext = Vec::new();
                self.named(cx, conn, peer).map(|()| len - before)
            }
            Err(cause) => Err(cause),
        };
        match outcome {
            Ok(used) => {
                self.arm(cx, conn);
                Some(used)
            }
            Err(cause) => {
                self.abort(cx, conn, cause);
                None
            }
        }
    }

    /// The first byte tells TLS from SIP; each listener speaks one of them. False: refused.
    fn preface(&mut self, cx: Context<'_>, conn: ConnId, first: u8) -> bool {
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        let Role::Accepted { listener } = connection.role else { return false };
        let is_tls = first == TLS_HANDSHAKE;
        match (connection.transport, is_tls) {
            (Transport::Tcp, false) => connection.enter(Phase::Open, cx.now),
            (Transport::Tls, true) => {
                let side = cx.settings.server_sides.get(usize::from(listener));
                let Some(side) = side.and_then(Option::as_ref) else {
                    self.abort(cx, conn, Closed::ConfigurationChanged);
                    return false;
                };
                connection.session = Some(Box::new(Session::server(side)));
                // The absolute deadline runs from accept, not from here.
                connection.phase = Phase::Handshaking;
            }
            (Transport::Tcp, true) => {
                self.abort(cx, conn, Closed::TlsOnTcp);
                return false;
            }
            (Transport::Tls, false) => {
                let zone = connection.zone;
                if !cx.settings.snapshot.zones[usize::from(zone)].transports.tcp {
                    self.counters.refuse_transport(TransportRefused::Listener);
                }
                self.abort(cx, conn, Closed::PlainOnTls);
                return false;
            }
        }
        self.arm(cx, conn);
        true
    }

    /// Bytes of a handshake. What costs something waits until everybody who is established has had his turn, and then
    /// for the budget; what costs nothing is done at once.
    fn handshake(&mut self, cx: Context<'_>, conn: ConnId, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Some(session) = &connection.session else { return };
        if connection.ciphertext.is_empty() && session.foresee(bytes) == Foreseen::Light {
            return self.decrypt(cx, conn, bytes);
        }
        if connection.ciphertext.len() + bytes.len() > HANDSHAKE_BYTES_MAX {
            return self.abort(cx, conn, Closed::HandshakeFailed);
        }
        connection.ciphertext.extend_from_slice(bytes);
        if connection.handshake_queued {
            return;
        }
        let foreseen = session.foresee(&connection.ciphertext);
        if foreseen == Foreseen::Light {
            return self.decrypt(cx, conn, &mut []);
        }
        let resumed = foreseen == Foreseen::Resumed;
        let first = !std::mem::replace(&mut connection.handshake_rated, true);
        let address = connection.peer.ip();
        if first && connection.prefix_counted {
            let rate = self.rates.handshakes_per_prefix;
            if !self.buckets.handshake_rate(address, cx.now, &rate, resumed) {
                let cause = if resumed { Closed::ResumptionRate } else { Closed::HandshakeRate };
                return self.abort(cx, conn, cause);
            }
        }
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.handshake_queued = true;
        let light = resumed || matches!(connection.role, Role::Link { .. });
        self.handshakes.wait(conn, address, light);
    }

    /// Handshakes that waited, as far as the budget goes: each source prefix in turn, its own in order.
    pub(super) fn work_off_handshakes(&mut self, cx: Context<'_>) {
        self.handshakes.allow(cx.settings.snapshot.limits.handshake_share);
        while self.handshakes.may_step() {
            let Some(conn) = self.handshakes.next() else { return };
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            connection.handshake_queued = false;
            if matches!(connection.phase, Phase::Handshaking | Phase::Open) {
                self.decrypt(cx, conn, &mut []);
            }
        }
    }

    /// Ciphertext in, plaintext on to the framer, handshake bytes and alerts out.
    fn decrypt(&mut self, cx: Context<'_>, conn: ConnId, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let zone = connection.zone;
        let mut joined = std::mem::take(&mut connection.ciphertext);
        let input: &mut [u8] = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &mut joined
        };
        let carried = !connection.carry.is_empty();
        let mut plain =
            std::mem::take(if carried { &mut connection.carry } else { &mut self.plain });
        let mut reply = std::mem::take(&mut self.reply);
        let session = connection.session.as_mut().expect("the caller has looked");
        let opened = session.open(cx.now, input, &mut plain, &mut reply);
        if !reply.is_empty() {
            connection.outbox.push_raw(&reply);
            reply.clear();
            self.mark_dirty(conn);
        }
        self.reply = reply;
        let (rest, finished) = match &opened {
            Ok(opened) => (opened.consumed, opened.peer_closed),
            Err(_) => (input.len(), false),
        };
        if finished {
            self.counters.alert(zone, false, CLOSE_NOTIFY);
        }
        let tail_len = input.len() - rest;
        if tail_len > 0 {
            self.keep_ciphertext(conn, joined, bytes, tail_len);
        } else {
            self.give_buffer(joined);
        }
        match opened {
            Ok(opened) => {
                self.handshakes.stepped(opened.handshake_steps);
                if opened.established {
                    self.established(cx, conn);
                }
            }
            Err(fault) => {
                self.tls_failed(cx, conn, fault);
                plain.clear();
            }
        }
        if !plain.is_empty() {
            let taken = self.messages(cx, conn, &plain, carried);
            plain.drain(..taken);
        }
        self.put_plain_back(conn, plain, carried);
        self.note_tails(cx, conn);
        if finished {
            self.finished(cx, conn);
        }
    }

    /// The rest of a half record stays with the connection.
    fn keep_ciphertext(&mut self, conn: ConnId, mut joined: Vec<u8>, bytes: &[u8], tail: usize) {
        if joined.is_empty() {
            self.give_buffer(joined);
            joined = self.take_buffer();
            joined.extend_from_slice(&bytes[bytes.len() - tail..]);
        } else {
            let done = joined.len() - tail;
            joined.drain(..done);
        }
        match self.connections.get_mut(conn) {
            Some(connection) => connection.ciphertext = joined,
            None => self.give_buffer(joined),
        }
    }

    /// What the framer left of the plaintext: carried, or the shared buffer goes back to its place.
    fn put_plain_back(&mut self, conn: ConnId, mut plain: Vec<u8>, carried: bool) {
        let alive = self.connections.get(conn).is_some_and(|it| it.phase == Phase::Open);
        if !plain.is_empty() && alive {
            if !carried {
                let mut carry = self.take_buffer();
                carry.extend_from_slice(&plain);
                plain.clear();
                self.plain = plain;
                plain = carry;
            }
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.carry = plain;
            }
            return;
        }
        plain.clear();
        if carried {
            self.give_buffer(plain);
        } else {
            self.plain = plain;
        }
    }

    fn established(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let session = connection.session.as_ref().expect("it was just established");
        let Some(summary) = session.summary() else { return };
        let zone = connection.zone;
        let label = HandshakeLabel {
            zone,
            version: summary.version.name(),
            group: summary.key_exchange.name(),
            resumed: summary.resumed,
            result: "ok",
        };
        let since = connection.accepted_at;
        // A link stands for the backend that was dialled, whatever other names its certificate carries.
        if matches!(connection.role, Role::Accepted { .. })
            && let Some(peer) = session.peer()
            && cx.settings.snapshot.zones[usize::from(zone)].trusted
        {
            connection.backends.extend(backends_named(cx, zone, peer));
        }
        connection.enter(Phase::Open, cx.now);
        let (role, address) = (connection.role, connection.peer.ip());
        let counted = std::mem::take(&mut connection.handshake_counted);
        let by_prefix = connection.prefix_counted;
        *self.counters.handshakes.entry(label).or_default() += 1;
        if let Some(kind) = summary.would_refuse {
            let label = ReportLabel { zone, reason: kind.name() };
            *self.counters.reported.entry(label).or_default() += 1;
        }
        self.latency.record(Stage::Handshake, cx.now.nanos_since(since));
        self.release_handshake(counted, address, by_prefix);
        if let Role::Link { link } = role {
            self.link_up(cx, conn, link);
        }
        self.mark_dirty(conn);
        self.arm(cx, conn);
    }

    /// The alert is in the outbox; it is sent, then the connection ends.
    fn tls_failed(&mut self, cx: Context<'_>, conn: ConnId, fault: crate::tls::Fault) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let said = connection.session.as_ref().and_then(|session| session.said());
        for (sent, alert) in [(false, fault.received()), (true, said)] {
            if let Some(alert) = alert {
                self.counters.alert(connection.zone, sent, alert);
            }
        }
        let cause = if connection.phase == Phase::Handshaking {
            let label = HandshakeLabel {
                zone: connection.zone,
                version: "",
                group: "",
                resumed: false,
                result: fault.kind.name(),
            };
            *self.counters.handshakes.entry(label).or_default() += 1;
            Closed::HandshakeFailed
        } else {
            Closed::RecordBad
        };
        self.linger(cx, conn, cause);
    }

    /// Plain bytes of a TCP connection.
    fn plain_bytes(&mut self, cx: Context<'_>, conn: ConnId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.carry.is_empty() {
            let taken = self.messages(cx, conn, bytes, false);
            let rest = &bytes[taken..];
            let alive = self.connections.get(conn).is_some_and(|it| it.phase == Phase::Open);
            if !rest.is_empty() && alive {
                let mut carry = self.take_buffer();
                carry.extend_from_slice(rest);
                if let Some(connection) = self.connections.get_mut(conn) {
                    connection.carry = carry;
                }
            }
        } else {
            let mut carry = std::mem::take(&mut connection.carry);
            carry.extend_from_slice(bytes);
            let taken = self.messages(cx, conn, &carry, true);
            carry.drain(..taken);
            match self.connections.get_mut(conn) {
                Some(connection) if !carry.is_empty() && connection.phase == Phase::Open => {
                    connection.carry = carry;
                }
                _ => self.give_buffer(carry),
            }
        }
        self.note_tails(cx, conn);
    }

    /// Cuts and handles whole messages; returns how many bytes were taken.
    fn messages(&mut self, cx: Context<'_>, conn: ConnId, bytes: &[u8], carried: bool) -> usize {
        let Some(source) = self.source(cx, conn) else { return bytes.len() };
        self.counters.joined += u64::from(carried);
        let mut at = 0;
        while at < bytes.len() {
            let Some(connection) = self.connections.get_mut(conn) else { return bytes.len() };
            if connection.phase != Phase::Open {
                return bytes.len();
            }
            let rest = &bytes[at..];
            match frame(rest, &mut connection.frame, cx.settings.frame_limits()) {
                Ok(Framed::Message(message)) => {
                    connection.message_since = Instant::FAR;
                    at += message.len();
                    self.message(cx, &source, &message);
                }
                Ok(Framed::Ping) => {
                    at += 4;
                    self.ping(cx, conn);
                }
                Ok(Framed::Blank { len }) => {
                    at += len as usize;
                    self.pong(cx, conn);
                }
                Ok(Framed::Partial) => return at,
                Err(fault) => {
                    self.counters.fault(fault.kind as usize);
                    let cause = if fault.kind.status() == 413 {
                        Closed::TooLarge
                    } else {
                        Closed::Unframeable
                    };
                    let reason = match cause {
                        Closed::TooLarge => Refused::TooLarge,
                        _ => Refused::Unframeable,
                    };
                    self.refuse(&source, reason, Some(fault));
                    if let Some(message) = salvage(rest, cx.settings.frame_limits())
                        && message.is_request()
                    {
                        let zone = &mut self.counters.zones[usize::from(source.zone)];
                        zone.requests[message.method() as usize] += 1;
                        self.answer_fault(cx, &source, &message, fault);
                    }
                    self.linger(cx, conn, cause);
                    return bytes.len();
                }
            }
        }
        at
    }

    /// Half a message or half a record waits: its clock runs from the first byte.
    fn note_tails(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        // A lone CRLF is half a ping or a pong, not a message.
        let message = !matches!(&connection.carry[..], b"" | b"\r" | b"\r\n");
        if is_pong(&connection.carry) && self.expects_pong(cx, conn) {
            return;
        }
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if !message && connection.ciphertext.is_empty() {
            connection.message_since = Instant::FAR;
        } else if connection.message_since == Instant::FAR {
            connection.message_since = cx.now;
            self.arm(cx, conn);
        }
    }

    /// CRLFCRLF is answered by CRLF (RFC 5626 5.4); a flood of it ends the connection.
    fn ping(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.ping_tat > cx.now.0 + PING_BURST {
            return self.abort(cx, conn, Closed::KeepaliveFlood);
        }
        connection.ping_tat = connection.ping_tat.max(cx.now.0) + PING_INTERVAL;
        let zone = usize::from(connection.zone);
        if self.queue(cx, conn, 2, std::iter::once(&b"\r\n"[..])).is_ok() {
            self.counters.zones[zone].pings += 1;
        }
    }

    /// What the request path needs of a connection.
    pub(super) fn source(&self, cx: Context<'_>, conn: ConnId) -> Option<Source> {
        let connection = self.connections.get(conn)?;
        Some(Source {
            flow: self.flow_of(conn),
            zone: connection.zone,
            transport: connection.transport,
            peer: connection.peer,
            trusted: cx.settings.snapshot.zones[usize::from(connection.zone)].trusted,
            backends: connection.backends.clone(),
        })
    }

    /// Queues one message of at most `len_max` bytes, piece by piece, for a connection that takes messages. A client that
    /// cannot be given more does not read: it is closed.
    pub(super) fn queue<'p>(
        &mut self,
        cx: Context<'_>,
        conn: ConnId,
        len_max: usize,
        pieces: impl Iterator<Item = &'p [u8]>,
    ) -> Result<(), NoRoom> {
        let Some(connection) = self.connections.get_mut(conn) else { return Err(NoRoom) };
        if !connection.takes_messages() {
            return Err(NoRoom);
        }
        let is_link = matches!(connection.role, Role::Link { .. });
        let factor = if is_link { limits::LINK_OUTBOX_FACTOR } else { 1 };
        let limit = cx.settings.snapshot.limits.outbox as usize * factor;
        match connection.outbox.push(&mut self.chunks, limit, len_max, pieces) {
            Ok(()) => {
                connection.unheard_since = connection.unheard_since.min(cx.now);
                self.mark_dirty(conn);
                Ok(())
            }
            Err(NoRoom) => {
                if !is_link {
                    self.counters.refuse(Refused::OutboxFull);
                    self.abort(cx, conn, Closed::OutboxFull);
                }
                Err(NoRoom)
            }
        }
    }

    pub(super) fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push_back(conn);
        }
    }

    /// The next thing that the loop should do for us.
    pub(super) fn poll(&mut self, cx: Context<'_>) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let conn = self.dirty.pop_front()?;
            if let Some(chunk) = self.next_chunk(cx, conn) {
                return Some(Output::Transmit { conn, chunk });
            }
        }
    }

    fn next_chunk(&mut self, cx: Context<'_>, conn: ConnId) -> Option<Chunk> {
        let connection = self.connections.get_mut(conn)?;
        connection.dirty = false;
        let may_seal = match connection.phase {
            Phase::Dialling | Phase::Preface | Phase::Closing => return None,
            Phase::Handshaking => false,
            Phase::Open => true,
            Phase::Lingering => connection.session.as_ref().is_none_or(|it| it.established()),
        };
        let session = connection.session.as_mut();
        let owed = connection.outbox.goodbye;
        let next = connection.outbox.next(&mut self.chunks, session, may_seal);
        if owed && !connection.outbox.goodbye {
            self.counters.alert(connection.zone, true, CLOSE_NOTIFY);
        }
        match next {
            Ok(Some(chunk)) => {
                connection.sending_since = cx.now;
                if connection.armed > cx.now + SEND_STALL {
                    self.arm(cx, conn);
                }
                Some(chunk)
            }
            Ok(None) => {
                if connection.outbox.is_idle() {
                    self.outbox_empty(conn);
                } else if !connection.outbox.out && may_seal {
                    self.starved.push(conn);
                }
                None
            }
            Err(NoRoom) => {
                self.abort(cx, conn, Closed::RecordBad);
                None
            }
        }
    }

    /// Everything is out: a connection that only waited for that ends now. The loop shuts our side at
    /// once and lingers for the peer.
    fn outbox_empty(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let finished = connection.finished && connection.phase == Phase::Open;
        let last_word = connection.phase == Phase::Lingering;
        if finished || last_word {
            connection.phase = Phase::Closing;
            self.outputs.push_back(Output::Close { conn, abort: false });
        }
    }

    /// A chunk has come home.
    pub(super) fn sent(&mut self, _cx: Context<'_>, conn: ConnId, chunk: Chunk) {
        self.chunks.give(chunk);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.outbox.out = false;
        connection.sending_since = Instant::FAR;
        if connection.outbox.waiting() > 0 {
            self.mark_dirty(conn);
        } else {
            self.outbox_empty(conn);
        }
    }

    /// A link's connect has succeeded.
    pub(super) fn connected(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Role::Link { link } = connection.role else { return };
        if link >= self.upstream.len() {
            return self.abort(cx, conn, Closed::ConfigurationChanged);
        }
        let backend = self.upstream.backend(link);
        let place = cx.settings.backends()[backend];
        let side =
            cx.settings.client_sides[usize::from(place.pool)][usize::from(place.backend)].as_ref();
        match side {
            None => {
                connection.enter(Phase::Open, cx.now);
                self.link_up(cx, conn, link);
                self.mark_dirty(conn);
            }
            Some(side) => match Session::client(side) {
                Ok(session) => {
                    connection.session = Some(Box::new(session));
                    connection.enter(Phase::Handshaking, cx.now);
                    self.decrypt(cx, conn, &mut []);
                }
                Err(fault) => self.tls_failed(cx, conn, fault),
            },
        }
        self.arm(cx, conn);
    }

    /// The peer has shut its sending side: what waits for it still goes out, then the connection ends.
    pub(super) fn finished(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.finished {
            return;
        }
        connection.finished = true;
        if matches!(connection.phase, Phase::Preface | Phase::Handshaking | Phase::Dialling) {
            return self.abort(cx, conn, Closed::PeerFinished);
        }
        let role = connection.role;
        if connection.phase == Phase::Open {
            // Nothing new is begun on it (RFC 5923 8.3).
            if let Role::Link { link } = role {
                self.link_lost(cx, conn, link, Closed::PeerFinished);
            }
            self.goodbye(conn);
        }
        if let Some(connection) = self.connections.get_mut(conn)
            && connection.outbox.is_idle()
        {
            self.outbox_empty(conn);
        }
    }

    /// close_notify behind everything that waits (RFC 8446 6.1). What waits is sealed first.
    fn goodbye(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if let Some(session) = &mut connection.session
            && session.established()
        {
            connection.outbox.goodbye = true;
            self.mark_dirty(conn);
        }
    }

    /// Ends a connection in good order: what waits is sent, close_notify behind it, then it is closed.
    pub(super) fn close(&mut self, cx: Context<'_>, conn: ConnId, cause: Closed) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        match connection.phase {
            Phase::Closing => {}
            Phase::Dialling | Phase::Preface | Phase::Handshaking => self.abort(cx, conn, cause),
            Phase::Open | Phase::Lingering => {
                // As if the peer had said its last word: nothing more is expected of it.
                connection.finished = true;
                self.linger(cx, conn, cause);
            }
        }
    }

    /// Our last word is queued; the peer gets a moment to read it, its own words are thrown away.
    pub(super) fn linger(&mut self, cx: Context<'_>, conn: ConnId, cause: Closed) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if matches!(connection.phase, Phase::Lingering | Phase::Closing) {
            return;
        }
        connection.cause = Some(cause);
        let role = connection.role;
        connection.enter(Phase::Lingering, cx.now);
        connection.carry = Vec::new();
        if let Role::Link { link } = role {
            self.link_lost(cx, conn, link, cause);
        }
        self.goodbye(conn);
        self.arm(cx, conn);
        if self.connections.get(conn).is_some_and(|it| it.outbox.is_idle()) {
            self.outbox_empty(conn);
        }
    }

    /// Ends a connection now; what waits for it is lost.
    pub(super) fn abort(&mut self, cx: Context<'_>, conn: ConnId, cause: Closed) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.phase == Phase::Closing {
            return;
        }
        connection.cause.get_or_insert(cause);
        connection.phase = Phase::Closing;
        let role = connection.role;
        self.outputs.push_back(Output::Close { conn, abort: true });
        if let Role::Link { link } = role {
            self.link_lost(cx, conn, link, cause);
        }
    }

    /// Sees to it that the queue holds this connection's nearest deadline.
    pub(super) fn arm(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let due = due(cx, connection);
        if due < connection.armed {
            connection.armed = due;
            self.deadlines.set(conn.slot, due);
        }
    }

    /// A deadline of the queue has passed: judge, or wait on.
    pub(super) fn connection_due(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.armed = Instant::FAR;
        match verdict(cx, connection) {
            None => {
                if connection.phase == Phase::Open && cx.now >= ping_due(cx, connection) {
                    connection.last_pinged = cx.now;
                    let _ = self.queue(cx, conn, 4, std::iter::once(&b"\r\n\r\n"[..]));
                }
                self.arm(cx, conn);
            }
            Some(cause) => match connection.phase {
                Phase::Open if cause == Closed::Idle => self.close(cx, conn, cause),
                _ => {
                    if cause == Closed::HandshakeDeadline {
                        self.handshake_late(conn);
                    }
                    if self.answer_late(cx, conn) {
                        return self.linger(cx, conn, cause);
                    }
                    self.abort(cx, conn, cause);
                }
            },
        }
    }

    /// A request whose head has come and whose body has not is answered before its connection ends (RFC 4475 3.1.2.2).
    fn answer_late(&mut self, cx: Context<'_>, conn: ConnId) -> bool {
        let Some(source) = self.source(cx, conn) else { return false };
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        if connection.phase != Phase::Open || cx.now >= sending_due(connection) {
            return false;
        }
        let carry = std::mem::take(&mut connection.carry);
        // Without the end of the head there may be more Vias than were read.
        let whole_head = memchr::memmem::find(&carry, b"\r\n\r\n").is_some();
        let message = salvage(&carry, cx.settings.frame_limits())
            .filter(|message| whole_head && message.is_request());
        if let Some(message) = &message {
            let zone = &mut self.counters.zones[usize::from(source.zone)];
            zone.requests[message.method() as usize] += 1;
            self.answer(cx, &source, message, Answer::new(400, Refused::MessageLate));
        }
        let answered = message.is_some();
        self.give_buffer(carry);
        answered
    }

    fn handshake_late(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(conn) else { return };
        let label = HandshakeLabel {
            zone: connection.zone,
            version: "",
            group: "",
            resumed: false,
            result: "deadline",
        };
        *self.counters.handshakes.entry(label).or_default() += 1;
    }
}

/// When this connection wants to be looked at.
fn due(cx: Context<'_>, connection: &Connection) -> Instant {
    let limits = &cx.settings.snapshot.limits;
    match connection.phase {
        Phase::Dialling | Phase::Closing => Instant::FAR,
        Phase::Preface | Phase::Handshaking => {
            let since = match connection.role {
                Role::Accepted { .. } => connection.accepted_at,
                Role::Link { .. } => connection.phase_since,
            };
            since + first_deadline(cx, connection)
        }
        Phase::Lingering => connection.phase_since + LINGER,
        Phase::Open => {
            let mut due = sending_due(connection);
            if connection.message_since != Instant::FAR {
                let rate_at = (connection.message_since + RATE_GRACE).max(cx.now + RATE_STEP);
                due = due.min(rate_at).min(connection.message_since + limits.message_deadline);
            }
            if matches!(connection.role, Role::Accepted { .. }) {
                due = due.min(idle_due(cx, connection));
            }
            due.min(ping_due(cx, connection))
        }
    }
}

/// How long a connection may take for its handshake, or for its first byte on TCP.
fn first_deadline(cx: Context<'_>, connection: &Connection) -> Duration {
    let limits = &cx.settings.snapshot.limits;
    if connection.proxy_owed {
        return PROXY_DEADLINE;
    }
    match connection.transport {
        Transport::Tls => limits.handshake_deadline,
        Transport::Tcp => limits.idle_timeout,
    }
}

/// When our own keepalive is due: for clients whose NAT would forget them (limits: `keepalive`).
fn ping_due(cx: Context<'_>, connection: &Connection) -> Instant {
    match (cx.settings.snapshot.limits.keepalive, connection.role) {
        (Some(interval), Role::Accepted { .. }) => {
            connection.last_received.max(connection.last_pinged) + interval
        }
        _ => Instant::FAR,
    }
}

fn idle_limit(cx: Context<'_>, connection: &Connection) -> Duration {
    let limits = &cx.settings.snapshot.limits;
    if connection.registered { limits.registered_idle_timeout } else { limits.idle_timeout }
}

/// When an accepted connection is idle. One that waits for an answer is not (RFC 3261 18): it is looked at again later.
fn idle_due(cx: Context<'_>, connection: &Connection) -> Instant {
    let since = if connection.transactions > 0 { cx.now } else { connection.last_received };
    since + idle_limit(cx, connection)
}

fn sending_due(connection: &Connection) -> Instant {
    match connection.sending_since {
        Instant::FAR => Instant::FAR,
        since => since + SEND_STALL,
    }
}

/// What a deadline that has come says: nothing yet, or why the connection ends.
fn verdict(cx: Context<'_>, connection: &Connection) -> Option<Closed> {
    let limits = &cx.settings.snapshot.limits;
    match connection.phase {
        Phase::Dialling | Phase::Closing => None,
        Phase::Preface | Phase::Handshaking => (cx.now >= due(cx, connection)).then_some({
            match connection.transport {
                _ if connection.proxy_owed => Closed::ProxyHeaderDeadline,
                Transport::Tls => Closed::HandshakeDeadline,
                Transport::Tcp => Closed::Idle,
            }
        }),
        Phase::Lingering => {
            (cx.now >= connection.phase_since + LINGER).then_some(Closed::SendStalled)
        }
        Phase::Open => {
            if cx.now >= sending_due(connection) {
                return Some(Closed::SendStalled);
            }
            if connection.message_since != Instant::FAR {
                let under_way = cx.now.since(connection.message_since);
                if under_way >= limits.message_deadline {
                    return Some(Closed::MessageDeadline);
                }
                let brought = (connection.carry.len() + connection.ciphertext.len()) as u64;
                let wanted = u64::from(limits.minimum_rate) * under_way.as_millis() as u64 / 1000;
                if under_way >= RATE_GRACE && brought < wanted {
                    return Some(Closed::MinimumRate);
                }
            }
            let idle = cx.now >= idle_due(cx, connection);
            (idle && matches!(connection.role, Role::Accepted { .. })).then_some(Closed::Idle)
        }
    }
}

/// The backends of pools in this zone whose server name the peer's certificate carries.
fn backends_named<'a>(
    cx: Context<'a>,
    zone: u16,
    peer: &'a crate::tls::PeerIdentity,
) -> impl Iterator<Item = super::token::PeerId> + 'a {
    cx.settings.backends().iter().filter_map(move |place| {
        let pool = &cx.settings.snapshot.pools[usize::from(place.pool)];
        let backend = &pool.backends[usize::from(place.backend)];
        (pool.zone == zone && peer.is(&backend.server_name)).then_some(place.peer)
    })
}
