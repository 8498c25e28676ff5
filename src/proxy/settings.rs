//! What the proxy is told by control, settled into the form that the hot path reads: faces, own names, sizes.
//! Owns nothing that changes between two `configure` calls. Never reads a file.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::limits;
use crate::config::snapshot::{
    Advertised, ClientCertificate, Family, PathPolicy, Snapshot, TlsUri, Transport,
};
use crate::sip::frame::FrameLimits;
use crate::sip::uri;
use crate::tls::identity::{ClientSide, ServerSide};

use super::admission::PrefixTable;
use super::token::{BranchKey, PeerId, TokenKeys};

/// Header lines that our edits add to a message: Via, two Record-Routes, Path, Max-Forwards, Max-Breadth, Route.
const OWN_HEADERS_MAX: u32 = 8;

/// What the operator wants of a backend while the process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Up,
    /// Nothing new is sent to it; dialogs that it holds go on.
    Drain,
    /// No connection, no request.
    Down,
}

impl Order {
    /// The name in the admin interface.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Up => "up",
            Order::Drain => "drain",
            Order::Down => "down",
        }
    }
}

/// How often neighbours are asked for keepalives at the most seldom: below the 120 s that RFC 5626 4.4.1 takes as the
/// ceiling for connections.
const KEEPALIVE_SECONDS_MAX: u64 = 90;

/// Everything a worker's proxy is configured with. The same for all workers.
#[derive(Clone)]
pub struct Settings {
    pub snapshot: Snapshot,
    /// For each listener; `None` for TCP.
    pub server_sides: Vec<Option<ServerSide>>,
    /// For each pool and backend, in order; `None` for TCP.
    pub client_sides: Vec<Vec<Option<ClientSide>>>,
    pub branch_key: BranchKey,
    pub token_keys: TokenKeys,
    pub workers: u8,
    /// Connections and handshakes for each source prefix, shared by all workers, touched at accept and close only.
    pub prefixes: Arc<PrefixTable>,
    /// For each backend, in order.
    pub orders: Vec<Order>,
    derived: Derived,
}

/// What follows from the snapshot.
#[derive(Clone)]
struct Derived {
    faces: Vec<Option<Face>>,
    own: Vec<OwnName>,
    frame: FrameLimits,
    own_frame: FrameLimits,
    backends: Vec<BackendPlace>,
    strip: Vec<Vec<Box<str>>>,
    keepalive: Box<[u8]>,
}

/// How we look towards one zone over one transport and family: what stands in our Via, Record-Route and Path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    /// `SIP/2.0/TLS host:port;branch=`
    pub via: Box<[u8]>,
    /// `<sips:`
    pub uri_before: Box<[u8]>,
    /// `@host:port;lr` with the transport where it is needed; the closing bracket is the caller's.
    pub uri_after: Box<[u8]>,
}

/// One of our own names or addresses, as it may stand in a URI or a Via.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnName {
    host: OwnHost,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum OwnHost {
    Name(Box<str>),
    Address(IpAddr),
}

/// Where a backend stands in the pools, and who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPlace {
    pub pool: u16,
    pub backend: u16,
    pub peer: PeerId,
    pub address: std::net::SocketAddr,
}

impl Settings {
    pub fn new(
        snapshot: Snapshot,
        server_sides: Vec<Option<ServerSide>>,
        client_sides: Vec<Vec<Option<ClientSide>>>,
        branch_key: BranchKey,
        token_keys: TokenKeys,
        workers: u8,
        prefixes: Arc<PrefixTable>,
    ) -> Self {
        let derived = Derived::new(&snapshot);
        Settings {
            snapshot,
            server_sides,
            client_sides,
            branch_key,
            token_keys,
            workers,
            prefixes,
            orders: vec![Order::Up; derived.backends.len()],
            derived,
        }
        .with_orders(|_, _| Order::Up)
    }

    /// The same with other orders, given by the names of pool and backend.
    pub fn with_orders(mut self, order: impl Fn(&str, &str) -> Order) -> Self {
        for (number, place) in self.derived.backends.iter().enumerate() {
            let pool = &self.snapshot.pools[usize::from(place.pool)];
            let backend = &pool.backends[usize::from(place.backend)];
            let order = order(&pool.name, &backend.name);
            let retired = backend.retired && order == Order::Up;
            self.orders[number] = if retired { Order::Drain } else { order };
        }
        self
    }

    /// How we look towards `zone` over `transport` and `family`; where the zone has no such name, over what it has.
    pub fn face(&self, zone: u16, transport: Transport, family: Family) -> &Face {
        let faces = &self.derived.faces[usize::from(zone) * 4..][..4];
        faces[face_index(transport, family)]
            .as_ref()
            .or_else(|| faces.iter().flatten().next())
            .expect("check gives every zone at least one name")
    }

    /// Whether host and port of a URI or Via are ours. An absent port stands for any of our ports: the name then
    /// led here by SRV or by default.
    pub fn is_own(&self, host: &[u8], port: Option<u16>) -> bool {
        let address = uri::host_ip(host).map(|address| address.to_canonical());
        self.derived.own.iter().any(|own| {
            port.is_none_or(|port| port == own.port)
                && match (&own.host, address) {
                    (OwnHost::Address(own), Some(address)) => *own == address,
                    (OwnHost::Name(name), None) => {
                        let host = host.strip_suffix(b".").unwrap_or(host);
                        name.as_bytes().eq_ignore_ascii_case(host)
                    }
                    _ => false,
                }
        })
    }

    pub fn frame_limits(&self) -> &FrameLimits {
        &self.derived.frame
    }

    /// For messages that we have edited: a little longer than what a peer may send.
    pub fn own_frame_limits(&self) -> &FrameLimits {
        &self.derived.own_frame
    }

    /// All backends of all pools, in order; the index is the backend's number in counters and links.
    pub fn backends(&self) -> &[BackendPlace] {
        &self.derived.backends
    }

    /// The number of the first backend of a pool.
    pub fn first_backend(&self, pool: u16) -> usize {
        self.derived.backends.partition_point(|place| place.pool < pool)
    }

    /// The backend with this identity, if it is (still) configured.
    pub fn backend_of(&self, peer: PeerId) -> Option<usize> {
        self.derived.backends.iter().position(|place| place.peer == peer)
    }

    /// Header names to strip from requests of a zone, lower case.
    pub fn strip(&self, zone: u16) -> &[Box<str>] {
        &self.derived.strip[usize::from(zone)]
    }

    /// How often a neighbour should send keepalives, in seconds, as text.
    pub fn keepalive(&self) -> &[u8] {
        &self.derived.keepalive
    }

    /// Whether a client certificate is asked for on this zone's TLS listeners.
    pub fn asks_certificate(&self, zone: u16) -> bool {
        self.snapshot.zones[usize::from(zone)].client_certificate != ClientCertificate::None
    }

    pub fn path_policy(&self, zone: u16) -> PathPolicy {
        self.snapshot.zones[usize::from(zone)].path
    }
}

impl Derived {
    fn new(snapshot: &Snapshot) -> Self {
        let limits = &snapshot.limits;
        let frame = FrameLimits {
            start_line: limits.start_line,
            uri: limits.uri,
            header_line: limits.header_line,
            head: limits.head.min(limits::HEAD_BYTES_CEILING),
            headers: limits.headers,
            vias: limits.vias,
            routes: limits.routes,
            contacts: limits.contacts,
            parameters: limits.parameters,
            body: limits.body.min(limits::BODY_BYTES_CEILING),
        };
        let backends = snapshot.pools.iter().enumerate().flat_map(|(pool, settings)| {
            settings.backends.iter().enumerate().map(move |(backend, b)| BackendPlace {
                pool: pool as u16,
                backend: backend as u16,
                peer: PeerId::backend(&settings.name, &b.name, b.address),
                address: b.address,
            })
        });
        // Three quarters of the time after which the neighbour's silence would end its connection.
        let quiet = limits.idle_timeout.min(limits.registered_idle_timeout).as_secs();
        let keepalive = (quiet * 3 / 4).clamp(1, KEEPALIVE_SECONDS_MAX);
        Derived {
            keepalive: keepalive.to_string().into_bytes().into(),
            faces: faces(snapshot),
            own: own_names(snapshot),
            own_frame: FrameLimits {
                uri: frame.uri + limits::EDIT_BYTES_MAX,
                start_line: frame.start_line + limits::EDIT_BYTES_MAX,
                header_line: frame.header_line + limits::EDIT_BYTES_MAX,
                head: frame.head + limits::EDIT_BYTES_MAX,
                headers: frame.headers + OWN_HEADERS_MAX,
                vias: frame.vias + OWN_HEADERS_MAX,
                routes: frame.routes + OWN_HEADERS_MAX,
                ..frame
            },
            frame,
            backends: backends.collect(),
            strip: snapshot
                .zones
                .iter()
                .map(|zone| if zone.trusted { Vec::new() } else { zone.strip_headers.clone() })
                .collect(),
        }
    }
}

fn face_index(transport: Transport, family: Family) -> usize {
    usize::from(transport == Transport::Tls) * 2 + usize::from(family == Family::V6)
}

fn faces(snapshot: &Snapshot) -> Vec<Option<Face>> {
    let mut faces = Vec::new();
    for zone in &snapshot.zones {
        for transport in [Transport::Tcp, Transport::Tls] {
            for family in [Family::V4, Family::V6] {
                debug_assert_eq!(faces.len() % 4, face_index(transport, family));
                let advertised = zone.advertised.of(transport, family);
                faces.push(advertised.map(|name| face(name, transport, zone.tls_uri)));
            }
        }
    }
    faces
}

fn face(name: &Advertised, transport: Transport, tls_uri: TlsUri) -> Face {
    let Advertised { host, port, .. } = name;
    let protocol = match transport {
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
    };
    // The URI says what answers at that name, which may be another zone's listener.
    let (before, parameter) = match (name.transport, tls_uri) {
        (Transport::Tcp, _) => ("<sip:", ";transport=tcp"),
        (Transport::Tls, TlsUri::Sips) => ("<sips:", ""),
        (Transport::Tls, TlsUri::Transport) => ("<sip:", ";transport=tls"),
    };
    Face {
        via: format!("SIP/2.0/{protocol} {host}:{port};branch=").into_bytes().into(),
        uri_before: before.as_bytes().into(),
        uri_after: format!("@{host}:{port}{parameter};lr").into_bytes().into(),
    }
}

fn own_names(snapshot: &Snapshot) -> Vec<OwnName> {
    let mut own: Vec<OwnName> = Vec::new();
    let mut add = |host: OwnHost, port: u16| {
        let name = OwnName { host, port };
        if !own.contains(&name) {
            own.push(name);
        }
    };
    for listener in &snapshot.listeners {
        let (host, port) = own_host(&listener.advertised);
        add(host, port);
        if !listener.bind.ip().is_unspecified() {
            add(OwnHost::Address(listener.bind.ip().to_canonical()), listener.bind.port());
        }
    }
    for zone in &snapshot.zones {
        for transport in [Transport::Tcp, Transport::Tls] {
            for family in [Family::V4, Family::V6] {
                if let Some(advertised) = zone.advertised.of(transport, family) {
                    let (host, port) = own_host(advertised);
                    add(host, port);
                }
            }
        }
    }
    own
}

fn own_host(advertised: &Advertised) -> (OwnHost, u16) {
    let host = match uri::host_ip(advertised.host.as_bytes()) {
        Some(address) => OwnHost::Address(address.to_canonical()),
        None => OwnHost::Name(advertised.host.to_ascii_lowercase().into()),
    };
    (host, advertised.port)
}
