//! The proxy as a Machine, bytes in and bytes out, with nothing beneath it.

mod health;
mod names;
mod overload;
mod pools;
mod rules;
mod transaction;

use super::stand::*;
use super::*;
use crate::base::machine::{Arrival, Machine};
use crate::base::time::Duration;
use crate::config::snapshot::*;

/// 3261-16.6-b, 3261-18.2.1-a
#[test]
fn a_request_gets_our_via_and_its_response_loses_it() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "c1", ""));
    let (backend, arrived) = bench.at_backend();
    let vias = header(&arrived, "Via");
    assert!(vias[0].starts_with("SIP/2.0/TCP 10.0.0.9:5070;branch=z9hG4bK"), "{arrived}");
    assert_eq!(
        vias[1],
        "SIP/2.0/TCP client.invalid:5060;rport=40000;branch=z9hG4bKc1;received=198.51.100.7"
    );
    assert_eq!(header(&arrived, "Max-Forwards"), ["69"]);
    assert_eq!(header(&arrived, "Max-Breadth"), ["60"]);
    bench.send(backend, &response(&arrived, "200 OK"));
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 200 OK\r\n"), "{answer}");
    assert_eq!(header(&answer, "Via").len(), 1);
}

/// 3261-16.4-c, 3261-16.6-c, 5626-5.3.2-a, 5658-5-a
#[test]
fn an_invite_is_record_routed_on_both_sides_and_its_dialog_follows_the_token() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "c2", ""));
    let (backend, arrived) = bench.at_backend();
    let routes: Vec<String> =
        header(&arrived, "Record-Route").iter().map(|it| it.to_string()).collect();
    assert_eq!(routes.len(), 2, "{arrived}");
    assert!(routes[0].ends_with("@10.0.0.9:5070;transport=tcp;lr>"));
    assert!(routes[1].ends_with("@edge.example.com:5060;transport=tcp;lr>"));
    bench.send(backend, &response(&arrived, "200 OK"));
    bench.take(client);

    // The caller's route set is reversed: what was lower comes first.
    let bye = request(
        "BYE",
        "sip:bob@10.0.0.1",
        "c2",
        &format!("Route: {}, {}\r\n", routes[1], routes[0]),
    )
    .replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=b");
    bench.send(client, &bye);
    let bye_at = bench.take(backend);
    assert!(bye_at.starts_with("BYE ") && header(&bye_at, "Route").is_empty(), "{bye_at}");

    // The callee's BYE comes over the link and finds the caller's flow.
    let bye = request(
        "BYE",
        "sip:alice@client.invalid",
        "c2",
        &format!("Route: {}\r\nRoute: {}\r\n", routes[0], routes[1]),
    )
    .replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=b");
    bench.send(backend, &bye);
    let at_client = bench.take(client);
    assert!(at_client.starts_with("BYE ") && header(&at_client, "Route").is_empty(), "{at_client}");
    bench.send(client, &response(&at_client, "200 OK"));
    assert!(bench.take(backend).starts_with("SIP/2.0 200"));
}

/// 5626-5.3.1-a, 5923-P
#[test]
fn register_gets_a_path_that_leads_back_even_from_another_worker() {
    let mut bench = Bench::new(2);
    let client = bench.accept(1, 0, "198.51.100.7:40000");
    bench.send(client, &request("REGISTER", "sip:example.com", "c3", ""));
    let (_, arrived) = bench.at_backend();
    let path = header(&arrived, "Path")[0].to_string();
    assert!(
        path.starts_with("<sip:f") && path.ends_with("@10.0.0.9:5070;transport=tcp;lr>"),
        "{path}"
    );

    let other = bench.link(0, "10.0.0.1:5080");
    bench.send(other, &request("INVITE", "sip:alice@client", "c4", &format!("Route: {path}\r\n")));
    let ringing = bench.take(client);
    assert!(ringing.starts_with("INVITE "), "{ringing}");
    assert_eq!(header(&ringing, "Route").len(), 0);
    bench.send(client, &response(&ringing, "180 Ringing"));
    assert!(bench.take(other).starts_with("SIP/2.0 180"));
    assert_eq!(bench.workers[0].core.counters.crossings, 1);

    // The phone goes away: its flow is gone, and the caller hears it.
    bench.hang_up(client);
    bench.send(other, &request("INVITE", "sip:alice@client", "c5", &format!("Route: {path}\r\n")));
    assert!(bench.take(other).starts_with("SIP/2.0 430"));
}

/// 5626-5.2-a, 5626-5.3.1-a
#[test]
fn tokens_of_others_and_forged_ones_are_refused() {
    let mut bench = Bench::new(1);
    let alice = bench.client();
    bench.send(alice, &request("REGISTER", "sip:example.com", "c6", ""));
    let (_, arrived) = bench.at_backend();
    let path = header(&arrived, "Path")[0].to_string();
    let mallory = bench.accept(0, 0, "203.0.113.5:1");
    bench.send(
        mallory,
        &request("MESSAGE", "sip:alice@client", "c7", &format!("Route: {path}\r\n")),
    );
    assert!(bench.take(mallory).starts_with("SIP/2.0 403"));
    let forged = path.replacen("<sip:fag", "<sip:fah", 1);
    assert_ne!(forged, path);
    let link = bench.link(0, "10.0.0.1:5080");
    bench
        .send(link, &request("MESSAGE", "sip:alice@client", "c8", &format!("Route: {forged}\r\n")));
    assert!(bench.take(link).starts_with("SIP/2.0 403"));
    assert_eq!(bench.take(alice), "");
}

#[test]
fn a_response_counts_only_from_the_peer_that_was_asked_and_for_its_call() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "c9", ""));
    let (backend, arrived) = bench.at_backend();
    let answer = response(&arrived, "200 OK");
    let other = [bench.link(0, "10.0.0.1:5080"), bench.link(0, "10.0.0.2:5080")]
        .into_iter()
        .find(|link| *link != backend)
        .unwrap();
    bench.send(other, &answer);
    let mallory = bench.accept(0, 0, "203.0.113.5:1");
    bench.send(mallory, &answer);
    bench.send(backend, &answer.replace("Call-ID: c9", "Call-ID: c8"));
    bench.send(backend, &answer.replace("CSeq: 1", "CSeq: 2"));
    assert_eq!(bench.take(client), "");
    assert_eq!(bench.refused(crate::telemetry::counter::Refused::ResponseForged), 4);
    bench.send(backend, &answer);
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
}

/// 3261-16.3-b, 3261-16.3-c
#[test]
fn requests_with_nowhere_to_go_get_the_right_status() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    let cases = [
        (request("OPTIONS", "mailto:bob@example.com", "d1", ""), "416"),
        (request("INVITE", "sip:bob@example.com", "d2", "Proxy-Require: magic\r\n"), "420"),
        (request("INVITE", "sip:bob@example.com;transport=udp", "d3", ""), "480"),
        (
            request(
                "INVITE",
                "sip:bob@example.com",
                "d4",
                "Route: <sip:10.9.9.9;transport=UDP;lr>\r\n",
            ),
            "480",
        ),
        (request("INVITE", "sips:bob@example.com", "d5", ""), "480"),
        (
            request("INVITE", "sip:bob@example.com", "d6", "")
                .replace("Forwards: 70", "Forwards: 0"),
            "483",
        ),
        (request("OPTIONS", "sip:edge.example.com", "d7", ""), "200"),
        (request("OPTIONS", "sip:EDGE.example.com:5060", "d8", ""), "200"),
        (request("OPTIONS", "sip:192.0.2.1", "d9", ""), "200"),
        (
            request("OPTIONS", "sip:bob@example.com", "e1", "")
                .replace("Forwards: 70", "Forwards: 0"),
            "200",
        ),
    ];
    for (text, status) in cases {
        bench.send(client, &text);
        let answer = bench.take(client);
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{text}\n{answer}");
    }
    bench.send(client, &request("ACK", "sip:bob@example.com;transport=udp", "e2", ""));
    assert_eq!(bench.take(client), "");
}

/// 3261-18.4-a
#[test]
fn a_dead_pool_is_503_and_a_dead_backend_is_passed_over() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    let first = bench.link(0, "10.0.0.1:5080");
    let second = bench.link(0, "10.0.0.2:5080");
    bench.dead.push("10.0.0.1:5080".parse().unwrap());
    bench.dead.push("10.0.0.2:5080".parse().unwrap());
    bench.hang_up(first);
    for call in 0..20 {
        bench.send(client, &request("OPTIONS", "sip:bob@example.com", &format!("f{call}"), ""));
    }
    assert_eq!(bench.take(second).matches("OPTIONS sip:").count(), 20);
    bench.hang_up(second);
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "g1", ""));
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 503"), "{answer}");
    assert_eq!(header(&answer, "Warning"), ["399 edge-1 \"no backend of the pool is up\""]);

    // Back-off, then the link comes back by itself.
    bench.dead.clear();
    bench.pass(Duration::from_secs(11));
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "g2", ""));
    bench.at_backend();
}

/// 5393-4.1-a, 5393-4.2-b
#[test]
fn a_request_that_went_round_is_a_loop_and_a_spiral_is_not() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "h1", ""));
    let (_, arrived) = bench.at_backend();
    bench.send(client, &arrived);
    assert!(bench.take(client).starts_with("SIP/2.0 482"));
    bench.send(client, &arrived.replace("OPTIONS sip:bob@", "OPTIONS sip:carol@"));
    let (_, spiral) = bench.at_backend();
    assert_eq!(header(&spiral, "Via").len(), 3);
}

/// 3261-8.1.1.7-a, 3261-16.11-a
#[test]
fn a_cancel_and_an_ack_carry_the_branch_of_their_invite() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "i1", ""));
    let (backend, invite) = bench.at_backend();
    bench.send(client, &request("CANCEL", "sip:bob@example.com", "i1", ""));
    let cancel = bench.take(backend);
    bench.send(client, &request("ACK", "sip:bob@example.com", "i1", ""));
    let ack = bench.take(backend);
    assert_eq!(header(&invite, "Via")[0], header(&cancel, "Via")[0]);
    assert_eq!(header(&invite, "Via")[0], header(&ack, "Via")[0]);
}

/// 5626-5.4-a
#[test]
fn pings_are_answered_split_or_not_and_never_inside_a_message() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    for part in ["\r", "\n\r", "\n"] {
        bench.send(client, part);
    }
    assert_eq!(bench.take(client), "\r\n");
    let text = request("OPTIONS", "sip:edge.example.com", "j1", "");
    let (head, tail) = text.split_at(text.len() - 4);
    bench.send(client, &format!("\r\n\r\n{head}"));
    assert_eq!(bench.take(client), "\r\n");
    bench.send(client, tail);
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
}

/// 3261-18.3-a
#[test]
fn unframeable_is_answered_400_and_closed_after_a_moment() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    let text = request("OPTIONS", "sip:bob@example.com", "k1", "");
    bench.send(client, &text.replace("Content-Length: 0", "Content-Length: -1"));
    assert!(bench.take(client).starts_with("SIP/2.0 400"));
    bench.send(client, &text);
    assert_eq!(bench.take(client), "");
    bench.pass(Duration::from_millis(1100));
    assert_eq!(bench.closed, [client]);
}

/// 3261-18.3-b
#[test]
fn half_a_message_and_silence_is_closed_at_the_deadline() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, "OPTIONS sip:bob@example.com SIP/2.0\r\n");
    bench.pass(Duration::from_millis(1500));
    assert_eq!(bench.closed, []);
    // Too slow: 35 bytes in two seconds.
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.closed, [client]);
}

/// 3261-16.9-a, 3261-18.4-a
#[test]
fn a_link_that_dies_with_requests_unsent_answers_each() {
    let mut snapshot = snapshot();
    snapshot.pools[0].backends.truncate(1);
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    let (worker, link) = bench.link(0, "10.0.0.1:5080");
    // One chunk is out and does not come home; what follows waits behind it.
    let text = request("OPTIONS", "sip:bob@example.com", "l1", "");
    let mut bytes = text.clone().into_bytes();
    bench.workers[worker].handle(bench.now, Input::Received { conn: client.1, bytes: &mut bytes });
    let Some(Output::Transmit { chunk, .. }) = bench.workers[worker].poll() else { panic!("sent") };
    bench.send(client, &text.replace("l1", "l2"));
    bench.workers[worker].handle(bench.now, Input::Sent { conn: link, chunk });
    // Before the loop asks for the next chunk the link is gone.
    bench.dead.push("10.0.0.1:5080".parse().unwrap());
    bench.workers[worker].handle(bench.now, Input::Closed { conn: link, cause: CloseCause::Reset });
    bench.settle();
    let answers = bench.take(client);
    assert!(answers.starts_with("SIP/2.0 503") && answers.contains("Call-ID: l2"), "{answers}");
    assert!(!answers.contains("Call-ID: l1"));
}

#[test]
fn limits_refuse_by_name() {
    use crate::telemetry::counter::Refused;
    let mut snapshot = snapshot();
    snapshot.limits.requests_per_prefix = Rate { count: 10, per: Duration::from_secs(1) };
    snapshot.limits.connections_per_prefix = 2;
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    bench.client();
    let arrival = Arrival { slot: 9, listener: 0, peer: "198.51.100.7:5".parse().unwrap() };
    assert!(bench.workers[0].admit(bench.now, arrival).is_none());
    for call in 0..15 {
        bench.send(client, &request("OPTIONS", "sip:bob@example.com", &format!("m{call}"), ""));
    }
    assert_eq!(bench.take(client).matches("SIP/2.0 503").count(), 5);
    assert_eq!(bench.refused(Refused::RatePrefix), 5);
}

#[test]
fn headers_of_the_inside_are_stripped_from_outside_only() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    let text =
        request("OPTIONS", "sip:bob@example.com", "n1", "p-Asserted-IDENTITY : <sip:ceo@x>\r\n");
    bench.send(client, &text);
    let (_, arrived) = bench.at_backend();
    assert!(!arrived.to_lowercase().contains("ceo"), "{arrived}");
}

/// 5923-8.3-a
#[test]
fn a_drain_refuses_new_dialogs_and_closes_at_a_pace() {
    let mut bench = Bench::new(1);
    let clients: Vec<At> = (0..10).map(|_| bench.client()).collect();
    let deadline = bench.now + Duration::from_secs(60);
    bench.workers[0].handle(bench.now, Input::Drain { deadline });
    bench.settle();
    let last = clients[9];
    bench.send(last, &request("INVITE", "sip:bob@example.com", "o1", ""));
    assert!(bench.take(last).starts_with("SIP/2.0 503"));
    bench.send(last, &request("OPTIONS", "sip:edge.example.com", "o2", ""));
    assert!(bench.take(last).starts_with("SIP/2.0 503"));
    bench.pass(Duration::from_secs(15));
    let closed = bench.closed.len();
    assert!((4..=7).contains(&closed), "{closed}");
    bench.pass(Duration::from_secs(16));
    assert_eq!(bench.closed.len(), 10);
    assert!(bench.workers[0].drained());
}

#[test]
fn our_own_keepalive_goes_to_silent_clients() {
    let mut snapshot = snapshot();
    snapshot.limits.keepalive = Some(Duration::from_secs(30));
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    bench.send(client, &request("OPTIONS", "sip:edge.example.com", "p1", ""));
    bench.take(client);
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.take(client), "");
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.take(client), "\r\n\r\n");
    bench.send(client, "\r\n");
    bench.pass(Duration::from_secs(31));
    assert_eq!(bench.take(client), "\r\n\r\n");
}

/// RFC 6223 4.4, RFC 5626 5.4.
/// 5626-5.4-c, 6223-4.4-a, 6223-10-a
#[test]
fn a_neighbour_that_asks_for_keepalives_is_told_how_often() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    let text = request("REGISTER", "sip:example.com", "q1", "").replace(";rport", ";keep;rport");
    bench.send(client, &text);
    let (backend, arrived) = bench.at_backend();
    assert!(header(&arrived, "Via")[1].contains(";keep;"), "{arrived}");
    let answer = response(&arrived, "200 OK")
        .replace("Content-Length", "Require: outbound\r\nContent-Length");
    bench.send(backend, &answer);
    let answer = bench.take(client);
    assert!(header(&answer, "Via")[0].contains(";keep=90;"), "{answer}");
    assert_eq!(header(&answer, "Flow-Timer"), ["90"]);
}

/// Every place where a transport can be named (RFC 3261 18, 3263-4.1-a, 5630-5.3).
/// 3261-18.2.2-b, 5630-5.3-a, 3261-18-a
#[test]
fn udp_is_refused_where_it_decides_and_let_be_elsewhere() {
    use crate::telemetry::counter::TransportRefused;
    let places = [
        ("INVITE", "sip:bob@example.com;transport=udp", "", Some(TransportRefused::RequestUri)),
        ("INVITE", "sip:bob@example.com;transport=UDP", "", Some(TransportRefused::RequestUri)),
        (
            "INVITE",
            "sip:bob@example.com",
            "Route: <sip:x.invalid;transport=udp;lr>\r\n",
            Some(TransportRefused::Route),
        ),
        (
            "REGISTER",
            "sip:example.com",
            "Path: <sip:x.invalid;transport=udp;lr>\r\n",
            Some(TransportRefused::Path),
        ),
        ("INVITE", "sips:bob@example.com", "", Some(TransportRefused::Sips)),
        ("INVITE", "sip:bob@example.com", "Contact: <sip:a@b;transport=udp>\r\n", None),
        (
            "INVITE",
            "sip:bob@example.com",
            "Via: SIP/2.0/UDP lower.invalid;branch=z9hG4bKx\r\n",
            None,
        ),
        (
            "INVITE",
            "sip:bob@example.com",
            "Record-Route: <sip:x.invalid;transport=udp;lr>\r\n",
            None,
        ),
        ("INVITE", "sip:bob@example.com;transport=tls", "", None),
        ("INVITE", "sip:bob@example.com;transport=tcp", "", None),
    ];
    for (number, (method, uri, extra, refused)) in places.into_iter().enumerate() {
        let mut bench = Bench::new(1);
        let client = bench.client();
        bench.send(client, &request(method, uri, &format!("r{number}"), extra));
        match refused {
            Some(place) => {
                let answer = bench.take(client);
                assert!(answer.starts_with("SIP/2.0 480"), "{uri} {extra}: {answer}");
                assert_eq!(header(&answer, "Warning").len(), 1);
                assert_eq!(bench.workers[0].core.counters.transport_refused(place), 1);
            }
            None => drop(bench.at_backend()),
        }
    }
    // The topmost Via says UDP, the request came over TCP: it is answered there (18.2.2), and counted.
    let mut bench = Bench::new(1);
    let client = bench.client();
    let text = request("OPTIONS", "sip:edge.example.com", "r99", "").replace("2.0/TCP", "2.0/UDP");
    bench.send(client, &text);
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
    assert_eq!(bench.workers[0].core.counters.transport_refused(TransportRefused::Via), 1);
}

/// RFC 5630 5.3.
/// 5630-5.3-d
#[test]
fn a_sips_request_with_a_sip_contact_is_inconsistent() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("INVITE", "sips:bob@example.com", "s1", "Contact: <sip:a@b>\r\n"));
    assert!(bench.take(client).starts_with("SIP/2.0 400"));
}

/// A side: its transport, a peer there, and our two values towards it, in the outer zone and in the inner one.
type Side = (Transport, &'static str, [&'static str; 2]);

fn sides() -> [Side; 4] {
    [
        (
            Transport::Tcp,
            "192.0.2.50:1",
            [
                "<sip:T@edge.example.com:5060;transport=tcp;lr>",
                "<sip:T@core.example.com:5070;transport=tcp;lr>",
            ],
        ),
        (
            Transport::Tcp,
            "[2001:db8::50]:1",
            [
                "<sip:T@[2001:db8::1]:5060;transport=tcp;lr>",
                "<sip:T@[2001:db8::9]:5070;transport=tcp;lr>",
            ],
        ),
        (
            Transport::Tls,
            "192.0.2.50:1",
            ["<sips:T@edge.example.com:5061;lr>", "<sips:T@core.example.com:5071;lr>"],
        ),
        (
            Transport::Tls,
            "[2001:db8::50]:1",
            ["<sips:T@[2001:db8::1]:5061;lr>", "<sips:T@[2001:db8::9]:5071;lr>"],
        ),
    ]
}

/// RFC 5658: all 16 pairs of family and transport, in both directions, with advertised names.
/// 3261-16.6-c, 5630-5.3-e, 5658-5-a, 5658-6.2-a, 5658-6.2-b, 3261-16.6-d
#[test]
fn double_record_route_for_all_pairs_of_sides() {
    let mut snapshot = snapshot();
    snapshot.zones[1].advertised = ZoneAdvertised {
        tcp_v4: advertised("core.example.com", 5070, Transport::Tcp),
        tcp_v6: advertised("[2001:db8::9]", 5070, Transport::Tcp),
        tls_v4: advertised("core.example.com", 5071, Transport::Tls),
        tls_v6: advertised("[2001:db8::9]", 5071, Transport::Tls),
    };
    let settings = settings_of(snapshot, 1);
    let flow = FlowId { worker: 0, incarnation: 1, slot: 2, generation: 3 };
    let text =
        request("INVITE", "sip:bob@example.com", "t1", "Record-Route: <sip:below.invalid;lr>\r\n");
    let token = settings.token_keys.write_route(flow, PeerId(7), b"t1");
    let token = String::from_utf8(token.to_vec()).unwrap();
    for (zone_in, zone_out) in [(0u16, 1u16), (1, 0)] {
        for (transport_in, peer_in, faces_in) in &sides() {
            for (transport_out, peer_out, faces_out) in &sides() {
                let framed = crate::sip::frame(
                    text.as_bytes(),
                    &mut Default::default(),
                    settings.frame_limits(),
                );
                let Ok(crate::sip::Framed::Message(message)) = framed else { panic!("framed") };
                let source = Source {
                    flow,
                    zone: zone_in,
                    transport: *transport_in,
                    peer: peer_in.parse().unwrap(),
                    trusted: zone_in == 1,
                    backends: SmallVec::new(),
                };
                let routed = route::Routed {
                    target: route::Target::Local,
                    own_routes: 0,
                    rewrite: route::Rewrite::Keep,
                    dialog_backend: PeerId::NONE,
                    sips: false,
                };
                let out: SocketAddr = peer_out.parse().unwrap();
                let way = forward::Way {
                    zone: zone_out,
                    transport: *transport_out,
                    family: Family::of(out.ip()),
                    branch: &[b'x'; token::BRANCH_TEXT],
                    dialog_flow: flow,
                    dialog_backend: PeerId(7),
                };
                let parts = message.read_request().unwrap().parts;
                let mut patch = crate::sip::Patch::new(&message);
                forward::request(&settings, &parts, &source, &routed, &way, &mut patch);
                let sent: Vec<u8> = patch.pieces().flatten().copied().collect();
                let sent = String::from_utf8(sent).unwrap().replace(&token, "T");
                let expected = [
                    faces_out[usize::from(zone_out)],
                    faces_in[usize::from(zone_in)],
                    "<sip:below.invalid;lr>",
                ];
                assert_eq!(header(&sent, "Record-Route"), expected, "{sent}");
                let protocol = if *transport_out == Transport::Tls { "TLS" } else { "TCP" };
                assert!(header(&sent, "Via")[0].starts_with(&format!("SIP/2.0/{protocol} ")));
                // RFC 5118 4.5: received has no brackets.
                let received = source.peer.ip().to_string();
                assert!(
                    header(&sent, "Via")[1].contains(&format!(";received={received}")),
                    "{sent}"
                );
            }
        }
    }
}

/// Two TLS or TCP clients, a backend without Record-Route: the second token's flow decides, both ways.
/// 5626-5.3-a
#[test]
fn a_backend_that_does_not_record_route_leaves_two_tokens_and_the_second_decides() {
    let mut snapshot = snapshot();
    snapshot.pools[0].backends.truncate(1);
    let mut bench = Bench::with(2, snapshot);
    let alice = bench.accept(0, 0, "198.51.100.7:40000");
    let bob = bench.accept(1, 0, "198.51.100.8:40000");
    bench.send(bob, &request("REGISTER", "sip:example.com", "u1", ""));
    let (_, arrived) = bench.at_backend();
    let path = header(&arrived, "Path")[0].to_string();

    bench.send(alice, &request("INVITE", "sip:bob@example.com", "u2", ""));
    let (backend, arrived) = bench.at_backend();
    let relayed = arrived.replacen(
        "Via:",
        &format!("Via: SIP/2.0/TCP 10.0.0.1:5080;branch=z9hG4bKbackend\r\nRoute: {path}\r\nVia:"),
        1,
    );
    bench.send(backend, &relayed);
    let at_bob = bench.take(bob);
    let routes: Vec<String> =
        header(&at_bob, "Record-Route").iter().map(|it| it.to_string()).collect();
    assert_eq!(routes.len(), 4, "{at_bob}");
    bench.send(bob, &response(&at_bob, "200 OK"));
    let (_, ok) = bench.at_backend();
    let back = ok.replacen("Via: SIP/2.0/TCP 10.0.0.1:5080;branch=z9hG4bKbackend\r\n", "", 1);
    bench.send(backend, &back);
    assert!(bench.take(alice).starts_with("SIP/2.0 200"));

    let dialog = |method: &str, routes: &[String]| {
        request(method, "sip:peer@client", "u2", &format!("Route: {}\r\n", routes.join(", ")))
            .replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=b")
    };
    let reversed: Vec<String> = routes.iter().rev().cloned().collect();
    for method in ["INVITE", "BYE"] {
        bench.send(alice, &dialog(method, &reversed));
        let at_bob = bench.take(bob);
        assert!(at_bob.starts_with(method), "{at_bob}");
        bench.send(bob, &response(&at_bob, "200 OK"));
        assert!(bench.take(alice).starts_with("SIP/2.0 200"));
        bench.send(bob, &dialog(method, &routes));
        let at_alice = bench.take(alice);
        assert!(at_alice.starts_with(method), "{at_alice}");
        bench.send(alice, &response(&at_alice, "200 OK"));
        assert!(bench.take(bob).starts_with("SIP/2.0 200"));
    }
    // The same tokens do not work for another call.
    bench.send(alice, &dialog("BYE", &reversed).replace("Call-ID: u2", "Call-ID: u3"));
    assert!(bench.take(alice).starts_with("SIP/2.0 403"));
}

/// RFC 3261 16.4, 16.12.1.2: strict routers before and behind us.
/// 3261-16.4-a, 3261-16.4-b, 3261-16.6-e
#[test]
fn strict_routers_get_what_they_expect() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "v1", ""));
    let (backend, arrived) = bench.at_backend();
    let routes: Vec<String> =
        header(&arrived, "Record-Route").iter().map(|it| it.to_string()).collect();
    bench.send(backend, &response(&arrived, "200 OK"));
    bench.take(client);

    // Upstream is strict: our value is the Request-URI, the real one stands last in Route.
    let own = routes[1].trim_matches(['<', '>']);
    let strict =
        request("BYE", own, "v1", &format!("Route: {}, <sip:bob@10.0.0.1>\r\n", routes[0]));
    bench.send(client, &strict);
    let at = bench.take(backend);
    assert!(at.starts_with("BYE sip:bob@10.0.0.1 SIP/2.0\r\n"), "{at}");
    assert_eq!(header(&at, "Route").len(), 0);

    // The next element is strict: it becomes the Request-URI, the old one goes to the end of Route.
    let loose = request(
        "BYE",
        "sip:bob@10.0.0.1",
        "v1",
        &format!(
            "Route: {}, {}, <sip:strict.invalid>, <sip:more.invalid;lr>\r\n",
            routes[1], routes[0]
        ),
    );
    bench.send(client, &loose);
    let at = bench.take(backend);
    assert!(at.starts_with("BYE sip:strict.invalid SIP/2.0\r\n"), "{at}");
    assert_eq!(header(&at, "Route"), ["<sip:more.invalid;lr>", "<sip:bob@10.0.0.1>"]);

    // maddr names us (16.4): it goes, with the port and transport beside it.
    bench.send(
        client,
        &request("OPTIONS", "sip:bob@far.invalid:5060;maddr=192.0.2.1;transport=tcp;x=y", "v2", ""),
    );
    let (_, at) = bench.at_backend();
    assert!(at.starts_with("OPTIONS sip:bob@far.invalid;x=y SIP/2.0\r\n"), "{at}");
}

/// 5626-5.3.1-a
#[test]
fn a_worker_that_starts_anew_answers_for_nothing_of_its_earlier_life() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("REGISTER", "sip:example.com", "w1", ""));
    let (_, arrived) = bench.at_backend();
    let path = header(&arrived, "Path")[0].to_string();
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "w2", ""));
    let (_, asked) = bench.at_backend();

    let settings = bench.workers[0].settings.clone();
    bench.workers[0] = Proxy::new(0, 0x9999, 64, 43, bench.now, settings);
    bench.links.clear();
    bench.settle();
    let newcomer = bench.accept(0, 0, "198.51.100.7:40000");
    for backend in ["10.0.0.1:5080", "10.0.0.2:5080"] {
        let link = bench.link(0, backend);
        bench.send(link, &response(&asked, "200 OK"));
        bench.send(
            link,
            &request("INVITE", "sip:alice@client", "w3", &format!("Route: {path}\r\n")),
        );
        assert!(bench.take(link).starts_with("SIP/2.0 430"));
    }
    assert_eq!(bench.take(newcomer), "");
}
