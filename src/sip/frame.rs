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
    /// In one header line.
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
            vias: 32,
            routes: 16,
            contacts: 10,
            parameters: 32,
            body: 64 * 1024,
        }
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
    let end = bytes.len().min(limits.head as usize);
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
    if at >= limits.head as usize {
        return Err(Fault::new(FaultKind::HeadLong, limits.head));
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
