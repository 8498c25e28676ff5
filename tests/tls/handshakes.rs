//! Handshakes that succeed, in every version, group and way of cutting the stream; ALPN and SNI.

use std::sync::{Arc, Mutex};

use ringfront::config::snapshot::{CipherSuite, Group};
use ringfront::tls::session::Foreseen;
use ringfront::tls::summary::{KeyExchange, Version};
use ringfront::tls::{FaultKind, Session, Summary};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, DigitallySignedStruct, SignatureScheme};

use crate::hostile::Raw;
use crate::pki::{Leaf, RSA, SERVER, Setup};
use crate::wire::{End, connected, converse, converse_in};

fn exchange(client: &mut End, server: &mut End) {
    client.seal(b"OPTIONS sip:sip.example.com SIP/2.0\r\n");
    client.seal(b"Max-Forwards: 70\r\n\r\n");
    server.seal(b"SIP/2.0 200 OK\r\n\r\n");
    converse(client, server);
    assert_eq!(server.plain, b"OPTIONS sip:sip.example.com SIP/2.0\r\nMax-Forwards: 70\r\n\r\n");
    assert_eq!(client.plain, b"SIP/2.0 200 OK\r\n\r\n");
}

/// 5922-7.8-a
#[test]
fn every_version_group_and_key() {
    let groups = [
        (Group::X25519MlKem768, KeyExchange::X25519MlKem768),
        (Group::X25519, KeyExchange::X25519),
        (Group::P256, KeyExchange::P256),
        (Group::P384, KeyExchange::P384),
    ];
    for (tls12, version) in [(false, Version::Tls13), (true, Version::Tls12)] {
        for rsa in [false, true] {
            for (group, key_exchange) in groups {
                // The hybrid is for TLS 1.3 only.
                if tls12 && group == Group::X25519MlKem768 {
                    continue;
                }
                let mut setup = Setup::new();
                setup.versions(tls12, !tls12);
                setup.tls.groups = vec![group];
                setup.client_tls.groups = vec![Group::P384, group];
                if rsa {
                    let leaf = Leaf { algorithm: RSA, ..Leaf::dns(SERVER) };
                    setup.listener.identities = vec![setup.authority.issue(leaf).files(&[])];
                }
                let (mut client, mut server) = connected(&setup.client(), &setup.server());
                for summary in [client.session.summary(), server.session.summary()] {
                    let summary = summary.unwrap();
                    assert_eq!(summary.version, version);
                    assert_eq!(summary.key_exchange, key_exchange);
                    assert_eq!(summary.suite.name().contains("RSA"), rsa && tls12);
                    assert!(summary.alpn && summary.sni && !summary.resumed);
                }
                assert_eq!((client.times_established, server.times_established), (1, 1));
                assert!(client.session.peer().unwrap().is("SIP.Example.Com"));
                exchange(&mut client, &mut server);
            }
        }
    }
}

/// What is not on the server's list is not agreed on, whatever the client prefers.
#[test]
fn the_cipher_suites_are_those_that_are_configured() {
    for suite in CipherSuite::ALL {
        let mut setup = Setup::new();
        setup.versions(!suite.is_tls13(), suite.is_tls13());
        setup.tls.suites = vec![suite];
        if suite.name().contains("_RSA_") {
            let leaf = Leaf { algorithm: RSA, ..Leaf::dns(SERVER) };
            setup.listener.identities = vec![setup.authority.issue(leaf).files(&[])];
        }
        let (_, server) = connected(&setup.client(), &setup.server());
        assert_eq!(server.session.summary().unwrap().suite.name(), suite.name());
        setup.client_tls.suites.retain(|other| *other != suite);
        let (mut client, mut server) = (End::client(&setup.client()), End::server(&setup.server()));
        converse(&mut client, &mut server);
        // Where the client has no other suite for our kind of key, it has no use for its signatures either.
        let kind = server.fault.map(|fault| fault.kind).unwrap();
        assert!(
            matches!(kind, FaultKind::NoSharedCipher | FaultKind::NoSharedSignature),
            "{kind:?}"
        );
    }
}

#[test]
fn the_hybrid_group_comes_first() {
    let setup = Setup::new();
    let (_, server) = connected(&setup.client(), &setup.server());
    assert_eq!(server.session.summary().unwrap().key_exchange, KeyExchange::X25519MlKem768);
}

#[test]
fn the_stream_may_be_cut_at_every_byte() {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        let (client_side, server_side) = (setup.client(), setup.server());
        for cut in 1..2500 {
            let (mut client, mut server) = (End::client(&client_side), End::server(&server_side));
            loop {
                let (up, down) =
                    (std::mem::take(&mut client.outbox), std::mem::take(&mut server.outbox));
                if up.is_empty() && down.is_empty() {
                    break;
                }
                let (front, back) = up.split_at(cut.min(up.len()));
                let _ = server.receive(front);
                let _ = server.receive(back);
                let (front, back) = down.split_at(cut.min(down.len()));
                let _ = client.receive(front);
                let _ = client.receive(back);
            }
            assert!(client.session.established() && server.session.established(), "cut at {cut}");
            assert!(client.kept.is_empty() && server.kept.is_empty());
        }
    }
}

#[test]
fn one_byte_at_a_time() {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        let (mut client, mut server) = (End::client(&setup.client()), End::server(&setup.server()));
        converse_in(&mut client, &mut server, 1);
        client.seal(&[7; 40_000]);
        server.seal(b"x");
        converse_in(&mut client, &mut server, 1);
        assert_eq!(server.plain, [7; 40_000]);
        assert_eq!(client.plain, b"x");
    }
}

#[test]
fn work_is_foreseen() {
    let setup = Setup::new();
    let (client_side, server_side) = (setup.client(), setup.server());
    let (mut client, mut server) = (End::client(&client_side), End::server(&server_side));
    let hello = client.outbox.clone();
    for short in [0, 1, 5, 9, hello.len() - 1] {
        assert_eq!(server.session.foresee(&hello[..short]), Foreseen::Light);
    }
    assert_eq!(server.session.foresee(&hello), Foreseen::Full);
    converse(&mut client, &mut server);
    assert_eq!((client.steps, server.steps), (1, 1));

    let again = End::client(&client_side);
    assert_eq!(Session::server(&server_side).foresee(&again.outbox), Foreseen::Resumed);
}

fn alpn(client_offers: bool, server_requires: bool) -> (End, End) {
    let mut setup = Setup::new();
    setup.tls.require_alpn = server_requires;
    let server = End::server(&setup.server());
    let client = match client_offers {
        true => End::client(&setup.client()),
        false => {
            // Ours always offers; openssl does not.
            let mut end = End::client(&setup.client());
            end.outbox = without_alpn(&end.outbox);
            end
        }
    };
    (client, server)
}

/// A ClientHello whose ALPN extension has become one that nobody knows.
fn without_alpn(hello: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let name = b"\x00\x10\x00\x08\x00\x06\x05sip/2";
    let at = hello.windows(name.len()).position(|window| window == name).unwrap();
    hello[at] = 0xfa;
    hello
}

/// 7301-3.2-a
#[test]
fn application_protocol_is_agreed_or_refused() {
    let (mut client, mut server) = alpn(true, true);
    converse(&mut client, &mut server);
    assert!(server.session.summary().unwrap().alpn);

    let (mut client, mut server) = alpn(false, true);
    converse(&mut client, &mut server);
    assert_eq!(server.fault.unwrap().kind, FaultKind::NoApplicationProtocol);
    assert_eq!(client.fault.unwrap().kind, FaultKind::AlertNoApplicationProtocol);
}

/// 7301-3.2-a
#[test]
fn another_protocol_is_refused_by_name() {
    // RFC 7301 3.2; an https request led here must not be answered as SIP.
    let setup = Setup::new();
    let mut client = Raw::client(&setup, |config| config.alpn_protocols = vec![b"h2".to_vec()]);
    let mut server = End::server(&setup.server());
    client.converse(&mut server);
    assert_eq!(server.fault.unwrap().kind, FaultKind::NoApplicationProtocol);
    let alert = AlertDescription::NoApplicationProtocol;
    assert_eq!(client.error, Some(rustls::Error::AlertReceived(alert)));
}

#[test]
fn nothing_in_common() {
    let mut setup = Setup::new();
    setup.versions(true, false);
    setup.client_tls.tls12 = false;
    let (mut client, mut server) = (End::client(&setup.client()), End::server(&setup.server()));
    converse(&mut client, &mut server);
    assert_eq!(server.fault.unwrap().kind, FaultKind::NoSharedVersion);
    assert_eq!(client.fault.unwrap().kind, FaultKind::AlertProtocolVersion);

    let mut setup = Setup::new();
    setup.tls.groups = vec![Group::P384];
    setup.client_tls.groups = vec![Group::X25519];
    let (mut client, mut server) = (End::client(&setup.client()), End::server(&setup.server()));
    converse(&mut client, &mut server);
    assert_eq!(server.fault.unwrap().kind, FaultKind::NoSharedGroup);
    assert_eq!(client.fault.unwrap().kind, FaultKind::AlertHandshakeFailure);
}

#[test]
fn a_retry_of_the_hello_costs_a_round_trip_and_works() {
    let mut setup = Setup::new();
    setup.tls.groups = vec![Group::P384];
    setup.client_tls.groups = vec![Group::X25519, Group::P384];
    let (_, server) = connected(&setup.client(), &setup.server());
    assert_eq!(server.session.summary().unwrap().key_exchange, KeyExchange::P384);
}

/// The names of the certificate that the server shows to a client who asks for `server_name`.
fn shown(setup: &mut Setup, server_name: &'static str) -> (Option<FaultKind>, Vec<Box<str>>) {
    setup.server_name = server_name;
    let (mut client, mut server) = (End::client(&setup.client()), End::server(&setup.server()));
    converse(&mut client, &mut server);
    let names = client.session.peer().map(|peer| peer.domains().to_vec()).unwrap_or_default();
    (client.fault.map(|fault| fault.kind), names)
}

/// 5922-7.8-a
#[test]
fn the_certificate_is_chosen_by_name() {
    let mut setup = Setup::new();
    let one = setup.authority.issue(Leaf::dns("one.example.com"));
    let star = setup.authority.issue(Leaf::dns("*.example.org"));
    let exact = setup.authority.issue(Leaf::dns("two.example.org"));
    setup.listener.identities.push(one.files(&["one.example.com"]));
    setup.listener.identities.push(star.files(&["*.example.org"]));
    setup.listener.identities.push(exact.files(&["two.example.org"]));
    setup.allow_wildcard = true;
    let names = |name: &str| vec![Box::from(name)];
    assert_eq!(shown(&mut setup, "one.example.com"), (None, names("one.example.com")));
    assert_eq!(shown(&mut setup, "ONE.example.com"), (None, names("one.example.com")));
    assert_eq!(shown(&mut setup, "two.example.org"), (None, names("two.example.org")));
    assert_eq!(shown(&mut setup, "any.example.org"), (None, names("*.example.org")));
    assert_eq!(shown(&mut setup, SERVER), (None, names(SERVER)));
    // Two labels are not covered by a star, and an unknown name gets the default: the client judges it.
    for unknown in ["a.b.example.org", "example.org", "elsewhere.example"] {
        assert_eq!(shown(&mut setup, unknown), (Some(FaultKind::NameMismatch), vec![]));
    }
}

#[test]
fn an_address_is_no_name_for_sni_but_one_for_the_certificate() {
    let mut setup = Setup::new();
    let leaf = setup.authority.issue(Leaf::named(&[crate::pki::Name::Ip("192.0.2.7")]));
    setup.listener.identities = vec![leaf.files(&[])];
    setup.server_name = "192.0.2.7";
    let (_, server) = connected(&setup.client(), &setup.server());
    assert!(!server.session.summary().unwrap().sni);
    assert_eq!(shown(&mut setup, "192.0.2.8").0, Some(FaultKind::NameMismatch));
}

#[test]
fn ecdsa_is_preferred_to_rsa_for_the_same_name_and_rsa_serves_who_lacks_it() {
    let mut setup = Setup::new();
    setup.versions(true, false);
    let rsa = setup.authority.issue(Leaf { algorithm: RSA, ..Leaf::dns(SERVER) }).files(&[SERVER]);
    let rsa_leaf = rsa.chain[0].clone();
    let ecdsa = setup.authority.issue(Leaf::dns(SERVER)).files(&[SERVER]);
    setup.listener.identities = vec![rsa, ecdsa];
    let suite = |summary: Option<Summary>| summary.unwrap().suite.name();
    let (_, server) = connected(&setup.client(), &setup.server());
    assert!(suite(server.session.summary()).contains("ECDSA"));

    // A client of TLS 1.2 that knows RSA signatures only: its other schemes become unknown ones.
    let mut client = End::client(&setup.client());
    let mut server = End::server(&setup.server());
    let is_schemes = |w: &[u8]| w[..3] == [0, 13, 0] && w[4] == 0 && w[3] == w[5] + 2;
    let schemes = client.outbox.windows(6).position(is_schemes).unwrap();
    let length = usize::from(client.outbox[schemes + 5]);
    for scheme in client.outbox[schemes + 6..schemes + 6 + length].chunks_mut(2) {
        if matches!(scheme[1], 3 | 7) {
            scheme[0] = 0xfe;
        }
    }
    server.receive(&client.outbox).unwrap();
    let flight = &server.outbox;
    assert!(flight.windows(rsa_leaf.len()).any(|window| window == rsa_leaf));
}

#[test]
fn the_ocsp_response_is_stapled() {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        setup.listener.identities[0].ocsp = b"a response".to_vec();
        let seen = Arc::new(Stapled::default());
        let mut client = Raw::client(&setup, |config| {
            config.dangerous().set_certificate_verifier(seen.clone());
        });
        let mut server = End::server(&setup.server());
        client.converse(&mut server);
        assert!(server.session.established());
        assert_eq!(*seen.0.lock().unwrap(), b"a response");
    }
}

/// Believes every server, and keeps what it stapled.
#[derive(Debug, Default)]
struct Stapled(Mutex<Vec<u8>>);

impl ServerCertVerifier for Stapled {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = ocsp_response.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}
