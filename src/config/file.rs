//! The configuration file as written: one type for each table, one field for each key.
//! Owns the names of the keys, their docs and the schema. Never knows a default (`check` settles), never used below
//! the control plane.

use schemars::JsonSchema;
use serde::Deserialize;

use super::read::{Many, Named, Written};
use super::value::{
    Address, AdminAddress, Auto, BackendAddress, BytesPerSecond, Count, Embedded, FilePath,
    HeaderName, Host, HostPort, Identity, Method, Name, NameServer, Off, Or, PerTime, Period,
    ServiceName, Share, Size, SourcePrefix, Target, Unpinned,
};

/// Keys of later versions. They are unknown here, and the cure says so.
const NOT_BUILT: [&str; 4] = ["hep", "fleet", "pool.overload_control", "admin.client_ca"];

/// Whether the key at `path` (`pool[0].overload_control`) is one of a later version.
pub fn is_not_built(path: &str) -> bool {
    let mut bare = String::with_capacity(path.len());
    let mut depth = 0;
    for c in path.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            c if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    NOT_BUILT.contains(&bare.as_str())
}

/// Configuration of ringfront.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// This process: its name, its files, its cores.
    pub node: Written<Node>,
    /// How the cores talk to the kernel.
    pub engine: Written<Engine>,
    /// Sides of the network, each with one policy.
    pub zone: Written<Named<Zone>>,
    /// Where clients come in.
    pub listener: Written<Vec<Written<Listener>>>,
    /// TLS of all listeners, and of what is dialled.
    pub tls: Written<Tls>,
    /// Backends that stand for each other.
    pub pool: Written<Vec<Written<Pool>>>,
    /// Which requests go to which pool; the first match wins.
    pub route: Written<Vec<Written<Route>>>,
    /// How the names of backends are looked up.
    pub resolver: Written<Resolver>,
    /// Every bound that may be set.
    pub limits: Written<Limits>,
    /// How the process stops.
    pub drain: Written<Drain>,
    /// Where the process is watched and driven.
    pub admin: Written<Admin>,
    /// Where latency is recorded.
    pub latency: Written<Latency>,
    /// Answers that are a matter of taste.
    pub policy: Written<Policy>,
    /// What is logged, and where.
    pub log: Written<Log>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Letters, digits, '-'; part of tokens and metrics.
    pub name: Written<Name>,
    /// Made with mode 0700 when absent.
    pub state_dir: Written<FilePath>,
    /// Cores of the workers: "auto" is every core that the process may run on.
    pub cores: Written<Or<Auto, Many<u32>>>,
    /// Core of the control plane; "none" leaves it unpinned.
    pub housekeeping_core: Written<Or<Unpinned, u32>>,
    /// Key for tokens; made in state_dir when absent.
    pub secret_file: Written<FilePath>,
    /// Whether a change of the configuration file, or of a file that it names, is a reload.
    pub watch: Written<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// How submissions and completions are run.
    pub mode: Written<Mode>,
    /// Cores of the kernel's threads of mode "sqpoll", one for each worker; absent: each on its worker's core.
    pub sqpoll_cores: Written<Many<u32>>,
    /// Whether large sends go to the network from our own memory, where the kernel can.
    pub zero_copy_send: Written<OffAuto>,
    pub zero_copy_receive: Written<OnlyOff>,
    pub ktls: Written<OnlyOff>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Deferred,
    Sqpoll,
    BusyPoll,
}

/// An ability that is used where the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OffAuto {
    Off,
    Auto,
}

/// An ability that this version does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnlyOff {
    Off,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["transports"]))]
pub struct Zone {
    /// What may be spoken here.
    pub transports: Written<Many<Transport>>,
    /// What stands in Via, Record-Route and Path towards this zone; a list gives one for each family.
    pub advertise: Written<Many<HostPort>>,
    /// Whether TLS clients must show a certificate.
    pub client_certificate: Written<ClientCertificate>,
    /// PEM bundle of those who may vouch for clients.
    pub client_ca: Written<FilePath>,
    /// Identities allowed (RFC 5922); empty: any that the bundle vouches for.
    pub client_names: Written<Many<Identity>>,
    /// PEM bundle of those who may vouch for peers that we dial in this zone.
    pub server_ca: Written<FilePath>,
    /// What we show to peers that we dial.
    pub certificate: Written<KeyPair>,
    /// Source prefixes; required when trusted and client_certificate is not "required".
    pub allow_from: Written<Many<SourcePrefix>>,
    /// Path on REGISTER from this zone.
    pub path: Written<PathPolicy>,
    /// How our own TLS-side URIs are written.
    pub tls_uri: Written<TlsUri>,
    /// A trusted zone may send to any flow and set identity headers.
    pub trusted: Written<bool>,
    /// Headers removed from requests of an untrusted zone.
    pub strip_headers: Written<Many<HeaderName>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    Tls,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificate {
    None,
    Optional,
    /// Log what would be refused.
    Report,
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PathPolicy {
    Always,
    Supported,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsUri {
    Sips,
    /// sip:...;transport=tls, deprecated (RFC 5630) but all that some phones understand.
    Transport,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["chain", "key"]))]
pub struct KeyPair {
    /// Certificates, PEM, leaf first.
    pub chain: Written<FilePath>,
    /// Private key, PEM; readable by its owner only.
    pub key: Written<FilePath>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["chain", "key"]))]
pub struct Certificate {
    /// Names to choose it by (SNI); empty: the default identity.
    pub names: Written<Many<Host>>,
    /// Certificates, PEM, leaf first.
    pub chain: Written<FilePath>,
    /// Private key, PEM; readable by its owner only.
    pub key: Written<FilePath>,
    /// OCSP response to staple, DER.
    pub ocsp: Written<FilePath>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "zone", "transport", "bind"]))]
pub struct Listener {
    pub name: Written<Name>,
    /// The zone that clients come from.
    pub zone: Written<Name>,
    pub transport: Written<Transport>,
    /// Addresses.
    pub bind: Written<Many<Address>>,
    /// Overrides the zone's.
    pub advertise: Written<Many<HostPort>>,
    /// Certificates of a TLS listener. May be left out on loopback: then one is made in memory at the start.
    pub certificates: Written<Many<Certificate>>,
    /// Whether every connection begins with a header of the PROXY protocol (version 1 or 2), and nobody else may come.
    pub proxy_protocol: Written<ProxyProtocol>,
    /// Source prefixes of the proxies that write it.
    pub proxy_protocol_from: Written<Many<SourcePrefix>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyProtocol {
    Off,
    Required,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub versions: Written<Many<TlsVersion>>,
    /// Key exchange groups, in order of preference.
    pub groups: Written<Many<Group>>,
    /// Cipher suites that may be agreed on; each version that is on needs one of its own. A client's order decides among
    /// them, this one when we dial.
    pub cipher_suites: Written<Many<CipherSuite>>,
    /// Whether a client that asks for ALPN must ask for sip/2.
    pub alpn: Written<Alpn>,
    /// How sessions are resumed.
    pub tickets: Written<Or<Off, Tickets>>,
    /// Certificate revocation lists, PEM; each is enforced for the certificates of its issuer.
    pub crl: Written<Many<FilePath>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Group {
    #[serde(rename = "X25519MLKEM768")]
    X25519MlKem768,
    X25519,
    #[serde(rename = "P-256")]
    P256,
    #[serde(rename = "P-384")]
    P384,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum CipherSuite {
    #[serde(rename = "TLS_AES_256_GCM_SHA384")]
    Aes256GcmSha384,
    #[serde(rename = "TLS_AES_128_GCM_SHA256")]
    Aes128GcmSha256,
    #[serde(rename = "TLS_CHACHA20_POLY1305_SHA256")]
    Chacha20Poly1305Sha256,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")]
    EcdheEcdsaAes256GcmSha384,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]
    EcdheEcdsaAes128GcmSha256,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")]
    EcdheEcdsaChacha20Poly1305Sha256,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")]
    EcdheRsaAes256GcmSha384,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")]
    EcdheRsaAes128GcmSha256,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")]
    EcdheRsaChacha20Poly1305Sha256,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tickets {
    /// A ticket is good for so long; at most 7 days (RFC 8446).
    pub lifetime: Written<Period>,
    /// A key seals tickets for so long.
    pub rotate: Written<Period>,
    /// Keys shared by a fleet, one a line, newest first, each of 64 hexadecimal digits; absent: made in memory.
    pub key_file: Written<FilePath>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Alpn {
    Accept,
    Require,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "zone", "backends"]))]
pub struct Pool {
    pub name: Written<Name>,
    /// How we speak to it.
    pub zone: Written<Name>,
    /// What the choice of a backend hangs on.
    pub affinity: Written<Affinity>,
    /// Connections for each backend and core.
    pub lanes: Written<Count>,
    /// Retrying elsewhere, with state.
    pub failover: Written<bool>,
    /// How backends are probed.
    pub health: Written<Or<Off, Health>>,
    pub connect_timeout: Written<Period>,
    /// No response at all by then.
    pub response_timeout: Written<Period>,
    /// Backends share dialog state, so in-dialog requests may move when one is gone.
    pub shared_dialogs: Written<bool>,
    /// How long a backend that comes back takes to have its whole share again.
    pub slow_start: Written<Or<Off, Period>>,
    /// Accept wildcard names in their certificates.
    pub allow_wildcard: Written<bool>,
    /// The backends, or "embedded": the registrar and user agent server inside this process, on its own worker.
    pub backends: Written<Or<Embedded, Vec<Written<Backend>>>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[serde(expecting = "a table such as { method = \"OPTIONS\", interval = \"5s\" }")]
pub struct Health {
    /// What is sent: an OPTIONS, or a CRLF ping (RFC 5626).
    pub method: Written<ProbeMethod>,
    /// How often, over each connection.
    pub interval: Written<Period>,
    /// How long an answer may take.
    pub timeout: Written<Period>,
    /// Answers in a row that bring a backend back.
    pub rise: Written<Count>,
    /// Failures in a row that take it out.
    pub fall: Written<Count>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeMethod {
    Options,
    Crlf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum WhenFull {
    Refuse,
    Stateless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    CallId,
    From,
    To,
    Source,
    None,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub struct Backend {
    pub name: Written<Name>,
    /// An address with a port; a name with a port (its addresses); or a name (NAPTR, SRV, addresses: RFC 3263).
    pub address: Written<BackendAddress>,
    /// In place of address: the SRV records of exactly this name, such as "_sips._tcp.pbx.example.com".
    pub srv: Written<ServiceName>,
    /// May be left out when the pool's zone speaks one transport only, or when DNS is to say it.
    pub transport: Written<Transport>,
    /// The name that its certificate must carry (RFC 5922); absent: its address, or its name before DNS.
    pub server_name: Written<Host>,
    pub weight: Written<u16>,
    pub priority: Written<u16>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["from_zone", "pool"]))]
pub struct Route {
    pub from_zone: Written<Name>,
    /// Empty: all. ACK and CANCEL match as INVITE.
    pub methods: Written<Many<Method>>,
    /// Request-URI hosts that this route answers for; empty: any.
    pub host: Written<Many<Host>>,
    pub pool: Written<Name>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resolver {
    /// Asked in this order, over TCP; absent: those of /etc/resolv.conf.
    pub servers: Written<Many<NameServer>>,
    /// For one question to one server.
    pub timeout: Written<Period>,
    /// Answers are not asked again before this.
    pub ttl_min: Written<Period>,
    /// Answers are asked again after this at the latest.
    pub ttl_max: Written<Period>,
    /// Where loopback and link-local addresses may lie, which otherwise are refused in answers.
    pub allow_answers: Written<Many<SourcePrefix>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Accepted connections of one worker.
    pub connections_per_core: Written<Or<Auto, Count>>,
    /// Transactions of one worker whose state is kept for pools with failover.
    pub transactions_per_core: Written<Count>,
    /// What becomes of a request beyond that.
    pub transactions_full: Written<WhenFull>,
    /// Connections from one IPv4 /32 or IPv6 /64.
    pub connections_per_prefix: Written<Count>,
    pub requests_per_prefix: Written<Or<Off, PerTime>>,
    /// From accept to established, whatever the bytes in between.
    pub handshake_deadline: Written<Period>,
    /// Handshakes under way.
    pub handshakes_per_core: Written<Count>,
    pub handshakes_per_prefix: Written<Count>,
    /// Of one core's time, at most.
    pub handshake_share: Written<Share>,
    pub handshake_rate_per_prefix: Written<PerTime>,
    pub requests_per_connection: Written<Or<Off, PerTime>>,
    /// Requests to one address of record.
    pub requests_per_aor: Written<Or<Off, PerTime>>,
    /// Ban after so many 401, 403 and 404.
    pub failures_per_prefix: Written<Or<Off, Count>>,
    /// What a message under way must bring.
    pub minimum_rate: Written<BytesPerSecond>,
    /// From the first byte of a message to its last.
    pub message_deadline: Written<Period>,
    /// Before a successful REGISTER.
    pub idle_timeout: Written<Period>,
    pub registered_idle_timeout: Written<Period>,
    /// CRLF ping from our side.
    pub keepalive: Written<Or<Off, Period>>,
    /// How long a turn of a worker's loop may take; beyond that new requests are refused.
    pub turn_time: Written<Or<Off, Period>>,
    pub start_line: Written<Size>,
    pub uri: Written<Size>,
    pub header_line: Written<Size>,
    /// Start line and all headers.
    pub head: Written<Size>,
    /// Header lines of a message.
    pub headers: Written<Count>,
    pub vias: Written<Count>,
    /// Route and Record-Route values, each.
    pub routes: Written<Count>,
    pub contacts: Written<Count>,
    /// Parameters of one header value.
    pub parameters: Written<Count>,
    pub body: Written<Size>,
    /// Bytes that wait for one connection: at least two messages of head and body.
    pub outbox: Written<Size>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Connections that are left then are closed.
    pub deadline: Written<Period>,
    /// Spread of connection closes, within the deadline.
    pub pace: Written<Period>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// "unix:PATH" (mode 0600), or an address, which needs token_file.
    pub listen: Written<AdminAddress>,
    /// GET only: metrics, health, latency, dashboard.
    pub metrics_listen: Written<Address>,
    /// Holds the token that requests over TCP must carry.
    pub token_file: Written<FilePath>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// HdrHistogram interval log.
    pub log: Written<FilePath>,
    pub interval: Written<Period>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Status when the only way asked for is UDP.
    pub udp_answer: Written<u16>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: Written<LogLevel>,
    pub format: Written<LogFormat>,
    /// "stderr", or a file.
    pub target: Written<Target>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    Text,
    Json,
}
