//! A client of bare rustls whose keys can be taken out, so that a test can make any record it likes with them.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::ConnectionState;
use rustls::{CipherSuite, ClientConfig, ConnectionTrafficSecrets, RootCertStore};

use crate::pki::Setup;
use crate::wire::End;

pub struct Raw {
    connection: UnbufferedClientConnection,
    inbox: Vec<u8>,
    pub outbox: Vec<u8>,
    pub plain: Vec<u8>,
    pub error: Option<rustls::Error>,
    ready: bool,
}

impl Raw {
    /// A client that trusts the CA of `setup` and speaks its versions, AES-256-GCM and X25519 only.
    pub fn client(setup: &Setup, change: impl FnOnce(&mut ClientConfig)) -> Raw {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(setup.authority.der())).unwrap();
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        provider.cipher_suites.retain(|suite| {
            matches!(
                suite.suite(),
                CipherSuite::TLS13_AES_256_GCM_SHA384
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            )
        });
        let mut versions = Vec::new();
        if setup.tls.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if setup.tls.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        let builder = ClientConfig::builder_with_details(Arc::new(provider), setup.clock.clone());
        let mut config = builder
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        change(&mut config);
        let name = ServerName::try_from(setup.server_name).unwrap();
        let mut raw = Raw {
            connection: UnbufferedClientConnection::new(Arc::new(config), name).unwrap(),
            inbox: Vec::new(),
            outbox: Vec::new(),
            plain: Vec::new(),
            error: None,
            ready: false,
        };
        raw.receive(&[]);
        raw
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        loop {
            let status = self.connection.process_tls_records(&mut self.inbox);
            let mut more = true;
            match status.state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let start = self.outbox.len();
                    self.outbox.resize(start + 20_000, 0);
                    let written = data.encode(&mut self.outbox[start..]).unwrap();
                    self.outbox.truncate(start + written);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.extend_from_slice(record.unwrap().payload);
                    }
                }
                Ok(ConnectionState::WriteTraffic(_)) => (self.ready, more) = (true, false),
                Ok(ConnectionState::PeerClosed) => {}
                Ok(_) => more = false,
                Err(error) => {
                    self.error = Some(error);
                    return;
                }
            }
            let discard = status.discard;
            self.inbox.drain(..discard);
            if !more {
                return;
            }
        }
    }

    pub fn converse(&mut self, server: &mut End) {
        loop {
            let up = std::mem::take(&mut self.outbox);
            let _ = server.receive(&up);
            let down = std::mem::take(&mut server.outbox);
            if down.is_empty() {
                return;
            }
            self.receive(&down);
        }
    }

    pub fn seal(&mut self, plain: &[u8]) {
        let status = self.connection.process_tls_records(&mut []);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else { panic!() };
        let start = self.outbox.len();
        self.outbox.resize(start + plain.len() + 64, 0);
        let written = traffic.encrypt(plain, &mut self.outbox[start..]).unwrap();
        self.outbox.truncate(start + written);
    }

    /// Asks for new keys in both directions (RFC 8446 4.6.3).
    pub fn update_keys(&mut self) {
        let status = self.connection.process_tls_records(&mut []);
        let Ok(ConnectionState::WriteTraffic(traffic)) = status.state else { panic!() };
        traffic.refresh_traffic_keys().unwrap();
        self.receive(&[]);
    }

    /// Shakes hands with `server` and gives up rustls for the bare keys.
    pub fn forge(mut self, server: &mut End) -> Forge {
        self.converse(server);
        assert!(self.ready && server.session.established());
        let tls13 = self.connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let (secrets, kernel) = self.connection.dangerous_into_kernel_connection().unwrap();
        Forge { tls13, sequence: secrets.tx.0, keys: Keys::of(secrets.tx.1), kernel }
    }
}

struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl Keys {
    fn of(secrets: ConnectionTrafficSecrets) -> Keys {
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!() };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
        Keys { key, iv: iv.as_ref().try_into().unwrap() }
    }
}

pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

/// Makes records by hand, with good keys.
pub struct Forge {
    tls13: bool,
    sequence: u64,
    keys: Keys,
    kernel: KernelConnection<ClientConnectionData>,
}

impl Forge {
    /// One record of `kind` with `plain` in it.
    pub fn record(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        let mut nonce = self.keys.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        let mut sealed = plain.to_vec();
        let mut record = Vec::new();
        if self.tls13 {
            sealed.push(kind);
            let length = (sealed.len() + 16) as u16;
            record.extend_from_slice(&[DATA, 3, 3]);
            record.extend_from_slice(&length.to_be_bytes());
            let (aad, nonce) = (Aad::from(record.clone()), Nonce::assume_unique_for_key(nonce));
            self.keys.key.seal_in_place_append_tag(nonce, aad, &mut sealed).unwrap();
        } else {
            // RFC 5288: the explicit part of the nonce leads the record.
            let length = (8 + sealed.len() + 16) as u16;
            record.extend_from_slice(&[kind, 3, 3]);
            record.extend_from_slice(&length.to_be_bytes());
            record.extend_from_slice(&nonce[4..]);
            let mut aad = self.sequence.to_be_bytes().to_vec();
            aad.extend_from_slice(&[kind, 3, 3]);
            aad.extend_from_slice(&(plain.len() as u16).to_be_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.keys.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).unwrap();
        }
        record.extend_from_slice(&sealed);
        self.sequence += 1;
        record
    }

    /// A key update, and our side of it (RFC 8446 4.6.3).
    pub fn key_update(&mut self, request: bool) -> Vec<u8> {
        let record = self.record(HANDSHAKE, &[24, 0, 0, 1, u8::from(request)]);
        self.next_keys();
        record
    }

    pub fn next_keys(&mut self) {
        let (sequence, secrets) = self.kernel.update_tx_secret().unwrap();
        (self.sequence, self.keys) = (sequence, Keys::of(secrets));
    }
}
