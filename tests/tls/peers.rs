//! Who the peer is: client certificates under each policy, server certificates by name, and what is wrong with each.

use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose as Purpose;
use ringfront::config::snapshot::ClientCertificate as Mode;
use ringfront::tls::FaultKind;
use rustls::{AlertDescription, Error};

use crate::hostile::Raw;
use crate::pki::{Authority, DAY, HOUR, Issued, Leaf, NOW, Name, RSA, SERVER, Setup};
use crate::wire::{End, connected, converse};

const PHONE: &str = "pbx.example.net";

/// What a server says to a client that shows `shown`, and the alert that the client gets. The client is one that shows
/// whatever it has: ours refuses to be built with a certificate that cannot be good.
fn outcome(setup: &Setup, shown: Option<&Issued>) -> (Option<AlertDescription>, End) {
    let mut client = Raw::client(setup, |config| {
        if let Some(shown) = shown {
            config.client_auth_cert_resolver = Arc::new(shown.certified());
        }
    });
    let mut server = End::server(&setup.server());
    client.converse(&mut server);
    let alert = match client.error {
        Some(Error::AlertReceived(alert)) => Some(alert),
        None => None,
        Some(other) => panic!("{other}"),
    };
    (alert, server)
}

fn kind(end: &End) -> Option<FaultKind> {
    end.fault.map(|fault| fault.kind)
}

/// Each way in which a client's certificate can be wrong: its name, the certificate, our reason, the alert it gets.
fn wrong_clients(ca: &Authority) -> Vec<(&'static str, Issued, FaultKind, AlertDescription)> {
    use AlertDescription as A;
    use FaultKind as F;
    let other = Authority::new("another CA");
    let deep = ca.below("one").below("two").below("three").below("four");
    vec![
        ("wrong CA", other.issue(Leaf::dns(PHONE)), F::CertificateUnknownIssuer, A::UnknownCA),
        (
            "expired",
            ca.issue(Leaf { until: NOW - HOUR, ..Leaf::dns(PHONE) }),
            F::CertificateExpired,
            A::CertificateExpired,
        ),
        (
            "not yet valid",
            ca.issue(Leaf { from: NOW + HOUR, ..Leaf::dns(PHONE) }),
            F::CertificateNotYetValid,
            A::CertificateExpired,
        ),
        (
            "wrong name",
            ca.issue(Leaf::dns("elsewhere.example.net")),
            F::NameNotAllowed,
            A::AccessDenied,
        ),
        (
            "suffix of the name",
            ca.issue(Leaf::dns("sub.pbx.example.net")),
            F::NameNotAllowed,
            A::AccessDenied,
        ),
        ("wildcard", ca.issue(Leaf::dns("*.example.net")), F::NameWildcard, A::CertificateUnknown),
        (
            "common name only",
            ca.issue(Leaf { common_name: PHONE, ..Leaf::named(&[]) }),
            F::CertificateNoIdentity,
            A::CertificateUnknown,
        ),
        (
            "a user's URI only",
            ca.issue(Leaf::named(&[Name::Uri("sip:alice@pbx.example.net")])),
            F::CertificateNoIdentity,
            A::CertificateUnknown,
        ),
        (
            "a DNS name beside another sip URI",
            ca.issue(Leaf::named(&[Name::Uri("sip:other.example"), Name::Dns(PHONE)])),
            F::NameNotAllowed,
            A::AccessDenied,
        ),
        (
            "for servers only",
            ca.issue(Leaf { purposes: vec![Purpose::ServerAuth], ..Leaf::dns(PHONE) }),
            F::CertificatePurpose,
            A::UnsupportedCertificate,
        ),
        (
            "too long a chain",
            deep.issue(Leaf::dns(PHONE)),
            F::CertificateChainTooLong,
            A::CertificateUnknown,
        ),
    ]
}

/// 5922-7.1-a, 5922-7.1-b, 5922-7.2-a
#[test]
fn wrong_client_certificates_are_refused_by_reason() {
    for (tls12, mode) in [(false, Mode::Required), (true, Mode::Required), (false, Mode::Optional)]
    {
        let ca = Authority::new("client CA");
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        setup.ask(mode, &ca);
        setup.zone.client_names = vec![PHONE.into()];
        for (what, shown, ours, alert) in wrong_clients(&ca) {
            let (told, server) = outcome(&setup, Some(&shown));
            assert_eq!(kind(&server), Some(ours), "{what}");
            assert_eq!(told, Some(alert), "{what}");
            assert!(!server.session.established() && server.session.peer().is_none());
        }
    }
}

#[test]
fn report_lets_all_in_and_says_whom_it_would_refuse() {
    let ca = Authority::new("client CA");
    let mut setup = Setup::new();
    setup.ask(Mode::Report, &ca);
    setup.zone.client_names = vec![PHONE.into()];
    for (what, shown, ours, _) in wrong_clients(&ca) {
        let (told, server) = outcome(&setup, Some(&shown));
        assert_eq!((told, kind(&server)), (None, None), "{what}");
        let summary = server.session.summary().unwrap();
        assert_eq!(summary.would_refuse, Some(ours), "{what}");
        assert!(!summary.authenticated && server.session.peer().is_none(), "{what}");
    }
    let (_, server) = outcome(&setup, None);
    let would = server.session.summary().unwrap().would_refuse;
    assert_eq!(would, Some(FaultKind::CertificateMissing));
    let good = ca.issue(Leaf::dns(PHONE));
    let (_, server) = outcome(&setup, Some(&good));
    assert_eq!(server.session.summary().unwrap().would_refuse, None);
    assert!(server.session.peer().unwrap().is(PHONE));
}

/// 5922-7.4-a
#[test]
fn no_certificate_is_refused_only_where_one_is_required() {
    for tls12 in [false, true] {
        let ca = Authority::new("client CA");
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        setup.ask(Mode::Required, &ca);
        let (told, server) = outcome(&setup, None);
        assert_eq!(kind(&server), Some(FaultKind::CertificateMissing));
        assert_eq!(told, Some(AlertDescription::CertificateRequired));
        setup.ask(Mode::Optional, &ca);
        let (_, server) = outcome(&setup, None);
        assert!(server.session.established() && server.session.peer().is_none());
        assert!(!server.session.summary().unwrap().authenticated);
    }
}

/// 5922-7.1-b
#[test]
fn good_clients_are_known_by_their_sip_identity() {
    let ca = Authority::new("client CA");
    let mut setup = Setup::new();
    setup.ask(Mode::Required, &ca);
    let sip_domain = Purpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20]);
    let purposes = [
        vec![],
        vec![Purpose::ClientAuth],
        vec![Purpose::ServerAuth, sip_domain],
        vec![Purpose::Any],
    ];
    for purposes in purposes {
        let names = [
            Name::Dns("ignored.example"),
            Name::Uri("SIP:PBX.example.net"),
            Name::Uri("sip:two.example.net;lr"),
            Name::Uri("sip:alice@user.example"),
            Name::Uri("sips:three.example"),
        ];
        let shown = ca.issue(Leaf { purposes, ..Leaf::named(&names) });
        let (_, server) = outcome(&setup, Some(&shown));
        let peer = server.session.peer().expect("authenticated");
        assert_eq!(peer.domains(), [Box::from("pbx.example.net"), Box::from("two.example.net")]);
        assert!(peer.is("pbx.EXAMPLE.net.") && !peer.is("ignored.example"));
        assert!(server.session.summary().unwrap().authenticated);
        assert_eq!(server.steps, 2, "the hello, and the client's certificate");
    }
    // The allowed names are compared whole and without regard to case.
    setup.zone.client_names = vec!["other.example".into(), "PBX.Example.Net".into()];
    let (_, server) = outcome(&setup, Some(&ca.issue(Leaf::dns(PHONE))));
    assert!(server.session.established());
    // Four certificates are the most.
    let deep = ca.below("one").below("two").below("three");
    let (_, server) = outcome(&setup, Some(&deep.issue(Leaf::dns(PHONE))));
    assert!(server.session.established());
}

#[test]
fn a_chain_of_too_many_bytes_is_refused() {
    let ca = Authority::new("client CA");
    let mut setup = Setup::new();
    setup.ask(Mode::Required, &ca);
    let mut shown = ca.issue(Leaf::dns(PHONE));
    let names = ["a.example", "b.example", "c.example"].map(Name::Dns);
    let wide: Vec<Name> = names.into_iter().cycle().take(900).collect();
    let filler = ca.issue(Leaf::named(&wide)).chain.remove(0);
    shown.chain.extend([filler.clone(), filler]);
    let (_, server) = outcome(&setup, Some(&shown));
    assert_eq!(kind(&server), Some(FaultKind::CertificateChainTooLong));
    assert!(server.kept.len() < 40_000);
}

#[test]
fn revoked_certificates_are_refused_on_both_sides() {
    let ca = Authority::new("client CA");
    let (bad, good) = (ca.issue(Leaf::dns(PHONE)), ca.issue(Leaf::dns(PHONE)));
    let mut setup = Setup::new();
    setup.ask(Mode::Required, &ca);
    setup.tls.crl = vec![ca.revoke(&[&bad], NOW + DAY)];
    let (told, server) = outcome(&setup, Some(&bad));
    assert_eq!(kind(&server), Some(FaultKind::CertificateRevoked));
    assert_eq!(told, Some(AlertDescription::CertificateRevoked));
    let (_, server) = outcome(&setup, Some(&good));
    assert!(server.session.established());
    // A list that has run out proves nothing.
    setup.tls.crl = vec![ca.revoke(&[], NOW - HOUR)];
    let (_, server) = outcome(&setup, Some(&good));
    assert_eq!(kind(&server), Some(FaultKind::CertificateRevocationUnknown));
    // The list of another CA says nothing of this one.
    setup.tls.crl = vec![Authority::new("another CA").revoke(&[], NOW + DAY)];
    let (_, server) = outcome(&setup, Some(&good));
    assert!(server.session.established());

    let mut setup = Setup::new();
    let revoked = setup.authority.issue(Leaf::dns(SERVER));
    setup.client_tls.crl = vec![setup.authority.revoke(&[&revoked], NOW + DAY)];
    let (ours, theirs) = server_shows(&mut setup, &revoked);
    assert_eq!(ours, Some(FaultKind::CertificateRevoked));
    assert_eq!(theirs, Some(FaultKind::AlertCertificateRevoked));
}

#[test]
fn sha1_is_not_trusted() {
    let ca = Authority::of("old CA", RSA);
    let shown = ca.issue(Leaf::dns(PHONE)).sha1();
    let mut setup = Setup::new();
    setup.ask(Mode::Required, &ca);
    let (_, server) = outcome(&setup, Some(&shown));
    assert_eq!(kind(&server), Some(FaultKind::CertificateAlgorithm));
}

/// What the client says of a server that shows `shown`.
fn server_shows(setup: &mut Setup, shown: &Issued) -> (Option<FaultKind>, Option<FaultKind>) {
    setup.listener.identities = vec![shown.files(&[])];
    let (mut client, mut server) = (End::client(&setup.client()), End::server(&setup.server()));
    converse(&mut client, &mut server);
    (kind(&client), kind(&server))
}

/// 5922-7.1-a, 5922-7.2-a, 5922-7.3-a
#[test]
fn wrong_servers_are_refused_by_reason() {
    use FaultKind as F;
    let mut setup = Setup::new();
    let ca = Authority::new("server CA");
    setup.client_zone.server_ca = vec![ca.der()];
    let other = Authority::new("another CA").issue(Leaf::dns(SERVER));
    assert_eq!(
        server_shows(&mut setup, &other),
        (Some(F::CertificateUnknownIssuer), Some(F::AlertUnknownCa))
    );
    let wrong = [
        (Leaf::dns("other.example.com"), F::NameMismatch, F::AlertBadCertificate),
        (Leaf::dns("example.com"), F::NameMismatch, F::AlertBadCertificate),
        (Leaf::dns("*.example.com"), F::NameWildcard, F::AlertCertificateUnknown),
        (
            Leaf { common_name: SERVER, ..Leaf::named(&[]) },
            F::CertificateNoIdentity,
            F::AlertCertificateUnknown,
        ),
        (
            Leaf::named(&[Name::Uri("sip:sip@sip.example.com")]),
            F::CertificateNoIdentity,
            F::AlertCertificateUnknown,
        ),
        (
            Leaf::named(&[Name::Uri("sip:other.example"), Name::Dns(SERVER)]),
            F::NameMismatch,
            F::AlertBadCertificate,
        ),
        (
            Leaf { purposes: vec![Purpose::ClientAuth], ..Leaf::dns(SERVER) },
            F::CertificatePurpose,
            F::AlertUnsupportedCertificate,
        ),
    ];
    for (leaf, ours, alert) in wrong {
        let shown = ca.issue(leaf);
        assert_eq!(server_shows(&mut setup, &shown), (Some(ours), Some(alert)));
    }
    // Expiry is checked by the clock of the client: the server was built before.
    let shown = ca.issue(Leaf { until: NOW + HOUR, ..Leaf::dns(SERVER) });
    setup.listener.identities = vec![shown.files(&[])];
    let (server_side, client_side) = (setup.server(), setup.client());
    for (later, ours) in [(2 * HOUR, Some(F::CertificateExpired)), (0, None)] {
        setup.clock.set(NOW + later);
        let (mut client, mut server) = (End::client(&client_side), End::server(&server_side));
        converse(&mut client, &mut server);
        assert_eq!(kind(&client), ours);
    }
}

#[test]
fn good_servers() {
    let mut setup = Setup::new();
    let good = [
        Leaf::dns("SIP.EXAMPLE.COM"),
        Leaf::named(&[Name::Uri("sip:sip.example.com"), Name::Dns("other.example")]),
        Leaf::named(&[Name::Dns("other.example"), Name::Dns(SERVER)]),
        Leaf { purposes: vec![Purpose::ServerAuth], ..Leaf::dns(SERVER) },
    ];
    for leaf in good {
        let shown = setup.authority.issue(leaf);
        assert_eq!(server_shows(&mut setup, &shown), (None, None));
    }
    setup.allow_wildcard = true;
    let shown = setup.authority.issue(Leaf::dns("*.example.com"));
    assert_eq!(server_shows(&mut setup, &shown), (None, None));
    setup.server_name = "a.b.example.com";
    assert_eq!(server_shows(&mut setup, &shown).0, Some(FaultKind::NameMismatch));
    // An intermediate that is not sent leaves the path open.
    setup.server_name = SERVER;
    let mut shown = setup.authority.below("issuing CA").issue(Leaf::dns(SERVER));
    assert_eq!(server_shows(&mut setup, &shown), (None, None));
    shown.chain.truncate(1);
    assert_eq!(server_shows(&mut setup, &shown).0, Some(FaultKind::CertificateUnknownIssuer));
}

/// 3261-26-a
#[test]
fn mutual_authentication_knows_both() {
    let ca = Authority::new("client CA");
    let mut setup = Setup::new();
    setup.ask(Mode::Required, &ca);
    setup.client_zone.certificate = Some(ca.issue(Leaf::dns(PHONE)).files(&[]));
    let (client, server) = connected(&setup.client(), &setup.server());
    assert!(client.session.peer().unwrap().is(SERVER));
    assert!(server.session.peer().unwrap().is(PHONE));
    let said = client.session.summary().unwrap();
    assert!(said.authenticated && server.session.summary().unwrap().authenticated);
}
