//! Records that real peers do not send, and the ends of connections.

use ringfront::base::chunk::ChunkPool;
use ringfront::tls::session::{IDLE_RECORDS_MAX, KEPT_BYTES_MAX};
use ringfront::tls::{FaultKind, Session};

use crate::hostile::{ALERT, DATA, Forge, HANDSHAKE, Raw};
use crate::pki::Setup;
use crate::wire::{End, connected, converse};

/// A forge of TLS 1.3 or 1.2 and the server that it is connected to.
fn forged(tls13: bool) -> (Forge, End) {
    let mut setup = Setup::new();
    setup.versions(!tls13, tls13);
    let mut server = End::server(&setup.server());
    let forge = Raw::client(&setup, |_| {}).forge(&mut server);
    server.outbox.clear();
    (forge, server)
}

fn kind(end: &End) -> Option<FaultKind> {
    end.fault.map(|fault| fault.kind)
}

#[test]
fn plain_text_is_no_tls_and_gets_no_answer() {
    let setup = Setup::new();
    for text in [
        &b"OPTIONS sip:a SIP/2.0\r\n"[..],
        b"\r\n\r\n",
        b"G",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"\x16\x02\x00\x00\x10",
        b"\x80\x2e\x01\x03\x01",
    ] {
        let mut server = End::server(&setup.server());
        let _ = server.receive(text);
        assert_eq!(kind(&server), Some(FaultKind::NotTls), "{text:?}");
        assert!(server.outbox.is_empty());
        // It stays so.
        assert!(server.receive(b"").is_err());
    }
    let mut client = End::client(&setup.client());
    client.outbox.clear();
    let _ = client.receive(b"SIP/2.0 400 Bad Request\r\n");
    assert_eq!(kind(&client), Some(FaultKind::NotTls));
}

#[test]
fn a_client_hello_has_its_limits() {
    let setup = Setup::new();
    // 16 KiB and a byte, announced in the first nine bytes.
    let mut server = End::server(&setup.server());
    let _ = server.receive(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 1]);
    assert_eq!(kind(&server), Some(FaultKind::ClientHelloTooLarge));
    assert_eq!(server.outbox, [21, 3, 3, 0, 2, 2, 47]);

    // 65 records.
    let mut server = End::server(&setup.server());
    let hello = End::client(&setup.client()).outbox;
    for byte in &hello[5..70] {
        let _ = server.receive(&[22, 3, 1, 0, 1, *byte]);
    }
    assert_eq!(kind(&server), Some(FaultKind::ClientHelloTooLarge));

    // A record that is larger than any may be.
    let mut server = End::server(&setup.server());
    let _ = server.receive(&[22, 3, 1, 0x40, 1, 1]);
    assert_eq!(kind(&server), Some(FaultKind::BadRecord));

    // Something else than a ClientHello, and nothing at all.
    let mut server = End::server(&setup.server());
    let _ = server.receive(&[22, 3, 3, 0, 4, 2, 0, 0, 0]);
    assert_eq!(kind(&server), Some(FaultKind::UnexpectedMessage));
    let mut server = End::server(&setup.server());
    let _ = server.receive(&[22, 3, 3, 0, 0]);
    assert_eq!(kind(&server), Some(FaultKind::BadRecord));
    let mut server = End::server(&setup.server());
    let _ = server.receive(&[23, 3, 3, 0, 1, 0]);
    assert_eq!(kind(&server), Some(FaultKind::UnexpectedMessage));
}

#[test]
fn a_client_hello_in_many_records_is_understood() {
    let setup = Setup::new();
    let mut client = End::client(&setup.client());
    let mut server = End::server(&setup.server());
    let hello = std::mem::take(&mut client.outbox);
    for piece in hello[5..].chunks(hello.len() / 20) {
        client.outbox.extend_from_slice(&[22, 3, 1]);
        client.outbox.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        client.outbox.extend_from_slice(piece);
    }
    converse(&mut client, &mut server);
    assert!(client.session.established() && server.session.established());
}

#[test]
fn records_of_one_byte_and_many_at_once() {
    for tls13 in [true, false] {
        let (mut forge, mut server) = forged(tls13);
        let message = b"OPTIONS sip:a SIP/2.0\r\n\r\n";
        let mut stream = Vec::new();
        for byte in message {
            stream.extend_from_slice(&forge.record(DATA, &[*byte]));
        }
        let half = forge.record(DATA, b"more");
        stream.extend_from_slice(&half[..half.len() - 1]);
        let opened = server.receive(&stream).unwrap();
        assert_eq!(opened.consumed, stream.len() - half.len() + 1);
        assert_eq!(server.plain, message);
        server.receive(&half[half.len() - 1..]).unwrap();
        assert_eq!(&server.plain[message.len()..], b"more");
    }
}

#[test]
fn empty_records_are_counted_and_payload_forgives() {
    for tls13 in [true, false] {
        let (mut forge, mut server) = forged(tls13);
        // rustls itself takes 32 empty ones in a row; a payload between them forgives both counts.
        for _ in 0..20 {
            for _ in 0..30 {
                server.receive(&forge.record(DATA, b"")).unwrap();
            }
            server.receive(&forge.record(DATA, b"x")).unwrap();
        }
        assert_eq!(server.plain.len(), 20);
        let mut flood = Vec::new();
        for _ in 0..1000 {
            flood.extend_from_slice(&forge.record(DATA, b""));
        }
        assert!(server.receive(&flood).is_err());
        assert_eq!(kind(&server), Some(FaultKind::RecordFlood));
    }
}

#[test]
fn empty_records_between_key_updates_do_not_hide_them() {
    // rustls forgives key updates at every application record, the empty ones included; our count does not.
    let (mut forge, mut server) = forged(true);
    let mut sent = 0;
    while server.fault.is_none() {
        let _ = server.receive(&forge.key_update(false));
        let _ = server.receive(&forge.record(DATA, b""));
        sent += 2;
        assert!(sent <= 200);
    }
    assert_eq!(kind(&server), Some(FaultKind::RecordFlood));
    assert!(sent <= IDLE_RECORDS_MAX);
}

#[test]
fn a_flood_of_key_updates_ends_at_the_first_dozens() {
    for request in [false, true] {
        let (mut forge, mut server) = forged(true);
        let mut flood = Vec::new();
        for _ in 0..1000 {
            flood.extend_from_slice(&forge.key_update(request));
        }
        for bytes in flood.chunks(16 * 1024) {
            let _ = server.receive(bytes);
        }
        assert_eq!(kind(&server), Some(FaultKind::RecordFlood));
        assert!(server.outbox.len() < 64 * 64, "{} bytes of answers", server.outbox.len());
    }
}

#[test]
fn records_without_payload_are_forgotten_after_a_while() {
    let (mut forge, mut server) = forged(true);
    server.receive(&forge.record(DATA, b"x")).unwrap();
    for _ in 0..20 {
        for _ in 0..20 {
            server.receive(&forge.key_update(false)).unwrap();
        }
        // rustls counts key updates between payloads on its own.
        server.receive(&forge.record(DATA, b"x")).unwrap();
        server.pass(11);
    }
    for _ in 0..8 {
        for _ in 0..4 {
            server.receive(&forge.record(DATA, b"")).unwrap();
        }
        server.pass(11);
        assert_eq!(server.fault, None);
    }
}

#[test]
fn warnings_in_tls12_are_counted() {
    let (mut forge, mut server) = forged(false);
    let mut sent = 0;
    // no_renegotiation, a warning that means nothing here.
    while server.fault.is_none() && sent < 100 {
        let _ = server.receive(&forge.record(ALERT, &[1, 100]));
        sent += 1;
    }
    assert_eq!(kind(&server), Some(FaultKind::RecordFlood));
    // In TLS 1.3 all alerts are fatal (RFC 8446 6).
    let (mut forge, mut server) = forged(true);
    let _ = server.receive(&forge.record(ALERT, &[1, 100]));
    assert_eq!(kind(&server), Some(FaultKind::AlertOther));
}

#[test]
fn renegotiation_is_declined_then_refused() {
    let (mut forge, mut server) = forged(false);
    let hello = End::client(&Setup::new().client()).outbox;
    server.receive(&forge.record(HANDSHAKE, &hello[5..])).unwrap();
    assert!(!server.outbox.is_empty(), "no_renegotiation is sent");
    let _ = server.receive(&forge.record(HANDSHAKE, &hello[5..]));
    assert_eq!(kind(&server), Some(FaultKind::RecordFlood));
}

#[test]
fn half_a_handshake_message_does_not_stop_sending() {
    // A key update in two records; between them we send and close. rustls then holds a place in bytes that only the
    // caller has.
    for close in [false, true] {
        let (mut forge, mut server) = forged(true);
        let front = forge.record(HANDSHAKE, &[24, 0, 0]);
        let back = forge.record(HANDSHAKE, &[1, 0]);
        forge.next_keys();
        let opened = server.receive(&front).unwrap();
        assert_eq!(opened.consumed, 0);
        server.seal(b"SIP/2.0 200 OK\r\n\r\n");
        assert!(server.outbox.len() > 18);
        if close {
            server.close();
            continue;
        }
        server.receive(&back[..7]).unwrap();
        server.seal(b"more");
        server.receive(&back[7..]).unwrap();
        assert!(server.kept.is_empty());
        server.receive(&forge.record(DATA, b"after")).unwrap();
        assert_eq!(server.plain, b"after");
    }
}

#[test]
fn a_handshake_message_without_end_is_bounded() {
    for tls13 in [true, false] {
        let (mut forge, mut server) = forged(tls13);
        let mut largest = 0;
        let mut piece = vec![0; 8000];
        piece[..4].copy_from_slice(&[24, 0, 0xff, 0xff]);
        while server.fault.is_none() {
            let _ = server.receive(&forge.record(HANDSHAKE, &piece));
            largest = largest.max(server.kept.len());
        }
        assert!(largest <= KEPT_BYTES_MAX);
        assert!(matches!(
            kind(&server),
            Some(FaultKind::RecordTooLarge | FaultKind::UnexpectedMessage | FaultKind::BadRecord)
        ));
    }
}

#[test]
fn data_between_the_halves_of_a_handshake_message_is_refused() {
    let (mut forge, mut server) = forged(true);
    server.receive(&forge.record(HANDSHAKE, &[24, 0, 0])).unwrap();
    let _ = server.receive(&forge.record(DATA, b"x"));
    assert_eq!(kind(&server), Some(FaultKind::PeerMisbehaved));
    assert!(server.plain.is_empty());
}

#[test]
fn keys_are_updated_when_asked() {
    let setup = Setup::new();
    let mut server = End::server(&setup.server());
    let mut client = Raw::client(&setup, |_| {});
    client.converse(&mut server);
    for round in 0..5 {
        client.update_keys();
        client.seal(b"ping");
        server.seal(b"pong");
        client.converse(&mut server);
        client.converse(&mut server);
        server.seal(b"pong");
        client.converse(&mut server);
        assert_eq!(server.plain.len(), 4 * (round + 1));
        assert_eq!(client.plain.len(), 8 * (round + 1));
        assert_eq!(client.error, None);
    }
}

#[test]
fn what_is_no_record_ends_the_connection() {
    // Heartbeat (RFC 6520), a version of SSL, a length that none may have, an unknown type.
    let heads: [[u8; 5]; 4] =
        [[24, 3, 3, 0, 9], [23, 2, 0, 0, 9], [23, 3, 3, 0xff, 0], [99, 3, 3, 0, 9]];
    for head in heads {
        let (_, mut server) = forged(true);
        for byte in head {
            let _ = server.receive(&[byte]);
        }
        assert!(
            matches!(kind(&server), Some(FaultKind::BadRecord | FaultKind::RecordTooLarge)),
            "{head:?}: {:?}",
            kind(&server)
        );
    }
}

#[test]
fn a_flipped_bit_ends_the_connection_with_an_alert() {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        let (mut client, mut server) = connected(&setup.client(), &setup.server());
        client.seal(b"OPTIONS sip:a SIP/2.0\r\n\r\n");
        *client.outbox.last_mut().unwrap() ^= 1;
        converse(&mut client, &mut server);
        assert_eq!(kind(&server), Some(FaultKind::RecordAuthentication));
        assert_eq!(kind(&client), Some(FaultKind::AlertBadRecordMac));
        assert!(server.plain.is_empty());
        let mut pool = ChunkPool::new(1 << 20);
        let mut chunk = pool.take(Session::sealed_len(1)).unwrap();
        assert_eq!(
            server.session.seal(b"x", &mut chunk).map_err(|f| f.kind),
            Err(kind(&server).unwrap())
        );
        assert!(chunk.is_empty());
    }
}

/// 5923-8.3-a
#[test]
fn both_ends_close_in_order() {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        let (mut client, mut server) = connected(&setup.client(), &setup.server());
        client.seal(b"BYE");
        client.close();
        converse(&mut client, &mut server);
        assert!(server.peer_closed && !client.peer_closed);
        assert_eq!(server.plain, b"BYE");
        // What the peer still sends after its close_notify is not looked at.
        assert_eq!(server.receive(b"garbage").unwrap().consumed, 7);
        // The other direction stays open until we close it too (RFC 8446 6.1).
        server.seal(b"200");
        let sent = server.outbox.len();
        assert!(sent > 3);
        server.close();
        assert!(server.outbox.len() > sent);
        let closed = server.outbox.len();
        server.close();
        assert_eq!(server.outbox.len(), closed, "close_notify is sent once");
        assert_eq!((client.fault, server.fault), (None, None));
        // We have closed first: nothing that comes now is opened.
        converse(&mut client, &mut server);
        assert!(client.plain.is_empty() && client.kept.is_empty());
    }
}

#[test]
fn closing_before_the_handshake_has_ended() {
    let setup = Setup::new();
    let mut server = End::server(&setup.server());
    server.close();
    assert!(server.outbox.is_empty());
    let mut client = End::client(&setup.client());
    client.outbox.clear();
    client.close();
    assert!(client.outbox.is_empty());

    // A peer's close_notify in the middle of the handshake.
    let mut client = End::client(&setup.client());
    let _ = client.receive(&[21, 3, 3, 0, 2, 2, 0]);
    assert_eq!(kind(&client), Some(FaultKind::ClosedInHandshake));
}

#[test]
fn large_messages_take_several_records() {
    let setup = Setup::new();
    let (mut client, mut server) = connected(&setup.client(), &setup.server());
    let message: Vec<u8> = (0..65_536_u32).map(|i| i as u8).collect();
    client.seal(&message);
    assert!(client.outbox.len() <= Session::sealed_len(message.len()));
    converse(&mut client, &mut server);
    assert_eq!(server.plain, message);
}

#[test]
fn nothing_is_sealed_before_the_handshake() {
    let setup = Setup::new();
    let mut client = End::client(&setup.client());
    let mut pool = ChunkPool::new(1 << 20);
    let mut chunk = pool.take(Session::sealed_len(1)).unwrap();
    let fault = client.session.seal(b"x", &mut chunk).unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotEstablished);
    let mut server = End::server(&setup.server());
    converse(&mut client, &mut server);
    assert!(server.session.established(), "asking too early did no harm");
}
