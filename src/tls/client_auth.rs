//! Who the peer is: certificate paths by RFC 5280, revocation lists, and SIP domain identities by RFC 5922.
//! Owns the trusted CAs and the policy of one listener or backend. Never looks at a common name, never routes.
//! Invariant: a name counts only after the path that carries it has been verified.

use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{CertRevocationList, EndEntityCert, KeyPurposeId, KeyPurposeIdIter};

use super::fault::{Fault, FaultKind};
use crate::config::snapshot::ClientCertificate;

/// Certificates that a peer may show, its own included: real chains have two or three, and each costs a signature check.
pub const CHAIN_CERTIFICATES_MAX: usize = 4;

/// Bytes of such a chain: four certificates of RSA 4096 take about 8 KiB.
pub const CHAIN_BYTES_MAX: usize = 16 * 1024;

/// Identities kept of one certificate, so that a certificate with thousands of names costs no memory per connection.
pub const IDENTITIES_MAX: usize = 64;

/// Who a peer is, after its certificate has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    domains: Box<[Box<str>]>,
}

impl PeerIdentity {
    /// The SIP domain identities (RFC 5922 7.1), lower case; empty only for a backend that was dialled by address.
    pub fn domains(&self) -> &[Box<str>] {
        &self.domains
    }

    /// Whether `domain` is one of them: whole names, without regard to case (RFC 5922 7.2).
    pub fn is(&self, domain: &str) -> bool {
        self.domains.iter().any(|own| same_name(own, domain))
    }

    /// Whether `domain` is covered by a wildcard among them, which counts only where a pool allows it.
    fn covers(&self, domain: &str) -> bool {
        self.domains.iter().any(|own| wildcard_covers(own, domain))
    }

    /// Of a chain, leaf first, that has been verified.
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, Error> {
        Ok(PeerIdentity::read(&split(chain)?.0))
    }

    /// Reads the identities of a leaf certificate that has been verified.
    fn read(leaf: &EndEntityCert<'_>) -> PeerIdentity {
        let mut domains: Vec<Box<str>> = Vec::new();
        // DNS names count only where no sip URI does (RFC 5922 7.1 step 1).
        let uris = leaf.valid_uri_names().filter_map(sip_domain);
        domains.extend(uris.take(IDENTITIES_MAX).map(lower));
        if domains.is_empty() {
            domains.extend(leaf.valid_dns_names().take(IDENTITIES_MAX).map(lower));
        }
        PeerIdentity { domains: domains.into_boxed_slice() }
    }
}

fn lower(name: &str) -> Box<str> {
    name.trim_end_matches('.').to_ascii_lowercase().into_boxed_str()
}

fn same_name(left: &str, right: &str) -> bool {
    left.trim_end_matches('.').eq_ignore_ascii_case(right.trim_end_matches('.'))
}

/// The host of a `sip:` URI without a user part (RFC 5922 7.1); `None` for every other URI.
fn sip_domain(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") || rest.contains('@') {
        return None;
    }
    let end = rest.find([':', ';', '?']).unwrap_or(rest.len());
    let host = &rest[..end];
    let usable = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*'));
    usable.then_some(host)
}

/// How a certificate stands to the name that a server is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carries {
    No,
    /// Only by a wildcard, which SIP peers do not accept (RFC 5922 7.2).
    ByWildcard,
    Yes,
}

/// How the certificate `leaf` (DER) stands to `host`, a name or an address: what a strict peer that dialled it would
/// find (RFC 5922 7.3). A certificate that cannot be read carries nothing.
pub(super) fn carries(leaf: &[u8], host: &str) -> Carries {
    let der = CertificateDer::from(leaf);
    let (Ok(leaf), Ok(name)) = (EndEntityCert::try_from(&der), ServerName::try_from(host)) else {
        return Carries::No;
    };
    let ServerName::DnsName(domain) = &name else {
        let valid = leaf.verify_is_valid_for_subject_name(&name).is_ok();
        return if valid { Carries::Yes } else { Carries::No };
    };
    let identity = PeerIdentity::read(&leaf);
    match (identity.is(domain.as_ref()), identity.covers(domain.as_ref())) {
        (true, _) => Carries::Yes,
        (false, true) => Carries::ByWildcard,
        (false, false) => Carries::No,
    }
}

/// Whether `pattern`, `*.` and a name, covers `name`: exactly one label in the place of the star.
pub(super) fn wildcard_covers(pattern: &str, name: &str) -> bool {
    let (Some(suffix), Some((label, rest))) = (pattern.strip_prefix("*."), name.split_once('.'))
    else {
        return false;
    };
    !label.is_empty() && !suffix.is_empty() && same_name(suffix, rest)
}

/// What a certificate may be used for, if it says so at all (RFC 5924; sip.md 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

const CLIENT_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 2]);
const SERVER_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 1]);
/// id-kp-sipDomain, 1.3.6.1.5.5.7.3.20.
const SIP_DOMAIN: KeyPurposeId<'static> = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 20]);
/// anyExtendedKeyUsage, 2.5.29.37.0.
const ANY_PURPOSE: KeyPurposeId<'static> = KeyPurposeId::new(&[85, 29, 37, 0]);

impl webpki::ExtendedKeyUsageValidator for Role {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let own = match self {
            Role::Client => CLIENT_AUTH,
            Role::Server => SERVER_AUTH,
        };
        let mut any = false;
        for purpose in purposes {
            let purpose = purpose?;
            any = true;
            if purpose == own || purpose == SIP_DOMAIN || purpose == ANY_PURPOSE {
                return Ok(());
            }
        }
        if any { Err(webpki::Error::EmptyEkuExtension) } else { Ok(()) }
    }
}

/// Trusted CAs and revocation lists.
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    subjects: Vec<DistinguishedName>,
    lists: Vec<CertRevocationList<'static>>,
    /// When the first of the lists runs out.
    lists_until: UnixTime,
    algorithms: WebPkiSupportedAlgorithms,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("anchors", &self.anchors.len())
            .field("lists", &self.lists.len())
            .finish_non_exhaustive()
    }
}

/// A CA certificate or revocation list that cannot be read: which of those given, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustFault {
    Certificate { index: usize },
    RevocationList { index: usize },
    Empty,
}

impl Trust {
    /// `authorities` and `lists` in DER. A list is enforced for the certificates of its issuer, and when it has run
    /// out these are refused; issuers without any list are not checked for revocation.
    pub fn new(
        authorities: &[Vec<u8>],
        lists: &[Vec<u8>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Trust, TrustFault> {
        if authorities.is_empty() {
            return Err(TrustFault::Empty);
        }
        let mut trust = Trust::nobody(algorithms);
        for (index, der) in authorities.iter().enumerate() {
            let certificate = CertificateDer::from(der.as_slice());
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|_| TrustFault::Certificate { index })?
                .to_owned();
            trust.subjects.push(DistinguishedName::in_sequence(anchor.subject.as_ref()));
            trust.anchors.push(anchor);
        }
        for (index, der) in lists.iter().enumerate() {
            let list = webpki::OwnedCertRevocationList::from_der(der)
                .map_err(|_| TrustFault::RevocationList { index })?;
            trust.lists.push(list.into());
            trust.lists_until = trust.lists_until.min(next_update(der));
        }
        Ok(trust)
    }

    /// Whether `chain`, whose path was good when its session began, is good still: the CAs and lists are the same ones
    /// (a session is bound to them), so that time alone can have changed it. False also where only the path can tell.
    fn still_good(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        now < self.lists_until && chain.iter().all(|certificate| is_current(certificate, now))
    }

    /// No CA at all: every chain is refused.
    pub(super) fn nobody(algorithms: WebPkiSupportedAlgorithms) -> Trust {
        Trust {
            anchors: Vec::new(),
            subjects: Vec::new(),
            lists: Vec::new(),
            lists_until: unix_time(i64::MAX),
            algorithms,
        }
    }

    /// Verifies the path from `leaf` to a trusted CA (RFC 5280) and reads the identities of `leaf`.
    fn verify(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        let bytes = leaf.der().len() + intermediates.iter().map(|one| one.len()).sum::<usize>();
        if intermediates.len() + 1 > CHAIN_CERTIFICATES_MAX || bytes > CHAIN_BYTES_MAX {
            return Err(Fault::new(FaultKind::CertificateChainTooLong).into_certificate_error());
        }
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let revocation = webpki::RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(webpki::RevocationCheckDepth::Chain)
                .with_status_policy(webpki::UnknownStatusPolicy::Allow)
                .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
                .build()
        });
        let algorithms = self.algorithms.all;
        leaf.verify_for_usage(
            algorithms,
            &self.anchors,
            intermediates,
            now,
            role,
            revocation,
            None,
        )
        .map_err(path_error)?;
        Ok(PeerIdentity::read(leaf))
    }
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// When a revocation list runs out; in 1970 where it does not say so, as webpki then takes it for run out.
fn next_update(list: &[u8]) -> UnixTime {
    let parsed = x509_parser::parse_x509_crl(list).ok();
    let until = parsed.and_then(|(_, list)| list.next_update());
    unix_time(until.map_or(0, |time| time.timestamp()))
}

fn is_current(certificate: &[u8], now: UnixTime) -> bool {
    x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, certificate)| {
        let validity = certificate.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        (unix_time(from)..=unix_time(until)).contains(&now)
    })
}

/// webpki's reasons in the words that make rustls send the right alert.
fn path_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let error = match error {
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        E::InvalidSignatureForPublicKey | E::InvalidCrlSignatureForPublicKey => {
            CertificateError::BadSignature
        }
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::UnsupportedCrlSignatureAlgorithmContext(_)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
        | E::SignatureAlgorithmMismatch => {
            return Fault::new(FaultKind::CertificateAlgorithm).into_certificate_error();
        }
        // What `Role` returns when none of the purposes fits.
        E::EmptyEkuExtension | E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::MaximumPathDepthExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded => {
            return Fault::new(FaultKind::CertificateChainTooLong).into_certificate_error();
        }
        E::CaUsedAsEndEntity
        | E::EndEntityUsedAsCa
        | E::NameConstraintViolation
        | E::PathLenConstraintViolated => {
            return Fault::new(FaultKind::CertificateRejected).into_certificate_error();
        }
        _ => CertificateError::BadEncoding,
    };
    Error::InvalidCertificate(error)
}

fn leaf_of<'a>(certificate: &'a CertificateDer<'a>) -> Result<EndEntityCert<'a>, Error> {
    EndEntityCert::try_from(certificate).map_err(path_error)
}

/// The leaf of a chain, and the others.
fn split<'a>(
    chain: &'a [CertificateDer<'a>],
) -> Result<(EndEntityCert<'a>, &'a [CertificateDer<'a>]), Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    Ok((leaf_of(leaf)?, intermediates))
}

/// What a listener asks of its clients.
#[derive(Debug)]
pub(super) struct ClientPolicy {
    pub mode: ClientCertificate,
    pub trust: Trust,
    /// SIP identities that may enter; empty: all that the CAs vouch for.
    pub allowed: Vec<Box<str>>,
}

impl ClientPolicy {
    /// The identity that `chain`, leaf first, proves under this policy.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        let (leaf, intermediates) = split(chain)?;
        self.admit(self.trust.verify(&leaf, intermediates, Role::Client, now)?)
    }

    /// The same for a session that is resumed, whose path was verified when it began.
    pub fn judge_again(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        match self.trust.still_good(chain, now) {
            true => self.admit(PeerIdentity::of(chain)?),
            false => self.judge(chain, now),
        }
    }

    fn admit(&self, identity: PeerIdentity) -> Result<PeerIdentity, Error> {
        if identity.domains.is_empty() {
            return Err(Fault::new(FaultKind::CertificateNoIdentity).into_certificate_error());
        }
        if self.allowed.is_empty() || self.allowed.iter().any(|name| identity.is(name)) {
            return Ok(identity);
        }
        if self.allowed.iter().any(|name| identity.covers(name)) {
            return Err(Fault::new(FaultKind::NameWildcard).into_certificate_error());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

impl ClientCertVerifier for ClientPolicy {
    fn client_auth_mandatory(&self) -> bool {
        self.mode == ClientCertificate::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.trust.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // In `report` nobody is refused: the session judges again when the handshake has ended, and says what it found.
        if self.mode != ClientCertificate::Report {
            let mut chain = Vec::with_capacity(1 + intermediates.len());
            chain.push(end_entity.clone());
            chain.extend_from_slice(intermediates);
            self.judge(&chain, now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// What we ask of a server that we dial.
#[derive(Debug)]
pub(super) struct ServerPolicy {
    pub trust: Trust,
    pub allow_wildcard: bool,
    /// Whoever answers is believed, as long as it holds the key of what it shows. For measuring only.
    pub believe_anybody: bool,
}

impl ServerPolicy {
    /// The identity that `chain`, leaf first, proves for a server that was dialled as `name`.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        let (leaf, intermediates) = split(chain)?;
        if self.believe_anybody {
            return Ok(PeerIdentity::read(&leaf));
        }
        let identity = self.trust.verify(&leaf, intermediates, Role::Server, now)?;
        self.admit(identity, &leaf, name)
    }

    /// The same for a session that is resumed, whose path was verified when it began.
    pub fn judge_again(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        if self.believe_anybody || !self.trust.still_good(chain, now) {
            return self.judge(chain, name, now);
        }
        let (leaf, _) = split(chain)?;
        self.admit(PeerIdentity::read(&leaf), &leaf, name)
    }

    fn admit(
        &self,
        identity: PeerIdentity,
        leaf: &EndEntityCert<'_>,
        name: &ServerName<'_>,
    ) -> Result<PeerIdentity, Error> {
        let ServerName::DnsName(domain) = name else {
            // Dialled by address: SIP identities are names, so the address must stand in the certificate as one
            // (RFC 5922 7.1 leaves it to the IP entries that RFC 5280 defines).
            leaf.verify_is_valid_for_subject_name(name)
                .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
            return Ok(identity);
        };
        let domain = domain.as_ref();
        if identity.is(domain) {
            return Ok(identity);
        }
        if identity.domains.is_empty() {
            return Err(Fault::new(FaultKind::CertificateNoIdentity).into_certificate_error());
        }
        match identity.covers(domain) {
            true if self.allow_wildcard => Ok(identity),
            true => Err(Fault::new(FaultKind::NameWildcard).into_certificate_error()),
            false => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }
}

impl ServerCertVerifier for ServerPolicy {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(end_entity.clone());
        chain.extend_from_slice(intermediates);
        self.judge(&chain, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
