//! The SIP floor alone: framing, view, validation, the usual edits of typical messages, for instruction counts.
//! Usage: valgrind --tool=callgrind --toggle-collect='*measured*' scan_icount OPERATION [TIMES]
//! Instructions for one are what was collected, divided by TIMES (1000). OPERATION: `scan`, `validate`, `ask`, `patch`
//! over the INVITE of 1 KiB with 16 headers (`bench/invite-1k.sip`), `response` and `pop` over its 200.

use std::hint::black_box;

use ringfront::sip::{
    FrameLimits, FrameState, Framed, Message, Method, Name, Patch, Start, Uri, frame, reply,
};

static INVITE: &[u8] = include_bytes!("invite-1k.sip");

fn main() {
    let mut arguments = std::env::args().skip(1);
    let operation = arguments.next().expect("an operation");
    let times: u32 = arguments.next().map_or(1000, |text| text.parse().expect("a number"));
    let limits = FrameLimits::default();
    let mut answer = Vec::new();
    with(INVITE, &limits, |invite| reply(invite, 200, None, &[], b"a6c85cf", None, &mut answer));
    let measured: fn(&[u8], &FrameLimits) = match operation.as_str() {
        "scan" | "response" => measured_scan,
        "validate" => measured_validate,
        "ask" => measured_ask,
        "patch" => measured_patch,
        "pop" => measured_pop,
        other => panic!("no operation {other}"),
    };
    let text = if matches!(operation.as_str(), "response" | "pop") { &answer } else { INVITE };
    for _ in 0..times {
        measured(black_box(text), black_box(&limits));
    }
    println!("{operation}: {times} times {} bytes", text.len());
}

#[inline(always)]
fn with<T>(bytes: &[u8], limits: &FrameLimits, ask: impl FnOnce(&Message<'_>) -> T) -> T {
    match &frame(bytes, &mut FrameState::default(), limits) {
        Ok(Framed::Message(message)) => ask(message),
        other => panic!("{other:?}"),
    }
}

#[inline(never)]
fn measured_scan(bytes: &[u8], limits: &FrameLimits) {
    with(bytes, limits, |message| {
        black_box(message);
    });
}

#[inline(never)]
fn measured_validate(bytes: &[u8], limits: &FrameLimits) {
    with(bytes, limits, |message| {
        black_box(message).validate_request().expect("a valid request");
    });
}

/// What a proxy asks of a request beside its validity.
#[inline(never)]
fn measured_ask(bytes: &[u8], limits: &FrameLimits) {
    with(bytes, limits, |message| {
        let message = black_box(message);
        let Start::Request { method: Method::Invite, uri, .. } = message.start() else {
            panic!("an INVITE")
        };
        black_box(Uri::parse(uri).expect("a URI"));
        black_box(message.top_via().expect("a Via"));
        black_box(message.call_id().expect("a Call-ID"));
        black_box(message.cseq().expect("a CSeq"));
        black_box(message.from_tag().expect("a From"));
        black_box(message.to_tag().expect("a To"));
        black_box(message.max_forwards().expect("Max-Forwards"));
        for via in message.vias() {
            black_box(via.expect("a Via"));
        }
        for route in message.values(Name::Route) {
            black_box(route);
        }
    });
}

/// The usual edits of a forwarded request, gathered.
#[inline(never)]
fn measured_patch(bytes: &[u8], limits: &FrameLimits) {
    with(bytes, limits, |message| {
        let via = message.top_via().expect("a Via");
        let mut patch = Patch::new(message);
        patch.push_via(
            b"SIP/2.0/TCP 192.0.2.200:5060;branch=z9hG4bKabcdefghijklmnopqrstuvwxyz234567",
        );
        patch.set_received_rport(&via, [198, 51, 100, 7].into(), 40_000);
        patch.set_max_forwards(69);
        patch.set_max_breadth(60);
        patch.remove_values(Name::Route, 1);
        patch.prepend_header(Name::RecordRoute, b"<sip:192.0.2.200:5060;transport=tcp;lr>");
        patch.prepend_header(Name::RecordRoute, b"<sips:192.0.2.200:5061;lr>");
        patch.remove_headers(&["P-Asserted-Identity"]);
        patch.plain_content_length();
        gather(&patch);
    });
}

/// The edit of a passed response, gathered.
#[inline(never)]
fn measured_pop(bytes: &[u8], limits: &FrameLimits) {
    with(bytes, limits, |message| {
        let mut patch = Patch::new(message);
        patch.pop_top_via();
        patch.plain_content_length();
        gather(&patch);
    });
}

fn gather(patch: &Patch<'_>) {
    let mut chunk = [0u8; 2048];
    let mut at = 0;
    for piece in patch.pieces() {
        chunk[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    black_box(&chunk[..at]);
}
