//! The torture messages of RFC 4475 and RFC 5118, byte for byte: what the SIP floor says of each, and what comes of each
//! through the whole proxy (`docs/rfc.md` says why). `cargo test --test torture -- --nocapture report` prints the tables.

#[path = "torture/whole.rs"]
mod whole;

use ringfront::sip::frame::FrameLimits;
use ringfront::sip::{
    FaultKind, FrameState, Framed, Message, Name, NameAddr, Patch, Start, Uri, Via, frame, salvage,
};

/// What must come of a message on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Framed and valid: it can be passed on as it is.
    Good,
    /// Framed, but answered with this kind's status or, if it is a response, dropped; the stream goes on.
    Bad(FaultKind),
    /// Answered if it is a request that can be read, then closed.
    Lost(FaultKind),
    /// More bytes must come.
    Waiting,
}

use Verdict::{Bad, Good, Lost, Waiting};
use whole::{Cut, House};

/// Name, what the SIP floor says of it, and what comes of it through the whole proxy, in words (`whole::House::verdict`).
type Row = (&'static str, Verdict, &'static str);

/// RFC 4475, in the order of its sections; `test` is in the archive only.
const RFC_4475: [Row; 50] = [
    ("wsinv", Good, "forwarded"),
    ("intmeth", Good, "forwarded"),
    ("esc01", Good, "forwarded"),
    ("escnull", Good, "forwarded"),
    ("esc02", Good, "forwarded"),
    ("lwsdisp", Good, "forwarded"),
    ("longreq", Good, "forwarded"),
    ("dblreq", Good, "forwarded; forwarded; start_line_bad, closed"),
    ("semiuri", Good, "forwarded"),
    ("transports", Good, "forwarded"),
    ("mpart01", Good, "forwarded to a strict router"),
    ("unreason", Good, "response_not_ours"),
    ("noreason", Good, "response_not_ours"),
    ("badinv01", Bad(FaultKind::ViaBad), "400; via_bad"),
    ("clerr", Waiting, "waits; 400; message_late, closed"),
    ("ncl", Lost(FaultKind::ContentLengthBad), "400; content_length_bad, closed"),
    ("scalar02", Bad(FaultKind::MaxForwardsBad), "400; max_forwards_bad"),
    ("scalarlg", Bad(FaultKind::CSeqBad), "cseq_bad"),
    ("quotbal", Bad(FaultKind::ToBad), "400; to_bad"),
    ("ltgtruri", Bad(FaultKind::RequestUriBad), "400; request_uri_bad"),
    ("lwsruri", Bad(FaultKind::RequestUriBad), "400; request_uri_bad"),
    ("lwsstart", Bad(FaultKind::RequestUriBad), "400; request_uri_bad"),
    ("trws", Bad(FaultKind::RequestLineBad), "400; request_line_bad"),
    ("escruri", Bad(FaultKind::RequestUriBad), "400; request_uri_bad"),
    ("baddate", Good, "forwarded"),
    ("regbadct", Bad(FaultKind::ContactBad), "400; contact_bad"),
    ("badaspec", Bad(FaultKind::ToBad), "400; to_bad"),
    ("baddn", Bad(FaultKind::FromBad), "400; from_bad"),
    ("badvers", Bad(FaultKind::VersionUnsupported), "505; version_unsupported"),
    ("mismatch01", Bad(FaultKind::CSeqMismatch), "400; cseq_mismatch"),
    ("mismatch02", Bad(FaultKind::CSeqMismatch), "400; cseq_mismatch"),
    ("bigcode", Bad(FaultKind::StatusBad), "status_bad"),
    ("badbranch", Bad(FaultKind::ViaBad), "400; via_bad"),
    ("insuf", Bad(FaultKind::HeaderMissing), "400; header_missing"),
    ("unkscm", Good, "416; unknown_scheme"),
    ("novelsc", Good, "416; unknown_scheme"),
    ("unksm2", Good, "forwarded"),
    ("bext01", Good, "420; proxy_require"),
    ("invut", Good, "forwarded"),
    ("regaut01", Good, "forwarded"),
    ("multi01", Bad(FaultKind::HeaderRepeated), "400; header_repeated"),
    ("mcl01", Lost(FaultKind::ContentLengthRepeated), "400; content_length_repeated, closed"),
    ("bcast", Good, "response_not_ours"),
    ("zeromf", Good, "200"),
    ("cparam01", Good, "forwarded"),
    ("cparam02", Good, "forwarded"),
    ("regescrt", Good, "forwarded"),
    ("sdp01", Good, "forwarded"),
    ("inv2543", Lost(FaultKind::ContentLengthMissing), "400; content_length_missing, closed"),
    ("test", Lost(FaultKind::StartLineBad), "start_line_bad, closed"),
];

const RFC_5118: [Row; 12] = [
    ("ipv6-good", Good, "forwarded"),
    ("ipv6-bad", Bad(FaultKind::RequestUriBad), "400; request_uri_bad"),
    ("port-ambiguous", Good, "forwarded"),
    ("port-unambiguous", Good, "forwarded"),
    ("via-received-param-with-delim", Good, "forwarded"),
    ("via-received-param-no-delim", Good, "forwarded"),
    // Its Content-Length is 17 more than its body.
    ("ipv6-in-sdp", Waiting, "waits; 400; message_late, closed"),
    ("mult-ip-in-header", Good, "forwarded"),
    ("mult-ip-in-sdp", Good, "forwarded"),
    ("ipv4-mapped-ipv6", Good, "forwarded"),
    ("ipv6-bug-abnf-3-colons", Good, "forwarded"),
    ("ipv6-correct-abnf-2-colons", Good, "forwarded"),
];

/// Responses with a Via of ours on top, as a backend that was asked may send them: name, Call-ID and CSeq number of the
/// request that was sent to it, and what comes of them.
const RESPONSES: [(&str, &str, u32, &str); 5] = [
    ("unreason", "unreason.1234ksdfak3j2erwedfsASdf", 35, "passed on, byte for byte"),
    ("noreason", "noreason.asndj203insdf99223ndf", 35, "response_trying"),
    // No request can have this CSeq number: the Via is that of another one.
    ("scalarlg", "scalarlg.noase0of0234hn2qofoaf0232aewf2394r", 1, "cseq_bad"),
    ("bigcode", "bigcode.asdof3uj203asdnf3429uasdhfas3ehjasdfas9i", 353_494, "status_bad"),
    ("bcast", "bcast.0384840201234ksdfak3j2erwedfsASdf", 35, "response_broadcast"),
];

/// A request that any element takes.
const PLAIN: &[u8] = b"OPTIONS sip:a@example.com SIP/2.0\r\n\
    Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKplain\r\n\
    Max-Forwards: 70\r\nFrom: <sip:b@example.com>;tag=1\r\nTo: <sip:a@example.com>\r\n\
    Call-ID: plain@192.0.2.1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

/// The file as it is in the archive.
fn archived(rfc: &str, name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/torture/{rfc}/{name}.dat", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The message: the archive of RFC 5118 has LF for CRLF, and three files lack the empty line at the end.
fn bytes(rfc: &str, name: &str) -> Vec<u8> {
    let mut text = archived(rfc, name);
    if rfc == "5118" {
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        text = lines.join(b"\r\n".as_slice());
    }
    if !text.windows(4).any(|it| it == b"\r\n\r\n") {
        text.extend_from_slice(b"\r\n");
    }
    text
}

fn vectors() -> impl Iterator<Item = (&'static str, &'static str, Verdict, Vec<u8>)> {
    let first = RFC_4475.iter().map(|(name, verdict, _)| ("4475", *name, *verdict));
    let second = RFC_5118.iter().map(|(name, verdict, _)| ("5118", *name, *verdict));
    first.chain(second).map(|(rfc, name, verdict)| (rfc, name, verdict, bytes(rfc, name)))
}

fn validated(message: &Message<'_>) -> Verdict {
    let outcome = match message.is_request() {
        true => message.validate_request(),
        false => message.validate_response(),
    };
    match outcome {
        Ok(()) => Good,
        Err(fault) => {
            assert!(!fault.kind.stream_lost() && (fault.offset as usize) <= message.len());
            Bad(fault.kind)
        }
    }
}

/// What comes of the first message of `stream`, of which the first `cut` bytes come first and, after them, `step` bytes
/// at a time. Says also how many bytes were taken.
fn verdict(stream: &[u8], cut: usize, step: usize) -> (Verdict, usize) {
    let limits = FrameLimits::default();
    let mut state = FrameState::default();
    let mut end = cut.min(stream.len());
    loop {
        match frame(&stream[..end], &mut state, &limits) {
            Ok(Framed::Message(message)) => return (validated(&message), message.len()),
            Ok(Framed::Partial) if end == stream.len() => return (Waiting, 0),
            Ok(Framed::Partial) => end = (end + step).min(stream.len()),
            Ok(other) => panic!("not the start of a message: {other:?}"),
            Err(fault) => {
                assert!(fault.kind.stream_lost() && (fault.offset as usize) <= end);
                return (Lost(fault.kind), 0);
            }
        }
    }
}

/// A message on its way through the whole proxy.
struct Journey {
    rfc: &'static str,
    name: &'static str,
    text: Vec<u8>,
    /// With a Via of ours on top: Call-ID and CSeq number of what was asked.
    asked: Option<(&'static str, u32)>,
    expected: &'static str,
}

fn journeys() -> impl Iterator<Item = Journey> {
    let rows =
        RFC_4475.iter().map(|row| ("4475", row)).chain(RFC_5118.iter().map(|row| ("5118", row)));
    let plain = rows.map(|(rfc, (name, _, expected))| Journey {
        rfc,
        name,
        text: on_a_stream(rfc, name),
        asked: None,
        expected,
    });
    plain.chain(RESPONSES.iter().map(|(name, call_id, cseq, expected)| Journey {
        rfc: "4475",
        name,
        text: bytes("4475", name),
        asked: Some((call_id, *cseq)),
        expected,
    }))
}

/// Without what stands behind the message, which was padding of a datagram and would begin the next one here; dblreq
/// is about just that.
fn on_a_stream(rfc: &str, name: &str) -> Vec<u8> {
    let mut text = bytes(rfc, name);
    if let (Good | Bad(_), taken) = verdict(&text, text.len(), 1)
        && name != "dblreq"
    {
        text.truncate(taken);
    }
    text
}

impl Journey {
    /// What comes of it; afterwards a valid request must find its way.
    fn verdict(&self, house: &mut House, cut: Cut) -> String {
        let client = house.client();
        let is_response = self.text.starts_with(b"SIP/2.0");
        let from = if is_response { house.backend } else { client };
        let text = self.asked.map(|(call_id, cseq)| {
            let via = house.own_via(client, call_id, cseq);
            let end = self.text.iter().position(|byte| *byte == b'\n').expect("a start line") + 1;
            [&self.text[..end], &via, &self.text[end..]].concat()
        });
        let verdict = house.verdict(client, from, text.as_deref().unwrap_or(&self.text), cut);
        house.still_serves(client);
        verdict
    }

    fn title(&self) -> String {
        let on_top = if self.asked.is_some() { ", our Via on top" } else { "" };
        format!("{} {}{on_top}", self.rfc, self.name)
    }
}

#[test]
fn report() {
    let mut wrong = 0;
    let mut table =
        format!("{:38} {:32} {:48} expected\n", "message", "alone", "through the proxy");
    for journey in journeys() {
        let (alone, _) = verdict(&journey.text, journey.text.len(), 1);
        let seen = journey.verdict(&mut House::new(), Cut::Whole);
        let mark = if seen == journey.expected { "" } else { "   <-- wrong" };
        let (title, alone) = (journey.title(), shown(alone));
        table += &format!("{title:38} {alone:32} {seen:48} {}{mark}\n", journey.expected);
        wrong += u32::from(seen != journey.expected);
    }
    println!("\n{table}");
    assert_eq!(wrong, 0);
}

#[test]
fn the_whole_proxy_says_the_same_at_every_cut_and_byte_by_byte() {
    for journey in journeys() {
        let mut house = House::new();
        for cut in 1..journey.text.len() {
            let seen = journey.verdict(&mut house, Cut::At(cut));
            assert_eq!(seen, journey.expected, "{} cut at {cut}", journey.title());
        }
        let seen = journey.verdict(&mut house, Cut::Dribbled);
        assert_eq!(seen, journey.expected, "{} byte by byte", journey.title());
    }
}

fn shown(verdict: Verdict) -> String {
    match verdict {
        Good => "good".to_owned(),
        Waiting => "waits for more".to_owned(),
        Bad(kind) => format!("{} {}", kind.status(), kind.name()),
        Lost(kind) => format!("{} {}, closed", kind.status(), kind.name()),
    }
}

#[test]
fn every_file_is_in_the_table() {
    for (rfc, count) in [("4475", RFC_4475.len()), ("5118", RFC_5118.len())] {
        let path = format!("{}/tests/data/torture/{rfc}", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(std::fs::read_dir(path).expect("the vectors").count(), count);
    }
}

#[test]
fn a_verdict_is_the_same_at_every_cut_and_byte_by_byte() {
    for (_, name, expected, text) in vectors() {
        let whole = verdict(&text, text.len(), 1);
        for cut in 0..text.len() {
            assert_eq!(verdict(&text, cut, text.len()), whole, "{name} cut at {cut}");
        }
        assert_eq!(verdict(&text, 1, 1), whole, "{name} byte by byte");
        assert_eq!(whole.0, expected, "{name}");
    }
}

#[test]
fn the_stream_goes_on_behind_what_was_framed() {
    for (_, name, expected, mut text) in vectors() {
        // Bytes behind its last message, which were datagram padding, end a few vectors.
        let (_, taken) = verdict(&text, text.len(), 1);
        if !matches!(expected, Good | Bad(_)) {
            continue;
        }
        text.truncate(taken);
        text.extend_from_slice(PLAIN);
        assert_eq!(verdict(&text, text.len(), 1).1, taken, "{name}");
        assert_eq!(verdict(&text[taken..], 1, 1), (Good, PLAIN.len()), "behind {name}");
    }
}

/// 3261-7.5-a: lines end in CRLF, in nothing else.
#[test]
fn line_feeds_alone_are_refused() {
    for (name, ..) in RFC_5118 {
        let text = archived("5118", name);
        let first = text.iter().position(|byte| *byte == b'\n').expect("a line");
        let seen = verdict(&text, 1, 1);
        assert_eq!(seen.0, Lost(FaultKind::BareLineFeed), "{name}");
        let mut state = FrameState::default();
        let fault = frame(&text, &mut state, &FrameLimits::default()).map(|_| ());
        assert_eq!(fault.map_err(|fault| fault.offset as usize), Err(first), "{name}");
    }
}

/// 3261-18.3-a: on a stream the octets behind the body are the next message.
#[test]
fn dblreq_is_two_messages() {
    let text = bytes("4475", "dblreq");
    let (first, taken) = verdict(&text, text.len(), 1);
    assert_eq!(first, Good);
    let rest = &text[taken..];
    let mut state = FrameState::default();
    let framed = frame(rest, &mut state, &FrameLimits::default());
    assert!(matches!(framed, Ok(Framed::Blank { len: 2 })));
    let (second, taken) = verdict(&rest[2..], rest.len(), 1);
    assert_eq!(second, Good);
    assert!(rest[2..].starts_with(b"INVITE sip:joe@example.com"));
    // The body is longer than its Content-Length says.
    assert_eq!(&rest[2 + taken..], b"C\r\n\r\n");
}

/// 3261-16.6-a: what is not edited leaves as it came; an edit that is taken back leaves no trace.
#[test]
fn bytes_pass_untouched() {
    for (_, name, _, text) in vectors() {
        let mut state = FrameState::default();
        let framed = frame(&text, &mut state, &FrameLimits::default());
        let Ok(Framed::Message(message)) = framed else { continue };
        let same: Vec<u8> = Patch::new(&message).pieces().flatten().copied().collect();
        assert_eq!(same, message.bytes(), "{name}");
        let mut patch = Patch::new(&message);
        patch.push_via(b"SIP/2.0/TLS edge.example.com;branch=z9hG4bKown");
        let pushed: Vec<u8> = patch.pieces().flatten().copied().collect();
        let Ok(Framed::Message(pushed)) = frame(&pushed, &mut state, &FrameLimits::default())
        else {
            panic!("{name}: a pushed Via breaks the message")
        };
        assert_eq!(pushed.top_via().map(|via| via.host), Ok(b"edge.example.com".as_slice()));
        let mut patch = Patch::new(&pushed);
        patch.pop_top_via();
        let popped: Vec<u8> = patch.pieces().flatten().copied().collect();
        assert_eq!(popped, message.bytes(), "{name}");
    }
}

#[test]
fn what_is_lost_can_be_answered_if_it_is_a_whole_request() {
    for (name, answerable) in [("ncl", true), ("mcl01", true), ("inv2543", true), ("test", false)] {
        let text = bytes("4475", name);
        let message = salvage(&text, &FrameLimits::default());
        assert_eq!(message.is_some(), answerable, "{name}");
        assert!(message.is_none_or(|message| message.body().is_empty()));
    }
}

fn message<'a>(text: &'a [u8]) -> Message<'a> {
    match frame(text, &mut FrameState::default(), &FrameLimits::default()) {
        Ok(Framed::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

type Case<'a> = (&'a [u8], &'a [u8], Option<&'a [u8]>);

/// RFC 4475 3.1.1.1: white space, folds, compact forms and mixed case are understood exactly.
#[test]
fn wsinv_is_understood() {
    let text = bytes("4475", "wsinv");
    let message = message(&text);
    assert_eq!(message.to_tag(), Ok(Some(b"1918181833n".as_slice())));
    assert_eq!(message.from_tag(), Ok(Some(b"98asjd8".as_slice())));
    assert_eq!(message.max_forwards(), Ok(Some(68)));
    let cseq = message.cseq().expect("a CSeq");
    assert_eq!((cseq.number, cseq.method), (9, b"INVITE".as_slice()));
    let vias: Vec<Via<'_>> = message.vias().map(|via| via.expect("a Via")).collect();
    let seen: Vec<_> = vias.iter().map(|via| (via.transport, via.host, via.branch())).collect();
    let expected: Vec<Case<'_>> = vec![
        (b"UDP", b"192.0.2.2", Some(b"390skdjuw")),
        (b"TCP", b"spindle.example.com", Some(b"z9hG4bK9ikj8")),
        (b"UDP", b"192.168.255.111", Some(b"z9hG4bK30239")),
    ];
    assert_eq!(seen, expected);
    assert_eq!(message.body().len(), 150);
    let contact = message.values(Name::Contact).next().expect("a Contact");
    let contact = NameAddr::parse(contact.bytes).expect("a name-addr");
    assert_eq!(contact.uri, b"sip:jdrosen@example.com");
    assert_eq!(contact.param("q"), Some(Some(b"0.33".as_slice())));
    let route = message.values(Name::Route).next().expect("a Route");
    assert!(Uri::parse(NameAddr::parse(route.bytes).expect("a route").uri).expect("a URI").lr());
}

/// RFC 4475 3.1.1.2, 3.1.1.5: odd but legal characters.
#[test]
fn unusual_names_are_understood() {
    let text = bytes("4475", "intmeth");
    let intmeth = message(&text);
    let Start::Request { method_name, uri, .. } = intmeth.start() else { panic!("a request") };
    assert_eq!(method_name, b"!interesting-Method0123456789_*+`.%indeed'~");
    let uri = Uri::parse(uri).expect("a URI");
    assert_eq!(uri.host, b"example.com");
    assert!(uri.user.is_some_and(|user| user.starts_with(b"1_unusual.URI~(to-be!sure)")));
    let text = bytes("4475", "esc02");
    // `C%6Fntact` is no Contact.
    assert_eq!(message(&text).count(Name::Contact), 2);
}

/// RFC 5118 4.5: `received` with and without brackets; 4.9: mapped addresses; 4.10: an extra colon.
#[test]
fn ipv6_is_understood() {
    for name in ["via-received-param-with-delim", "via-received-param-no-delim"] {
        let text = bytes("5118", name);
        let message = message(&text);
        let received = message.top_via().expect("a Via").received().expect("received");
        let address = ringfront::sip::uri::host_ip(received);
        assert_eq!(address, Some("2001:db8::9:255".parse().expect("an address")), "{name}");
    }
    let text = bytes("5118", "ipv4-mapped-ipv6");
    let mapped = message(&text).top_via().expect("a Via").host;
    let plain = Some("192.0.2.10".parse().expect("an address"));
    assert_eq!(ringfront::sip::uri::host_ip(mapped), plain);
    let (odd, even) = ("[2001:db8:::192.0.2.1]", "[2001:db8::192.0.2.1]");
    assert!(ringfront::sip::uri::same_host(odd.as_bytes(), even.as_bytes()));
}
