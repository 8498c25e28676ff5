//! One test for each rule of docs/rfc.md that the other tests of the proxy do not show; its id stands above it.

use super::*;
use crate::telemetry::counter::Refused;

fn one_backend() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.pools[0].backends.truncate(1);
    snapshot
}

/// A client and what its request became at the backend.
fn forwarded(text: &str) -> (Bench, At, At, String) {
    let mut bench = Bench::with(1, one_backend());
    let client = bench.client();
    bench.send(client, text);
    let (backend, arrived) = bench.at_backend();
    (bench, client, backend, arrived)
}

/// The answer to a request that goes nowhere.
fn answered(text: &str) -> String {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, text);
    bench.take(client)
}

/// 3261-7.3-a
#[test]
fn names_are_read_in_any_case_and_in_compact_form() {
    let text = request("OPTIONS", "sip:bob@example.com", "a1", "")
        .replace("Via:", "v:")
        .replace("From:", "F:")
        .replace("To:", "t :")
        .replace("Call-ID:", "I:")
        .replace("CSeq:", "CSEQ:")
        .replace("Max-Forwards:", "max-FORWARDS:")
        .replace("Content-Length:", "L:");
    let (mut bench, client, backend, arrived) = forwarded(&text);
    assert!(arrived.contains("\r\nF: <sip:alice@example.com>;tag=a\r\n"), "{arrived}");
    assert!(arrived.contains("\r\nmax-FORWARDS: 69\r\n"), "{arrived}");
    assert!(arrived.contains("\r\nL: 0\r\n"), "{arrived}");
    bench.send(
        backend,
        &arrived.replacen("OPTIONS sip:bob@example.com SIP/2.0", "SIP/2.0 200 OK", 1),
    );
    assert!(bench.take(client).starts_with("SIP/2.0 200 OK\r\nv: SIP/2.0/TCP client.invalid"));
}

/// 3261-7.3-b, 8760-2.5-a, 3261-26-b
#[test]
fn challenges_and_credentials_pass_unsplit_and_in_order() {
    let credentials = "Digest username=\"a\", realm=\"x, y\", nonce=\"n\"";
    let extra = format!("Authorization: {credentials}\r\nProxy-Authorization: {credentials}\r\n");
    let (mut bench, client, backend, arrived) =
        forwarded(&request("INVITE", "sip:bob@example.com", "b1", &extra));
    assert_eq!(header(&arrived, "Authorization"), [credentials]);
    assert_eq!(header(&arrived, "Proxy-Authorization"), [credentials]);
    let rows = "WWW-Authenticate: Digest realm=\"x, y\", algorithm=SHA-256\r\n\
                Proxy-Authenticate: Digest realm=\"p\", nonce=\"1\"\r\n\
                WWW-Authenticate: Digest realm=\"x, y\", algorithm=MD5\r\n";
    let answer = response(&arrived, "401 Unauthorized")
        .replace("Content-Length", &format!("{rows}Content-Length"));
    bench.send(backend, &answer);
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 401") && answer.contains(rows), "{answer}");
    // Two rows of Route are one list: both own values go.
    let (mut bench, client, backend, arrived) =
        forwarded(&request("INVITE", "sip:bob@example.com", "b2", ""));
    let own: Vec<&str> = header(&arrived, "Record-Route").into_iter().rev().collect();
    for routes in [own.join("\r\nRoute: "), own.join(", ")] {
        let rest = format!("Route: {routes}\r\nRoute: <sip:a.invalid;lr>, <sip:b.invalid;lr>\r\n");
        bench.send(client, &request("INFO", "sip:bob@10.0.0.1", "b2", &rest));
        let at = bench.take(backend);
        assert_eq!(header(&at, "Route"), ["<sip:a.invalid;lr>, <sip:b.invalid;lr>"], "{at}");
    }
    let twice =
        request("OPTIONS", "sip:bob@example.com", "b3", "").replace(";rport", ";rport;rport");
    assert!(answered(&twice).starts_with("SIP/2.0 400"));
}

/// 3261-7.5-a
#[test]
fn a_blank_line_before_a_message_is_skipped() {
    let text = request("OPTIONS", "sip:edge.example.com", "c1", "");
    assert!(answered(&format!("\r\n{text}")).starts_with("SIP/2.0 200"));
}

/// 3261-18.3-a, 3261-16.6-g
#[test]
fn one_plain_content_length_ends_a_message_and_nothing_else_does() {
    let good = request("OPTIONS", "sip:bob@example.com", "d1", "");
    let bad = [
        "Content-Length: -1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length: ten\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551617\r\n",
        "Content-Length: 0\r\nContent-Length: 4\r\n",
        "l: 0\r\nContent-Length: 0\r\n",
        "",
    ];
    for line in bad {
        let mut bench = Bench::new(1);
        let client = bench.client();
        bench.send(client, &good.replace("Content-Length: 0\r\n", line));
        let answer = bench.take(client);
        assert!(answer.starts_with("SIP/2.0 4"), "{line}: {answer}");
        bench.send(client, &good);
        bench.pass(Duration::from_secs(2));
        assert_eq!(
            (bench.take(client), &bench.closed[..]),
            (String::new(), &[client][..]),
            "{line}"
        );
    }
    let odd = good.replace("Content-Length: 0\r\n", "l :  \r\n 000\r\n");
    let (.., arrived) = forwarded(&odd);
    assert!(arrived.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{arrived}");
}

/// 3261-18.3-b
#[test]
fn every_bound_on_a_message_has_its_answer_and_its_end() {
    let good = request("OPTIONS", "sip:edge.example.com", "e1", "");
    let headers = "X: y\r\n".repeat(200);
    let long = format!("X: {}\r\n", "y".repeat(5000));
    let head = format!("X: {}\r\n", "y".repeat(3000)).repeat(6);
    let cases = [
        (good.replace("From:", &format!("{headers}From:")), Refused::Unframeable),
        (good.replace("Max-F", &format!("{long}Max-F")), Refused::Unframeable),
        (good.replace("Max-F", &format!("{head}Max-F")), Refused::Unframeable),
        (good.replace("Length: 0", "Length: 999999"), Refused::TooLarge),
    ];
    for (text, reason) in cases {
        let mut bench = Bench::new(1);
        let client = bench.client();
        bench.send(client, &text);
        assert_eq!(bench.refused(reason), 1, "{}", &text[..80]);
        bench.take(client);
        bench.send(client, &good);
        bench.pass(Duration::from_secs(2));
        assert_eq!((bench.take(client), &bench.closed[..]), (String::new(), &[client][..]));
    }
    let mut bench = Bench::new(1);
    let client = bench.client();
    let body = format!("{}{}", good.replace("Length: 0", "Length: 60000"), "z".repeat(50_000));
    bench.send(client, &body);
    let deadline = bench.workers[0].settings.snapshot.limits.message_deadline;
    bench.pass(deadline + Duration::from_millis(100));
    assert_eq!(bench.closed, [client]);
}

/// 3261-16.3-a, 3261-16.6-a, 5630-5.3-b
#[test]
fn what_the_proxy_does_not_read_passes_as_it_came() {
    let extra = "X-Odd :  \"a, b\" ;x\r\nContact: <sip:broken\r\nDate: yesterday\r\n\
                 Subject: folded\r\n  twice\r\nX-Odd: second\r\nSupported:a ,b,\r\n";
    let body = "v=0\r\n\r\nINVITE sip:x SIP/2.0\r\n";
    let text = request("FANCY.method", "sip:bob@example.com;x=y", "f1", extra)
        .replace("Content-Length: 0", &format!("Content-Length: {}", body.len()))
        + body;
    let (.., arrived) = forwarded(&text);
    let ours = |line: &&str| {
        !line.starts_with("Via: SIP/2.0/TCP 10.0.0.9") && !line.starts_with("Max-Breadth: ")
    };
    let rest: Vec<&str> = arrived.split("\r\n").filter(ours).collect();
    let expected = text
        .replace(";rport;", ";rport=40000;")
        .replace("z9hG4bKf1", "z9hG4bKf1;received=198.51.100.7")
        .replace("Forwards: 70", "Forwards: 69");
    assert_eq!(rest.join("\r\n"), expected);
}

/// 3261-16.6-b, 3261-16.3-c
#[test]
fn hops_are_counted_down_or_begun() {
    let text = request("OPTIONS", "sip:bob@example.com", "g1", "");
    for (line, left) in [("", "70"), ("Max-Forwards: 1\r\n", "0"), ("Max-Forwards: 255\r\n", "254")]
    {
        let (.., arrived) = forwarded(&text.replace("Max-Forwards: 70\r\n", line));
        assert_eq!(header(&arrived, "Max-Forwards"), [left]);
    }
}

/// 3261-16.3-d
#[test]
fn a_required_extension_is_named_in_the_refusal() {
    let extra = "Proxy-Require: magic,more\r\nProxy-Require: still\r\n";
    let answer = answered(&request("INVITE", "sip:bob@example.com", "h1", extra));
    assert!(answer.starts_with("SIP/2.0 420"), "{answer}");
    assert_eq!(header(&answer, "Unsupported"), ["magic, more, still"]);
}

/// 3261-16.3-e, 3261-8.1.1.7-a
#[test]
fn a_request_that_came_by_two_ways_is_forwarded_twice() {
    let (mut bench, client, backend, first) =
        forwarded(&request("INVITE", "sip:bob@example.com", "i1", ""));
    let other =
        request("INVITE", "sip:bob@example.com", "i1", "").replace("z9hG4bKi1", "z9hG4bKi2");
    bench.send(client, &other);
    let second = bench.take(backend);
    assert!(second.starts_with("INVITE "));
    let branch = |text: &str| {
        let via = header(text, "Via")[0].to_string();
        via.split_once(";branch=").map(|(_, branch)| branch.to_string()).unwrap()
    };
    assert!(branch(&first).starts_with("z9hG4bK") && branch(&second).starts_with("z9hG4bK"));
    assert_ne!(branch(&first), branch(&second));
}

/// 3261-16.5-a
#[test]
fn a_request_has_one_target_or_404() {
    let mut snapshot = snapshot();
    snapshot.routes[0].hosts = vec!["example.com".into()];
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@elsewhere.example", "j1", ""));
    assert!(bench.take(client).starts_with("SIP/2.0 404"));
    bench.send(client, &request("INVITE", "sip:bob@EXAMPLE.com", "j2", ""));
    let (_, arrived) = bench.at_backend();
    assert!(arrived.starts_with("INVITE sip:bob@EXAMPLE.com SIP/2.0\r\n"));
    assert!(bench.sent.is_empty(), "to nobody else, and no word to the client");
}

/// 3261-16.11-a, 3263-4.4-a
#[test]
fn a_repeated_request_is_the_same_and_goes_the_same_way() {
    for call in ["k1", "k2", "k3", "k4"] {
        let mut bench = Bench::new(1);
        let client = bench.client();
        let text = request("INVITE", "sip:bob@example.com", call, "");
        bench.send(client, &text);
        let first = bench.at_backend();
        bench.send(client, &text);
        assert_eq!(bench.at_backend(), first);
        assert_eq!(bench.take(client), "", "a stateless proxy says no 100");
        let foreign = response(&first.1, "200 OK").replacen("10.0.0.9:5070", "10.0.0.8:5070", 1);
        bench.send(first.0, &foreign);
        assert_eq!(bench.take(client), "");
        assert_eq!(bench.refused(Refused::ResponseNotOurs), 1);
    }
}

/// 3263-4-a
#[test]
fn cancel_and_ack_go_to_the_backend_of_their_invite() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "l1", ""));
    let (preferred, _) = bench.at_backend();
    let place = *bench.links.iter().find(|(_, conn)| **conn == preferred.1).unwrap().0;
    bench.dead.push(place.1);
    bench.hang_up(preferred);
    bench.send(client, &request("INVITE", "sip:bob@example.com", "l1", ""));
    let (holder, _) = bench.at_backend();
    bench.dead.clear();
    bench.pass(Duration::from_secs(11));
    bench.send(client, &request("MESSAGE", "sip:bob@example.com", "l1", ""));
    assert_ne!(bench.at_backend().0, holder, "the choice is the old one again");
    for method in ["CANCEL", "ACK"] {
        bench.send(client, &request(method, "sip:bob@example.com", "l1", ""));
        assert_eq!(bench.at_backend().0, holder, "{method}");
    }
}

/// 3261-16.7-a, 6228-6-a
#[test]
fn trying_ends_here_and_every_other_provisional_passes() {
    let (mut bench, client, backend, arrived) =
        forwarded(&request("INVITE", "sip:bob@example.com", "m1", ""));
    bench.send(backend, &response(&arrived, "100 Trying"));
    assert_eq!(bench.take(client), "");
    for status in ["180 Ringing", "183 Session Progress", "199 Early Dialog Terminated", "200 OK"] {
        bench.send(backend, &response(&arrived, status));
        assert!(bench.take(client).starts_with(&format!("SIP/2.0 {status}\r\n")));
    }
    // Every 2xx passes, also one from another branch behind the backend.
    bench.send(backend, &response(&arrived, "200 OK").replace(";tag=b", ";tag=c"));
    assert!(bench.take(client).contains(";tag=c\r\n"));
}

/// 3261-16.7-f, 3261-16.7-g, 3327-5.2-c, 5630-5.3-c, 5630-A-a
#[test]
fn a_response_loses_our_via_and_nothing_else() {
    let (mut bench, client, backend, arrived) =
        forwarded(&request("INVITE", "sip:bob@example.com", "n1", ""));
    let extra = "Path: <sip:edge.example.com;lr>\r\nContact: <sips:bob@secure.example>\r\n\
                 X :  y\r\nContent-Length: 0";
    for status in ["302 Moved", "200 OK", "503 Busy", "600 No"] {
        let text = response(&arrived, status).replace("Content-Length: 0", extra);
        bench.send(backend, &text);
        let own = format!("Via: {}\r\n", header(&text, "Via")[0]);
        assert_eq!(bench.take(client), text.replacen(&own, "", 1));
    }
    let below = format!("Via: {}\r\n", header(&arrived, "Via")[1]);
    bench.send(backend, &response(&arrived, "200 OK").replacen(&below, "", 1));
    assert_eq!(bench.take(client), "");
    assert_eq!(bench.refused(Refused::ResponseEndsHere), 1);
}

/// 3261-18.1.1-a
#[test]
fn a_backend_may_answer_on_a_connection_that_it_opens_to_our_sent_by() {
    let (mut bench, client, _, arrived) =
        forwarded(&request("INVITE", "sip:bob@example.com", "o1", ""));
    assert!(header(&arrived, "Via")[0].contains(" 10.0.0.9:5070;"));
    let opened = bench.accept(0, 1, "10.0.0.1:39999");
    bench.send(opened, &response(&arrived, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
}

/// 3261-16.9-a, 3261-18.2.2-a
#[test]
fn an_answer_for_a_client_that_has_gone_is_dropped_and_nothing_is_dialled() {
    let (mut bench, client, backend, arrived) =
        forwarded(&request("INVITE", "sip:bob@example.com", "p1", ""));
    let links = bench.links.clone();
    bench.hang_up(client);
    let other = bench.accept(0, 0, "198.51.100.7:40000");
    bench.send(backend, &response(&arrived, "200 OK"));
    assert_eq!(bench.refused(Refused::ResponseFlowGone), 1);
    assert_eq!((bench.take(other), bench.take(backend)), (String::new(), String::new()));
    assert_eq!(bench.links, links);
}

/// 3261-18.2.1-a, 3581-4-a, 5923-8.2-a
#[test]
fn received_and_rport_say_what_is_owed() {
    let stamped = |via: &str| {
        let text = request("OPTIONS", "sip:bob@example.com", "q1", "");
        let (.., arrived) =
            forwarded(&text.replace("client.invalid:5060;rport;branch=z9hG4bKq1", via));
        header(&arrived, "Via")[1].strip_prefix("SIP/2.0/TCP ").unwrap().to_string()
    };
    let same = ["198.51.100.7;branch=z9hG4bKq1", "198.51.100.7:9;branch=z9hG4bKq1;alias"];
    for via in same {
        assert_eq!(stamped(via), via);
    }
    let owed = [
        ("host.invalid;branch=z9hG4bKq1", "host.invalid;branch=z9hG4bKq1;received=198.51.100.7"),
        ("192.0.2.77;branch=z9hG4bKq1", "192.0.2.77;branch=z9hG4bKq1;received=198.51.100.7"),
        (
            "198.51.100.7;rport;branch=z9hG4bKq1",
            "198.51.100.7;rport=40000;branch=z9hG4bKq1;received=198.51.100.7",
        ),
        (
            "host.invalid;received=203.0.113.9;branch=z9hG4bKq1",
            "host.invalid;received=198.51.100.7;branch=z9hG4bKq1",
        ),
    ];
    for (via, expected) in owed {
        assert_eq!(stamped(via), expected);
    }
}

/// 3261-18-b, 5626-5.4-c
#[test]
fn a_quiet_connection_outlives_its_transactions_and_its_flow_timer() {
    let (mut bench, client, backend, arrived) =
        forwarded(&request("INVITE", "sip:bob@example.com", "r1", ""));
    bench.pass(Duration::from_secs(65));
    bench.send(backend, &response(&arrived, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));

    let (mut bench, client, backend, arrived) =
        forwarded(&request("REGISTER", "sip:example.com", "r2", ""));
    bench.send(backend, &response(&arrived, "200 OK"));
    bench.take(client);
    // Flow-Timer says 90 s.
    for _ in 0..10 {
        bench.pass(Duration::from_secs(60));
    }
    assert_eq!(bench.closed, []);
}

/// 3327-5.2-a, 5626-5.1-a
#[test]
fn our_path_stands_on_top_and_promises_outbound_only_as_the_first_hop() {
    let extra = "Path: <sip:other.invalid;lr>\r\nContact: <sip:a@b>;reg-id=1\r\n";
    let text = request("REGISTER", "sip:example.com", "s1", extra);
    let (.., arrived) = forwarded(&text);
    let paths = header(&arrived, "Path");
    assert!(paths[0].starts_with("<sip:f") && paths[0].ends_with(";lr;ob>"), "{arrived}");
    assert_eq!(paths[1..], ["<sip:other.invalid;lr>"]);
    let second =
        text.replacen("From:", "Via: SIP/2.0/TCP first.invalid;branch=z9hG4bKx\r\nFrom:", 1);
    let (.., arrived) = forwarded(&second);
    assert!(header(&arrived, "Path")[0].ends_with(";lr>"), "{arrived}");
    let (.., arrived) = forwarded(&text.replace(";reg-id=1", ""));
    assert!(header(&arrived, "Path")[0].ends_with("transport=tcp;lr>"), "{arrived}");
}

/// 3327-5.2-b
#[test]
fn the_zone_says_who_gets_a_path() {
    let cases = [
        (PathPolicy::Always, "", 1),
        (PathPolicy::Supported, "", 0),
        (PathPolicy::Supported, "Supported: gruu, path\r\n", 1),
        (PathPolicy::Off, "Supported: path\r\n", 0),
    ];
    for (policy, extra, count) in cases {
        let mut snapshot = snapshot();
        snapshot.zones[0].path = policy;
        let mut bench = Bench::with(1, snapshot);
        let client = bench.client();
        bench.send(client, &request("REGISTER", "sip:example.com", "t1", extra));
        let (_, arrived) = bench.at_backend();
        assert_eq!(header(&arrived, "Path").len(), count, "{policy:?} {extra}");
        assert_eq!(header(&arrived, "Require").len(), 0);
    }
}

/// 5626-5.3-a
#[test]
fn a_request_with_its_own_flows_path_goes_out() {
    let (mut bench, client, backend, arrived) =
        forwarded(&request("REGISTER", "sip:example.com", "u1", ""));
    let route = format!("Route: {}\r\n", header(&arrived, "Path")[0]);
    bench.send(client, &request("MESSAGE", "sip:bob@example.com", "u2", &route));
    let out = bench.take(backend);
    assert!(out.starts_with("MESSAGE ") && header(&out, "Route").is_empty(), "{out}");
    bench.send(backend, &request("MESSAGE", "sip:alice@client", "u3", &route));
    assert!(bench.take(client).starts_with("MESSAGE "), "from elsewhere the same word leads in");
}

/// 6223-10-a
#[test]
fn values_of_keep_below_the_neighbours_are_taken_away() {
    let lower = "Via: SIP/2.0/TCP lower.invalid;keep=30;branch=z9hG4bKx\r\n";
    let text = request("REGISTER", "sip:example.com", "v1", lower).replace(";rport", ";keep;rport");
    let (mut bench, client, backend, arrived) = forwarded(&text);
    let vias = header(&arrived, "Via");
    assert!(vias[1].contains(";keep;") && vias[2].contains(";keep=30;"), "{arrived}");
    bench.send(backend, &response(&arrived, "200 OK"));
    let answer = bench.take(client);
    let vias = header(&answer, "Via");
    assert!(vias[0].contains(";keep=90;") && vias[1].contains(";keep;"), "{answer}");
}

/// 5393-5.3-a, 5393-5.3-b
#[test]
fn max_breadth_is_added_capped_single_and_otherwise_kept() {
    let cases = [
        ("", "60"),
        ("Max-Breadth: 10\r\n", "10"),
        ("Max-Breadth: 60\r\n", "60"),
        ("Max-Breadth: 4000\r\n", "60"),
        ("Max-Breadth: 7\r\nMax-Breadth: 9\r\n", "7"),
    ];
    for (extra, expected) in cases {
        let (.., arrived) = forwarded(&request("INVITE", "sip:bob@example.com", "w1", extra));
        assert_eq!(header(&arrived, "Max-Breadth"), [expected], "{extra}");
    }
}

/// 5393-4.2-a
#[test]
fn a_loop_is_told_by_uri_route_and_zone_and_never_by_method() {
    let (mut bench, client, backend, arrived) =
        forwarded(&request("OPTIONS", "sip:bob@example.com", "x1", ""));
    bench.send(client, &arrived.replace("OPTIONS", "INFO"));
    assert!(bench.take(client).starts_with("SIP/2.0 482"));
    bench.send(client, &arrived.replacen("From:", "Route: <sip:a.invalid;lr>\r\nFrom:", 1));
    assert!(bench.take(backend).starts_with("OPTIONS "));

    // From the inside the routes are others: to come back is no loop, to come back twice is one.
    let mut snapshot = snapshot();
    snapshot.routes.push(Route { from_zone: 1, ..snapshot.routes[0].clone() });
    snapshot.pools[0].backends.truncate(1);
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "x2", ""));
    let (backend, first) = bench.at_backend();
    bench.send(backend, &first);
    let second = bench.take(backend);
    assert!(second.starts_with("OPTIONS "), "{second}");
    bench.send(backend, &second);
    assert!(bench.take(backend).starts_with("SIP/2.0 482"));
}

/// 5630-5.3-a
#[test]
fn sips_over_tcp_is_refused_with_the_warning_that_rfc_5630_has_for_it() {
    let answer = answered(&request("INVITE", "sips:bob@example.com", "y1", ""));
    assert!(answer.starts_with("SIP/2.0 480"), "{answer}");
    assert!(header(&answer, "Warning")[0].starts_with("380 edge-1 \""), "{answer}");
}

/// 5630-5.3-e
#[test]
fn transport_tls_is_written_only_for_a_zone_that_asks_for_it() {
    for (tls_uri, tls, before) in
        [(TlsUri::Sips, false, "<sips:"), (TlsUri::Transport, true, "<sip:")]
    {
        let mut snapshot = snapshot();
        snapshot.zones[0].tls_uri = tls_uri;
        let settings = settings_of(snapshot, 1);
        let face = settings.face(0, Transport::Tls, Family::V4);
        let after = String::from_utf8(face.uri_after.to_vec()).unwrap();
        assert_eq!((&*face.uri_before, after.contains("transport=tls")), (before.as_bytes(), tls));
    }
}

/// 5923-8.3-a
#[test]
fn a_link_whose_peer_has_said_goodbye_gets_no_new_request() {
    let mut bench = Bench::with(1, one_backend());
    let client = bench.client();
    let (worker, old) = bench.link(0, "10.0.0.1:5080");
    let text = request("OPTIONS", "sip:bob@example.com", "z1", "");
    let mut bytes = text.clone().into_bytes();
    bench.workers[worker].handle(bench.now, Input::Received { conn: client.1, bytes: &mut bytes });
    let Some(Output::Transmit { chunk, .. }) = bench.workers[worker].poll() else { panic!("sent") };
    // The backend says goodbye while a send to it is under way.
    bench.workers[worker].handle(bench.now, Input::Finished { conn: old });
    bench.send(client, &text.replace("z1", "z2"));
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
    bench.workers[worker].handle(bench.now, Input::Sent { conn: old, chunk });
    bench.settle();
    assert_eq!(
        (bench.take((worker, old)), &bench.closed[..]),
        (String::new(), &[(worker, old)][..])
    );
    bench.pass(Duration::from_secs(1));
    let new = bench.link(0, "10.0.0.1:5080");
    assert_ne!(new, (worker, old));
    bench.send(client, &text.replace("z1", "z3"));
    assert!(bench.take(new).starts_with("OPTIONS "));
}

/// What docs/rfc.md says of bytes and numbers that others might read otherwise.
#[test]
fn what_others_might_read_otherwise_is_refused() {
    let good = request("OPTIONS", "sip:edge.example.com", "aa1", "");
    let bad = [
        good.replace("CSeq: 1 ", "CSeq: 2147483648 "),
        good.replace("CSeq: 1 ", "CSeq: 4294967296 "),
        good.replace("Max-Forwards: 70\r\n", "Max-Forwards: 70\n"),
        good.replace("Max-Forwards: 70\r\n", "Max-Forwards: 70\r"),
        good.replace("Max-Forwards: 70", "Max-Forwards: 70\r\nX: a\0b"),
    ];
    for text in bad {
        assert!(answered(&text).starts_with("SIP/2.0 400"), "{text}");
    }
    assert!(answered(&good.replace("CSeq: 1 ", "CSeq: 2147483647 ")).starts_with("SIP/2.0 200"));
}

/// What docs/rfc.md says of a CANCEL on another connection.
#[test]
fn a_cancel_on_another_connection_finds_the_backend_under_a_branch_of_its_own() {
    let (mut bench, _, backend, invite) =
        forwarded(&request("INVITE", "sip:bob@example.com", "bb1", ""));
    let other = bench.accept(0, 0, "198.51.100.7:40001");
    bench.send(other, &request("CANCEL", "sip:bob@example.com", "bb1", ""));
    let cancel = bench.take(backend);
    assert!(cancel.starts_with("CANCEL "));
    assert_ne!(header(&cancel, "Via")[0], header(&invite, "Via")[0]);
}

/// 3261-16.3-b
#[test]
fn of_several_faults_the_first_of_16_3_is_told() {
    let all = "Proxy-Require: foo\r\n";
    let text = request("INVITE", "foo:bar", "of1", all).replace("Forwards: 70", "Forwards: 0");
    assert!(answered(&text).starts_with("SIP/2.0 416 "));
    let text = request("INVITE", "sip:b@c", "of2", all).replace("Forwards: 70", "Forwards: 0");
    assert!(answered(&text).starts_with("SIP/2.0 483 "));
    // Round once: 482 comes before 420.
    let (mut bench, client, _, arrived) = forwarded(&request("INVITE", "sip:b@c", "of3", ""));
    bench.send(client, &arrived.replacen("From:", "Proxy-Require: foo\r\nFrom:", 1));
    assert!(bench.take(client).starts_with("SIP/2.0 482 "));
    assert!(answered(&request("INVITE", "sip:b@c", "of4", all)).starts_with("SIP/2.0 420 "));
}

/// 3261-18.3-b
#[test]
fn a_body_that_does_not_come_in_time_is_answered_before_the_end() {
    let mut bench = Bench::new(1);
    let (client, slow) = (bench.client(), bench.client());
    let text = request("INVITE", "sip:bob@example.com", "late", "")
        .replace("Content-Length: 0", "Content-Length: 5000")
        + &"v".repeat(4999);
    bench.send(client, &text);
    bench.send(slow, &text[..text.len() - 4700]);
    bench.pass(Duration::from_millis(2100));
    assert!(bench.take(slow).starts_with("SIP/2.0 400 "), "slower than the lowest rate");
    assert_eq!(bench.closed, [slow]);
    bench.pass(Duration::from_millis(8000));
    assert_eq!(bench.take(client).lines().next(), Some("SIP/2.0 400 Bad Request"));
    assert_eq!(bench.closed, [slow, client]);
    assert_eq!(bench.refused(Refused::MessageLate), 2);
    // A response that does not come in time is nobody's request.
    let late = bench.client();
    bench.send(late, "SIP/2.0 200 OK\r\nContent-Length: 6000\r\n\r\n");
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.take(late), "");
    assert_eq!(bench.closed, [slow, client, late]);
}

#[test]
fn a_response_for_everybody_reaches_nobody() {
    for (via, passes) in [
        ("SIP/2.0/UDP 255.255.255.255;branch=z9hG4bKx", false),
        ("SIP / 2.0 / UDP 255.255.255.255 : 5060 ;branch=z9hG4bKx", false),
        ("SIP/2.0/UDP 192.0.2.9, SIP/2.0/UDP 255.255.255.255", false),
        ("SIP/2.0/UDP 255.255.255.254;x=255.255.255.255", true),
        ("SIP/2.0/UDP 255.255.255.255.example.com", true),
    ] {
        let (mut bench, client, backend, arrived) =
            forwarded(&request("OPTIONS", "sip:b@c", "bc", ""));
        let answer =
            response(&arrived, "200 OK").replacen("From:", &format!("Via: {via}\r\nFrom:"), 1);
        bench.send(backend, &answer);
        assert_eq!(bench.take(client).starts_with("SIP/2.0 200 "), passes, "{via}");
        assert_eq!(bench.refused(Refused::ResponseBroadcast), u64::from(!passes), "{via}");
    }
}

/// 5626-5.4-c, 6223-4.4-a
#[test]
fn keepalives_are_asked_for_before_the_idle_timeout() {
    for (idle, registered, seconds) in [(40, 4200, "30"), (4200, 4200, "90"), (1, 1, "1")] {
        let mut snapshot = one_backend();
        snapshot.limits.idle_timeout = Duration::from_secs(idle);
        snapshot.limits.registered_idle_timeout = Duration::from_secs(registered);
        let mut bench = Bench::with(1, snapshot);
        let client = bench.client();
        let text =
            request("REGISTER", "sip:example.com", "ka", "").replace(";rport", ";keep;rport");
        bench.send(client, &text);
        let (backend, arrived) = bench.at_backend();
        let answer =
            response(&arrived, "200 OK").replace("Content-L", "Require: outbound\r\nContent-L");
        bench.send(backend, &answer);
        let answer = bench.take(client);
        assert_eq!(header(&answer, "Flow-Timer"), [seconds]);
        assert!(header(&answer, "Via")[0].contains(&format!(";keep={seconds};")), "{answer}");
    }
}
