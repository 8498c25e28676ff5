//! Whether backends live: probes over their links, silence, and what counts as an answer (RFC 3261 11, RFC 5626 4.4.1).
//! Owns what is known of one link's probes. Never opens or chooses a connection: a link that is given up is closed, and
//! `upstream` dials it again with the back-off of a failed connect.
//! Invariant: at most one probe of a link is out.
//!
//! A link that was lost by a failure (a connect that failed, probes without an answer) takes new requests again only
//! after `rise` answers; meanwhile requests of dialogs go over it, since there is no better way for them. A backend that
//! answers 503 keeps its dialogs and gets nothing new: that is how one says that it is going down.

use std::fmt::Write;
use std::net::IpAddr;

use crate::base::machine::ConnId;
use crate::base::time::{Duration, Instant};
use crate::config::snapshot::{Health, ProbeMethod, TlsUri, Transport};
use crate::sip::{Message, Start};
use crate::telemetry::counter::{Closed, HealthEvent};

use super::connection::Source;
use super::settings::Settings;
use super::token::Branch;
use super::upstream::LinkState;
use super::{Context, Core};

/// While a backend has to prove itself it is asked so often, if `interval` is not shorter.
const EAGER: Duration = Duration::from_secs(1);

/// Why a backend is used again, or no longer, beside the causes of closed connections.
pub const PROBES_ANSWERED: &str = "probes_answered";
pub const PROBE_REFUSED: &str = "probe_refused";

/// What is known of one link's probes.
#[derive(Clone, Copy, Debug)]
pub struct Probes {
    /// The probe that is out: its unique part, and when it left.
    out: Option<(u64, Instant)>,
    /// When the last one left.
    last: Instant,
    /// Without an answer, or refused, since the last good one.
    fails: u8,
    /// Good answers that are still wanted before new requests go over the link.
    pub wanted: u8,
}

impl Probes {
    pub const NONE: Probes = Probes { out: None, last: Instant(0), fails: 0, wanted: 0 };

    /// Of a link that has just been established.
    pub fn begun(wanted: u8, now: Instant) -> Probes {
        Probes { wanted, last: now, ..Probes::NONE }
    }

    /// When the next one leaves, as far as time alone decides.
    fn next(&self, health: &Health) -> Instant {
        let eager = self.wanted > 0 || self.fails > 0;
        let pause = if eager { EAGER.min(health.interval) } else { health.interval };
        self.last + pause
    }
}

impl Core {
    /// The deadline of a link: dialled again, or looked after.
    pub(super) fn link_due(&mut self, cx: Context<'_>, link: u32) {
        if link >= self.upstream.len() {
            return;
        }
        match self.upstream.link(link).state {
            LinkState::Down { .. } => self.dial(cx, link),
            LinkState::Dialling { .. } => {}
            LinkState::Up { conn } => self.look_after(cx, link, conn),
        }
    }

    /// Judges the probe that is out, sends the next one where it is due, and sees to the next look.
    pub(super) fn look_after(&mut self, cx: Context<'_>, link: u32, conn: ConnId) {
        let Some(health) = self.health_of(cx, link) else { return };
        let Some(connection) = self.connections.get(conn) else { return };
        let silent_at = connection.unheard_since + health.timeout;
        let backend = self.upstream.backend(link);
        let mut probes = self.upstream.link(link).probes;
        if let Some((_, left)) = probes.out
            && cx.now >= left + health.timeout
        {
            probes.out = None;
            probes.fails += 1;
            self.counters.health[backend][HealthEvent::ProbeTimeout as usize] += 1;
            if probes.fails >= health.fall || probes.wanted > 0 {
                self.upstream.suspect(link);
                return self.abort(cx, conn, Closed::ProbeTimeout);
            }
            // The last one has waited long enough.
            probes.last = Instant(0);
        }
        if probes.out.is_none() {
            let silent = cx.now >= silent_at && cx.now >= probes.last + health.timeout;
            if silent && probes.fails == 0 {
                self.counters.health[backend][HealthEvent::Silent as usize] += 1;
            }
            if silent || cx.now >= probes.next(health) {
                let unique = self.random.next_u64();
                probes.last = cx.now;
                // A link with a full outbox has a deadline of its own.
                if self.send_probe(cx, link, conn, unique) {
                    probes.out = Some((unique, cx.now));
                    self.counters.health[backend][HealthEvent::ProbeSent as usize] += 1;
                }
            }
        }
        self.upstream.set_probes(link, probes);
        let next = match probes.out {
            Some((_, left)) => left + health.timeout,
            // Silence is looked for at this pace, so that no message has to set a deadline.
            None => probes.next(health).min(cx.now + health.timeout),
        };
        self.deadlines.set(self.connections.capacity() + link, next);
    }

    fn health_of<'s>(&self, cx: Context<'s>, link: u32) -> Option<&'s Health> {
        let place = cx.settings.backends()[self.upstream.backend(link)];
        cx.settings.snapshot.pools[usize::from(place.pool)].health.as_ref()
    }

    fn send_probe(&mut self, cx: Context<'_>, link: u32, conn: ConnId, unique: u64) -> bool {
        let Some(health) = self.health_of(cx, link) else { return false };
        if health.method == ProbeMethod::Crlf {
            return self.queue(cx, conn, 4, std::iter::once(&b"\r\n\r\n"[..])).is_ok();
        }
        let mut text = std::mem::take(&mut self.text);
        self.write_probe(cx, self.upstream.backend(link), conn, unique, &mut text);
        let sent = self.queue(cx, conn, text.len(), std::iter::once(&text[..])).is_ok();
        text.clear();
        self.text = text;
        sent
    }

    /// An OPTIONS to the backend itself, with a branch that brings the answer back to this connection.
    fn write_probe(
        &self,
        cx: Context<'_>,
        backend: usize,
        conn: ConnId,
        unique: u64,
        text: &mut Vec<u8>,
    ) {
        let Some(connection) = self.connections.get(conn) else { return };
        let face = cx.settings.face(connection.zone, connection.transport, connection.family());
        let mut call_id = Text(Vec::with_capacity(64));
        let _ = write!(call_id, "{unique:016x}@{}", cx.settings.snapshot.node);
        let branch =
            Branch { stateful: false, flow: self.flow_of(conn), attempt: 0, unique, loop_part: 0 };
        let peer = cx.settings.backends()[backend].peer;
        let branch = cx.settings.branch_key.write(&branch, peer, &call_id.0, 1);
        let uri = probe_uri(cx.settings, backend);
        let mut push = |piece: &[u8]| text.extend_from_slice(piece);
        for piece in [b"OPTIONS ", uri.as_bytes(), b" SIP/2.0\r\nVia: ", &face.via, &branch] {
            push(piece);
        }
        push(b"\r\nMax-Forwards: 70\r\nFrom: ");
        for piece in [&face.uri_before, &b"ringfront"[..], &face.uri_after, b">;tag="] {
            push(piece);
        }
        push(&call_id.0[..16]);
        for piece in [b"\r\nTo: <", uri.as_bytes(), b">\r\nCall-ID: ", &call_id.0] {
            push(piece);
        }
        push(b"\r\nCSeq: 1 OPTIONS\r\nAccept: application/sdp\r\nContent-Length: 0\r\n\r\n");
    }

    /// A response without a Via below ours. True: it is the final answer to the probe that is out on the link that it
    /// came over.
    pub(super) fn takes_probe(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        branch: &Branch,
    ) -> bool {
        let Start::Response { status: status @ 200.., .. } = message.start() else { return false };
        let conn = self.conn_of(source.flow).filter(|_| source.flow == branch.flow);
        let Some(link) = conn.and_then(|conn| self.link_of(conn)) else { return false };
        let out = self.upstream.link(link).probes.out;
        if out.is_none_or(|(unique, _)| unique != branch.unique) {
            return false;
        }
        if status == 503 {
            self.probe_refused(cx, link);
        } else {
            self.probe_answered(cx, link);
        }
        true
    }

    /// A CRLF alone: the answer to our ping, if one is out (RFC 5626 4.4.1).
    pub(super) fn pong(&mut self, cx: Context<'_>, conn: ConnId) {
        let Some(link) = self.link_of(conn) else { return };
        let pings = self.health_of(cx, link).is_some_and(|it| it.method == ProbeMethod::Crlf);
        if pings && self.upstream.link(link).probes.out.is_some() {
            self.probe_answered(cx, link);
        }
    }

    /// A CRLF that waits for what follows it. True: it was the answer to our ping, and nothing waits any more.
    pub(super) fn expects_pong(&mut self, cx: Context<'_>, conn: ConnId) -> bool {
        let Some(link) = self.link_of(conn) else { return false };
        let pings = self.health_of(cx, link).is_some_and(|it| it.method == ProbeMethod::Crlf);
        if !pings || self.upstream.link(link).probes.out.is_none() {
            return false;
        }
        self.probe_answered(cx, link);
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.message_since = Instant::FAR;
            let carry = std::mem::take(&mut connection.carry);
            self.give_buffer(carry);
        }
        true
    }

    fn probe_answered(&mut self, cx: Context<'_>, link: u32) {
        let backend = self.upstream.backend(link);
        self.counters.health[backend][HealthEvent::ProbeAnswered as usize] += 1;
        let mut probes = self.upstream.link(link).probes;
        probes.out = None;
        probes.fails = 0;
        probes.wanted = probes.wanted.saturating_sub(1);
        self.probes_done(cx, link, probes, PROBES_ANSWERED);
    }

    fn probe_refused(&mut self, cx: Context<'_>, link: u32) {
        let Some(health) = self.health_of(cx, link) else { return };
        let backend = self.upstream.backend(link);
        self.counters.health[backend][HealthEvent::ProbeRefused as usize] += 1;
        let mut probes = self.upstream.link(link).probes;
        probes.out = None;
        probes.fails = probes.fails.saturating_add(1);
        if probes.fails >= health.fall || probes.wanted > 0 {
            probes.wanted = health.rise;
        }
        self.probes_done(cx, link, probes, PROBE_REFUSED);
    }

    fn probes_done(&mut self, cx: Context<'_>, link: u32, probes: Probes, reason: &'static str) {
        self.upstream.set_probes(link, probes);
        self.judge_backend(cx, self.upstream.backend(link), reason);
        if let Some(health) = self.health_of(cx, link) {
            let next = probes.next(health).min(cx.now + health.timeout);
            self.deadlines.set(self.connections.capacity() + link, next);
        }
    }

    fn link_of(&self, conn: ConnId) -> Option<u32> {
        let super::Role::Link { link } = self.connections.get(conn)?.role else { return None };
        let ours = link < self.upstream.len() && self.upstream.link(link).conn() == Some(conn);
        ours.then_some(link)
    }
}

/// The backend itself, as a Request-URI.
fn probe_uri(settings: &Settings, backend: usize) -> String {
    let place = settings.backends()[backend];
    let pool = &settings.snapshot.pools[usize::from(place.pool)];
    let backend = &pool.backends[usize::from(place.backend)];
    let (name, port) = (&backend.server_name, backend.address.port());
    let host = match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => name.to_string(),
    };
    let tls_uri = settings.snapshot.zones[usize::from(pool.zone)].tls_uri;
    match (backend.transport, tls_uri) {
        (Transport::Tcp, _) => format!("sip:{};transport=tcp", backend.address),
        (Transport::Tls, TlsUri::Sips) => format!("sips:{host}:{port}"),
        (Transport::Tls, TlsUri::Transport) => format!("sip:{host}:{port};transport=tls"),
    }
}

struct Text(Vec<u8>);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
