//! Frames SIP messages out of a byte stream (RFC 3261 7.5, 18.3). Owns nothing: the caller keeps the bytes. Never
//! guesses: a stream whose next message cannot be found for certain is lost.
//!
//! Two readers. `scan` finds the head's end and indexes its headers in one pass; it is all that a message at hand in
//! whole costs. Where it meets anything out of the ordinary, or no head end, `search` goes byte by byte from where it
//! stopped last time: it alone says which bytes are faults, and its verdict depends on the bytes before the fault only,
//! so it is the same however the stream was cut.
//!
//! Invariant: `line_start <= searched <= bytes.len()` for the bytes that the state was made with and all later ones.

use memchr::memchr_iter;

use super::error::{Fault, FaultKind};
use super::message::{Header, Index, Message};
use super::name::Name;
use super::scan::{Head, scan};
use crate::base::limits::HEAD_BYTES_CEILING;

/// Bounds on one message (contract `[limits]`), in bytes and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Without its CRLF.
    pub start_line: u32,
    pub uri: u32,
    /// One header with its folds, without the final CRLF.
    pub header_line: u32,
    /// Start line, headers and empty line.
    pub head: u32,
    pub headers: u32,
    pub vias: u32,
    pub routes: u32,
    pub contacts: u32,
    /// Of one header value, those of its URI counted in.
    pub parameters: u32,
    pub body: u32,
}

impl Default for FrameLimits {
    /// The values of contract.md.
    fn default() -> Self {
        FrameLimits {
            start_line: 2 * 1024,
            uri: 1024,
            header_line: 4 * 1024,
            head: 16 * 1024,
            headers: 128,
            vias: 70,
            routes: 16,
            contacts: 10,
            parameters: 32,
            body: 64 * 1024,
        }
    }
}

impl FrameLimits {
    /// Whatever the limit: a place in a head is told in sixteen bits.
    pub(super) fn head_max(&self) -> usize {
        self.head.min(HEAD_BYTES_CEILING) as usize
    }
}

/// How far the bytes at hand have been searched, so that a message that comes byte by byte costs linear time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameState {
    /// Bytes that `search` has passed.
    searched: u32,
    /// Where the line under way begins; folds belong to their line.
    line_start: u32,
    /// Length of the whole message once its head is complete; 0 before.
    needed: u32,
}

impl FrameState {
    /// For the next message; `frame` does it whenever it yields something to take.
    pub fn reset(&mut self) {
        *self = FrameState::default();
    }
}

/// What stands at the front of the bytes at hand.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a message lives on the stack of one call; boxing it would allocate"
)]
pub enum Framed<'a> {
    /// Nothing whole yet. A lone CRLF is half a ping or a pong: see `is_pong`.
    Partial,
    /// CRLFCRLF: 4 bytes, a CRLF is owed (RFC 5626 4.4.1).
    Ping,
    /// CRLF before something else: `len` bytes to skip (RFC 3261 7.5).
    Blank {
        len: u32,
    },
    Message(Message<'a>),
}

/// Whether all that is at hand is the CRLF that answers our own ping (RFC 5626 4.4.1).
pub fn is_pong(bytes: &[u8]) -> bool {
    bytes == b"\r\n"
}

/// Takes what stands at the front of `bytes`. After `Partial`, call again with the same front and more bytes and the
/// same `state`. A fault ends the stream; `salvage` may still find the request to answer.
pub fn frame<'a>(
    bytes: &'a [u8],
    state: &mut FrameState,
    limits: &FrameLimits,
) -> Result<Framed<'a>, Fault> {
    if state.needed as usize > bytes.len() {
        return Ok(Framed::Partial);
    }
    if state.searched == 0
        && let Some(framed) = before_message(bytes)?
    {
        return Ok(framed);
    }
    let mut head = Head::new();
    if state.searched > 0 || !scan(bytes, false, limits, &mut head) {
        let Some(head_len) = search(bytes, state, limits)? else { return Ok(Framed::Partial) };
        searched_head(&bytes[..head_len as usize], limits, &mut head)?;
    }
    let len = head.len.saturating_add(head.body?);
    if len as usize > bytes.len() {
        *state = FrameState { searched: head.len, line_start: 0, needed: len };
        return Ok(Framed::Partial);
    }
    state.reset();
    Ok(Framed::Message(Message::new(&bytes[..len as usize], head, limits)))
}

fn before_message(bytes: &[u8]) -> Result<Option<Framed<'_>>, Fault> {
    Ok(match bytes {
        [] | [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => Some(Framed::Partial),
        [b'\r', b'\n', b'\r', b'\n', ..] => Some(Framed::Ping),
        [b'\r', b'\n', b'\r', ..] => return Err(Fault::new(FaultKind::BareCarriageReturn, 2)),
        [b'\r', b'\n', ..] => Some(Framed::Blank { len: 2 }),
        [b'\r', ..] => return Err(Fault::new(FaultKind::BareCarriageReturn, 0)),
        _ => None,
    })
}

/// The head that `search` has found whole and clean.
fn searched_head(bytes: &[u8], limits: &FrameLimits, head: &mut Head) -> Result<(), Fault> {
    *head = Head::new();
    if !scan(bytes, true, limits, head) || head.len as usize != bytes.len() {
        // What search passes, scan indexes: the tests and the fuzz bodies look for a counterexample. A fault and not an
        // assertion, since the bytes are a stranger's.
        return Err(Fault::new(FaultKind::StartLineBad, 0));
    }
    if let Some(nul) = unquoted_nul(bytes, &head.index) {
        head.blame(FaultKind::Nul, nul);
    }
    Ok(())
}

/// Goes on byte by byte from where it stopped; the head's length once its empty line is there. Which fault is found
/// depends on nothing but the bytes up to it.
fn search(
    bytes: &[u8],
    state: &mut FrameState,
    limits: &FrameLimits,
) -> Result<Option<u32>, Fault> {
    if state.needed > 0 {
        return Ok(Some(state.searched));
    }
    let end = bytes.len().min(limits.head_max());
    let mut at = state.searched as usize;
    let mut line_start = state.line_start as usize;
    while at < end {
        let byte = bytes[at];
        let before = if at == 0 { 0 } else { bytes[at - 1] };
        let fault = |kind, place| Err(Fault::new(kind, place as u32));
        match (before, byte) {
            (b'\r', b'\n') if at == line_start + 1 => return Ok(Some(at as u32 + 1)),
            (b'\r', b'\n') => {}
            (b'\r', _) => return fault(FaultKind::BareCarriageReturn, at - 1),
            (_, b'\n') => return fault(FaultKind::BareLineFeed, at),
            (b'\n', b' ' | b'\t') if line_start == 0 => {
                return fault(FaultKind::StartLineFolded, at);
            }
            (b'\n', b' ' | b'\t') => {}
            (b'\n', _) => line_start = at,
            _ => {}
        }
        if byte == 0 && (line_start == 0 || !is_escaped(&bytes[line_start..at])) {
            return fault(FaultKind::Nul, at);
        }
        let (limit, kind) = match line_start {
            0 => (limits.start_line, FaultKind::StartLineLong),
            _ => (limits.header_line, FaultKind::HeaderLineLong),
        };
        let line_end = line_start + limit as usize;
        if !matches!(byte, b'\r' | b'\n') && at >= line_end {
            return fault(kind, line_end);
        }
        at += 1;
        if !matches!(byte, b'\r' | b'\n') && at < line_end.min(end) {
            // Nothing but these three changes anything within a line.
            let rest = &bytes[at..line_end.min(end)];
            at += memchr::memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
        }
    }
    if at >= limits.head_max() {
        return Err(Fault::new(FaultKind::HeadLong, limits.head_max() as u32));
    }
    state.searched = at as u32;
    state.line_start = line_start as u32;
    Ok(None)
}

/// Whether the byte after `before` is the second of a quoted pair (RFC 3261 25.1; RFC 4475 3.1.1.2 quotes a NUL).
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The first NUL that is not inside a quoted string.
fn unquoted_nul(head: &[u8], index: &Index) -> Option<u32> {
    let nul = memchr::memchr(0, head)? as u32;
    index.headers.iter().filter(|header| header.line().end > nul).find_map(|header| {
        let mut quoted = false;
        let mut bytes = (header.line().start..header.line().end).map(|at| (at, head[at as usize]));
        while let Some((at, byte)) = bytes.next() {
            match byte {
                0 => return Some(at),
                b'"' => quoted = !quoted,
                b'\\' if quoted => {
                    bytes.next();
                }
                _ => {}
            }
        }
        None
    })
}

/// A request whose framing is at fault, as far as it can be read: whole header lines up to the first fault, and no
/// body. `None` when that is not enough to answer it: Via, From, To, Call-ID and CSeq must be there.
pub fn salvage<'a>(bytes: &'a [u8], limits: &FrameLimits) -> Option<Message<'a>> {
    let limits = FrameLimits {
        start_line: HEAD_BYTES_CEILING,
        header_line: HEAD_BYTES_CEILING,
        head: HEAD_BYTES_CEILING,
        ..*limits
    };
    let mut head = Head::new();
    // How far it comes is in the index.
    let _ = scan(bytes, true, &limits, &mut head);
    let dirty = |header: &Header| {
        let line = header.line().of(bytes);
        let breaks = memchr_iter(b'\r', line).count();
        memchr::memchr(0, line).is_some() || breaks != memchr_iter(b'\n', line).count()
    };
    let good = head.index.headers.iter().take_while(|header| !dirty(header)).count();
    head.index.truncate(good);
    head.len = head.index.headers.last().map_or(0, |header| header.line().end);
    let whole = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq];
    let answerable =
        head.start.request && whole.iter().all(|name| head.index.first(*name).is_some());
    answerable.then(|| Message::new(&bytes[..head.len as usize], head, &limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"ACK sip:a SIP/2.0\r\nTo: b\r\nl: 3\r\n\r\nabc";

    /// What a stream yields when `cuts` say how many bytes are at hand at each step.
    fn events(stream: &[u8], step: usize, limits: &FrameLimits) -> Vec<String> {
        let mut events = Vec::new();
        let mut state = FrameState::default();
        let (mut front, mut end) = (0, 0);
        while end < stream.len() {
            end = (end + step).min(stream.len());
            loop {
                match frame(&stream[front..end], &mut state, limits) {
                    Ok(Framed::Partial) => break,
                    Ok(Framed::Ping) => {
                        front += 4;
                        events.push("ping".to_owned());
                    }
                    Ok(Framed::Blank { len }) => {
                        front += len as usize;
                        events.push("blank".to_owned());
                    }
                    Ok(Framed::Message(message)) => {
                        front += message.len();
                        events.push(format!("{} bytes", message.len()));
                    }
                    Err(fault) => {
                        events.push(format!("{} at {}", fault.kind.name(), fault.offset));
                        return events;
                    }
                }
            }
        }
        if front < end {
            events.push(format!("{} left", end - front));
        }
        events
    }

    fn check(stream: &[u8], limits: &FrameLimits, expected: &[&str]) {
        for step in [stream.len(), 1, 2, 3, 5, 7, 64] {
            let seen = events(stream, step.max(1), limits);
            let shown = String::from_utf8_lossy(&stream[..stream.len().min(200)]);
            assert_eq!(seen, expected, "{step} at a time: {shown:?}");
        }
    }

    /// 5626-5.4-a, 3261-7.5-a: a double CRLF is a ping, wherever it is cut; any other CRLF before a message is nothing.
    #[test]
    fn pings_and_blanks_are_told_apart() {
        let limits = FrameLimits::default();
        let joined = |parts: &[&[u8]]| parts.concat();
        check(b"\r\n\r\n", &limits, &["ping"]);
        check(b"\r\n\r\n\r\n\r\n", &limits, &["ping", "ping"]);
        check(b"\r\n", &limits, &["2 left"]);
        check(b"\r\n\r", &limits, &["3 left"]);
        check(&joined(&[b"\r\n", PLAIN]), &limits, &["blank", "37 bytes"]);
        check(&joined(&[b"\r\n\r\n", PLAIN]), &limits, &["ping", "37 bytes"]);
        check(&joined(&[b"\r\n\r\n\r\n", PLAIN]), &limits, &["ping", "blank", "37 bytes"]);
        check(&joined(&[PLAIN, b"\r\n\r\n", PLAIN]), &limits, &["37 bytes", "ping", "37 bytes"]);
        check(&joined(&[PLAIN, PLAIN, b"\r\n"]), &limits, &["37 bytes", "37 bytes", "2 left"]);
        check(b"\r\n\rx", &limits, &["bare_carriage_return at 2"]);
        check(b"\rx", &limits, &["bare_carriage_return at 0"]);
        check(b"\n", &limits, &["bare_line_feed at 0"]);
        // Inside a message it is part of the message.
        check(b"ACK sip:a SIP/2.0\r\nl: 4\r\n\r\n\r\n\r\n", &limits, &["31 bytes"]);
        assert!(is_pong(b"\r\n") && !is_pong(b"\r\n\r") && !is_pong(b""));
    }

    /// Threats, row 9: bytes that others read otherwise end the stream at once, where they stand.
    #[test]
    fn odd_bytes_are_refused_where_they_stand() {
        let limits = FrameLimits::default();
        let cases: [(&[u8], &str); 15] = [
            (b"ACK sip:a SIP/2.0\nl: 0\r\n\r\n", "bare_line_feed at 17"),
            (b"ACK sip:a SIP/2.0\r\nl: 0\n\r\n", "bare_line_feed at 23"),
            (b"ACK sip:a SIP/2.0\r\nl: 0\r\n\n", "bare_line_feed at 25"),
            (b"ACK sip:a SIP/2.0\rl: 0\r\n\r\n", "bare_carriage_return at 17"),
            (b"ACK sip:a SIP/2.0\r\nX: a\rb\r\n", "bare_carriage_return at 23"),
            (b"ACK sip:a SIP/2.0\r\nX: a\r\r\n", "bare_carriage_return at 23"),
            (b"ACK sip:\0 SIP/2.0\r\n", "nul at 8"),
            (b"ACK sip:\\\0 SIP/2.0\r\n", "nul at 9"),
            (b"ACK sip:a SIP/2.0\r\nX: \0\r\n", "nul at 22"),
            (b"ACK sip:a SIP/2.0\r\nX: \\\\\0\r\n", "nul at 24"),
            (b"ACK sip:a SIP/2.0\r\n\0: x\r\n", "nul at 19"),
            (b"ACK sip:a SIP/2.0\r\nX: \\\0\r\nl: 0\r\n\r\n", "nul at 23"),
            (b"ACK sip:a\r\n SIP/2.0\r\nl: 0\r\n\r\n", "start_line_folded at 11"),
            (b"ACK sip:a SIP/2.0\r\n\tX: y\r\n", "start_line_folded at 19"),
            (b"ACK\r\nl: 0\r\n\r\n", "start_line_bad at 0"),
        ];
        for (stream, expected) in cases {
            check(stream, &limits, &[expected]);
        }
        check(b"ACK sip:a SIP/2.0\r\nX: \"\\\0\"\r\nl: 0\r\n\r\n", &limits, &["36 bytes"]);
        check(b"ACK sip:a SIP/2.0\r\nX: a\x01\x7f\xff\tb\r\nl: 0\r\n\r\n", &limits, &["38 bytes"]);
    }

    /// 3261-18.3-a: one Content-Length, in either form, digits alone.
    #[test]
    fn a_body_is_as_long_as_one_plain_number_says() {
        let limits = FrameLimits::default();
        let lines: [(&str, &str); 28] = [
            ("", "content_length_missing at 21"),
            ("Content-Length: 3\r\nl: 3\r\n", "content_length_repeated at 38"),
            ("l: 3\r\nCONTENT-LENGTH : 3\r\n", "content_length_repeated at 25"),
            ("l: 0\r\nl: x\r\n", "content_length_repeated at 25"),
            ("l:\r\n", "content_length_bad at 21"),
            ("l: \r\n", "content_length_bad at 22"),
            ("l: +3\r\n", "content_length_bad at 22"),
            ("l: -3\r\n", "content_length_bad at 22"),
            ("l: 3,3\r\n", "content_length_bad at 22"),
            ("l: 3;x\r\n", "content_length_bad at 22"),
            ("l: 3 3\r\n", "content_length_bad at 22"),
            ("l: 0x3\r\n", "content_length_bad at 22"),
            ("l: three\r\n", "content_length_bad at 22"),
            ("l: \"3\"\r\n", "content_length_bad at 22"),
            ("l: 1\r\n 2\r\n", "content_length_bad at 22"),
            ("l: 65537\r\n", "body_long at 22"),
            ("l: 4294967299\r\n", "body_long at 22"),
            ("l: 9223372036854775808\r\n", "body_long at 22"),
            ("l: 18446744073709551615\r\n", "body_long at 22"),
            ("l: 18446744073709551619\r\n", "content_length_bad at 22"),
            ("l 3: 3\r\n", "header_name_bad at 19"),
            ("l\r\n : 3\r\n", "header_name_bad at 19"),
            (": 3\r\nl: 3\r\n", "header_name_bad at 19"),
            ("No colon\r\nl: 3\r\n", "header_name_bad at 19"),
            ("L:3\r\n", "29 bytes"),
            ("cOnTeNt-LeNgTh \t:\r\n\t003 \r\n", "50 bytes"),
            ("Content-Lengths: 9\r\nXl: 8\r\nl: 3\r\n", "57 bytes"),
            ("Subject: a\r\n l: 9\r\nl:3\r\n", "48 bytes"),
        ];
        for (line, expected) in lines {
            let stream = format!("ACK sip:a SIP/2.0\r\n{line}\r\nabc");
            let seen = events(stream.as_bytes(), stream.len(), &limits);
            assert_eq!(seen[0], expected, "{line:?}");
            if expected.ends_with("bytes") {
                check(stream.as_bytes(), &limits, &[expected]);
            }
        }
    }

    /// Threats, row 6: at the limit taken, one more refused, wherever the stream is cut.
    #[test]
    fn limits_hold_to_the_byte() {
        let line = |len: usize| format!("X: {}", "y".repeat(len - 3));
        let start = |len: usize| format!("ACK sip:{} SIP/2.0", "a".repeat(len - 16));
        let folded = |len: usize| format!("X: {}\r\n z", "y".repeat(len - 7));
        let text = |start: &str, line: &str| format!("{start}\r\n{line}\r\nl: 3\r\n\r\nabc");
        let limits = FrameLimits {
            start_line: 30,
            header_line: 40,
            head: 90,
            headers: 4,
            body: 3,
            ..FrameLimits::default()
        };
        let good =
            |text: &str| check(text.as_bytes(), &limits, &[&format!("{} bytes", text.len())]);
        let bad = |text: &str, expected: &str| check(text.as_bytes(), &limits, &[expected]);
        good(&text(&start(30), &line(40)));
        bad(&text(&start(31), &line(5)), "start_line_long at 30");
        bad(&text(&start(30), &line(41)), "header_line_long at 72");
        good(&text(&start(30), &folded(40)));
        bad(&text(&start(30), &folded(41)), "header_line_long at 72");
        bad(&text(&start(30), &line(5)).replace("l: 3", "l: 4"), "body_long at 42");
        let head = |len: usize| {
            let text = format!("{}\r\n{}\r\nX: \r\nl: 3\r\n\r\nabc", start(30), line(40));
            text.replace("X: \r\n", &format!("X: {}\r\n", "z".repeat(len - (text.len() - 3))))
        };
        good(&head(90));
        bad(&head(91), "head_long at 90");
        let crowd = |count: usize| {
            format!("ACK sip:a SIP/2.0\r\n{}l: 3\r\n\r\nabc", "X:\r\n".repeat(count))
        };
        good(&crowd(3));
        bad(&crowd(4), "headers_many at 35");
        // A limit beyond what a place can hold is no limit.
        let beyond = FrameLimits { head: u32::MAX, header_line: u32::MAX, ..limits };
        let long = text(&start(30), &line(70_000));
        check(long.as_bytes(), &beyond, &["head_long at 32768"]);
    }

    /// Bytes that were searched are not searched again.
    #[test]
    fn dribbled_bytes_are_searched_once() {
        let limits = FrameLimits::default();
        let mut state = FrameState::default();
        let text = [PLAIN, b" and more"].concat();
        for end in 1..34 {
            assert!(matches!(frame(&text[..end], &mut state, &limits), Ok(Framed::Partial)));
            assert_eq!((state.searched, state.needed), (end as u32, 0));
        }
        for end in 34..37 {
            assert!(matches!(frame(&text[..end], &mut state, &limits), Ok(Framed::Partial)));
            assert_eq!((state.searched, state.needed), (34, 37));
        }
        assert!(matches!(frame(&text, &mut state, &limits), Ok(Framed::Message(_))));
        assert_eq!(state, FrameState::default());
    }

    #[test]
    fn what_can_be_read_is_salvaged() {
        let limits = FrameLimits::default();
        let whole = "Via: a\r\nFrom: b\r\nTo: c\r\nCall-ID: d\r\nCSeq: 1 ACK\r\n";
        let salvaged = |text: &str| {
            salvage(text.as_bytes(), &limits).map(|message| {
                assert!(message.body().is_empty());
                message.headers().len()
            })
        };
        let start = "ACK sip:a SIP/2.0\r\n";
        assert_eq!(salvaged(&format!("{start}{whole}l: -1\r\n\r\nabc")), Some(6));
        assert_eq!(salvaged(&format!("{start}{whole}X: {}", "y".repeat(40_000))), Some(5));
        assert_eq!(salvaged(&format!("{start}{whole}No colon\r\nl: 0\r\n\r\n")), Some(6));
        assert_eq!(salvaged(&format!("{start}{whole}X: \0\r\nl: 0\r\n\r\n")), Some(5));
        assert_eq!(salvaged(&format!("{start}{whole}X: y\nl: 0\r\n\r\n")), Some(5));
        assert_eq!(salvaged(&format!("NONSENSE\r\n{whole}l: 0\r\n\r\n")), Some(6));
        assert_eq!(salvaged(&format!("{start}X: \0\r\n{whole}l: 0\r\n\r\n")), None);
        assert_eq!(salvaged(&format!("{start}l: -1\r\n\r\n{whole}")), None);
        assert_eq!(salvaged(&format!("SIP/2.0 200 OK\r\n{whole}l: -1\r\n\r\n")), None);
        assert_eq!(salvaged(start), None);
        assert_eq!(salvaged(""), None);
    }
}
