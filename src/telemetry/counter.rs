//! Plain counters, one set for each worker, handed out whole and merged by the control plane.
//! Owns its words. Never an atomic, never a label that comes from a peer.
//! Invariant: two sets made for the same configuration have the same shape and can be merged.

use std::collections::BTreeMap;

/// Builds a closed enum with the name of each variant in metrics and logs.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name in metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

names! {
    /// Why a message was not taken further. `ringfront_refused_total{reason}`.
    Refused {
        /// The stream cannot be cut into messages; answered 400 where a head is there, then closed.
        Unframeable = "unframeable",
        /// The head is complete but not SIP that may be forwarded (400, 501, 505).
        Malformed = "malformed",
        TooLarge = "too_large",
        /// A message whose head was there and whose body did not come in time: answered 400, then closed.
        MessageLate = "message_late",
        UnknownScheme = "unknown_scheme",
        MaxForwards = "max_forwards",
        ProxyRequire = "proxy_require",
        Loop = "loop",
        NoRoute = "no_route",
        NoBackend = "no_backend",
        /// The backend that a dialog belongs to is not there.
        BackendGone = "backend_gone",
        LinkFull = "link_full",
        FlowGone = "flow_gone",
        TokenForged = "token_forged",
        TokenForeign = "token_foreign",
        TransportPolicy = "transport_policy",
        RatePrefix = "rate_prefix",
        RateConnection = "rate_connection",
        RateAor = "rate_aor",
        Banned = "banned",
        Overload = "overload",
        Draining = "draining",
        MailboxFull = "mailbox_full",
        /// An ACK that had nowhere to go; nothing may answer it (RFC 3261 17).
        AckDropped = "ack_dropped",
        ResponseMalformed = "response_malformed",
        /// The top Via is not ours (RFC 3261 16.7 step 3).
        ResponseNotOurs = "response_not_ours",
        /// The branch is ours in form, but not for this peer, call and life.
        ResponseForged = "response_forged",
        /// A Via below ours would have it sent to everybody (RFC 4475 3.3.18).
        ResponseBroadcast = "response_broadcast",
        /// The connection that asked is gone.
        ResponseFlowGone = "response_flow_gone",
        /// 100 is consumed (RFC 3261 16.7 step 5).
        ResponseTrying = "response_trying",
        /// No Via below ours: the response was meant for us.
        ResponseEndsHere = "response_ends_here",
        /// More bytes wait for a peer than its outbox may hold.
        OutboxFull = "outbox_full",
        /// Queued for a peer whose connection ended before it left; a request is answered.
        Unsent = "unsent",
        /// The connection that asked takes no more: it is ending, its outbox is full, or its worker's mailbox is.
        ResponseUnsent = "response_unsent",
        /// An answer of our own that found its asker gone or taking no more.
        AnswerUnsent = "answer_unsent",
        /// The table of transactions holds all that it may.
        TransactionsFull = "transactions_full",
        /// A request that is under way already.
        Retransmission = "retransmission",
        /// The ACK of a failure ends here (RFC 3261 17.2.1).
        AckAbsorbed = "ack_absorbed",
        /// The client took its INVITE back, and nobody has answered that.
        Cancelled = "cancelled",
        /// An INVITE that nobody has answered in time: 408 (Timers B and C).
        Unanswered = "unanswered",
        /// Another request that nobody has answered in time: nothing may be said (Timer F, RFC 4320 4.2).
        TimedOut = "timed_out",
        /// The backend was lost with the request, which may not be sent twice.
        BackendLost = "backend_lost",
        /// A backend has answered 503 and nobody else was asked; that is its own 503 and not ours (RFC 3261 16.7).
        BackendRefused = "backend_refused",
        /// It belongs to no transaction that is kept, though it must (RFC 6026 8).
        ResponseStray = "response_stray",
        /// A backend's 503 that was not the last word.
        ResponseUnavailable = "response_unavailable",
        /// Its transaction has gone on without it.
        ResponseLate = "response_late",
        /// None but 100 to a request that is no INVITE (RFC 4320 4.1).
        ResponseProvisional = "response_provisional",
    }
}

names! {
    /// Why a connection was refused or closed by us, or was lost. `ringfront_connections_closed_total{zone,cause}`.
    Closed {
        PeerFinished = "peer_finished",
        Reset = "reset",
        SendFailed = "send_failed",
        ConnectFailed = "connect_failed",
        ConnectTimeout = "connect_timeout",
        Unframeable = "unframeable",
        TooLarge = "too_large",
        /// A TLS record came to a plain TCP listener.
        TlsOnTcp = "tls_on_tcp",
        /// Plain text came to a TLS listener.
        PlainOnTls = "plain_on_tls",
        /// The listener requires the PROXY protocol, and its peer is none of the listed proxies.
        ProxySourceNotListed = "proxy_source_not_listed",
        ProxyHeaderMissing = "proxy_header_missing",
        ProxyHeaderBad = "proxy_header_bad",
        ProxyHeaderTooLong = "proxy_header_too_long",
        ProxyHeaderDeadline = "proxy_header_deadline",
        HandshakeFailed = "handshake_failed",
        HandshakeDeadline = "handshake_deadline",
        /// The source begins new sessions faster than it may.
        HandshakeRate = "handshake_rate",
        /// The source resumes sessions faster than it may.
        ResumptionRate = "resumption_rate",
        RecordBad = "record_bad",
        MessageDeadline = "message_deadline",
        MinimumRate = "minimum_rate",
        Idle = "idle",
        /// The peer does not read: more waits for it than its outbox may hold.
        OutboxFull = "outbox_full",
        /// The peer does not read: nothing went out for too long.
        SendStalled = "send_stalled",
        /// The backend did not answer its probes.
        ProbeTimeout = "probe_timeout",
        KeepaliveFlood = "keepalive_flood",
        SlotFull = "slot_full",
        PrefixFull = "prefix_full",
        HandshakesFull = "handshakes_full",
        SourceNotAllowed = "source_not_allowed",
        Draining = "draining",
        /// The zone's transport policy does not have this transport (after a reload).
        TransportPolicy = "transport_policy",
        ConfigurationChanged = "configuration_changed",
    }
}

names! {
    /// Where a transport that we do not speak, or that the zone does not allow, was asked for.
    /// `ringfront_transport_refused_total{where}`.
    TransportRefused {
        RequestUri = "request_uri",
        Route = "route",
        Path = "path",
        Dns = "dns",
        /// A plain-text client at a listener of a TLS-only zone.
        Listener = "listener",
        /// `sips` asked for, but the next hop is not TLS (RFC 5630).
        Sips = "sips",
        /// A topmost Via that says UDP; its request is answered on the connection it came on.
        Via = "via",
    }
}

names! {
    /// What became of a request sent to a backend. `ringfront_backend_requests_total{pool,backend,outcome}`.
    Outcome {
        Sent = "sent",
        Answered = "answered",
        Refused = "refused",
    }
}

names! {
    /// Why a request was sent to another backend. `ringfront_retries_total{reason}`.
    Retry {
        /// No byte of it had left: the connect failed, or the connection ended first.
        Unsent = "unsent",
        /// More waits for the backend than its outbox may hold.
        LinkFull = "link_full",
        /// The connection was lost before any response.
        ConnectionLost = "connection_lost",
        /// 503.
        Unavailable = "unavailable",
        ResponseTimeout = "response_timeout",
    }
}

names! {
    /// How a transaction ended whose state was kept and that is not refused by name.
    /// `ringfront_transactions_ended_total{end}`.
    Ended {
        /// A backend's final response went back.
        Answered = "answered",
        /// Answered here, after it had gone out.
        Concluded = "concluded",
    }
}

names! {
    /// What happened to a backend's health. `ringfront_backend_health_total{pool,backend,event}`.
    HealthEvent {
        /// It takes requests from now on, as far as one worker sees.
        WentUp = "went_up",
        WentDown = "went_down",
        ProbeSent = "probe_sent",
        ProbeAnswered = "probe_answered",
        /// Answered 503: it takes nothing new.
        ProbeRefused = "probe_refused",
        ProbeTimeout = "probe_timeout",
        /// Something was sent and nothing came back for as long as a probe may take: it is probed at once.
        Silent = "silent",
    }
}

/// Methods counted apart; the last one is "other". The names are the proxy's (`proxy::METHOD_NAMES`).
pub const METHODS: usize = 16;

/// Faults of messages counted apart. The names are the proxy's (`proxy::fault_names`).
pub const FAULTS: usize = 35;

#[derive(Clone, Debug)]
pub struct ZoneCounters {
    /// By transport: TCP, TLS.
    pub connections: [u64; 2],
    pub closed: Vec<u64>,
    pub requests: [u64; METHODS],
    pub responses: u64,
    pub requests_forwarded: u64,
    pub responses_forwarded: u64,
    /// CRLF pings answered.
    pub pings: u64,
}

impl ZoneCounters {
    fn new() -> Self {
        ZoneCounters {
            connections: [0; 2],
            closed: vec![0; Closed::ALL.len()],
            requests: [0; METHODS],
            responses: 0,
            requests_forwarded: 0,
            responses_forwarded: 0,
            pings: 0,
        }
    }

    fn merge(&mut self, other: &ZoneCounters) {
        add(&mut self.connections, &other.connections);
        add(&mut self.closed, &other.closed);
        add(&mut self.requests, &other.requests);
        self.responses += other.responses;
        self.requests_forwarded += other.requests_forwarded;
        self.responses_forwarded += other.responses_forwarded;
        self.pings += other.pings;
    }

    fn reset(&mut self) {
        self.connections.fill(0);
        self.closed.fill(0);
        self.requests.fill(0);
        self.responses = 0;
        self.requests_forwarded = 0;
        self.responses_forwarded = 0;
        self.pings = 0;
    }
}

/// What is known of a TLS handshake when it ended; all names from closed sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandshakeLabel {
    pub zone: u16,
    pub version: &'static str,
    pub group: &'static str,
    pub resumed: bool,
    /// `ok`, or the reason of the failure.
    pub result: &'static str,
}

/// An alert (RFC 8446 6), by its name; of a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlertLabel {
    pub zone: u16,
    /// By us; else received.
    pub sent: bool,
    pub alert: &'static str,
}

/// A client that policy `report` let in: why it would have been refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportLabel {
    pub zone: u16,
    pub reason: &'static str,
}

#[derive(Clone, Debug)]
pub struct Counters {
    pub zones: Vec<ZoneCounters>,
    /// For each backend in order of the pools: by outcome.
    pub backends: Vec<[u64; Outcome::ALL.len()]>,
    /// For each backend in order of the pools: by event.
    pub health: Vec<[u64; HealthEvent::ALL.len()]>,
    refused: Vec<u64>,
    faults: [u64; FAULTS],
    transport_refused: Vec<u64>,
    /// Our own responses, by status code less 100.
    responses_sent: Vec<u64>,
    /// Transactions that ended, by how.
    pub ended: [u64; Ended::ALL.len()],
    /// Requests forwarded without state because the table was full.
    pub stateless: u64,
    /// Requests sent to another backend, by reason.
    pub retries: [u64; Retry::ALL.len()],
    /// Not per message: a handshake costs a thousand times what the map does.
    pub handshakes: BTreeMap<HandshakeLabel, u64>,
    /// At most two for each connection.
    pub alerts: BTreeMap<AlertLabel, u64>,
    pub reported: BTreeMap<ReportLabel, u64>,
    /// Requests and responses that went to a connection of another worker.
    pub crossings: u64,
    /// Messages that came in pieces and were joined in a carry buffer (the slow way).
    pub joined: u64,
    /// Carry buffers and chunks ever allocated: flat after warm-up.
    pub buffers_allocated: u64,
}

impl Counters {
    pub fn new(zones: usize, backends: usize) -> Self {
        Counters {
            zones: (0..zones).map(|_| ZoneCounters::new()).collect(),
            backends: vec![[0; Outcome::ALL.len()]; backends],
            health: vec![[0; HealthEvent::ALL.len()]; backends],
            refused: vec![0; Refused::ALL.len()],
            faults: [0; FAULTS],
            transport_refused: vec![0; TransportRefused::ALL.len()],
            responses_sent: vec![0; 600],
            ended: [0; Ended::ALL.len()],
            stateless: 0,
            retries: [0; Retry::ALL.len()],
            handshakes: BTreeMap::new(),
            alerts: BTreeMap::new(),
            reported: BTreeMap::new(),
            crossings: 0,
            joined: 0,
            buffers_allocated: 0,
        }
    }

    pub fn alert(&mut self, zone: u16, sent: bool, alert: &'static str) {
        *self.alerts.entry(AlertLabel { zone, sent, alert }).or_default() += 1;
    }

    pub fn refuse(&mut self, reason: Refused) {
        self.refused[reason as usize] += 1;
    }

    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused[reason as usize]
    }

    /// A message had the fault with this number; what became of it is counted as a refusal.
    pub fn fault(&mut self, fault: usize) {
        self.faults[fault] += 1;
    }

    pub fn faults(&self) -> &[u64; FAULTS] {
        &self.faults
    }

    pub fn refuse_transport(&mut self, place: TransportRefused) {
        self.transport_refused[place as usize] += 1;
    }

    pub fn transport_refused(&self, place: TransportRefused) -> u64 {
        self.transport_refused[place as usize]
    }

    pub fn close(&mut self, zone: u16, cause: Closed) {
        self.zones[usize::from(zone)].closed[cause as usize] += 1;
    }

    pub fn closed(&self, zone: u16, cause: Closed) -> u64 {
        self.zones[usize::from(zone)].closed[cause as usize]
    }

    /// One of our own responses; `status` is 100 to 699.
    pub fn answer(&mut self, status: u16) {
        self.responses_sent[usize::from(status) - 100] += 1;
    }

    /// Own responses as (status, count), those that occurred.
    pub fn answers(&self) -> impl Iterator<Item = (u16, u64)> {
        self.responses_sent
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (index as u16 + 100, *count))
    }

    /// Adds another worker's counts, or those of a later interval. A shape that has grown by a reload grows this one.
    pub fn merge(&mut self, other: &Counters) {
        while self.zones.len() < other.zones.len() {
            self.zones.push(ZoneCounters::new());
        }
        if self.backends.len() < other.backends.len() {
            self.backends.resize(other.backends.len(), [0; Outcome::ALL.len()]);
            self.health.resize(other.health.len(), [0; HealthEvent::ALL.len()]);
        }
        for (mine, theirs) in self.zones.iter_mut().zip(&other.zones) {
            mine.merge(theirs);
        }
        for (mine, theirs) in self.backends.iter_mut().zip(&other.backends) {
            add(mine, theirs);
        }
        for (mine, theirs) in self.health.iter_mut().zip(&other.health) {
            add(mine, theirs);
        }
        add(&mut self.refused, &other.refused);
        add(&mut self.faults, &other.faults);
        add(&mut self.transport_refused, &other.transport_refused);
        add(&mut self.responses_sent, &other.responses_sent);
        add(&mut self.ended, &other.ended);
        self.stateless += other.stateless;
        add(&mut self.retries, &other.retries);
        add_labelled(&mut self.handshakes, &other.handshakes);
        add_labelled(&mut self.alerts, &other.alerts);
        add_labelled(&mut self.reported, &other.reported);
        self.crossings += other.crossings;
        self.joined += other.joined;
        self.buffers_allocated += other.buffers_allocated;
    }

    /// Back to zero, allocations kept, so that the set can be lent to a worker again.
    pub fn reset(&mut self) {
        self.zones.iter_mut().for_each(ZoneCounters::reset);
        self.backends.iter_mut().for_each(|outcomes| outcomes.fill(0));
        self.health.iter_mut().for_each(|events| events.fill(0));
        self.refused.fill(0);
        self.faults.fill(0);
        self.transport_refused.fill(0);
        self.responses_sent.fill(0);
        self.ended.fill(0);
        self.stateless = 0;
        self.retries.fill(0);
        self.handshakes.clear();
        self.alerts.clear();
        self.reported.clear();
        self.crossings = 0;
        self.joined = 0;
        self.buffers_allocated = 0;
    }
}

fn add(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}

fn add_labelled<L: Ord + Copy>(mine: &mut BTreeMap<L, u64>, theirs: &BTreeMap<L, u64>) {
    for (label, count) in theirs {
        *mine.entry(*label).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_counts_are_sums_and_reset_keeps_the_shape() {
        let mut one = Counters::new(1, 1);
        let mut two = Counters::new(2, 1);
        one.refuse(Refused::Loop);
        two.refuse(Refused::Loop);
        two.close(1, Closed::Idle);
        two.answer(503);
        one.fault(3);
        two.fault(3);
        one.merge(&two);
        assert_eq!(one.refused(Refused::Loop), 2);
        assert_eq!(one.closed(1, Closed::Idle), 1);
        assert_eq!(one.faults()[3], 2);
        assert_eq!(one.answers().collect::<Vec<_>>(), [(503, 1)]);
        one.reset();
        assert_eq!(one.zones.len(), 2);
        assert_eq!(one.answers().count(), 0);
        assert_eq!(one.faults()[3], 0);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Refused::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refused::ALL.len());
    }
}
