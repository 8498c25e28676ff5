//! Framing, view, validation and the usual edits of typical messages ask nothing of the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringfront::sip::frame::FrameLimits;
use ringfront::sip::{FrameState, Framed, Message, Name, Patch, Uri, frame};

/// Counts what this thread asks for; the test runner's other threads are none of our business.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator can be told no other way")]
// PROMISE: every call is passed on to the system's allocator as it came.
// WHO: the two functions below, which add nothing but a count.
// TEST: all tests of this file run on it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is going down has no counter any more.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn asked(work: impl FnOnce()) -> u64 {
    let before = ASKED.with(Cell::get);
    work();
    ASKED.with(Cell::get) - before
}

const TYPICAL: [&str; 4] = [
    include_str!("../bench/invite-1k.sip"),
    "REGISTER sip:example.com SIP/2.0\r\n\
        Via: SIP/2.0/TLS 10.0.0.1:40000;branch=z9hG4bKr;rport;keep\r\nMax-Forwards: 70\r\n\
        From: <sip:a@example.com>;tag=1\r\nTo: <sip:a@example.com>\r\nCall-ID: r@10.0.0.1\r\n\
        CSeq: 2 REGISTER\r\nSupported: path, outbound, gruu\r\nRequire: outbound\r\n\
        Contact: <sip:a@10.0.0.1:40000;transport=tls;ob>;reg-id=1;\
        +sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"\r\n\
        Authorization: Digest username=\"a\", realm=\"example.com\", nonce=\"n\", uri=\"sip:x\"\r\n\
        Expires: 600\r\nContent-Length: 0\r\n\r\n",
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP 192.0.2.2;branch=z9hG4bKown;received=192.0.2.2\r\n\
        Via: SIP/2.0/TLS 10.0.0.1:40000;branch=z9hG4bKr;rport=40000;received=198.51.100.7\r\n\
        Record-Route: <sip:192.0.2.2;transport=tcp;lr>, <sips:edge.example.com;lr>\r\n\
        From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>;tag=2\r\nCall-ID: c@10.0.0.1\r\n\
        CSeq: 1 INVITE\r\nContact: <sip:b@192.0.2.77>\r\nContent-Length: 0\r\n\r\n",
    "v: SIP/2.0/TCP a\r\n",
];

fn usual_work(message: &Message<'_>) -> usize {
    if message.is_request() {
        let parts = message.read_request().expect("valid");
        assert!(Uri::parse(parts.parts.from.uri).is_ok());
        let mut patch = Patch::new(message);
        patch.push_via(b"SIP/2.0/TCP 192.0.2.2;branch=z9hG4bKabcdefghijklmnopqrstuvwxyz234567");
        patch.set_received_rport(&parts.parts.via, [198, 51, 100, 7].into(), 40_000);
        patch.set_max_forwards(69);
        patch.set_max_breadth(60);
        patch.remove_values(Name::Route, 1);
        patch.prepend_header(Name::RecordRoute, b"<sip:192.0.2.2:5060;transport=tcp;lr>");
        patch.prepend_header(Name::RecordRoute, b"<sips:edge.example.com:5061;lr>");
        patch.prepend_header(Name::Path, b"<sip:token@192.0.2.2;lr;ob>");
        patch.remove_headers(&["P-Asserted-Identity"]);
        patch.plain_content_length();
        patch.pieces().map(<[u8]>::len).sum()
    } else {
        message.read_response(b"").expect("valid");
        assert_eq!(message.vias().count(), 2);
        let mut patch = Patch::new(message);
        patch.pop_top_via();
        patch.plain_content_length();
        patch.pieces().map(<[u8]>::len).sum()
    }
}

#[test]
fn the_usual_work_allocates_nothing() {
    let limits = FrameLimits::default();
    for text in &TYPICAL[..3] {
        let mut len = 0;
        let count = asked(|| {
            let mut state = FrameState::default();
            match &frame(text.as_bytes(), &mut state, &limits) {
                Ok(Framed::Message(message)) => len = usual_work(message),
                other => panic!("{other:?}"),
            }
        });
        assert!(len > 0);
        assert_eq!(count, 0, "{text}");
    }
}

#[test]
fn waiting_and_refusing_allocate_nothing() {
    let limits = FrameLimits::default();
    let count = asked(|| {
        for text in TYPICAL {
            let mut state = FrameState::default();
            for end in 0..text.len() {
                let _ = frame(&text.as_bytes()[..end], &mut state, &limits).map(|_| ());
            }
            let mut state = FrameState::default();
            let broken = text.as_bytes().iter().position(|byte| *byte == b'\r').expect("a line");
            let fault = frame(&text.as_bytes()[broken + 1..], &mut state, &limits).map(|_| ());
            assert!(fault.is_err());
        }
    });
    assert_eq!(count, 0);
}

/// The counter counts: more headers than stand in the message itself ask for the heap once.
#[test]
fn a_crowd_of_headers_asks_for_the_heap() {
    let crowd = "X: y\r\n".repeat(41);
    let text = format!("ACK sip:a SIP/2.0\r\n{crowd}l: 0\r\n\r\n");
    let count = asked(|| {
        let mut state = FrameState::default();
        let framed = frame(text.as_bytes(), &mut state, &FrameLimits::default());
        assert!(matches!(framed, Ok(Framed::Message(_))));
    });
    assert_eq!(count, 1);
}
