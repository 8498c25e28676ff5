//! The settled settings: zones, listeners, pools, routes, limits; valid by construction.
//! Owns plain values only (names, addresses, durations, DER). Never reads a file, never knows serde, never holds an
//! `Option` that means "not settled yet".

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The two transports that exist here (RFC 3261 18 says UDP too: docs/rfc.md lists the deviation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Tls,
}

impl Transport {
    /// The name in configuration, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }

    /// The default port (RFC 3261 18.2.1).
    pub const fn port(self) -> u16 {
        match self {
            Transport::Tcp => 5060,
            Transport::Tls => 5061,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// A set of transports; never empty in a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transports {
    pub tcp: bool,
    pub tls: bool,
}

impl Transports {
    pub const fn allows(self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
        }
    }
}

/// Host and port as they stand in Via, Record-Route and Path: a name, an IPv4 or a bracketed IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Advertised {
    /// Host as written in a URI, lower case, IPv6 in brackets.
    pub host: Box<str>,
    pub port: u16,
    /// What answers there. It differs from the transport that is spoken towards the zone only when the zone has no
    /// listener of its own and another zone's stands in for it (contract `advertise`).
    pub transport: Transport,
}

/// Source prefix: address and length in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub address: IpAddr,
    pub bits: u8,
}

impl Prefix {
    /// Whether `address` lies inside; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(host)) => {
                let shift = 32 - u32::from(self.bits.min(32));
                shift == 32 || u32::from(net) >> shift == u32::from(host) >> shift
            }
            (IpAddr::V6(net), IpAddr::V6(host)) => {
                let shift = 128 - u32::from(self.bits.min(128));
                shift == 128 || u128::from(net) >> shift == u128::from(host) >> shift
            }
            _ => false,
        }
    }
}

/// When a REGISTER from a zone gets our Path (RFC 3327; contract: `path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPolicy {
    Always,
    Supported,
    Off,
}

/// How our TLS-side URIs are written (contract: `tls_uri`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsUri {
    Sips,
    Transport,
}

/// Whether a TLS client must show a certificate (contract: `client_certificate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    None,
    Optional,
    Report,
    Required,
}

/// A certificate chain and its key, DER, leaf first.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Names to choose it by (SNI); empty: the default identity.
    pub names: Vec<Box<str>>,
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8, PKCS#1 or SEC1 key, DER.
    pub key: Arc<zeroize::Zeroizing<Vec<u8>>>,
    pub key_kind: KeyKind,
    /// OCSP response to staple, DER; empty: none.
    pub ocsp: Vec<u8>,
    /// Where it was read from, for messages.
    pub chain_path: PathBuf,
}

impl std::fmt::Debug for IdentityFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityFiles")
            .field("names", &self.names)
            .field("chain_path", &self.chain_path)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Pkcs8,
    Pkcs1,
    Sec1,
}

/// A side of the network with one policy.
#[derive(Clone, Debug)]
pub struct Zone {
    pub name: Box<str>,
    pub transports: Transports,
    /// Where we can be reached from this zone, for each transport and family: what stands in Via, Record-Route and
    /// Path towards it. Settled by the rules of contract `advertise`.
    pub advertised: ZoneAdvertised,
    pub client_certificate: ClientCertificate,
    /// CA certificates for clients, DER.
    pub client_ca: Vec<Vec<u8>>,
    pub client_names: Vec<Box<str>>,
    /// CA certificates for peers that we dial in this zone, DER; empty: none is trusted, TLS cannot be dialled.
    pub server_ca: Vec<Vec<u8>>,
    /// What we show to peers that we dial.
    pub certificate: Option<IdentityFiles>,
    pub allow_from: Vec<Prefix>,
    pub path: PathPolicy,
    pub tls_uri: TlsUri,
    pub trusted: bool,
    /// Header names removed from requests of an untrusted zone, lower case, long form.
    pub strip_headers: Vec<Box<str>>,
}

/// Indexed by transport and family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneAdvertised {
    pub tcp_v4: Option<Advertised>,
    pub tcp_v6: Option<Advertised>,
    pub tls_v4: Option<Advertised>,
    pub tls_v6: Option<Advertised>,
}

impl ZoneAdvertised {
    pub fn of(&self, transport: Transport, family: Family) -> Option<&Advertised> {
        match (transport, family) {
            (Transport::Tcp, Family::V4) => self.tcp_v4.as_ref(),
            (Transport::Tcp, Family::V6) => self.tcp_v6.as_ref(),
            (Transport::Tls, Family::V4) => self.tls_v4.as_ref(),
            (Transport::Tls, Family::V6) => self.tls_v6.as_ref(),
        }
    }
}

/// One bound address. A `[[listener]]` with several `bind` values is several of these.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: Box<str>,
    /// Index into `Snapshot::zones`.
    pub zone: u16,
    pub transport: Transport,
    pub bind: SocketAddr,
    pub advertised: Advertised,
    /// Sources whose connections begin with a header of the PROXY protocol, which is required then; empty: off.
    pub proxy_from: Vec<Prefix>,
    /// Certificates of a TLS listener, default identity first; empty: the generated one of the embedded default.
    pub identities: Vec<IdentityFiles>,
}

/// What the hash that chooses a backend runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    CallId,
    From,
    To,
    Source,
    None,
}

#[derive(Clone, Debug)]
pub struct Pool {
    pub name: Box<str>,
    /// Index into `Snapshot::zones`: how we speak to it.
    pub zone: u16,
    pub affinity: Affinity,
    /// Connections for each backend and worker.
    pub lanes: u8,
    /// Transaction-stateful: requests are sent elsewhere when a backend fails.
    pub failover: bool,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    /// How its backends are probed; `None`: not at all.
    pub health: Option<Health>,
    pub shared_dialogs: bool,
    /// How long a backend that comes back takes to have its whole share again; zero: at once.
    pub slow_start: Duration,
    pub allow_wildcard: bool,
    /// Those with addresses; what names lead to is put in by control when it is known. May be empty.
    pub backends: Vec<Backend>,
    /// No backend, because all that its names lead to is UDP: requests are refused as such.
    pub udp_only: bool,
}

/// How backends are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub method: ProbeMethod,
    pub interval: Duration,
    /// How long an answer may take, and how long a backend may be silent that was sent something.
    pub timeout: Duration,
    /// Answers in a row that bring a backend back; at least 1.
    pub rise: u8,
    /// Failures in a row that take it out; at least 1.
    pub fall: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMethod {
    Options,
    /// CRLF ping and pong (RFC 5626 4.4.1).
    Crlf,
}

#[derive(Clone, Debug)]
pub struct Backend {
    pub name: Box<str>,
    pub transport: Transport,
    pub address: SocketAddr,
    /// The name its certificate must carry (RFC 5922 7.3), and SNI.
    pub server_name: Box<str>,
    pub weight: u16,
    /// The least goes first.
    pub priority: u16,
    /// An address that its name no longer leads to: it keeps the dialogs that it has and gets no new ones.
    pub retired: bool,
}

/// A backend that is written as a name: what it leads to is found by DNS (RFC 3263).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedBackend {
    /// Index into `Snapshot::pools`.
    pub pool: u16,
    pub name: Box<str>,
    pub place: NamedPlace,
    /// What may be spoken to it: the zone's, or the one that is written.
    pub transports: Transports,
    /// The name before DNS, which its certificates must carry (RFC 5922 7.3).
    pub server_name: Box<str>,
    pub weight: u16,
    pub priority: u16,
}

/// How a backend's name is written; names are lower case and without a final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedPlace {
    /// A name without a port: NAPTR, SRV, then its addresses (RFC 3263 4.1). With a written transport no NAPTR.
    Domain { name: Box<str>, transport_written: bool },
    /// A name with a port: its addresses (RFC 3263 4.2).
    Host { name: Box<str>, port: u16 },
    /// `srv`: the SRV records of exactly this name (RFC 2782).
    Service { name: Box<str> },
}

impl NamedPlace {
    /// As it was written.
    pub fn text(&self) -> String {
        match self {
            NamedPlace::Domain { name, .. } | NamedPlace::Service { name } => name.to_string(),
            NamedPlace::Host { name, port } => format!("{name}:{port}"),
        }
    }
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverSettings {
    /// Asked in this order; empty: those of /etc/resolv.conf at the time of the question.
    pub servers: Vec<SocketAddr>,
    /// For one question to one server, connection included.
    pub timeout: Duration,
    /// An answer is never asked again before this,
    pub ttl_min: Duration,
    /// nor believed for longer than this without asking again.
    pub ttl_max: Duration,
    /// Where addresses of loopback and link-local ranges may lie all the same.
    pub allow_answers: Vec<Prefix>,
    pub names: Vec<NamedBackend>,
}

#[derive(Clone, Debug)]
pub struct Route {
    /// Index into `Snapshot::zones`.
    pub from_zone: u16,
    /// Upper case; empty: all.
    pub methods: Vec<Box<str>>,
    /// Request-URI hosts, lower case, as written in a URI; empty: any.
    pub hosts: Vec<Box<str>>,
    /// Index into `Snapshot::pools`.
    pub pool: u16,
}

/// TLS of all listeners and of what we dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub tls12: bool,
    pub tls13: bool,
    /// In order of preference; never empty.
    pub groups: Vec<Group>,
    /// In the order in which we offer them; at least one for each version that is on.
    pub suites: Vec<CipherSuite>,
    pub require_alpn: bool,
    pub tickets: TicketPolicy,
    /// Certificate revocation lists, DER; each is enforced for the certificates of its issuer.
    pub crl: Vec<Vec<u8>>,
}

impl Default for Tls {
    /// What stands when the file says nothing.
    fn default() -> Self {
        Tls {
            tls12: true,
            tls13: true,
            groups: vec![Group::X25519MlKem768, Group::X25519, Group::P256],
            suites: CipherSuite::ALL.to_vec(),
            require_alpn: false,
            tickets: TicketPolicy::default(),
            crl: Vec::new(),
        }
    }
}

/// The cipher suites that there are; each has forward secrecy and authenticates what it encrypts, none is weaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    Aes256GcmSha384,
    Aes128GcmSha256,
    Chacha20Poly1305Sha256,
    EcdheEcdsaAes256GcmSha384,
    EcdheEcdsaAes128GcmSha256,
    EcdheEcdsaChacha20Poly1305Sha256,
    EcdheRsaAes256GcmSha384,
    EcdheRsaAes128GcmSha256,
    EcdheRsaChacha20Poly1305Sha256,
}

impl CipherSuite {
    /// In the order that stands when the file says nothing.
    pub const ALL: [CipherSuite; 9] = [
        CipherSuite::Aes256GcmSha384,
        CipherSuite::Aes128GcmSha256,
        CipherSuite::Chacha20Poly1305Sha256,
        CipherSuite::EcdheEcdsaAes256GcmSha384,
        CipherSuite::EcdheEcdsaAes128GcmSha256,
        CipherSuite::EcdheEcdsaChacha20Poly1305Sha256,
        CipherSuite::EcdheRsaAes256GcmSha384,
        CipherSuite::EcdheRsaAes128GcmSha256,
        CipherSuite::EcdheRsaChacha20Poly1305Sha256,
    ];

    /// The name in the registry of IANA, as it is written in the file.
    pub const fn name(self) -> &'static str {
        match self {
            CipherSuite::Aes256GcmSha384 => "TLS_AES_256_GCM_SHA384",
            CipherSuite::Aes128GcmSha256 => "TLS_AES_128_GCM_SHA256",
            CipherSuite::Chacha20Poly1305Sha256 => "TLS_CHACHA20_POLY1305_SHA256",
            CipherSuite::EcdheEcdsaAes256GcmSha384 => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            CipherSuite::EcdheEcdsaAes128GcmSha256 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            CipherSuite::EcdheEcdsaChacha20Poly1305Sha256 => {
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
            }
            CipherSuite::EcdheRsaAes256GcmSha384 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            CipherSuite::EcdheRsaAes128GcmSha256 => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            CipherSuite::EcdheRsaChacha20Poly1305Sha256 => {
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
            }
        }
    }

    /// Whether it belongs to TLS 1.3; each belongs to one version.
    pub const fn is_tls13(self) -> bool {
        matches!(
            self,
            CipherSuite::Aes256GcmSha384
                | CipherSuite::Aes128GcmSha256
                | CipherSuite::Chacha20Poly1305Sha256
        )
    }
}

/// How sessions are resumed (contract `[tls] tickets`).
#[derive(Clone, PartialEq, Eq)]
pub enum TicketPolicy {
    /// No ticket is given or taken.
    Off,
    On {
        /// A ticket is good for so long; whole seconds.
        lifetime: Duration,
        /// A key seals for so long; whole seconds.
        rotate: Duration,
        /// Text of the key file that a fleet shares; `None`: keys are made in memory.
        keys: Option<Arc<zeroize::Zeroizing<Vec<u8>>>>,
    },
}

impl Default for TicketPolicy {
    fn default() -> Self {
        let hour = 60 * 60;
        TicketPolicy::On {
            lifetime: Duration::from_secs(12 * hour),
            rotate: Duration::from_secs(hour),
            keys: None,
        }
    }
}

impl std::fmt::Debug for TicketPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TicketPolicy::Off => f.write_str("Off"),
            TicketPolicy::On { lifetime, rotate, keys } => f
                .debug_struct("On")
                .field("lifetime", lifetime)
                .field("rotate", rotate)
                .field("shared", &keys.is_some())
                .finish(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    X25519MlKem768,
    X25519,
    P256,
    P384,
}

/// Events in a time: `count` for each `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

impl Rate {
    /// What `"off"` is settled to where the contract allows it: no source reaches it.
    pub const UNLIMITED: Rate = Rate { count: u32::MAX, per: Duration::from_secs(1) };
}

/// What becomes of a request when its worker keeps the state of as many transactions as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// 503.
    Refuse,
    /// It is forwarded without state: nobody sends it elsewhere.
    Stateless,
}

/// Bounds that an operator may set (contract `[limits]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Accepted connections of one worker.
    pub connections_per_core: u32,
    /// Transactions of one worker whose state is kept (`failover`).
    pub transactions_per_core: u32,
    pub transactions_full: WhenFull,
    pub connections_per_prefix: u32,
    pub requests_per_prefix: Rate,
    pub handshake_deadline: Duration,
    pub handshakes_per_core: u32,
    pub handshakes_per_prefix: u32,
    /// Share of one core's time for handshakes, in per mille.
    pub handshake_share: u16,
    pub handshake_rate_per_prefix: Rate,
    pub requests_per_connection: Rate,
    /// `None`: off.
    pub requests_per_aor: Option<Rate>,
    /// `None`: off.
    pub failures_per_prefix: Option<u32>,
    /// Bytes per second that a message under way must bring.
    pub minimum_rate: u32,
    pub message_deadline: Duration,
    pub idle_timeout: Duration,
    pub registered_idle_timeout: Duration,
    /// `None`: off.
    pub keepalive: Option<Duration>,
    /// How long a turn of the loop may take before new requests are refused; `None`: off.
    pub turn_time: Option<Duration>,
    pub start_line: u32,
    pub uri: u32,
    pub header_line: u32,
    pub head: u32,
    pub headers: u32,
    pub vias: u32,
    pub routes: u32,
    pub contacts: u32,
    pub parameters: u32,
    pub body: u32,
    pub outbox: u32,
}

impl Default for Limits {
    /// The values of contract.md.
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Limits {
            connections_per_core: 100_000,
            transactions_per_core: 131_072,
            transactions_full: WhenFull::Refuse,
            connections_per_prefix: 256,
            requests_per_prefix: Rate { count: 200, per: second },
            handshake_deadline: Duration::from_secs(5),
            handshakes_per_core: 4096,
            handshakes_per_prefix: 64,
            handshake_share: 500,
            handshake_rate_per_prefix: Rate { count: 2000, per: second },
            requests_per_connection: Rate { count: 20_000, per: second },
            requests_per_aor: None,
            failures_per_prefix: None,
            minimum_rate: 512,
            message_deadline: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            registered_idle_timeout: Duration::from_secs(70 * 60),
            keepalive: None,
            turn_time: Some(Duration::from_millis(50)),
            start_line: 2 * 1024,
            uri: 1024,
            header_line: 4 * 1024,
            head: 16 * 1024,
            headers: 128,
            vias: 70,
            routes: 16,
            contacts: 10,
            parameters: 32,
            body: 64 * 1024,
            outbox: 256 * 1024,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    pub deadline: Duration,
    pub pace: Duration,
}

/// What the cores need of the configuration.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub node: Box<str>,
    pub zones: Vec<Zone>,
    pub listeners: Vec<Listener>,
    pub pools: Vec<Pool>,
    pub routes: Vec<Route>,
    pub tls: Tls,
    pub limits: Limits,
    pub drain: Drain,
    /// Status when the only transport asked for is UDP (contract `[policy] udp_answer`).
    pub udp_answer: u16,
    /// Counted up by each reload.
    pub generation: u64,
}

/// What only the control plane needs.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    pub state_dir: PathBuf,
    /// Core ids of the workers; never empty.
    pub cores: Vec<usize>,
    pub housekeeping_core: Option<usize>,
    pub engine: EngineSettings,
    /// Whether a change of the files is a reload.
    pub watch: bool,
    pub secret_file: PathBuf,
    pub admin: AdminListen,
    pub metrics_listen: Option<SocketAddr>,
    pub latency_log: Option<PathBuf>,
    pub latency_interval: Duration,
    pub log: LogSettings,
    pub resolver: ResolverSettings,
    /// Whether the embedded backend runs beside the proxy (only in the embedded default).
    pub embedded_backend: Option<SocketAddr>,
}

/// How the workers' rings are run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineSettings {
    pub mode: EngineMode,
    /// Core of the kernel's submitting thread, by worker; empty: the worker's own.
    pub sqpoll_cores: Vec<usize>,
    pub zero_copy_send: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineMode {
    /// Completions run when a worker asks for them.
    #[default]
    Deferred,
    /// A thread of the kernel takes submissions without being called.
    Sqpoll,
    /// A worker that waits looks into the network card's queues itself.
    BusyPoll,
}

impl EngineMode {
    /// The name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            EngineMode::Deferred => "deferred",
            EngineMode::Sqpoll => "sqpoll",
            EngineMode::BusyPoll => "busy-poll",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    Unix(PathBuf),
    Tcp { address: SocketAddr, token_file: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LogLevel,
    pub json: bool,
    /// `None`: stderr.
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
