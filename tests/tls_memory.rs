//! What a TLS connection costs in memory: nothing before a ClientHello, little when idle, no allocation of our own for
//! a record.

use allocation_counter::{AllocationInfo, measure};
use ringfront::base::chunk::ChunkPool;
use ringfront::base::time::Instant;
use ringfront::tls::Session;

#[path = "tls/pki.rs"]
#[expect(dead_code, reason = "shared with tests/tls.rs, which uses all of it")]
mod pki;
#[path = "tls/wire.rs"]
#[expect(dead_code, reason = "shared with tests/tls.rs, which uses all of it")]
mod wire;

use pki::Setup;
use wire::{End, connected};

/// rustls 0.23 puts the plaintext of each record into a vector of its own, and builds each sealed record in one; both
/// are freed at once.
const RUSTLS_PER_RECORD: u64 = 1;

#[test]
fn a_connection_that_trickles_its_hello_costs_nothing_in_rustls() {
    let setup = Setup::new();
    let server = setup.server();
    let mut hello = End::client(&setup.client()).outbox;
    let (mut plain, mut reply) = (Vec::new(), Vec::new());
    let mut session = None;
    let info = measure(|| {
        let session = session.insert(Session::server(&server));
        for end in 0..hello.len() {
            let opened = session.open(Instant(1), &mut hello[..end], &mut plain, &mut reply);
            assert_eq!(opened.unwrap().consumed, 0);
        }
    });
    assert_eq!(info, AllocationInfo::default());
    assert!(size_of::<Session>() <= 128, "{} bytes", size_of::<Session>());
}

#[test]
fn an_idle_connection_takes_few_bytes() {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        let (client_side, server_side) = (setup.client(), setup.server());
        let _ = connected(&client_side, &server_side);
        let mut client = End::client(&client_side);
        let mut server = End::server(&server_side);
        let mut total = 0;
        while !client.outbox.is_empty() || !server.outbox.is_empty() {
            let up = std::mem::take(&mut client.outbox);
            let mut kept = Vec::with_capacity(32 * 1024);
            let mut reply = Vec::with_capacity(32 * 1024);
            let mut plain = Vec::with_capacity(1024);
            kept.extend_from_slice(&up);
            let info = measure(|| {
                let opened =
                    server.session.open(Instant(1), &mut kept, &mut plain, &mut reply).unwrap();
                assert_eq!(opened.consumed, kept.len());
            });
            total += info.bytes_current;
            let _ = client.receive(&reply);
        }
        assert!(server.session.established());
        println!("TLS 1.{}: {total} bytes in rustls for an idle server session", 3 - tls12 as u8);
        assert!(total <= 2560, "{total} bytes");
    }
}

#[test]
fn a_record_costs_no_allocation_of_ours() {
    for tls12 in [false, true] {
        let mut setup = Setup::new();
        setup.versions(tls12, !tls12);
        let (mut client, mut server) = connected(&setup.client(), &setup.server());
        let message = [b'x'; 500];
        let mut pool = ChunkPool::new(1 << 20);
        let (mut plain, mut reply) = (Vec::with_capacity(4096), Vec::with_capacity(4096));
        let mut received = Vec::with_capacity(4096);
        let mut round = || {
            let mut chunk = pool.take(Session::sealed_len(message.len())).unwrap();
            let seal = measure(|| client.session.seal(&message, &mut chunk).unwrap());
            received.clear();
            received.extend_from_slice(chunk.bytes());
            pool.give(chunk);
            plain.clear();
            let open = measure(|| {
                server.session.open(Instant(1), &mut received, &mut plain, &mut reply).unwrap();
            });
            assert_eq!(plain, message);
            (seal, open)
        };
        round();
        for _ in 0..100 {
            let (seal, open) = round();
            assert_eq!(seal.count_total, RUSTLS_PER_RECORD, "{seal:?}");
            assert_eq!(open.count_total, RUSTLS_PER_RECORD, "{open:?}");
            assert_eq!((seal.count_current, open.count_current), (0, 0));
        }
    }
}
