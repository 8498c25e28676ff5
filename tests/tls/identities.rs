//! What is wrong with our own certificates, keys and CAs is said when a side is built.

use std::sync::Arc;

use ringfront::config::snapshot::{ClientCertificate as Mode, KeyKind};
use ringfront::tls::clock::UnixTime;
use ringfront::tls::identity::{IdentityFault, IdentityFaultKind as K, examine, self_signed};
use ringfront::tls::{ClientSide, ServerSide};
use std::time::Duration;

use crate::pki::{Authority, DAY, HOUR, Leaf, NOW, SERVER, Setup};
use crate::wire::{connected, converse};

fn faults(setup: &Setup) -> Vec<IdentityFault> {
    let clock = setup.clock.clone();
    let built = ServerSide::build(&setup.listener, &setup.zone, &setup.tls, clock, &setup.tickets);
    built.map(|_| ()).unwrap_err()
}

fn kinds(setup: &Setup) -> Vec<K> {
    faults(setup).into_iter().map(|fault| fault.kind).collect()
}

#[test]
fn each_fault_of_an_identity_is_named() {
    let mut setup = Setup::new();
    let good = setup.authority.issue(Leaf::dns(SERVER)).files(&[]);
    let one = |setup: &mut Setup, change: &dyn Fn(&mut _)| {
        let mut files = good.clone();
        change(&mut files);
        setup.listener.identities = vec![files];
        kinds(setup)
    };
    use ringfront::config::snapshot::IdentityFiles as Files;
    let garbage = Arc::new(zeroize::Zeroizing::new(vec![1, 2, 3]));
    let other_key = setup.authority.issue(Leaf::dns(SERVER)).files(&[]).key;
    let shuffled = setup.authority.below("issuing CA").issue(Leaf::dns(SERVER));
    let deep = Authority::new("root").below("1").below("2").below("3").below("4");
    let deep = deep.issue(Leaf::dns(SERVER)).files(&[]);
    assert_eq!(one(&mut setup, &|f: &mut Files| f.chain.clear()), [K::EmptyChain]);
    assert_eq!(
        one(&mut setup, &|f: &mut Files| f.chain[0].truncate(100)),
        [K::Unreadable { index: 0 }]
    );
    assert_eq!(
        one(&mut setup, &|f: &mut Files| f.chain.push(vec![0x30, 0])),
        [K::Unreadable { index: 1 }]
    );
    assert_eq!(one(&mut setup, &|f: &mut Files| f.key = garbage.clone()), [K::KeyUnreadable]);
    assert_eq!(one(&mut setup, &|f: &mut Files| f.key_kind = KeyKind::Pkcs1), [K::KeyUnreadable]);
    assert_eq!(one(&mut setup, &|f: &mut Files| f.key = other_key.clone()), [K::KeyMismatch]);
    assert_eq!(
        one(&mut setup, &|f: &mut Files| f.names = vec!["a.example".into(), SERVER.into()]),
        [K::NameNotCovered { name: "a.example".into() }]
    );
    assert_eq!(
        one(&mut setup, &|f: &mut Files| {
            f.chain = vec![f.chain[0].clone(), shuffled.chain[0].clone()]
        }),
        [K::ChainBroken { index: 0 }]
    );
    assert_eq!(
        one(&mut setup, &|f: &mut Files| (f.chain, f.key) = (deep.chain.clone(), deep.key.clone())),
        [K::ChainTooLong { certificates: 5 }]
    );
    setup.listener.identities.clear();
    assert_eq!(kinds(&setup), [K::NoIdentity]);
}

#[test]
fn all_faults_come_at_once_with_file_and_cure() {
    let mut setup = Setup::new();
    let leaf = Leaf { until: NOW - HOUR, ..Leaf::dns(SERVER) };
    let mut expired = setup.authority.issue(leaf).files(&["a.example"]);
    expired.key = setup.authority.issue(Leaf::dns(SERVER)).files(&[]).key;
    let mut future =
        setup.authority.issue(Leaf { from: NOW + DAY, ..Leaf::dns(SERVER) }).files(&[]);
    future.chain_path = "future.pem".into();
    setup.listener.identities = vec![expired, future];
    let faults = faults(&setup);
    let said: Vec<String> = faults.iter().map(IdentityFault::to_string).collect();
    assert_eq!(
        said,
        [
            "chain.pem: the certificate ended at 2027-01-15",
            "chain.pem: the certificate does not hold the name a.example",
            "chain.pem: the private key does not belong to the certificate",
            "future.pem: the certificate begins only at 2027-01-16",
        ]
    );
    assert!(faults.iter().all(|fault| !fault.cure().is_empty()));
}

#[test]
fn trust_that_cannot_be_read_is_named() {
    let mut setup = Setup::new();
    setup.zone.client_certificate = Mode::Required;
    assert_eq!(kinds(&setup), [K::NoClientAuthority]);
    setup.zone.client_ca = vec![setup.authority.der(), vec![1]];
    assert_eq!(kinds(&setup), [K::Authority { index: 1 }]);
    setup.zone.client_ca.pop();
    setup.tls.crl = vec![vec![2]];
    assert_eq!(kinds(&setup), [K::RevocationList { index: 0 }]);

    let client = |setup: &Setup| {
        let (zone, tls) = (&setup.client_zone, &setup.client_tls);
        let clock = setup.clock.clone();
        let built = ClientSide::build(zone, setup.server_name, false, tls, clock);
        built.map(|_| ()).unwrap_err().remove(0).kind
    };
    setup.server_name = "no name";
    assert_eq!(client(&setup), K::ServerName { name: "no name".into() });
    setup.server_name = SERVER;
    setup.client_zone.server_ca.clear();
    assert_eq!(client(&setup), K::NoServerAuthority);
}

#[test]
fn an_identity_is_known_before_it_is_used() {
    let setup = Setup::new();
    let files = setup.authority.issue(Leaf::dns("*.example.com")).files(&["a.example.com"]);
    let facts = examine(&files, NOW).unwrap();
    assert_eq!(facts.presented, [Box::from("*.example.com")]);
    assert_eq!(facts.not_after, (NOW + 30 * DAY) as i64);
    assert_eq!(setup.server().identities().len(), 1);
}

#[test]
fn the_generated_identity_serves_clients_that_verify() {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let made = self_signed(&["localhost", "127.0.0.1", "::1"], now, 365).unwrap();
    assert!(made.ca_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    let mut setup = Setup::new();
    setup.listener.identities = vec![made.identity()];
    setup.client_zone.server_ca = vec![made.authority().to_vec()];
    for name in ["localhost", "127.0.0.1", "::1"] {
        setup.server_name = name;
        let (mut client, mut server) = connected(&setup.client(), &setup.server());
        client.seal(b"hello");
        converse(&mut client, &mut server);
        assert_eq!(server.plain, b"hello");
    }
}
