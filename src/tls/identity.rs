//! What we show and whom we trust: one `ServerSide` for each TLS listener, one `ClientSide` for each backend.
//! Owns rustls' configurations, built whole from settled settings. Never reads a file: all is DER already.
//! Invariant: a side that exists can shake hands; whatever is wrong with keys or certificates was said at build.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureAlgorithm};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

pub use super::client_auth::Carries;
use super::client_auth::{self, ClientPolicy, ServerPolicy, Trust, TrustFault, wildcard_covers};
use super::clock::{TimeProvider, UnixTime};
use super::fault::{Fault, FaultKind};
use super::load_sessions::LoadSessions;
use super::ticket::{Binding, Tickets};
use crate::config::snapshot::{CipherSuite, ClientCertificate, Group, IdentityFiles, KeyKind};
use crate::config::snapshot::{Listener, Tls, Zone};

/// The protocol name of SIP (RFC 7301; IANA).
pub(super) const ALPN_SIP: &[u8] = b"sip/2";

/// Sessions that one backend's side keeps for resumption: one for each lane and worker would be enough.
const CLIENT_SESSIONS: usize = 64;

/// What is wrong with a side's keys, certificates or trust; control turns it into a configuration error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFault {
    pub kind: IdentityFaultKind,
    /// The chain file that it is about; empty where it is about a CA or a list.
    pub path: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityFaultKind {
    NoIdentity,
    EmptyChain,
    /// Certificate of the chain, from 0.
    Unreadable {
        index: usize,
    },
    KeyUnreadable,
    KeyMismatch,
    /// Seconds since 1970.
    Expired {
        not_after: i64,
    },
    NotYetValid {
        not_before: i64,
    },
    NameNotCovered {
        name: Box<str>,
    },
    ChainTooLong {
        certificates: usize,
    },
    /// A certificate of the chain was not made by the next one.
    ChainBroken {
        index: usize,
    },
    Authority {
        index: usize,
    },
    RevocationList {
        index: usize,
    },
    /// Client certificates are asked for, but no CA is given.
    NoClientAuthority,
    /// TLS is dialled, but no CA is given.
    NoServerAuthority,
    ServerName {
        name: Box<str>,
    },
    /// rustls refuses the combination of versions, suites and groups.
    Unsupported {
        reason: String,
    },
}

impl fmt::Display for IdentityFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use IdentityFaultKind as K;
        if !self.path.as_os_str().is_empty() {
            write!(f, "{}: ", self.path.display())?;
        }
        match &self.kind {
            K::NoIdentity => f.write_str("the TLS listener has no certificate"),
            K::EmptyChain => f.write_str("the file holds no certificate"),
            K::Unreadable { index } => write!(f, "certificate {} cannot be read", index + 1),
            K::KeyUnreadable => f.write_str("the private key cannot be used"),
            K::KeyMismatch => f.write_str("the private key does not belong to the certificate"),
            K::Expired { not_after } => write!(f, "the certificate ended at {}", day(*not_after)),
            K::NotYetValid { not_before } => {
                write!(f, "the certificate begins only at {}", day(*not_before))
            }
            K::NameNotCovered { name } => {
                write!(f, "the certificate does not hold the name {name}")
            }
            K::ChainTooLong { certificates } => {
                write!(f, "the chain has {certificates} certificates")
            }
            K::ChainBroken { index } => {
                write!(f, "certificate {} was not issued by the one after it", index + 1)
            }
            K::Authority { index } => write!(f, "CA certificate {} cannot be read", index + 1),
            K::RevocationList { index } => {
                write!(f, "revocation list {} cannot be read", index + 1)
            }
            K::NoClientAuthority => {
                f.write_str("client certificates are asked for, but client_ca is empty")
            }
            K::NoServerAuthority => {
                f.write_str("the pool is dialled by TLS, but server_ca is empty")
            }
            K::ServerName { name } => write!(f, "{name} is neither a DNS name nor an IP address"),
            K::Unsupported { reason } => write!(f, "TLS settings do not fit together: {reason}"),
        }
    }
}

impl std::error::Error for IdentityFault {}

impl IdentityFault {
    fn new(kind: IdentityFaultKind, path: &std::path::Path) -> Self {
        IdentityFault { kind, path: path.to_path_buf() }
    }

    fn of(kind: IdentityFaultKind) -> Self {
        IdentityFault { kind, path: PathBuf::new() }
    }

    /// What to do about it.
    pub const fn cure(&self) -> &'static str {
        use IdentityFaultKind as K;
        match &self.kind {
            K::NoIdentity => "give the listener `certificates = [{ names, chain, key }]`",
            K::EmptyChain | K::Unreadable { .. } => {
                "the file must hold PEM blocks `BEGIN CERTIFICATE`, the server's own certificate first"
            }
            K::KeyUnreadable => {
                "use an unencrypted RSA (2048 bits or more), ECDSA P-256/P-384/P-521 or Ed25519 key in PEM"
            }
            K::KeyMismatch => "give the key that the certificate was requested with",
            K::Expired { .. } => {
                "renew the certificate; if it is new, check the clock of this host"
            }
            K::NotYetValid { .. } => "check the clock of this host, or wait",
            K::NameNotCovered { .. } => {
                "correct `names`, or request a certificate with this subject alternative name"
            }
            K::ChainTooLong { .. } => "leave out the root and what does not belong to the chain",
            K::ChainBroken { .. } => {
                "order the file: own certificate, its issuer, the issuer's issuer"
            }
            K::Authority { .. } => "the CA file must hold PEM blocks `BEGIN CERTIFICATE`",
            K::RevocationList { .. } => "the file must hold PEM blocks `BEGIN X509 CRL`",
            K::NoClientAuthority => "set `client_ca` in the zone, or client_certificate = \"none\"",
            K::NoServerAuthority => "set `server_ca` in the pool's zone",
            K::ServerName { .. } => "set `server_name` to the name in the backend's certificate",
            K::Unsupported { .. } => "see [tls] versions, groups and cipher_suites",
        }
    }
}

/// A date for messages: `YYYY-MM-DD`, UTC.
fn day(seconds: i64) -> String {
    match x509_parser::time::ASN1Time::from_timestamp(seconds) {
        Ok(time) => {
            let date = time.to_datetime().date();
            format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
        }
        Err(_) => format!("second {seconds}"),
    }
}

/// What is known of one of our own certificates: for metrics, warnings and `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFacts {
    /// The names that it is chosen by; empty: the default identity.
    pub names: Vec<Box<str>>,
    /// The DNS names and addresses that it carries.
    pub presented: Vec<Box<str>>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    pub chain_path: PathBuf,
}

/// Everything that is wrong with an identity at `now` (seconds since 1970), or what is known of it.
pub fn examine(files: &IdentityFiles, now: u64) -> Result<IdentityFacts, Vec<IdentityFault>> {
    load(files, now, &provider(&[Group::X25519], &CipherSuite::ALL)).map(|loaded| loaded.facts)
}

/// Subject and end (seconds since 1970) of a CA certificate in DER.
pub fn authority_end(der: &[u8]) -> Option<(String, i64)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some((certificate.subject().to_string(), certificate.validity().not_after.timestamp()))
}

/// Issuer of a revocation list in DER, when it was made and when the next one is due, where it says so.
pub fn list_end(der: &[u8]) -> Option<(String, i64, i64)> {
    let (_, list) = x509_parser::parse_x509_crl(der).ok()?;
    let next = list.next_update()?.timestamp();
    Some((list.issuer().to_string(), list.last_update().timestamp(), next))
}

/// How well these identities together carry `host`, a name or an address as it stands in a URI: what another server
/// that dials it would find (RFC 5922 7.3).
pub fn carries(identities: &[IdentityFiles], host: &str) -> Carries {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let leaves = identities.iter().filter_map(|files| files.chain.first());
    leaves.map(|leaf| client_auth::carries(leaf, host)).max().unwrap_or(Carries::No)
}

struct Loaded {
    key: Arc<CertifiedKey>,
    algorithm: SignatureAlgorithm,
    facts: IdentityFacts,
}

fn load(
    files: &IdentityFiles,
    now: u64,
    provider: &CryptoProvider,
) -> Result<Loaded, Vec<IdentityFault>> {
    use IdentityFaultKind as K;
    let fault = |kind| IdentityFault::new(kind, &files.chain_path);
    if files.chain.is_empty() {
        return Err(vec![fault(K::EmptyChain)]);
    }
    let mut parsed = Vec::with_capacity(files.chain.len());
    for (index, der) in files.chain.iter().enumerate() {
        match x509_parser::parse_x509_certificate(der) {
            Ok(([], certificate)) => parsed.push(certificate),
            _ => return Err(vec![fault(K::Unreadable { index })]),
        }
    }
    let leaf = &parsed[0];
    let mut faults = Vec::new();
    if files.chain.len() > super::client_auth::CHAIN_CERTIFICATES_MAX {
        faults.push(fault(K::ChainTooLong { certificates: files.chain.len() }));
    }
    for (index, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            faults.push(fault(K::ChainBroken { index }));
        }
    }
    let (not_before, not_after) =
        (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if now > not_after {
        faults.push(fault(K::Expired { not_after }));
    }
    if now < not_before {
        faults.push(fault(K::NotYetValid { not_before }));
    }
    let presented = names(leaf);
    for name in &files.names {
        let covered = presented
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name) || wildcard_covers(own, name));
        if !covered {
            faults.push(fault(K::NameNotCovered { name: name.clone() }));
        }
    }
    let loaded = certified(files, provider).map_err(fault);
    match loaded {
        Ok((key, algorithm)) if faults.is_empty() => Ok(Loaded {
            key,
            algorithm,
            facts: IdentityFacts {
                names: files.names.clone(),
                presented,
                not_before,
                not_after,
                chain_path: files.chain_path.clone(),
            },
        }),
        Ok(_) => Err(faults),
        Err(last) => {
            faults.push(last);
            Err(faults)
        }
    }
}

/// DNS names and addresses of the subject alternative name, lower case.
fn names(leaf: &x509_parser::certificate::X509Certificate<'_>) -> Vec<Box<str>> {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(extension)) = leaf.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_lowercase().into()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string().into()),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
        _ => None,
    }
}

fn certified(
    files: &IdentityFiles,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, SignatureAlgorithm), IdentityFaultKind> {
    let bytes = files.key.to_vec();
    let key = match files.key_kind {
        KeyKind::Pkcs8 => PrivateKeyDer::Pkcs8(bytes.into()),
        KeyKind::Pkcs1 => PrivateKeyDer::Pkcs1(bytes.into()),
        KeyKind::Sec1 => PrivateKeyDer::Sec1(bytes.into()),
    };
    let signing = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| IdentityFaultKind::KeyUnreadable)?;
    let algorithm = signing.algorithm();
    let chain = files.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let mut certified = CertifiedKey::new(chain, signing);
    if certified.keys_match().is_err() {
        return Err(IdentityFaultKind::KeyMismatch);
    }
    if !files.ocsp.is_empty() {
        certified.ocsp = Some(files.ocsp.clone());
    }
    Ok((Arc::new(certified), algorithm))
}

/// The cryptography of rustls with `groups` and `suites` in their order.
fn provider(groups: &[Group], suites: &[CipherSuite]) -> CryptoProvider {
    let kx_groups = groups
        .iter()
        .map(|group| match group {
            Group::X25519MlKem768 => aws_lc_rs::kx_group::X25519MLKEM768,
            Group::X25519 => aws_lc_rs::kx_group::X25519,
            Group::P256 => aws_lc_rs::kx_group::SECP256R1,
            Group::P384 => aws_lc_rs::kx_group::SECP384R1,
        })
        .collect();
    let cipher_suites = suites.iter().map(|suite| cipher_suite(*suite)).collect();
    CryptoProvider { kx_groups, cipher_suites, ..aws_lc_rs::default_provider() }
}

fn cipher_suite(suite: CipherSuite) -> SupportedCipherSuite {
    use aws_lc_rs::cipher_suite as suites;
    match suite {
        CipherSuite::Aes256GcmSha384 => suites::TLS13_AES_256_GCM_SHA384,
        CipherSuite::Aes128GcmSha256 => suites::TLS13_AES_128_GCM_SHA256,
        CipherSuite::Chacha20Poly1305Sha256 => suites::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheEcdsaAes256GcmSha384 => suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaAes128GcmSha256 => suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaChacha20Poly1305Sha256 => {
            suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        CipherSuite::EcdheRsaAes256GcmSha384 => suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaAes128GcmSha256 => suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaChacha20Poly1305Sha256 => {
            suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
    }
}

fn versions(tls: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::with_capacity(2);
    if tls.tls13 {
        versions.push(&rustls::version::TLS13);
    }
    if tls.tls12 {
        versions.push(&rustls::version::TLS12);
    }
    versions
}

fn unsupported(error: rustls::Error) -> IdentityFault {
    IdentityFault::of(IdentityFaultKind::Unsupported { reason: error.to_string() })
}

/// Our certificates by the name that the client asked for.
#[derive(Debug)]
struct Names {
    /// In the order of the configuration; those without names answer every name that no other has.
    identities: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    names: Vec<Box<str>>,
    algorithm: SignatureAlgorithm,
    key: Arc<CertifiedKey>,
}

/// How well an identity fits a name; the best fit wins, the first one of equals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Default,
    Wildcard,
    Exact,
}

impl Named {
    fn fit(&self, name: Option<&str>) -> Option<Fit> {
        if let Some(name) = name {
            if self.names.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                return Some(Fit::Exact);
            }
            if self.names.iter().any(|own| wildcard_covers(own, name)) {
                return Some(Fit::Wildcard);
            }
        }
        self.names.is_empty().then_some(Fit::Default)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let usable = |named: &&Named| named.key.key.choose_scheme(schemes).is_some();
        let name = hello.server_name();
        let mut best: Option<(Fit, bool, &Named)> = None;
        for named in self.identities.iter().filter(usable) {
            let Some(fit) = named.fit(name) else { continue };
            // Of an RSA and an ECDSA certificate for one name, ECDSA: a tenth of the time to sign.
            let light = named.algorithm != SignatureAlgorithm::RSA;
            if best.is_none_or(|(best_fit, best_light, _)| (fit, light) > (best_fit, best_light)) {
                best = Some((fit, light, named));
            }
        }
        // A name that we do not have gets the first certificate: SIP clients without SNI or with an address are many,
        // and they check the name themselves.
        let named = best.map(|(_, _, named)| named).or_else(|| self.identities.iter().find(usable));
        named.map(|named| named.key.clone())
    }
}

/// One TLS listener's side of all its handshakes. Clones share it.
#[derive(Clone)]
pub struct ServerSide(pub(super) Arc<Server>);

pub(super) struct Server {
    pub config: Arc<ServerConfig>,
    pub clients: Option<Arc<ClientPolicy>>,
    pub require_alpn: bool,
    pub clock: Arc<dyn TimeProvider>,
    facts: Vec<IdentityFacts>,
}

impl fmt::Debug for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSide").field("identities", &self.0.facts).finish_non_exhaustive()
    }
}

impl ServerSide {
    /// Builds the side of `listener`, which lies in `zone`. Fails with everything that is wrong with it.
    pub fn build(
        listener: &Listener,
        zone: &Zone,
        tls: &Tls,
        clock: Arc<dyn TimeProvider>,
        tickets: &Tickets,
    ) -> Result<ServerSide, Vec<IdentityFault>> {
        let provider = Arc::new(provider(&tls.groups, &tls.suites));
        let (identities, facts) = identities(&listener.identities, &clock, &provider)?;
        let clients = client_policy(zone, tls, &provider).map_err(|fault| vec![fault])?;
        let builder = ServerConfig::builder_with_details(provider, clock.clone())
            .with_protocol_versions(&versions(tls))
            .map_err(|error| vec![unsupported(error)])?;
        let builder = match &clients {
            Some(policy) => builder.with_client_cert_verifier(policy.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Names { identities }));
        config.alpn_protocols = vec![ALPN_SIP.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(tickets.bound(binding(listener, zone, tls)));
        config.send_tls13_tickets = 1;
        Ok(ServerSide(Arc::new(Server {
            config: Arc::new(config),
            clients,
            require_alpn: tls.require_alpn,
            clock,
            facts,
        })))
    }

    /// What is known of the listener's certificates.
    pub fn identities(&self) -> &[IdentityFacts] {
        &self.0.facts
    }
}

fn identities(
    files: &[IdentityFiles],
    clock: &Arc<dyn TimeProvider>,
    provider: &CryptoProvider,
) -> Result<(Vec<Named>, Vec<IdentityFacts>), Vec<IdentityFault>> {
    if files.is_empty() {
        return Err(vec![IdentityFault::of(IdentityFaultKind::NoIdentity)]);
    }
    let now = clock.current_time().map_or(0, |time| time.as_secs());
    let (mut named, mut facts, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for identity in files {
        match load(identity, now, provider) {
            Ok(loaded) => {
                let names = loaded.facts.names.clone();
                named.push(Named { names, algorithm: loaded.algorithm, key: loaded.key });
                facts.push(loaded.facts);
            }
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() { Ok((named, facts)) } else { Err(faults) }
}

fn trust(
    authorities: &[Vec<u8>],
    tls: &Tls,
    provider: &CryptoProvider,
    empty: IdentityFaultKind,
) -> Result<Trust, IdentityFault> {
    Trust::new(authorities, &tls.crl, provider.signature_verification_algorithms).map_err(|fault| {
        IdentityFault::of(match fault {
            TrustFault::Certificate { index } => IdentityFaultKind::Authority { index },
            TrustFault::RevocationList { index } => IdentityFaultKind::RevocationList { index },
            TrustFault::Empty => empty,
        })
    })
}

fn client_policy(
    zone: &Zone,
    tls: &Tls,
    provider: &CryptoProvider,
) -> Result<Option<Arc<ClientPolicy>>, IdentityFault> {
    if zone.client_certificate == ClientCertificate::None {
        return Ok(None);
    }
    Ok(Some(Arc::new(ClientPolicy {
        mode: zone.client_certificate,
        trust: trust(&zone.client_ca, tls, provider, IdentityFaultKind::NoClientAuthority)?,
        allowed: zone.client_names.clone(),
    })))
}

/// What a session must share with a later one to be resumed by it: listener, zone, and what is asked of clients.
fn binding(listener: &Listener, zone: &Zone, tls: &Tls) -> Binding {
    let mode: &[u8] = match zone.client_certificate {
        ClientCertificate::None => b"none",
        ClientCertificate::Optional => b"optional",
        ClientCertificate::Report => b"report",
        ClientCertificate::Required => b"required",
    };
    let alpn: &[u8] = if tls.require_alpn { b"required" } else { b"accepted" };
    let names = zone.client_names.iter().map(|name| name.as_bytes());
    let head = [listener.name.as_bytes(), zone.name.as_bytes(), mode, alpn];
    let (authorities, lists) = (zone.client_ca.iter(), tls.crl.iter());
    Binding::of(&mut [
        &mut head.into_iter(),
        &mut names.into_iter(),
        &mut authorities.map(Vec::as_slice),
        &mut lists.map(Vec::as_slice),
    ])
}

/// One backend's side of all its handshakes. Clones share it.
#[derive(Clone)]
pub struct ClientSide(pub(super) Arc<Client>);

pub(super) struct Client {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
    pub policy: Arc<ServerPolicy>,
    pub require_alpn: bool,
    pub clock: Arc<dyn TimeProvider>,
}

impl fmt::Debug for ClientSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSide").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl ClientSide {
    /// Builds the side that dials `server_name` in `zone`. Fails with everything that is wrong with it.
    pub fn build(
        zone: &Zone,
        server_name: &str,
        allow_wildcard: bool,
        tls: &Tls,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<ClientSide, Vec<IdentityFault>> {
        let provider = Arc::new(provider(&tls.groups, &tls.suites));
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            vec![IdentityFault::of(IdentityFaultKind::ServerName { name: server_name.into() })]
        })?;
        let trust = trust(&zone.server_ca, tls, &provider, IdentityFaultKind::NoServerAuthority)
            .map_err(|fault| vec![fault])?;
        let policy = ServerPolicy { trust, allow_wildcard, believe_anybody: false };
        let own = match &zone.certificate {
            Some(files) => {
                let now = clock.current_time().map_or(0, |time| time.as_secs());
                Some(load(files, now, &provider)?.key)
            }
            None => None,
        };
        let resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        ClientSide::assemble(provider, name, policy, own, resumption, tls, clock)
    }

    /// The side of a load generator, which shows no certificate. `authorities` in DER; none: whoever answers is
    /// believed. Sessions are resumed only if `resume`.
    pub fn for_load(
        server_name: &str,
        authorities: &[Vec<u8>],
        resume: bool,
        tls: &Tls,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<ClientSide, Vec<IdentityFault>> {
        let provider = Arc::new(provider(&tls.groups, &tls.suites));
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            vec![IdentityFault::of(IdentityFaultKind::ServerName { name: server_name.into() })]
        })?;
        let trust = match authorities {
            [] => Trust::nobody(provider.signature_verification_algorithms),
            _ => trust(authorities, tls, &provider, IdentityFaultKind::NoServerAuthority)
                .map_err(|fault| vec![fault])?,
        };
        let policy =
            ServerPolicy { trust, allow_wildcard: true, believe_anybody: authorities.is_empty() };
        let resumption = match resume {
            true => Resumption::store(Arc::new(LoadSessions::new())),
            false => Resumption::disabled(),
        };
        ClientSide::assemble(provider, name, policy, None, resumption, tls, clock)
    }

    fn assemble(
        provider: Arc<CryptoProvider>,
        name: ServerName<'static>,
        policy: ServerPolicy,
        own: Option<Arc<CertifiedKey>>,
        resumption: Resumption,
        tls: &Tls,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<ClientSide, Vec<IdentityFault>> {
        let policy = Arc::new(policy);
        let builder = ClientConfig::builder_with_details(provider, clock.clone())
            .with_protocol_versions(&versions(tls))
            .map_err(|error| vec![unsupported(error)])?
            .dangerous()
            .with_custom_certificate_verifier(policy.clone());
        let mut config = match own {
            Some(key) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_SIP.to_vec()];
        config.resumption = resumption;
        Ok(ClientSide(Arc::new(Client {
            config: Arc::new(config),
            name,
            policy,
            require_alpn: tls.require_alpn,
            clock,
        })))
    }
}

pub(super) fn now(clock: &Arc<dyn TimeProvider>) -> Result<UnixTime, Fault> {
    clock.current_time().ok_or(Fault::new(FaultKind::Internal))
}

/// A certificate made up in memory, and the CA that vouches for it.
pub struct SelfSigned {
    /// The leaf, then the CA, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8, DER.
    pub key: Arc<zeroize::Zeroizing<Vec<u8>>>,
    /// The CA's certificate for clients to trust.
    pub ca_pem: String,
}

impl SelfSigned {
    /// As a listener shows it: the default identity.
    pub fn identity(&self) -> IdentityFiles {
        IdentityFiles {
            names: Vec::new(),
            chain: self.chain.clone(),
            key: self.key.clone(),
            key_kind: KeyKind::Pkcs8,
            ocsp: Vec::new(),
            chain_path: PathBuf::from("(made in memory)"),
        }
    }

    /// The CA's certificate, DER.
    pub fn authority(&self) -> &[u8] {
        self.chain.last().map_or(&[], Vec::as_slice)
    }
}

/// Makes a CA and a certificate for `names` (DNS names and IP addresses), both ECDSA P-256, good for `days` from `now`.
/// The CA's key is forgotten at once: nothing else can be signed with it.
pub fn self_signed(names: &[&str], now: UnixTime, days: u32) -> Result<SelfSigned, rcgen::Error> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa};
    use rcgen::{KeyPair, KeyUsagePurpose};
    let day = 24 * 60 * 60;
    let begin = i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 2);
    let time = |seconds| {
        let time = x509_parser::time::ASN1Time::from_timestamp(seconds);
        time.map_or(rcgen::date_time_ymd(2000, 1, 1), |time| time.to_datetime())
    };
    // A day earlier, for clients whose clock is behind.
    let (not_before, not_after) = (time(begin - day), time(begin + i64::from(days) * day));

    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ringfront generated CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (not_before, not_after);
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let issuer = rcgen::CertifiedIssuer::self_signed(params, ca_key)?;

    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, "ringfront");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (not_before, not_after);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let leaf = params.signed_by(&key, &issuer)?;
    Ok(SelfSigned {
        chain: vec![leaf.der().to_vec(), issuer.der().to_vec()],
        key: Arc::new(zeroize::Zeroizing::new(key.serialize_der())),
        ca_pem: issuer.pem(),
    })
}
