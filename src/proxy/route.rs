//! Where a request goes: route preprocessing (RFC 3261 16.4), tokens, configured routes, one target (16.5).
//! Owns nothing; reads settings and links. Never edits, never sends.
//! Invariant: nothing is dialled or resolved on a client's word; the target is a configured backend, a flow that a
//! checked token names, or ourselves.

use smallvec::SmallVec;

use crate::base::time::Instant;
use crate::config::snapshot::{Affinity, Transport};
use crate::sip::uri::host_ip;
use crate::sip::{Message, Method, Name, NameAddr, RequestParts, Scheme, Start, Uri};
use crate::telemetry::counter::{Refused, TransportRefused};

use super::connection::Source;
use super::pending::Pending;
use super::settings::{BackendPlace, Order, Settings};
use super::token::{FlowId, PeerId, Reading, Token, TokenKind};
use super::upstream::{Upstream, affinity_hash};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A link of this worker to a backend.
    Backend { backend: usize, conn: crate::base::machine::ConnId },
    /// A connection that was made to us, perhaps to another worker.
    Flow(FlowId),
    /// OPTIONS to ourselves.
    Local,
}

/// What the way out needs to know beside the message.
#[derive(Clone, Debug)]
pub struct Routed<'a> {
    pub target: Target,
    /// Own values to take off the top of Route.
    pub own_routes: usize,
    pub rewrite: Rewrite<'a>,
    /// The route token of the dialog, when one decided: who its backend is.
    pub dialog_backend: PeerId,
    /// The request asks for TLS on every hop (RFC 5630).
    pub sips: bool,
}

/// What becomes of the Request-URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite<'a> {
    Keep,
    /// A strict router upstream put our own value there (16.4): the last Route value comes back.
    FromLastRoute(&'a [u8]),
    /// The next element is a strict router (16.6 step 6): the first remaining Route value moves in, the Request-URI
    /// goes to the end of Route.
    ToStrictRouter(&'a [u8]),
    /// maddr named us (16.4): without it.
    Text(SmallVec<[u8; 128]>),
}

/// A request that is answered here instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: Refused,
    pub transport: Option<TransportRefused>,
    /// Text of a Warning 399.
    pub warning: Option<&'static str>,
}

impl Answer {
    pub const fn new(status: u16, reason: Refused) -> Self {
        Answer { status, reason, transport: None, warning: None }
    }

    pub const fn warned(status: u16, reason: Refused, warning: &'static str) -> Self {
        Answer { status, reason, transport: None, warning: Some(warning) }
    }
}

/// What routing reads.
pub struct Router<'r> {
    pub settings: &'r Settings,
    pub upstream: &'r Upstream,
    pub pending: &'r Pending,
    pub source: &'r Source,
    /// The unique part of the request's branch.
    pub unique: u64,
    pub draining: bool,
    /// Backends that are not asked (again).
    pub tried: &'r [PeerId],
    /// Where the request went: only what becomes of its Route and Request-URI is asked.
    pub decided: Option<Target>,
    pub now: Instant,
}

/// Own values at the top of Route, read.
struct OwnRoutes {
    count: usize,
    tokens: SmallVec<[Token; 2]>,
}

impl Router<'_> {
    /// One target for the request, or the answer it gets.
    pub fn route<'a>(
        &self,
        message: &Message<'a>,
        request: &RequestParts<'a>,
    ) -> Result<Routed<'a>, Answer> {
        let malformed = Answer::new(400, Refused::Malformed);
        let (method, call_id) = (request.method, request.parts.call_id);
        let mut uri = request.uri;
        let routes: SmallVec<[&'a [u8]; 8]> =
            message.values(Name::Route).map(|value| value.bytes).collect();
        let mut rewrite = Rewrite::Keep;
        let mut routes = &routes[..];
        // A strict router upstream has put our own Record-Route value into the Request-URI (16.4).
        if let Some(user) = uri.user
            && let Some((last, before)) = routes.split_last()
            && self.settings.is_own(uri.host, uri.port)
            && self.settings.token_keys.read(user, call_id) != Reading::Plain
        {
            let last = NameAddr::parse(last).map_err(|_| malformed)?;
            let own = self.read_own(user, call_id)?;
            uri = Uri::parse(last.uri).map_err(|_| malformed)?;
            rewrite = Rewrite::FromLastRoute(last.uri);
            routes = before;
            let mut rest = self.own_routes(routes, call_id)?;
            if let Some(token) = own
                && !rest.tokens.contains(&token)
            {
                rest.tokens.insert(0, token);
            }
            return self.target(message, method, &uri, routes, rest, rewrite, call_id);
        }
        if let Some(maddr) = uri.maddr()
            && self.settings.is_own(maddr, uri.port)
        {
            rewrite = Rewrite::Text(without_maddr(&uri));
        }
        let own = self.own_routes(routes, call_id)?;
        self.target(message, method, &uri, routes, own, rewrite, call_id)
    }

    /// The own values at the top of Route. Two different tokens at most: a third one starts another pass through us.
    fn own_routes(&self, routes: &[&[u8]], call_id: &[u8]) -> Result<OwnRoutes, Answer> {
        let mut own = OwnRoutes { count: 0, tokens: SmallVec::new() };
        for route in routes {
            let malformed = Answer::new(400, Refused::Malformed);
            let name_addr = NameAddr::parse(route).map_err(|_| malformed)?;
            let uri = Uri::parse(name_addr.uri).map_err(|_| malformed)?;
            if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips)
                || !self.settings.is_own(uri.host, uri.port)
            {
                break;
            }
            let token = match uri.user {
                Some(user) => self.read_own(user, call_id)?,
                None => None,
            };
            if let Some(token) = token
                && !own.tokens.contains(&token)
            {
                let full = own.tokens.len() == 2
                    || own.tokens.iter().any(|earlier| earlier.kind != token.kind);
                if full {
                    break;
                }
                own.tokens.push(token);
            }
            own.count += 1;
        }
        Ok(own)
    }

    fn read_own(&self, user: &[u8], call_id: &[u8]) -> Result<Option<Token>, Answer> {
        match self.settings.token_keys.read(user, call_id) {
            Reading::Plain => Ok(None),
            Reading::Forged => Err(Answer::new(403, Refused::TokenForged)),
            Reading::Good(token) => Ok(Some(token)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request, each read once above")]
    fn target<'a>(
        &self,
        message: &Message<'a>,
        method: Method,
        uri: &Uri<'_>,
        routes: &[&'a [u8]],
        own: OwnRoutes,
        rewrite: Rewrite<'a>,
        call_id: &'a [u8],
    ) -> Result<Routed<'a>, Answer> {
        let next = routes.get(own.count).copied();
        let mut routed = Routed {
            target: Target::Local,
            own_routes: own.count,
            rewrite,
            dialog_backend: PeerId::NONE,
            sips: uri.scheme == Scheme::Sips || next.is_some_and(is_sips),
        };
        if uri.scheme == Scheme::Sips && has_sip_contact(message) {
            return Err(Answer::new(400, Refused::Malformed));
        }
        let decided = match self.decided {
            None => self.by_token(&own.tokens, message, &mut routed, call_id)?,
            decided => decided,
        };
        match decided {
            Some(target) => routed.target = target,
            None => {
                self.refuse_udp(message, method, uri, next)?;
                routed.target = self.by_configuration(message, method, uri, next, call_id)?;
            }
        }
        if let Some(next) = next
            && routed.rewrite == Rewrite::Keep
            && routed.target != Target::Local
        {
            let malformed = Answer::new(400, Refused::Malformed);
            let name_addr = NameAddr::parse(next).map_err(|_| malformed)?;
            let uri = Uri::parse(name_addr.uri).map_err(|_| malformed)?;
            if !uri.lr() {
                routed.rewrite = Rewrite::ToStrictRouter(name_addr.uri);
            }
        }
        Ok(routed)
    }

    /// Tokens first (house rules for route tokens, RFC 5626 5.3 for Path tokens).
    fn by_token(
        &self,
        tokens: &[Token],
        message: &Message<'_>,
        routed: &mut Routed<'_>,
        call_id: &[u8],
    ) -> Result<Option<Target>, Answer> {
        let gone = Answer::new(430, Refused::FlowGone);
        let here = |token: &Token| if token.this_node { Ok(token.flow) } else { Err(gone) };
        match tokens {
            [] => Ok(None),
            [token] if token.kind == TokenKind::Flow => {
                if token.this_node && token.flow == self.source.flow {
                    return Ok(None);
                }
                if !self.source.trusted {
                    return Err(Answer::new(403, Refused::TokenForeign));
                }
                here(token).map(|flow| Some(Target::Flow(flow)))
            }
            [token] => {
                if token.backend == PeerId::NONE {
                    return Ok(None);
                }
                routed.dialog_backend = token.backend;
                if self.source_is_of_pool(token.backend) {
                    return here(token).map(|flow| Some(Target::Flow(flow)));
                }
                self.dialog_backend(token.backend, message, call_id).map(Some)
            }
            [first, second, ..] => {
                if second.kind != TokenKind::Route {
                    return Err(Answer::new(403, Refused::TokenForeign));
                }
                routed.dialog_backend = first.backend;
                here(second).map(|flow| Some(Target::Flow(flow)))
            }
        }
    }

    /// Whether the request came from a backend of the pool that this backend belongs to.
    fn source_is_of_pool(&self, backend: PeerId) -> bool {
        if self.source.backends.contains(&backend) {
            return true;
        }
        let pool_of = |peer: &PeerId| {
            self.settings.backend_of(*peer).map(|number| self.settings.backends()[number].pool)
        };
        let pool = pool_of(&backend);
        pool.is_some() && self.source.backends.iter().any(|peer| pool_of(peer) == pool)
    }

    /// The backend that holds the dialog, or another one where the pool shares dialogs.
    fn dialog_backend(
        &self,
        peer: PeerId,
        message: &Message<'_>,
        call_id: &[u8],
    ) -> Result<Target, Answer> {
        let Some(backend) = self.settings.backend_of(peer) else {
            return Err(Answer::warned(480, Refused::BackendGone, "backend of the dialog is gone"));
        };
        let key = affinity_hash(call_id);
        if !self.tried.contains(&peer)
            && let Some(conn) = self.upstream.usable(backend, key)
        {
            return Ok(Target::Backend { backend, conn });
        }
        let pool = self.settings.backends()[backend].pool;
        if self.settings.snapshot.pools[usize::from(pool)].shared_dialogs {
            return self.choose(pool, message, call_id);
        }
        Err(Answer::warned(503, Refused::BackendGone, "backend of the dialog is down"))
    }

    /// Requests without a token: a Route that names a backend, ourselves, or the first route that matches.
    fn by_configuration(
        &self,
        message: &Message<'_>,
        method: Method,
        uri: &Uri<'_>,
        next: Option<&[u8]>,
        call_id: &[u8],
    ) -> Result<Target, Answer> {
        let named = next.map(|next| self.named_backends(next)).unwrap_or_default();
        if !named.is_empty() {
            return self.one_of(&named, affinity_hash(call_id));
        }
        if method == Method::Options
            && next.is_none()
            && uri.user.is_none()
            && self.settings.is_own(uri.host, uri.port)
        {
            return Ok(Target::Local);
        }
        // ACK and CANCEL belong to an INVITE and go where that went.
        let method_name = match (method, message.start()) {
            (Method::Ack | Method::Cancel, _) => &b"INVITE"[..],
            (_, Start::Request { method_name, .. }) => method_name,
            (_, Start::Response { .. }) => return Err(Answer::new(400, Refused::Malformed)),
        };
        let route = self.settings.snapshot.routes.iter().find(|route| {
            route.from_zone == self.source.zone
                && (route.methods.is_empty()
                    || route.methods.iter().any(|name| name.as_bytes() == method_name))
                && (route.hosts.is_empty()
                    || route.hosts.iter().any(|host| same_host(host.as_bytes(), uri.host)))
        });
        let Some(route) = route else {
            return Err(Answer::new(404, Refused::NoRoute));
        };
        if self.draining && method == Method::Invite && matches!(message.to_tag(), Ok(None)) {
            return Err(Answer::new(503, Refused::Draining));
        }
        if matches!(method, Method::Ack | Method::Cancel)
            && let Some(peer) = self.pending.pinned(self.unique, Method::Invite as u8)
            && let Some(backend) = self.settings.backend_of(peer)
            && let Some(conn) = self.upstream.usable(backend, affinity_hash(call_id))
        {
            return Ok(Target::Backend { backend, conn });
        }
        self.choose(route.pool, message, call_id)
    }

    fn choose(&self, pool: u16, message: &Message<'_>, call_id: &[u8]) -> Result<Target, Answer> {
        let malformed = |_| Answer::new(400, Refused::Malformed);
        // The lane hangs on the call, whatever the backend does: a dialog's later requests name no more than that.
        let lane = affinity_hash(call_id);
        let key = match self.settings.snapshot.pools[usize::from(pool)].affinity {
            Affinity::CallId => lane,
            Affinity::From => affinity_hash(message.from_uri().map_err(malformed)?),
            Affinity::To => affinity_hash(message.to_uri().map_err(malformed)?),
            Affinity::Source => match self.source.peer.ip().to_canonical() {
                std::net::IpAddr::V4(address) => affinity_hash(&address.octets()),
                std::net::IpAddr::V6(address) => affinity_hash(&address.octets()),
            },
            Affinity::None => affinity_hash(&self.unique.to_be_bytes()),
        };
        match self.upstream.choose(self.settings, pool, (key, lane), self.tried, self.now) {
            Some((backend, conn)) => Ok(Target::Backend { backend, conn }),
            None if self.settings.snapshot.pools[usize::from(pool)].udp_only => {
                Err(self.udp_refused(TransportRefused::Dns))
            }
            None => Err(Answer::warned(503, Refused::NoBackend, "no backend of the pool is up")),
        }
    }

    /// The configured backends that a Route value names: one by its address, all addresses of a name.
    fn named_backends(&self, route: &[u8]) -> SmallVec<[usize; 8]> {
        let uri = NameAddr::parse(route).ok().and_then(|it| Uri::parse(it.uri).ok());
        let Some(uri) = uri else { return SmallVec::new() };
        let address = host_ip(uri.host).map(|address| address.to_canonical());
        let is_named = |place: &BackendPlace| {
            let pool = &self.settings.snapshot.pools[usize::from(place.pool)];
            let backend = &pool.backends[usize::from(place.backend)];
            let default = match uri.scheme {
                Scheme::Sips => Transport::Tls.port(),
                _ if backend.transport == Transport::Tls => Transport::Tls.port(),
                _ => Transport::Tcp.port(),
            };
            uri.port.unwrap_or(default) == place.address.port()
                && match address {
                    Some(address) => address == place.address.ip().to_canonical(),
                    None => backend.server_name.as_bytes().eq_ignore_ascii_case(uri.host),
                }
        };
        let places = self.settings.backends().iter().enumerate();
        places.filter(|(_, place)| is_named(place)).map(|(number, _)| number).collect()
    }

    /// One of these backends for this key: of those that take new requests, else of those that only go on.
    fn one_of(&self, backends: &[usize], key: u64) -> Result<Target, Answer> {
        let start = key as usize % backends.len();
        let in_order = || backends[start..].iter().chain(&backends[..start]).copied();
        let conn_of = |backend: usize| {
            let tried = self.tried.contains(&self.settings.backends()[backend].peer);
            Some((backend, self.upstream.usable(backend, key).filter(|_| !tried)?))
        };
        let takes_new = |backend: &usize| self.settings.orders[*backend] == Order::Up;
        let found = in_order().filter(takes_new).find_map(conn_of);
        match found.or_else(|| in_order().find_map(conn_of)) {
            Some((backend, conn)) => Ok(Target::Backend { backend, conn }),
            None => Err(Answer::warned(503, Refused::NoBackend, "backend is down")),
        }
    }

    /// Nothing leaves over UDP: who asks for it where it would decide is told so.
    fn refuse_udp(
        &self,
        message: &Message<'_>,
        method: Method,
        uri: &Uri<'_>,
        next: Option<&[u8]>,
    ) -> Result<(), Answer> {
        let asks = |value: &[u8]| {
            NameAddr::parse(value)
                .ok()
                .and_then(|name_addr| Uri::parse(name_addr.uri).ok().map(|uri| asks_udp(&uri)))
                .unwrap_or(false)
        };
        let place = if next.is_some_and(asks) {
            TransportRefused::Route
        } else if next.is_none() && asks_udp(uri) {
            TransportRefused::RequestUri
        } else if method == Method::Register
            && message.values(Name::Path).next().is_some_and(|value| asks(value.bytes))
        {
            TransportRefused::Path
        } else {
            return Ok(());
        };
        Err(self.udp_refused(place))
    }

    fn udp_refused(&self, place: TransportRefused) -> Answer {
        Answer {
            status: self.settings.snapshot.udp_answer,
            reason: Refused::TransportPolicy,
            transport: Some(place),
            warning: Some("UDP is not spoken here, use TCP or TLS"),
        }
    }
}

fn is_sips(value: &[u8]) -> bool {
    NameAddr::parse(value)
        .is_ok_and(|it| it.uri.len() > 5 && it.uri[..5].eq_ignore_ascii_case(b"sips:"))
}

/// A SIPS request whose Contact is SIP is inconsistent (RFC 5630 5.3).
fn has_sip_contact(message: &Message<'_>) -> bool {
    message.values(Name::Contact).any(|contact| {
        NameAddr::parse(contact.bytes)
            .is_ok_and(|it| it.uri.len() > 4 && it.uri[..4].eq_ignore_ascii_case(b"sip:"))
    })
}

fn asks_udp(uri: &Uri<'_>) -> bool {
    uri.transport().is_some_and(|transport| transport.eq_ignore_ascii_case(b"udp"))
}

/// Host names compare without case, addresses by value.
fn same_host(configured: &[u8], host: &[u8]) -> bool {
    match (host_ip(configured), host_ip(host)) {
        (Some(one), Some(two)) => one.to_canonical() == two.to_canonical(),
        (None, None) => configured.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// The URI without maddr, and without the port and transport that went with it (RFC 3261 16.4).
fn without_maddr(uri: &Uri<'_>) -> SmallVec<[u8; 128]> {
    let mut text = SmallVec::new();
    text.extend_from_slice(if uri.scheme == Scheme::Sips { b"sips:" } else { b"sip:" });
    if let Some(user) = uri.user {
        text.extend_from_slice(user);
        text.push(b'@');
    }
    text.extend_from_slice(uri.host);
    for parameter in uri.parameters.split(|byte| *byte == b';').filter(|part| !part.is_empty()) {
        let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !name.eq_ignore_ascii_case(b"maddr") && !name.eq_ignore_ascii_case(b"transport") {
            text.push(b';');
            text.extend_from_slice(parameter);
        }
    }
    text
}
