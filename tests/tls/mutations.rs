//! Streams that chance has changed: no byte of a peer may bring a panic, and a fault stays a fault.

use proptest::prelude::*;
use ringfront::config::snapshot::ClientCertificate as Mode;
use ringfront::tls::session::KEPT_BYTES_MAX;

use crate::hostile::{DATA, HANDSHAKE, Raw};
use crate::pki::{Authority, Leaf, Setup};
use crate::wire::End;

#[derive(Clone, Debug)]
enum Change {
    Flip { at: usize, bit: u8 },
    Cut { at: usize, length: usize },
    Insert { at: usize, bytes: Vec<u8> },
    Repeat { at: usize, length: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..4000_usize;
    prop_oneof![
        (at.clone(), 0..8_u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        (at.clone(), 1..50_usize).prop_map(|(at, length)| Change::Cut { at, length }),
        (at.clone(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        (at, 1..500_usize).prop_map(|(at, length)| Change::Repeat { at, length }),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len().max(1);
    match change {
        Change::Flip { at, bit } => {
            if let Some(byte) = bytes.get_mut(at % length) {
                *byte ^= 1 << bit;
            }
        }
        Change::Cut { at, length: cut } => {
            let from = (at % length).min(bytes.len());
            let to = (from + cut).min(bytes.len());
            bytes.drain(from..to);
        }
        Change::Insert { at, bytes: more } => {
            let at = (at % length).min(bytes.len());
            bytes.splice(at..at, more.iter().copied());
        }
        Change::Repeat { at, length: copy } => {
            let from = (at % length).min(bytes.len());
            let to = (from + copy).min(bytes.len());
            let piece = bytes[from..to].to_vec();
            bytes.splice(to..to, piece);
        }
    }
}

/// A flight whose turn is `flight` is changed on its way; both ends must come through.
fn run(tls12: bool, flight: usize, changes: &[Change], piece: usize) {
    let ca = Authority::new("client CA");
    let mut setup = Setup::new();
    setup.versions(tls12, !tls12);
    setup.ask(Mode::Optional, &ca);
    setup.client_zone.certificate = Some(ca.issue(Leaf::dns("pbx.example.net")).files(&[]));
    let (mut client, mut server) = (End::client(&setup.client()), End::server(&setup.server()));
    for turn in 0..12 {
        let (from, to) =
            if turn % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        if turn >= 6 && from.session.established() && from.fault.is_none() {
            from.seal(b"OPTIONS sip:sip.example.com SIP/2.0\r\n\r\n");
        }
        let mut bytes = std::mem::take(&mut from.outbox);
        if turn == flight {
            changes.iter().for_each(|change| apply(&mut bytes, change));
        }
        for bytes in bytes.chunks(piece) {
            let before = to.fault;
            let result = to.receive(bytes);
            if let Some(fault) = before {
                assert_eq!(result, Err(fault));
                break;
            }
            assert!(to.kept.len() <= KEPT_BYTES_MAX);
        }
    }
    for end in [&mut client, &mut server] {
        if end.fault.is_none() && end.session.established() {
            end.seal(b"x");
        }
        end.close();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn changed_streams(
        tls12: bool,
        flight in 0..10_usize,
        changes in prop::collection::vec(change(), 1..4),
        piece in prop_oneof![Just(usize::MAX), 1..100_usize],
    ) {
        run(tls12, flight, &changes, piece);
    }

    #[test]
    fn bytes_of_chance(bytes in prop::collection::vec(any::<u8>(), 0..200), like_tls: bool) {
        let setup = Setup::new();
        let mut bytes = bytes;
        if like_tls && bytes.len() > 6 {
            bytes[..3].copy_from_slice(&[22, 3, 1]);
            bytes[3] = 0;
            bytes[5] = 1;
        }
        let mut server = End::server(&setup.server());
        let mut client = End::client(&setup.client());
        for piece in bytes.chunks(7) {
            let _ = server.receive(piece);
            let _ = client.receive(piece);
        }
    }

    /// Records of any content, sealed with good keys, and our own sending between them.
    #[test]
    fn records_of_chance(
        tls13: bool,
        records in prop::collection::vec(
            (prop_oneof![Just(HANDSHAKE), Just(DATA), 20..25_u8], any::<bool>(),
             prop::collection::vec(prop_oneof![Just(0), Just(1), Just(24), any::<u8>()], 0..12)),
            1..12),
        piece in 1..60_usize,
    ) {
        let mut setup = Setup::new();
        setup.versions(!tls13, tls13);
        let mut server = End::server(&setup.server());
        let mut forge = Raw::client(&setup, |_| {}).forge(&mut server);
        for (kind, send, plain) in &records {
            for bytes in forge.record(*kind, plain).chunks(piece) {
                let _ = server.receive(bytes);
            }
            if *send && server.fault.is_none() {
                server.seal(b"SIP/2.0 200 OK\r\n\r\n");
            }
        }
        server.close();
    }
}
