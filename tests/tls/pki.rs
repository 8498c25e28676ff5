//! Certificates made for the tests, around a clock that stands at `NOW`, and sides built with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, SignatureAlgorithm,
};
use ringfront::config::snapshot::{
    Advertised, ClientCertificate, Group, IdentityFiles, KeyKind, Listener, PathPolicy, Tls,
    TlsUri, Transport, Transports, Zone, ZoneAdvertised,
};
use ringfront::tls::clock::SetClock;
use ringfront::tls::{ClientSide, ServerSide, Tickets};
use x509_parser::time::ASN1Time;

/// January 2027, in seconds since 1970.
pub const NOW: u64 = 1_800_000_000;
pub const HOUR: u64 = 60 * 60;
pub const DAY: u64 = 24 * HOUR;

pub const P256: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
pub const RSA: &SignatureAlgorithm = &rcgen::PKCS_RSA_SHA256;

fn params(name: &str, from: u64, until: u64) -> CertificateParams {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    let time = |seconds: u64| ASN1Time::from_timestamp(seconds as i64).unwrap().to_datetime();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SERIAL.fetch_add(1, Ordering::Relaxed).into());
    (params.not_before, params.not_after) = (time(from), time(until));
    params
}

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Certificates from this one up, the root left out.
    chain: Vec<Vec<u8>>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        Authority::of(name, P256)
    }

    pub fn of(name: &str, algorithm: &'static SignatureAlgorithm) -> Authority {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issuer = CertifiedIssuer::self_signed(Authority::params(name), key).unwrap();
        Authority { issuer, chain: Vec::new() }
    }

    /// One below this one.
    pub fn below(&self, name: &str) -> Authority {
        let key = KeyPair::generate_for(P256).unwrap();
        let issuer =
            CertifiedIssuer::signed_by(Authority::params(name), key, &self.issuer).unwrap();
        let mut chain = vec![issuer.der().to_vec()];
        chain.extend(self.chain.iter().cloned());
        Authority { issuer, chain }
    }

    fn params(name: &str) -> CertificateParams {
        // Wide, so that tests by the wall clock can use it too.
        let mut params = params(name, 0, NOW + 100 * 365 * DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    pub fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    pub fn issue(&self, leaf: Leaf) -> Issued {
        let mut params = params(leaf.common_name, leaf.from, leaf.until);
        params.subject_alt_names = leaf.names.iter().map(Name::san).collect();
        params.extended_key_usages = leaf.purposes;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(leaf.algorithm).unwrap();
        let serial = params.serial_number.clone().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![certificate.der().to_vec()];
        chain.extend(self.chain.iter().cloned());
        Issued { chain, key: key.serialize_der(), serial }
    }

    /// A revocation list of this authority, good until `until`.
    pub fn revoke(&self, issued: &[&Issued], until: u64) -> Vec<u8> {
        let time = |seconds: u64| ASN1Time::from_timestamp(seconds as i64).unwrap().to_datetime();
        let revoked = issued.iter().map(|one| RevokedCertParams {
            serial_number: one.serial.clone(),
            revocation_time: time((NOW - DAY).min(until - 4 * DAY)),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: time((NOW - 2 * DAY).min(until - 3 * DAY)),
            next_update: time(until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

#[derive(Clone, Copy)]
pub enum Name {
    Dns(&'static str),
    Uri(&'static str),
    Ip(&'static str),
}

impl Name {
    fn san(&self) -> SanType {
        match *self {
            Name::Dns(name) => SanType::DnsName(name.try_into().unwrap()),
            Name::Uri(uri) => SanType::URI(uri.try_into().unwrap()),
            Name::Ip(address) => SanType::IpAddress(address.parse().unwrap()),
        }
    }
}

/// What a leaf certificate is to say.
pub struct Leaf {
    pub common_name: &'static str,
    pub names: Vec<Name>,
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    pub from: u64,
    pub until: u64,
    pub algorithm: &'static SignatureAlgorithm,
}

impl Leaf {
    pub fn named(names: &[Name]) -> Leaf {
        Leaf {
            common_name: "leaf",
            names: names.to_vec(),
            purposes: Vec::new(),
            from: NOW - 30 * DAY,
            until: NOW + 30 * DAY,
            algorithm: P256,
        }
    }

    pub fn dns(name: &'static str) -> Leaf {
        Leaf::named(&[Name::Dns(name)])
    }
}

pub struct Issued {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
    serial: SerialNumber,
}

impl Issued {
    /// Nothing makes SHA-1 signatures any more: the algorithm is changed by hand in both places of an RSA certificate.
    pub fn sha1(mut self) -> Issued {
        let (sha256, sha1) = (b"\x86\xf7\x0d\x01\x01\x0b", b"\x86\xf7\x0d\x01\x01\x05");
        let leaf = &mut self.chain[0];
        let mut places = 0;
        for at in 0..leaf.len() - 6 {
            if leaf[at..at + 6] == *sha256 {
                leaf[at..at + 6].copy_from_slice(sha1);
                places += 1;
            }
        }
        assert_eq!(places, 2);
        self
    }

    /// As rustls holds it, unchecked.
    pub fn certified(&self) -> rustls::sign::SingleCertAndKey {
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(self.key.clone().into());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let chain = self.chain.iter().map(|der| der.clone().into()).collect();
        rustls::sign::CertifiedKey::new(chain, key).into()
    }

    /// As the settings hold it; without names the default identity.
    pub fn files(&self, names: &[&str]) -> IdentityFiles {
        IdentityFiles {
            names: names.iter().map(|&name| name.into()).collect(),
            chain: self.chain.clone(),
            key: Arc::new(zeroize::Zeroizing::new(self.key.clone())),
            key_kind: KeyKind::Pkcs8,
            ocsp: Vec::new(),
            chain_path: "chain.pem".into(),
        }
    }
}

/// Settings of a listener and of what dials it, to be changed by a test before `server` and `client` build sides.
pub struct Setup {
    pub clock: Arc<SetClock>,
    pub authority: Authority,
    pub listener: Listener,
    pub zone: Zone,
    pub tls: Tls,
    pub tickets: Tickets,
    /// What the client asks for and trusts.
    pub server_name: &'static str,
    pub allow_wildcard: bool,
    pub client_zone: Zone,
    pub client_tls: Tls,
}

pub const SERVER: &str = "sip.example.com";

impl Setup {
    /// A listener with one ECDSA certificate for `SERVER`, and a client that trusts its CA.
    pub fn new() -> Setup {
        let clock = Arc::new(SetClock::new(NOW));
        let authority = Authority::new("test CA");
        let files = authority.issue(Leaf::dns(SERVER)).files(&[]);
        let mut client_zone = zone("core");
        client_zone.server_ca = vec![authority.der()];
        Setup {
            tickets: tickets(&clock),
            clock,
            listener: listener("edge-tls", vec![files]),
            zone: zone("edge"),
            tls: tls(),
            server_name: SERVER,
            allow_wildcard: false,
            client_zone,
            client_tls: tls(),
            authority,
        }
    }

    pub fn server(&self) -> ServerSide {
        ServerSide::build(&self.listener, &self.zone, &self.tls, self.clock.clone(), &self.tickets)
            .unwrap()
    }

    pub fn client(&self) -> ClientSide {
        ClientSide::build(
            &self.client_zone,
            self.server_name,
            self.allow_wildcard,
            &self.client_tls,
            self.clock.clone(),
        )
        .unwrap()
    }

    /// Asks clients for certificates of `authority`.
    pub fn ask(&mut self, mode: ClientCertificate, authority: &Authority) {
        self.zone.client_certificate = mode;
        self.zone.client_ca = vec![authority.der()];
    }

    pub fn versions(&mut self, tls12: bool, tls13: bool) {
        (self.tls.tls12, self.tls.tls13) = (tls12, tls13);
    }
}

pub fn tickets(clock: &Arc<SetClock>) -> Tickets {
    Tickets::random(clock.clone(), Duration::from_secs(12 * HOUR), Duration::from_secs(HOUR))
}

pub fn tls() -> Tls {
    Tls {
        tls12: true,
        tls13: true,
        groups: vec![Group::X25519MlKem768, Group::X25519, Group::P256],
        ..Tls::default()
    }
}

pub fn listener(name: &str, identities: Vec<IdentityFiles>) -> Listener {
    Listener {
        name: name.into(),
        zone: 0,
        transport: Transport::Tls,
        bind: "127.0.0.1:5061".parse().unwrap(),
        advertised: Advertised { transport: Transport::Tls, host: SERVER.into(), port: 5061 },
        proxy_from: Vec::new(),
        identities,
    }
}

pub fn zone(name: &str) -> Zone {
    Zone {
        name: name.into(),
        transports: Transports { tcp: false, tls: true },
        advertised: ZoneAdvertised { tcp_v4: None, tcp_v6: None, tls_v4: None, tls_v6: None },
        client_certificate: ClientCertificate::None,
        client_ca: Vec::new(),
        client_names: Vec::new(),
        server_ca: Vec::new(),
        certificate: None,
        allow_from: Vec::new(),
        path: PathPolicy::Always,
        tls_uri: TlsUri::Sips,
        trusted: false,
        strip_headers: Vec::new(),
    }
}
