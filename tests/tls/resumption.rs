//! Sessions taken up again: across workers and a fleet, never across listeners, zones, policies or too much time.

use std::time::Duration;

use ringfront::config::snapshot::{ClientCertificate as Mode, TicketPolicy};
use ringfront::tls::{ClientSide, FaultKind, ServerSide, Tickets};

use crate::pki::{Authority, DAY, HOUR, Leaf, NOW, SERVER, Setup, listener};
use crate::wire::{End, connected, converse};

/// Whether a second connection of the same client to `server` is a resumed one.
fn resumes(client: &ClientSide, server: &ServerSide) -> bool {
    let (client, server) = connected(client, server);
    let resumed = server.session.summary().unwrap().resumed;
    assert_eq!(client.session.summary().unwrap().resumed, resumed);
    resumed
}

/// Whether a session made with `first` is taken up by `second`.
fn carries(setup: &Setup, first: &ServerSide, second: &ServerSide) -> bool {
    let client = setup.client();
    assert!(!resumes(&client, first));
    resumes(&client, second)
}

fn both_versions(mut test: impl FnMut(&mut Setup)) {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        test(&mut setup);
    }
}

#[test]
fn the_same_listener_on_another_worker_or_after_a_reload() {
    both_versions(|setup| {
        let (one, other) = (setup.server(), setup.server());
        assert!(carries(setup, &one, &one));
        assert!(carries(setup, &one, &other));
        // Data flows, and the next session can be taken up from the resumed one.
        let client = setup.client();
        for _ in 0..3 {
            let (mut from, mut to) = connected(&client, &one);
            from.seal(b"ping");
            converse(&mut from, &mut to);
            assert_eq!(to.plain, b"ping");
        }
        assert!(resumes(&client, &one));
    });
}

#[test]
fn one_ticket_and_no_early_data() {
    let setup = Setup::new();
    let (client_side, server_side) = (setup.client(), setup.server());
    let (_, _) = connected(&client_side, &server_side);
    // The ticket is used up: of two connections at once only one resumes.
    let resumed = [0, 1].map(|_| {
        let (mut client, mut server) = (End::client(&client_side), End::server(&server_side));
        let up = std::mem::take(&mut client.outbox);
        server.receive(&up).unwrap();
        (client, server)
    });
    let count = resumed.into_iter().map(|(mut client, mut server)| {
        converse(&mut client, &mut server);
        usize::from(server.session.summary().unwrap().resumed)
    });
    assert_eq!(count.sum::<usize>(), 1);
}

#[test]
fn never_on_another_listener_zone_or_policy() {
    both_versions(|setup| {
        let ca = Authority::new("client CA");
        setup.client_zone.certificate = Some(ca.issue(Leaf::dns("pbx.example.net")).files(&[]));
        setup.ask(Mode::Optional, &ca);
        let first = setup.server();
        assert!(carries(setup, &first, &first));

        let name = std::mem::replace(&mut setup.listener.name, "other-tls".into());
        assert!(!carries(setup, &first, &setup.server()), "another listener");
        setup.listener.name = name;

        let name = std::mem::replace(&mut setup.zone.name, "other".into());
        assert!(!carries(setup, &first, &setup.server()), "another zone");
        setup.zone.name = name;

        setup.zone.client_certificate = Mode::Required;
        assert!(!carries(setup, &first, &setup.server()), "another policy");
        setup.zone.client_certificate = Mode::Optional;

        setup.zone.client_names = vec!["pbx.example.net".into()];
        assert!(!carries(setup, &first, &setup.server()), "other names allowed");
        setup.zone.client_names.clear();

        setup.zone.client_ca.push(Authority::new("more").der());
        assert!(!carries(setup, &first, &setup.server()), "another CA set");
        setup.zone.client_ca.pop();

        setup.tls.crl = vec![ca.revoke(&[], NOW + DAY)];
        assert!(!carries(setup, &first, &setup.server()), "other revocation lists");
        setup.tls.crl.clear();

        setup.tls.require_alpn = true;
        assert!(!carries(setup, &first, &setup.server()), "another protocol policy");
        setup.tls.require_alpn = false;

        assert!(carries(setup, &first, &setup.server()), "all as it was");
    });
}

#[test]
fn a_certificate_that_ran_out_meanwhile_is_not_resumed_to() {
    both_versions(|setup| {
        let ca = Authority::new("client CA");
        let leaf = Leaf { until: NOW + HOUR, ..Leaf::dns("pbx.example.net") };
        setup.client_zone.certificate = Some(ca.issue(leaf).files(&[]));
        setup.ask(Mode::Required, &ca);
        let (client_side, server_side) = (setup.client(), setup.server());
        let (_, server) = connected(&client_side, &server_side);
        assert!(server.session.peer().unwrap().is("pbx.example.net"));
        assert!(resumes(&client_side, &server_side));
        let (_, server) = connected(&client_side, &server_side);
        assert!(server.session.peer().unwrap().is("pbx.example.net"), "known again when resumed");
        setup.clock.advance(2 * HOUR);
        let (mut client, mut server) = (End::client(&client_side), End::server(&server_side));
        converse(&mut client, &mut server);
        assert_eq!(server.fault.unwrap().kind, FaultKind::CertificateExpired);
        assert!(client.peer_closed, "it is told that the connection is over");
    });
}

#[test]
fn a_server_certificate_that_ran_out_meanwhile_is_not_resumed_to() {
    let mut setup = Setup::new();
    let leaf = Leaf { until: NOW + HOUR, ..Leaf::dns(SERVER) };
    setup.listener.identities = vec![setup.authority.issue(leaf).files(&[])];
    let (client_side, server_side) = (setup.client(), setup.server());
    let (_, _) = connected(&client_side, &server_side);
    setup.clock.advance(2 * HOUR);
    let (mut client, mut server) = (End::client(&client_side), End::server(&server_side));
    converse(&mut client, &mut server);
    assert_eq!(client.fault.unwrap().kind, FaultKind::CertificateExpired);
}

#[test]
fn tickets_live_for_their_lifetime_and_keys_with_them() {
    both_versions(|setup| {
        let server = setup.server();
        for (minutes, good) in [(59, true), (11 * 60 + 59, true), (12 * 60 + 1, false)] {
            setup.clock.set(NOW);
            let client = setup.client();
            assert!(!resumes(&client, &server));
            setup.clock.advance(minutes * 60);
            assert_eq!(resumes(&client, &server), good, "after {minutes} minutes");
        }
    });
}

#[test]
fn old_keys_go() {
    let setup = Setup::new();
    let server = setup.server();
    for _ in 0..48 {
        let _ = connected(&setup.client(), &server);
        setup.clock.advance(HOUR);
        assert!(setup.tickets.live_keys() <= 14);
    }
    assert!(setup.tickets.live_keys() >= 13);
    setup.clock.advance(14 * HOUR);
    setup.tickets.sweep();
    assert_eq!(setup.tickets.live_keys(), 0);
}

fn fleet(setup: &Setup, file: &str) -> Tickets {
    let (lifetime, rotate) = (Duration::from_secs(12 * HOUR), Duration::from_secs(HOUR));
    Tickets::from_key_file(setup.clock.clone(), lifetime, rotate, file.as_bytes()).unwrap()
}

#[test]
fn a_fleet_resumes_everywhere_by_its_key_file() {
    let (first, second) = ("a1".repeat(32), "0B".repeat(32));
    both_versions(|setup| {
        let node = |setup: &mut Setup, file: &str| {
            setup.tickets = fleet(setup, file);
            setup.server()
        };
        let one = node(setup, &first);
        let other = node(setup, &format!("# the same\r\n\n{first}\r\n"));
        assert!(carries(setup, &one, &other));
        // A new master comes: the old one still opens, on nodes that have it, and the new one seals.
        let renewed = node(setup, &format!("{second}\n{first}\n"));
        assert!(carries(setup, &one, &renewed));
        assert!(!carries(setup, &renewed, &one), "one does not have the new master yet");
        let gone = node(setup, &second);
        assert!(carries(setup, &renewed, &gone));
        assert!(!carries(setup, &one, &gone));
        // A node that never made a ticket in that hour opens those of the others.
        let client = setup.client();
        assert!(!resumes(&client, &one));
        setup.clock.advance(5 * HOUR);
        assert!(resumes(&client, &node(setup, &first)));
    });
}

#[test]
fn without_a_key_file_processes_do_not_share() {
    let mut setup = Setup::new();
    let one = setup.server();
    setup.tickets = crate::pki::tickets(&setup.clock);
    assert!(!carries(&setup, &one, &setup.server()));
}

#[test]
fn listeners_with_the_same_certificate_are_still_apart() {
    let mut setup = Setup::new();
    let first = setup.server();
    setup.listener = listener("second-tls", setup.listener.identities.clone());
    assert!(!carries(&setup, &first, &setup.server()));
}

#[test]
fn tickets_that_are_off_are_neither_given_nor_taken() {
    both_versions(|setup| {
        let on = setup.server();
        let policy = TicketPolicy::Off;
        setup.tickets = Tickets::of_policy(setup.clock.clone(), &policy).unwrap();
        let off = setup.server();
        assert!(!carries(setup, &off, &off));
        assert!(!carries(setup, &on, &off));
    });
}
