//! Every edit that a proxy makes, shown byte for byte: a table of messages before and after, and a property against a
//! splice byte by byte. Rule ids are those of `docs/rfc.md`.

use std::net::IpAddr;

use proptest::prelude::*;

use ringfront::sip::frame::FrameLimits;
use ringfront::sip::{FrameState, Framed, Message, Name, Patch, Range32, Via, frame, reply};

fn edited(text: &str, edit: impl FnOnce(&mut Patch<'_>)) -> String {
    with(text.as_bytes(), |message| {
        let mut patch = Patch::new(message);
        edit(&mut patch);
        let pieces: Vec<&[u8]> = patch.pieces().collect();
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        assert_eq!(patch.len(), pieces.iter().map(|piece| piece.len()).sum::<usize>());
        let mut written = Vec::new();
        patch.write_into(&mut |piece: &[u8]| written.extend_from_slice(piece));
        assert_eq!(written, pieces.concat());
        String::from_utf8(written).expect("text")
    })
}

fn with<T>(text: &[u8], ask: impl FnOnce(&Message<'_>) -> T) -> T {
    match frame(text, &mut FrameState::default(), &FrameLimits::default()) {
        Ok(Framed::Message(message)) => ask(&message),
        other => panic!("{other:?} of {}", String::from_utf8_lossy(text)),
    }
}

/// A request line, header lines, a body of three bytes.
fn request(headers: &str) -> String {
    format!("INVITE sip:bob@example.com SIP/2.0\r\n{headers}l: 3\r\n\r\n\n:\r")
}

/// One edit: the header lines before and after.
struct Case {
    before: &'static str,
    after: &'static str,
}

const fn case(before: &'static str, after: &'static str) -> Case {
    Case { before, after }
}

fn check(cases: &[Case], edit: impl Fn(&mut Patch<'_>)) {
    for Case { before, after } in cases {
        let seen = edited(&request(before), &edit);
        assert_eq!(seen, request(after), "from {before:?}");
    }
}

/// 3261-16.6-a: what is not edited leaves as it came.
#[test]
fn nothing_edited_is_nothing_changed() {
    let odd = "Subject :\t \r\n  folded\r\n\t twice \r\nX-a:\r\nvIa:SIP/2.0/TCP a\r\nTo:b,c;;\r\n";
    check(&[case(odd, odd)], |patch| assert!(patch.is_empty()));
}

/// 3261-8.1.1.7-a, 16.6 item 8: a new Via line stands above all others, which stay as they are.
#[test]
fn a_via_is_pushed() {
    let cases = [
        case(
            "Via: SIP/2.0/TCP a;branch=z9hG4bK1\r\n",
            "Via: SIP/2.0/TLS us\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\n",
        ),
        case(
            "To: <sip:b>\r\nv:SIP / 2.0/TCP a ,\r\n SIP/2.0/UDP b\r\nVIA : x\r\n",
            "To: <sip:b>\r\nVia: SIP/2.0/TLS us\r\nv:SIP / 2.0/TCP a ,\r\n SIP/2.0/UDP b\r\nVIA : x\r\n",
        ),
        case("To: <sip:b>\r\n", "Via: SIP/2.0/TLS us\r\nTo: <sip:b>\r\n"),
        case("", "Via: SIP/2.0/TLS us\r\n"),
    ];
    check(&cases, |patch| patch.push_via(b"SIP/2.0/TLS us"));
}

/// 3261-16.7-f: exactly the topmost value goes.
#[test]
fn the_topmost_via_is_popped() {
    let cases = [
        case("Via: SIP/2.0/TCP a\r\nVia: SIP/2.0/TCP b\r\n", "Via: SIP/2.0/TCP b\r\n"),
        case("Via: SIP/2.0/TCP a, SIP/2.0/TCP b\r\n", "Via: SIP/2.0/TCP b\r\n"),
        case(
            "To: x\r\nv : \r\n\tSIP/2.0/TCP a;x=\"q,\\\",\" \r\n , \r\n SIP/2.0/TCP b \r\n , c\r\n",
            "To: x\r\nv : \r\n\tSIP/2.0/TCP b \r\n , c\r\n",
        ),
        case("Via:SIP/2.0/TCP a\r\n", ""),
        case("via: \r\n SIP/2.0/TCP a\r\n \r\nVia: b\r\n", "Via: b\r\n"),
        case("Via:\r\nVia: SIP/2.0/TCP a, b\r\n", "Via:\r\nVia: b\r\n"),
        case("To: x\r\n", "To: x\r\n"),
    ];
    check(&cases, |patch| patch.pop_top_via());
}

fn stamped(via: &str, ip: &str, port: u16) -> String {
    let text = request(&format!("Via: {via}\r\nVia: SIP/2.0/TCP other;rport\r\n"));
    let seen = edited(&text, |patch| {
        let top = patch.message().top_via().expect("a Via");
        patch.set_received_rport(&top, ip.parse().expect("an address"), port);
    });
    let after = seen.strip_prefix("INVITE sip:bob@example.com SIP/2.0\r\nVia: ").expect("a Via");
    let (via, rest) = after.split_once("\r\nVia: SIP/2.0/TCP other;rport\r\n").expect("two Vias");
    assert_eq!(rest, "l: 3\r\n\r\n\n:\r");
    via.to_owned()
}

/// 3261-18.2.1-a, 3581-4-a, RFC 5118 4.5.
#[test]
fn received_and_rport_say_where_a_request_came_from() {
    let cases: [(&str, &str, &str); 15] = [
        ("SIP/2.0/TCP 192.0.2.1;branch=b", "192.0.2.1", "SIP/2.0/TCP 192.0.2.1;branch=b"),
        (
            "SIP/2.0/TCP 192.0.2.1;branch=b",
            "192.0.2.9",
            "SIP/2.0/TCP 192.0.2.1;branch=b;received=192.0.2.9",
        ),
        ("SIP/2.0/TCP host", "192.0.2.9", "SIP/2.0/TCP host;received=192.0.2.9"),
        ("SIP/2.0/TCP host:5060", "::1", "SIP/2.0/TCP host:5060;received=::1"),
        (
            "SIP/2.0/TCP 192.0.2.9;rport;branch=b",
            "192.0.2.9",
            "SIP/2.0/TCP 192.0.2.9;rport=4000;branch=b;received=192.0.2.9",
        ),
        (
            "SIP/2.0/TCP [2001:db8::1]:5060;RPORT",
            "2001:db8::1",
            "SIP/2.0/TCP [2001:db8::1]:5060;RPORT=4000;received=2001:db8::1",
        ),
        ("SIP/2.0/TLS [2001:DB8:0::1]", "2001:db8::1", "SIP/2.0/TLS [2001:DB8:0::1]"),
        ("SIP/2.0/TCP 192.0.2.9", "::ffff:192.0.2.9", "SIP/2.0/TCP 192.0.2.9"),
        ("SIP/2.0/TCP h", "::ffff:192.0.2.9", "SIP/2.0/TCP h;received=192.0.2.9"),
        (
            "SIP/2.0/TCP h;received=10.0.0.1;branch=b",
            "192.0.2.9",
            "SIP/2.0/TCP h;received=192.0.2.9;branch=b",
        ),
        (
            "SIP/2.0/TCP 192.0.2.9 ; received = [2001:db8::9] ; rport ;branch=b",
            "192.0.2.9",
            "SIP/2.0/TCP 192.0.2.9 ; received=192.0.2.9 ; rport=4000 ;branch=b",
        ),
        ("SIP/2.0/TCP h;received;x", "192.0.2.9", "SIP/2.0/TCP h;received=192.0.2.9;x"),
        (
            "SIP/2.0/TCP\r\n h ;\r\n rport\r\n ;branch=b\r\n ",
            "192.0.2.9",
            "SIP/2.0/TCP\r\n h ;\r\n rport=4000\r\n ;branch=b;received=192.0.2.9\r\n ",
        ),
        (
            "SIP/2.0/TCP h;branch=b , SIP/2.0/TCP lower;rport",
            "192.0.2.9",
            "SIP/2.0/TCP h;branch=b;received=192.0.2.9 , SIP/2.0/TCP lower;rport",
        ),
        ("SIP/2.0/TCP h:7;rport=9", "192.0.2.9", "SIP/2.0/TCP h:7;rport=9;received=192.0.2.9"),
    ];
    for (before, ip, after) in cases {
        assert_eq!(stamped(before, ip, 4000), after, "from {before:?} at {ip}");
    }
}

/// 3261-16.6-b, 5393-5.3-a.
#[test]
fn hops_and_breadth_are_set_or_added() {
    let cases = [
        case("Max-Forwards: 70\r\n", "Max-Forwards: 69\r\n"),
        case("mAX-fORWARDS\t:\r\n  0070 \r\n", "mAX-fORWARDS\t:\r\n  69 \r\n"),
        case(
            "Via: a\r\nv: b\r\nTo: x\r\nVia: c\r\n",
            "Via: a\r\nv: b\r\nMax-Forwards: 69\r\nTo: x\r\nVia: c\r\n",
        ),
        case("To: x\r\n", "Max-Forwards: 69\r\nTo: x\r\n"),
        case("Max-Forwards:\r\nTo: x\r\n", "Max-Forwards:69\r\nTo: x\r\n"),
        case("Max-Forwards: \r\n \r\n", "Max-Forwards: \r\n 69\r\n"),
    ];
    check(&cases, |patch| patch.set_max_forwards(69));
    let cases = [
        case("Max-Breadth: 1000\r\n", "Max-Breadth: 60\r\n"),
        case("Max-Breadth: 9\r\nX: y\r\nmax-breadth: 8\r\n", "Max-Breadth: 60\r\nX: y\r\n"),
        case("Via: a\r\n", "Via: a\r\nMax-Breadth: 60\r\n"),
    ];
    check(&cases, |patch| patch.set_max_breadth(60));
}

/// 3261-16.4-c, 16.6 item 6: own Route values go from the top, wherever lines and commas stand.
#[test]
fn routes_go_from_the_top() {
    let lines =
        "Route: <sip:a;lr> , \"b, b\" <sip:b;lr>,\r\n <sip:c,c;lr>\r\nX: y\r\nROUTE:<sip:d>\r\n";
    let after = [
        lines,
        "Route: \"b, b\" <sip:b;lr>,\r\n <sip:c,c;lr>\r\nX: y\r\nROUTE:<sip:d>\r\n",
        "Route: <sip:c,c;lr>\r\nX: y\r\nROUTE:<sip:d>\r\n",
        "X: y\r\nROUTE:<sip:d>\r\n",
        "X: y\r\n",
        "X: y\r\n",
    ];
    for (count, after) in after.into_iter().enumerate() {
        let seen = edited(&request(lines), |patch| patch.remove_values(Name::Route, count));
        assert_eq!(seen, request(after), "{count} of them");
    }
}

/// 3261-16.6-e: a strict router gets the Request-URI as the last Route.
#[test]
fn a_route_is_appended() {
    let cases = [
        case("Route: <sip:a>\r\nX: y\r\n", "Route: <sip:a>\r\nRoute: <sip:z>\r\nX: y\r\n"),
        case(
            "Route: <sip:a>\r\nX: y\r\nroute : <sip:b>\r\n \r\n",
            "Route: <sip:a>\r\nX: y\r\nroute : <sip:b>\r\n \r\nRoute: <sip:z>\r\n",
        ),
        case("Via: a\r\nX: y\r\n", "Via: a\r\nRoute: <sip:z>\r\nX: y\r\n"),
    ];
    check(&cases, |patch| patch.append_route(b"<sip:z>"));
    let cases = [case("Route: <sip:a>\r\nTo: x\r\n", "Route: <sip:z>\r\nTo: x\r\n")];
    check(&cases, |patch| {
        patch.remove_values(Name::Route, 1);
        patch.append_route(b"<sip:z>");
    });
}

/// 3261-16.6-c, 3327-5.2-a, 5658-5-a: ours above the others; of two, the one added first on top.
#[test]
fn record_routes_and_paths_are_put_on_top() {
    let cases = [
        case(
            "Via: a\r\nRecord-Route: <sip:x>,<sip:y>\r\nrecord-route: <sip:z>\r\n",
            "Via: a\r\nRecord-Route: <sip:out>\r\nRecord-Route: <sip:in>\r\n\
             Record-Route: <sip:x>,<sip:y>\r\nrecord-route: <sip:z>\r\n",
        ),
        case(
            "To: x\r\nVia: a\r\nFrom: y\r\n",
            "To: x\r\nVia: a\r\nRecord-Route: <sip:out>\r\nRecord-Route: <sip:in>\r\nFrom: y\r\n",
        ),
    ];
    check(&cases, |patch| {
        patch.prepend_header(Name::RecordRoute, b"<sip:out>");
        patch.prepend_header_with(Name::RecordRoute, |writer| writer.push(b"<sip:in>"));
    });
    let cases = [case("Path: <sip:p>\r\n", "Path: <sip:us;lr;ob>\r\nPath: <sip:p>\r\n")];
    check(&cases, |patch| patch.prepend_header(Name::Path, b"<sip:us;lr;ob>"));
}

#[test]
fn the_request_uri_is_replaced() {
    let text = "ACK sip:a@b;x SIP/2.0\r\nTo: sip:a@b;x\r\nl:0\r\n\r\n";
    let after = "ACK sips:c SIP/2.0\r\nTo: sip:a@b;x\r\nl:0\r\n\r\n";
    assert_eq!(edited(text, |patch| patch.replace_request_uri(b"sips:c")), after);
    let moved = edited(text, |patch| {
        let to = patch.message().first(Name::To).copied().expect("a To");
        let span = patch.message().request_uri_span().expect("a request");
        patch.replace_own(patch.message().value_span(&to), span);
    });
    assert_eq!(moved, text);
    let response = "SIP/2.0 200 OK\r\nl:0\r\n\r\n";
    assert_eq!(edited(response, |patch| patch.replace_request_uri(b"sip:x")), response);
}

/// Identity headers of strangers go, however they are disguised.
#[test]
fn headers_are_removed_in_every_disguise() {
    let names = ["P-Asserted-Identity", "identity", "X-Internal-*"];
    let gone = [
        "P-Asserted-Identity: <sip:a>\r\n",
        "p-aSSERTED-iDENTITY:<sip:a>\r\n",
        "P-Asserted-Identity \t : <sip:a>\r\n",
        "P-Asserted-Identity:\r\n <sip:a>,\r\n\t<sip:b>\r\n",
        "P-Asserted-Identity:\r\n",
        "Identity: x\r\n",
        "y: x\r\n",
        "Y :\r\n x\r\n",
        "X-Internal-Flag: 1\r\n",
        "x-INTERNAL-: 1\r\n",
    ];
    let stays = [
        "P-Asserted-Identities: <sip:a>\r\n",
        "XP-Asserted-Identity: <sip:a>\r\n",
        "Identity-Info: x\r\n",
        "n: x\r\n",
        "X-Internal: 1\r\n",
        "Subject: P-Asserted-Identity: x\r\n",
        "Subject: a\r\n P-Asserted-Identity: x\r\n",
    ];
    for line in gone {
        let before = request(&format!("{line}To: x\r\n{line}"));
        let seen = edited(&before, |patch| patch.remove_headers(&names));
        assert_eq!(seen, request("To: x\r\n"), "{line:?}");
    }
    for line in stays {
        let before = request(line);
        assert_eq!(edited(&before, |patch| patch.remove_headers(&names)), before, "{line:?}");
    }
}

/// 3261-18.3-a: nobody behind us reads another length.
#[test]
fn an_odd_content_length_leaves_plain() {
    let plain = ["Content-Length: 3", "Content-Length:3", "l: 3", "L:3", "CONTENT-LENGTH: 3"];
    let odd = [
        "Content-Length : 3",
        "Content-Length\t:3",
        "l :3",
        "Content-Length:  3",
        "Content-Length:\t3",
        "Content-Length: 3 ",
        "Content-Length:\r\n 3",
        "Content-Length: 3\r\n ",
        "l: 03",
        "Content-Length: 0000000000000000000000000000003",
    ];
    let text = |line: &str| format!("ACK sip:a SIP/2.0\r\nX: y\r\n{line}\r\nTo: b\r\n\r\nabc");
    for line in plain {
        assert_eq!(edited(&text(line), |patch| patch.plain_content_length()), text(line));
    }
    for line in odd {
        let seen = edited(&text(line), |patch| patch.plain_content_length());
        assert_eq!(seen, text("Content-Length: 3"), "{line:?}");
    }
    let zero = "ACK sip:a SIP/2.0\r\nl: 00\r\n\r\n";
    let after = "ACK sip:a SIP/2.0\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(edited(zero, |patch| patch.plain_content_length()), after);
}

/// Deletions swallow what they cover, texts stay, order of places and of adding is kept.
#[test]
fn edits_may_meet() {
    let cases = [
        case("A: 1\r\nB: 2\r\nC: 3\r\n", "X: 0\r\nC: 3\r\n"),
        case("Via: a\r\nB: 2\r\nC: 3\r\n", "X: 0\r\nC: 3\r\n"),
    ];
    check(&cases, |patch| {
        let lines: Vec<Range32> =
            patch.message().headers().iter().map(|header| header.line()).collect();
        patch.delete(lines[1]);
        patch.delete(Range32::new(lines[0].start, lines[1].end - 2));
        patch.insert(lines[1].start, b"X: 0\r\n");
        patch.insert_with(lines[1].start, |_| {});
    });
}

#[test]
fn a_parameter_is_removed() {
    let text = request("Via: SIP/2.0/TCP h;oc=1 ; oc-algo = \"a;,b\" ;branch=b;oc-seq=2\r\n");
    let seen = edited(&text, |patch| {
        let via = patch.message().top_via().expect("a Via");
        via.oc_parameters().for_each(|parameter| patch.remove_parameter(parameter));
    });
    assert_eq!(seen, request("Via: SIP/2.0/TCP h  ;branch=b\r\n"));
}

/// More than the scratch array holds: nothing is lost, only the heap is asked.
#[test]
fn long_texts_and_many_edits_are_whole() {
    let long = vec![b'y'; 5000];
    let seen = edited(&request("To: x\r\n"), |patch| {
        for _ in 0..100 {
            patch.insert(0, b"z");
        }
        patch.prepend_header(Name::Path, &long);
    });
    let expected = request(&format!("Path: {}\r\nTo: x\r\n", "y".repeat(5000)));
    assert_eq!(seen, format!("{}{expected}", "z".repeat(100)));
}

fn replied(headers: &str, status: u16, from: Option<(&str, u16)>) -> String {
    let mut out = b"before".to_vec();
    let from = from.map(|(ip, port)| (ip.parse::<IpAddr>().expect("an address"), port));
    with(request(headers).as_bytes(), |message| {
        reply(message, status, None, &[("Unsupported", b"x, y")], b"ours", from, &mut out);
    });
    let text = String::from_utf8(out).expect("text");
    let text = text.strip_prefix("before").expect("what was there stays").to_owned();
    with(text.as_bytes(), |message| assert_eq!(message.len(), text.len()));
    text
}

/// RFC 3261 8.2.6.
#[test]
fn a_reply_is_made_of_the_request() {
    let request = "t :\r\n <sip:b>\r\nv: SIP/2.0/TCP h;rport ,\r\n SIP/2.0/TCP low\r\nSubject: no\r\n\
        CSEQ: 1 INVITE\r\nFrom: <sip:a>;tag=1\r\nVia: SIP/2.0/UDP lower\r\ni:c\r\nTimestamp: 54\r\n";
    let expected = "SIP/2.0 420 Bad Extension\r\n\
        v: SIP/2.0/TCP h;rport=4000;received=192.0.2.9 ,\r\n SIP/2.0/TCP low\r\n\
        Via: SIP/2.0/UDP lower\r\nFrom: <sip:a>;tag=1\r\nt :\r\n <sip:b>;tag=ours\r\ni:c\r\n\
        CSEQ: 1 INVITE\r\nUnsupported: x, y\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(replied(request, 420, Some(("192.0.2.9", 4000))), expected);
    let trying = replied(request, 100, None);
    assert!(trying.contains("t :\r\n <sip:b>\r\n") && trying.contains("Timestamp: 54\r\n"));
    assert!(trying.contains("v: SIP/2.0/TCP h;rport ,\r\n"));
    let tagged =
        replied("To: \"B\" <sip:b>;x; tag = 7 \r\nVia: nonsense\r\n", 400, Some(("::1", 1)));
    assert!(
        tagged.contains("To: \"B\" <sip:b>;x; tag = 7 \r\n")
            && tagged.contains("Via: nonsense\r\n")
    );
    assert!(replied("", 400, None).starts_with("SIP/2.0 400 Bad Request\r\nUnsupported"));
}

/// Lines of all the kinds that edits look at.
fn line() -> impl Strategy<Value = String> {
    let blank = prop_oneof![Just(""), Just(" "), Just("\t"), Just("\r\n "), Just(" \r\n\t ")];
    let value = prop_oneof![
        "SIP/2\\.0/(TCP|TLS|UDP) [a-z0-9.]{1,9};branch=[a-z0-9]{1,9}(;rport)?(;received=[0-9.]{1,9})?",
        "<sip:[a-z]{1,6}(,[a-z]{1,3})?;lr>",
        "\"[a-z, ]{0,9}\" <sip:[a-z]{1,6}>(;tag=[a-z0-9]{1,6})?",
        "[0-9]{1,3}",
        "[ -~]{0,20}",
    ];
    let names = prop_oneof![
        Just("Via"),
        Just("v"),
        Just("VIA"),
        Just("Route"),
        Just("rOUTE"),
        Just("Record-Route"),
        Just("Max-Forwards"),
        Just("Max-Breadth"),
        Just("Path"),
        Just("To"),
        Just("P-Asserted-Identity"),
        Just("X-Other"),
    ];
    let list = (value.clone(), prop::collection::vec((blank.clone(), value), 0..3));
    (names, prop_oneof![Just(""), Just(" "), Just("\t")], blank.clone(), list, blank).prop_map(
        |(name, gap, before, (first, rest), after)| {
            let rest = rest.iter().map(|(blank, value)| format!("{blank},{blank}{value}"));
            let list: String = std::iter::once(first).chain(rest).collect();
            format!("{name}{gap}:{before}{list}{after}\r\n")
        },
    )
}

/// The edits that need no more than a message.
fn edit(kind: u8, patch: &mut Patch<'_>) {
    match kind % 12 {
        0 => patch.push_via(b"SIP/2.0/TLS us;branch=z9hG4bKown"),
        1 => patch.pop_top_via(),
        2 => {
            let via: Option<Via<'_>> = patch.message().top_via().ok();
            if let Some(via) = via {
                patch.set_received_rport(&via, [192, 0, 2, 9].into(), 4000);
            }
        }
        3 => patch.set_max_forwards(69),
        4 => patch.set_max_breadth(60),
        5 => patch.remove_values(Name::Route, 1),
        6 => patch.remove_values(Name::Route, 2),
        7 => patch.prepend_header(Name::RecordRoute, b"<sip:us;lr>"),
        8 => patch.append_route(b"<sip:last>"),
        9 => patch.replace_request_uri(b"sip:elsewhere"),
        10 => patch.remove_headers(&["P-Asserted-Identity"]),
        _ => patch.plain_content_length(),
    }
}

/// Values of a list header, blanks and all bytes of each.
fn values(message: &Message<'_>, name: Name) -> Vec<Vec<u8>> {
    let values = message.values(name).map(|value| value.bytes.to_vec());
    values.filter(|value| !value.is_empty()).collect()
}

proptest! {
    /// A patch yields what a splice byte by byte yields.
    #[test]
    fn a_patch_is_a_splice(
        lines in prop::collection::vec(line(), 0..6),
        edits in prop::collection::vec((any::<u16>(), 0u32..9, prop::collection::vec(any::<u8>(), 0..6)), 0..40),
    ) {
        let text = request(&lines.concat());
        let place = |at: u16| u32::from(at) % (text.len() as u32 + 1);
        let edits: Vec<(Range32, Vec<u8>)> = edits
            .into_iter()
            .map(|(at, len, new)| {
                let start = place(at);
                (Range32::new(start, (start + len).min(text.len() as u32)), new)
            })
            .collect();
        let mut expected = Vec::new();
        for place in 0..=text.len() as u32 {
            let here = edits.iter().filter(|(range, _)| range.start == place);
            here.for_each(|(_, new)| expected.extend_from_slice(new));
            if !edits.iter().any(|(range, _)| (range.start..range.end).contains(&place)) {
                expected.extend(text.as_bytes().get(place as usize));
            }
        }
        let seen = with(text.as_bytes(), |message| {
            let mut patch = Patch::new(message);
            edits.iter().for_each(|(range, new)| patch.replace(*range, new));
            patch.pieces().flatten().copied().collect::<Vec<u8>>()
        });
        prop_assert_eq!(seen, expected);
    }

    /// Whatever edits are made together, a message goes out, and of each list what was not meant is there in its order.
    #[test]
    fn edited_messages_are_messages(
        lines in prop::collection::vec(line(), 0..7),
        kinds in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        // A text in a Via that goes would stay behind alone: nobody stamps what is popped.
        let stamped = kinds.iter().any(|kind| kind % 12 == 2);
        let kinds: Vec<u8> = kinds.into_iter().filter(|kind| !(stamped && kind % 12 == 1)).collect();
        let text = request(&lines.concat());
        let after = edited(&text, |patch| kinds.iter().for_each(|kind| edit(*kind, patch)));
        with(text.as_bytes(), |before| {
            with(after.as_bytes(), |after| {
                assert_eq!(before.body(), after.body());
                for name in [Name::To, Name::Path, Name::Other] {
                    assert_eq!(values(before, name), values(after, name));
                }
                let others = |message: &Message<'_>| {
                    let rows = message.rows(Name::Other);
                    rows.map(|(_, row)| message.text(row.line()).to_vec()).collect::<Vec<_>>()
                };
                assert_eq!(others(before), others(after));
            });
        });
    }

    /// Taking values away leaves exactly the others.
    #[test]
    fn removed_values_are_the_first(lines in prop::collection::vec(line(), 0..7), count in 0usize..8) {
        let text = request(&lines.concat());
        let all: Vec<Vec<u8>> = with(text.as_bytes(), |message| {
            message.values(Name::Via).map(|value| value.bytes.to_vec()).collect()
        });
        let left: Vec<Vec<u8>> =
            all.into_iter().skip(count).filter(|value| !value.is_empty()).collect();
        let after = edited(&text, |patch| patch.remove_values(Name::Via, count));
        with(after.as_bytes(), |message| assert_eq!(values(message, Name::Via), left));
    }

    /// A pushed Via that is popped leaves no trace.
    #[test]
    fn push_and_pop_are_one(lines in prop::collection::vec(line(), 0..7)) {
        let text = request(&lines.concat());
        let pushed = edited(&text, |patch| patch.push_via(b"SIP/2.0/TCP us"));
        prop_assert_eq!(edited(&pushed, |patch| patch.pop_top_via()), text);
    }
}

proptest! {
    /// Whatever is done to a name, a line that anybody could read as that name does not get through.
    #[test]
    fn no_disguise_of_a_name_gets_through(
        cases in prop::collection::vec(any::<bool>(), 19),
        place in 0usize..=19,
        noise in prop_oneof![
            Just(""), Just(" "), Just("\t"), Just("  \t "), Just("\r\n "), Just("\r\n\t"), Just("\r"),
            Just("\n"), Just("\0"), Just("\\"), Just("\x0b"), Just("\x0c"), Just("\x7f"), Just("\u{a0}"),
            Just("\u{200b}"), Just("\""), Just("("), Just(","), Just(":"), Just("\r\n"),
        ],
    ) {
        let name: String = "P-Asserted-Identity"
            .chars()
            .zip(cases)
            .map(|(letter, up)| if up { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() })
            .collect();
        let (front, back) = name.split_at(place);
        let text = request(&format!("X: y\r\n{front}{noise}{back}: <sip:a@b>\r\n"));
        let mut state = FrameState::default();
        if let Ok(Framed::Message(message)) = frame(text.as_bytes(), &mut state, &FrameLimits::default()) {
            let mut patch = Patch::new(&message);
            patch.remove_headers(&["P-Asserted-Identity"]);
            let left = String::from_utf8(patch.pieces().collect::<Vec<_>>().concat()).expect("text");
            // Read as the most careless reader would: letters and hyphens alone, to the first colon of a line.
            for line in left.split(['\r', '\n']) {
                let before = line.split(':').next().unwrap_or_default();
                let letters: String =
                    before.chars().filter(|it| it.is_ascii_alphabetic() || *it == '-').collect();
                let continues = line.starts_with([' ', '\t']);
                prop_assert!(continues || !letters.eq_ignore_ascii_case("P-Asserted-Identity"), "{left:?}");
            }
        }
    }
}
